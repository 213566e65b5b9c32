//! Questions to the cluster that the rdkafka crate has no form for: a topic's id, and who is a member of a group.

use std::ffi::{CStr, CString, NulError, c_char};
use std::ptr;
use std::slice;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::producer::{BaseProducer, Producer};

use crate::log::kafka::membership::WriterContext;

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
        let question = Question::put(client, kind, milliseconds(timeout), |options, queue| {
            native::rd_kafka_DescribeTopics(client, topics, options, queue);
        });
        let answer = question.answer(timeout, |event| described_id(event));
        native::rd_kafka_TopicCollection_destroy(topics);
        answer.unwrap_or_else(|| Err("no answer in time".to_owned()))
    }
}

/// How long librdkafka itself may go on with a question to a coordinator, milliseconds: the longest it takes.
const COORDINATOR_QUESTION_MS: i32 = 3_600_000;

/// Asks the coordinator of a group who is a member. Its word alone counts: other brokers may be away.
///
/// By a client of its own, which a question that is not answered takes with it. librdkafka (2.12) must not be left with
/// one: when it runs out of time before the coordinator is found, finding it frees the question twice, and the process is
/// aborted; when it does not, it may wait for ever behind a connection that was lost.
pub struct GroupMembers {
    config: ClientConfig,
    group: CString,
    client: Option<BaseProducer<WriterContext>>,
}

impl GroupMembers {
    /// `config` reaches the cluster; nothing is ever written by it.
    ///
    /// # Errors
    /// A group whose name holds a NUL character.
    pub fn new(config: ClientConfig, group: &str) -> Result<Self, NulError> {
        Ok(Self { config, group: CString::new(group)?, client: None })
    }

    /// The members. A group that nobody has joined yet has none.
    ///
    /// # Errors
    /// A text: no answer in time, no coordinator at the moment, or no right to describe the group.
    pub fn ask(&mut self, timeout: Duration) -> Result<Vec<Member>, String> {
        let producer = match self.client.take() {
            Some(producer) => producer,
            None => self.config.create_with_context(WriterContext::default()).map_err(|error| error.to_string())?,
        };
        let client = producer.client().native_ptr();
        let kind = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let mut groups = [self.group.as_ptr()];
        // SAFETY: the client lives until the end of the call, longer than the question; the names are copied, and what is
        // read answers this very call.
        let answer = unsafe {
            let question = Question::put(client, kind, COORDINATOR_QUESTION_MS, |options, queue| {
                native::rd_kafka_DescribeConsumerGroups(client, groups.as_mut_ptr(), groups.len(), options, queue);
            });
            question.answer(timeout, |event| described_members(event))
        };
        let answer = answer.ok_or_else(|| "no answer in time".to_owned())?;
        self.client = Some(producer);
        answer
    }
}

/// A question to the cluster, and the queue on which its answer comes.
struct Question {
    queue: *mut native::rd_kafka_queue_t,
}

impl Question {
    /// # Safety
    /// `client` must be live, and outlive the question; `send` must have the answer put on the queue that it is given.
    unsafe fn put(
        client: *mut native::rd_kafka_t,
        kind: native::rd_kafka_admin_op_t,
        timeout_ms: i32,
        send: impl FnOnce(*const native::rd_kafka_AdminOptions_t, *mut native::rd_kafka_queue_t),
    ) -> Self {
        // SAFETY: by the caller's promise; the options are freed after their last use.
        unsafe {
            let queue = native::rd_kafka_queue_new(client);
            let options = native::rd_kafka_AdminOptions_new(client, kind);
            // Refused only outside 0..3,600,000 ms; the default is then as good.
            native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            send(options, queue);
            native::rd_kafka_AdminOptions_destroy(options);
            Self { queue }
        }
    }

    /// What the answer says, once it is there; `None` when it is not within `timeout`.
    ///
    /// # Safety
    /// `read` must expect an event that answers what was sent.
    unsafe fn answer<T>(
        &self,
        timeout: Duration,
        read: impl FnOnce(*mut native::rd_kafka_event_t) -> Result<T, String>,
    ) -> Option<Result<T, String>> {
        // SAFETY: the queue is owned; the event is read before it is freed.
        unsafe {
            let event = native::rd_kafka_queue_poll(self.queue, milliseconds(timeout));
            if event.is_null() {
                return None;
            }
            let result = match native::rd_kafka_event_error(event) {
                native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => read(event),
                _ => Err(text(native::rd_kafka_event_error_string(event)).unwrap_or_default()),
            };
            native::rd_kafka_event_destroy(event);
            Some(result)
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and not used again; an answer that comes later is freed with it.
        unsafe { native::rd_kafka_queue_destroy(self.queue) }
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
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
