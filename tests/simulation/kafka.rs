//! A Kafka cluster as transactions of protocol version 1 have it: what makes them hard is here, and nothing else.
//!
//! A transactional id has an epoch; whoever initialises it raises the epoch and has what was open aborted. An end of a
//! transaction names the id and the epoch, not the transaction. It is decided first, and its markers reach the output topics
//! and the group's offsets one by one, later; until then readers wait, and the id takes nothing new. A transaction that is
//! open for too long is aborted, and its writer fenced. Offsets are taken from members of the group, whoever owns the
//! partition. Requests may arrive late, twice or never.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::{LogEvent, PartitionFacts};
use tallyguard::protocol::cycle::{OffsetCommit, ReadBack, ReadBackRequest};
use tallyguard::protocol::metadata::{LogIdentity, Metadata};
use tallyguard::protocol::output::{Destination, OutputId, OutputRecord};
use tallyguard::reconcile::side_record::SourceRecord;

use crate::chance::{Broken, Chance};

pub const TOPIC: &str = "transactions";
pub const TRANSACTION_TIMEOUT_MS: u64 = 4_000;
pub const SESSION_TIMEOUT_MS: u64 = 6_000;
const DESTINATIONS: [Destination; 3] = [Destination::Alerts, Destination::Late, Destination::DeadLetter];

/// A source record, as produced.
#[derive(Debug, Clone)]
pub struct Record {
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

#[derive(Default)]
pub struct SourcePartition {
    /// `None` is a marker, or an aborted record: an offset without a record.
    pub entries: Vec<Option<Record>>,
    pub start: i64,
}

impl SourcePartition {
    pub fn end(&self) -> i64 {
        i64::try_from(self.entries.len()).expect("small")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Pending,
    Committed,
    Aborted,
}

struct Entry {
    record: Arc<OutputRecord>,
    writer: String,
    epoch: u32,
    fate: Fate,
    appended_ms: i64,
}

/// What a transaction's markers go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Participant {
    Topic(Destination),
    Offsets,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Empty {
        last_was_commit: Option<bool>,
    },
    Ongoing {
        since_ms: u64,
    },
    /// Decided; markers are on their way.
    Ending {
        commit: bool,
        left: VecDeque<Participant>,
        next_ms: u64,
    },
}

struct Writer {
    epoch: u32,
    state: State,
}

/// What a broker says instead of doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The markers of the previous transaction are not written yet.
    Concurrent,
    Fenced,
    InvalidState,
    UnknownMember,
    IllegalGeneration,
}

/// A request that is on its way.
#[derive(Debug, Clone)]
pub enum Request {
    End { writer: String, epoch: u32, commit: bool },
    Produce { writer: String, epoch: u32, outputs: Vec<Arc<OutputRecord>> },
    Initialise { writer: String },
}

/// Which process, of all that ever ran.
pub type Incarnation = u64;

struct Member {
    incarnation: Incarnation,
    last_poll_ms: u64,
    owned: BTreeSet<PartitionId>,
    /// Asked for, not given back yet.
    revoking: BTreeSet<PartitionId>,
    events: VecDeque<LogEvent>,
}

#[derive(Default)]
struct Group {
    generation: u32,
    members: BTreeMap<String, Member>,
}

pub struct Kafka {
    chance: Arc<Chance>,
    pub source: Vec<SourcePartition>,
    outputs: BTreeMap<Destination, Vec<Entry>>,
    writers: BTreeMap<String, Writer>,
    pub committed: BTreeMap<PartitionId, (Offset, String)>,
    pending_offsets: Vec<(String, u32, OffsetCommit)>,
    group: Group,
    delayed: Vec<(u64, Request)>,
}

impl Kafka {
    pub fn new(chance: Arc<Chance>, partitions: usize) -> Self {
        Self {
            chance,
            source: (0..partitions).map(|_| SourcePartition::default()).collect(),
            outputs: DESTINATIONS.into_iter().map(|destination| (destination, Vec::new())).collect(),
            writers: BTreeMap::new(),
            committed: BTreeMap::new(),
            pending_offsets: Vec::new(),
            group: Group::default(),
            delayed: Vec::new(),
        }
    }

