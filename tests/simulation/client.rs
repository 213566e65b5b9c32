//! The log as one process has it: consumer and transactional writer, and the recovery's own client.
//!
//! Each call is a place where the process may be killed, or be preempted for any time while the others go on; and a request
//! may be lost, its answer may be lost, it may come late, twice, or twice without anybody noticing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::record::SourceRecord;
use tallyguard::log::{Log, LogEvent, PartitionFacts, Read, RecordBatch, RecoveryReader};
use tallyguard::protocol::cycle::{Outcome, ReadBack, ReadBackRequest, Step};
use tallyguard::protocol::metadata::Metadata;

use crate::group::Incarnation;
use crate::kafka::{HELD_MS, Kafka, Record, Refused, Request, index};
use crate::process::World;
use crate::threads::Threads;

/// Records that one read gives at most.
const BATCH_MAX: usize = 7;
/// The longest pause between two heartbeats; what the group has decided is heard of with one.
const HEARTBEAT_MS: u64 = 400;

/// Consecutive records of a partition.
pub struct SimBatch(Vec<(i64, Record)>);

impl RecordBatch for SimBatch {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> SourceRecord<'_> {
        let (offset, record) = &self.0[index];
        SourceRecord {
            offset: Offset(*offset),
            timestamp_ms: Some(record.timestamp_ms),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
        }
    }

    fn headers(&self, _index: usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        Vec::new()
    }
}

/// The recovery's own client.
pub struct SimReader {
    pub world: World,
    /// Offsets that the process has read before its writer settled what a predecessor had left; empty, unless it is broken.
    pub early: BTreeMap<PartitionId, (Offset, String)>,
}

impl SimReader {
    fn ask<T>(&self, question: impl FnOnce(&Kafka) -> Result<T, String>) -> Result<T, String> {
        self.world.interlude();
        if self.world.chance.trouble() {
            return Err("as the dice fell".to_owned());
        }
        let answer = question(&self.world.kafka.lock());
        self.world.interlude();
        answer
    }
}

impl RecoveryReader for SimReader {
    fn facts(&mut self, partitions: &[PartitionId]) -> Result<Vec<PartitionFacts>, String> {
        let mut facts = self.ask(|kafka| kafka.facts(partitions));
        for facts in facts.iter_mut().flatten() {
            if let Some((offset, text)) = self.early.get(&facts.partition) {
                facts.committed = Some((*offset, Metadata::parse(text)));
            }
        }
        self.world.chance.note(|| match &facts {
            Ok(facts) => {
                let of = |it: &PartitionFacts| (it.partition, it.committed.as_ref().map(|(offset, _)| *offset));
                format!("recovery: committed {:?}", facts.iter().map(of).collect::<Vec<_>>())
            }
            Err(why) => format!("recovery: {why}"),
        });
        facts
    }

    fn read_back(&mut self, requests: &[ReadBackRequest]) -> Result<Vec<ReadBack>, String> {
        let mut found = self.ask(|kafka| kafka.read_back(requests));
        for found in found.iter_mut().flatten() {
            if !found.outputs.is_empty() {
                self.world.chance.reached("outputs found ahead");
            }
            if let Some(early) = self.early.remove(&found.partition) {
                found.committed = Some(early);
            }
        }
        found
    }
}

/// The log as the process has it: consumer and transactional writer.
pub struct SimLog {
    pub world: World,
    pub id: String,
    pub incarnation: Incarnation,
    pub threads: Rc<Threads>,
    /// As far as this process knows.
    pub generation: u32,
    pub epoch: u32,
    pub positions: BTreeMap<PartitionId, i64>,
    /// Something of the open transaction was sent again.
    pub disturbed: Option<String>,
    /// Another process had its id when it made its last call: it could know.
    pub was_replaced: bool,
    pub next_heartbeat_ms: u64,
}

impl SimLog {
    fn kafka<T>(&self, act: impl FnOnce(&mut Kafka) -> T) -> T {
        act(&mut self.world.kafka.lock())
    }

