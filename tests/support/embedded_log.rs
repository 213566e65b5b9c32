//! The embedded log of a service as a test sees it: prepared while no service runs, fed over HTTP while one does, read by a
//! look that changes nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::embedded::{EmbeddedError, EmbeddedStore, EmbeddedView, OwnedRecord, StoredRecord};
use tallyguard::log::partition_of;
use tallyguard::protocol::output::Destination;

use super::config::TestConfig;
use super::load::Sink;
use super::raw_headers::{name_bytes, name_text};
use super::topics::{ReadRecord, TestRecord};

/// The token with which transactions are posted.
pub const TOKEN: &str = "a-token-of-the-tests";
/// Records in one synced append, or in one request.
const BATCH: usize = 500;
/// As long as a producer waits for a broker.
const PATIENCE: Duration = Duration::from_secs(50);

/// The log in a folder; the service that owns it, if one runs, listens on that port.
#[derive(Debug, Clone)]
pub struct EmbeddedLog {
    dir: PathBuf,
    http_port: u16,
}

impl EmbeddedLog {
    /// The log of that configuration, in `dir`.
    pub fn new(dir: &Path, config: &TestConfig) -> Self {
        Self { dir: dir.to_owned(), http_port: config.http_port }
    }

    /// The configuration for it: the log lies outside of the state directory, so that a test can lose the one without the
    /// other, and keeps everything, whatever timestamps a test gives.
    #[must_use]
    pub fn configure(&self, config: TestConfig) -> TestConfig {
        config
            .set("source.kind", "embedded")
            .set("embedded.dir", self.dir.display().to_string())
            .set("embedded.retention_age", "0s")
            .set("http.admin_token", TOKEN)
    }

    /// Creates it, or adds partitions.
    pub fn create(&self, partitions: i32) {
        drop(self.open(partitions).expect("the log opens"));
    }

