//! Stand-ins for the parts of the engine that the pages ask, each telling what it was asked for.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::lookup::OpenCount;
use tallyguard::domain::time::{WindowEnd, WindowStart};
use tallyguard::http::{Answering, Checkpoints, NotBegun, Statistics, UserInPartition, Users};
use tallyguard::log::{AlertFeed, AlertFeeds, CommittedAlert, Ingest, IngestError, NewRecord, Position, partition_of};
use tallyguard::state::CheckpointInfo;
use tallyguard::stats::OrderStatsRow;

/// A log in memory of two partitions, which takes records of up to 2,000 bytes.
#[derive(Default)]
pub struct MemoryLog {
    pub partitions: Mutex<[Vec<(Option<Vec<u8>>, Vec<u8>)>; 2]>,
    pub is_broken: AtomicBool,
    /// While it is held, appends wait.
    pub gate: Mutex<()>,
    pub under_way: AtomicUsize,
}

pub const RECORD_BYTES_MAX: usize = 2_000;

impl Ingest for MemoryLog {
    fn append(&self, records: &[NewRecord<'_>]) -> Result<Vec<Position>, IngestError> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.lock();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(IngestError::Failed("the disk is full".to_owned()));
        }
        let size = |record: &NewRecord<'_>| record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        if let Some(size) = records.iter().map(size).find(|size| *size > RECORD_BYTES_MAX) {
            return Err(IngestError::TooLarge { size, max: RECORD_BYTES_MAX });
        }
        let mut partitions = self.partitions.lock();
        let positions = records.iter().map(|record| {
            let value = record.value.unwrap_or_default();
            let partition = partition_of(record.key.unwrap_or(value), 2);
            let log = &mut partitions[usize::try_from(partition).expect("a partition")];
            log.push((record.key.map(<[u8]>::to_vec), value.to_vec()));
            Position {
                partition: PartitionId(partition),
                offset: Offset(i64::try_from(log.len()).expect("a length") - 1),
            }
        });
        Ok(positions.collect())
    }
}

impl MemoryLog {
    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.partitions.lock().iter().map(Vec::len).sum()
    }
}

/// An alert topic in memory, with any number of feeds.
#[derive(Default)]
pub struct MemoryAlerts {
    alerts: Mutex<Vec<CommittedAlert>>,
    came: Condvar,
    pub opened: AtomicUsize,
    pub failure: Mutex<Option<String>>,
}

impl MemoryAlerts {
    /// Commits an alert of that user to a partition.
    pub fn commit(&self, partition: i32, user: &str) -> (i32, i64) {
        self.commit_value(partition, serde_json::json!({"user_id": user, "rule_id": "velocity-1m"}).to_string())
    }

    pub fn commit_value(&self, partition: i32, value: impl Into<Vec<u8>>) -> (i32, i64) {
        let mut alerts = self.alerts.lock();
        let number = i64::try_from(alerts.len()).expect("a count");
        // Every second offset, as if a marker lay between.
        let (offset, timestamp_ms) = (number * 2, 1_763_700_000_000 + number);
        alerts.push(CommittedAlert { partition, offset, timestamp_ms, value: value.into() });
        self.came.notify_all();
        (partition, offset)
    }
}

pub struct Alerts(pub Arc<MemoryAlerts>);

struct Feed {
    alerts: Arc<MemoryAlerts>,
    backlog: VecDeque<CommittedAlert>,
    next: usize,
}

impl AlertFeeds for Alerts {
    fn open(&self, last: Option<usize>) -> Result<Box<dyn AlertFeed>, String> {
        if let Some(why) = self.0.failure.lock().clone() {
            return Err(why);
        }
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        let alerts = self.0.alerts.lock();
        // One partition after the other, as a real feed gives them.
        let mut backlog = VecDeque::new();
        for partition in 0..4 {
            let mut of_partition: Vec<_> =
                alerts.iter().filter(|alert| alert.partition == partition).cloned().collect();
            of_partition.drain(..of_partition.len().saturating_sub(last.unwrap_or(usize::MAX)));
            backlog.extend(of_partition);
        }
        Ok(Box::new(Feed { alerts: Arc::clone(&self.0), backlog, next: alerts.len() }))
    }
}

