//! Every call into librdkafka that the rdkafka crate has no safe form for. The only module with `unsafe`: records and
//! headers here, questions to the cluster in [`describe`].
//!
//! Why each is sound:
//! - pointers come from librdkafka and are freed exactly once, by the `Drop` of the type that owns them;
//! - every type here that outlives a call holds the client ([`Arc`] of the consumer), so the native handle stays alive;
//! - messages taken from a partition queue belong to the caller, are immutable, and may be read and freed on any thread
//!   (librdkafka's INTRODUCTION, "Thread safety");
//! - callbacks only touch an `Arc` that is never given back.
#![allow(unsafe_code, reason = "the one module that may; its safety argument is above")]

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::slice;
use std::sync::Arc;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::message::BorrowedMessage;

use crate::domain::ids::Offset;
use crate::domain::record::SourceRecord;
use crate::log::kafka::membership::Membership;
use crate::log::{Doorbell, RecordBatch};

mod commit;
mod describe;
#[cfg(test)]
mod tests;

pub use commit::OffsetCommits;
pub use describe::{GroupMembers, topic_id};

unsafe extern "C" fn ring(_client: *mut native::rd_kafka_t, doorbell: *mut c_void) {
    // SAFETY: `PartitionQueue::open` leaked a counted reference for this callback, so the doorbell is never freed.
    unsafe { (*doorbell.cast::<Doorbell>()).ring() }
}

/// The fetch queue of one partition, cut off from the consumer's common queue.
pub struct PartitionQueue {
    queue: *mut native::rd_kafka_queue_t,
    is_misplaced: bool,
    /// Dropped after the queue.
    consumer: Arc<BaseConsumer<Membership>>,
}

// SAFETY: librdkafka queues may be used from any thread; this one is only used through `&mut self`.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Must be called before the partition is assigned: the forwarding is sticky, so no message takes the other way.
    pub fn open(
        consumer: &Arc<BaseConsumer<Membership>>,
        topic: &str,
        partition: i32,
        doorbell: &Arc<Doorbell>,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client handle is valid while `consumer` is borrowed; the returned queue is owned and checked.
        unsafe {
            let queue = native::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition);
            if queue.is_null() {
                return None;
            }
            native::rd_kafka_queue_forward(queue, ptr::null_mut());
            // Leaked on purpose: the callback may run until the client is destroyed.
            let opaque = Arc::into_raw(Arc::clone(doorbell)).cast_mut().cast::<c_void>();
            native::rd_kafka_queue_cb_event_enable(queue, Some(ring), opaque);
            Some(Self { queue, is_misplaced: false, consumer: Arc::clone(consumer) })
        }
    }

    /// Takes what is there, at most `max` messages, without waiting.
    ///
    /// librdkafka's call for batches costs a third of one call for each message, but up to 2.13.1 it takes an
    /// end-of-partition event for a record (`rd_kafka_q_serve_rkmessages`): with such an event last, the client's position
    /// stands behind the record that will come next, until that one is taken. So it is used only when the log is known to
    /// go on (`is_behind`), where such an event is rare, and [`Self::is_misplaced`] tells of it.
    pub fn take(&mut self, max: usize, is_behind: bool) -> TakenMessages {
        let messages = if is_behind { self.take_at_once(max) } else { self.take_one_by_one(max) };
        // Taken by itself, an event leaves the position alone. A single record at once leaves it alone too when the event
        // has brought it there, but for its leader's epoch.
        let ends_with_an_event = messages.last().is_some_and(|&last| !is_record(last));
        let records = messages.iter().filter(|&&message| is_record(message)).count();
        let is_put_right = records > usize::from(is_behind);
        self.is_misplaced = if is_behind && ends_with_an_event { true } else { self.is_misplaced && !is_put_right };
        TakenMessages::sort(messages, &self.consumer)
    }

    /// Whether the client's position may be wrong. It matters to a rebalance alone, which pauses every partition and
    /// resumes it from its position.
    pub fn is_misplaced(&self) -> bool {
        self.is_misplaced
    }

    /// The partition was assigned: the client's position begins anew.
    pub fn assigned(&mut self) {
        self.is_misplaced = false;
    }

    fn take_one_by_one(&mut self, max: usize) -> Vec<*mut native::rd_kafka_message_t> {
        let mut messages = Vec::new();
        while messages.len() < max {
            // SAFETY: the queue is valid; a message that is returned is ours from now on.
            let message = unsafe { native::rd_kafka_consume_queue(self.queue, 0) };
            if message.is_null() {
                break;
            }
            messages.push(message);
        }
        messages
    }

    fn take_at_once(&mut self, max: usize) -> Vec<*mut native::rd_kafka_message_t> {
        let mut messages = vec![ptr::null_mut(); max];
        // SAFETY: the queue is valid, and there is room for `max` messages; those that are returned are ours from now on.
        let count = unsafe { native::rd_kafka_consume_batch_queue(self.queue, 0, messages.as_mut_ptr(), max) };
        messages.truncate(usize::try_from(count).unwrap_or(0));
        messages
    }
}

