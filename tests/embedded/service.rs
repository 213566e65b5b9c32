//! The service's own binary on a log that was prepared before: whatever is done to it, alerts, late records and dead letters
//! are exactly what an independent recount of the log finds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::generate::WorkloadOptions;
use tallyguard::log::embedded::{EmbeddedStore, EmbeddedView, OwnedRecord, StoredRecord};
use tallyguard::log::partition_of;
use tallyguard::protocol::output::Destination;
use tallyguard::reconcile::compare::{compare_alert_records, compare_dead_letters, compare_late_records};
use tallyguard::reconcile::recount::{Parameters, Recount, RuleText, recount};
use tallyguard::reconcile::side_record::SourceRecord;

use crate::support::process::GuardedDir;
use crate::support::{Service, TestConfig, workload};
use crate::world::Dice;

const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    dir: GuardedDir,
    config: TestConfig,
}

impl Scene {
    /// The log lies outside the state folder, so that a test can lose the one without the other.
    fn new() -> Self {
        let dir = GuardedDir::new("tallyguard-embedded-run-");
        let config = TestConfig::new("127.0.0.1:1", dir.path())
            .set("source.kind", "embedded")
            .set("embedded.dir", dir.path().join("log").display().to_string())
            .set("embedded.retention_age", "0s")
            .set("time.out_of_orderness", "5s")
            .set("time.max_future_skew", "2s")
            .set("checkpoint.interval", "1s");
        Self { dir, config }
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join(format!("state-{}", self.config.instance))
    }

    fn start(&self) -> Service {
        Service::start(&self.config.to_toml(), self.dir.path(), &[])
    }

    /// Starts a process that must leave by itself: exit code and log.
    fn run_to_exit(&self) -> (Option<i32>, String) {
        let mut service = self.start();
        (service.wait_exit(PATIENCE), service.log())
    }

    /// Appends generated traffic with every peculiarity, under its own timestamps.
    fn prepare(&self, seed: u64, events: u64, partitions: i32) {
        let store = EmbeddedStore::open(&self.log_dir(), partitions).expect("the log opens");
        let options = WorkloadOptions {
            seed,
            users: 400,
            merchants: 20,
            events,
            events_per_second: 200,
            ..WorkloadOptions::default()
        };
        let mut records = Vec::new();
        for record in workload(options) {
            let partition = partition_of(record.key.as_deref().unwrap_or_default(), partitions);
            let headers = record.headers.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            let timestamp_ms = record.timestamp.unwrap_or_default();
            let record = OwnedRecord { timestamp_ms, key: record.key, value: record.value, headers };
            records.push((PartitionId(partition), record));
            if records.len() == 1_000 {
                store.append_to(&records).expect("appended");
                records.clear();
            }
        }
        store.append_to(&records).expect("appended");
    }

    fn view(&self) -> EmbeddedView {
        EmbeddedView::open(&self.log_dir()).expect("a look at the log")
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        let all = self.view().committed().expect("readable");
        all.into_iter().map(|(_, partition, offset, _)| (partition.0, offset.0)).collect()
    }

    fn ends(&self) -> BTreeMap<i32, i64> {
        let view = self.view();
        let partitions = view.partitions().expect("readable");
        (0..partitions).map(|it| (it, view.bounds(PartitionId(it)).expect("readable").1.0)).collect()
    }

