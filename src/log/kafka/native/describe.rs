//! Questions to the cluster that the rdkafka crate has no form for: a topic's id, and who is a member of a group.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::slice;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// A member of a consumer group, as its coordinator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Drawn anew by the coordinator whenever a process joins.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
}

/// The id that the cluster gave a topic when it was created.
///
/// # Errors
/// A text: no answer in time, no such topic, or no right to describe it.
pub fn topic_id<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &CStr,
    timeout: Duration,
) -> Result<String, String> {
    let client = consumer.client().native_ptr();
    let mut names = [topic.as_ptr()];
    // SAFETY: the client handle is valid while `consumer` is borrowed; the collection is freed after its last use.
    unsafe {
        let topics = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let kind = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let result = ask(
            client,
            kind,
            timeout,
            |options, queue| native::rd_kafka_DescribeTopics(client, topics, options, queue),
            |event| described_id(event),
        );
        native::rd_kafka_TopicCollection_destroy(topics);
        result
    }
}

/// The members of a group, by the word of its coordinator alone: other brokers may be away. A group that nobody has
/// joined yet has none.
///
/// # Errors
/// A text: no answer in time, no coordinator at the moment, or no right to describe the group.
pub fn group_members<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    timeout: Duration,
) -> Result<Vec<Member>, String> {
    let client = consumer.client().native_ptr();
    let group = CString::new(group).map_err(|error| error.to_string())?;
    let mut groups = [group.as_ptr()];
    // SAFETY: the client handle is valid while `consumer` is borrowed; the names are copied by the call.
    unsafe {
        let kind = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        ask(
            client,
            kind,
            timeout,
            |options, queue| {
                native::rd_kafka_DescribeConsumerGroups(client, groups.as_mut_ptr(), groups.len(), options, queue);
            },
            |event| described_members(event),
        )
    }
}

/// Sends one question and reads its answer.
///
/// # Safety
/// `client` must be live; `send` must put its answer on the queue that it is given; `read` gets a live event.
unsafe fn ask<T>(
    client: *mut native::rd_kafka_t,
    kind: native::rd_kafka_admin_op_t,
    timeout: Duration,
    send: impl FnOnce(*const native::rd_kafka_AdminOptions_t, *mut native::rd_kafka_queue_t),
    read: impl FnOnce(*mut native::rd_kafka_event_t) -> Result<T, String>,
) -> Result<T, String> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every handle made here is freed here, after its last use; answers are read before their event is freed.
    unsafe {
        let queue = native::rd_kafka_queue_new(client);
        let options = native::rd_kafka_AdminOptions_new(client, kind);
        // Refused only outside 0..3,600,000 ms; the default is then as good.
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        send(options, queue);
        let event = native::rd_kafka_queue_poll(queue, timeout_ms);
        let result = if event.is_null() {
            Err("no answer in time".to_owned())
        } else if native::rd_kafka_event_error(event) == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            read(event)
        } else {
            Err(text(native::rd_kafka_event_error_string(event)).unwrap_or_default())
        };
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_queue_destroy(queue);
        result
    }
}

/// # Safety
/// `event` must be a live event that answers `rd_kafka_DescribeTopics`.
unsafe fn described_id(event: *mut native::rd_kafka_event_t) -> Result<String, String> {
    // SAFETY: by the caller's promise; every pointer read belongs to the event and is checked for null.
    unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Err("the topic is not described".to_owned());
        }
        if let Some((_, why)) = failure(native::rd_kafka_TopicDescription_error(*topics)) {
            return Err(why);
        }
        let id = native::rd_kafka_TopicDescription_topic_id(*topics);
        text(native::rd_kafka_Uuid_base64str(id)).ok_or_else(|| "the topic has no id".to_owned())
    }
}

/// # Safety
/// `event` must be a live event that answers `rd_kafka_DescribeConsumerGroups`.
unsafe fn described_members(event: *mut native::rd_kafka_event_t) -> Result<Vec<Member>, String> {
    // SAFETY: by the caller's promise; every pointer read belongs to the event and is checked for null.
    unsafe {
        let result = native::rd_kafka_event_DescribeConsumerGroups_result(event);
        let mut count = 0;
        let groups = native::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        if groups.is_null() || count == 0 {
            return Err("the group is not described".to_owned());
        }
        let group = *slice::from_raw_parts(groups, count).first().ok_or("the group is not described")?;
        match failure(native::rd_kafka_ConsumerGroupDescription_error(group)) {
            None => {}
            Some((native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND, _)) => return Ok(Vec::new()),
            Some((_, why)) => return Err(why),
        }
        let members = 0..native::rd_kafka_ConsumerGroupDescription_member_count(group);
        let members = members.map(|index| {
            let member = native::rd_kafka_ConsumerGroupDescription_member(group, index);
            Member {
                member_id: text(native::rd_kafka_MemberDescription_consumer_id(member)).unwrap_or_default(),
                instance_id: text(native::rd_kafka_MemberDescription_group_instance_id(member)),
            }
        });
        Ok(members.collect())
    }
}

/// # Safety
/// `error` must be null or a live error.
unsafe fn failure(error: *const native::rd_kafka_error_t) -> Option<(native::rd_kafka_resp_err_t, String)> {
    if error.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    unsafe {
        let code = native::rd_kafka_error_code(error);
        let is_none = code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        (!is_none).then(|| (code, text(native::rd_kafka_error_string(error)).unwrap_or_default()))
    }
}

/// # Safety
/// `text` must be null or a NUL-terminated string.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: by the caller's promise; the text is copied.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
