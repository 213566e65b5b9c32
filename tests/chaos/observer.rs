//! A reader of committed records that watches the output topics while everything goes wrong: what it has seen once must be
//! there at the end, and nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

/// A record by its place and its value.
pub type Seen = (String, i32, i64, Option<Vec<u8>>);

/// Watches until it is dropped.
pub struct Observer {
    seen: Arc<Mutex<BTreeSet<Seen>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Each of the topics has one partition.
    pub fn start(bootstrap: &str, topics: &[&str]) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "observer")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let mut all = TopicPartitionList::new();
        for topic in topics {
            all.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&all).expect("assign");
        let (seen, ended) = (Arc::<Mutex<BTreeSet<Seen>>>::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (seen, ended) = (Arc::clone(&seen), Arc::clone(&ended));
            move || {
                while !ended.load(Ordering::SeqCst) {
                    // A broker that is away is no news here.
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                        let value = message.payload().map(<[u8]>::to_vec);
                        let record = (message.topic().to_owned(), message.partition(), message.offset(), value);
                        locked(&seen).insert(record);
                    }
                }
            }
        });
        Self { seen, ended, thread: Some(thread) }
    }

    pub fn seen(&self) -> BTreeSet<Seen> {
        locked(&self.seen).clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
