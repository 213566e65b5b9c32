//! Every kind of call with `unsafe`, against the cluster that librdkafka mocks within the process. `make test` runs these
//! once more under valgrind, which sees what is read after it was freed, freed twice, or never.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Offset as ListOffset, TopicPartitionList};

use super::*;
use crate::clock;

const TOPIC: &CStr = c"transactions";
const TOPIC_NAME: &str = "transactions";
const GROUP: &str = "tallyguard";
const TIMEOUT: Duration = Duration::from_secs(60);
const RECORDS: usize = 500;

type Consuming = Arc<BaseConsumer<Membership>>;

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC_NAME, 1, 1).unwrap();
    cluster
}

fn config(cluster: &MockCluster<'_, DefaultProducerContext>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    config
}

fn consumer(cluster: &MockCluster<'_, DefaultProducerContext>) -> Consuming {
    let mut config = config(cluster);
    config.set("group.id", GROUP).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    Arc::new(config.create_with_context(Membership::default()).unwrap())
}

/// The reference that a queue's callback keeps for ever is no leak that valgrind must tell of.
fn doorbell() -> Arc<Doorbell> {
    static KEPT: Mutex<Vec<Arc<Doorbell>>> = Mutex::new(Vec::new());
    let doorbell = Arc::new(Doorbell::default());
    KEPT.lock().push(Arc::clone(&doorbell));
    doorbell
}

/// Every third record has no key, every fifth no value, every second headers, one of them not UTF-8.
fn fill(cluster: &MockCluster<'_, DefaultProducerContext>) {
    let producer: BaseProducer = config(cluster).create().unwrap();
    for number in 0..RECORDS {
        let (key, value) = (format!("key {number}"), format!("value {number}"));
        let headers = [(b"name".to_vec(), Some(value.clone().into_bytes())), (vec![0xff, 0xfe], None)];
        let record = NativeRecord {
            topic: TOPIC,
            key: (!number.is_multiple_of(3)).then_some(key.as_bytes()),
            value: (!number.is_multiple_of(5)).then_some(value.as_bytes()),
            headers: if number.is_multiple_of(2) { &headers } else { &[] },
        };
        produce(producer.client().native_ptr(), &record).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(TIMEOUT).unwrap();
}

fn read_from_the_start(consumer: &Consuming, doorbell: &Arc<Doorbell>) -> PartitionQueue {
    let queue = PartitionQueue::open(consumer, TOPIC_NAME, 0, doorbell).unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TOPIC_NAME, 0, ListOffset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    queue
}

/// All batches up to the end of the partition.
fn take_all(
    consumer: &Consuming,
    queue: &mut PartitionQueue,
    doorbell: &Doorbell,
    is_behind: bool,
) -> Vec<MessageBatch> {
    let deadline = clock::monotonic_now() + TIMEOUT;
    let mut batches = Vec::new();
    while clock::monotonic_now() < deadline {
        consumer.poll(Duration::ZERO);
        let taken = queue.take(64, is_behind);
        assert_eq!(taken.error, None);
        batches.push(taken.batch);
        if taken.end == Some(offset(RECORDS)) {
            return batches;
        }
        doorbell.wait(Duration::from_millis(5));
    }
    panic!("the end of the partition was not reached");
}

fn offset(number: usize) -> Offset {
    Offset(i64::try_from(number).unwrap())
}

fn check(batch: &MessageBatch, from: usize) -> usize {
    for index in 0..batch.len() {
        let number = from + index;
        let record = batch.record(index);
        let (key, value) = (format!("key {number}"), format!("value {number}"));
        assert_eq!(record.offset, offset(number));
        assert_eq!(record.key, (!number.is_multiple_of(3)).then_some(key.as_bytes()));
        assert_eq!(record.value, (!number.is_multiple_of(5)).then_some(value.as_bytes()));
        let headers = batch.headers(index);
        assert_eq!(headers.len(), if number.is_multiple_of(2) { 2 } else { 0 });
        assert!(headers.iter().all(|(name, value)| (name == b"name") == value.is_some()));
    }
    from + batch.len()
}

#[test]
fn messages_outlive_their_queue_and_the_consumer_and_may_be_freed_by_another_thread() {
    let cluster = cluster();
    fill(&cluster);
    for is_behind in [false, true] {
        let doorbell = doorbell();
        let consumer = consumer(&cluster);
        let mut queue = read_from_the_start(&consumer, &doorbell);
        let batches = take_all(&consumer, &mut queue, &doorbell, is_behind);
        assert_eq!(cached_end(&consumer, TOPIC, 0), Some(offset(RECORDS)));
        drop(queue);
        drop(consumer);
        let checked = std::thread::spawn(move || batches.iter().fold(0, |from, batch| check(batch, from)));
        assert_eq!(checked.join().unwrap(), RECORDS);
    }
}

#[test]
fn an_end_of_partition_that_was_taken_last_at_once_leaves_the_position_wrong_until_a_record_is_taken() {
    let cluster = cluster();
    fill(&cluster);
    let doorbell = doorbell();
    let consumer = consumer(&cluster);
    let mut queue = read_from_the_start(&consumer, &doorbell);
    take_all(&consumer, &mut queue, &doorbell, true);
    let position = || consumer.position().unwrap().elements_for_topic(TOPIC_NAME)[0].offset();
    assert!(queue.is_misplaced());
    assert_eq!(
        position(),
        ListOffset::Offset(offset(RECORDS).0 + 1),
        "librdkafka was mended: take all at once, always"
    );
    assert_eq!(queue.take(64, false).batch.len(), 0);
    assert!(queue.is_misplaced(), "nothing was taken");
    fill(&cluster);
    let deadline = clock::monotonic_now() + TIMEOUT;
    while queue.take(1, false).batch.len() == 0 {
        consumer.poll(Duration::from_millis(5));
        assert!(clock::monotonic_now() < deadline, "nothing more was fetched");
    }
    assert!(!queue.is_misplaced());
    assert_eq!(position(), ListOffset::Offset(offset(RECORDS).0 + 1));
}

#[test]
fn what_is_dropped_from_a_batch_is_freed_and_the_rest_is_not() {
    let cluster = cluster();
    fill(&cluster);
    let doorbell = doorbell();
    let consumer = consumer(&cluster);
    let mut queue = read_from_the_start(&consumer, &doorbell);
    let mut from = 0;
    for mut batch in take_all(&consumer, &mut queue, &doorbell, false) {
        let kept_from = from + batch.len() / 2;
        batch.drop_before(offset(kept_from));
        from = check(&batch, kept_from);
    }
    assert_eq!(from, RECORDS);
}

#[test]
fn offsets_are_committed_and_read_back_with_their_metadata() {
    let cluster = cluster();
    let consumer = consumer(&cluster);
    let mut commits = OffsetCommits::new(&consumer);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TOPIC_NAME, 0, ListOffset::Offset(7)).unwrap();
    assert!(!commits.is_unanswered() && list_metadata(&list) == [b""]);
    commits.send(&list).unwrap();
    let deadline: Instant = clock::monotonic_now() + TIMEOUT;
    let answer = loop {
        consumer.poll(Duration::ZERO);
        match commits.answer(Duration::from_millis(50)) {
            Some(answer) => break answer,
            None => assert!(clock::monotonic_now() < deadline, "the commit was not answered"),
        }
    };
    assert_eq!(answer, Ok(()));
    let mut asked = TopicPartitionList::new();
    asked.add_partition(TOPIC_NAME, 0);
    let found = consumer.committed_offsets(asked, TIMEOUT).unwrap();
    assert_eq!(found.elements()[0].offset(), ListOffset::Offset(7));
    assert_eq!(list_metadata(&found).len(), 1);
    assert_eq!(list_metadata(&TopicPartitionList::new()), Vec::<Vec<u8>>::new());
}

