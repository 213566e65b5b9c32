//! The status board: written by the engine, read by HTTP.
//!
//! Promises: a setter takes microseconds and never waits for a reader's socket, because readers copy the board and let
//! go; what is read is one moment, not a mixture; facts about a partition that is no longer owned are dropped. Needs the
//! engine to call it at most once per batch or commit, and to beat its heart. It must never decide anything for the
//! engine: only readiness is judged from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Progress;
use crate::domain::time::Watermark;
use crate::observe::guarantee;
use crate::observe::readiness::{Stage, judge};
use crate::observe::recent::Recent;
pub use crate::observe::report::About;
use crate::observe::report::{LastCommit, PartitionPhase, PartitionRefusal, PartitionReport, StatusReport, Trouble};

/// One moment on both clocks: wall-clock time for people, monotonic time for durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub wall_ms: i64,
    pub monotonic_ms: u64,
}

impl Now {
    #[must_use]
    pub fn read() -> Self {
        Self { wall_ms: clock::wall_clock_ms(), monotonic_ms: clock::monotonic_ms() }
    }
}

/// Where a partition's actor stands after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub next: Offset,
    pub watermark: Watermark,
    pub open_users: usize,
    pub statistics_pending_rows: usize,
}

/// Records of a batch by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounts {
    pub counted: u64,
    pub duplicate: u64,
    pub late: u64,
    pub dead_letter: u64,
    pub replayed: u64,
    pub key_mismatch: u64,
}

/// What one commit put into the output topics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitSummary {
    pub duration: Duration,
    pub alerts: u64,
    pub late: u64,
    pub dead_letters: u64,
}

/// See the module head. A clone is another handle to the same board.
#[derive(Clone)]
pub struct StatusBoard {
    shared: Arc<Shared>,
}

struct Shared {
    /// Monotonic milliseconds; beside the lock, because it beats in every round of the I/O thread.
    heartbeat_ms: AtomicU64,
    facts: RwLock<Facts>,
}

struct Facts {
    stage: Stage,
    /// Monotonic milliseconds of the first failure since the last commit.
    failing_since_ms: Option<u64>,
    /// Rows on their way from the actors to the database.
    statistics_rows_under_way: u64,
    recent: Recent,
    /// Everything that was said so far; fields that follow from others or from the time are filled when it is read.
    report: StatusReport,
}

impl Facts {
    /// A partition that is owned; facts that arrive after it was given up find nothing and are dropped.
    fn partition(&mut self, partition: PartitionId) -> Option<&mut PartitionReport> {
        let partitions = &mut self.report.partitions;
        let index = partitions.binary_search_by_key(&partition, |one| one.partition).ok()?;
        partitions.get_mut(index)
    }

    fn commit_trouble(&mut self, message: &str, now: Now) {
        self.failing_since_ms.get_or_insert(now.monotonic_ms);
        self.report.commits.last_error = Some(trouble(message, now));
    }
}

impl StatusBoard {
    #[must_use]
    pub fn new(about: About) -> Self {
        let now = Now::read();
        let facts = Facts {
            stage: Stage::Starting,
            failing_since_ms: None,
            statistics_rows_under_way: 0,
            recent: Recent::default(),
            report: StatusReport::of(about),
        };
        Self { shared: Arc::new(Shared { heartbeat_ms: AtomicU64::new(now.monotonic_ms), facts: RwLock::new(facts) }) }
    }

    fn write(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.shared.facts.write());
    }

    fn write_partition(&self, partition: PartitionId, change: impl FnOnce(&mut PartitionReport)) {
        self.write(|facts| {
            facts.partition(partition).map(change);
        });
    }

    /// The partition, known anew, in this phase.
    fn write_owned(&self, partition: PartitionId, phase: PartitionPhase) {
        self.write(|facts| {
            let partitions = &mut facts.report.partitions;
            match partitions.binary_search_by_key(&partition, |one| one.partition) {
                Ok(index) => partitions[index].phase = phase,
                Err(index) => {
                    partitions.insert(index, PartitionReport { phase, ..PartitionReport::assigned(partition) });
                }
            }
        });
    }
}

/// The instance.
impl StatusBoard {
    /// The I/O thread has come round. Monotonic time: a machine whose clock is set must not look stuck.
    pub fn heartbeat(&self, monotonic_ms: u64) {
        self.shared.heartbeat_ms.store(monotonic_ms, Ordering::Relaxed);
    }

    /// Since the last heartbeat, or since the board was made when there was none yet.
    #[must_use]
    pub fn since_heartbeat(&self, monotonic_ms: u64) -> Duration {
        Duration::from_millis(monotonic_ms.saturating_sub(self.shared.heartbeat_ms.load(Ordering::Relaxed)))
    }

