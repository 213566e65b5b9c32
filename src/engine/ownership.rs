//! Which partitions this instance owns, and in what state: assigned, recovered, refused, live, given up.
//!
//! A partition goes from the group's assignment to its recovery, and from there either into an actor of its own or into a
//! refusal. Whatever ends that begins with [`IoThread::forget`], which drops every trace of it.

use std::sync::Arc;

use crate::cli::exit::Exit;
use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::engine::actor::{Epoch, PartitionActor, ReportLine};
use crate::engine::handover::Handover;
use crate::engine::hosts::{Host, Hosts};
use crate::engine::io::{IoThread, Owned, REBUILD_AFTER_MS, Running};
use crate::engine::outputs::OutputEncoder;
use crate::engine::recovery::{Answer, Prepared, Request, Wanted};
use crate::log::{Log, LogEvent};
use crate::observe::status::Standing;
use crate::protocol::cycle::OpenPartition;
use crate::protocol::metadata::LogIdentity;
use crate::protocol::recovery::StartSource;
use crate::protocol::refusal::Refusal;

impl<L: Log, H: Hosts<L::Batch>> IoThread<L, H> {
    pub(super) fn group_events(&mut self) -> bool {
        self.deferred.extend(self.log.poll());
        let busy = !self.deferred.is_empty();
        while let Some(event) = self.deferred.pop_front() {
            match event {
                LogEvent::Assigned(partitions) => self.assigned(&partitions),
                LogEvent::Revoked(partitions) => {
                    self.hand_over(&partitions);
                    self.leave_when_all_are_refused();
                }
                LogEvent::Lost(partitions) => {
                    self.lost(&partitions);
                    self.leave_when_all_are_refused();
                }
                LogEvent::Rejoined => self.rejoined(),
                LogEvent::Replaced => self.replaced(),
                LogEvent::Fatal(why) => self.wiring.supervisor.fail(format!("the log cannot go on: {why}")),
                LogEvent::Denied(why) => {
                    self.wiring.monitor.kafka_trouble(&why);
                    self.denied.get_or_insert(why);
                }
                LogEvent::Trouble(why) => self.wiring.monitor.kafka_trouble(&why),
            }
        }
        busy
    }

    /// Lets go of what the group has taken away, while a commit is waited for: it must not be committed under a membership that
    /// came afterwards. In their order the events follow when that is over.
    pub(super) fn losses(&mut self) {
        self.deferred.extend(self.log.poll());
        let mut taken = Vec::new();
        for event in &self.deferred {
            match event {
                LogEvent::Lost(partitions) => taken.extend(partitions),
                LogEvent::Rejoined => taken.extend(self.owned.keys()),
                LogEvent::Replaced => return self.replaced(),
                _ => {}
            }
        }
        for partition in taken {
            self.forget(partition);
        }
    }

    fn lost(&mut self, partitions: &[PartitionId]) {
        tracing::warn!("partitions {partitions:?} were lost: the session ran out, or another instance has them");
        for &partition in partitions {
            self.forget(partition);
        }
        self.log.stop(partitions, true);
    }

    fn rejoined(&mut self) {
        tracing::warn!(
            "the membership in the group was lost without a successor, and is begun anew; partitions are recovered when \
             they are assigned again"
        );
        let all: Vec<_> = self.owned.keys().copied().collect();
        for partition in all {
            self.forget(partition);
        }
    }

    fn replaced(&mut self) {
        let why = "a newer process with the same instance.id has taken over; this one leaves";
        self.wiring.supervisor.leave(Exit::Fenced, why);
    }

    pub(super) fn epoch(&mut self) -> Epoch {
        self.next_epoch += 1;
        Epoch(self.next_epoch)
    }

