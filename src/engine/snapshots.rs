//! When a snapshot is taken, and when it may be stored: only after the commit that covers it.
//!
//! A round asks every running partition for its changes, waits until a commit at or behind each of them is known, and
//! hands all of them to the snapshotter as one synced write. Changes that could not be stored are merged into the next
//! round. A failure never stops alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::rule::Parameters;
use crate::domain::snapshot::StateDelta;
use crate::engine::hosts::Host;
use crate::engine::monitor::Monitor;
use crate::mutants::{self, Mutant};
use crate::protocol::metadata::{DecidedWith, LogIdentity};
use crate::protocol::recovery::{SnapshotHead, Start, StartSource};
use crate::state::{NotTaken, SnapshotDelta, SnapshotEvent, SnapshotSink, StateError};

/// Times in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotPace {
    pub interval_ms: u64,
    pub min_pause_ms: u64,
    pub timeout_ms: u64,
}

/// One open partition, as far as snapshots go.
struct Subject {
    head: SnapshotHead,
    /// The next snapshot is the first after an assignment that did not begin from the store.
    whole: bool,
    /// The newest commit that is known; at its first start a partition has none.
    committed: Option<Offset>,
    /// Taken from the actor, not stored.
    unsaved: Option<SnapshotDelta>,
    stored_through: Option<Offset>,
    /// The last hand-over before it was opened: answers up to this one speak of a former assignment.
    opened_after: u64,
}

enum Round {
    Resting {
        next_ms: u64,
    },
    /// Waiting for the actors and for the commits.
    Gathering {
        began_ms: u64,
        awaited: BTreeSet<PartitionId>,
    },
    Storing {
        began_ms: u64,
        generation: u64,
        /// A disk that does not answer counts as a failure each time this passes; what is being stored is not tried again.
        failed_at_ms: u64,
    },
}

/// See the module head.
pub struct SnapshotSchedule {
    writer: Box<dyn SnapshotSink>,
    pace: SnapshotPace,
    subjects: BTreeMap<PartitionId, Subject>,
    /// Partitions that were open before in this process: a store of then may be on its way still, so changes mean nothing
    /// to what will be on disk, and the next snapshot is a whole one.
    reopened: BTreeSet<PartitionId>,
    round: Round,
    generation: u64,
    consecutive_failures: u32,
}

impl SnapshotSchedule {
    #[must_use]
    pub fn new(writer: impl SnapshotSink + 'static, pace: SnapshotPace) -> Self {
        Self {
            writer: Box::new(writer),
            pace,
            subjects: BTreeMap::new(),
            reopened: BTreeSet::new(),
            round: Round::Resting { next_ms: pace.interval_ms },
            generation: 0,
            consecutive_failures: 0,
        }
    }

    /// A partition was recovered.
    pub fn opened(&mut self, partition: PartitionId, start: &Start, identity: &LogIdentity, parameters: &Parameters) {
        let from_store = start.source == StartSource::Snapshot;
        let head = SnapshotHead {
            through: start.committed,
            committed: None,
            identity: identity.clone(),
            decided_with: DecidedWith::of(parameters, Offset(0)),
            orders: parameters.orders,
        };
        let subject = Subject {
            head,
            whole: !from_store || self.reopened.contains(&partition),
            opened_after: self.generation,
            committed: (start.source != StartSource::First || mutants::is(Mutant::FirstStartTakenForCommitted))
                .then_some(start.committed),
            unsaved: None,
            stored_through: from_store.then_some(start.from.offset),
        };
        self.subjects.insert(partition, subject);
    }

    pub fn forget(&mut self, partition: PartitionId) {
        if self.subjects.remove(&partition).is_some() {
            self.reopened.insert(partition);
        }
        if let Round::Gathering { awaited, .. } = &mut self.round {
            awaited.remove(&partition);
        }
    }

