//! The I/O thread: owns the log (consumer and writer together) and carries out what the commit cycle decides.
//!
//! Promises: a rebalance and a commit never overlap, because one thread does both, one after the other; nothing is read
//! before its start is decided and committed; no queue grows without bound, because a partition is fed only while it
//! has credit; a part that breaks ends the process. It must never wait for an actor, the database or the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::cli::exit::Exit;
use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::rule::Parameters;
use crate::engine::actor::{Epoch, FromActor};
use crate::engine::handover::Handover;
use crate::engine::hosts::{Feed, Hosts};
use crate::engine::monitor::Monitor;
use crate::engine::outputs::TopicLimits;
use crate::engine::parking::Parking;
use crate::engine::recovery::{Answer, Request, Wanted};
use crate::engine::requests::CheckpointRequest;
use crate::engine::snapshots::SnapshotSchedule;
use crate::engine::statistics::StatisticsLine;
use crate::engine::supervisor::Supervisor;
use crate::log::{Doorbell, Log, LogEvent, Read};
use crate::observe::metrics::BackpressureStage;
use crate::protocol::cycle::{CommitCycle, Notice};
use crate::protocol::metadata::LogIdentity;
use crate::protocol::refusal::Refusal;
use crate::state::SnapshotEvent;
use crate::stats::StatsEvent;

/// Batches of one partition that may be under way, and records in one of them.
const CREDIT_BATCHES: usize = 10;
const BATCH_RECORDS_MAX: usize = 2_048;
/// Outputs that may wait for their commit before the source is read on.
const PENDING_OUTPUTS_MAX: usize = 100_000;
const IDLE_WAIT: Duration = Duration::from_millis(5);
/// How long the database must have taken writes before statistics are built again from the log.
pub(super) const REBUILD_AFTER_MS: u64 = 2_000;
/// Pause between two rebuilds of one partition: this, doubled each time, at most the other.
const REBUILD_PAUSE_MS: u64 = 15_000;
const REBUILD_PAUSE_MAX_MS: u64 = 1_800_000;
const VERIFY_EVERY_MS: u64 = 30_000;

/// An assigned partition.
pub enum Owned<A> {
    Recovering { epoch: Epoch },
    Refused { epoch: Epoch, refusal: Refusal },
    Running(Running<A>),
}

/// A partition whose records are read.
pub struct Running<A> {
    pub actor: A,
    pub epoch: Epoch,
    pub identity: LogIdentity,
    /// The committed offset it was recovered at: before it, records are replayed.
    pub live_from: Offset,
    pub next: Offset,
    pub in_flight: usize,
    pub(super) reading: bool,
    pub(super) read_from: Offset,
    pub(super) began: std::time::Instant,
    pub(super) is_live: bool,
    pub(super) has_shed_statistics: bool,
    /// The rules that decide from its start on: told to the database once a record that they decided is committed.
    pub(super) unrecorded_rules: Option<Arc<Parameters>>,
}

/// When a partition's statistics were last built again from the log, because the database had been away for too long. A
/// database that is merely slow lets them go again and again: each time the partition waits longer, and alerts go on.
#[derive(Debug, Default)]
pub(super) struct Rebuild {
    pub not_before_ms: u64,
    times: u32,
}

impl Rebuild {
    pub fn note(&mut self, now_ms: u64) {
        if now_ms > self.not_before_ms.saturating_add(REBUILD_PAUSE_MAX_MS) {
            self.times = 0;
        }
        self.times += 1;
        let pause_ms = REBUILD_PAUSE_MS.saturating_mul(1 << self.times.min(10));
        self.not_before_ms = now_ms + pause_ms.min(REBUILD_PAUSE_MAX_MS);
    }
}

/// What the I/O thread is given.
pub struct Wiring<H> {
    pub topic: Arc<str>,
    pub limits: TopicLimits,
    pub hosts: H,
    pub reports: (Sender<FromActor>, Receiver<FromActor>),
    pub recovery: Sender<Request>,
    pub answers: Receiver<Answer>,
    pub statistics_events: Receiver<StatsEvent>,
    pub snapshot_events: Receiver<SnapshotEvent>,
    pub checkpoint_requests: Receiver<CheckpointRequest>,
    pub doorbell: Arc<Doorbell>,
    pub stop: Arc<AtomicBool>,
    pub supervisor: Supervisor,
    pub monitor: Monitor,
    pub statistics: StatisticsLine,
    pub snapshots: SnapshotSchedule,
}

