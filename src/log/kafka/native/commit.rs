//! Committing offsets outside a transaction, with an answer: the rdkafka crate's asynchronous commit never tells how it
//! ended, and its synchronous one has no time-out.

use std::slice;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::clock;

/// Commits offsets as the consumer's present member and generation; `meanwhile` is called between looks for the answer.
/// `None`: there was no answer within `timeout`, and the offsets may be committed or not, now or later.
pub fn commit_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
    timeout: Duration,
    mut meanwhile: impl FnMut(),
) -> Option<Result<(), RDKafkaErrorCode>> {
    const LOOK_MS: i32 = 5;
    let client = consumer.client().native_ptr();
    let deadline = clock::monotonic_now() + timeout;
    // SAFETY: the client handle and the list are valid while they are borrowed, and the call copies the list; the queue
    // is freed after its last use, and an answer that comes later is freed with it.
    unsafe {
        let queue = native::rd_kafka_queue_new(client);
        let sent = native::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, std::ptr::null_mut());
        let mut answer = None;
        if sent != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            answer = Some(Err(sent.into()));
        }
        while answer.is_none() && clock::monotonic_now() < deadline {
            let event = native::rd_kafka_queue_poll(queue, LOOK_MS);
            if event.is_null() {
                meanwhile();
                continue;
            }
            if native::rd_kafka_event_type(event) == native::RD_KAFKA_EVENT_OFFSET_COMMIT {
                answer = Some(committed(event));
            }
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        answer
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
