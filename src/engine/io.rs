//! The I/O thread: owns the log (consumer and writer together) and carries out what the commit cycle decides.
//!
//! Promises: a rebalance and a commit never overlap, because one thread does both, one after the other; nothing is read
//! before its start is decided and committed; no queue grows without bound, because a partition is fed only while it
//! has credit; a part that breaks ends the process. It must never wait for an actor, the database or the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, ArbiterHandle};
use crossbeam_channel::{Receiver, Sender};

use crate::cli::exit::Exit;
use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::engine::actor::{Apply, Epoch, FlushAcknowledged, FromActor, Halt, PartitionActor, Report, ReportLine};
use crate::engine::handover::Handover;
use crate::engine::monitor::Monitor;
use crate::engine::outputs::{OutputEncoder, TopicLimits};
use crate::engine::recovery::{Answer, Prepared, Request, Wanted};
use crate::engine::snapshots::SnapshotSchedule;
use crate::engine::statistics::StatisticsLine;
use crate::engine::supervisor::Supervisor;
use crate::log::{Log, LogEvent, Read};
use crate::observe::metrics::BackpressureStage;
use crate::protocol::cycle::{CommitCycle, Notice, OpenPartition, Step};
use crate::protocol::metadata::LogIdentity;
use crate::protocol::recovery::{Refusal, StartSource};
use crate::state::SnapshotEvent;
use crate::stats::StatsEvent;

/// Batches of one partition that may be under way, and records in one of them.
const CREDIT_BATCHES: usize = 12;
const BATCH_RECORDS_MAX: usize = 2_048;
/// Outputs that may wait for their commit before the source is read on.
const PENDING_OUTPUTS_MAX: usize = 100_000;
const IDLE_WAIT: Duration = Duration::from_millis(5);
/// How long the database must have taken writes before statistics are built again from the log.
const REBUILD_AFTER_MS: u64 = 2_000;
const VERIFY_EVERY_MS: u64 = 30_000;

/// An assigned partition.
pub enum Owned {
    Recovering { epoch: Epoch },
    Refused { epoch: Epoch, refusal: Refusal },
    Running(Running),
}

/// A partition whose records are read.
pub struct Running {
    pub actor: Addr<PartitionActor>,
    pub epoch: Epoch,
    pub identity: LogIdentity,
    /// The committed offset it was recovered at: before it, records are replayed.
    pub live_from: Offset,
    pub next: Offset,
    pub in_flight: usize,
    reading: bool,
    read_from: Offset,
    began: std::time::Instant,
    is_live: bool,
    has_shed_statistics: bool,
}

/// What the I/O thread is given.
pub struct Wiring {
    pub topic: Arc<str>,
    pub limits: TopicLimits,
    pub arbiters: Vec<ArbiterHandle>,
    pub reports: (Sender<FromActor>, Receiver<FromActor>),
    pub recovery: Sender<Request>,
    pub answers: Receiver<Answer>,
    pub statistics_events: Receiver<StatsEvent>,
    pub snapshot_events: Receiver<SnapshotEvent>,
    pub doorbell: Arc<crate::log::kafka::Doorbell>,
    pub stop: Arc<AtomicBool>,
    pub supervisor: Supervisor,
    pub monitor: Monitor,
    pub statistics: StatisticsLine,
    pub snapshots: SnapshotSchedule,
}

/// See the module head.
pub struct IoThread<L: Log> {
    pub(super) log: L,
    pub(super) cycle: CommitCycle,
    pub(super) owned: BTreeMap<PartitionId, Owned>,
    pub(super) wiring: Wiring,
    unrequested: Vec<Wanted>,
    next_epoch: u64,
    next_verify_ms: u64,
    next_lag_ms: u64,
    commit_began_ms: u64,
    /// Nothing was assigned yet: when to give up, and what Kafka refused meanwhile.
    join_deadline_ms: Option<u64>,
    denied: Option<String>,
    /// Since when the database takes writes.
    database_up_since_ms: Option<u64>,
}