/// See the module head.
pub struct IoThread<L: Log, H: Hosts<L::Batch>> {
    pub(super) log: L,
    pub(super) cycle: CommitCycle,
    pub(super) owned: BTreeMap<PartitionId, Owned<H::Host>>,
    pub(super) wiring: Wiring<H>,
    pub(super) unrequested: Vec<Wanted>,
    pub(super) next_epoch: u64,
    pub(super) next_verify_ms: u64,
    pub(super) next_lag_ms: u64,
    pub(super) commit_began_ms: u64,
    /// Nothing was assigned yet: when to give up, and what Kafka refused meanwhile.
    pub(super) join_deadline_ms: Option<u64>,
    pub(super) denied: Option<String>,
    /// Since when the database takes writes.
    pub(super) database_up_since_ms: Option<u64>,
    pub(super) rebuilds: BTreeMap<PartitionId, Rebuild>,
    pub(super) parking: Parking,
    /// What the group has said while a commit was waited for.
    pub(super) deferred: VecDeque<LogEvent>,
}

impl<L: Log, H: Hosts<L::Batch>> IoThread<L, H> {
    #[must_use]
    pub fn new(log: L, cycle: CommitCycle, wiring: Wiring<H>, startup_timeout_ms: u64) -> Self {
        Self {
            log,
            cycle,
            owned: BTreeMap::new(),
            wiring,
            unrequested: Vec::new(),
            next_epoch: 0,
            next_verify_ms: 0,
            next_lag_ms: 0,
            commit_began_ms: 0,
            join_deadline_ms: Some(clock::monotonic_ms() + startup_timeout_ms),
            denied: None,
            database_up_since_ms: None,
            rebuilds: BTreeMap::new(),
            parking: Parking::default(),
            deferred: VecDeque::new(),
        }
    }

    /// Runs until the process leaves.
    pub fn run(mut self) {
        while self.round() {}
    }

    /// One turn, or the end when it was asked for, or a short wait when there is nothing to do. False: the process leaves.
    pub fn round(&mut self) -> bool {
        if self.wiring.supervisor.is_leaving() {
            return false;
        }
        if self.wiring.stop.load(Ordering::SeqCst) {
            if self.hand_over_everything() {
                self.wiring.supervisor.leave(Exit::Done, "stopped as asked");
            } else {
                let reason =
                    "stopped as asked, but the last commit is not known to be decided; the next start settles it";
                self.wiring.supervisor.leave(Exit::Failed, reason);
            }
            return false;
        }
        if !self.turn() {
            let due_ms = self.cycle.due_in(clock::monotonic_ms()).unwrap_or(u64::MAX);
            self.log.wait(IDLE_WAIT.min(Duration::from_millis(due_ms)));
        }
        true
    }

    /// One round over everything that may have happened; false when nothing had.
    fn turn(&mut self) -> bool {
        self.wiring.monitor.heartbeat();
        let mut busy = self.group_events();
        busy |= self.recoveries();
        busy |= self.actor_reports();
        busy |= self.statistics_events();
        busy |= self.snapshot_events();
        busy |= self.operator_requests();
        busy |= self.feed();
        busy |= self.commit();
        self.timers();
        busy
    }

    /// Hands records to the actors that have credit.
    fn feed(&mut self) -> bool {
        if self.cycle.pending_outputs() >= PENDING_OUTPUTS_MAX {
            self.wiring.monitor.backpressure(BackpressureStage::Outputs);
            return false;
        }
        let mut busy = false;
        let (mut failed, mut damaged) = (Vec::new(), Vec::new());
        for (&partition, owned) in &mut self.owned {
            let Owned::Running(running) = owned else { continue };
            if !running.reading {
                if !self.cycle.may_read(partition) {
                    continue;
                }
                if let Err(why) = self.log.start(partition, running.read_from) {
                    self.wiring.monitor.kafka_trouble(&format!("partition {partition} cannot be read yet: {why}"));
                    continue;
                }
                running.reading = true;
            }
            while running.in_flight < CREDIT_BATCHES {
                match self.log.read(partition, BATCH_RECORDS_MAX) {
                    Read::Nothing => break,
                    Read::Records { batch, end } => {
                        busy = true;
                        running.in_flight += 1;
                        if running.actor.apply(batch, end).is_err() {
                            self.wiring.supervisor.fail(format!("the actor of partition {partition} is gone"));
                        }
                    }
                    Read::Failed(why) => {
                        failed.push((partition, why));
                        break;
                    }
                    Read::Damaged(detail) => {
                        damaged.push((partition, running.epoch, Refusal::LogDamaged { detail }));
                        break;
                    }
                }
            }
            if running.in_flight >= CREDIT_BATCHES {
                self.wiring.monitor.backpressure(BackpressureStage::Actors);
            }
        }
        for (partition, why) in failed {
            self.wiring.monitor.kafka_trouble(&format!("partition {partition} cannot be read on: {why}"));
            tracing::warn!("partition {partition} cannot be read on: {why}; it is recovered anew");
            self.begin_again(partition);
        }
        for (partition, epoch, refusal) in damaged {
            self.refused(partition, epoch, refusal);
        }
        busy
    }

