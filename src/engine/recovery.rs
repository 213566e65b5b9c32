//! The recovery worker: finds out how an assigned partition begins, on a thread of its own, and builds its state.
//!
//! It may wait for a zombie's transaction to time out, or for a broker to come back; the I/O thread goes on meanwhile.
//! What it learns is judged by [`crate::protocol::recovery::decide`]; it decides nothing itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::PartitionState;
use crate::domain::time::Watermark;
use crate::engine::actor::Epoch;
use crate::engine::parking::Parked;
use crate::log::{Doorbell, PartitionFacts, RecoveryReader};
use crate::mutants::{self, Mutant};
use crate::protocol::cycle::{DeliveryMode, ReadBackRequest};
use crate::protocol::metadata::{LogIdentity, Metadata};
use crate::protocol::output::OutputId;
use crate::protocol::recovery::{Configured, Facts, SnapshotHead, Start, StartSource, decide};
use crate::protocol::refusal::Refusal;
use crate::state::{Snapshots, StoredSnapshot};

const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What the I/O thread asks for.
pub enum Request {
    Recover(Vec<Wanted>),
    /// Is the log still the one that these partitions were recovered from? With their committed offsets.
    Verify(Vec<(PartitionId, Epoch, Offset, LogIdentity)>),
    /// States that nobody needs any more.
    LetGo(Vec<Parked>),
}

/// A partition to be recovered.
pub struct Wanted {
    pub partition: PartitionId,
    pub epoch: Epoch,
    /// What this process had committed of it, and of which log, when it is recovered in the middle of a run.
    pub known: Option<(Offset, LogIdentity)>,
    /// The state that it had here before it was handed over.
    pub parked: Option<Parked>,
}

/// What the worker answers.
pub enum Answer {
    Recovered {
        partition: PartitionId,
        epoch: Epoch,
        prepared: Box<Prepared>,
    },
    Refused {
        partition: PartitionId,
        epoch: Epoch,
        refusal: Refusal,
    },
    /// Not possible at the moment; the worker goes on trying.
    Waiting {
        partitions: Vec<PartitionId>,
        why: String,
    },
}

/// A partition ready to be read.
pub struct Prepared {
    pub state: PartitionState,
    pub start: Start,
    pub identity: LogIdentity,
    pub written_already: HashSet<OutputId>,
    pub began: Instant,
}

/// How far the database says that a partition's statistics reach; `None` when it does not say.
pub type ProgressQuestion = Box<dyn Fn(PartitionId) -> Option<Offset> + Send>;

/// See the module head.
pub struct RecoveryWorker<R> {
    pub reader: R,
    pub topic: Arc<str>,
    pub configured: Configured,
    pub mode: DeliveryMode,
    pub store: Arc<dyn Snapshots>,
    pub progress: Option<ProgressQuestion>,
    pub requests: Receiver<Request>,
    pub answers: Sender<Answer>,
    pub doorbell: Arc<Doorbell>,
}

