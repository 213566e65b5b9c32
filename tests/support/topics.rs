//! Topics of a real broker as a test sees them: create, fill, read back, look at committed offsets.
//!
//! Every call makes a client of its own, so nothing leaks from one test into another; every failure panics.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::block_on;
use super::process::unique_name;
use super::raw_headers;
use super::wait::wait_until;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A record to be produced. Without a partition the key decides, as in a Java client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestRecord {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Epoch milliseconds; without it the client's clock.
    pub timestamp: Option<i64>,
}

impl TestRecord {
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self { key: Some(key.as_ref().to_vec()), value: Some(value.as_ref().to_vec()), ..Self::default() }
    }

    #[must_use]
    pub fn in_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    #[must_use]
    pub fn at(mut self, timestamp_ms: i64) -> Self {
        self.timestamp = Some(timestamp_ms);
        self
    }

    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), Some(value.as_ref().to_vec())));
        self
    }

    /// A header whose name need not be UTF-8.
    #[must_use]
    pub fn with_raw_header(self, name: &[u8], value: impl AsRef<[u8]>) -> Self {
        self.with_header(&raw_headers::name_text(name), value)
    }
}

/// A record as it was found in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl ReadRecord {
    pub fn key_text(&self) -> String {
        String::from_utf8(self.key.clone().unwrap_or_default()).expect("a key in UTF-8")
    }

    pub fn value_text(&self) -> String {
        String::from_utf8(self.value.clone().unwrap_or_default()).expect("a value in UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default())
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The value of the first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        Some(String::from_utf8(value.clone().unwrap_or_default()).expect("a header in UTF-8"))
    }
}

/// Creates a topic and waits until each of its partitions has a leader.
pub fn create_topic(bootstrap: &str, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    // As many replicas as the broker is configured to make.
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for (key, value) in configs {
        topic = topic.set(key, value);
    }
    let results = block_on(admin(bootstrap).create_topics([&topic], &AdminOptions::new())).expect("create topics");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("cannot create topic {topic}: {code}"));
    }
    wait_for_partitions(bootstrap, name, partitions);
}

/// Raises the number of partitions to `total`.
pub fn add_partitions(bootstrap: &str, name: &str, total: i32) {
    let partitions = NewPartitions::new(name, usize::try_from(total).expect("a number of partitions"));
    let results =
        block_on(admin(bootstrap).create_partitions([&partitions], &AdminOptions::new())).expect("create partitions");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("cannot add partitions to {topic}: {code}"));
    }
    wait_for_partitions(bootstrap, name, total);
}

/// Deletes a topic and waits until the broker has forgotten it.
pub fn delete_topic(bootstrap: &str, name: &str) {
    let results = block_on(admin(bootstrap).delete_topics(&[name], &AdminOptions::new())).expect("delete topics");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("cannot delete topic {topic}: {code}"));
    }
    let client = consumer(bootstrap, "read_committed");
    wait_until(TIMEOUT, &format!("topic {name} is gone"), || partition_ids(&client, name).is_empty());
}

/// Removes the records of a partition before `offset`, as retention does.
pub fn truncate_before(bootstrap: &str, topic: &str, partition: i32, offset: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("a partition");
    let results = block_on(admin(bootstrap).delete_records(&offsets, &AdminOptions::new())).expect("delete records");
    for element in results.elements() {
        element.error().unwrap_or_else(|error| panic!("cannot truncate {topic}/{partition}: {error}"));
    }
}

/// Produces the records and returns when the broker has acknowledged all of them. Records of one partition keep their
/// order.
pub fn produce(bootstrap: &str, topic: &str, records: impl IntoIterator<Item = TestRecord>) {
    let producer = producer(bootstrap, None);
    send_all(&producer, topic, records);
}

/// A producer that is kept, for records that come one after the other while a test does something else.
pub struct Sender(BaseProducer<DeliveryFailures>);

impl Sender {
    pub fn new(bootstrap: &str) -> Self {
        Self(producer(bootstrap, None))
    }

    /// Enqueues a record; waits while the client's queue is full.
    pub fn send(&self, topic: &str, record: &TestRecord) {
        send(&self.0, topic, record);
    }

    /// Serves delivery reports.
    pub fn poll(&self) {
        self.0.poll(Duration::ZERO);
    }

    /// Returns when the broker has acknowledged all records.
    pub fn finish(&self, topic: &str) {
        flush(&self.0, topic);
    }
}

/// Leaves records in the log that a transaction wrote and then took back.
pub fn produce_aborted_transaction(bootstrap: &str, topic: &str, records: impl IntoIterator<Item = TestRecord>) {
    OpenTransaction::begin(bootstrap, topic, records).abort();
}

