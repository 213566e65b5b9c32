//! One test's world: topics, a group, a configuration, directories, and perhaps a schema, all its own; and the question
//! that nearly every test ends with: is everything that the service wrote exactly what the source topic adds up to?
//!
//! The answer never comes from the service: the source topic is read back and recounted by the independent
//! implementation, and compared with the committed records and rows as multisets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tallyguard::generate::WorkloadOptions;
use tallyguard::reconcile::compare::{
    Difference, Kind, compare_alert_records, compare_dead_letters, compare_late_records,
};
use tallyguard::reconcile::recount::{Parameters, Recount, RuleChange, RuleText, recount};
use tallyguard::reconcile::side_record::SourceRecord;

use crate::log::{TestLog, Transport, Watch};
use crate::statistics::{self, Tables};
use crate::support::process::GuardedDir;
use crate::support::{
    Database, EmbeddedLog, Load, ReadRecord, Service, TestConfig, TestRecord, shared_broker, shared_database,
    unique_name, wait_until_or_show, workload,
};

/// How long a service may take to be ready, or to catch up, on a machine that runs several tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Records become visible to committed readers a little after the offsets that were committed with them.
const VISIBILITY: Duration = Duration::from_secs(15);
const DIFFERENCES_SHOWN: usize = 20;

pub struct Scenario {
    pub config: TestConfig,
    pub parameters: Parameters,
    log: TestLog,
    tables: Option<Tables>,
    dir: GuardedDir,
}

impl Scenario {
    /// On the shared broker: four partitions, three rules with small windows, a little patience for the unpunctual.
    /// Topics are made by `create_topics`, after the configuration is as the test wants it.
    pub fn new() -> Self {
        Self::on(shared_broker().bootstrap())
    }

    /// The same on either transport.
    pub fn over(transport: Transport) -> Self {
        match transport {
            Transport::Kafka => Self::new(),
            Transport::Embedded => {
                let dir = GuardedDir::new("tallyguard-service-");
                let config = TestConfig::new("127.0.0.1:1", dir.path());
                let log = EmbeddedLog::new(&dir.path().join("log"), &config);
                let config = log.configure(config);
                Self::of(TestLog::Embedded(log), config, dir)
            }
        }
    }

    /// The same on a broker of the test's own.
    pub fn on(bootstrap: String) -> Self {
        let dir = GuardedDir::new("tallyguard-service-");
        let config = TestConfig::new(&bootstrap, dir.path());
        Self::of(TestLog::Kafka(bootstrap), config, dir)
    }

    fn of(log: TestLog, config: TestConfig, dir: GuardedDir) -> Self {
        let config = config
            .without_rule("velocity-1m")
            .set("time.out_of_orderness", "5s")
            .set("time.max_future_skew", "2s")
            .set("checkpoint.interval", "2s");
        let parameters = Parameters {
            source_topic: config.source_topic.clone(),
            rules: Vec::new(),
            out_of_orderness_ms: 5_000,
            max_future_skew_ms: 2_000,
            statistics: false,
            orders: false,
        };
        let scenario = Self { config, parameters, log, tables: None, dir };
        scenario.rule("velocity-10s", "10s", 5).rule("velocity-1m", "1m", 10).rule("velocity-5m", "5m", 12)
    }

    /// Adds a rule, version 1.
    #[must_use]
    pub fn rule(mut self, id: &str, window: &str, max_transactions: i64) -> Self {
        self.config = self.config.with_rule(id, 1, window, max_transactions, "high");
        self.parameters.rules.push(RuleText {
            id: id.to_owned(),
            version: 1,
            window_ms: milliseconds(window),
            window_text: window.to_owned(),
            max_transactions: u64::try_from(max_transactions).expect("a limit"),
            severity: "high".to_owned(),
            changes: Vec::new(),
        });
        self
    }

