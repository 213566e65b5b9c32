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

/// Where a load goes.
pub trait Sink: Send {
    /// Takes a record; may wait for whoever is away.
    fn send(&mut self, record: TestRecord);

    /// Called when the next record is not due yet.
    fn idle(&mut self);

    /// Returns when everything is acknowledged.
    fn finish(&mut self);
}

struct KafkaSink {
    sender: Sender,
    topic: String,
}

impl Sink for KafkaSink {
    fn send(&mut self, record: TestRecord) {
        self.sender.send(&self.topic, &record);
    }

    fn idle(&mut self) {
        self.sender.poll();
    }

    fn finish(&mut self) {
        self.sender.finish(&self.topic);
    }
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
        Self::into(KafkaSink { sender: Sender::new(bootstrap), topic: topic.to_owned() }, per_second, records)
    }

    /// The same for anybody who takes records.
    pub fn into(
        mut sink: impl Sink + 'static,
        per_second: u32,
        records: impl Iterator<Item = TestRecord> + Send + 'static,
    ) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || send(&mut sink, per_second, records, &stop, &sent)
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Records given away so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Stops, and returns how many records were acknowledged: all that were sent.
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
    sink: &mut dyn Sink,
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
            sink.idle();
            sleep(early);
        }
        sink.send(record);
        sent.fetch_add(1, Ordering::SeqCst);
    }
    sink.finish();
}
