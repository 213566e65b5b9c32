//! Records into the source topic.
//!
//! Every record is acknowledged by all in-sync replicas, or the run fails: an idempotent producer, whose delivery
//! reports are counted. Records go by the murmur2 hash of their key, as those of Java producers do, so that both kinds of
//! producer agree on a user's partition; one without a key by that of the key it was meant to have, so that a seed gives
//! the same topic each time. The record's timestamp is the time of sending, never the event time: broker-side
//! retention must not take old event times for old records.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::{Sent, Sink};
use crate::cli::exit::Exit;
use crate::clock::monotonic_now;
use crate::config::Settings;
use crate::config::client::client_config;
use crate::generate::GeneratedRecord;
use crate::log::partition_of;

/// Without these the load would not be what it claims.
const REQUIRED: [(&str, &str); 3] =
    [("enable.idempotence", "true"), ("partitioner", "murmur2_random"), ("message.timeout.ms", "60000")];
/// Big batches; the operator's own properties win over these.
const TUNING: [(&str, &str); 6] = [
    ("compression.type", "lz4"),
    ("linger.ms", "20"),
    ("batch.size", "500000"),
    ("batch.num.messages", "50000"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "262144"),
];
const ROUND: Duration = Duration::from_secs(1);
/// How long a stopped run waits for the acknowledgements of what it has sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts delivery reports. It is filled by the producer's own thread.
#[derive(Default)]
struct Deliveries {
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: OnceLock<KafkaError>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.first_failure.get_or_init(|| error.clone());
            }
        }
    }
}

pub(super) struct KafkaSink {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    partitions: i32,
}

impl KafkaSink {
    /// Waits for `kafka.startup_timeout` until the brokers answer and the source topic exists. A failure that has an
    /// exit code is logged here.
    pub(super) fn connect(settings: &Settings, stop: &AtomicBool) -> anyhow::Result<Result<Self, Exit>> {
        let topic = settings.source.topic.clone();
        let producer = producer_config(client_config(settings))
            .create_with_context(Deliveries::default())
            .context("cannot create a Kafka producer")?;
        let mut sink = Self { producer, topic, partitions: 0 };
        let started = monotonic_now();
        loop {
            let error = match sink.find_topic() {
                Ok(partitions) => {
                    sink.partitions = partitions;
                    return Ok(Ok(sink));
                }
                Err(error) => error,
            };
            if stop.load(Ordering::Relaxed) {
                return Ok(Err(Exit::Done));
            }
            if started.elapsed() >= settings.kafka.startup_timeout {
                tracing::error!("{}, after {:?}: {error:#}", settings.kafka.brokers, settings.kafka.startup_timeout);
                return Ok(Err(Exit::KafkaUnreachable));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn find_topic(&self) -> anyhow::Result<i32> {
        // All topics are asked for: asking for one by name would create it where the broker creates topics by itself.
        let metadata = self.producer.client().fetch_metadata(None, ROUND).context("no answer from Kafka")?;
        match metadata.topics().iter().find(|topic| topic.name() == self.topic) {
            Some(topic) if !topic.partitions().is_empty() => Ok(i32::try_from(topic.partitions().len())?),
            _ => bail!("the source topic {} does not exist; `tallyguard topics create` creates it", self.topic),
        }
    }

    fn deliveries(&self) -> &Deliveries {
        self.producer.context()
    }

    fn check_deliveries(&self) -> anyhow::Result<()> {
        let failed = self.deliveries().failed.load(Ordering::Relaxed);
        match self.deliveries().first_failure.get() {
            Some(error) => bail!("{failed} records could not be delivered to {}; the first: {error}", self.topic),
            None => Ok(()),
        }
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, record: &GeneratedRecord, stop: &AtomicBool) -> anyhow::Result<Sent> {
        self.check_deliveries()?;
        let mut message: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.headers = headers(record);
        message.partition = record.meant_key.as_deref().map(|key| partition_of(key, self.partitions));
        let size = message.key.map_or(0, <[u8]>::len) + message.payload.map_or(0, <[u8]>::len);
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(Sent::Taken(size)),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(Sent::Closed);
                    }
                    self.check_deliveries()?;
                    message = returned;
                    thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error).with_context(|| format!("cannot produce to {}", self.topic)),
            }
        }
    }

    fn idle(&mut self) -> anyhow::Result<()> {
        self.check_deliveries()
    }

    fn finish(&mut self, stop: &AtomicBool) -> anyhow::Result<u64> {
        let mut stopped_at = None;
        // Each record is acknowledged or fails within its time-out, so this ends.
        while self.producer.flush(ROUND).is_err() {
            if stop.load(Ordering::Relaxed) {
                let stopped_at = *stopped_at.get_or_insert_with(monotonic_now);
                if stopped_at.elapsed() > STOP_TIMEOUT {
                    bail!("{} records are sent but not acknowledged", self.producer.in_flight_count());
                }
            }
        }
        self.check_deliveries()?;
        Ok(self.deliveries().delivered.load(Ordering::Relaxed))
    }
}

fn producer_config(mut config: ClientConfig) -> ClientConfig {
    for (name, value) in TUNING {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    for (name, value) in REQUIRED {
        config.set(name, value);
    }
    config
}

fn headers(record: &GeneratedRecord) -> Option<OwnedHeaders> {
    if record.headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(record.headers.len());
    Some(
        record
            .headers
            .iter()
            .fold(empty, |headers, header| headers.insert(Header { key: header.name, value: header.value.as_ref() })),
    )
}
