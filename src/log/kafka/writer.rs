//! The producer of outputs, from its first fencing to its replacement: transactional, or idempotent alone.

use std::ffi::CString;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::Offset as ListOffset;

use crate::clock;
use crate::log::kafka::classify;
use crate::log::kafka::membership::{Membership, WriterContext};
use crate::log::kafka::native::{NativeRecord, group_generation, produce};
use crate::log::kafka::offsets_call::OffsetsCall;
use crate::log::kafka::settings::{KafkaSettings, WriterLimits};
use crate::protocol::cycle::{OffsetCommit, Outcome};
use crate::protocol::output::{Destination, OutputRecord};

/// How long the group's coordinator may take to note offsets. Without one they wait for ever, and nothing else happens.
const OFFSETS_PATIENCE: Duration = Duration::from_secs(5);
/// How much later than its time-out the call may return.
const OFFSETS_GRACE: Duration = Duration::from_secs(1);
/// So many writers may hang at a time; then one is tried a minute, so that an outage without end fills no memory fast.
const LEFT_BEHIND_MAX: usize = 8;
const LEFT_BEHIND_PAUSE: Duration = Duration::from_secs(60);
const LEFT_BEHIND_LOOK: Duration = Duration::from_millis(200);
/// How long one attempt to settle the predecessor may take before the I/O thread looks around again.
const INIT_ATTEMPT: Duration = Duration::from_secs(5);
const POLL_PAUSE: Duration = Duration::from_micros(200);

/// See the module head.
pub struct Writer {
    settings: KafkaSettings,
    limits: WriterLimits,
    topics: [CString; 3],
    producer: Option<OffsetsCall>,
    /// Clients that hang in a call, each with its threads; they are gone when their calls return.
    left_behind: Vec<Weak<BaseProducer<WriterContext>>>,
    /// While there are many of those the next writer waits until then.
    replace_from: Instant,
}

impl Writer {
    /// Does not connect yet.
    ///
    /// # Errors
    /// When a topic name holds a NUL character.
    pub fn new(settings: KafkaSettings, limits: WriterLimits) -> Result<Self, std::ffi::NulError> {
        let topics = [
            CString::new(settings.alerts_topic.as_str())?,
            CString::new(settings.late_topic.as_str())?,
            CString::new(settings.dead_letter_topic.as_str())?,
        ];
        Ok(Self {
            settings,
            limits,
            topics,
            producer: None,
            left_behind: Vec::new(),
            replace_from: clock::monotonic_now(),
        })
    }

    /// Drops the producer and makes a new one. Its `init_transactions` aborts or completes whatever the old one left,
    /// and fences every request of it that is still on its way.
    pub fn replace(&mut self) -> Outcome {
        self.producer = None;
        self.left_behind.retain(|client| client.strong_count() > 0);
        let (hanging, now) = (self.left_behind.len(), clock::monotonic_now());
        if hanging >= LEFT_BEHIND_MAX && now < self.replace_from {
            std::thread::sleep(LEFT_BEHIND_LOOK);
            return Outcome::Doubtful(format!(
                "{hanging} writers wait for the group's coordinator; the next one waits"
            ));
        }
        self.replace_from = now + LEFT_BEHIND_PAUSE;
        let config = self.settings.producer(self.limits);
        let producer: BaseProducer<WriterContext> = match config.create_with_context(WriterContext::default()) {
            Ok(producer) => producer,
            Err(error) => return Outcome::Doubtful(format!("producer: {error}")),
        };
        if self.settings.transactional
            && let Err(error) = producer.init_transactions(INIT_ATTEMPT)
        {
            return match classify::transaction_error(&error) {
                Outcome::Fenced(why) => Outcome::Fenced(why),
                _ => Outcome::Doubtful(format!("init_transactions: {error}")),
            };
        }
        match OffsetsCall::new(producer) {
            Ok(producer) => {
                self.producer = Some(producer);
                Outcome::Done
            }
            Err(error) => Outcome::Doubtful(format!("a thread of the writer: {error}")),
        }
    }

    pub fn begin(&mut self) -> Outcome {
        self.with(|producer, _| {
            producer.context().reset();
            producer
                .producer()
                .begin_transaction()
                .map_or_else(|error| classify::transaction_error(&error), |()| Outcome::Done)
        })
    }

    /// Enqueues the outputs and waits until all of them are acknowledged: a commit that finds some of them on their
    /// way would wait for them in steps of 100 ms.
    pub fn produce(&mut self, outputs: &[Arc<OutputRecord>]) -> Outcome {
        if !self.settings.transactional
            && let Some(producer) = &self.producer
        {
            // A transaction begins with a clean slate; without one each call does.
            producer.producer().context().reset();
        }
        let deadline = clock::monotonic_now() + self.settings.transaction_timeout;
        let topics = self.topics.clone();
        self.with(|writer, _| {
            let producer = writer.producer();
            for output in outputs {
                let topic = match output.destination {
                    Destination::Alerts => &topics[0],
                    Destination::Late => &topics[1],
                    Destination::DeadLetter => &topics[2],
                };
                let record = NativeRecord {
                    topic,
                    key: output.key.as_deref(),
                    value: output.value.as_deref(),
                    headers: &output.headers,
                };
                if let Err(failure) = enqueue(producer, &record, deadline) {
                    return failure;
                }
            }
            drain(producer, deadline)
        })
    }

