//! How many transactions a second go through `tallyguard run`, against reading alone.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tallyguard::clock;

use crate::common::{Arguments, Report, count, median, resident_peak_bytes, whole};
use crate::engine::Engine;
use crate::floor::{self, Floor, Round, Stretch};
use crate::live::transaction_text;
use crate::support::process::GuardedDir;
use crate::support::service::run_command_with;
use crate::support::topics::{CommittedWatch, end_offsets, produce, read_all};
use crate::support::{Broker, ReadRecord, TestConfig, TestRecord};

const PARTITIONS: i32 = 4;

/// One round of the service.
pub struct ServiceRound {
    pub round: Round,
    pub peak_bytes: u64,
}

/// A topic full of records, for every round the same.
pub struct Input {
    pub config: TestConfig,
    pub ends: Vec<(i32, i64)>,
    /// Who must be alerted for, and the start of the window: by recount, sorted.
    pub expected: Vec<(String, i64)>,
    _dir: GuardedDir,
}

impl Input {
    /// Fills the topic and counts what it adds up to.
    pub fn make(broker: &Broker, arguments: &Arguments, report: &mut Report) -> Self {
        let bootstrap = broker.bootstrap();
        let dir = GuardedDir::new("tallyguard-throughput-");
        let config = TestConfig::new(&bootstrap, dir.path());
        config.create_topics(&bootstrap, PARTITIONS);
        let events = arguments.scaled(6_000_000_u64, 20_000);
        generate(&config, dir.path(), events, arguments.scaled(100_000, 500));
        close_windows(&bootstrap, &config.source_topic);
        let ends = end_offsets(&bootstrap, &config.source_topic);
        let expected = floor::recounted_alerts(&bootstrap, &config.source_topic, &ends);
        report.say(&format!("Input: {} clean records, {} alerts by recount.", whole(count(events)), expected.len()));
        Self { config, ends, expected, _dir: dir }
    }
}

/// Makes the input once, then lets floor and service read it in turns.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let input = Input::make(broker, arguments, report);
    let with_statistics = has_mariadb();
    let (mut reading, mut validating, mut parallel) = (Vec::new(), Vec::new(), Vec::new());
    let (mut serving, mut writing) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds(3) {
        reading.push(floor::read(&bootstrap, &input.config, &input.ends, Floor::Consume));
        validating.push(floor::read(&bootstrap, &input.config, &input.ends, Floor::Validate));
        parallel.push(floor::read(&bootstrap, &input.config, &input.ends, Floor::ValidateBeside));
        serving.push(catch_up(&bootstrap, &input, Engine::EXACTLY_ONCE));
        if with_statistics {
            writing.push(catch_up(&bootstrap, &input, Engine::Tallyguard { mode: "exactly-once", statistics: true }));
        }
    }
    let reference = median(&reading.iter().map(|round| round.records_per_second).collect::<Vec<_>>());
    let plain = |rounds: &[Round]| rounds.iter().map(|round| (*round, 0)).collect::<Vec<_>>();
    let served = |rounds: &[ServiceRound]| rounds.iter().map(|it| (it.round, it.peak_bytes)).collect::<Vec<_>>();
    let mut rows = vec![
        row("read only (floor)", &plain(&reading), reference),
        row("read and validate, one thread", &plain(&validating), reference),
        row("read on one thread, validate on two", &plain(&parallel), reference),
        row("tallyguard run, exactly-once, without statistics", &served(&serving), reference),
    ];
    if with_statistics {
        rows.push(row("tallyguard run, exactly-once, statistics into MariaDB", &served(&writing), reference));
    }
    report.table(
        "Throughput, 4 partitions, steady state (from 30 to 90 % of the records)",
        &["what", "records/s", "of the floor", "slowest and fastest round", "CPU µs per record", "peak memory, MiB"],
        &rows,
    );
}