impl<R: RecoveryReader> RecoveryWorker<R> {
    /// Serves requests until the I/O thread is gone.
    pub fn run(mut self) {
        let mut wanted = Vec::new();
        while let Ok(request) = self.requests.recv() {
            self.take(request, &mut wanted);
            while self.attempt(&mut wanted) {
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// Takes in what was asked since, and tries once; true while something is left that could not be answered.
    pub fn attempt(&mut self, wanted: &mut Vec<Wanted>) -> bool {
        while let Ok(request) = self.requests.try_recv() {
            self.take(request, wanted);
        }
        if !wanted.is_empty() {
            self.recover(wanted);
        }
        !wanted.is_empty()
    }

    fn take(&mut self, request: Request, wanted: &mut Vec<Wanted>) {
        match request {
            Request::Recover(later) => {
                // A later request supersedes what it names: the partition was assigned anew.
                wanted.retain(|old| later.iter().all(|new| new.partition != old.partition));
                wanted.extend(later);
            }
            // A worker that is busy with a recovery is not asked; the next round asks again.
            Request::Verify(known) if wanted.is_empty() => self.verify(&known),
            Request::Verify(_) | Request::LetGo(_) => {}
        }
    }

    fn answer(&self, answer: Answer) {
        // A closed channel means that the process is leaving.
        let _ = self.answers.send(answer);
        self.doorbell.ring();
    }

    /// Tries once; what is answered leaves `wanted`.
    fn recover(&mut self, wanted: &mut Vec<Wanted>) {
        let began = clock::monotonic_now();
        let partitions: Vec<_> = wanted.iter().map(|wanted| wanted.partition).collect();
        let facts = match self.reader.facts(&partitions) {
            Ok(facts) => facts,
            Err(why) => return self.answer(Answer::Waiting { partitions, why }),
        };
        tracing::debug!("positions of {} partitions known after {:?}", facts.len(), began.elapsed());
        let silent = |partition: &PartitionId| facts.iter().all(|facts| facts.partition != *partition);
        let silent: Vec<_> = partitions.into_iter().filter(silent).collect();
        if !silent.is_empty() {
            let why = "the brokers do not tell their bounds at the moment".to_owned();
            self.answer(Answer::Waiting { partitions: silent, why });
        }
        let mut decided = Vec::new();
        for facts in facts {
            let Some(asked) = wanted.iter().find(|wanted| wanted.partition == facts.partition) else { continue };
            let (partition, epoch) = (asked.partition, asked.epoch);
            let snapshot = self.load(partition);
            match self.decide(&facts, snapshot.as_ref(), asked) {
                Ok(start) => decided.push((partition, epoch, facts, start, snapshot)),
                Err(refusal) => {
                    wanted.retain(|other| other.partition != partition);
                    self.answer(Answer::Refused { partition, epoch, refusal });
                }
            }
        }
        let requests: Vec<_> = decided
            .iter()
            .filter_map(|(partition, _, _, start, _)| {
                Some(ReadBackRequest {
                    partition: *partition,
                    // A changed rule begins behind what was decided already, in every mode.
                    outputs_from: (self.mode.reads_outputs_back() || !start.changed_rules.is_empty())
                        .then_some(start.committed),
                    since_ms: start.committed_at_ms?,
                })
            })
            .collect();
        tracing::debug!("starts decided after {:?}", began.elapsed());
        let mut found = match self.reader.read_back(&requests) {
            Ok(found) => found,
            Err(why) => {
                let partitions = decided.iter().map(|(partition, ..)| *partition).collect();
                return self.answer(Answer::Waiting { partitions, why });
            }
        };
        tracing::debug!("outputs read back after {:?}", began.elapsed());
        for (partition, epoch, facts, mut start, snapshot) in decided {
            let read_back = found.iter_mut().find(|read_back| read_back.partition == partition);
            let moved = read_back.as_ref().is_some_and(|read_back| {
                let committed = read_back.committed.as_ref();
                committed.map(|(offset, text)| (*offset, Metadata::parse(text))) != facts.committed
            });
            if moved {
                // Somebody committed in between: look again.
                continue;
            }
            let written_already = read_back.map(|read_back| std::mem::take(&mut read_back.outputs)).unwrap_or_default();
            if let Some(highest) = written_already.iter().map(|output| output.offset).max() {
                start.decided_ahead_through(highest);
            }
            let asked = wanted.iter_mut().find(|wanted| wanted.partition == partition);
            let parked = asked.and_then(|wanted| wanted.parked.take());
            let snapshot = snapshot.map(|(_, stored)| stored);
            let Some(state) = self.build(partition, &start, snapshot, parked) else { continue };
            wanted.retain(|other| other.partition != partition);
            let identity = facts.identity;
            let prepared = Prepared { state, start, identity, written_already, began };
            self.answer(Answer::Recovered { partition, epoch, prepared: Box::new(prepared) });
        }
    }

    fn decide(
        &self,
        facts: &PartitionFacts,
        snapshot: Option<&(SnapshotHead, StoredSnapshot)>,
        asked: &Wanted,
    ) -> Result<Start, Refusal> {
        let never_committed = facts.committed.is_none();
        let progress = self.progress.as_ref().filter(|_| never_committed);
        let facts = Facts {
            partition: facts.partition,
            committed: facts.committed.clone(),
            group_began: facts.group_began.clone(),
            log_start: facts.log_start,
            log_end: facts.log_end,
            identity: facts.identity.clone(),
            partitions: facts.partitions,
            snapshot: snapshot.map(|(head, _)| head.clone()),
            statistics_progress: progress.and_then(|ask| ask(facts.partition)),
            known: asked.known.clone(),
            parked: asked.parked.as_ref().map(Parked::head),
        };
        decide(&facts, &self.configured)
    }

    /// The stored snapshot of a partition; an unusable one is dropped, because the log can rebuild it.
    fn load(&self, partition: PartitionId) -> Option<(SnapshotHead, StoredSnapshot)> {
        let stored = match self.store.load(partition) {
            Ok(stored) => stored?,
            Err(error) => {
                self.drop_snapshot(partition, &error);
                return None;
            }
        };
        match serde_json::from_slice(&stored.header) {
            Ok(head) => Some((head, stored)),
            Err(error) => {
                tracing::warn!("the snapshot of partition {partition} is of another version and is not used: {error}");
                None
            }
        }
    }

    /// `None` when the snapshot turned out to be unreadable: it is dropped, and the next attempt decides without it.
    fn build(
        &self,
        partition: PartitionId,
        start: &Start,
        snapshot: Option<StoredSnapshot>,
        parked: Option<Parked>,
    ) -> Option<PartitionState> {
        let parameters = Arc::new(start.parameters.clone());
        let reopens = mutants::is(Mutant::ClosedWindowsOpenedAgain);
        let final_through = if reopens { Watermark::NONE } else { start.progress.final_through };
        if start.source == StartSource::Parked {
            let mut state = *parked?.state;
            state.take_up(parameters, final_through);
            if mutants::is(Mutant::KeptStateTakenForCommitted) {
                state.skip_to(start.committed);
            }
            state.know_statistics(&start.progress);
            return Some(state);
        }
        if start.source == StartSource::Snapshot {
            let stored = snapshot?;
            let loaded = PartitionState::from_snapshot(
                Arc::clone(&self.topic),
                partition,
                Arc::clone(&parameters),
                start.from.offset,
                final_through,
                &stored.entries,
            );
            return match loaded {
                Ok(mut state) => {
                    state.know_statistics(&start.progress);
                    Some(state)
                }
                Err(error) => {
                    self.drop_snapshot(partition, &error);
                    None
                }
            };
        }
        let mut state = PartitionState::new(Arc::clone(&self.topic), partition, parameters, start.from, final_through);
        state.know_statistics(&start.progress);
        Some(state)
    }

    fn drop_snapshot(&self, partition: PartitionId, why: &dyn std::fmt::Display) {
        tracing::error!("the snapshot of partition {partition} is dropped and rebuilt from the log: {why}");
        if let Err(error) = self.store.discard(partition) {
            tracing::error!("dropping the snapshot of partition {partition}: {error}");
        }
    }

    /// A topic that was deleted and created again keeps its name, and the fetcher notices nothing.
    fn verify(&mut self, known: &[(PartitionId, Epoch, Offset, LogIdentity)]) {
        let partitions: Vec<_> = known.iter().map(|(partition, ..)| *partition).collect();
        // Without an answer there is nothing to compare; the next round asks again.
        let Ok(facts) = self.reader.facts(&partitions) else { return };
        for (partition, epoch, committed, identity) in known {
            let Some(facts) = facts.iter().find(|facts| facts.partition == *partition) else { continue };
            let refusal = if facts.identity.topic_id != identity.topic_id {
                Refusal::IdentityChanged {
                    what: "topic of the same name",
                    then: identity.topic_id.clone(),
                    now: facts.identity.topic_id.clone(),
                }
            } else if facts.log_end < *committed {
                Refusal::LogShorter { committed: *committed, log_end: facts.log_end }
            } else {
                continue;
            };
            self.answer(Answer::Refused { partition: *partition, epoch: *epoch, refusal });
        }
    }
}
