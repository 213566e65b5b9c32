//! A Kafka cluster as transactions of protocol version 1 have it: what makes them hard is here, and nothing else.
//!
//! A transactional id has an epoch; whoever initialises it raises the epoch and has what was open aborted. An end of a
//! transaction names the id and the epoch, not the transaction. It is decided first, and its markers reach the output topics
//! and the group's offsets one by one, later; until then readers wait, and the id takes nothing new. A transaction that is
//! open for too long is aborted, and its writer fenced. Offsets are taken from members of the group, whoever owns the
//! partition. Requests may arrive late, twice or never.

// What it answers, to recoveries and to the judges.
#[path = "answers.rs"]
mod answers;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::rule::RuleVersion;
use tallyguard::protocol::cycle::OffsetCommit;
use tallyguard::protocol::metadata::Metadata;
use tallyguard::protocol::output::{Destination, OutputId, OutputRecord};

use crate::chance::Chance;
use crate::group::{Group, Incarnation, SESSION_TIMEOUT_MS};

pub const TOPIC: &str = "transactions";
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
    /// How many transactions were begun under the id; no broker tells a late request from which one it is.
    transactions: u64,
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

/// Every version that a commit ever spoke of, of each rule in each partition.
pub type RuleVersions = BTreeMap<(String, PartitionId), BTreeMap<u32, RuleVersion>>;

/// A request that is on its way.
#[derive(Debug, Clone)]
pub enum Request {
    End { writer: String, epoch: u32, commit: bool, of: u64 },
    Produce { writer: String, epoch: u32, outputs: Vec<Arc<OutputRecord>> },
    SendOffsets { writer: String, epoch: u32, member: (String, Incarnation, u32), commits: Vec<OffsetCommit> },
    Initialise { writer: String },
}

/// A request that overtakes nothing until its sender has made some more calls, or some time has passed.
struct Held {
    writer: String,
    calls_left: u64,
    until_ms: u64,
    request: Request,
}

/// A duplicate that nothing reports is on its way for less than a session lasts: nobody else has the partitions before.
pub const HELD_MS: u64 = SESSION_TIMEOUT_MS / 2;

pub struct Kafka {
    chance: Arc<Chance>,
    pub source: Vec<SourcePartition>,
    outputs: BTreeMap<Destination, Vec<Entry>>,
    writers: BTreeMap<String, Writer>,
    pub committed: BTreeMap<PartitionId, (Offset, String)>,
    /// Everything that was ever committed, oldest first.
    history: BTreeMap<PartitionId, Vec<(Offset, String)>>,
    pending_offsets: Vec<(String, u32, OffsetCommit)>,
    pub group: Group,
    delayed: Vec<(u64, Request)>,
    held: Vec<Held>,
    transaction_timeout_ms: u64,
    topic_id: u32,
    has_lost_offsets: bool,
    /// Outputs that a late end of another transaction has committed without their offsets, which are still to come.
    ahead: HashSet<OutputId>,
    pub rule_versions: RuleVersions,
}

impl Kafka {
    pub fn new(chance: Arc<Chance>, partitions: usize) -> Self {
        // Shorter than a session, or longer.
        let transaction_timeout_ms = [4_000, 15_000][chance.index(2)];
        Self {
            group: Group::new(Arc::clone(&chance), partitions),
            chance,
            source: (0..partitions).map(|_| SourcePartition::default()).collect(),
            outputs: DESTINATIONS.into_iter().map(|destination| (destination, Vec::new())).collect(),
            writers: BTreeMap::new(),
            committed: BTreeMap::new(),
            history: BTreeMap::new(),
            pending_offsets: Vec::new(),
            delayed: Vec::new(),
            held: Vec::new(),
            transaction_timeout_ms,
            topic_id: 1,
            has_lost_offsets: false,
            ahead: HashSet::new(),
            rule_versions: BTreeMap::new(),
        }
    }

    /// The topic has one more partition.
    pub fn extend(&mut self) {
        self.source.push(SourcePartition::default());
        self.group.extend(self.source.len());
    }

    /// The topic is deleted and made again under its name: other records, another id.
    pub fn recreate(&mut self, records: Vec<Vec<Option<Record>>>) {
        self.topic_id += 1;
        for (partition, entries) in self.source.iter_mut().zip(records) {
            *partition = SourcePartition { entries, start: 0 };
        }
    }

    /// Somebody goes on producing.
    pub fn append(&mut self, records: Vec<Vec<Option<Record>>>) {
        for (partition, entries) in self.source.iter_mut().zip(records) {
            partition.entries.extend(entries);
        }
    }

    /// The group's offsets are deleted.
    pub fn forget_offsets(&mut self) {
        self.committed.clear();
        self.has_lost_offsets = true;
    }

    /// Somebody sets the group's offsets back to what they were once, under the rules that are in force now.
    pub fn set_offsets_back(&mut self, in_force: &[u32]) {
        let newest = |text: &str| -> Vec<u32> {
            let metadata = Metadata::parse(text).expect("as the service writes it");
            metadata.decided_with.rules.iter().filter_map(|rule| Some(rule.versions.last()?.version)).collect()
        };
        for (partition, committed) in &mut self.committed {
            let former: Vec<_> = self.history[partition].iter().filter(|(_, text)| newest(text) == in_force).collect();
            if !former.is_empty() {
                *committed = former[self.chance.index(former.len())].clone();
            }
        }
        self.has_lost_offsets = true;
    }

