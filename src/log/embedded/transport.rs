//! The embedded log as the engine's transport: every partition belongs to this process, and a commit is one write.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::record_batch::{self, Span};
use super::store::EmbeddedStore;
use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::record::SourceRecord;
use crate::log::output_identity::identify;
use crate::log::{Doorbell, Log, LogEvent, PartitionFacts, Read, RecordBatch, RecoveryReader};
use crate::protocol::cycle::{OffsetCommit, Outcome, ReadBack, ReadBackRequest, Step};
use crate::protocol::metadata::{LogIdentity, Metadata};
use crate::protocol::output::{Destination, OutputId, OutputRecord};
use crate::protocol::recovery::GroupBeginning;

/// Bytes of stored batches that one read takes together.
const READ_BYTES: usize = 1 << 20;
/// The clock may have been set back since the last commit: outputs are looked for from this long before it on.
const CLOCK_MARGIN_MS: i64 = 60_000;
/// Outputs that a read-back takes at a time.
const READ_BACK_STEP: i64 = 4_096;

/// Stored batches and the places of the records within them; nothing is copied.
pub struct EmbeddedBatch {
    values: Vec<Box<[u8]>>,
    records: Vec<(usize, Offset, Span)>,
}

impl EmbeddedBatch {
    fn at(&self, index: usize) -> (&[u8], Offset, &Span) {
        let (value, offset, span) = &self.records[index];
        (&self.values[*value], *offset, span)
    }
}

impl RecordBatch for EmbeddedBatch {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn record(&self, index: usize) -> SourceRecord<'_> {
        let (bytes, offset, span) = self.at(index);
        SourceRecord {
            offset,
            timestamp_ms: Some(span.timestamp_ms).filter(|timestamp| *timestamp >= 0),
            key: span.key.clone().map(|range| &bytes[range]),
            value: span.value.clone().map(|range| &bytes[range]),
        }
    }

    fn headers(&self, index: usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let (bytes, _, span) = self.at(index);
        record_batch::headers(&bytes[span.headers.clone()])
    }
}

/// See the module head.
pub struct EmbeddedLog {
    store: Arc<EmbeddedStore>,
    group: String,
    topic: String,
    doorbell: Arc<Doorbell>,
    positions: BTreeMap<PartitionId, Offset>,
    is_assigned: bool,
    said_broken: bool,
    in_transaction: bool,
    /// The running transaction.
    outputs: Vec<Arc<OutputRecord>>,
    offsets: Vec<OffsetCommit>,
}

impl EmbeddedLog {
    /// `topic`: the name under which outputs speak of the source.
    #[must_use]
    pub fn new(store: Arc<EmbeddedStore>, topic: &str, group: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            doorbell: store.doorbell(),
            store,
            group: group.to_owned(),
            positions: BTreeMap::new(),
            is_assigned: false,
            said_broken: false,
            in_transaction: false,
            outputs: Vec::new(),
            offsets: Vec::new(),
        }
    }

    fn commit(&self, outputs: &[Arc<OutputRecord>], offsets: &[OffsetCommit]) -> Outcome {
        match self.store.commit(&self.group, outputs, offsets, clock::wall_clock_ms()) {
            Ok(()) => Outcome::Done,
            Err(why) => Outcome::Doubtful(why),
        }
    }
}

impl Log for EmbeddedLog {
    type Batch = EmbeddedBatch;

    fn poll(&mut self) -> Vec<LogEvent> {
        let mut events = Vec::new();
        if !self.is_assigned {
            self.is_assigned = true;
            events.push(LogEvent::Assigned((0..self.store.partitions()).map(PartitionId).collect()));
        }
        if !self.said_broken
            && let Some(why) = self.store.broken()
        {
            self.said_broken = true;
            events.push(LogEvent::Fatal(format!("the embedded log cannot be written: {why}; a restart is safe")));
        }
        events
    }

    fn start(&mut self, partition: PartitionId, from: Offset) -> Result<(), String> {
        self.positions.insert(partition, from);
        Ok(())
    }

    fn stop(&mut self, partitions: &[PartitionId], _release: bool) {
        for partition in partitions {
            self.positions.remove(partition);
        }
    }

    fn read(&mut self, partition: PartitionId, max: usize) -> Read<EmbeddedBatch> {
        let Some(position) = self.positions.get_mut(&partition) else { return Read::Nothing };
        let (start, end) = self.store.bounds(partition);
        if *position >= end {
            return Read::Nothing;
        }
        if *position < start {
            return Read::Failed(format!("offset {position} is no longer kept; the log begins at {start}"));
        }
        let mut batch = EmbeddedBatch { values: Vec::new(), records: Vec::new() };
        let mut bytes_read = 0;
        let mut damage = None;
        let from = *position;
        let mut expected = from.0;
        let read = self.store.batches(partition, from, |(first, bytes)| {
            let Some(spans) = record_batch::spans(&bytes) else {
                damage = Some(format!("no batch of this version at offset {first}"));
                return false;
            };
            // The first batch may begin before; no other may leave a gap.
            if first > expected {
                damage = Some(format!("the records from offset {expected} on are missing"));
                return false;
            }
            bytes_read += bytes.len();
            expected = first + i64::try_from(spans.len()).unwrap_or(0);
            let numbered = (first..).map(Offset).zip(spans);
            let wanted = numbered.filter(|(offset, _)| (from..end).contains(offset));
            let value = batch.values.len();
            batch.records.extend(wanted.map(|(offset, span)| (value, offset, span)));
            batch.values.push(bytes);
            batch.records.len() < max && bytes_read < READ_BYTES
        });
        if let Some(why) = damage.or(read.err().map(|error| error.to_string())) {
            return Read::Damaged(why);
        }
        // Values hold as many records as were appended together, so a batch may be longer than asked for.
        let Some((_, last, _)) = batch.records.last() else {
            return Read::Damaged(format!("the records from offset {from} on are missing"));
        };
        *position = last.next();
        let end = (*position == end).then_some(end);
        Read::Records { batch, end }
    }

