//! What the I/O thread says of itself: every fact goes to the metrics, the status board, and, where a person may need
//! it, the log. The one place in the engine that knows all three.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::Settings;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::{Outcome, Progress};
use crate::domain::time::Watermark;
use crate::engine::actor::Applied;
use crate::observe::metrics::{self, BackpressureStage, TransactionResult};
use crate::observe::report::{About, PartitionRefusal, RuleReport};
use crate::observe::status::{CommitSummary, Now, RecordCounts, Standing, StatusBoard};
use crate::protocol::output::{OutputRecord, Slot};
use crate::protocol::refusal::Refusal;
use crate::stats::StatsEvent;

/// A warning of one kind is logged at most this often.
const SAY_AGAIN_MS: u64 = 10_000;

/// What is known before anything happens.
#[must_use]
pub fn about(settings: &Settings) -> About {
    About {
        instance_id: settings.instance.id.clone(),
        group: settings.source.group.clone(),
        topic: settings.source.topic.clone(),
        mode: settings.delivery.mode.as_str().to_owned(),
        started_at_ms: clock::wall_clock_ms(),
        statistics_enabled: settings.stats.enabled,
        tolerable_checkpoint_failures: settings.checkpoint.tolerable_failures,
        rules: settings.rules.iter().map(RuleReport::from).collect(),
    }
}

/// See the module head.
pub struct Monitor {
    board: StatusBoard,
    /// When something of a kind was last said, and how often it was held back since.
    said: BTreeMap<&'static str, (u64, u64)>,
    last_round_ms: u64,
    commits_in_trouble: bool,
}

impl Monitor {
    #[must_use]
    pub fn new(board: StatusBoard) -> Self {
        Self { board, said: BTreeMap::new(), last_round_ms: clock::monotonic_ms(), commits_in_trouble: false }
    }

    /// The I/O thread has come round.
    pub fn heartbeat(&mut self) {
        self.last_round_ms = clock::monotonic_ms();
        self.board.heartbeat(self.last_round_ms);
    }

    /// Logs a warning unless one of its kind was logged a moment ago.
    fn warn(&mut self, kind: &'static str, text: &str) {
        let now = clock::monotonic_ms();
        let (last, held_back) = self.said.entry(kind).or_insert((0, 0));
        if *last != 0 && now.saturating_sub(*last) < SAY_AGAIN_MS {
            *held_back += 1;
            return;
        }
        if *held_back > 0 {
            tracing::warn!("{text} ({held_back} like it since the last such line)");
        } else {
            tracing::warn!("{text}");
        }
        (*last, *held_back) = (now, 0);
    }

    pub fn connected(&self, cluster_id: &str) {
        self.board.connected(cluster_id);
    }

    pub fn joined(&self) {
        self.board.joined();
    }

    pub fn stopping(&self) {
        self.board.stopping();
    }

    pub fn kafka_trouble(&mut self, why: &str) {
        self.board.kafka_trouble(why, Now::read());
        self.warn("kafka", &format!("Kafka: {why}"));
    }

    pub fn recovering(&self, partition: PartitionId, waiting_for: Option<&str>) {
        self.board.recovering(partition, waiting_for);
    }

    /// What a recovery begins with: a partition without new records says so too.
    pub fn restored(&self, partition: PartitionId, standing: Standing) {
        self.board.applied(partition, standing, RecordCounts::default(), Now::read());
    }

    /// A recovery is not possible at the moment, and goes on trying.
    pub fn recovery_waits(&mut self, partitions: &[PartitionId], why: &str) {
        self.warn("recovery", &format!("partitions {partitions:?} cannot be recovered yet: {why}"));
    }

    /// Everything before the committed offset is taken in.
    pub fn live(&self, partition: PartitionId, took: Duration) {
        tracing::info!("partition {partition} is live, {} ms after its recovery began", took.as_millis());
        metrics::recovered(took);
        self.board.live(partition);
    }

    pub fn refused(&self, partition: PartitionId, refusal: &Refusal) {
        self.board.refused(
            partition,
            PartitionRefusal {
                code: refusal.code().to_owned(),
                reason: refusal.to_string(),
                remedy: refusal.remedy().to_owned(),
            },
        );
    }

    pub fn revoking(&self, partition: PartitionId) {
        self.board.revoking(partition);
    }

    pub fn forget(&self, partition: PartitionId) {
        self.board.forget(partition);
    }

    /// A batch was taken in.
    pub fn applied(&mut self, partition: PartitionId, applied: &Applied) {
        let counts = applied.counts;
        for (outcome, count) in [
            (Outcome::Counted, counts.counted),
            (Outcome::Duplicate, counts.duplicate),
            (Outcome::Late, counts.late),
            (Outcome::DeadLetter, counts.dead_letter),
        ] {
            if count > 0 {
                metrics::records(outcome, count);
            }
        }
        metrics::replayed_records(counts.replayed);
        if let Some(offset) = applied.mismatch_at {
            metrics::key_mismatches(counts.key_mismatch);
            self.warn(
                "key",
                &format!("partition {partition}, offset {offset}: the key is not the user_id; users may be divided"),
            );
        }
        let standing = Standing {
            next: applied.next,
            watermark: Watermark(applied.watermark_ms),
            open_users: applied.open_users,
            statistics_pending_rows: applied.pending_statistics,
        };
        self.board.applied(partition, standing, applied.counts, Now::read());
    }