pub fn row(name: &str, rounds: &[(Round, u64)], reference: f64) -> Vec<String> {
    let speeds: Vec<f64> = rounds.iter().map(|(round, _)| round.records_per_second).collect();
    let cpu: Vec<f64> = rounds.iter().map(|(round, _)| round.cpu_microseconds_per_record).collect();
    let slowest = speeds.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = speeds.iter().copied().fold(0.0, f64::max);
    let peak = rounds.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
    vec![
        name.to_owned(),
        whole(median(&speeds)),
        format!("{:.2}", median(&speeds) / reference),
        format!("{} – {}", whole(slowest), whole(fastest)),
        format!("{:.2}", median(&cpu)),
        if peak == 0 { String::new() } else { whole(count(peak) / 1_048_576.0) },
    ]
}

fn has_mariadb() -> bool {
    ["mariadbd", "/usr/sbin/mariadbd"]
        .iter()
        .any(|program| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success()))
}

/// One record a partition, a day ahead: an engine that alerts when a window closes has something to close the last by.
fn close_windows(bootstrap: &str, topic: &str) {
    let event_ms = clock::utc_now().timestamp_millis() + 86_400_000;
    let closing = |partition: i32| {
        let key = format!("closing-{partition}");
        let value = transaction_text(&key, "closing", "m-0", 0, event_ms);
        TestRecord::new(key, value).in_partition(partition).at(event_ms)
    };
    produce(bootstrap, topic, (0..PARTITIONS).map(closing));
}

fn generate(input: &TestConfig, dir: &Path, events: u64, users: u32) {
    let path = dir.join("generate.toml");
    input.write(&path);
    let (path, events, users) = (path.display().to_string(), events.to_string(), users.to_string());
    let arguments = ["generate", "--config", &path, "--events", &events, "--users", &users, "--clean"];
    let (code, _, errors) = run_command_with(&arguments, &[], Duration::from_secs(600));
    assert_eq!(code, 0, "{errors}");
}

/// A fresh group over the same input; its alerts must be those of the recount.
pub fn catch_up(bootstrap: &str, input: &Input, engine: Engine) -> ServiceRound {
    let Input { config: TestConfig { source_topic, .. }, ends, expected, .. } = input;
    let dir = GuardedDir::new("tallyguard-run-");
    let mut config = TestConfig::new(bootstrap, dir.path()).set("source.topic", source_topic.clone());
    config.source_topic.clone_from(source_topic);
    config.create_output_topics(bootstrap);
    let mut running = engine.start(bootstrap, &config, dir.path());
    let process = running.process_id().to_string();
    let watch = CommittedWatch::new(bootstrap, &config.group, source_topic);
    let total: i64 = ends.iter().map(|(_, end)| end).sum();
    let mut stretch = Stretch::new(count(total), process.clone());
    let deadline = Instant::now() + Duration::from_secs(600);
    let round = loop {
        if let Some(round) = stretch.look(count(watch.offsets().values().sum::<i64>())) {
            break round;
        }
        assert!(running.is_running() && Instant::now() < deadline, "it did not finish\n{}", running.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    let peak_bytes = resident_peak_bytes(&process);
    running.stop();
    let mut found: Vec<_> = read_all(bootstrap, &config.alert_topic).iter().map(alerted).collect();
    found.sort();
    assert!(found == *expected, "{}: {} alerts, {} by recount", engine.title(), found.len(), expected.len());
    ServiceRound { round, peak_bytes }
}

/// Who was alerted for, and the start of the window, epoch milliseconds.
fn alerted(record: &ReadRecord) -> (String, i64) {
    let alert: serde_json::Value = serde_json::from_slice(record.value.as_ref().expect("an alert")).expect("an alert");
    who_and_when(&alert)
}

/// Tallyguard writes the window's start as RFC 3339, the peers as a number.
pub fn who_and_when(alert: &serde_json::Value) -> (String, i64) {
    let start = &alert["window_start"];
    let start_ms = start.as_i64().unwrap_or_else(|| {
        let text = start.as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis()
    });
    (alert["user_id"].as_str().expect("a user").to_owned(), start_ms)
}