    /// Adds the consumed offsets to the transaction. The generation is checked just before: the broker accepts the
    /// offsets of somebody who is no member at all, unfenced.
    pub fn send_offsets(&mut self, commits: &[OffsetCommit], consumer: &BaseConsumer<Membership>) -> Outcome {
        let timeout = self.settings.transaction_timeout.min(OFFSETS_PATIENCE);
        let Some(producer) = &mut self.producer else {
            return Outcome::Doubtful("there is no producer".to_owned());
        };
        if group_generation(consumer) < 0 {
            return Outcome::Abortable("not a member of the group at the moment".to_owned());
        }
        let Some(group) = consumer.group_metadata() else {
            return Outcome::Abortable("the group is not known yet".to_owned());
        };
        let offsets = match offset_list(&self.settings.topic, commits) {
            Ok(offsets) => offsets,
            Err(why) => return Outcome::Doubtful(why),
        };
        match producer.send(offsets, group, timeout, OFFSETS_GRACE) {
            Some(sent) => sent.map_or_else(|error| classify::transaction_error(&error), |()| Outcome::Done),
            None => {
                self.left_behind.push(producer.downgrade());
                self.producer = None;
                Outcome::Doubtful("the group's coordinator did not answer; the writer is left behind".to_owned())
            }
        }
    }

    pub fn commit(&mut self) -> Outcome {
        let timeout = self.settings.transaction_timeout;
        let began = clock::monotonic_now();
        let suspicious = self.settings.request_timeout();
        self.with(|writer, _| match writer.producer().commit_transaction(timeout) {
            Ok(()) if began.elapsed() >= suspicious => {
                Outcome::DoneDisturbed("the commit took as long as a request may: it may have been repeated".to_owned())
            }
            Ok(()) => {
                // Errors that arose during the commit wait in the event queue; one poll serves one event.
                for _ in 0..writer.producer().in_flight_count().clamp(1, 64) {
                    writer.producer().poll(Duration::ZERO);
                }
                writer.context().disturbance().map_or(Outcome::Done, Outcome::DoneDisturbed)
            }
            Err(error) => classify::transaction_error(&error),
        })
    }

    pub fn abort(&mut self) -> Outcome {
        let timeout = self.settings.transaction_timeout;
        self.with(|writer, _| {
            let producer = writer.producer();
            producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
            let deadline = clock::monotonic_now() + Duration::from_secs(2);
            while producer.in_flight_count() > 0 && clock::monotonic_now() < deadline {
                producer.poll(Duration::ZERO);
                std::thread::sleep(POLL_PAUSE);
            }
            producer
                .abort_transaction(timeout)
                .map_or_else(|error| Outcome::Doubtful(error.to_string()), |()| Outcome::Done)
        })
    }

    fn with(&mut self, act: impl FnOnce(&Held<'_>, &KafkaSettings) -> Outcome) -> Outcome {
        match &self.producer {
            Some(producer) => act(&Held(producer.producer()), &self.settings),
            None => Outcome::Doubtful("there is no producer".to_owned()),
        }
    }
}

/// Offsets and metadata as the client wants them.
pub fn offset_list(topic: &str, commits: &[OffsetCommit]) -> Result<TopicPartitionList, String> {
    let mut offsets = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let mut element = offsets.add_partition(topic, commit.partition.0);
        let set = element.set_offset(ListOffset::Offset(commit.offset.0));
        set.map_err(|error| format!("offset {} cannot be committed: {error}", commit.offset))?;
        element.set_metadata(&commit.metadata);
    }
    Ok(offsets)
}

struct Held<'a>(&'a BaseProducer<WriterContext>);

impl Held<'_> {
    fn producer(&self) -> &BaseProducer<WriterContext> {
        self.0
    }

    fn context(&self) -> &WriterContext {
        self.0.client().context()
    }
}

/// Enqueues one record; waits while the client's own queue is full.
fn enqueue(
    producer: &BaseProducer<WriterContext>,
    record: &NativeRecord<'_>,
    deadline: Instant,
) -> Result<(), Outcome> {
    loop {
        match produce(producer.client().native_ptr(), record) {
            Ok(()) => return Ok(()),
            Err(rdkafka::types::RDKafkaErrorCode::QueueFull) if clock::monotonic_now() < deadline => {
                producer.poll(Duration::ZERO);
                std::thread::sleep(POLL_PAUSE);
            }
            // librdkafka does not count a refused record as a failure of the transaction: it must be given up here.
            Err(code) => return Err(Outcome::Abortable(format!("produce: {code}"))),
        }
    }
}

/// Serves delivery reports until every record is acknowledged.
fn drain(producer: &BaseProducer<WriterContext>, deadline: Instant) -> Outcome {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::ZERO);
        if producer.in_flight_count() == 0 {
            break;
        }
        if clock::monotonic_now() >= deadline {
            return Outcome::Abortable("the outputs were not acknowledged in time".to_owned());
        }
        std::thread::sleep(POLL_PAUSE);
    }
    producer
        .client()
        .context()
        .delivery_failure()
        .map_or(Outcome::Done, |why| Outcome::Abortable(format!("an output was not delivered: {why}")))
}
