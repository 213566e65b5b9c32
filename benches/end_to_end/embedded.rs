//! The embedded log: how fast it takes records in, how fast they are read, and how fast the service works them off.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::generate::{GeneratedRecord, Shares, Workload, WorkloadOptions};
use tallyguard::log::embedded::{EmbeddedLog, EmbeddedStore, EmbeddedView};
use tallyguard::log::{Ingest, Log, NewRecord, Read, RecordBatch};
use tallyguard::protocol::output::Destination;
use tallyguard::reconcile::recount::{Recounter, SourceRecord};

use crate::common::{Arguments, Report, count, median, resident_peak_bytes, whole};
use crate::floor::{self, Round, Stretch};
use crate::support::process::GuardedDir;
use crate::support::{Service, TestConfig, unique_name};
use crate::throughput::row;

const PARTITIONS: i32 = 4;
const RECORDS_PER_APPEND: usize = 1_000;
const APPENDS_PER_STRETCH: usize = 100;
const BATCH_MAX: usize = 2_048;

/// Makes the log once; then reader and service work it off in turns.
pub fn measure(arguments: &Arguments, report: &mut Report) {
    let dir = GuardedDir::new("tallyguard-embedded-bench-");
    let log_dir = dir.path().join("log");
    let input = TestConfig::new("127.0.0.1:1", dir.path());
    let store = Arc::new(EmbeddedStore::open(&log_dir, PARTITIONS).expect("the log opens"));
    let events = arguments.scaled(3_000_000_u64, 20_000);
    append(&store, events, arguments.scaled(100_000, 500), report);
    let expected = recounted_alerts(&store, &input.source_topic);
    report.say(&format!("Input: {} clean records, {expected} alerts by recount.", whole(count(events))));
    drop(store);

    let (mut reading, mut validating, mut serving) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds(3) {
        reading.push((read(&log_dir, false), 0));
        validating.push((read(&log_dir, true), 0));
        serving.push(serve(&log_dir, &input, events, expected));
    }
    let reference = median(&reading.iter().map(|(round, _)| round.records_per_second).collect::<Vec<_>>());
    report.table(
        "Embedded log, 4 partitions, worked off in steady state (from 30 to 90 % of the records)",
        &["what", "records/s", "of the floor", "slowest and fastest round", "CPU µs per record", "peak memory, MiB"],
        &[
            row("read only (floor)", &reading, reference),
            row("read and validate, one thread", &validating, reference),
            row("tallyguard run, exactly-once, without statistics", &serving, reference),
        ],
    );
}

/// Appends generated records, a thousand at a time: one caller, then four, stretch by stretch.
fn append(store: &EmbeddedStore, events: u64, users: u32, report: &mut Report) {
    let options = WorkloadOptions { users, events, shares: Shares::NONE, ..WorkloadOptions::default() };
    let mut workload = Workload::new(options).expect("valid options");
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0.. {
        let stretch = generated(&mut workload);
        if stretch.is_empty() {
            break;
        }
        let records: Vec<NewRecord<'_>> = stretch
            .iter()
            .map(|record| NewRecord { key: record.key.as_deref(), value: record.value.as_deref(), headers: &[] })
            .collect();
        let appends: Vec<_> = records.chunks(RECORDS_PER_APPEND).collect();
        let callers = if turn % 2 == 0 { 1 } else { 4 };
        let began = Instant::now();
        std::thread::scope(|scope| {
            for caller in 0..callers {
                let appends = &appends;
                scope.spawn(move || {
                    for append in appends.iter().skip(caller).step_by(callers) {
                        store.append(append).expect("appended");
                    }
                });
            }
        });
        rates[turn % 2].push(count(records.len()) / began.elapsed().as_secs_f64());
    }
    let rows = ["one caller", "four callers"].iter().zip(&rates).filter(|(_, rates)| !rates.is_empty());
    let rows: Vec<_> = rows
        .map(|(name, rates)| {
            let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let fastest = rates.iter().copied().fold(0.0, f64::max);
            vec![(*name).to_owned(), whole(median(rates)), format!("{} – {}", whole(slowest), whole(fastest))]
        })
        .collect();
    report.table("Embedded log, synced appends of 1 000 records", &["what", "records/s", "slowest and fastest"], &rows);
}

