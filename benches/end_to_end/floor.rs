//! What the service cannot be faster than: the same consumer reading the same topic, with nothing behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset as ListOffset, TopicPartitionList};
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::record::{SourceRecord, validate};
use tallyguard::log::kafka::{KafkaLog, KafkaSettings, MESSAGE_MAX_BYTES_DEFAULT, WriterLimits};
use tallyguard::log::{Log, LogEvent, Read, RecordBatch};
use tallyguard::reconcile::recount::{self, Recounter, RuleText};

use crate::common::cpu_seconds;
use crate::support::{TestConfig, unique_name};
use crate::throughput::who_and_when;

/// Steady state is what lies between these parts of the records. A JVM compiles for some seconds first; and an engine that
/// says how far it is only once a second, or (Flink's source, when nothing more comes) ten seconds late, is not charged
/// for that at the end.
const STEADY: (f64, f64) = (0.3, 0.9);
const BATCH_MAX: usize = 2_048;

/// What one round of reading everything took.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub records_per_second: f64,
    pub cpu_microseconds_per_record: f64,
}

/// Measures from the first look within the steady state to the first one behind it.
pub struct Stretch {
    total: f64,
    began: Option<Mark>,
    ended: Option<Mark>,
    process: String,
}

/// How far it was, and when, and what processor time it had used.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    cpu: f64,
    done: f64,
}

impl Stretch {
    pub fn new(total: f64, process: String) -> Self {
        Self { total, began: None, ended: None, process }
    }

    /// Takes how many records are through; the result once all are.
    pub fn look(&mut self, done: f64) -> Option<Round> {
        if self.began.is_none() && done >= self.total * STEADY.0 {
            self.began = Some(self.mark(done));
        }
        if self.ended.is_none() && done >= self.total * STEADY.1 {
            self.ended = Some(self.mark(done));
        }
        let (Some(began), Some(ended)) = (self.began, self.ended) else { return None };
        let records = ended.done - began.done;
        (done >= self.total).then(|| Round {
            records_per_second: records / (ended.at - began.at).as_secs_f64(),
            cpu_microseconds_per_record: (ended.cpu - began.cpu) * 1e6 / records,
        })
    }

    fn mark(&self, done: f64) -> Mark {
        Mark { at: Instant::now(), cpu: cpu_seconds(&self.process), done }
    }
}

type Batch = <KafkaLog as Log>::Batch;

/// What is done with what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    Consume,
    /// `domain::record::validate`, on the reading thread.
    Validate,
    /// The same on two threads beside it, each record on one of them: what a service that did nothing but parse would do.
    ValidateBeside,
}

/// Batches under way to the threads beside the reading one.
const UNDER_WAY: usize = 16;