    /// Kafka was reached.
    pub fn connected(&self, cluster_id: &str) {
        self.write(|facts| {
            facts.report.instance.cluster_id = Some(cluster_id.to_owned());
            if facts.stage == Stage::Starting {
                facts.stage = Stage::Joining;
            }
        });
    }

    /// The group has answered with an assignment, which may be empty.
    pub fn joined(&self) {
        self.write(|facts| {
            if facts.stage != Stage::Stopping {
                facts.stage = Stage::Joined;
            }
        });
    }

    pub fn stopping(&self) {
        self.write(|facts| facts.stage = Stage::Stopping);
    }

    /// An error of the Kafka client that no commit is to blame for.
    pub fn kafka_trouble(&self, message: &str, now: Now) {
        self.write(|facts| facts.report.kafka.last_error = Some(trouble(message, now)));
    }
}

/// Partitions.
impl StatusBoard {
    /// Owned, and being restored; `waiting_for` says why it takes longer than usual.
    pub fn recovering(&self, partition: PartitionId, waiting_for: Option<&str>) {
        self.write_owned(partition, PartitionPhase::Recovering { waiting_for: waiting_for.map(str::to_owned) });
    }

    /// Everything before the committed offset is taken in.
    pub fn live(&self, partition: PartitionId) {
        self.write_partition(partition, |one| one.phase = PartitionPhase::Live);
    }

    pub fn refused(&self, partition: PartitionId, refusal: PartitionRefusal) {
        self.write_owned(partition, PartitionPhase::Refused(refusal));
    }

    pub fn revoking(&self, partition: PartitionId) {
        self.write_partition(partition, |one| one.phase = PartitionPhase::Revoking);
    }

    /// No longer owned.
    pub fn forget(&self, partition: PartitionId) {
        self.write(|facts| facts.report.partitions.retain(|one| one.partition != partition));
    }

    /// A batch was taken in.
    pub fn applied(&self, partition: PartitionId, standing: Standing, counts: RecordCounts, now: Now) {
        self.write(|facts| {
            let taken = counts.counted + counts.duplicate + counts.late + counts.dead_letter;
            facts.recent.records(taken, now.monotonic_ms);
            let totals = &mut facts.report.totals;
            totals.counted += counts.counted;
            totals.duplicate += counts.duplicate;
            totals.late += counts.late;
            totals.dead_letter += counts.dead_letter;
            totals.replayed += counts.replayed;
            totals.key_mismatch += counts.key_mismatch;
            if let Some(one) = facts.partition(partition) {
                one.applied_offset = Some(standing.next);
                one.watermark = standing.watermark;
                one.open_users = saturating_u64(standing.open_users);
                one.statistics_pending_rows = saturating_u64(standing.statistics_pending_rows);
            }
        });
    }

    /// Where the log ends and what the commit metadata say; what is not known now stays as it was.
    pub fn positions(&self, partition: PartitionId, end: Option<Offset>, committed: Option<Progress>) {
        self.write_partition(partition, |one| {
            one.end_offset = end.or(one.end_offset);
            if let Some(progress) = committed {
                one.committed_offset = Some(progress.next.offset);
                one.final_through = progress.final_through;
                one.horizon = Some(progress.horizon.offset);
                one.statistics_horizon = Some(progress.statistics_horizon.offset);
            }
        });
    }
}

/// Commits.
impl StatusBoard {
    /// A transaction is committed; `offsets` are the next records of the partitions that it moved.
    pub fn committed(&self, summary: CommitSummary, offsets: &[(PartitionId, Offset)], now: Now) {
        self.write(|facts| {
            facts.failing_since_ms = None;
            facts.report.totals.transactions_committed += 1;
            facts.report.totals.alerts += summary.alerts;
            facts.report.commits.last = Some(LastCommit {
                at_ms: now.wall_ms,
                duration_ms: whole_ms(summary.duration),
                alerts: summary.alerts,
                late: summary.late,
                dead_letters: summary.dead_letters,
            });
            for &(partition, next) in offsets {
                if let Some(one) = facts.partition(partition) {
                    one.committed_offset = Some(next);
                }
            }
        });
    }

    /// How long after their source records alerts were committed, in milliseconds.
    pub fn alert_latencies(&self, latencies_ms: &[u64], now: Now) {
        if latencies_ms.is_empty() {
            return;
        }
        self.write(|facts| {
            for &latency_ms in latencies_ms {
                facts.recent.alert(latency_ms, now.monotonic_ms);
            }
        });
    }

    /// A transaction was given up; its effects will be committed by a later one.
    pub fn aborted(&self, message: &str, now: Now) {
        self.write(|facts| {
            facts.report.totals.transactions_aborted += 1;
            facts.commit_trouble(message, now);
        });
    }