    /// Retention takes what no recovery needs any more.
    pub fn retain(&mut self, partition: PartitionId) {
        let Some((offset, text)) = self.committed.get(&partition) else { return };
        let Ok(metadata) = Metadata::parse(text) else { return };
        let needed = metadata.horizon.offset.min(metadata.statistics_horizon.offset).min(*offset);
        let source = &mut self.source[index(partition)];
        if needed.0 > source.start {
            source.start = needed.0;
            self.chance.reached("records deleted by retention");
            self.chance.note(|| format!("broker: {partition} begins at {needed} from now on"));
        }
    }

    /// A process makes a call: what was held back until then arrives before it.
    pub fn called(&mut self, id: &str) {
        for held in self.held.iter_mut().filter(|held| held.writer == id) {
            held.calls_left -= 1;
        }
        self.deliver_held();
    }

    fn deliver_held(&mut self) {
        let now = self.chance.now_ms();
        while let Some(at) = self.held.iter().position(|held| held.calls_left == 0 || held.until_ms <= now) {
            let Held { request, .. } = self.held.swap_remove(at);
            self.chance.note(|| format!("broker: held {request:?}"));
            self.arrive(request);
        }
    }

    /// The request arrives before the sender's next call, or the one after that.
    pub fn after_calls(&mut self, writer: &str, calls: u64, at_most_ms: u64, request: Request) {
        let until_ms = self.chance.now_ms().saturating_add(at_most_ms);
        self.held.push(Held { writer: writer.to_owned(), calls_left: calls.max(1), until_ms, request });
    }

    /// What was held back arrives now, whoever calls.
    pub fn release(&mut self) {
        let now = self.chance.now_ms();
        self.delayed.extend(self.held.drain(..).map(|held| (now, held.request)));
    }

