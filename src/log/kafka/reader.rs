//! Reads positions and outputs back, on clients of its own, off the I/O thread.
//!
//! Offsets are fetched as stable: the broker answers only when no undecided transaction touches them, so a predecessor
//! with another id is waited for. Outputs are read under read_committed up to the end of the log as of the call; an
//! undecided transaction of anybody holds that end back, so it is waited for too.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::Offset as ListOffset;

use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::log::kafka::membership::Membership;
use crate::log::kafka::native::{borrowed_headers, list_metadata, topic_id};
use crate::log::kafka::settings::KafkaSettings;
use crate::log::output_identity::identify;
use crate::log::{PartitionFacts, RecoveryReader};
use crate::protocol::cycle::{ReadBack, ReadBackRequest};
use crate::protocol::metadata::{LogIdentity, Metadata, MetadataError};
use crate::protocol::output::{Destination, OutputId};
use crate::protocol::recovery::GroupBeginning;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Clocks of two instances may differ: outputs are looked for from this long before the last commit on.
const CLOCK_MARGIN_MS: i64 = 60_000;
/// Whatever the clocks say, this many records at the end of each output partition are always read.
const TAIL_RECORDS: i64 = 2_000;

type Client = BaseConsumer<Membership>;

/// See the module head.
pub struct KafkaReader {
    settings: KafkaSettings,
    client: Option<Client>,
    /// Same as the client, but it sees every record: tells where the log ends, undecided transactions included.
    uncommitted: Option<Client>,
}

impl KafkaReader {
    /// Does not connect yet.
    #[must_use]
    pub fn new(settings: KafkaSettings) -> Self {
        Self { settings, client: None, uncommitted: None }
    }

    /// Looks whether Kafka answers and all topics exist. Returns the ids of the cluster and of the source topic.
    ///
    /// # Errors
    /// A text that says what is missing.
    pub fn check_topics(&mut self, timeout: Duration) -> Result<(String, String), String> {
        let settings = self.settings.clone();
        let (client, _) = self.clients()?;
        serve(client);
        for topic in [&settings.topic, &settings.alerts_topic, &settings.late_topic, &settings.dead_letter_topic] {
            let metadata = client.fetch_metadata(Some(topic), timeout).map_err(|error| error.to_string())?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            match found.map(|found| (found.error(), found.partitions().len())) {
                Some((None, count)) if count > 0 => {}
                Some((Some(error), _)) => {
                    let code: rdkafka::types::RDKafkaErrorCode = error.into();
                    return Err(format!("topic {topic}: {code}"));
                }
                _ => return Err(format!("topic {topic} does not exist")),
            }
        }
        let topic = CString::new(settings.topic.as_str()).map_err(|error| error.to_string())?;
        let cluster = client.client().fetch_cluster_id(timeout).ok_or("the cluster gave no id in time")?;
        let id = topic_id(client, &topic, timeout).map_err(|error| format!("topic id: {error}"))?;
        Ok((cluster, id))
    }

    fn connect(&mut self) -> Result<(), KafkaError> {
        if self.client.is_none() {
            self.client = Some(self.settings.reader().create_with_context(Membership::default())?);
        }
        if self.uncommitted.is_none() {
            let mut config = self.settings.reader();
            config.set("isolation.level", "read_uncommitted");
            self.uncommitted = Some(config.create_with_context(Membership::default())?);
        }
        Ok(())
    }

    fn clients(&mut self) -> Result<(&Client, &Client), String> {
        self.connect().map_err(|error| error.to_string())?;
        match (&self.client, &self.uncommitted) {
            (Some(client), Some(uncommitted)) => Ok((client, uncommitted)),
            _ => Err("no client".to_owned()),
        }
    }
}