    /// Everything that happens by itself: requests arrive, markers are written, time runs out.
    pub fn tick(&mut self) {
        let now = self.chance.now_ms();
        let due: Vec<Request>;
        (due, self.delayed) = {
            let (due, later): (Vec<_>, Vec<_>) = self.delayed.drain(..).partition(|(due_ms, _)| *due_ms <= now);
            (due.into_iter().map(|(_, request)| request).collect(), later)
        };
        for request in due {
            self.chance.note(|| format!("broker: late {request:?}"));
            self.arrive(request);
        }
        let ids: Vec<String> = self.writers.keys().cloned().collect();
        for id in ids {
            let writer = self.writers.get_mut(&id).expect("known");
            match &mut writer.state {
                State::Ongoing { since_ms } if now - *since_ms >= TRANSACTION_TIMEOUT_MS => {
                    self.chance.reached("transaction timed out");
                    self.chance.note(|| format!("broker: the transaction of {id} has timed out"));
                    writer.epoch += 1;
                    self.end(&id, false);
                }
                State::Ending { commit, left, next_ms } if *next_ms <= now => {
                    let (commit, participant) = (*commit, left.pop_front());
                    *next_ms = now + self.chance.below(30);
                    let is_last = left.is_empty();
                    if let Some(participant) = participant {
                        self.mark(&id, participant, commit);
                    }
                    if is_last {
                        let writer = self.writers.get_mut(&id).expect("known");
                        writer.state = State::Empty { last_was_commit: Some(commit) };
                        self.assert_atomic();
                    }
                }
                _ => {}
            }
        }
        self.expire(now);
    }

    pub fn later(&mut self, in_ms: u64, request: Request) {
        self.delayed.push((self.chance.now_ms() + in_ms, request));
    }

    fn arrive(&mut self, request: Request) {
        let answer = match request {
            Request::End { writer, epoch, commit } => self.end_transaction(&writer, epoch, commit),
            Request::Produce { writer, epoch, outputs } => self.produce(&writer, epoch, &outputs),
            Request::Initialise { writer } => self.initialise(&writer).map(|_| ()),
        };
        if answer == Err(Refused::Fenced) {
            self.chance.reached("late request fenced");
        }
    }

    /// `InitProducerId`: the epoch from now on.
    pub fn initialise(&mut self, id: &str) -> Result<u32, Refused> {
        let writer = self
            .writers
            .entry(id.to_owned())
            .or_insert(Writer { epoch: 0, state: State::Empty { last_was_commit: None } });
        match writer.state {
            State::Empty { .. } => {
                writer.epoch += 1;
                Ok(writer.epoch)
            }
            State::Ongoing { .. } => {
                self.chance.reached("open transaction aborted by its successor");
                writer.epoch += 1;
                self.end(id, false);
                Err(Refused::Concurrent)
            }
            State::Ending { .. } => Err(Refused::Concurrent),
        }
    }

    fn writer(&mut self, id: &str, epoch: u32) -> Result<&mut Writer, Refused> {
        match self.writers.get_mut(id) {
            Some(writer) if writer.epoch == epoch => Ok(writer),
            _ => Err(Refused::Fenced),
        }
    }

    /// Adds to the transaction, beginning it when there is none.
    fn join_transaction(&mut self, id: &str, epoch: u32) -> Result<(), Refused> {
        let now = self.chance.now_ms();
        let writer = self.writer(id, epoch)?;
        match writer.state {
            State::Empty { .. } => writer.state = State::Ongoing { since_ms: now },
            State::Ongoing { .. } => {}
            State::Ending { .. } => return Err(Refused::Concurrent),
        }
        Ok(())
    }