impl<L: Log> IoThread<L> {
    #[must_use]
    pub fn new(log: L, cycle: CommitCycle, wiring: Wiring, startup_timeout_ms: u64) -> Self {
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
        }
    }

    /// Runs until the process leaves.
    pub fn run(mut self) {
        while !self.wiring.supervisor.is_leaving() {
            if self.wiring.stop.load(Ordering::SeqCst) {
                self.hand_over_everything();
                self.wiring.supervisor.leave(Exit::Done, "stopped as asked");
                break;
            }
            if !self.turn() {
                let due_ms = self.cycle.due_in(clock::monotonic_ms()).unwrap_or(u64::MAX);
                self.log.wait(IDLE_WAIT.min(Duration::from_millis(due_ms)));
            }
        }
    }

    /// One round over everything that may have happened; false when nothing had.
    pub(super) fn turn(&mut self) -> bool {
        self.wiring.monitor.heartbeat();
        let mut busy = self.group_events();
        busy |= self.recoveries();
        busy |= self.actor_reports();
        busy |= self.statistics_events();
        busy |= self.snapshot_events();
        busy |= self.feed();
        busy |= self.commit();
        self.timers();
        busy
    }

    fn group_events(&mut self) -> bool {
        let events = self.log.poll();
        let busy = !events.is_empty();
        for event in events {
            match event {
                LogEvent::Assigned(partitions) => self.assigned(&partitions),
                LogEvent::Revoked(partitions) => self.hand_over(&partitions),
                LogEvent::Lost(partitions) => {
                    tracing::warn!(
                        "partitions {partitions:?} were lost: the session ran out, or another instance has them"
                    );
                    for &partition in &partitions {
                        self.forget(partition);
                    }
                    self.log.stop(&partitions, true);
                }
                LogEvent::Rejoined => {
                    tracing::warn!(
                        "the membership in the group was lost without a successor, and is begun anew; partitions are \
                         recovered when they are assigned again"
                    );
                    let all: Vec<_> = self.owned.keys().copied().collect();
                    for partition in all {
                        self.forget(partition);
                    }
                }
                LogEvent::Replaced => self
                    .wiring
                    .supervisor
                    .leave(Exit::Fenced, "a newer process with the same instance.id has taken over; this one leaves"),
                LogEvent::Fatal(why) => self.wiring.supervisor.fail(format!("the Kafka client cannot go on: {why}")),
                LogEvent::Denied(why) => {
                    self.wiring.monitor.kafka_trouble(&why);
                    self.denied.get_or_insert(why);
                }
                LogEvent::Trouble(why) => self.wiring.monitor.kafka_trouble(&why),
            }
        }
        busy
    }

    fn epoch(&mut self) -> Epoch {
        self.next_epoch += 1;
        Epoch(self.next_epoch)
    }

    fn assigned(&mut self, partitions: &[PartitionId]) {
        tracing::info!("assigned partitions {partitions:?}");
        for &partition in partitions {
            self.forget(partition);
            self.recover(partition, None);
        }
        self.request_recovery();
        self.join_deadline_ms = None;
        self.wiring.monitor.joined();
    }

    /// Has the partition recovered anew, with the next request.
    fn recover(&mut self, partition: PartitionId, known: Option<(Offset, LogIdentity)>) {
        let epoch = self.epoch();
        self.owned.insert(partition, Owned::Recovering { epoch });
        self.wiring.monitor.recovering(partition, None);
        self.unrequested.push(Wanted { partition, epoch, known });
    }

    /// Only once the predecessor is fenced may positions be read: before, it could still move them.
    fn request_recovery(&mut self) {
        if self.cycle.writer_ready() && !self.unrequested.is_empty() {
            let wanted = std::mem::take(&mut self.unrequested);
            if self.wiring.recovery.send(Request::Recover(wanted)).is_err() {
                self.wiring.supervisor.fail("the recovery worker is gone");
            }
        }
    }

    /// Drops everything that is known of a partition; its undecided effects are dropped too.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        if let Some(Owned::Running(running)) = self.owned.remove(&partition) {
            // A full or closed mailbox belongs to an actor that ends anyway when its address is dropped.
            let _ = running.actor.try_send(Halt);
        }
        self.unrequested.retain(|wanted| wanted.partition != partition);
        self.cycle.close(partition);
        self.wiring.statistics.forget(partition);
        self.wiring.snapshots.forget(partition);
        self.wiring.monitor.forget(partition);
    }

    fn recoveries(&mut self) -> bool {
        let mut busy = false;
        while let Ok(answer) = self.wiring.answers.try_recv() {
            busy = true;
            match answer {
                Answer::Recovered { partition, epoch, prepared } => self.recovered(partition, epoch, *prepared),
                Answer::Refused { partition, epoch, refusal } => self.refused(partition, epoch, refusal),
                Answer::Waiting { partitions, why } => {
                    self.wiring.monitor.recovery_waits(&partitions, &why);
                    for partition in partitions {
                        if let Some(Owned::Recovering { .. }) = self.owned.get(&partition) {
                            self.wiring.monitor.recovering(partition, Some(&why));
                        }
                    }
                }
            }
        }
        busy
    }

    fn recovered(&mut self, partition: PartitionId, epoch: Epoch, prepared: Prepared) {
        match self.owned.get(&partition) {
            Some(Owned::Recovering { epoch: current }) if *current == epoch => {}
            _ => return,
        }
        let Prepared { state, start, identity, written_already, began } = prepared;
        if let Some(remark) = &start.remark {
            tracing::warn!("{remark}");
        }
        tracing::info!(
            "partition {partition}: committed at {}, {} from {} ({} outputs found ahead)",
            start.committed,
            if start.source == StartSource::Snapshot { "snapshot" } else { "replay" },
            start.from.offset,
            written_already.len()
        );
        let mut committed = state.progress();
        committed.next.offset = start.committed;
        self.cycle.open(
            OpenPartition {
                partition,
                parameters: Arc::clone(state.parameters()),
                identity: identity.clone(),
                partitions_at_first_start: start.partitions_at_first_start,
                committed,
                committed_at_ms: start.committed_at_ms.unwrap_or_else(clock::wall_clock_ms),
                written_already,
                owes_first_commit: start.source == StartSource::First,
            },
            clock::monotonic_ms(),
        );
        let encoder =
            OutputEncoder::new(Arc::clone(&self.wiring.topic), partition, self.wiring.limits, state.parameters());
        let line = ReportLine {
            reports: self.wiring.reports.0.clone(),
            doorbell: Arc::clone(&self.wiring.doorbell),
            supervisor: self.wiring.supervisor.clone(),
        };
        self.wiring.statistics.record_rules(partition, state.parameters());
        self.wiring.snapshots.opened(partition, &start, &identity, state.parameters());
        let (next, live_from) = (state.next(), start.committed);
        let Ok(index) = usize::try_from(partition.0) else { return };
        let arbiter = &self.wiring.arbiters[index % self.wiring.arbiters.len()];
        let actor = PartitionActor::start_in_arbiter(arbiter, move |context| {
            context.set_mailbox_capacity(256);
            PartitionActor::new(state, encoder, live_from, epoch, line)
        });
        let running = Running {
            actor,
            epoch,
            identity,
            live_from,
            next,
            in_flight: 0,
            reading: false,
            read_from: next,
            began,
            is_live: false,
            has_shed_statistics: false,
        };
        self.owned.insert(partition, Owned::Running(running));
        self.note_live(partition);
    }

    fn refused(&mut self, partition: PartitionId, epoch: Epoch, refusal: Refusal) {
        let current = match self.owned.get(&partition) {
            Some(Owned::Recovering { epoch } | Owned::Refused { epoch, .. }) => *epoch,
            Some(Owned::Running(running)) => running.epoch,
            None => return,
        };
        if current != epoch {
            return;
        }
        tracing::error!("partition {partition} is refused: {refusal}. What to do: {}", refusal.remedy());
        self.log.stop(&[partition], false);
        self.forget(partition);
        self.wiring.monitor.refused(partition, &refusal);
        self.owned.insert(partition, Owned::Refused { epoch, refusal });
        self.leave_when_all_are_refused();
    }

    fn leave_when_all_are_refused(&self) {
        let refusals: Vec<_> = self
            .owned
            .iter()
            .filter_map(|(partition, owned)| match owned {
                Owned::Refused { refusal, .. } => Some((partition, refusal)),
                _ => None,
            })
            .collect();
        if refusals.len() == self.owned.len()
            && let Some((partition, refusal)) = refusals.first()
        {
            self.wiring.supervisor.leave(
                Exit::Refused,
                format!(
                    "all owned partitions are refused; partition {partition}: {refusal}. What to do: {}",
                    refusal.remedy()
                ),
            );
        }
    }

    pub(super) fn take_reports(&mut self) {
        self.actor_reports();
    }

    pub(super) fn take_events(&mut self) {
        self.statistics_events();
        self.snapshot_events();
    }

    fn actor_reports(&mut self) -> bool {
        let mut busy = false;
        while let Ok(message) = self.wiring.reports.1.try_recv() {
            busy = true;
            self.actor_report(message);
        }
        busy
    }

    fn actor_report(&mut self, message: FromActor) {
        let FromActor { partition, epoch, report } = message;
        let Some(Owned::Running(running)) = self.owned.get_mut(&partition) else { return };
        if running.epoch != epoch {
            return;
        }
        match report {
            Report::Applied(applied) => {
                running.in_flight -= 1;
                running.next = applied.next;
                if applied.has_shed_statistics && !running.has_shed_statistics {
                    running.has_shed_statistics = true;
                    self.wiring.snapshots.suspend(partition);
                }
                self.wiring.monitor.applied(partition, &applied);
                if let Some(effects) = applied.effects {
                    self.cycle.effects(partition, effects);
                }
                self.note_live(partition);
            }
            Report::Acknowledged(effects) => self.cycle.effects(partition, effects),
            Report::Flush { flush, pending_statistics } => {
                self.wiring.monitor.statistics_pending(partition, pending_statistics);
                let committed = self.cycle.committed(partition).map(|progress| progress.next.offset);
                self.wiring.statistics.taken(partition, flush, committed);
            }
            Report::Snapshot { delta, through } => self.wiring.snapshots.taken(partition, delta, through),
        }
    }

    /// A partition is live once it has taken everything before its committed offset.
    fn note_live(&mut self, partition: PartitionId) {
        let Some(Owned::Running(running)) = self.owned.get_mut(&partition) else { return };
        if !running.is_live && running.next >= running.live_from {
            running.is_live = true;
            self.wiring.monitor.live(partition, running.began.elapsed());
        }
    }

    fn statistics_events(&mut self) -> bool {
        let mut busy = false;
        while let Ok(event) = self.wiring.statistics_events.try_recv() {
            busy = true;
            if let StatsEvent::Acknowledged { partition, through } = event
                && self.wiring.statistics.acknowledged(partition, through)
                && let Some(Owned::Running(running)) = self.owned.get(&partition)
                && running.actor.try_send(FlushAcknowledged(through)).is_err()
            {
                self.wiring.supervisor.fail(format!("the actor of partition {partition} is gone"));
            }
            match &event {
                StatsEvent::Unavailable { .. } => self.database_up_since_ms = None,
                _ => {
                    self.database_up_since_ms.get_or_insert_with(clock::monotonic_ms);
                }
            }
            if let StatsEvent::IdentityMismatch { found } = &event {
                self.wiring.supervisor.leave(
                    Exit::Refused,
                    format!(
                        "the statistics schema belongs to {found}. What to do: point stats.url at this group's own \
                         schema, or at an empty one"
                    ),
                );
            }
            self.wiring.monitor.statistics(&event);
        }
        busy
    }

    fn snapshot_events(&mut self) -> bool {
        let mut busy = false;
        while let Ok(event) = self.wiring.snapshot_events.try_recv() {
            busy = true;
            if let SnapshotEvent::Fatal { error, .. } = &event {
                self.wiring.supervisor.fail(format!("the state store cannot be written any more: {error}"));
            }
            self.wiring.snapshots.event(event, &mut self.wiring.monitor);
        }
        busy
    }

    /// Hands records to the actors that have credit.
    fn feed(&mut self) -> bool {
        if self.cycle.pending_outputs() >= PENDING_OUTPUTS_MAX {
            self.wiring.monitor.backpressure(BackpressureStage::Outputs);
            return false;
        }
        let mut busy = false;
        let mut failed = Vec::new();
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
                        if running.actor.try_send(Apply { batch, end }).is_err() {
                            self.wiring.supervisor.fail(format!("the actor of partition {partition} is gone"));
                        }
                    }
                    Read::Failed(why) => {
                        failed.push((partition, why));
                        break;
                    }
                }
            }
            if running.in_flight >= CREDIT_BATCHES {
                self.wiring.monitor.backpressure(BackpressureStage::Actors);
            }
        }
        for (partition, why) in failed {
            tracing::warn!("partition {partition} cannot be read on: {why}; it is recovered anew");
            self.begin_again(partition);
        }
        busy
    }

    /// Recovers partitions whose statistics were let go of, once the database takes writes and has acknowledged what it
    /// was given: the replay then starts behind that.
    fn rebuild_shed_statistics(&mut self, now: u64) {
        let is_up = self.database_up_since_ms.is_some_and(|since| now.saturating_sub(since) >= REBUILD_AFTER_MS);
        if !is_up {
            return;
        }
        let shed = self.owned.iter().find(|(partition, owned)| match owned {
            Owned::Running(running) => {
                running.has_shed_statistics && running.is_live && self.wiring.statistics.is_idle_for(**partition)
            }
            _ => false,
        });
        if let Some((&partition, _)) = shed {
            tracing::info!("partition {partition}: the database is back, building its statistics again from the log");
            self.begin_again(partition);
            // One after the other, so that the others' alerts go on and their commits say what is acknowledged by then.
            self.database_up_since_ms = Some(now);
        }
    }

    /// Stops a partition and recovers it from what the log says now.
    fn begin_again(&mut self, partition: PartitionId) {
        let known = match self.owned.get(&partition) {
            Some(Owned::Running(running)) if self.cycle.may_read(partition) => {
                let committed = self.cycle.committed(partition);
                committed.map(|progress| (progress.next.offset, running.identity.clone()))
            }
            _ => None,
        };
        self.log.stop(&[partition], false);
        self.forget(partition);
        self.recover(partition, known);
        self.request_recovery();
    }

    /// Carries out the steps of the commit cycle that are due.
    pub(super) fn commit(&mut self) -> bool {
        let mut busy = false;
        while let Some(step) = self.cycle.next_step(clock::monotonic_ms(), clock::wall_clock_ms()) {
            busy = true;
            if step == Step::Begin {
                self.commit_began_ms = clock::monotonic_ms();
            }
            let outcome = self.log.execute(&step);
            tracing::trace!("{step:?}: {outcome:?}");
            let notices = self.cycle.outcome(outcome, clock::monotonic_ms(), clock::wall_clock_ms());
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
                    self.wiring.statistics.committed(partition, through);
                    self.wiring.snapshots.committed(partition, through);
                    committed.push((partition, through, outputs));
                }
                Notice::Aborted(why) => self.wiring.monitor.aborted(&why),
                Notice::WriterReplaced => {
                    self.wiring.monitor.writer_replaced();
                    self.request_recovery();
                }
                Notice::Moved { partition, found, expected } => {
                    tracing::warn!(
                        "partition {partition}: expected the commit of {expected}, found {found:?}; it is recovered anew"
                    );
                    self.begin_again(partition);
                }
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
            self.note_lags();
        }
        if now >= self.next_verify_ms {
            self.next_verify_ms = now + VERIFY_EVERY_MS;
            self.verify();
        }
    }

    fn note_lags(&mut self) {
        for (&partition, owned) in &self.owned {
            if let Owned::Running(running) = owned {
                // The end is heard of with each fetch; what was taken in since may already be beyond it.
                let end = self.log.end_offset(partition).map(|end| end.max(running.next));
                self.wiring.monitor.positions(partition, end, self.cycle.committed(partition));
            }
        }
        self.wiring.monitor.statistics_under_way(self.wiring.statistics.rows_waiting());
        if self.cycle.is_settled() && !self.cycle.in_doubt() {
            self.wiring.monitor.commits_settled();
        }
    }

    fn verify(&mut self) {
        let known: Vec<_> = self
            .owned
            .iter()
            .filter_map(|(&partition, owned)| match owned {
                Owned::Running(running) if running.is_live => {
                    let committed = self.cycle.committed(partition)?.next.offset;
                    Some((partition, running.epoch, committed, running.identity.clone()))
                }
                _ => None,
            })
            .collect();
        // A worker that is busy with a recovery is not asked.
        if !known.is_empty() && self.wiring.recovery.is_empty() {
            let _ = self.wiring.recovery.try_send(Request::Verify(known));
        }
    }
}
