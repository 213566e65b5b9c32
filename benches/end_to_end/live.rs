//! Live load, and somebody who waits for the alerts: a producer thread and a reader thread around a service.
//!
//! Fifty users at a time send twenty transactions each, and each then makes room for another, so that at 2 000 records a
//! second a hundred alerts a second are due, evenly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use tallyguard::clock;

use crate::support::TestConfig;

const USERS_AT_A_TIME: u64 = 50;
const RECORDS_PER_USER: u64 = 20;
/// The producer sends what is due this often.
const TICK: Duration = Duration::from_millis(5);

/// An alert as a committed reader found it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    /// When the service produced it, by its own clock.
    pub produced_ms: f64,
    /// When it came out of the reader's `poll`.
    pub seen_ms: f64,
}

/// Both threads; dropping it stops them.
pub struct Live {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Live {
    /// Begins to produce `rate` records a second and to read the alert topic.
    pub fn start(bootstrap: &str, config: &TestConfig, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let producer = {
            let (bootstrap, topic, stop) = (bootstrap.to_owned(), config.source_topic.clone(), Arc::clone(&stop));
            std::thread::spawn(move || produce(&bootstrap, &topic, rate, &stop))
        };
        let reader = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            let client = reader(bootstrap, &config.alert_topic);
            std::thread::spawn(move || read(&client, &seen, &stop))
        };
        Self { stop, seen, threads: vec![producer, reader] }
    }

    /// The alerts so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64() * 1e3
}

fn produce(bootstrap: &str, topic: &str, rate: u64, stop: &AtomicBool) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .create()
        .expect("a producer");
    let began = Instant::now();
    let mut sent = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let due = u64::try_from(began.elapsed().as_millis()).expect("milliseconds") * rate / 1_000;
        while sent < due {
            let (key, value) = transaction(sent);
            let record = BaseRecord::to(topic).key(&key).payload(&value);
            match producer.send(record) {
                Ok(()) => sent += 1,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => break,
                Err((error, _)) => panic!("cannot produce: {error}"),
            }
        }
        producer.poll(Duration::ZERO);
        sleep(TICK);
    }
    producer.flush(Duration::from_secs(10)).expect("flushed");
}

fn transaction(number: u64) -> (String, String) {
    let (round, slot) = (number / USERS_AT_A_TIME, number % USERS_AT_A_TIME);
    // Each slot changes its user at another time, or all alerts would come at once.
    let generation = (round * USERS_AT_A_TIME + slot * RECORDS_PER_USER) / (USERS_AT_A_TIME * RECORDS_PER_USER);
    let key = format!("u-{slot}-{generation}");
    let event_ms = clock::utc_now().timestamp_millis();
    let value = transaction_text(&key, &number.to_string(), &format!("m-{slot}"), number % 10_000, event_ms);
    (key, value)
}

/// The value of a source record; `id` tells its transaction and its order.
pub fn transaction_text(user: &str, id: &str, merchant: &str, amount_minor: u64, event_ms: i64) -> String {
    format!(
        r#"{{"transaction_id":"t-{id}","order_id":"o-{id}","user_id":"{user}","merchant_id":"{merchant}","amount_minor":{amount_minor},"currency":"EUR","event_time":{event_ms},"channel":"web","status":"authorized"}}"#
    )
}

fn reader(bootstrap: &str, topic: &str) -> BaseConsumer {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "alert-reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "1")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(0)).expect("a partition");
    client.assign(&list).expect("assigned");
    client
}

fn read(client: &BaseConsumer, seen: &Mutex<Vec<Seen>>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let Some(Ok(message)) = client.poll(Duration::from_millis(50)) else { continue };
        let seen_ms = wall_ms();
        let alert: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("an alert");
        let trigger = |field: &str| alert["trigger"][field].as_i64().expect("a position");
        let produced_ms = message.timestamp().to_millis().map_or(0.0, milliseconds);
        let partition = i32::try_from(trigger("partition")).expect("a partition");
        let alert = Seen { partition, offset: trigger("offset"), produced_ms, seen_ms };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(alert);
    }
}

/// When the broker appended each source record, by position; the topic must stamp append time.
pub fn append_times(bootstrap: &str, topic: &str) -> HashMap<(i32, i64), f64> {
    let records = crate::support::topics::read_all(bootstrap, topic);
    let times = records.into_iter().filter_map(|record| {
        let appended = record.timestamp_ms?;
        Some(((record.partition, record.offset), milliseconds(appended)))
    });
    times.collect()
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 have room in 53 bits")]
fn milliseconds(epoch_ms: i64) -> f64 {
    epoch_ms as f64
}