    pub fn produce(&mut self, id: &str, epoch: u32, outputs: &[Arc<OutputRecord>]) -> Result<(), Refused> {
        self.join_transaction(id, epoch)?;
        for record in outputs {
            self.outputs.get_mut(&record.destination).expect("all three").push(Entry {
                record: Arc::clone(record),
                writer: id.to_owned(),
                epoch,
                fate: Fate::Pending,
                appended_ms: self.chance.wall_ms(),
            });
        }
        Ok(())
    }

    /// `TxnOffsetCommit`: the membership is checked, the ownership of the partition is not.
    pub fn send_offsets(
        &mut self,
        id: &str,
        epoch: u32,
        member: (&str, Incarnation, u32),
        commits: &[OffsetCommit],
    ) -> Result<(), Refused> {
        self.writer(id, epoch)?;
        self.check_member(member)?;
        self.join_transaction(id, epoch)?;
        self.pending_offsets.extend(commits.iter().map(|commit| (id.to_owned(), epoch, commit.clone())));
        Ok(())
    }

    fn check_member(&self, (id, incarnation, generation): (&str, Incarnation, u32)) -> Result<(), Refused> {
        match self.group.members.get(id) {
            _ if self.chance.is_broken(Broken::OffsetsWithoutGeneration) => Ok(()),
            None => Err(Refused::UnknownMember),
            Some(member) if member.incarnation != incarnation => Err(Refused::Fenced),
            Some(_) if generation != self.group.generation => {
                self.chance.reached("offsets of a former generation refused");
                Err(Refused::IllegalGeneration)
            }
            Some(_) => Ok(()),
        }
    }

    pub fn end_transaction(&mut self, id: &str, epoch: u32, commit: bool) -> Result<(), Refused> {
        match &self.writer(id, epoch)?.state {
            State::Ongoing { .. } => {
                self.end(id, commit);
                Ok(())
            }
            State::Ending { commit: decided, .. } if *decided == commit => Err(Refused::Concurrent),
            State::Empty { last_was_commit: Some(last) } if *last == commit => Ok(()),
            State::Empty { .. } | State::Ending { .. } => Err(Refused::InvalidState),
        }
    }

    /// Whether the id takes nothing at the moment.
    pub fn is_ending(&self, id: &str) -> bool {
        self.writers.get(id).is_some_and(|writer| matches!(writer.state, State::Ending { .. }))
    }

    fn end(&mut self, id: &str, commit: bool) {
        let mut left: Vec<Participant> = DESTINATIONS
            .into_iter()
            .filter(|it| self.outputs[it].iter().any(|entry| entry.writer == id && entry.fate == Fate::Pending))
            .map(Participant::Topic)
            .collect();
        if self.pending_offsets.iter().any(|(writer, ..)| writer == id) {
            left.push(Participant::Offsets);
        }
        // Any order of arrival.
        for index in (1..left.len()).rev() {
            left.swap(index, self.chance.index(index + 1));
        }
        let next_ms = self.chance.now_ms() + self.chance.below(20);
        let state = if left.is_empty() {
            State::Empty { last_was_commit: Some(commit) }
        } else {
            State::Ending { commit, left: left.into(), next_ms }
        };
        self.writers.get_mut(id).expect("known").state = state;
    }

    fn mark(&mut self, id: &str, participant: Participant, commit: bool) {
        match participant {
            Participant::Topic(destination) => {
                let entries = self.outputs.get_mut(&destination).expect("all three");
                for entry in entries.iter_mut().filter(|entry| entry.writer == id && entry.fate == Fate::Pending) {
                    entry.fate = if commit { Fate::Committed } else { Fate::Aborted };
                }
            }
            Participant::Offsets => {
                let (ours, others) = std::mem::take(&mut self.pending_offsets).into_iter().partition(|it| it.0 == id);
                self.pending_offsets = others;
                let ours: Vec<(String, u32, OffsetCommit)> = ours;
                for (_, _, OffsetCommit { partition, offset, metadata }) in ours.into_iter().filter(|_| commit) {
                    let before = self.committed.insert(partition, (offset, metadata));
                    let went_back = before.as_ref().is_some_and(|(before, _)| *before > offset);
                    assert!(!went_back, "the committed offset of {partition} went back from {before:?} to {offset}");
                }
            }
        }
    }

