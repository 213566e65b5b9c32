//! `send_offsets_to_transaction` on a thread of its own, because it may never return.
//!
//! Up to 2.14 librdkafka forgets the call's time-out while it waits for the group's coordinator, and looks for another one
//! only when some broker of the client comes or goes (librdkafka issues 5456 and 5511): with the coordinator dead in a
//! cluster that has elected another one, the call hangs until the dead broker is back. A client that hangs is left behind
//! with its thread, which lets go of it whenever the call returns; the next writer fences whatever it may still send.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, Producer};

use crate::log::kafka::membership::WriterContext;

/// A producer, and the thread that makes the call.
pub struct OffsetsCall {
    producer: Arc<BaseProducer<WriterContext>>,
    requests: Option<Sender<Request>>,
    answers: Receiver<KafkaResult<()>>,
    thread: Option<JoinHandle<()>>,
    /// A call has not returned in time.
    hangs: bool,
}

struct Request {
    offsets: TopicPartitionList,
    group: ConsumerGroupMetadata,
    timeout: Duration,
}

impl OffsetsCall {
    /// # Errors
    /// When no thread can be started.
    pub fn new(producer: BaseProducer<WriterContext>) -> std::io::Result<Self> {
        let producer = Arc::new(producer);
        let (requests, asked) = bounded::<Request>(1);
        let (answer, answers) = bounded(1);
        let calling = Arc::clone(&producer);
        let thread = std::thread::Builder::new().name("tallyguard-offs".to_owned()).spawn(move || {
            for Request { offsets, group, timeout } in asked {
                let result = calling.send_offsets_to_transaction(&offsets, &group, timeout);
                if answer.send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { producer, requests: Some(requests), answers, thread: Some(thread), hangs: false })
    }

    pub fn producer(&self) -> &BaseProducer<WriterContext> {
        &self.producer
    }

    /// Tells how long the client is there: when it hangs, until its call returns.
    pub fn downgrade(&self) -> Weak<BaseProducer<WriterContext>> {
        Arc::downgrade(&self.producer)
    }

    /// The answer, or `None` when there is none after `timeout` and `grace`.
    pub fn send(
        &mut self,
        offsets: TopicPartitionList,
        group: ConsumerGroupMetadata,
        timeout: Duration,
        grace: Duration,
    ) -> Option<KafkaResult<()>> {
        let request = Request { offsets, group, timeout };
        let is_asked = self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok());
        let answer =
            if is_asked { self.answers.recv_timeout(timeout + grace) } else { Err(RecvTimeoutError::Disconnected) };
        self.hangs = answer.is_err();
        answer.ok()
    }
}

impl Drop for OffsetsCall {
    /// A producer that does not hang is gone when this returns, so that its successor never meets it.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && !self.hangs
        {
            // It has returned from its last call: it ends at once.
            let _ = thread.join();
        }
    }
}
