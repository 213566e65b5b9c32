//! What the cluster answers: to a recovery, which waits for whatever is not decided, and to the judges.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::PartitionFacts;
use tallyguard::protocol::cycle::{ReadBack, ReadBackRequest};
use tallyguard::protocol::metadata::{LogIdentity, Metadata};
use tallyguard::protocol::output::{Destination, OutputId};
use tallyguard::protocol::recovery::GroupBeginning;
use tallyguard::reconcile::side_record::SourceRecord;

use super::{Fate, Kafka, Record, SourcePartition, State, index, partition_id};
use crate::chance::Broken;

impl Kafka {
    pub fn identity(&self) -> LogIdentity {
        LogIdentity { cluster_id: "c".to_owned(), topic_id: format!("t{}", self.topic_id), group: "g".to_owned() }
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
            let began = self.committed.values().find_map(|(_, text)| Metadata::parse(text).ok());
            facts.push(PartitionFacts {
                partition,
                committed: committed.map(|(offset, text)| (*offset, Metadata::parse(text))),
                group_began: began.map(GroupBeginning::of),
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
            let committed = self.committed.get(&request.partition).cloned();
            Ok(ReadBack { partition: request.partition, committed, outputs })
        };
        requests.iter().map(read_back).collect()
    }

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
        !open && self.delayed.is_empty() && self.held.is_empty() && self.pending_offsets.is_empty()
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

    /// How many records of an output topic are committed.
    pub fn readable_outputs(&self, destination: Destination) -> usize {
        self.outputs[&destination].iter().filter(|entry| entry.fate == Fate::Committed).count()
    }

    /// Committed records of an output topic, without those whose offsets are still to come.
    pub fn committed_outputs(&self, destination: Destination) -> Vec<SourceRecord> {
        let is_covered = |id: &OutputId| {
            !self.ahead.contains(id) || self.committed.get(&id.partition).is_some_and(|(offset, _)| id.offset < *offset)
        };
        let committed = self.outputs[&destination].iter().filter(|entry| entry.fate == Fate::Committed);
        committed
            .filter(|entry| is_covered(&entry.record.id))
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
        let ends: Vec<i64> = self.source.iter().map(SourcePartition::end).collect();
        let pending = self.outputs.values().flatten().filter(|entry| entry.fate == Fate::Pending);
        format!(
            "writers: {}\n{}\ncommitted {:?} of {ends:?}, {} outputs undecided (epochs {:?})",
            writers.collect::<Vec<_>>().join("; "),
            self.group.describe(),
            self.committed_offsets(),
            pending.clone().count(),
            pending.map(|entry| entry.epoch).collect::<BTreeSet<_>>(),
        )
    }
}