    /// A client library waits by itself while the markers of the previous transaction are written.
    fn wait_for_markers(&self) {
        while self.kafka(|kafka| kafka.is_ending(&self.id)) {
            self.world.tick(1 + self.world.chance.below(20));
        }
    }

    /// As the group knows by now.
    fn is_member(&self) -> bool {
        self.kafka(|kafka| kafka.group.check((&self.id, self.incarnation, self.generation)).is_ok())
    }

    fn refused(&self, refused: Refused) -> Outcome {
        let why = format!("{refused:?}");
        match refused {
            Refused::Concurrent => Outcome::Retriable(why),
            Refused::Fenced => {
                self.world.chance.reached("zombie rejected");
                Outcome::Fenced(why)
            }
            Refused::InvalidState => Outcome::Doubtful(why),
            Refused::UnknownMember | Refused::IllegalGeneration => Outcome::Abortable(why),
        }
    }

    /// What a request and its answer may suffer; `send` delivers the request.
    fn exchange(&self, late: Option<Request>, send: impl Fn(&mut Kafka) -> Result<(), Refused>) -> Outcome {
        self.kafka(|kafka| kafka.called(&self.id));
        let chance = &self.world.chance;
        let why = || "no answer".to_owned();
        if !chance.trouble() {
            return match self.kafka(&send) {
                Ok(()) => Outcome::Done,
                Err(refused) => self.refused(refused),
            };
        }
        match (chance.below(6), late) {
            // The request is lost; the client gives up.
            (0, _) => Outcome::Doubtful(why()),
            // The request is lost; the client knows.
            (1, _) => Outcome::Retriable("not sent".to_owned()),
            // The answer is lost.
            (2, _) => {
                let _ = self.kafka(&send);
                chance.reached("answer lost");
                Outcome::Doubtful(why())
            }
            // The request arrives when nobody waits for it any more.
            (3, Some(request)) => {
                let in_ms = chance.below(8_000);
                self.kafka(|kafka| kafka.later(in_ms, request));
                chance.reached("request late");
                Outcome::Doubtful(why())
            }
            // The request is sent again, and both arrive, one of them late.
            (4, Some(request)) => {
                chance.reached("request duplicated");
                let answer = self.kafka(&send);
                if answer.is_err() {
                    // What was refused is not of this exchange any more when it comes again.
                } else if chance.per_mille(500) {
                    let in_ms = chance.below(8_000);
                    self.kafka(|kafka| kafka.later(in_ms, request));
                } else {
                    self.kafka(|kafka| kafka.after_calls(&self.id, 1 + chance.below(6), u64::MAX, request));
                }
                match answer {
                    Ok(()) => Outcome::DoneDisturbed("sent again".to_owned()),
                    Err(refused) => self.refused(refused),
                }
            }
            // The client sends a commit again, both arrive, and nothing is said about it: the late one meets another
            // transaction of the same epoch.
            (5, Some(request @ Request::End { commit: true, .. })) if self.is_member() => {
                chance.reached("request duplicated in silence");
                match self.kafka(&send) {
                    Ok(()) => {
                        self.kafka(|kafka| kafka.after_calls(&self.id, 1 + chance.below(4), HELD_MS, request));
                        Outcome::Done
                    }
                    Err(refused) => self.refused(refused),
                }
            }
            _ => Outcome::Doubtful(why()),
        }
    }