    /// Between two transactions no output stands ahead of the offset that is committed with it.
    fn assert_atomic(&self) {
        if self.is_deciding() {
            return;
        }
        for entry in self.outputs.values().flatten().filter(|entry| entry.fate == Fate::Committed) {
            let id = &entry.record.id;
            let committed = self.committed.get(&id.partition).map(|(offset, _)| *offset);
            assert!(
                committed.is_some_and(|committed| id.offset < committed),
                "the output of {}/{} is committed without its offset ({committed:?})",
                id.partition,
                id.offset
            );
        }
    }

    // The group.

    /// A process joins under an id, taking over from whoever had it.
    pub fn join(&mut self, id: &str, incarnation: Incarnation) {
        let now = self.chance.now_ms();
        if let Some(member) = self.group.members.get_mut(id) {
            // A static member that comes back gets what it had, without a rebalance.
            self.chance.reached("static member replaced");
            let owned: BTreeSet<_> = std::mem::take(&mut member.owned);
            let events = VecDeque::from([LogEvent::Assigned(owned.iter().copied().collect())]);
            *member = Member { incarnation, last_poll_ms: now, owned, revoking: BTreeSet::new(), events };
        } else {
            let member = Member {
                incarnation,
                last_poll_ms: now,
                owned: BTreeSet::new(),
                revoking: BTreeSet::new(),
                events: VecDeque::new(),
            };
            self.group.members.insert(id.to_owned(), member);
        }
        self.rebalance();
    }

    pub fn leave(&mut self, id: &str, incarnation: Incarnation) {
        if self.group.members.get(id).is_some_and(|member| member.incarnation == incarnation) {
            self.group.members.remove(id);
            self.rebalance();
        }
    }

    /// The heartbeat and what it brings; `None`: the group does not know this process.
    pub fn poll(&mut self, id: &str, incarnation: Incarnation) -> Option<(u32, Vec<LogEvent>)> {
        let now = self.chance.now_ms();
        let generation = self.group.generation;
        let member = self.group.members.get_mut(id).filter(|member| member.incarnation == incarnation)?;
        member.last_poll_ms = now;
        Some((generation, member.events.drain(..).collect()))
    }

    /// Whether another process has the id.
    pub fn is_replaced(&self, id: &str, incarnation: Incarnation) -> bool {
        self.group.members.get(id).is_some_and(|member| member.incarnation != incarnation)
    }

    /// Partitions that were asked for are given back.
    pub fn give_back(&mut self, id: &str, incarnation: Incarnation, partitions: &[PartitionId]) {
        let Some(member) = self.group.members.get_mut(id).filter(|member| member.incarnation == incarnation) else {
            return;
        };
        for partition in partitions {
            if member.revoking.remove(partition) {
                member.owned.remove(partition);
            }
        }
        self.rebalance();
    }

    fn expire(&mut self, now: u64) {
        let before = self.group.members.len();
        let chance = Arc::clone(&self.chance);
        self.group.members.retain(|id, member| {
            let is_alive = now - member.last_poll_ms < SESSION_TIMEOUT_MS;
            if !is_alive {
                chance.note(|| format!("broker: the session of {id} has run out"));
                chance.reached("session ran out");
            }
            is_alive
        });
        if self.group.members.len() < before {
            self.rebalance();
        }
    }