fn generated(workload: &mut Workload) -> Vec<GeneratedRecord> {
    let mut records = Vec::new();
    let mut record = GeneratedRecord::default();
    while records.len() < RECORDS_PER_APPEND * APPENDS_PER_STRETCH && workload.fill(&mut record) {
        records.push(std::mem::take(&mut record));
    }
    records
}

/// Reads everything with the service's own transport, on one thread.
fn read(log_dir: &Path, validates: bool) -> Round {
    let store = Arc::new(EmbeddedStore::open(log_dir, PARTITIONS).expect("the log opens"));
    let mut log = EmbeddedLog::new(Arc::clone(&store), "transactions", "floor");
    let partitions: Vec<_> = (0..PARTITIONS).map(PartitionId).collect();
    for &partition in &partitions {
        log.start(partition, Offset(0)).expect("a start");
    }
    let total: i64 = partitions.iter().map(|&partition| store.bounds(partition).1.0).sum();
    let mut stretch = Stretch::new(count(total), "self".to_owned());
    let mut done = 0_usize;
    loop {
        for &partition in &partitions {
            if let Read::Records { batch, .. } = log.read(partition, BATCH_MAX) {
                done += batch.len();
                if validates {
                    floor::validate_all(&batch);
                }
            }
        }
        if let Some(round) = stretch.look(count(done)) {
            return round;
        }
    }
}

/// A fresh group over the same log.
fn serve(log_dir: &Path, input: &TestConfig, events: u64, expected: usize) -> (Round, u64) {
    let dir = GuardedDir::new("tallyguard-embedded-run-");
    let config = TestConfig::new("127.0.0.1:1", dir.path())
        .set("source.kind", "embedded")
        .set("source.topic", input.source_topic.clone())
        .set("source.group", unique_name("bench"))
        .set("embedded.dir", log_dir.display().to_string())
        .set("embedded.partitions", PARTITIONS);
    let group = config.to_toml();
    let view = EmbeddedView::open(log_dir).expect("a look");
    let alerts_before = view.output_bounds(Destination::Alerts).expect("readable").1;
    let known: Vec<String> = view.committed().expect("readable").into_iter().map(|(group, ..)| group).collect();
    let mut service = Service::start(&group, dir.path(), &[]);
    let process = service.process_id().to_string();
    let mut stretch = Stretch::new(count(events), process.clone());
    let deadline = Instant::now() + Duration::from_secs(300);
    let round = loop {
        view.refresh().expect("readable");
        let committed = view.committed().expect("readable");
        let done: i64 = committed.iter().filter(|(group, ..)| !known.contains(group)).map(|(_, _, it, _)| it.0).sum();
        if let Some(round) = stretch.look(count(done)) {
            break round;
        }
        assert!(service.is_running() && Instant::now() < deadline, "the service did not finish\n{}", service.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    let peak_bytes = resident_peak_bytes(&process);
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    view.refresh().expect("readable");
    let alerts = view.output_bounds(Destination::Alerts).expect("readable").1 - alerts_before;
    assert_eq!(usize::try_from(alerts), Ok(expected), "alerts against the recount");
    (round, peak_bytes)
}

/// Alerts that an independent recount of the log finds, with the rule of [`TestConfig::new`].
fn recounted_alerts(store: &EmbeddedStore, topic: &str) -> usize {
    let of = |partition: PartitionId| {
        // One partition at a time: the recount remembers everything.
        let mut recounter = Recounter::new(floor::parameters(topic));
        let (mut next, end) = store.bounds(partition);
        while next < end {
            let some = store.records(partition, next, Offset(next.0 + 10_000)).expect("readable");
            for stored in some {
                next = stored.offset.next();
                recounter.take(&SourceRecord {
                    partition: partition.0,
                    offset: stored.offset.0,
                    timestamp_ms: Some(stored.record.timestamp_ms),
                    key: stored.record.key,
                    value: stored.record.value,
                    headers: Vec::new(),
                });
            }
        }
        recounter.finish().alerts.len()
    };
    (0..PARTITIONS).map(PartitionId).map(of).sum()
}
