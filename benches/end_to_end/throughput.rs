//! How many transactions a second go through `tallyguard run`, against reading alone.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::common::{Arguments, Report, count, median, resident_peak_bytes, whole};
use crate::floor::{self, Round, Stretch};
use crate::support::process::GuardedDir;
use crate::support::service::run_command_with;
use crate::support::topics::{create_topic, end_offsets, read_all};
use crate::support::{Broker, Service, TestConfig, shared_database, unique_name};

const PARTITIONS: i32 = 4;

/// One round of the service.
pub struct ServiceRound {
    pub round: Round,
    peak_bytes: u64,
}

/// A topic full of records, for every round the same.
pub struct Input {
    pub config: TestConfig,
    pub ends: Vec<(i32, i64)>,
    /// Alerts by recount.
    pub expected: usize,
    _dir: GuardedDir,
}

impl Input {
    /// Fills the topic and counts what it adds up to.
    pub fn make(broker: &Broker, arguments: &Arguments, report: &mut Report) -> Self {
        let bootstrap = broker.bootstrap();
        let dir = GuardedDir::new("tallyguard-throughput-");
        let config = TestConfig::new(&bootstrap, dir.path());
        config.create_topics(&bootstrap, PARTITIONS);
        let events = arguments.scaled(3_000_000_u64, 20_000);
        generate(&config, dir.path(), events, arguments.scaled(100_000, 500));
        let ends = end_offsets(&bootstrap, &config.source_topic);
        let expected = floor::recounted_alerts(&bootstrap, &config.source_topic, &ends);
        report.say(&format!("Input: {} clean records, {expected} alerts by recount.", whole(count(events))));
        Self { config, ends, expected, _dir: dir }
    }
}

/// Makes the input once, then lets floor and service read it in turns.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let input = Input::make(broker, arguments, report);
    let with_statistics = has_mariadb();
    let (mut reading, mut validating, mut serving, mut writing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds(3) {
        reading.push(floor::read(&bootstrap, &input.config, &input.ends, false));
        validating.push(floor::read(&bootstrap, &input.config, &input.ends, true));
        serving.push(serve(&bootstrap, &input, "exactly-once", false));
        if with_statistics {
            writing.push(serve(&bootstrap, &input, "exactly-once", true));
        }
    }
    let reference = median(&reading.iter().map(|round| round.records_per_second).collect::<Vec<_>>());
    let plain = |rounds: &[Round]| rounds.iter().map(|round| (*round, 0)).collect::<Vec<_>>();
    let served = |rounds: &[ServiceRound]| rounds.iter().map(|it| (it.round, it.peak_bytes)).collect::<Vec<_>>();
    let mut rows = vec![
        row("read only (floor)", &plain(&reading), reference),
        row("read and validate, one thread", &plain(&validating), reference),
        row("tallyguard run, exactly-once, without statistics", &served(&serving), reference),
    ];
    if with_statistics {
        rows.push(row("tallyguard run, exactly-once, statistics into MariaDB", &served(&writing), reference));
    }
    report.table(
        "Throughput, 4 partitions, steady state (from 10 % to the last commit)",
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

fn generate(input: &TestConfig, dir: &Path, events: u64, users: u32) {
    let path = dir.join("generate.toml");
    input.write(&path);
    let (path, events, users) = (path.display().to_string(), events.to_string(), users.to_string());
    let arguments = ["generate", "--config", &path, "--events", &events, "--users", &users, "--clean"];
    let (code, _, errors) = run_command_with(&arguments, &[], Duration::from_secs(600));
    assert_eq!(code, 0, "{errors}");
}

/// A fresh group over the same input.
pub fn serve(bootstrap: &str, input: &Input, mode: &str, statistics: bool) -> ServiceRound {
    let Input { config: TestConfig { source_topic, .. }, ends, expected, .. } = input;
    let dir = GuardedDir::new("tallyguard-run-");
    let mut config =
        TestConfig::new(bootstrap, dir.path()).set("source.topic", source_topic.clone()).set("delivery.mode", mode);
    for topic in [&config.alert_topic, &config.late_topic, &config.dead_letter_topic] {
        create_topic(bootstrap, topic, 1, &[]);
    }
    if statistics {
        config = config.with_stats(&shared_database().create_schema(&unique_name("bench").replace('-', "_")));
    }
    let mut service = Service::start(&config.to_toml(), dir.path(), &[]);
    let process = service.process_id().to_string();
    let watch = OffsetWatch::new(bootstrap, &config.group, source_topic, ends.len());
    let total: i64 = ends.iter().map(|(_, end)| end).sum();
    let mut stretch = Stretch::new(count(total), process.clone());
    let deadline = Instant::now() + Duration::from_secs(300);
    let round = loop {
        if let Some(round) = stretch.look(count(watch.committed())) {
            break round;
        }
        assert!(service.is_running() && Instant::now() < deadline, "the service did not finish\n{}", service.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    let peak_bytes = resident_peak_bytes(&process);
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    assert_eq!(read_all(bootstrap, &config.alert_topic).len(), *expected, "alerts against the recount");
    ServiceRound { round, peak_bytes }
}

/// Asks for a group's committed offsets, again and again, on one connection.
struct OffsetWatch {
    client: BaseConsumer,
    topic: String,
    partitions: usize,
}

impl OffsetWatch {
    fn new(bootstrap: &str, group: &str, topic: &str, partitions: usize) -> Self {
        // Uncommitted isolation asks for the last committed offset without waiting for an open transaction's.
        let client = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted")
            .create()
            .expect("a consumer");
        Self { client, topic: topic.to_owned(), partitions }
    }

    /// The sum over the partitions.
    fn committed(&self) -> i64 {
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(self.partitions).expect("partitions") {
            list.add_partition(&self.topic, partition);
        }
        let Ok(list) = self.client.committed_offsets(list, Duration::from_secs(5)) else { return 0 };
        let elements = list.elements();
        let offsets = elements.iter().map(|element| match element.offset() {
            Offset::Offset(offset) => offset,
            _ => 0,
        });
        offsets.sum()
    }
}