    /// Sticky and cooperative: who has too much is asked for the rest; what is free goes to who has least.
    pub fn rebalance(&mut self) {
        let count = self.group.members.len();
        if count == 0 {
            return;
        }
        self.group.generation += 1;
        let all: BTreeSet<PartitionId> = (0..self.source.len()).map(partition_id).collect();
        let most = all.len().div_ceil(count);
        let owned: BTreeSet<PartitionId> =
            self.group.members.values().flat_map(|member| member.owned.iter().copied()).collect();
        let mut free: VecDeque<PartitionId> = all.difference(&owned).copied().collect();
        let least = all.len() / count;
        let wants = self.group.members.values().any(|member| member.owned.len() < least) && free.is_empty();
        for member in self.group.members.values_mut() {
            let keeps = if wants { most } else { all.len() };
            let kept = member.owned.len() - member.revoking.len();
            let too_many: Vec<_> =
                member.owned.difference(&member.revoking).copied().take(kept.saturating_sub(keeps)).collect();
            if !too_many.is_empty() {
                member.revoking.extend(too_many.iter().copied());
                member.events.push_back(LogEvent::Revoked(too_many));
            }
        }
        while let Some(partition) = free.pop_front() {
            let member = self.group.members.values_mut().min_by_key(|member| member.owned.len()).expect("one at least");
            member.owned.insert(partition);
            member.events.push_back(LogEvent::Assigned(vec![partition]));
        }
    }

    // What a recovery asks.

    pub fn identity(&self) -> LogIdentity {
        LogIdentity { cluster_id: "c".to_owned(), topic_id: "t".to_owned(), group: "g".to_owned() }
    }

    /// Stable offsets: an undecided commit is waited for.
    pub fn facts(&self, partitions: &[PartitionId]) -> Result<Vec<PartitionFacts>, String> {
        let mut facts = Vec::new();
        for &partition in partitions {
            let is_unstable = self.pending_offsets.iter().any(|(_, _, commit)| commit.partition == partition);
            if is_unstable && !self.chance.is_broken(Broken::UnstableOffsetsAreRead) {
                self.chance.reached("unstable offset waited for");
                return Err(format!("the offset of {partition} is not stable"));
            }
            let source = &self.source[index(partition)];
            let committed = self.committed.get(&partition);
            let began_with = self.committed.values().find_map(|(_, text)| Metadata::parse(text).ok());
            facts.push(PartitionFacts {
                partition,
                committed: committed.map(|(offset, text)| (*offset, Metadata::parse(text))),
                group_began_with: began_with.map(|metadata| metadata.partitions_at_first_start),
                log_start: Offset(source.start),
                log_end: Offset(source.end()),
                identity: self.identity(),
                partitions: i32::try_from(self.source.len()).expect("small"),
            });
        }
        Ok(facts)
    }

    /// Committed outputs up to now; those that are undecided are waited for.
    pub fn read_back(&self, requests: &[ReadBackRequest]) -> Result<Vec<ReadBack>, String> {
        let looks = requests.iter().any(|request| request.outputs_from.is_some());
        if looks && self.outputs.values().flatten().any(|entry| entry.fate == Fate::Pending) {
            self.chance.reached("open outputs waited for");
            return Err("undecided outputs stand before the end".to_owned());
        }
        let read_back = |request: &ReadBackRequest| {
            let is_unstable = self.pending_offsets.iter().any(|(_, _, commit)| commit.partition == request.partition);
            if is_unstable && !self.chance.is_broken(Broken::UnstableOffsetsAreRead) {
                return Err(format!("the offset of {} is not stable", request.partition));
            }
            let found = self.outputs.values().flatten().filter(|entry| {
                entry.fate == Fate::Committed
                    && entry.record.id.partition == request.partition
                    && entry.appended_ms >= request.since_ms - 1_000
                    && request.outputs_from.is_some_and(|from| entry.record.id.offset >= from)
            });
            let outputs: HashSet<OutputId> = found.map(|entry| entry.record.id.clone()).collect();
            let committed = self.committed.get(&request.partition).map(|(offset, _)| *offset);
            Ok(ReadBack { partition: request.partition, committed, outputs })
        };
        requests.iter().map(read_back).collect()
    }

    // What the judges ask.