    fn execute(&mut self, step: &Step) -> Outcome {
        match step {
            // One process owns the folder, so there is no predecessor to settle.
            Step::ReplaceWriter | Step::Begin | Step::Abort => {
                self.in_transaction = *step == Step::Begin;
                self.outputs.clear();
                self.offsets.clear();
                Outcome::Done
            }
            Step::Produce(outputs) if self.in_transaction => {
                self.outputs.extend(outputs.iter().cloned());
                Outcome::Done
            }
            Step::Produce(outputs) => self.commit(outputs, &[]),
            Step::CommitOffsets(commits) => self.commit(&[], commits),
            Step::SendOffsets(commits) => {
                self.offsets.extend(commits.iter().cloned());
                Outcome::Done
            }
            Step::Commit => {
                self.in_transaction = false;
                let (outputs, offsets) = (std::mem::take(&mut self.outputs), std::mem::take(&mut self.offsets));
                self.commit(&outputs, &offsets)
            }
            Step::ProbeMembership => Outcome::Membership { replaced: false },
            Step::ReadBack(requests) => match read_back(&self.store, &self.topic, &self.group, requests) {
                Ok(found) => Outcome::ReadBack(found),
                Err(why) => Outcome::Doubtful(why),
            },
        }
    }

    fn end_offset(&self, partition: PartitionId) -> Option<Offset> {
        Some(self.store.bounds(partition).1)
    }

    fn wait(&self, timeout: Duration) {
        self.doorbell.wait(timeout);
    }
}

/// The same, for the recovery worker.
pub struct EmbeddedReader {
    store: Arc<EmbeddedStore>,
    topic: String,
    group: String,
}

impl EmbeddedReader {
    /// `topic`: the name under which outputs speak of the source.
    #[must_use]
    pub fn new(store: Arc<EmbeddedStore>, topic: &str, group: &str) -> Self {
        Self { store, topic: topic.to_owned(), group: group.to_owned() }
    }
}

impl RecoveryReader for EmbeddedReader {
    fn facts(&mut self, partitions: &[PartitionId]) -> Result<Vec<PartitionFacts>, String> {
        let identity = LogIdentity {
            cluster_id: self.store.identity().cluster_id.clone(),
            topic_id: self.store.identity().topic_id.clone(),
            group: self.group.clone(),
        };
        let mut committed = BTreeMap::new();
        for partition in (0..self.store.partitions()).map(PartitionId) {
            let found = self.store.committed(&self.group, partition).map_err(|error| error.to_string())?;
            committed.extend(found.map(|(offset, metadata)| (partition, (offset, Metadata::parse(&metadata)))));
        }
        let group_began =
            committed.values().find_map(|(_, metadata)| metadata.as_ref().ok().cloned()).map(GroupBeginning::of);
        let facts = partitions.iter().map(|&partition| {
            let (log_start, log_end) = self.store.bounds(partition);
            PartitionFacts {
                partition,
                committed: committed.get(&partition).cloned(),
                group_began: group_began.clone(),
                log_start,
                log_end,
                identity: identity.clone(),
                partitions: self.store.partitions(),
            }
        });
        Ok(facts.collect())
    }

    fn read_back(&mut self, requests: &[ReadBackRequest]) -> Result<Vec<ReadBack>, String> {
        read_back(&self.store, &self.topic, &self.group, requests)
    }
}

/// Committed offsets, and the outputs of records at or behind each request's offset: those of other groups included, as
/// in a topic that several groups write to.
fn read_back(
    store: &EmbeddedStore,
    topic: &str,
    group: &str,
    requests: &[ReadBackRequest],
) -> Result<Vec<ReadBack>, String> {
    let Some(since_ms) = requests.iter().map(|request| request.since_ms).min() else { return Ok(Vec::new()) };
    let wanted: HashMap<PartitionId, Offset> =
        requests.iter().filter_map(|request| Some((request.partition, request.outputs_from?))).collect();
    let mut found: HashMap<PartitionId, HashSet<OutputId>> = HashMap::new();
    let topics = [Destination::Alerts, Destination::Late, Destination::DeadLetter];
    for destination in topics.into_iter().filter(|_| !wanted.is_empty()) {
        let mut until = store.output_end(destination);
        while until > 0 {
            let from = (until - READ_BACK_STEP).max(0);
            let records = store.outputs(destination, from, until - from).map_err(|error| error.to_string())?;
            let oldest = records.first().map(|record| record.record.timestamp_ms);
            for record in records {
                let record = record.record;
                let id = identify(destination, topic, record.value.as_deref(), &record.headers);
                if let Some(id) = id
                    && wanted.get(&id.partition).is_some_and(|&from| id.offset >= from)
                {
                    found.entry(id.partition).or_default().insert(id);
                }
            }
            if oldest.is_none_or(|oldest| oldest < since_ms - CLOCK_MARGIN_MS) {
                break;
            }
            until = from;
        }
    }
    let answers = requests.iter().map(|request| {
        Ok(ReadBack {
            partition: request.partition,
            committed: store.committed(group, request.partition).map_err(|error| error.to_string())?,
            outputs: found.remove(&request.partition).unwrap_or_default(),
        })
    });
    answers.collect()
}
