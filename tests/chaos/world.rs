//! A broker, a database, a proxy in front of each, and the question at the end: is everything that was written exactly what
//! the source topic adds up to, has nobody ever seen anything else, and does nothing hang?

use std::collections::BTreeSet;
use std::time::Duration;

use crate::observer::{Observer, Seen};
use crate::protocol::Protocol;
use crate::proxy::Proxy;
use crate::scenario::Scenario;
use crate::support::topics::produce;
use crate::support::{Broker, Database, TestRecord, free_port, wait_until_or_show};

const PARTITIONS: i32 = 6;
/// A transaction that hangs keeps readers of committed records before it for ever; one that a dead process left open ends
/// with its time-out.
const UNTIL_A_SENTINEL_IS_READ: Duration = Duration::from_secs(30);

pub struct World {
    pub scenario: Scenario,
    pub broker: Broker,
    pub database: &'static Database,
    pub kafka: Proxy,
    pub sql: Proxy,
    observer: Observer,
}

impl World {
    pub fn start(seed: u64) -> Self {
        let (inner, outer) = (free_port(), free_port());
        let broker = Broker::start_behind(inner, outer);
        let kafka = Proxy::start_on(outer, Protocol::Kafka, inner, seed);
        // It lives until the test process ends, as a shared one does.
        let database: &'static Database = Box::leak(Box::new(Database::start()));
        let sql = Proxy::start(Protocol::MySql, database.port(), seed);
        let scenario = Scenario::on(broker.bootstrap()).short_session().with_database(database);
        let url = stats_url(&scenario).replace(&format!(":{}/", database.port()), &format!(":{}/", sql.port()));
        let scenario = scenario
            .set("kafka.brokers", kafka.address())
            .set("stats.url", url)
            .set("delivery.transaction_timeout", "5s")
            .create_topics_with(PARTITIONS);
        let config = &scenario.config;
        let observer = Observer::start(&broker.bootstrap(), &outputs(config));
        Self { observer, scenario, broker, database, kafka, sql }
    }

    /// Faults end here: everything is compared. Returns a line for the summary.
    pub fn assert_exact(&self) -> String {
        self.kafka.leave_alone();
        self.sql.leave_alone();
        let expected = self.scenario.assert_exact();
        let topics = outputs(&self.scenario.config);
        let found: BTreeSet<Seen> = topics.iter().flat_map(|topic| self.scenario.read_all(topic)).map(place).collect();
        let show = || {
            let seen = self.observer.seen();
            let vanished = seen.difference(&found).count();
            format!("{} records seen, {} there, {vanished} seen and not there", seen.len(), found.len())
        };
        let is_seen = || self.observer.seen() == found;
        wait_until_or_show(UNTIL_A_SENTINEL_IS_READ, "the observer has seen what is there", show, is_seen);
        for topic in topics {
            produce(self.scenario.bootstrap(), topic, [TestRecord::new("sentinel", "sentinel")]);
            let is_read = || {
                let is_sentinel = |seen: &Seen| seen.0 == topic && seen.3.as_deref() == Some(b"sentinel".as_slice());
                self.observer.seen().iter().any(is_sentinel)
            };
            let what = format!("a sentinel is read from {topic}: no transaction hangs");
            wait_until_or_show(UNTIL_A_SENTINEL_IS_READ, &what, || self.scenario.logs(), is_read);
        }
        format!("{:?}, {} alerts, no difference", expected.outcomes, expected.alerts.len())
    }

    /// What the proxies have done so far.
    pub fn faults(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for ((request, fault), count) in self.kafka.counts().into_iter().chain(self.sql.counts()) {
            lines.push(format!("{request} {fault}: {count}"));
        }
        lines.join(", ")
    }
}

fn outputs(config: &crate::support::TestConfig) -> [&str; 3] {
    [&config.alert_topic, &config.late_topic, &config.dead_letter_topic]
}

fn place(record: crate::support::ReadRecord) -> Seen {
    (record.topic, record.partition, record.offset, record.value)
}

fn stats_url(scenario: &Scenario) -> String {
    let config: toml::Table = scenario.config.to_toml().parse().expect("TOML");
    config["stats"]["url"].as_str().expect("an address").to_owned()
}