    fn do_step(&mut self, step: &Step) -> Outcome {
        let (id, epoch) = (self.id.clone(), self.epoch);
        match step {
            Step::ReplaceWriter => {
                let given = Cell::new(None);
                let outcome = self.exchange(Some(Request::Initialise { writer: id.clone() }), |kafka| {
                    kafka.initialise(&id).map(|epoch| given.set(Some(epoch)))
                });
                match (outcome, given.get()) {
                    (Outcome::Done | Outcome::DoneDisturbed(_), Some(epoch)) => {
                        self.epoch = epoch;
                        Outcome::Done
                    }
                    (Outcome::Done | Outcome::DoneDisturbed(_), None) => Outcome::Retriable("not given".to_owned()),
                    (failure, _) => failure,
                }
            }
            Step::Begin => {
                self.disturbed = None;
                Outcome::Done
            }
            Step::Produce(outputs) => {
                self.wait_for_markers();
                let late = Request::Produce { writer: id.clone(), epoch, outputs: outputs.clone() };
                let outcome = self.exchange(Some(late), |kafka| kafka.produce(&id, epoch, outputs));
                match outcome {
                    // Records of a failed produce may not be repeated as they are: some may be in the transaction. And the
                    // broker knows a batch that comes twice by its sequence number.
                    Outcome::Retriable(why) => Outcome::Doubtful(why),
                    Outcome::DoneDisturbed(why) => Outcome::Doubtful(why),
                    outcome => outcome,
                }
            }
            Step::SendOffsets(commits) => {
                self.wait_for_markers();
                let member = (id.clone(), self.incarnation, self.generation);
                let late = Request::SendOffsets { writer: id.clone(), epoch, member, commits: commits.clone() };
                let member = (id.as_str(), self.incarnation, self.generation);
                match self.exchange(Some(late), |kafka| kafka.send_offsets(&id, epoch, member, commits)) {
                    // The client hears of it, and the commit says so.
                    Outcome::DoneDisturbed(why) => {
                        self.disturbed = Some(why);
                        Outcome::Done
                    }
                    outcome => outcome,
                }
            }
            Step::Commit | Step::Abort => {
                let commit = *step == Step::Commit;
                let of = self.kafka(|kafka| kafka.transaction_of(&id));
                let late = Request::End { writer: id.clone(), epoch, commit, of };
                let outcome = self.exchange(Some(late), |kafka| kafka.end_transaction(&id, epoch, commit));
                // Until the transaction is over, however often its commit is tried.
                let outcome = match (outcome, &self.disturbed) {
                    (Outcome::Done, Some(why)) => Outcome::DoneDisturbed(why.clone()),
                    (outcome, _) => outcome,
                };
                if commit && !matches!(outcome, Outcome::Done) {
                    self.world.chance.reached("ambiguous commit");
                }
                outcome
            }
            Step::CommitOffsets(_) => panic!("{step:?} in a transaction"),
            Step::ProbeMembership => {
                if self.world.chance.trouble() {
                    return Outcome::Retriable("no answer".to_owned());
                }
                let replaced = self.kafka(|kafka| kafka.group.is_replaced(&self.id, self.incarnation));
                Outcome::Membership { replaced }
            }
            Step::ReadBack(requests) => {
                if self.world.chance.trouble() {
                    return Outcome::Retriable("no answer".to_owned());
                }
                match self.kafka(|kafka| kafka.read_back(requests)) {
                    Ok(found) => Outcome::ReadBack(found),
                    Err(why) => Outcome::Retriable(why),
                }
            }
        }
    }
}

impl Log for SimLog {
    type Batch = SimBatch;

    fn poll(&mut self) -> Vec<LogEvent> {
        self.world.interlude();
        let now = self.world.chance.now_ms();
        if now < self.next_heartbeat_ms {
            return Vec::new();
        }
        self.next_heartbeat_ms = now + self.world.chance.below(HEARTBEAT_MS);
        let polled = self.kafka(|kafka| kafka.group.poll(&self.id, self.incarnation));
        let events = match polled {
            Some((generation, events)) => {
                self.generation = generation;
                events
            }
            None if self.kafka(|kafka| kafka.group.is_replaced(&self.id, self.incarnation)) => vec![LogEvent::Replaced],
            None => {
                self.positions.clear();
                self.kafka(|kafka| kafka.group.join(&self.id, self.incarnation));
                vec![LogEvent::Rejoined]
            }
        };
        if !events.is_empty() {
            self.world.chance.note(|| format!("{} ({}): {events:?}", self.id, self.incarnation));
        }
        events
    }