    /// The partition's state is no longer complete; what is stored of it stays.
    pub fn suspend(&mut self, partition: PartitionId) {
        self.forget(partition);
    }

    pub fn committed(&mut self, partition: PartitionId, through: Offset) {
        if let Some(subject) = self.subjects.get_mut(&partition) {
            subject.committed = Some(through);
        }
    }

    /// An actor's changes since the last time, or its whole state.
    pub fn taken(&mut self, partition: PartitionId, delta: StateDelta, through: Offset, whole: bool) {
        if let Round::Gathering { awaited, .. } = &mut self.round {
            awaited.remove(&partition);
        }
        let Some(subject) = self.subjects.get_mut(&partition) else { return };
        if subject.whole && !whole {
            // Asked for before it was known that changes mean nothing to what is stored. The whole state holds them too.
            return;
        }
        subject.head.through = through;
        subject.head.committed = subject.committed;
        let newer = SnapshotDelta {
            partition,
            through,
            replace: whole,
            removed_prefixes: delta.removed_prefixes,
            removed: Vec::new(),
            puts: delta.puts,
            // Serialising plain strings and integers to memory cannot fail.
            header: serde_json::to_vec(&subject.head).unwrap_or_default(),
        };
        subject.whole = false;
        subject.unsaved = Some(match subject.unsaved.take() {
            Some(older) => SnapshotDelta::merge(older, newer),
            None => newer,
        });
    }

    /// Begins, continues or times out a round.
    pub fn tick<A: Host>(&mut self, actors: &[(PartitionId, A)], now_ms: u64, monitor: &mut Monitor) {
        match &self.round {
            Round::Resting { next_ms } if now_ms >= *next_ms && !actors.is_empty() => self.begin(actors, now_ms),
            Round::Gathering { began_ms, awaited } => {
                let began_ms = *began_ms;
                if awaited.is_empty() && self.is_covered() {
                    self.store(began_ms, monitor);
                } else if now_ms.saturating_sub(began_ms) >= self.pace.timeout_ms {
                    self.failed("the commits that cover it did not come in time", began_ms, now_ms, monitor);
                }
            }
            Round::Storing { began_ms, generation, failed_at_ms } if now_ms >= *failed_at_ms => {
                let (began_ms, generation) = (*began_ms, *generation);
                self.consecutive_failures += 1;
                monitor.snapshot_failed("the disk does not answer in time", self.consecutive_failures);
                let failed_at_ms = now_ms + self.pace.timeout_ms;
                self.round = Round::Storing { began_ms, generation, failed_at_ms };
            }
            _ => {}
        }
    }

    /// Begins a round, whatever the time; only while [`SnapshotSchedule::is_idle`].
    pub(super) fn begin(&mut self, actors: &[(PartitionId, impl Host)], now_ms: u64) {
        let mut awaited = BTreeSet::new();
        for (partition, actor) in actors {
            let Some(subject) = self.subjects.get(partition) else { continue };
            // A partition that is still replaying what it has on disk, or has not moved, has nothing new.
            if actor.take_snapshot(subject.whole).is_ok() {
                awaited.insert(*partition);
            }
        }
        self.round = Round::Gathering { began_ms: now_ms, awaited };
    }

