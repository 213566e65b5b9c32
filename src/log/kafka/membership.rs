//! The consumer's side of the group: rebalance events are only noted here, and answered by the I/O thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::domain::ids::PartitionId;
use crate::log::LogEvent;
use crate::log::kafka::classify::{is_denied, is_disturbance};
use crate::log::kafka::native::member_id;

/// Collects what librdkafka says during `poll`.
#[derive(Default)]
pub struct Membership {
    events: Mutex<VecDeque<LogEvent>>,
    /// The consumer is being dropped: answer the last revocation on the spot.
    closing: AtomicBool,
}

impl Membership {
    pub fn take_events(&self) -> Vec<LogEvent> {
        self.events.lock().drain(..).collect()
    }

    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn note(&self, event: LogEvent) {
        self.events.lock().push_back(event);
    }
}

/// Turns an error of the client into the event that it means for the engine.
pub fn event_of(error: &KafkaError, reason: &str) -> LogEvent {
    let text = format!("{error}: {reason}");
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::FencedInstanceId) => LogEvent::Replaced,
        Some(code) if is_denied(code) => LogEvent::Denied(text),
        Some(RDKafkaErrorCode::Fatal) => LogEvent::Fatal(text),
        _ => LogEvent::Trouble(text),
    }
}

impl ClientContext for Membership {
    fn error(&self, error: KafkaError, reason: &str) {
        self.note(event_of(&error, reason));
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::SeqCst) {
            let _ = consumer.unassign();
            return;
        }
        let partitions: Vec<_> = list.elements().iter().map(|element| PartitionId(element.partition())).collect();
        let event = match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => LogEvent::Assigned(partitions),
            // A client that gave its session up has no member id any more; its other sign can be cleared by an assignment.
            _ if consumer.assignment_lost() || member_id(consumer).is_none() => LogEvent::Lost(partitions),
            _ => LogEvent::Revoked(partitions),
        };
        self.note(event);
    }
}

/// Passes a log line of librdkafka on. What it reports as an error or as fatal is a warning here: it goes on by itself, or
/// the engine handles it and says what it means.
pub fn log_client(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", "{facility}: {message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{facility}: {message}"),
    }
}

/// The producer's side: counts failed deliveries, and remembers every sign that a request may have been repeated.
#[derive(Default)]
pub struct WriterContext {
    failed: Mutex<Option<String>>,
    disturbed: Mutex<Option<String>>,
}

impl WriterContext {
    /// Forgets what happened before a transaction.
    pub fn reset(&self) {
        *self.failed.lock() = None;
        *self.disturbed.lock() = None;
    }

    pub fn delivery_failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    pub fn disturbance(&self) -> Option<String> {
        self.disturbed.lock().clone()
    }
}

impl ClientContext for WriterContext {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code().is_none_or(is_disturbance) {
            self.disturbed.lock().get_or_insert_with(|| format!("{error}: {reason}"));
        }
        tracing::debug!(target: "librdkafka", "writer: {error}: {reason}");
    }

    /// Requests that time out and connections that close are told here alone: the client repeats the request, and no
    /// error reaches anybody when the repetition succeeds.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if matches!(facility, "REQTMOUT" | "FAIL") {
            self.disturbed.lock().get_or_insert_with(|| format!("{facility}: {message}"));
        }
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::debug!(target: "librdkafka", "writer: {facility}: {message}");
            }
            _ => log_client(level, facility, message),
        }
    }
}

impl rdkafka::producer::ProducerContext for WriterContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failed.lock().get_or_insert_with(|| error.to_string());
        }
    }
}