    /// Carries out the steps of the commit cycle that are due.
    pub(super) fn commit(&mut self) -> bool {
        let mut busy = false;
        loop {
            if !self.cycle.is_under_way() {
                self.commit_began_ms = clock::monotonic_ms();
            }
            let next = self.cycle.next_step(clock::monotonic_ms(), clock::wall_clock_ms());
            let Some(step) = next else { break };
            busy = true;
            let outcome = self.log.execute(&step);
            tracing::trace!("{step:?}: {outcome:?}");
            let notices = self.cycle.outcome(outcome, clock::monotonic_ms());
            self.wiring.monitor.heartbeat();
            // After any trouble the group may have something to say that changes what is to be done.
            let in_trouble = notices.iter().any(|notice| !matches!(notice, Notice::Committed { .. }));
            self.notices(notices);
            if in_trouble || self.wiring.supervisor.is_leaving() {
                break;
            }
        }
        busy
    }

    fn notices(&mut self, notices: Vec<Notice>) {
        let mut committed = Vec::new();
        for notice in notices {
            match notice {
                Notice::Committed { partition, through, outputs } => {
                    if let Some(Owned::Running(running)) = self.owned.get_mut(&partition)
                        && let Some(rules) = running.unrecorded_rules.take_if(|rules| rules.newest_from() < through)
                    {
                        self.wiring.statistics.record_rules(partition, &rules);
                    }
                    self.wiring.statistics.committed(partition, through);
                    self.wiring.snapshots.committed(partition, through);
                    committed.push((partition, through, outputs));
                }
                Notice::Aborted(why) => self.wiring.monitor.aborted(&why),
                Notice::WriterReplaced => {
                    self.wiring.monitor.writer_replaced();
                    self.request_recovery();
                }
                Notice::Moved { partition, found, expected, certain } => {
                    tracing::warn!(
                        "partition {partition}: expected the commit of {expected}, found {found:?}; it is recovered anew"
                    );
                    let identity = match self.owned.get(&partition) {
                        Some(Owned::Running(running)) => Some(running.identity.clone()),
                        _ => None,
                    };
                    self.begin_again_knowing(partition, certain.zip(identity));
                }
                Notice::GivenUp { outputs, why } => self.wiring.monitor.given_up(outputs, &why),
                Notice::Replaced => self
                    .wiring
                    .supervisor
                    .leave(Exit::Fenced, "a newer process with the same instance.id has taken over; this one leaves"),
                Notice::Trouble(why) => self.wiring.monitor.commit_trouble(&why),
            }
        }
        if !committed.is_empty() {
            let duration_ms = clock::monotonic_ms().saturating_sub(self.commit_began_ms);
            self.wiring.monitor.committed(&committed, duration_ms);
        }
    }

    fn timers(&mut self) {
        let now = clock::monotonic_ms();
        let running = self.owned.iter().filter_map(|(partition, owned)| match owned {
            Owned::Running(running) => Some((*partition, running)),
            _ => None,
        });
        for (partition, running) in running.clone() {
            self.wiring.statistics.tick(partition, &running.actor, now);
        }
        let actors: Vec<_> = running.map(|(partition, running)| (partition, running.actor.clone())).collect();
        self.wiring.snapshots.tick(&actors, now, &mut self.wiring.monitor);
        if let (Some(deadline), Some(why)) = (self.join_deadline_ms, &self.denied)
            && now >= deadline
        {
            self.wiring.supervisor.leave(
                Exit::KafkaUnreachable,
                format!("Kafka refuses access: {why}. What to do: check the credentials and the rights on the group and topics"),
            );
        }
        if now >= self.next_lag_ms {
            self.next_lag_ms = now + 500;
            self.rebuild_shed_statistics(now);
            self.clear_parking(now);
            self.note_lags();
        }
        if now >= self.next_verify_ms {
            self.next_verify_ms = now + VERIFY_EVERY_MS;
            self.verify();
        }
    }

    fn note_lags(&mut self) {
        let mut behind = 0;
        for (&partition, owned) in &self.owned {
            if let Owned::Running(running) = owned {
                // The end is heard of with each fetch; what was taken in since may already be beyond it.
                let end = self.log.end_offset(partition).map(|end| end.max(running.next));
                // Records of an open transaction are beyond reach: nothing of them is under way.
                if running.in_flight > 0 {
                    behind += end.map_or(0, |end| end.0 - running.next.0);
                }
                self.wiring.monitor.positions(partition, end, self.cycle.committed(partition));
            }
        }
        self.cycle.note_lag(behind);
        self.wiring.monitor.statistics_under_way(self.wiring.statistics.rows_waiting());
        if self.cycle.is_settled() && !self.cycle.in_doubt() {
            self.wiring.monitor.commits_settled();
        }
    }
}
