//! Committing offsets outside a transaction, with an answer: the rdkafka crate's asynchronous commit never tells how it
//! ended, and its synchronous one has no time-out. One at a time: librdkafka keeps a commit while the coordinator is away
//! and sends it later, with whatever generation it has then, so one that is not answered stays known here.

use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;

use crate::log::kafka::membership::Membership;

/// See the module head.
pub struct OffsetCommits {
    queue: *mut native::rd_kafka_queue_t,
    is_unanswered: bool,
    /// Dropped after the queue.
    consumer: Arc<BaseConsumer<Membership>>,
}

// SAFETY: librdkafka queues may be used from any thread; this one is only used through `&mut self`.
unsafe impl Send for OffsetCommits {}

impl OffsetCommits {
    #[must_use]
    pub fn new(consumer: &Arc<BaseConsumer<Membership>>) -> Self {
        // SAFETY: the client handle is valid while `consumer` is borrowed; the queue is owned from here on.
        let queue = unsafe { native::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self { queue, is_unanswered: false, consumer: Arc::clone(consumer) }
    }

    /// The last commit may have taken effect, may yet, or may never.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// Commits offsets as the consumer's present member and generation. The last commit must be answered.
    ///
    /// # Errors
    /// The code with which librdkafka refused it; nothing is sent then.
    pub fn send(&mut self, offsets: &TopicPartitionList) -> Result<(), RDKafkaErrorCode> {
        let client = self.consumer.client().native_ptr();
        // SAFETY: client, list and queue are valid during the call, which copies the list.
        let sent = unsafe { native::rd_kafka_commit_queue(client, offsets.ptr(), self.queue, None, ptr::null_mut()) };
        if sent != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(sent.into());
        }
        self.is_unanswered = true;
        Ok(())
    }

    /// How the commit that was sent ended; `None` when that is not known within `timeout`.
    pub fn answer(&mut self, timeout: Duration) -> Option<Result<(), RDKafkaErrorCode>> {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is owned, and holds answers to commits alone; the event is freed after its last use.
        let answer = unsafe {
            let event = native::rd_kafka_queue_poll(self.queue, timeout_ms);
            if event.is_null() {
                return None;
            }
            let answer = committed(event);
            native::rd_kafka_event_destroy(event);
            answer
        };
        self.is_unanswered = false;
        Some(answer)
    }
}

impl Drop for OffsetCommits {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and not used again; an answer that comes later is freed with it.
        unsafe { native::rd_kafka_queue_destroy(self.queue) }
    }
}

/// # Safety
/// `event` must be a live event that answers a commit of offsets.
unsafe fn committed(event: *mut native::rd_kafka_event_t) -> Result<(), RDKafkaErrorCode> {
    let none = native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: by the caller's promise; the list belongs to the event, and holds `cnt` entries.
    unsafe {
        let code = native::rd_kafka_event_error(event);
        if code != none {
            return Err(code.into());
        }
        let list = native::rd_kafka_event_topic_partition_list(event);
        if list.is_null() {
            return Ok(());
        }
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let entries = if count == 0 { &[] } else { slice::from_raw_parts((*list).elems, count) };
        entries.iter().find(|entry| entry.err != none).map_or(Ok(()), |entry| Err(entry.err.into()))
    }
}
