//! The generated workload as test records, and a sender that keeps sending it while a test does something to the
//! service, the broker or the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use tallyguard::generate::{GeneratedRecord, Workload, WorkloadOptions};

use super::topics::{Sender, TestRecord};

/// The records of a workload, each stamped with the workload's own clock, so that every run sends the same bytes.
pub fn workload(options: WorkloadOptions) -> impl Iterator<Item = TestRecord> + Send {
    let mut workload = Workload::new(options).expect("valid options");
    let mut record = GeneratedRecord::default();
    std::iter::from_fn(move || {
        let timestamp = workload.clock().0;
        workload.fill(&mut record).then(|| TestRecord {
            partition: None,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.iter().map(|header| (header.name.to_owned(), header.value.clone())).collect(),
            timestamp: Some(timestamp),
        })
    })
}

/// Sends records from a thread of its own until it is told to stop; dropping it stops it too.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins to send `records` at `per_second`. A broker that is away for less than 50 s is waited for.
    pub fn start(
        bootstrap: &str,
        topic: &str,
        per_second: u32,
        records: impl Iterator<Item = TestRecord> + Send + 'static,
    ) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = Sender::new(bootstrap);
        let topic = topic.to_owned();
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || send(&sender, &topic, per_second, records, &stop, &sent)
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Records given to the client so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Stops, and returns how many records the broker has acknowledged: all that were sent.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("finished once").join().expect("the load was sent");
        self.sent()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A test that fails for another reason says that reason; a failed sender says its own by itself.
            let _ = thread.join();
        }
    }
}

fn send(
    sender: &Sender,
    topic: &str,
    per_second: u32,
    records: impl Iterator<Item = TestRecord>,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let started = Instant::now();
    for (number, record) in (0_u64..).zip(records) {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let due = started + Duration::from_micros(number * 1_000_000 / u64::from(per_second));
        if let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| early.as_millis() > 2) {
            sender.poll();
            sleep(early);
        }
        sender.send(topic, &record);
        sent.fetch_add(1, Ordering::SeqCst);
    }
    sender.finish(topic);
}