    /// The offset that is decided, its marker written or not.
    pub fn decided(&self, partition: PartitionId) -> Option<Offset> {
        let is_decided = |id: &String| {
            self.writers.get(id).is_some_and(|writer| matches!(writer.state, State::Ending { commit: true, .. }))
        };
        let pending =
            self.pending_offsets.iter().filter(|(id, _, commit)| commit.partition == partition && is_decided(id));
        let committed = self.committed.get(&partition).map(|(offset, _)| *offset);
        pending.map(|(_, _, commit)| Some(commit.offset)).chain([committed]).max().flatten()
    }

    /// Markers of some transaction are on their way.
    pub fn is_deciding(&self) -> bool {
        self.writers.values().any(|writer| matches!(writer.state, State::Ending { .. }))
    }

    pub fn is_quiet(&self) -> bool {
        let open = self.writers.values().any(|writer| !matches!(writer.state, State::Empty { .. }));
        !open && self.delayed.is_empty() && self.pending_offsets.is_empty()
    }

    pub fn is_caught_up(&self) -> bool {
        (0..self.source.len()).all(|at| {
            let end = self.source[at].end();
            self.committed.get(&partition_id(at)).is_some_and(|(offset, _)| offset.0 == end) || end == 0
        })
    }

    /// Source records before these offsets, as the recount takes them.
    pub fn source_before(&self, ends: &BTreeMap<PartitionId, Offset>) -> Vec<SourceRecord> {
        let mut records = Vec::new();
        for (at, source) in self.source.iter().enumerate() {
            let end = ends.get(&partition_id(at)).map_or(0, |end| end.0);
            for (offset, entry) in (0..end).zip(&source.entries) {
                let Some(Record { timestamp_ms, key, value }) = entry.clone() else { continue };
                records.push(SourceRecord {
                    partition: partition_id(at).0,
                    offset,
                    timestamp_ms: Some(timestamp_ms),
                    key,
                    value,
                    headers: Vec::new(),
                });
            }
        }
        records
    }

    pub fn committed_offsets(&self) -> BTreeMap<PartitionId, Offset> {
        self.committed.iter().map(|(partition, (offset, _))| (*partition, *offset)).collect()
    }

    /// Committed records of an output topic.
    pub fn committed_outputs(&self, destination: Destination) -> Vec<SourceRecord> {
        let committed = self.outputs[&destination].iter().filter(|entry| entry.fate == Fate::Committed);
        committed
            .zip(0..)
            .map(|(entry, offset)| SourceRecord {
                partition: 0,
                offset,
                timestamp_ms: Some(entry.appended_ms),
                key: entry.record.key.clone(),
                value: entry.record.value.clone(),
                headers: entry
                    .record
                    .headers
                    .iter()
                    .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.clone()))
                    .collect(),
            })
            .collect()
    }

    /// Who stands where, for a failing run.
    pub fn describe(&self) -> String {
        let writers =
            self.writers.iter().map(|(id, writer)| format!("{id}: epoch {}, {:?}", writer.epoch, writer.state));
        let members = self.group.members.iter().map(|(id, member)| {
            format!("{id} (process {}): {:?}, gives back {:?}", member.incarnation, member.owned, member.revoking)
        });
        let ends: Vec<i64> = self.source.iter().map(SourcePartition::end).collect();
        let pending = self.outputs.values().flatten().filter(|entry| entry.fate == Fate::Pending);
        format!(
            "writers: {}\nmembers of generation {}: {}\ncommitted {:?} of {ends:?}, {} outputs undecided (epochs {:?})",
            writers.collect::<Vec<_>>().join("; "),
            self.group.generation,
            members.collect::<Vec<_>>().join("; "),
            self.committed_offsets(),
            pending.clone().count(),
            pending.map(|entry| entry.epoch).collect::<BTreeSet<_>>(),
        )
    }
}

pub fn partition_id(at: usize) -> PartitionId {
    PartitionId(i32::try_from(at).expect("small"))
}

pub fn index(partition: PartitionId) -> usize {
    usize::try_from(partition.0).expect("not negative")
}