    /// A step of a commit did not work. Commits count as failing from the first trouble to the next success.
    pub fn commit_trouble(&self, message: &str, now: Now) {
        self.write(|facts| facts.commit_trouble(message, now));
    }

    /// The writer works and nothing waits for a commit any more: what failed was settled without one, for instance
    /// because the partition was given up.
    pub fn commits_settled(&self) {
        self.write(|facts| facts.failing_since_ms = None);
    }

    pub fn producer_replaced(&self) {
        self.write(|facts| facts.report.totals.producer_replacements += 1);
    }
}

/// Statistics and checkpoints.
impl StatusBoard {
    pub fn statistics_connected(&self) {
        self.write(|facts| facts.report.statistics.connected = true);
    }

    /// The database takes no writes. The message must hold neither password nor values.
    pub fn statistics_unavailable(&self, message: &str, now: Now) {
        self.write(|facts| {
            facts.report.statistics.connected = false;
            facts.report.statistics.last_error = Some(trouble(message, now));
        });
    }

    /// Every statistics effect of the records before `through` is in the database.
    pub fn statistics_acknowledged(&self, partition: PartitionId, through: Offset, now: Now) {
        self.write(|facts| {
            facts.report.statistics.connected = true;
            facts.report.statistics.last_flush_at_ms = Some(now.wall_ms);
            if let Some(one) = facts.partition(partition) {
                one.statistics_acknowledged_offset = Some(through);
            }
        });
    }

    /// The database refused rows for good.
    pub fn statistics_set_aside(&self, rows: u64, message: &str, now: Now) {
        self.write(|facts| {
            facts.report.statistics.rows_set_aside += rows;
            facts.report.statistics.last_error = Some(trouble(message, now));
        });
    }

    /// Rows of a partition that changed and are not on their way to the database.
    pub fn statistics_pending(&self, partition: PartitionId, rows: usize) {
        self.write_partition(partition, |one| one.statistics_pending_rows = saturating_u64(rows));
    }

    /// Rows that were taken from the actors and are not acknowledged.
    pub fn statistics_under_way(&self, rows: usize) {
        self.write(|facts| facts.statistics_rows_under_way = saturating_u64(rows));
    }

    pub fn checkpoint_stored(&self, duration: Duration, bytes: u64, now: Now) {
        self.write(|facts| {
            let checkpoints = &mut facts.report.checkpoints;
            let previous = checkpoints.last_success_at_ms.replace(now.wall_ms);
            if let Some(previous_ms) = previous {
                checkpoints.last_interval_ms = Some(u64::try_from(now.wall_ms - previous_ms).unwrap_or(0));
            }
            checkpoints.last_duration_ms = Some(whole_ms(duration));
            checkpoints.last_bytes = Some(bytes);
            checkpoints.consecutive_failures = 0;
        });
    }

    pub fn checkpoint_failed(&self, consecutive: u32, message: &str, now: Now) {
        self.write(|facts| {
            facts.report.checkpoints.consecutive_failures = consecutive;
            facts.report.checkpoints.last_error = Some(trouble(message, now));
        });
    }
}

/// Reading.
impl StatusBoard {
    /// Everything, as of now.
    #[must_use]
    pub fn snapshot(&self) -> StatusReport {
        self.snapshot_at(Now::read())
    }

    /// Everything, as of the given moment.
    #[must_use]
    pub fn snapshot_at(&self, now: Now) -> StatusReport {
        let (stage, failing_since_ms, under_way, mut report) = {
            let facts = self.shared.facts.read();
            let mut report = facts.report.clone();
            report.recent = facts.recent.report(now.monotonic_ms);
            (facts.stage, facts.failing_since_ms, facts.statistics_rows_under_way, report)
        };
        report.instance.reported_at_ms = now.wall_ms;
        report.instance.since_heartbeat_ms = whole_ms(self.since_heartbeat(now.monotonic_ms));
        report.commits.failing_for_ms = failing_since_ms.map(|since| now.monotonic_ms.saturating_sub(since));
        let in_actors: u64 = report.partitions.iter().map(|one| one.statistics_pending_rows).sum();
        report.statistics.pending_rows = in_actors + under_way;
        for one in &mut report.partitions {
            one.derive_distances();
        }
        let verdict = judge(stage, &report);
        report.state = verdict.state;
        report.ready = verdict.reasons.is_empty();
        report.reasons = verdict.reasons;
        report.remarks = verdict.remarks;
        report.guarantee = guarantee::describe(&report);
        report
    }
}

fn trouble(message: &str, now: Now) -> Trouble {
    Trouble { at_ms: now.wall_ms, message: message.to_owned() }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn saturating_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