    /// Changes limit and severity of a rule under another version, for the next process; `from` is where each partition
    /// stands.
    pub fn change_rule(&mut self, id: &str, version: u32, max_transactions: i64, severity: &str) {
        let committed = self.committed();
        let rule = self.parameters.rules.iter_mut().find(|rule| rule.id == id).expect("a known rule");
        let changes = committed.iter().map(|(&partition, &first_offset)| RuleChange {
            partition,
            first_offset,
            version,
            max_transactions: u64::try_from(max_transactions).expect("a limit"),
            severity: severity.to_owned(),
        });
        rule.changes.extend(changes);
        let window = rule.window_text.clone();
        self.config = self.config.clone().with_rule(id, i64::from(version), &window, max_transactions, severity);
    }

    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        self.config = self.config.set(path, value);
        self
    }

    /// Sessions of a static member end soon: for tests that wait for one to end.
    #[must_use]
    pub fn short_session(mut self) -> Self {
        self.config = self.config.set_kafka_property("session.timeout.ms", "6000");
        self
    }

    /// Writes order statistics, and orders: into a schema of the shared server, or into a file beside an embedded log.
    #[must_use]
    pub fn with_statistics(self) -> Self {
        match &self.log {
            TestLog::Kafka(_) => self.with_database(shared_database()),
            TestLog::Embedded(_) => {
                let file = self.dir().join("statistics.sqlite");
                self.with_tables(Tables::Sqlite(file))
            }
        }
    }

    /// The same into a schema of that server.
    #[must_use]
    pub fn with_database(self, database: &'static Database) -> Self {
        self.with_tables(Tables::MariaDb(database, database.create_schema(&unique_name("service"))))
    }

    fn with_tables(mut self, tables: Tables) -> Self {
        self.config = tables.configure(self.config);
        self.parameters.statistics = true;
        self.parameters.orders = true;
        self.tables = Some(tables);
        self
    }

    #[must_use]
    pub fn create_topics(self) -> Self {
        self.create_topics_with(4)
    }

    #[must_use]
    pub fn create_topics_with(mut self, partitions: i32) -> Self {
        if let TestLog::Embedded(_) = self.log {
            self.config = self.config.set("embedded.partitions", partitions);
        }
        self.log.create(&self.config, partitions);
        self
    }

    /// The broker's address.
    pub fn bootstrap(&self) -> &str {
        match &self.log {
            TestLog::Kafka(bootstrap) => bootstrap,
            TestLog::Embedded(_) => panic!("an embedded log has no broker"),
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join(format!("state-{}", self.config.instance))
    }

    /// Starts the service and returns at once.
    pub fn start(&self) -> Service {
        self.start_as(&self.config)
    }

    pub fn start_as(&self, config: &TestConfig) -> Service {
        Service::start(&config.to_toml(), self.dir(), &[])
    }

    /// Starts the service and waits until it is ready.
    pub fn start_ready(&self) -> Service {
        let mut service = self.start();
        service.wait_ready(PATIENCE);
        service
    }

    /// The same configuration for another instance of the group.
    pub fn instance(&self, id: &str) -> TestConfig {
        self.config.clone().for_instance(id, self.dir())
    }

    /// Starts a process that must leave by itself: exit code and log.
    pub fn run_to_exit(&self) -> (i32, String) {
        let mut service = self.start();
        let code = service.wait_exit(PATIENCE);
        let code = code.unwrap_or_else(|| panic!("the service still runs after {PATIENCE:?}\n{}", self.logs()));
        (code, service.log())
    }

    pub fn produce(&self, records: impl IntoIterator<Item = TestRecord>) {
        self.log.produce(&self.config, records);
    }

    pub fn load(&self, per_second: u32, options: WorkloadOptions) -> Load {
        self.log.load(&self.config, per_second, workload(options))
    }

    pub fn committed(&self) -> BTreeMap<i32, i64> {
        self.committed_with_metadata().into_iter().map(|(partition, (offset, _))| (partition, offset)).collect()
    }

    pub fn committed_with_metadata(&self) -> BTreeMap<i32, (i64, String)> {
        self.log.committed(&self.config)
    }

    /// Deletes the source topic with the group's offsets, and creates it again.
    pub fn recreate_source(&self, partitions: i32) {
        self.log.recreate(&self.config, partitions);
    }

    pub fn watch(&self) -> Watch {
        self.log.watch(&self.config)
    }

    /// Waits until something new is committed; returns how long that took.
    pub fn await_progress(&self, watch: &Watch, beyond: i64) -> Duration {
        let started = Instant::now();
        wait_until_or_show(PATIENCE, "something new is committed", || self.logs(), || watch.total() > beyond);
        started.elapsed()
    }

    /// The end of each partition of the source topic.
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        self.log.ends(&self.config)
    }

    pub fn alerts(&self) -> Vec<ReadRecord> {
        self.read_all(&self.config.alert_topic)
    }

    /// Waits until the committed offsets have reached the end of the source topic, trailing markers included.
    pub fn wait_caught_up(&self) {
        let watch = self.watch();
        let ends = self.ends();
        let show = || format!("committed {:?}, ends {ends:?}\n{}", watch.offsets(), self.logs());
        wait_until_or_show(PATIENCE, "everything is committed", show, || watch.offsets() == ends);
    }

    /// Waits until the service has caught up, and compares everything it wrote with the recount.
    pub fn assert_exact(&self) -> Recount {
        self.wait_caught_up();
        self.assert_outputs(|_| true)
    }

    /// Waits until the service has caught up. Differences of those kinds in the output topics are counted; any other, and
    /// any in the database, fails the test.
    pub fn assert_exact_but_for(&self, tolerated: &[Kind]) -> BTreeMap<Kind, usize> {
        self.wait_caught_up();
        let expected = recount(&self.read(&self.config.source_topic), &self.parameters);
        let started = Instant::now();
        loop {
            let (seen, others): (Vec<_>, Vec<_>) =
                self.topic_differences(&expected).into_iter().partition(|found| tolerated.contains(&found.kind));
            let mut lines: Vec<String> = others.iter().map(ToString::to_string).collect();
            lines.extend(self.table_differences(&expected));
            if lines.is_empty() {
                let mut counts = BTreeMap::new();
                for difference in seen {
                    *counts.entry(difference.kind).or_default() += 1;
                }
                return counts;
            }
            if started.elapsed() > VISIBILITY {
                panic!("{}", self.describe(&lines, &expected));
            }
            sleep(Duration::from_millis(250));
        }
    }

    /// Compares what was written with the recount of those source records. Returns the recount.
    pub fn assert_outputs(&self, takes_part: impl Fn(&SourceRecord) -> bool) -> Recount {
        let source: Vec<SourceRecord> =
            self.read(&self.config.source_topic).into_iter().filter(|record| takes_part(record)).collect();
        self.assert_outputs_of(&source)
    }

    /// The same with source records that were read before.
    pub fn assert_outputs_of(&self, source: &[SourceRecord]) -> Recount {
        let expected = recount(source, &self.parameters);
        let started = Instant::now();
        loop {
            let differences = self.differences(&expected);
            if differences.is_empty() {
                return expected;
            }
            if started.elapsed() > VISIBILITY {
                panic!("{}", self.describe(&differences, &expected));
            }
            sleep(Duration::from_millis(250));
        }
    }

    /// Committed records of a topic as the recount takes them.
    pub fn read(&self, topic: &str) -> Vec<SourceRecord> {
        self.read_all(topic).into_iter().map(plain).collect()
    }

    /// Committed records of one of the configuration's topics.
    pub fn read_all(&self, topic: &str) -> Vec<ReadRecord> {
        self.log.read_all(&self.config, topic)
    }

    /// Where the output topics differ from the recount.
    pub fn topic_differences(&self, expected: &Recount) -> Vec<Difference> {
        let mut found = compare_alert_records(&expected.alerts, &self.read(&self.config.alert_topic));
        found.extend(compare_dead_letters(&expected.dead_letters, &self.read(&self.config.dead_letter_topic)));
        found.extend(compare_late_records(&expected.late, &self.read(&self.config.late_topic)));
        found
    }

    /// What the source records before these offsets add up to.
    pub fn recount_before(&self, ends: &BTreeMap<i32, i64>) -> Recount {
        let is_before = |record: &SourceRecord| ends.get(&record.partition).is_some_and(|end| record.offset < *end);
        let source: Vec<_> = self.read(&self.config.source_topic).into_iter().filter(is_before).collect();
        recount(&source, &self.parameters)
    }

    fn table_differences(&self, expected: &Recount) -> Vec<String> {
        let tables = self.tables.as_ref();
        tables.map(|tables| statistics::differences(tables, expected, self.parameters.orders)).unwrap_or_default()
    }

    fn differences(&self, expected: &Recount) -> Vec<String> {
        let mut lines: Vec<String> = self.topic_differences(expected).iter().map(ToString::to_string).collect();
        lines.extend(self.table_differences(expected));
        lines
    }

    fn describe(&self, differences: &[String], expected: &Recount) -> String {
        let mut text = format!(
            "{} differences from the recount ({} alerts, {} dead letters, {} late records, {} statistics rows, {:?}):\n",
            differences.len(),
            expected.alerts.len(),
            expected.dead_letters.len(),
            expected.late.len(),
            expected.statistics.len(),
            expected.outcomes,
        );
        for line in differences.iter().take(DIFFERENCES_SHOWN) {
            let _ = writeln!(text, "  {line}");
        }
        text + &self.logs()
    }

    /// The last lines of the newest logs of this scenario.
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(self.dir()).expect("the scenario's directory").flatten().map(|file| file.path());
        let mut logs: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
        logs.sort_by_key(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok());
        let newest = logs.iter().rev().take(3).rev();
        newest.map(|path| crate::support::process::tail(path, 40)).collect::<Vec<_>>().join("\n")
    }
}