    /// A transaction took effect.
    pub fn committed(&mut self, parts: &[(PartitionId, Offset, Vec<Arc<OutputRecord>>)], duration_ms: u64) {
        let now = Now::read();
        let duration = Duration::from_millis(duration_ms);
        metrics::transaction(TransactionResult::Committed);
        metrics::commit_duration(duration);
        let mut summary = CommitSummary { duration, alerts: 0, late: 0, dead_letters: 0 };
        let mut latencies_ms = Vec::new();
        for output in parts.iter().flat_map(|(_, _, outputs)| outputs) {
            match &output.id.slot {
                Slot::Alert(rule) => {
                    summary.alerts += 1;
                    metrics::alerts(rule, 1);
                    if let Some(timestamp) = output.source_timestamp_ms {
                        let latency_ms = u64::try_from(now.wall_ms.saturating_sub(timestamp)).unwrap_or(0);
                        metrics::alert_latency(Duration::from_millis(latency_ms));
                        latencies_ms.push(latency_ms);
                    }
                }
                Slot::Late => summary.late += 1,
                Slot::DeadLetter => summary.dead_letters += 1,
            }
        }
        let offsets: Vec<_> = parts.iter().map(|(partition, through, _)| (*partition, *through)).collect();
        self.board.alert_latencies(&latencies_ms, now);
        self.board.committed(summary, &offsets, now);
        if std::mem::take(&mut self.commits_in_trouble) {
            tracing::info!("commits succeed again");
        }
    }

    pub fn aborted(&mut self, why: &str) {
        metrics::transaction(TransactionResult::Aborted);
        self.board.aborted(why, Now::read());
        self.commits_in_trouble = true;
        self.warn("aborted", &format!("a transaction was given up, its effects will be committed again: {why}"));
    }

    /// At most once: outputs may be missing. Each incident is said.
    pub fn given_up(&mut self, outputs: usize, why: &str) {
        metrics::outputs_given_up(u64::try_from(outputs).unwrap_or(u64::MAX));
        self.board.commit_trouble(why, Now::read());
        self.commits_in_trouble = true;
        tracing::error!(
            "up to {outputs} alerts, late records and dead letters are missing for good, as delivery.mode = \
             \"at-most-once\" allows: {why}; counters and statistics are not affected"
        );
    }

    pub fn commit_trouble(&mut self, why: &str) {
        self.board.commit_trouble(why, Now::read());
        self.commits_in_trouble = true;
        self.warn("commit", &format!("commit: {why}; nothing is lost, it is settled and tried again"));
    }

    pub fn writer_replaced(&self) {
        tracing::info!("the transactional writer is ready; whatever its predecessor left is settled");
        metrics::producer_replaced();
        self.board.producer_replaced();
    }

    /// The state of the database. The cause of an outage is logged once per cause; the writer sees to that.
    pub fn statistics(&self, event: &StatsEvent) {
        let now = Now::read();
        match event {
            StatsEvent::Acknowledged { partition, through } => {
                self.board.statistics_acknowledged(*partition, *through, now);
            }
            StatsEvent::Connected => {
                tracing::info!("the statistics database takes writes");
                self.board.statistics_connected();
            }
            StatsEvent::Unavailable { error } => {
                tracing::warn!("the statistics database takes no writes: {error}; alerts go on, statistics wait");
                self.board.statistics_unavailable(error, now);
            }
            StatsEvent::IdentityMismatch { found } => {
                self.board.statistics_unavailable(&format!("the schema belongs to {found}"), now);
            }
            StatsEvent::RowSetAside { key, error } => {
                tracing::error!("the statistics database refuses a row for good, it is set aside: {key}: {error}");
                metrics::stats_rows_set_aside(1);
                self.board.statistics_set_aside(1, &format!("{key}: {error}"), now);
            }
            StatsEvent::GapAfterReconnect { partition, acknowledged, found } => {
                let found = found.map_or_else(|| "nothing".to_owned(), |found| format!("offset {found}"));
                let text = format!(
                    "the statistics database lost rows: partition {partition} was acknowledged through offset \
                     {acknowledged}, it now holds {found}; reconcile the days in between"
                );
                tracing::error!("{text}");
                self.board.statistics_unavailable(&text, now);
                self.board.statistics_connected();
            }
        }
    }

    /// Rows of a partition that changed and are not on their way to the database.
    pub fn statistics_pending(&self, partition: PartitionId, rows: usize) {
        self.board.statistics_pending(partition, rows);
    }

    pub fn statistics_under_way(&self, rows: usize) {
        self.board.statistics_under_way(rows);
    }

    /// The source is not read on because of this; counts the time since the last round.
    pub fn backpressure(&self, stage: BackpressureStage) {
        let waited_ms = clock::monotonic_ms().saturating_sub(self.last_round_ms);
        // A round that found no credit is followed by a wait of some milliseconds; less cannot be told apart.
        metrics::backpressure(stage, Duration::from_millis(waited_ms.max(1)));
    }

    pub fn snapshot_failed(&self, why: &str, consecutive: u32) {
        tracing::warn!(
            "no checkpoint was stored ({consecutive} in a row): {why}; alerts go on, a restart replays more"
        );
        metrics::checkpoint_failed();
        self.board.checkpoint_failed(consecutive, why, Now::read());
    }

    pub fn snapshot_stored(&self, duration: Duration, bytes: u64) {
        tracing::debug!("checkpoint stored in {} ms, {bytes} bytes", duration.as_millis());
        metrics::checkpoint_stored(duration);
        self.board.checkpoint_stored(duration, bytes, Now::read());
    }

    /// Where a partition's log ends, and what its last commit says.
    pub fn positions(&self, partition: PartitionId, end: Option<Offset>, committed: Option<Progress>) {
        self.board.positions(partition, end, committed);
    }

    pub fn commits_settled(&self) {
        self.board.commits_settled();
    }
}