impl RecoveryReader for KafkaReader {
    fn facts(&mut self, partitions: &[PartitionId]) -> Result<Vec<PartitionFacts>, String> {
        let settings = self.settings.clone();
        let (client, _) = self.clients()?;
        serve(client);
        let topic = CString::new(settings.topic.as_str()).map_err(|error| error.to_string())?;
        let identity = LogIdentity {
            cluster_id: client.client().fetch_cluster_id(CALL_TIMEOUT).ok_or("the cluster gave no id in time")?,
            topic_id: topic_id(client, &topic, CALL_TIMEOUT).map_err(|error| format!("topic id: {error}"))?,
            group: settings.group.clone(),
        };
        let count = partition_count(client, &settings.topic)?;
        let committed = committed_offsets(client, &settings.topic, partitions.iter().map(|partition| partition.0))?;
        let began = |committed: &Committed| {
            let mut known = committed.values().filter_map(|(_, text)| Metadata::parse(text.as_ref().ok()?).ok());
            known.next().map(GroupBeginning::of)
        };
        let mut group_began = began(&committed);
        if group_began.is_none() {
            // Only when none of ours says it: others may wait for somebody else's undecided transaction.
            group_began = began(&committed_offsets(client, &settings.topic, 0..count)?);
        }
        let mut failure = None;
        let facts = partitions.iter().filter_map(|&partition| {
            let (start, end) = match client.fetch_watermarks(&settings.topic, partition.0, CALL_TIMEOUT) {
                Ok(bounds) => bounds,
                Err(error) => {
                    failure.get_or_insert_with(|| format!("bounds of partition {partition}: {error}"));
                    return None;
                }
            };
            Some(PartitionFacts {
                partition,
                committed: committed
                    .get(&partition)
                    .cloned()
                    .map(|(offset, text)| (offset, text.and_then(|text| Metadata::parse(&text)))),
                group_began: group_began.clone(),
                log_start: Offset(start),
                log_end: Offset(end),
                identity: identity.clone(),
                partitions: count,
            })
        });
        let facts: Vec<_> = facts.collect();
        match failure {
            Some(why) if facts.is_empty() => Err(why),
            Some(why) => {
                tracing::debug!("{why}; the others go on");
                Ok(facts)
            }
            None => Ok(facts),
        }
    }

    fn read_back(&mut self, requests: &[ReadBackRequest]) -> Result<Vec<ReadBack>, String> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let settings = self.settings.clone();
        let (client, uncommitted) = self.clients()?;
        serve(client);
        serve(uncommitted);
        let wanted: HashMap<PartitionId, Offset> =
            requests.iter().filter_map(|request| Some((request.partition, request.outputs_from?))).collect();
        let since_ms = requests.iter().map(|request| request.since_ms).min().unwrap_or(0) - CLOCK_MARGIN_MS;
        let committed = committed_offsets(client, &settings.topic, requests.iter().map(|request| request.partition.0))?;
        let mut found: HashMap<PartitionId, HashSet<OutputId>> = HashMap::new();
        let topics = [
            (&settings.alerts_topic, Destination::Alerts),
            (&settings.late_topic, Destination::Late),
            (&settings.dead_letter_topic, Destination::DeadLetter),
        ];
        for (topic, destination) in topics.into_iter().filter(|_| !wanted.is_empty()) {
            scan(client, uncommitted, topic, since_ms, |message| {
                // An alert names its cause in its body.
                let is_alert = destination == Destination::Alerts;
                let headers = if is_alert { Vec::new() } else { borrowed_headers(message) };
                let id = identify(destination, &settings.topic, message.payload(), &headers)?;
                if wanted.get(&id.partition).is_some_and(|&from| id.offset >= from) {
                    found.entry(id.partition).or_default().insert(id);
                }
                Some(())
            })?;
        }
        let read_back = requests.iter().map(|request| ReadBack {
            partition: request.partition,
            committed: committed
                .get(&request.partition)
                .cloned()
                .map(|(offset, text)| (offset, text.unwrap_or_default())),
            outputs: found.remove(&request.partition).unwrap_or_default(),
        });
        Ok(read_back.collect())
    }
}

/// Serves the client's own events, so that they do not pile up.
fn serve(client: &Client) {
    while client.poll(Duration::ZERO).is_some() {}
    client.context().take_events();
}

pub(super) fn partition_count(client: &Client, topic: &str) -> Result<i32, String> {
    let metadata = client.fetch_metadata(Some(topic), CALL_TIMEOUT).map_err(|error| error.to_string())?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let count = found.map_or(0, |found| found.partitions().len());
    if count == 0 {
        return Err(format!("topic {topic} does not exist"));
    }
    i32::try_from(count).map_err(|error| error.to_string())
}

/// With the text of the metadata, if it is one.
type Committed = HashMap<PartitionId, (Offset, Result<String, MetadataError>)>;