    /// Everything that happens by itself: requests arrive, markers are written, time runs out.
    pub fn tick(&mut self) {
        let now = self.chance.now_ms();
        let due: Vec<_> = self.delayed.extract_if(.., |(due_ms, _)| *due_ms <= now).collect();
        for (_, request) in due {
            self.chance.note(|| format!("broker: late {request:?}"));
            self.arrive(request);
        }
        self.deliver_held();
        let is_busy = |writer: &Writer| !matches!(writer.state, State::Empty { .. });
        let busy: Vec<_> = self.writers.iter().filter(|(_, it)| is_busy(it)).map(|(id, _)| id.clone()).collect();
        for id in busy {
            let writer = self.writers.get_mut(&id).expect("known");
            match &mut writer.state {
                State::Ongoing { since_ms } if now - *since_ms >= self.transaction_timeout_ms => {
                    self.chance.reached("transaction timed out");
                    self.chance.note(|| format!("broker: the transaction of {id} has timed out"));
                    writer.epoch += 1;
                    self.end(&id, false);
                }
                State::Ending { commit, left, next_ms } if *next_ms <= now => {
                    let (commit, participant) = (*commit, left.pop_front());
                    *next_ms = now + marker_takes_ms(&self.chance);
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
        self.group.expire();
    }

    pub fn later(&mut self, in_ms: u64, request: Request) {
        self.delayed.push((self.chance.now_ms() + in_ms, request));
    }

    fn arrive(&mut self, request: Request) {
        let answer = match request {
            Request::End { writer, epoch, commit, of } => {
                self.note_torn(&writer, epoch, commit, of);
                self.end_transaction(&writer, epoch, commit)
            }
            Request::Produce { writer, epoch, outputs } => self.produce(&writer, epoch, &outputs),
            Request::SendOffsets { writer, epoch, member, commits } => {
                self.send_offsets(&writer, epoch, (&member.0, member.1, member.2), &commits)
            }
            Request::Initialise { writer } => self.initialise(&writer).map(|_| ()),
        };
        if answer == Err(Refused::Fenced) {
            self.chance.reached("late request fenced");
        }
    }

    /// A late end hits whatever is open under its epoch, and it may be half of it: the broker knows no better.
    fn note_torn(&mut self, id: &str, epoch: u32, commit: bool, of: u64) {
        let Some(Writer { epoch: current, transactions, state: State::Ongoing { .. } }) = self.writers.get(id) else {
            return;
        };
        if *current != epoch || *transactions == of {
            return;
        }
        self.chance.reached(if commit {
            "transaction torn by a late commit"
        } else {
            "transaction torn by a late abort"
        });
        if commit {
            let torn = self.outputs.values().flatten().filter(|it| it.writer == id && it.fate == Fate::Pending);
            self.ahead.extend(torn.map(|entry| entry.record.id.clone()));
        }
    }

    /// The number of the transaction that an id has open, or had last.
    pub fn transaction_of(&self, id: &str) -> u64 {
        self.writers.get(id).map_or(0, |writer| writer.transactions)
    }

    /// `InitProducerId`: the epoch from now on.
    pub fn initialise(&mut self, id: &str) -> Result<u32, Refused> {
        let writer = self.writers.entry(id.to_owned()).or_insert(Writer {
            epoch: 0,
            transactions: 0,
            state: State::Empty { last_was_commit: None },
        });
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
            State::Empty { .. } => {
                writer.state = State::Ongoing { since_ms: now };
                writer.transactions += 1;
            }
            State::Ongoing { .. } => {}
            State::Ending { .. } => return Err(Refused::Concurrent),
        }
        Ok(())
    }

    pub fn produce(&mut self, id: &str, epoch: u32, outputs: &[Arc<OutputRecord>]) -> Result<(), Refused> {
        self.join_transaction(id, epoch)?;
        for record in outputs {
            let entries = self.outputs.get_mut(&record.destination).expect("all three");
            // A batch that comes again is known by its sequence number.
            if entries.iter().any(|entry| entry.writer == id && entry.epoch == epoch && entry.record.id == record.id) {
                continue;
            }
            entries.push(Entry {
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
        self.group.check(member)?;
        self.join_transaction(id, epoch)?;
        let is_new = |it: &OffsetCommit| commits.iter().all(|commit| commit.partition != it.partition);
        self.pending_offsets.retain(|(writer, _, commit)| writer != id || is_new(commit));
        self.pending_offsets.extend(commits.iter().map(|commit| (id.to_owned(), epoch, commit.clone())));
        Ok(())
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
        let next_ms = self.chance.now_ms() + marker_takes_ms(&self.chance);
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
                    self.note_rules(partition, &metadata);
                    self.assert_horizons(partition, &metadata);
                    self.history.entry(partition).or_default().push((offset, metadata.clone()));
                    let before = self.committed.insert(partition, (offset, metadata));
                    let went_back = before.as_ref().is_some_and(|(before, _)| *before > offset);
                    assert!(!went_back, "the committed offset of {partition} went back from {before:?} to {offset}");
                }
            }
        }
    }

    /// Retention may have taken what no commit before this one needed.
    fn assert_horizons(&self, partition: PartitionId, metadata: &str) {
        let horizons = |text: &str| {
            let metadata = Metadata::parse(text).expect("as the service writes it");
            (metadata.horizon.offset, metadata.statistics_horizon.offset)
        };
        let (rules, statistics) = horizons(metadata);
        let (rules_before, statistics_before) = self
            .committed
            .get(&partition)
            .map_or_else(|| (Offset(i64::MIN), Offset(i64::MIN)), |(_, text)| horizons(text));
        assert!(rules >= rules_before, "the horizon of {partition} goes back from {rules_before} to {rules}");
        assert!(
            statistics >= statistics_before,
            "the statistics horizon of {partition} goes back from {statistics_before} to {statistics}"
        );
    }

    /// A version of a rule acts from one record on, whoever commits it.
    fn note_rules(&mut self, partition: PartitionId, metadata: &str) {
        let metadata = Metadata::parse(metadata).expect("as the service writes it");
        let committed = self.committed.get(&partition).map(|(offset, _)| *offset);
        let readable = self.outputs.values().flatten().filter(|it| it.fate == Fate::Committed);
        let ahead =
            readable.filter(|it| it.record.id.partition == partition).map(|it| it.record.id.offset.next()).max();
        for rule in metadata.decided_with.rules {
            if let Some(newest) = rule.versions.last()
                && let Some(committed) = committed
                && !self.rule_versions[&(rule.id.clone(), partition)].contains_key(&newest.version)
            {
                let latest = ahead.unwrap_or(committed).max(committed);
                assert!((committed..=latest).contains(&newest.from), "{newest:?} begins elsewhere than {committed}");
            }
            let versions = self.rule_versions.entry((rule.id.clone(), partition)).or_default();
            for version in rule.versions {
                let known = versions.entry(version.version).or_insert_with(|| version.clone());
                assert_eq!(*known, version, "rule {} of {partition} was committed otherwise before", rule.id);
            }
        }
    }

    /// Between two transactions no output stands ahead of the offset that is committed with it.
    fn assert_atomic(&self) {
        if self.is_deciding() || self.has_lost_offsets {
            return;
        }
        for entry in self.outputs.values().flatten().filter(|entry| entry.fate == Fate::Committed) {
            let id = &entry.record.id;
            let committed = self.committed.get(&id.partition).map(|(offset, _)| *offset);
            assert!(
                self.ahead.contains(id) || committed.is_some_and(|committed| id.offset < committed),
                "the output of {}/{} is committed without its offset ({committed:?})",
                id.partition,
                id.offset
            );
        }
    }
}

/// Until a marker is written: a moment, or until a broker is back.
fn marker_takes_ms(chance: &Chance) -> u64 {
    let is_away = chance.trouble() && chance.per_mille(100);
    chance.below(if is_away { 8_000 } else { 25 })
}

pub fn partition_id(at: usize) -> PartitionId {
    PartitionId(i32::try_from(at).expect("small"))
}

pub fn index(partition: PartitionId) -> usize {
    usize::try_from(partition.0).expect("not negative")
}