impl AlertFeed for Feed {
    fn next(&mut self, timeout: Duration) -> Result<Vec<CommittedAlert>, String> {
        if !self.backlog.is_empty() {
            let count = self.backlog.len().min(700);
            return Ok(self.backlog.drain(..count).collect());
        }
        if let Some(why) = self.alerts.failure.lock().clone() {
            return Err(why);
        }
        let mut alerts = self.alerts.alerts.lock();
        if alerts.len() == self.next {
            self.alerts.came.wait_for(&mut alerts, timeout);
        }
        let news = alerts[self.next..].to_vec();
        self.next = alerts.len();
        Ok(news)
    }
}

/// Knows one user, in partition 1, and has a partition 2 that may not answer.
#[derive(Default)]
pub struct OneUser {
    pub known: String,
    pub is_silent: bool,
    pub asked: Mutex<Vec<String>>,
}

impl Users for OneUser {
    fn look_up(&self, user_id: &str) -> Answering<'_, Vec<UserInPartition>> {
        self.asked.lock().push(user_id.to_owned());
        let count = OpenCount {
            rule_id: "velocity-1m".to_owned(),
            rule_version: 2,
            window_start: WindowStart(1_763_700_000_000),
            window_end: WindowEnd(1_763_700_060_000),
            transactions: 11,
            max_transactions: 10,
            has_alerted: true,
        };
        let counts = if user_id == self.known { vec![count] } else { Vec::new() };
        let silent = if self.is_silent { None } else { Some(Vec::new()) };
        let answers = vec![
            UserInPartition { partition: PartitionId(1), counts: Some(counts) },
            UserInPartition { partition: PartitionId(2), counts: silent },
        ];
        Box::pin(async move { answers })
    }
}

/// Checkpoints of which two are retained.
pub struct TwoCheckpoints {
    pub begin: Result<(), NotBegun>,
    pub list_fails: bool,
    pub begun: AtomicUsize,
}

impl TwoCheckpoints {
    pub fn answering(begin: Result<(), NotBegun>) -> Self {
        Self { begin, list_fails: false, begun: AtomicUsize::new(0) }
    }
}

impl Checkpoints for TwoCheckpoints {
    fn list(&self) -> Result<Vec<CheckpointInfo>, String> {
        if self.list_fails {
            return Err("cannot list the folder".to_owned());
        }
        let info = |sequence, created_at_ms, offset| CheckpointInfo {
            sequence,
            path: PathBuf::from("/secret/place"),
            created_at_ms,
            bytes: 4_096,
            partitions: vec![(PartitionId(0), Offset(offset))],
        };
        Ok(vec![info(7, 1_763_700_000_000, 100), info(8, 1_763_700_010_000, 200)])
    }

    fn begin(&self) -> Answering<'_, Result<(), NotBegun>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let begin = self.begin;
        Box::pin(async move { begin })
    }
}

/// A database that holds so many rows, or is away.
pub struct Rows {
    pub count: usize,
    pub is_away: bool,
    pub asked: Mutex<Vec<(i64, i64, usize)>>,
}

impl Statistics for Rows {
    fn order_stats(&self, from_ms: i64, to_ms: i64, limit: usize) -> Answering<'_, Result<Vec<OrderStatsRow>, String>> {
        self.asked.lock().push((from_ms, to_ms, limit));
        let row = |number: usize| OrderStatsRow {
            window_start_ms: from_ms,
            merchant_id: format!("m-{number}"),
            currency: "EUR".to_owned(),
            transaction_count: 3,
            order_count: 2,
            amount_minor: "170141183460469231731687303715884105728".to_owned(),
            max_amount_minor: 1_000_000,
        };
        let answer = match self.is_away {
            true => Err("the database does not answer".to_owned()),
            false => Ok((0..self.count.min(limit)).map(row).collect()),
        };
        Box::pin(async move { answer })
    }
}