fn is_record(message: *const native::rd_kafka_message_t) -> bool {
    // SAFETY: called with messages that we own, before they are freed.
    unsafe { (*message).err == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and not used again.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue, None, ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// What a partition queue held, by kind.
pub struct TakenMessages {
    pub batch: MessageBatch,
    /// Where the log ends for a committed reader, markers included.
    pub end: Option<Offset>,
    pub error: Option<String>,
}

impl TakenMessages {
    fn sort(messages: Vec<*mut native::rd_kafka_message_t>, consumer: &Arc<BaseConsumer<Membership>>) -> Self {
        let batch = MessageBatch { messages: Vec::new(), _consumer: Arc::clone(consumer) };
        let mut taken = Self { batch, end: None, error: None };
        taken.batch.messages.reserve(messages.len());
        for message in messages {
            // SAFETY: a valid message that we own; it is either kept by the batch or freed here.
            unsafe {
                match (*message).err {
                    native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        taken.batch.messages.push(message);
                        continue;
                    }
                    native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                        taken.end = Some(Offset((*message).offset));
                    }
                    error => {
                        let text = CStr::from_ptr(native::rd_kafka_err2str(error)).to_string_lossy();
                        taken.error = Some(text.into_owned());
                    }
                }
                native::rd_kafka_message_destroy(message);
            }
        }
        taken
    }
}

/// Messages of one partition, in librdkafka's own buffers.
pub struct MessageBatch {
    messages: Vec<*mut native::rd_kafka_message_t>,
    /// Dropped after the messages: they point into it.
    _consumer: Arc<BaseConsumer<Membership>>,
}

// SAFETY: the messages are owned, immutable, and may be read and freed on any thread.
unsafe impl Send for MessageBatch {}

impl MessageBatch {
    /// Drops the messages before `offset`.
    pub fn drop_before(&mut self, offset: Offset) {
        self.messages.retain(|&message| {
            // SAFETY: a valid message that we own; freed exactly when it is not retained.
            unsafe {
                let keep = (*message).offset >= offset.0;
                if !keep {
                    native::rd_kafka_message_destroy(message);
                }
                keep
            }
        });
    }
}

/// # Safety
/// `data` must be null or point to `length` bytes that live as long as `'a`.
unsafe fn bytes<'a>(data: *const c_void, length: usize) -> Option<&'a [u8]> {
    if data.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    Some(unsafe { slice::from_raw_parts(data.cast::<u8>(), length) })
}

impl RecordBatch for MessageBatch {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn record(&self, index: usize) -> SourceRecord<'_> {
        let message = self.messages[index];
        // SAFETY: a valid message; its key and payload live as long as the batch, which the result borrows.
        unsafe {
            let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let timestamp = native::rd_kafka_message_timestamp(message, &raw mut kind);
            SourceRecord {
                offset: Offset((*message).offset),
                timestamp_ms: (timestamp >= 0).then_some(timestamp),
                key: bytes((*message).key, (*message).key_len),
                value: bytes((*message).payload, (*message).len),
            }
        }
    }

    fn headers(&self, index: usize) -> Headers {
        // SAFETY: a valid message that we own.
        unsafe { headers_of(self.messages[index]) }
    }
}

/// Names and values as bytes: names need not be UTF-8.
type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// # Safety
/// `message` must be a live message.
unsafe fn headers_of(message: *const native::rd_kafka_message_t) -> Headers {
    let mut found = Vec::new();
    // SAFETY: the headers belong to the message, which outlives this call; names are NUL-terminated.
    unsafe {
        let mut headers = ptr::null_mut();
        let result = native::rd_kafka_message_headers(message, &raw mut headers);
        if result != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        while native::rd_kafka_header_get_all(headers, found.len(), &raw mut name, &raw mut value, &raw mut length)
            == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            let value = bytes(value, length).map(<[u8]>::to_vec);
            found.push((CStr::from_ptr(name).to_bytes().to_vec(), value));
        }
    }
    found
}

/// Headers of a message that the rdkafka crate lends; its own accessor panics on names that are not UTF-8.
#[must_use]
pub fn borrowed_headers(message: &BorrowedMessage<'_>) -> Headers {
    // SAFETY: the message is alive while it is borrowed.
    unsafe { headers_of(message.ptr()) }
}