    /// Appends the records as they are while no service runs; posts them while one does.
    pub fn produce(&self, records: impl IntoIterator<Item = TestRecord>) {
        let mut records = records.into_iter();
        match self.open(1) {
            Ok(store) => append(&store, records),
            Err(EmbeddedError::FewerPartitions { found, .. }) => {
                append(&self.open(found).expect("the log opens"), records);
            }
            Err(EmbeddedError::InUse { .. }) => {
                let (mut poster, partitions) = (self.poster(), self.partitions());
                records.by_ref().for_each(|record| {
                    assert!(record.headers.is_empty(), "HTTP has no headers for a record");
                    let wanted = record.partition.unwrap_or_else(|| partition(&record, partitions));
                    assert_eq!(wanted, partition(&record, partitions), "over HTTP the key decides on the partition");
                    poster.send(record);
                });
                poster.finish();
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens the log, unless a service owns it. A process that another test is just starting has this one's files open, locks
    /// included, until it has become the program that it is to be: without an owner that listens, a lock is waited for.
    fn open(&self, partitions: i32) -> Result<EmbeddedStore, EmbeddedError> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match EmbeddedStore::open(&self.dir, partitions) {
                Err(EmbeddedError::InUse { .. })
                    if Instant::now() < deadline && TcpStream::connect(("127.0.0.1", self.http_port)).is_err() =>
                {
                    sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    /// Posts records, and waits for a service that is away.
    pub fn poster(&self) -> Poster {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .into();
        Poster { log: self.clone(), agent, pending: Vec::new(), acknowledged: Vec::new() }
    }

    /// Committed records of the topic that goes by that name in the configuration, by partition and offset.
    pub fn read_all(&self, config: &TestConfig, topic: &str) -> Vec<ReadRecord> {
        let view = self.view();
        let destinations = [
            (&config.alert_topic, Destination::Alerts),
            (&config.late_topic, Destination::Late),
            (&config.dead_letter_topic, Destination::DeadLetter),
        ];
        let stored = match destinations.into_iter().find(|(name, _)| *name == topic) {
            Some((_, destination)) => {
                let (start, end) = view.output_bounds(destination).expect("readable");
                view.outputs(destination, start, end - start).expect("readable")
            }
            None => {
                assert_eq!(topic, config.source_topic);
                let of = |it: i32| {
                    let (start, end) = view.bounds(PartitionId(it)).expect("readable");
                    view.records(PartitionId(it), start, end).expect("readable")
                };
                (0..view.partitions().expect("readable")).flat_map(of).collect()
            }
        };
        stored.into_iter().map(|record| read_record(topic, record)).collect()
    }

    pub fn ends(&self) -> BTreeMap<i32, i64> {
        let view = self.view();
        let partitions = view.partitions().expect("readable");
        (0..partitions).map(|it| (it, view.bounds(PartitionId(it)).expect("readable").1.0)).collect()
    }

    /// The group's offset and metadata for each partition.
    pub fn committed(&self, group: &str) -> BTreeMap<i32, (i64, String)> {
        committed(&self.view(), group)
    }

    pub fn watch(&self, group: &str) -> EmbeddedWatch {
        EmbeddedWatch { log: self.clone(), group: group.to_owned(), view: RefCell::new(None) }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn partitions(&self) -> i32 {
        self.view().partitions().expect("readable")
    }

    fn view(&self) -> EmbeddedView {
        EmbeddedView::open(&self.dir).expect("a look at the log")
    }
}

/// Asks again and again how far the group has come.
pub struct EmbeddedWatch {
    log: EmbeddedLog,
    group: String,
    view: RefCell<Option<EmbeddedView>>,
}

impl EmbeddedWatch {
    /// The committed offsets; empty while there is no log.
    pub fn offsets(&self) -> BTreeMap<i32, i64> {
        let mut kept = self.view.borrow_mut();
        let view = kept.take().filter(|view| view.refresh().is_ok());
        let Some(view) = view.or_else(|| EmbeddedView::open(&self.log.dir).ok()) else { return BTreeMap::new() };
        let offsets = committed(&view, &self.group).into_iter().map(|(partition, (offset, _))| (partition, offset));
        let offsets = offsets.collect();
        *kept = Some(view);
        offsets
    }
}

/// Sends records over HTTP until they are acknowledged, and in the end checks that each acknowledged one is in the log
/// where the answer said. Each request goes again until it is answered, so the log may hold a record twice.
pub struct Poster {
    log: EmbeddedLog,
    agent: ureq::Agent,
    pending: Vec<Vec<u8>>,
    acknowledged: Vec<(i32, i64, Vec<u8>)>,
}

impl Sink for Poster {
    /// A record without a value, or with a line break in it, cannot be a line: it is left out.
    fn send(&mut self, record: TestRecord) {
        let value = record.value.unwrap_or_default();
        if value.trim_ascii().is_empty() || value.contains(&b'\n') || value.ends_with(b"\r") {
            return;
        }
        self.pending.push(value);
        if self.pending.len() >= BATCH {
            self.post();
        }
    }

    fn idle(&mut self) {
        self.post();
    }

    fn finish(&mut self) {
        self.post();
        let in_the_log: BTreeMap<(i32, i64), Vec<u8>> = {
            let view = self.log.view();
            let of = |it| {
                let (start, end) = view.bounds(PartitionId(it)).expect("readable");
                view.records(PartitionId(it), start, end).expect("readable")
            };
            let all = (0..view.partitions().expect("readable")).flat_map(of);
            all.map(|it| ((it.partition.0, it.offset.0), it.record.value.unwrap_or_default())).collect()
        };
        for (partition, offset, value) in self.acknowledged.drain(..) {
            assert_eq!(in_the_log.get(&(partition, offset)), Some(&value), "acknowledged at {partition}/{offset}");
        }
    }
}

impl Poster {
    fn post(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let body = self.pending.join(&b'\n');
        let started = Instant::now();
        let answer = loop {
            match self.try_post(&body) {
                Ok(answer) => break answer,
                Err(why) => assert!(started.elapsed() < PATIENCE, "nobody took transactions for {PATIENCE:?}: {why}"),
            }
            sleep(Duration::from_millis(20));
        };
        let results: Vec<serde_json::Value> =
            answer.lines().map(|line| serde_json::from_str(line).expect("one result per line")).collect();
        assert_eq!(results.len(), self.pending.len(), "one result per line");
        for (result, value) in results.iter().zip(self.pending.drain(..)) {
            let number = |name: &str| result[name].as_i64().unwrap_or_else(|| panic!("no position: {result}"));
            let partition = i32::try_from(number("partition")).expect("a partition");
            self.acknowledged.push((partition, number("offset"), value));
        }
    }

    fn try_post(&self, body: &[u8]) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}/api/v1/transactions?invalid=dead-letter", self.log.http_port);
        let mut answer = self
            .agent
            .post(url)
            .header("Authorization", format!("Bearer {TOKEN}"))
            .header("Content-Type", "application/x-ndjson")
            .send(body)
            .map_err(|error| error.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 => Ok(text),
            503 => Err(text),
            status => panic!("{status}: {text}"),
        }
    }
}

fn committed(view: &EmbeddedView, group: &str) -> BTreeMap<i32, (i64, String)> {
    let of_group = view.committed().expect("readable").into_iter().filter(|(name, ..)| name == group);
    of_group.map(|(_, partition, offset, metadata)| (partition.0, (offset.0, metadata))).collect()
}

fn append(store: &EmbeddedStore, records: impl Iterator<Item = TestRecord>) {
    let partitions = store.partitions();
    let mut batch = Vec::new();
    for record in records {
        let target = record.partition.unwrap_or_else(|| partition(&record, partitions));
        let headers = record.headers.into_iter().map(|(name, value)| (name_bytes(&name), value)).collect();
        let timestamp_ms = record.timestamp.expect("a timestamp");
        batch.push((PartitionId(target), OwnedRecord { timestamp_ms, key: record.key, value: record.value, headers }));
        if batch.len() == BATCH {
            store.append_to(&batch).expect("appended");
            batch.clear();
        }
    }
    store.append_to(&batch).expect("appended");
}

fn partition(record: &TestRecord, partitions: i32) -> i32 {
    partition_of(record.key.as_deref().unwrap_or_default(), partitions)
}

fn read_record(topic: &str, stored: StoredRecord) -> ReadRecord {
    let StoredRecord { partition, offset, record } = stored;
    ReadRecord {
        topic: topic.to_owned(),
        partition: partition.0,
        offset: offset.0,
        timestamp_ms: Some(record.timestamp_ms),
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(|(name, value)| (name_text(&name), value)).collect(),
    }
}