    fn start(&mut self, partition: PartitionId, from: Offset) -> Result<(), String> {
        self.world.chance.note(|| format!("{} ({}): reads {partition} from {from}", self.id, self.incarnation));
        self.positions.insert(partition, from.0);
        Ok(())
    }

    fn stop(&mut self, partitions: &[PartitionId], release: bool) {
        self.world.interlude();
        for partition in partitions {
            self.positions.remove(partition);
        }
        if release {
            self.kafka(|kafka| kafka.group.give_back(&self.id, self.incarnation, partitions));
        }
    }

    fn read(&mut self, partition: PartitionId, max: usize) -> Read<SimBatch> {
        let Some(&position) = self.positions.get(&partition) else { return Read::Nothing };
        let max = 1 + self.world.chance.index(BATCH_MAX.min(max));
        let kafka = self.world.kafka.lock();
        let source = &kafka.source[index(partition)];
        if position < source.start || position > source.end() {
            self.world.chance.reached("position out of range");
            return Read::Failed(format!("{position} is out of range"));
        }
        if position == source.end() {
            return Read::Nothing;
        }
        let mut records = Vec::new();
        let mut next = position;
        while next < source.end() && records.len() < max {
            if let Some(record) = &source.entries[usize::try_from(next).expect("not negative")] {
                records.push((next, record.clone()));
            }
            next += 1;
        }
        let end = (next == source.end()).then_some(Offset(next));
        drop(kafka);
        self.positions.insert(partition, next);
        Read::Records { batch: SimBatch(records), end }
    }

    fn execute(&mut self, step: &Step) -> Outcome {
        self.world.interlude();
        assert!(!self.was_replaced || *step != Step::ReplaceWriter, "a process that was replaced fences its successor");
        self.was_replaced = self.kafka(|kafka| kafka.group.is_replaced(&self.id, self.incarnation));
        self.world.tick(self.world.chance.below(4));
        let outcome = self.do_step(step);
        // The session of its successor may have run out meanwhile: then nobody can tell any more.
        if let Outcome::Membership { replaced } = outcome {
            self.was_replaced = replaced;
        }
        self.world.chance.note(|| format!("{} ({}): {} -> {}", self.id, self.incarnation, name(step), short(&outcome)));
        self.world.interlude();
        outcome
    }

    fn end_offset(&self, partition: PartitionId) -> Option<Offset> {
        Some(Offset(self.world.kafka.lock().source[index(partition)].end()))
    }

    fn wait(&self, timeout: Duration) {
        self.world.interlude();
        self.threads.work();
        let now = self.world.chance.now_ms();
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).clamp(1, 20);
        (self.world.others)(now + 1 + self.world.chance.below(ms));
    }
}

fn name(step: &Step) -> String {
    match step {
        Step::Produce(outputs) => {
            let ids = outputs.iter().map(|output| format!("{}/{}", output.id.partition, output.id.offset));
            format!("Produce({})", ids.collect::<Vec<_>>().join(" "))
        }
        Step::SendOffsets(commits) => {
            let offsets = commits.iter().map(|commit| format!("{}/{}", commit.partition, commit.offset));
            format!("SendOffsets({})", offsets.collect::<Vec<_>>().join(" "))
        }
        Step::ReadBack(requests) => {
            let asked = requests.iter().map(|request| format!("{}/{:?}", request.partition, request.outputs_from));
            format!("ReadBack({})", asked.collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::ReadBack(found) => {
            let parts = found.iter().map(|it| {
                format!("{}: {:?} and {} outputs", it.partition, it.committed.as_ref().map(|it| it.0), it.outputs.len())
            });
            parts.collect::<Vec<_>>().join(", ")
        }
        other => format!("{other:?}"),
    }
}