#[test]
fn a_consumer_that_has_not_joined_is_nobody_and_knows_no_end() {
    let cluster = cluster();
    let consumer = consumer(&cluster);
    assert_eq!(member_id(&consumer), None);
    assert!(group_generation(&consumer) < 0);
    assert_eq!(cached_end(&consumer, TOPIC, 0), None);
}

/// The mock cluster does not know these questions: they must end with an error, and leave nothing behind.
#[test]
fn questions_that_are_not_answered_end() {
    let cluster = cluster();
    let consumer = consumer(&cluster);
    assert!(topic_id(&consumer, TOPIC, Duration::from_secs(2)).is_err());
    let mut members = GroupMembers::new(config(&cluster), GROUP).unwrap();
    assert!(members.ask(Duration::from_secs(2)).is_err());
}

#[test]
fn a_record_that_is_refused_is_not_kept() {
    let cluster = cluster();
    let producer: BaseProducer = config(&cluster).set("message.max.bytes", "1000").create().unwrap();
    let value = vec![b'x'; 2_000];
    let headers = [(b"name".to_vec(), Some(b"value".to_vec()))];
    let record = NativeRecord { topic: TOPIC, key: None, value: Some(&value), headers: &headers };
    let refused = produce(producer.client().native_ptr(), &record);
    assert_eq!(refused, Err(rdkafka::types::RDKafkaErrorCode::MessageSizeTooLarge));
}
