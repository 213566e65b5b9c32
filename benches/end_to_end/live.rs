//! Live load, and somebody who waits for the alerts: a producer thread and a reader thread around a service.
//!
//! Fifty users at a time send twenty transactions each, and each then makes room for another, so that at 2 000 records a
//! second a hundred alerts a second are due, evenly. What goes beyond that can be sent by others, who break no rule.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use tallyguard::clock;

use crate::common::count;
use crate::common::dice::Dice;
use crate::support::TestConfig;

const USERS_AT_A_TIME: u64 = 50;
const RECORDS_PER_USER: u64 = 20;
/// The producer sends what is due this often.
const TICK: Duration = Duration::from_millis(5);

/// Records that are sent before the clock, and the rate, are looked at again.
const AT_ONCE: u64 = 5_000;
/// With others, the share of those who break the rule is so many records a second.
const BREAKING_RATE: u64 = 2_000;
/// Records on their way to the broker at most, while others send.
const UNDER_WAY: i32 = 200_000;

/// An alert as a committed reader found it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    /// Event time of the record that completed it: the wall clock of the producer, up to 5 ms early.
    pub event_ms: f64,
    /// When the service produced it, by its own clock.
    pub produced_ms: f64,
    /// When it came out of the reader's `poll`.
    pub seen_ms: f64,
}

/// What is sent.
#[derive(Clone)]
pub struct Load {
    /// Records a second; may be changed while it runs.
    pub rate: Arc<AtomicU64>,
    /// How many users, chosen by chance, send what is more than [`BREAKING_RATE`]; 0: those who break the rule send all.
    pub others: u64,
}

impl Load {
    pub fn steady(rate: u64) -> Self {
        Self { rate: Arc::new(AtomicU64::new(rate)), others: 0 }
    }
}

/// Both threads; dropping it stops them.
pub struct Live {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Live {
    /// Begins to produce `rate` records a second and to read the alert topic.
    pub fn start(bootstrap: &str, config: &TestConfig, rate: u64) -> Self {
        Self::start_with(bootstrap, config, Load::steady(rate))
    }

    pub fn start_with(bootstrap: &str, config: &TestConfig, load: Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(AtomicU64::new(0));
        let producer = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let (bootstrap, topic) = (bootstrap.to_owned(), config.source_topic.clone());
            std::thread::spawn(move || Sending::new(&bootstrap, &topic, load).run(&sent, &stop))
        };
        let reader = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            let client = reader(bootstrap, &config.alert_topic);
            std::thread::spawn(move || read(&client, &seen, &stop))
        };
        Self { stop, seen, sent, threads: vec![producer, reader] }
    }

    /// The alerts so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the alerts since the last call, which are forgotten: from when the producer made the record that completed one
    /// until it was read under `read_committed`, milliseconds.
    pub fn take_latencies(&self) -> Vec<f64> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.iter().map(|alert| alert.seen_ms - alert.event_ms).collect()
    }

    /// Records sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
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

/// The producer thread.
struct Sending {
    /// Answers are taken by a thread of its own: one look for each turn would not keep up, and the queue would fill.
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    load: Load,
    dice: Dice,
    /// Records of those who break the rule.
    breaking: u64,
    sent: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Sending {
    fn new(bootstrap: &str, topic: &str, load: Load) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("partitioner", "murmur2_random").set("linger.ms", "0");
        if load.others > 0 {
            config.set("linger.ms", "5").set("compression.type", "lz4");
            config.set("queue.buffering.max.messages", "1000000");
        }
        let producer = config.create().expect("a producer");
        let (key, value) = (Vec::new(), Vec::new());
        Self { producer, topic: topic.to_owned(), load, dice: Dice(1), breaking: 0, sent: 0, key, value }
    }

    fn run(mut self, sent: &AtomicU64, stop: &AtomicBool) {
        let mut last = Instant::now();
        let mut due = 0.0;
        while !stop.load(Ordering::SeqCst) {
            let rate = self.load.rate.load(Ordering::SeqCst);
            let now = Instant::now();
            due += (now - last).as_secs_f64() * count(rate);
            last = now;
            // What the broker could not take is made up for, but not for ever.
            due = due.min(count(rate));
            let event_ms = clock::utc_now().timestamp_millis();
            let mut has_room = true;
            for _ in 0..AT_ONCE {
                has_room = due >= 1.0 && self.send(rate, event_ms);
                if !has_room {
                    break;
                }
                due -= 1.0;
            }
            sent.store(self.sent, Ordering::SeqCst);
            if !has_room {
                sleep(TICK);
            }
        }
        self.producer.flush(Duration::from_secs(30)).expect("flushed");
    }

    /// False when there is no room for a record.
    fn send(&mut self, rate: u64, event_ms: i64) -> bool {
        if self.sent.is_multiple_of(1_000) && self.producer.in_flight_count() > UNDER_WAY {
            return false;
        }
        let is_breaking = self.load.others == 0 || self.sent.is_multiple_of((rate / BREAKING_RATE).max(1));
        self.make(is_breaking, event_ms);
        let record = BaseRecord::to(&self.topic).key(&self.key).payload(&self.value);
        match self.producer.send(record) {
            Ok(()) => {}
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return false,
            Err((error, _)) => panic!("cannot produce: {error}"),
        }
        self.sent += 1;
        self.breaking += u64::from(is_breaking);
        true
    }

    fn make(&mut self, is_breaking: bool, event_ms: i64) {
        self.key.clear();
        let merchant = if is_breaking {
            let (round, slot) = (self.breaking / USERS_AT_A_TIME, self.breaking % USERS_AT_A_TIME);
            // Each slot changes its user at another time, or all alerts would come at once.
            let generation = (round * USERS_AT_A_TIME + slot * RECORDS_PER_USER) / (USERS_AT_A_TIME * RECORDS_PER_USER);
            write!(self.key, "u-{slot}-{generation}").expect("memory");
            slot
        } else {
            let user = self.dice.below(self.load.others);
            write!(self.key, "v-{user}").expect("memory");
            user % 10_000
        };
        let user = std::str::from_utf8(&self.key).expect("ASCII");
        self.value.clear();
        write_transaction(&mut self.value, user, self.sent, format_args!("m-{merchant}"), self.sent % 10_000, event_ms);
    }
}

/// The value of a source record; `id` tells its transaction and its order.
pub fn transaction_text(user: &str, id: &str, merchant: &str, amount_minor: u64, event_ms: i64) -> String {
    let mut value = Vec::new();
    write_transaction(&mut value, user, id, merchant, amount_minor, event_ms);
    String::from_utf8(value).expect("texts make a text")
}

fn write_transaction(
    value: &mut Vec<u8>,
    user: &str,
    id: impl Display,
    merchant: impl Display,
    amount_minor: u64,
    event_ms: i64,
) {
    write!(
        value,
        r#"{{"transaction_id":"t-{id}","order_id":"o-{id}","user_id":"{user}","merchant_id":"{merchant}","amount_minor":{amount_minor},"currency":"EUR","event_time":{event_ms},"channel":"web","status":"authorized"}}"#
    )
    .expect("memory");
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
        let event_ms = event_ms(&alert["trigger"]["event_time"]);
        let alert = Seen { partition, offset: trigger("offset"), event_ms, produced_ms, seen_ms };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(alert);
    }
}

/// The peers do not say it.
fn event_ms(event_time: &serde_json::Value) -> f64 {
    let time = event_time.as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    time.map_or(f64::NAN, |time| milliseconds(time.timestamp_millis()))
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