fn committed_offsets(
    client: &Client,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
) -> Result<Committed, String> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, partition);
    }
    let list = client.committed_offsets(list, CALL_TIMEOUT).map_err(|error| format!("committed offsets: {error}"))?;
    let mut committed = Committed::new();
    for (element, metadata) in list.elements().iter().zip(list_metadata(&list)) {
        element.error().map_err(|error| format!("committed offset of partition {}: {error}", element.partition()))?;
        if let ListOffset::Offset(offset) = element.offset() {
            let text = String::from_utf8(metadata).map_err(|_| MetadataError::Unreadable("not UTF-8".to_owned()));
            committed.insert(PartitionId(element.partition()), (Offset(offset), text));
        }
    }
    Ok(committed)
}

/// Calls `visit` with every committed record of a topic from `since_ms` on, up to its end as of now.
fn scan(
    client: &Client,
    uncommitted: &Client,
    topic: &str,
    since_ms: i64,
    mut visit: impl FnMut(&BorrowedMessage<'_>) -> Option<()>,
) -> Result<(), String> {
    // Both learn who leads the partitions now: a client that is seldom used asks a leader of long ago, and if that broker
    // is dead it never learns of another.
    partition_count(uncommitted, topic)?;
    let count = partition_count(client, topic)?;
    // Asked without regard to transactions: a reader of committed records is told of no time behind an open one.
    let starts = starts(uncommitted, topic, count, since_ms)?;
    let mut list = TopicPartitionList::new();
    let mut waiting = HashSet::new();
    for partition in 0..count {
        let bounds = uncommitted.fetch_watermarks(topic, partition, CALL_TIMEOUT);
        let (low, end) = bounds.map_err(|error| format!("bounds of {topic}-{partition}: {error}"))?;
        await_decided(client, topic, partition, end)?;
        let by_time = starts.get(&partition).copied().unwrap_or(end);
        let start = by_time.min(end - TAIL_RECORDS).max(low);
        if start < end {
            list.add_partition_offset(topic, partition, ListOffset::Offset(start))
                .map_err(|error| error.to_string())?;
            waiting.insert(partition);
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    client.assign(&list).map_err(|error| error.to_string())?;
    let result = drain(client, &mut waiting, &mut visit);
    let unassigned = client.unassign().map_err(|error| error.to_string());
    result.and(unassigned)
}

fn drain(
    client: &Client,
    waiting: &mut HashSet<i32>,
    visit: &mut impl FnMut(&BorrowedMessage<'_>) -> Option<()>,
) -> Result<(), String> {
    let mut quiet_since = clock::monotonic_now();
    while !waiting.is_empty() {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                visit(&message);
                quiet_since = clock::monotonic_now();
            }
            // Every end that was asked for is decided, so the first end of partition lies at or behind it.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                waiting.remove(&partition);
            }
            Some(Err(error)) => tracing::debug!("reading outputs back: {error}"),
            None if quiet_since.elapsed() > CALL_TIMEOUT * 2 => {
                return Err("the outputs could not be read back in time".to_owned());
            }
            None => {}
        }
    }
    Ok(())
}

/// Waits until no undecided transaction is left before `end`.
fn await_decided(client: &Client, topic: &str, partition: i32, end: i64) -> Result<(), String> {
    let deadline: Instant = clock::monotonic_now() + CALL_TIMEOUT;
    loop {
        let bounds = client.fetch_watermarks(topic, partition, CALL_TIMEOUT);
        let (_, stable) = bounds.map_err(|error| format!("stable end of {topic}-{partition}: {error}"))?;
        if stable >= end {
            return Ok(());
        }
        if clock::monotonic_now() >= deadline {
            return Err(format!("{topic}-{partition} is held back by an undecided transaction at offset {stable}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Offset of the first record of each partition that is not older than `since_ms`.
fn starts(client: &Client, topic: &str, count: i32, since_ms: i64) -> Result<HashMap<i32, i64>, String> {
    let mut list = TopicPartitionList::new();
    for partition in 0..count {
        list.add_partition_offset(topic, partition, ListOffset::Offset(since_ms.max(0)))
            .map_err(|error| error.to_string())?;
    }
    let found = client.offsets_for_times(list, CALL_TIMEOUT).map_err(|error| format!("offsets for times: {error}"))?;
    let elements = found.elements();
    let known = elements.iter().filter_map(|element| match element.offset() {
        ListOffset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    Ok(known.collect())
}