/// Reads the whole topic with the service's own transport, as a group of its own, on one thread.
pub fn read(bootstrap: &str, config: &TestConfig, ends: &[(i32, i64)], floor: Floor) -> Round {
    let done = Arc::new(AtomicUsize::new(0));
    let (to_others, batches) = crossbeam_channel::bounded::<Batch>(UNDER_WAY);
    let others: Vec<_> = (0..if floor == Floor::ValidateBeside { 2 } else { 0 })
        .map(|_| {
            let (batches, done) = (batches.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                for batch in batches {
                    validate_all(&batch);
                    done.fetch_add(batch.len(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    drop(batches);
    let take = |batch: Batch| {
        if floor == Floor::ValidateBeside {
            to_others.send(batch).expect("they take until the end");
            return;
        }
        if floor == Floor::Validate {
            validate_all(&batch);
        }
        done.fetch_add(batch.len(), Ordering::Relaxed);
    };
    let round = read_all_into(bootstrap, config, ends, &done, take);
    drop(to_others);
    for other in others {
        other.join().expect("every record is valid");
    }
    round
}

/// Hands every batch on, and measures by what is `done` with them.
fn read_all_into(
    bootstrap: &str,
    config: &TestConfig,
    ends: &[(i32, i64)],
    done: &AtomicUsize,
    mut take: impl FnMut(Batch),
) -> Round {
    let limits = WriterLimits { record_max: MESSAGE_MAX_BYTES_DEFAULT, batch_max: MESSAGE_MAX_BYTES_DEFAULT };
    let mut log = KafkaLog::join(&settings(bootstrap, config), limits).expect("a consumer");
    await_assignment(&mut log, ends.len());
    let ends: HashMap<PartitionId, i64> = ends.iter().map(|&(partition, end)| (PartitionId(partition), end)).collect();
    for &partition in ends.keys() {
        log.start(partition, Offset(0)).expect("a start");
    }
    let total: i64 = ends.values().sum();
    let mut stretch = Stretch::new(crate::common::count(total), "self".to_owned());
    loop {
        log.poll();
        let mut has_read = false;
        for &partition in ends.keys() {
            while let Read::Records { batch, .. } = log.read(partition, BATCH_MAX) {
                has_read = true;
                take(batch);
            }
        }
        if let Some(round) = stretch.look(crate::common::count(done.load(Ordering::Relaxed))) {
            return round;
        }
        if !has_read {
            log.wait(Duration::from_millis(5));
        }
    }
}

pub fn validate_all(batch: &impl RecordBatch) {
    for index in 0..batch.len() {
        let record: SourceRecord<'_> = batch.record(index);
        assert!(std::hint::black_box(validate(&record, Millis::MINUTE)).is_ok(), "the load is clean");
    }
}

fn await_assignment(log: &mut KafkaLog, partitions: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut assigned = 0;
    while assigned < partitions {
        assert!(Instant::now() < deadline, "no partitions assigned");
        for event in log.poll() {
            match event {
                LogEvent::Assigned(some) => assigned += some.len(),
                LogEvent::Fatal(why) => panic!("the consumer cannot go on: {why}"),
                _ => {}
            }
        }
        log.wait(Duration::from_millis(5));
    }
}

fn settings(bootstrap: &str, config: &TestConfig) -> KafkaSettings {
    let mut base = ClientConfig::new();
    base.set("bootstrap.servers", bootstrap);
    KafkaSettings {
        base,
        topic: config.source_topic.clone(),
        group: unique_name("floor"),
        instance_id: "floor".to_owned(),
        transactional: true,
        transactional_id: unique_name("floor"),
        alerts_topic: config.alert_topic.clone(),
        late_topic: config.late_topic.clone(),
        dead_letter_topic: config.dead_letter_topic.clone(),
        transaction_timeout: Duration::from_secs(15),
    }
}

/// Who must be alerted for, and the start of the window, as an independent recount of the topic finds, with the rule of [`TestConfig::new`].
pub fn recounted_alerts(bootstrap: &str, topic: &str, ends: &[(i32, i64)]) -> Vec<(String, i64)> {
    let parameters = parameters(topic);
    // One partition at a time: the recount remembers everything.
    let each = ends.iter().map(|&(partition, end)| recount_partition(bootstrap, &parameters, partition, end));
    let mut alerts: Vec<_> = each.flatten().collect();
    alerts.sort();
    alerts
}

/// The rule of [`TestConfig::new`], with the default times.
pub fn parameters(topic: &str) -> recount::Parameters {
    let rule = RuleText {
        id: "velocity-1m".to_owned(),
        version: 1,
        window_ms: 60_000,
        window_text: "1m".to_owned(),
        max_transactions: 10,
        severity: "high".to_owned(),
        changes: Vec::new(),
    };
    recount::Parameters {
        source_topic: topic.to_owned(),
        rules: vec![rule],
        out_of_orderness_ms: 60_000,
        max_future_skew_ms: 60_000,
        statistics: false,
        orders: false,
    }
}

fn recount_partition(
    bootstrap: &str,
    parameters: &recount::Parameters,
    partition: i32,
    end: i64,
) -> Vec<(String, i64)> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "recount")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&parameters.source_topic, partition, ListOffset::Offset(0)).expect("a partition");
    client.assign(&list).expect("assigned");
    let mut recounter = Recounter::new(parameters.clone());
    let mut next = 0;
    while next < end {
        let Some(message) = client.poll(Duration::from_secs(30)) else { panic!("the topic cannot be read") };
        let message = message.expect("a record");
        recounter.take(&recount::SourceRecord {
            partition,
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: Vec::new(),
        });
        next = message.offset() + 1;
    }
    recounter.finish().alerts.iter().map(who_and_when).collect()
}