/// A transaction whose records are in the log and whose outcome is not decided. Until it is, readers of committed
/// records stop in front of it.
pub struct OpenTransaction {
    producer: BaseProducer<DeliveryFailures>,
}

impl OpenTransaction {
    pub fn begin(bootstrap: &str, topic: &str, records: impl IntoIterator<Item = TestRecord>) -> Self {
        let producer = producer(bootstrap, Some(&unique_name("test-transaction")));
        producer.init_transactions(TIMEOUT).expect("init_transactions");
        producer.begin_transaction().expect("begin_transaction");
        send_all(&producer, topic, records);
        Self { producer }
    }

    pub fn commit(self) {
        self.producer.commit_transaction(TIMEOUT).expect("commit_transaction");
    }

    pub fn abort(self) {
        self.producer.abort_transaction(TIMEOUT).expect("abort_transaction");
    }
}

/// All committed records up to the end of the topic as of the call, by partition and offset.
pub fn read_all(bootstrap: &str, topic: &str) -> Vec<ReadRecord> {
    read(bootstrap, topic, "read_committed")
}

/// The same with the records of open and aborted transactions.
pub fn read_all_uncommitted(bootstrap: &str, topic: &str) -> Vec<ReadRecord> {
    read(bootstrap, topic, "read_uncommitted")
}

/// The end offset of each partition: that of the next record, which transaction markers raise too.
pub fn end_offsets(bootstrap: &str, topic: &str) -> Vec<(i32, i64)> {
    let client = consumer(bootstrap, "read_uncommitted");
    let ends = partition_ids(&client, topic).into_iter().map(|partition| {
        let (_, end) = client.fetch_watermarks(topic, partition, TIMEOUT).expect("watermarks");
        (partition, end)
    });
    ends.collect()
}

/// The group's stable committed offsets with their metadata; partitions without one are left out.
pub fn committed_offsets(bootstrap: &str, group: &str, topic: &str) -> Vec<(i32, i64, String)> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let mut asked = TopicPartitionList::new();
    for partition in partition_ids(&client, topic) {
        asked.add_partition(topic, partition);
    }
    let found = client.committed_offsets(asked, TIMEOUT).expect("committed offsets");
    let mut offsets = Vec::new();
    for element in found.elements() {
        element.error().unwrap_or_else(|error| panic!("offset of {topic}/{}: {error}", element.partition()));
        if let Offset::Offset(offset) = element.offset() {
            offsets.push((element.partition(), offset, element.metadata().to_owned()));
        }
    }
    offsets
}

/// Looks at a group's committed offsets again and again with one client.
pub struct CommittedWatch {
    client: BaseConsumer,
    topic: String,
    /// Asked once; a topic that gets more partitions needs a new watch.
    partitions: OnceCell<Vec<i32>>,
}

impl CommittedWatch {
    pub fn new(bootstrap: &str, group: &str, topic: &str) -> Self {
        // Undecided commits are not waited for: under load there is always one.
        let client = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted")
            .create()
            .expect("a consumer");
        Self { client, topic: topic.to_owned(), partitions: OnceCell::new() }
    }

    /// The committed offsets; empty when the broker does not answer.
    pub fn offsets(&self) -> BTreeMap<i32, i64> {
        let mut asked = TopicPartitionList::new();
        for &partition in self.partitions() {
            asked.add_partition(&self.topic, partition);
        }
        let Ok(found) = self.client.committed_offsets(asked, Duration::from_secs(2)) else { return BTreeMap::new() };
        let elements = found.elements();
        let known = elements.iter().filter_map(|element| match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
            _ => None,
        });
        known.collect()
    }

    fn partitions(&self) -> &[i32] {
        if let Some(partitions) = self.partitions.get() {
            return partitions;
        }
        let Ok(metadata) = self.client.fetch_metadata(Some(&self.topic), Duration::from_secs(2)) else { return &[] };
        let found = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
        self.partitions.get_or_init(|| found.collect())
    }
}

/// Deletes a group with all its offsets, as soon as it has no members any more: a static member that was killed counts
/// until its session has timed out.
pub fn delete_group_offsets(bootstrap: &str, group: &str) {
    let admin = admin(bootstrap);
    wait_until(TIMEOUT, &format!("group {group} has no members and is deleted"), || {
        let results = block_on(admin.delete_groups(&[group], &AdminOptions::new())).expect("delete groups");
        results.into_iter().all(|result| match result {
            Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => true,
            Err((_, RDKafkaErrorCode::NonEmptyGroup)) => false,
            Err((group, code)) => panic!("cannot delete group {group}: {code}"),
        })
    });
}

fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", bootstrap).create().expect("an admin client")
}

fn consumer(bootstrap: &str, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "test-reader")
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .expect("a consumer")
}

/// Empty when the topic does not exist.
fn partition_ids(client: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = client.fetch_metadata(Some(topic), TIMEOUT).expect("metadata");
    let topic = metadata.topics().first().expect("the topic that was asked for");
    let mut ids: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
    ids.sort_unstable();
    ids
}

fn wait_for_partitions(bootstrap: &str, topic: &str, count: i32) {
    let client = consumer(bootstrap, "read_committed");
    wait_until(TIMEOUT, &format!("topic {topic} has {count} partitions with leaders"), || {
        let metadata = client.fetch_metadata(Some(topic), TIMEOUT).expect("metadata");
        let partitions = metadata.topics().first().map(|found| found.partitions()).unwrap_or_default();
        i32::try_from(partitions.len()) == Ok(count) && partitions.iter().all(|partition| partition.leader() >= 0)
    });
}

/// What the broker did not take, collected while deliveries are reported.
#[derive(Clone, Default)]
struct DeliveryFailures(Arc<Mutex<Vec<String>>>);

impl ClientContext for DeliveryFailures {}

impl ProducerContext for DeliveryFailures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            self.0.lock().expect("no panic under this lock").push(error.to_string());
        }
    }
}

fn producer(bootstrap: &str, transactional_id: Option<&str>) -> BaseProducer<DeliveryFailures> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "50000")
        .set("message.max.bytes", "20000000")
        .set("queue.buffering.max.messages", "1000000");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id).set("transaction.timeout.ms", "60000");
    }
    config.create_with_context(DeliveryFailures::default()).expect("a producer")
}

fn send_all(producer: &BaseProducer<DeliveryFailures>, topic: &str, records: impl IntoIterator<Item = TestRecord>) {
    for (index, record) in records.into_iter().enumerate() {
        send(producer, topic, &record);
        if index % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    flush(producer, topic);
}

fn flush(producer: &BaseProducer<DeliveryFailures>, topic: &str) {
    producer.flush(TIMEOUT).expect("flush");
    let failures = producer.context().0.lock().expect("no panic under this lock");
    assert!(failures.is_empty(), "{} records were not taken by {topic}, first: {}", failures.len(), failures[0]);
}

fn send(producer: &BaseProducer<DeliveryFailures>, topic: &str, record: &TestRecord) {
    if raw_headers::has_raw_name(record) {
        let client = producer.client().native_ptr();
        raw_headers::produce(client, topic, record).unwrap_or_else(|code| panic!("cannot produce to {topic}: {code}"));
        return;
    }
    let mut outgoing: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
    outgoing.key = record.key.as_deref();
    outgoing.payload = record.value.as_deref();
    outgoing.partition = record.partition;
    outgoing.timestamp = record.timestamp;
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        outgoing.headers = Some(
            record
                .headers
                .iter()
                .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() })),
        );
    }
    loop {
        match producer.send(outgoing) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), rejected)) => {
                outgoing = rejected;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => panic!("cannot produce to {topic}: {error}"),
        }
    }
}

/// A partition is done at its end offset as of the call. That offset may be a transaction marker's, or be followed by
/// none, so besides a record at or past it the end-of-partition event counts as done.
fn read(bootstrap: &str, topic: &str, isolation: &str) -> Vec<ReadRecord> {
    let client = consumer(bootstrap, isolation);
    let partitions = partition_ids(&client, topic);
    assert!(!partitions.is_empty(), "topic {topic} does not exist");
    let mut open: BTreeMap<i32, i64> = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        let (first, end) = client.fetch_watermarks(topic, partition, TIMEOUT).expect("watermarks");
        if first < end {
            open.insert(partition, end);
            assignment.add_partition_offset(topic, partition, Offset::Offset(first)).expect("a partition");
        }
    }
    client.assign(&assignment).expect("assign");

    let mut records = Vec::new();
    let mut progress = Instant::now();
    while !open.is_empty() {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                progress = Instant::now();
                let Some(&end) = open.get(&message.partition()) else { continue };
                if message.offset() < end {
                    records.push(read_record(&message));
                }
                if message.offset() + 1 >= end {
                    open.remove(&message.partition());
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => panic!("cannot read {topic}: {error}"),
            None => assert!(progress.elapsed() < TIMEOUT, "no progress reading {topic}; partitions left: {open:?}"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn read_record(message: &BorrowedMessage<'_>) -> ReadRecord {
    ReadRecord {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: raw_headers::read(message),
    }
}