/// The metadata of each entry of a list, in its order; the rdkafka crate's own accessor panics when it is not UTF-8.
#[must_use]
pub fn list_metadata(list: &TopicPartitionList) -> Vec<Vec<u8>> {
    // SAFETY: the list is alive while it is borrowed, and holds `cnt` entries; metadata is `metadata_size` bytes or null.
    unsafe {
        let list = list.ptr();
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let entries = if count == 0 { &[] } else { slice::from_raw_parts((*list).elems, count) };
        entries
            .iter()
            .map(|entry| bytes(entry.metadata, entry.metadata_size).map_or_else(Vec::new, <[u8]>::to_vec))
            .collect()
    }
}

/// The id under which the consumer is a member of its group; `None` before it joined.
pub fn member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<String> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client handle is valid while `consumer` is borrowed; the text is copied, then freed with the
    // allocator that made it.
    unsafe {
        let text = native::rd_kafka_memberid(client);
        if text.is_null() {
            return None;
        }
        let id = CStr::from_ptr(text).to_string_lossy().into_owned();
        native::rd_kafka_mem_free(client, text.cast());
        (!id.is_empty()).then_some(id)
    }
}

impl Drop for MessageBatch {
    fn drop(&mut self) {
        for &message in &self.messages {
            // SAFETY: owned, freed once.
            unsafe { native::rd_kafka_message_destroy(message) }
        }
    }
}

/// A record to produce, every part of it bytes.
pub struct NativeRecord<'a> {
    pub topic: &'a CStr,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(Vec<u8>, Option<Vec<u8>>)],
}

fn pointer(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// Enqueues a record on a producer; librdkafka copies all of it.
///
/// # Errors
/// The code with which librdkafka refused it; nothing is enqueued then.
pub fn produce(
    producer: *mut native::rd_kafka_t,
    record: &NativeRecord<'_>,
) -> Result<(), rdkafka::types::RDKafkaErrorCode> {
    use native::rd_kafka_vtype_t as kind;
    let (value, value_length) = pointer(record.value);
    let (key, key_length) = pointer(record.key);
    // SAFETY: all pointers stay valid during the call, which copies what they point to (MSG_F_COPY); the headers are
    // taken over on success and freed here on failure.
    unsafe {
        let headers = native::rd_kafka_headers_new(record.headers.len());
        for (name, value) in record.headers {
            let (data, length) = pointer(value.as_deref());
            native::rd_kafka_header_add(
                headers,
                name.as_ptr().cast(),
                isize::try_from(name.len()).unwrap_or(0),
                data,
                isize::try_from(length).unwrap_or(0),
            );
        }
        let mut parts: [native::rd_kafka_vu_t; 5] = std::mem::zeroed();
        parts[0].vtype = kind::RD_KAFKA_VTYPE_TOPIC;
        parts[0].u.cstr = record.topic.as_ptr();
        parts[1].vtype = kind::RD_KAFKA_VTYPE_MSGFLAGS;
        parts[1].u.i = native::RD_KAFKA_MSG_F_COPY;
        parts[2].vtype = kind::RD_KAFKA_VTYPE_VALUE;
        parts[2].u.mem.ptr = value;
        parts[2].u.mem.size = value_length;
        parts[3].vtype = kind::RD_KAFKA_VTYPE_KEY;
        parts[3].u.mem.ptr = key;
        parts[3].u.mem.size = key_length;
        parts[4].vtype = kind::RD_KAFKA_VTYPE_HEADERS;
        parts[4].u.headers = headers;
        let error = native::rd_kafka_produceva(producer, parts.as_ptr(), parts.len());
        if error.is_null() {
            return Ok(());
        }
        native::rd_kafka_headers_destroy(headers);
        let code = native::rd_kafka_error_code(error);
        native::rd_kafka_error_destroy(error);
        Err(code.into())
    }
}

/// The generation under which the consumer is a member of its group; negative before it joined or after it left.
pub fn group_generation<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> i32 {
    // SAFETY: the client handle is valid while `consumer` is borrowed; the metadata is owned and freed.
    unsafe {
        let metadata = native::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return -1;
        }
        let generation = native::rd_kafka_consumer_group_metadata_generation_id(metadata);
        native::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// End of a partition as of the last fetch answer: the high watermark, records of open transactions included.
pub fn cached_end<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &CStr, partition: i32) -> Option<Offset> {
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client handle is valid while `consumer` is borrowed; the two integers are ours.
    let result = unsafe {
        native::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    (result == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
}