    fn wait_caught_up(&self, service: &mut Service) {
        let (ends, began) = (self.ends(), Instant::now());
        while self.committed() != ends {
            assert!(service.is_running(), "{}", service.log());
            assert!(began.elapsed() < PATIENCE, "{:?} of {ends:?}\n{}", self.committed(), service.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn source(&self) -> Vec<SourceRecord> {
        let view = self.view();
        let of = |(partition, end): (i32, i64)| {
            view.records(PartitionId(partition), Offset(0), Offset(end)).expect("readable")
        };
        self.ends().into_iter().flat_map(of).map(plain).collect()
    }

    fn outputs(&self, destination: Destination) -> Vec<SourceRecord> {
        let outputs = self.view().outputs(destination, 0, i64::MAX).expect("readable");
        outputs.into_iter().map(plain).collect()
    }

    fn assert_exact(&self) -> Recount {
        let expected = recount(&self.source(), &self.parameters());
        let mut differences = compare_alert_records(&expected.alerts, &self.outputs(Destination::Alerts));
        differences.extend(compare_dead_letters(&expected.dead_letters, &self.outputs(Destination::DeadLetter)));
        differences.extend(compare_late_records(&expected.late, &self.outputs(Destination::Late)));
        let shown: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
        assert!(differences.is_empty(), "{} differences from the recount:\n{}", differences.len(), shown.join("\n"));
        expected
    }

    fn parameters(&self) -> Parameters {
        Parameters {
            source_topic: self.config.source_topic.clone(),
            rules: vec![RuleText {
                id: "velocity-1m".to_owned(),
                version: 1,
                window_ms: 60_000,
                window_text: "1m".to_owned(),
                max_transactions: 10,
                severity: "high".to_owned(),
                changes: Vec::new(),
            }],
            out_of_orderness_ms: 5_000,
            max_future_skew_ms: 2_000,
            statistics: false,
            orders: false,
        }
    }
}

fn plain(stored: StoredRecord) -> SourceRecord {
    let StoredRecord { partition, offset, record } = stored;
    let name = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    SourceRecord {
        partition: partition.0,
        offset: offset.0,
        timestamp_ms: Some(record.timestamp_ms),
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(|(key, value)| (name(key), value)).collect(),
    }
}

#[test]
fn a_prepared_log_is_worked_off_and_equals_the_recount() {
    let scene = Scene::new();
    scene.prepare(1, 60_000, 4);
    let mut service = scene.start();
    service.wait_ready(PATIENCE);
    scene.wait_caught_up(&mut service);
    let expected = scene.assert_exact();
    for found in [expected.alerts.len(), expected.late.len(), expected.dead_letters.len()] {
        assert!(found > 50, "the traffic has too little of something: {:?}", expected.outcomes);
    }
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    scene.assert_exact();
}

/// Every other kill takes the snapshots with it, so that both ways back are taken: from a snapshot and from the log alone.
#[test]
fn kills_while_a_prepared_log_is_worked_off_leave_no_trace() {
    let scene = Scene::new();
    scene.prepare(2, 600_000, 4);
    let ends: i64 = scene.ends().values().sum();
    let (mut dice, mut in_the_middle) = (Dice(5), Vec::new());
    let view = scene.view();
    let committed = || {
        view.refresh().expect("readable");
        view.committed().expect("readable").iter().map(|(_, _, offset, _)| offset.0).sum::<i64>()
    };
    for number in 0..30 {
        let goal = committed() + i64::try_from(dice.below(80_000)).expect("a number");
        let mut service = scene.start();
        if number % 4 == 3 {
            thread::sleep(Duration::from_millis(dice.below(150)));
        } else {
            let began = Instant::now();
            while committed() < goal.min(ends) {
                assert!(service.is_running() && began.elapsed() < PATIENCE, "{}", service.log());
                thread::sleep(Duration::from_millis(2));
            }
        }
        service.kill9();
        let committed = committed();
        if committed == ends {
            break;
        }
        in_the_middle.push(committed);
        if number % 2 == 1 {
            // Absent when it was killed before it had made one.
            let _ = std::fs::remove_dir_all(scene.state_dir());
        }
    }
    in_the_middle.dedup();
    assert!(in_the_middle.len() >= 3, "too few kills in the middle of the work: {in_the_middle:?} of {ends}");
    let mut last = scene.start();
    last.wait_ready(PATIENCE);
    scene.wait_caught_up(&mut last);
    let expected = scene.assert_exact();
    eprintln!("killed at {in_the_middle:?} of {ends} records, {} alerts", expected.alerts.len());
}

#[test]
fn added_partitions_are_read_from_their_beginning_and_taken_away_ones_are_refused() {
    let mut scene = Scene::new();
    scene.prepare(3, 5_000, 2);
    scene.config = scene.config.clone().set("embedded.partitions", 2);
    let mut service = scene.start();
    service.wait_ready(PATIENCE);
    scene.wait_caught_up(&mut service);
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    scene.prepare(4, 5_000, 3);
    scene.config = scene.config.clone().set("embedded.partitions", 3);
    let mut service = scene.start();
    service.wait_ready(PATIENCE);
    scene.wait_caught_up(&mut service);
    assert_eq!(scene.ends().len(), 3);
    assert!(service.log().contains("partition 2"), "nobody was warned\n{}", service.log());
    scene.assert_exact();
    drop(service);
    scene.config = scene.config.clone().set("embedded.partitions", 2);
    let (code, log) = scene.run_to_exit();
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("embedded.partitions"), "no remedy\n{log}");
}

#[test]
fn a_log_that_another_process_owns_is_named_and_the_service_leaves_with_1() {
    let scene = Scene::new();
    let _owner = EmbeddedStore::open(&scene.log_dir(), 4).expect("the log opens");
    let (code, log) = scene.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&scene.log_dir().display().to_string()), "{log}");
    assert!(log.contains(&format!("process {}", std::process::id())), "{log}");
}