    /// Begins a last round at once, for the end of the process.
    pub fn request_last(&mut self, actors: &[(PartitionId, impl Host)]) {
        if let Round::Resting { .. } = self.round {
            self.begin(actors, crate::clock::monotonic_ms());
        }
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.round, Round::Resting { .. })
    }

    fn is_covered(&self) -> bool {
        let unsaved = self.subjects.values().filter_map(|subject| Some((subject.unsaved.as_ref()?, subject.committed)));
        let is_early = mutants::is(Mutant::SnapshotStoredBeforeItsCommit);
        unsaved.clone().all(|(delta, committed)| committed >= Some(delta.through) || is_early)
    }

    fn store(&mut self, began_ms: u64, monitor: &mut Monitor) {
        let mut deltas = Vec::new();
        for subject in self.subjects.values_mut() {
            match subject.unsaved.take() {
                Some(delta) if !delta.replace && subject.stored_through == Some(delta.through) => {
                    // Nothing was taken in since: what changed are acknowledgements, which the metadata knows better.
                    subject.unsaved = Some(delta);
                }
                Some(delta) => deltas.push(delta),
                None => {}
            }
        }
        if deltas.is_empty() {
            self.rest(began_ms, began_ms);
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        match self.writer.store(deltas, generation) {
            Ok(()) => {
                let failed_at_ms = crate::clock::monotonic_ms() + self.pace.timeout_ms;
                self.round = Round::Storing { began_ms, generation, failed_at_ms };
            }
            Err(NotTaken::Busy(deltas) | NotTaken::Stopped(deltas)) => {
                self.give_back(deltas);
                self.failed("the snapshot thread is busy", began_ms, crate::clock::monotonic_ms(), monitor);
            }
        }
    }

    /// Changes that were not stored: the ones taken since then are newer.
    fn give_back(&mut self, deltas: Vec<SnapshotDelta>) {
        for older in deltas {
            let Some(subject) = self.subjects.get_mut(&older.partition) else { continue };
            subject.unsaved = Some(match subject.unsaved.take() {
                Some(newer) => SnapshotDelta::merge(older, newer),
                None => older,
            });
        }
    }

    fn start_over(&mut self, deltas: &[SnapshotDelta]) {
        for delta in deltas {
            if let Some(subject) = self.subjects.get_mut(&delta.partition) {
                subject.unsaved = None;
                subject.whole = true;
            }
        }
    }

    fn rest(&mut self, began_ms: u64, now_ms: u64) {
        let next_ms = (began_ms + self.pace.interval_ms).max(now_ms + self.pace.min_pause_ms);
        self.round = Round::Resting { next_ms };
    }

    fn failed(&mut self, why: &str, began_ms: u64, now_ms: u64, monitor: &mut Monitor) {
        self.consecutive_failures += 1;
        monitor.snapshot_failed(why, self.consecutive_failures);
        self.rest(began_ms, now_ms);
    }

    /// The snapshotter's answer.
    pub fn event(&mut self, event: SnapshotEvent, monitor: &mut Monitor) {
        let now_ms = crate::clock::monotonic_ms();
        let began_ms = match self.round {
            Round::Storing { began_ms, generation, .. } if generation == self.generation => began_ms,
            _ => now_ms,
        };
        match event {
            SnapshotEvent::Stored { partitions, duration, bytes, generation } => {
                self.consecutive_failures = 0;
                for (partition, through) in partitions {
                    if let Some(subject) = self.subjects.get_mut(&partition)
                        && subject.opened_after < generation
                    {
                        subject.stored_through = Some(through);
                    }
                }
                let whole_round = Duration::from_millis(now_ms.saturating_sub(began_ms)).max(duration);
                monitor.snapshot_stored(whole_round, bytes);
                self.rest(began_ms, now_ms);
            }
            SnapshotEvent::Failed { error, deltas, generation } => {
                let is_current = |delta: &SnapshotDelta| {
                    self.subjects.get(&delta.partition).is_some_and(|subject| subject.opened_after < generation)
                };
                let deltas: Vec<_> = deltas.into_iter().filter(is_current).collect();
                if matches!(error, StateError::WithoutBase { .. } | StateError::Backwards { .. }) {
                    // Changes mean nothing to what is stored: the next snapshot is a whole one.
                    self.start_over(&deltas);
                } else {
                    self.give_back(deltas);
                }
                self.failed(&error.to_string(), began_ms, now_ms, monitor);
            }
            SnapshotEvent::NotRetained { error, .. } => tracing::warn!("no checkpoint was kept: {error}"),
            SnapshotEvent::Retained { .. } | SnapshotEvent::Fatal { .. } => {}
        }
    }
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