    pub(super) fn assigned(&mut self, partitions: &[PartitionId]) {
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
    pub(super) fn recover(&mut self, partition: PartitionId, known: Option<(Offset, LogIdentity)>) {
        let epoch = self.epoch();
        self.owned.insert(partition, Owned::Recovering { epoch });
        self.wiring.monitor.recovering(partition, None);
        let parked = self.parking.take(partition);
        self.unrequested.push(Wanted { partition, epoch, known, parked });
    }

    /// Only once the predecessor is fenced may positions be read: before, it could still move them.
    pub(super) fn request_recovery(&mut self) {
        if self.cycle.writer_ready() && !self.unrequested.is_empty() {
            let wanted = std::mem::take(&mut self.unrequested);
            if self.wiring.recovery.send(Request::Recover(wanted)).is_err() {
                self.wiring.supervisor.fail("the recovery worker is gone");
            }
        }
    }

    /// Drops everything that is known of a partition; its undecided effects are dropped too.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        if let Some(running) = self.let_go(partition) {
            running.actor.halt();
        }
    }

    /// The same, and keeps the state itself, if all of it is committed: the partition may come back.
    pub(super) fn park(&mut self, partition: PartitionId) {
        let committed = self.cycle.committed(partition).map(|progress| progress.next.offset);
        let Some(running) = self.let_go(partition) else { return };
        let is_whole = running.is_live && running.in_flight == 0 && !running.has_shed_statistics;
        if is_whole && committed == Some(running.next) && running.actor.park().is_ok() {
            self.parking.expect(partition, running.epoch, running.identity, clock::monotonic_ms());
        } else {
            running.actor.halt();
        }
    }

    fn let_go(&mut self, partition: PartitionId) -> Option<Running<H::Host>> {
        let owned = self.owned.remove(&partition);
        self.unrequested.retain(|wanted| wanted.partition != partition);
        self.cycle.close(partition);
        self.wiring.statistics.forget(partition);
        self.wiring.snapshots.forget(partition);
        self.wiring.monitor.forget(partition);
        match owned {
            Some(Owned::Running(running)) => {
                self.wiring.hosts.forget(partition);
                Some(running)
            }
            _ => None,
        }
    }

    /// States that were kept long enough are let go of, on the worker's thread: a large one takes its time.
    pub(super) fn clear_parking(&mut self, now: u64) {
        let expired = self.parking.expired(now);
        if !expired.is_empty() {
            let _ = self.wiring.recovery.try_send(Request::LetGo(expired));
        }
    }

    pub(super) fn recoveries(&mut self) -> bool {
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

    pub(super) fn recovered(&mut self, partition: PartitionId, epoch: Epoch, prepared: Prepared) {
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
            match start.source {
                StartSource::First | StartSource::Horizon => "replay",
                StartSource::Snapshot => "snapshot",
                StartSource::Parked => "kept state",
            },
            start.from.offset,
            written_already.len()
        );
        self.cycle.open(
            OpenPartition {
                partition,
                parameters: Arc::clone(state.parameters()),
                identity: identity.clone(),
                partitions_at_first_start: start.partitions_at_first_start,
                committed: start.progress,
                committed_at_ms: start.committed_at_ms.unwrap_or_else(clock::wall_clock_ms),
                written_already,
                // A rule that has changed is committed before it decides anything: whoever finds its outputs knows whose they are.
                owes_first_commit: start.source == StartSource::First || !start.changed_rules.is_empty(),
                never_committed: start.source == StartSource::First,
            },
            clock::monotonic_ms(),
        );
        let standing = Standing {
            next: state.next(),
            watermark: state.watermark(),
            open_users: state.open_users(),
            statistics_pending_rows: state.pending_statistics(),
        };
        self.wiring.monitor.restored(partition, standing);
        let encoder =
            OutputEncoder::new(Arc::clone(&self.wiring.topic), partition, self.wiring.limits, state.parameters());
        let line = ReportLine {
            reports: self.wiring.reports.0.clone(),
            doorbell: Arc::clone(&self.wiring.doorbell),
            supervisor: self.wiring.supervisor.clone(),
        };
        self.wiring.snapshots.opened(partition, &start, &identity, state.parameters());
        let rules = Arc::clone(state.parameters());
        let (next, live_from) = (state.next(), start.committed);
        let actor = self.wiring.hosts.start(PartitionActor::new(state, encoder, live_from, epoch, line));
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
            unrecorded_rules: Some(rules),
        };
        self.owned.insert(partition, Owned::Running(running));
        self.note_live(partition);
    }

    pub(super) fn refused(&mut self, partition: PartitionId, epoch: Epoch, refusal: Refusal) {
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

    pub(super) fn leave_when_all_are_refused(&self) {
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

    /// A partition is live once it has taken everything before its committed offset.
    pub(super) fn note_live(&mut self, partition: PartitionId) {
        let Some(Owned::Running(running)) = self.owned.get_mut(&partition) else { return };
        if !running.is_live && running.next >= running.live_from {
            running.is_live = true;
            self.wiring.monitor.live(partition, running.began.elapsed());
        }
    }

    /// Recovers partitions whose statistics were let go of, once the database takes writes and has acknowledged what it
    /// was given: the replay then starts behind that.
    pub(super) fn rebuild_shed_statistics(&mut self, now: u64) {
        let is_up = self.database_up_since_ms.is_some_and(|since| now.saturating_sub(since) >= REBUILD_AFTER_MS);
        if !is_up {
            return;
        }
        let shed = self.owned.iter().find(|(partition, owned)| match owned {
            Owned::Running(running) => {
                running.has_shed_statistics
                    && running.is_live
                    && self.wiring.statistics.is_idle_for(**partition)
                    && self.rebuilds.get(partition).is_none_or(|rebuild| now >= rebuild.not_before_ms)
            }
            _ => false,
        });
        if let Some((&partition, _)) = shed {
            tracing::info!("partition {partition}: the database is back, building its statistics again from the log");
            let rebuild = self.rebuilds.entry(partition).or_default();
            rebuild.note(now);
            self.begin_again(partition);
            // One after the other, so that the others' alerts go on and their commits say what is acknowledged by then.
            self.database_up_since_ms = Some(now);
        }
    }

    /// Stops a partition and recovers it from what the log says now.
    pub(super) fn begin_again(&mut self, partition: PartitionId) {
        let known = match self.owned.get(&partition) {
            Some(Owned::Running(running)) if self.cycle.may_read(partition) => {
                let committed = self.cycle.committed(partition);
                committed.map(|progress| (progress.next.offset, running.identity.clone()))
            }
            _ => None,
        };
        self.begin_again_knowing(partition, known);
    }

    /// The same, when what this process had committed is told.
    pub(super) fn begin_again_knowing(&mut self, partition: PartitionId, known: Option<(Offset, LogIdentity)>) {
        self.log.stop(&[partition], false);
        self.forget(partition);
        self.recover(partition, known);
        self.request_recovery();
    }

    pub(super) fn verify(&mut self) {
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