pub fn plain(record: ReadRecord) -> SourceRecord {
    let ReadRecord { partition, offset, timestamp_ms, key, value, headers, .. } = record;
    SourceRecord { partition, offset, timestamp_ms, key, value, headers }
}

/// Dense traffic of few users with every peculiarity: thousands of alerts within minutes of event time.
pub fn busy(seed: u64, events: u64) -> WorkloadOptions {
    WorkloadOptions { seed, users: 400, merchants: 20, events, events_per_second: 200, ..WorkloadOptions::default() }
}

/// One valid transaction of a user, `second` seconds after the start of all tests' event time.
pub fn transaction(user: &str, id: impl std::fmt::Display, second: i64) -> TestRecord {
    let event_time = WorkloadOptions::FIXED_START.0 + second * 1_000;
    let value = serde_json::json!({
        "transaction_id": format!("t-{id}"), "order_id": format!("o-{id}"), "user_id": user, "merchant_id": "m-1",
        "amount_minor": 100, "currency": "EUR", "event_time": event_time,
    });
    TestRecord::new(user, value.to_string()).at(event_time)
}

/// As many transactions of the user as raise exactly the alerts of the rules that allow fewer, all in one second.
pub fn burst(user: &str, count: u32, second: i64) -> Vec<TestRecord> {
    (0..count).map(|number| transaction(user, format!("{user}-{second}-{number}"), second)).collect()
}

fn milliseconds(window: &str) -> i64 {
    let (number, unit) = window.split_at(window.len() - 1);
    let number: i64 = number.parse().expect("a number and a unit");
    number
        * match unit {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => panic!("{window} is no window of these tests"),
        }
}
