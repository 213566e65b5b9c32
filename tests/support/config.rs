//! Configurations for the service, valid from the start, each with topics, a group and ports of its own.

use std::path::Path;

use toml::{Table, Value};

use super::database::{PASSWORD, Schema};
use super::process::{free_port, unique_name};
use super::topics::create_topic;

/// A configuration in the making. Statistics are off until `with_stats`; everything that is not set keeps the service's
/// default.
#[derive(Debug, Clone)]
pub struct TestConfig {
    pub source_topic: String,
    pub alert_topic: String,
    pub late_topic: String,
    pub dead_letter_topic: String,
    pub group: String,
    pub instance: String,
    pub http_port: u16,
    table: Table,
}

impl TestConfig {
    /// One rule, `velocity-1m`, of ten transactions within a minute; state under `dir`.
    pub fn new(bootstrap: &str, dir: &Path) -> Self {
        let source_topic = unique_name("transactions");
        let config = Self {
            alert_topic: unique_name("alerts"),
            late_topic: format!("{source_topic}.late"),
            dead_letter_topic: format!("{source_topic}.dead-letter"),
            group: unique_name("tallyguard"),
            instance: "a".to_owned(),
            http_port: 0,
            source_topic,
            table: Table::new(),
        };
        let names = config.clone();
        config
            .set("source.kind", "kafka")
            .set("source.topic", names.source_topic)
            .set("source.group", names.group)
            .set("kafka.brokers", bootstrap)
            .set("alerts.topic", names.alert_topic)
            .set("alerts.late_topic", names.late_topic)
            .set("alerts.dead_letter_topic", names.dead_letter_topic)
            .set("stats.enabled", false)
            .with_rule("velocity-1m", 1, "1m", 10, "high")
            .for_instance("a", dir)
    }

    /// The same configuration for another instance of the group, or for the same one on another machine: its id, its
    /// state directory under `dir`, a port of its own.
    #[must_use]
    pub fn for_instance(mut self, id: &str, dir: &Path) -> Self {
        self.instance = id.to_owned();
        self.http_port = free_port();
        let state_dir = dir.join(format!("state-{id}")).display().to_string();
        let listen = format!("127.0.0.1:{}", self.http_port);
        self.set("instance.id", id).set("instance.state_dir", state_dir).set("http.listen", listen)
    }

    /// Adds a rule, or replaces the one of that id.
    #[must_use]
    pub fn with_rule(mut self, id: &str, version: i64, window: &str, max_transactions: i64, severity: &str) -> Self {
        self = self.without_rule(id);
        let mut rule = Table::new();
        rule.insert("id".to_owned(), id.into());
        rule.insert("version".to_owned(), version.into());
        rule.insert("window".to_owned(), window.into());
        rule.insert("max_transactions".to_owned(), max_transactions.into());
        rule.insert("severity".to_owned(), severity.into());
        self.rules().push(Value::Table(rule));
        self
    }

    #[must_use]
    pub fn without_rule(mut self, id: &str) -> Self {
        self.rules().retain(|rule| rule.get("id").and_then(Value::as_str) != Some(id));
        self
    }

    /// Writes order statistics into that schema.
    #[must_use]
    pub fn with_stats(self, schema: &Schema) -> Self {
        self.set("stats.enabled", true).set("stats.url", schema.url.clone()).set("stats.password", PASSWORD)
    }

    /// Sets a key, e.g. `set("time.out_of_orderness", "5s")`; a name with dots in it is not possible here.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let (sections, key) = path.rsplit_once('.').expect("section.key");
        self.section(sections).insert(key.to_owned(), value.into());
        self
    }

    /// Sets a property of the Kafka client, e.g. `set_kafka_property("security.protocol", "ssl")`.
    #[must_use]
    pub fn set_kafka_property(mut self, name: &str, value: &str) -> Self {
        self.section("kafka.properties").insert(name.to_owned(), value.into());
        self
    }

    /// Takes a key or a section out, so that the service's default holds.
    #[must_use]
    pub fn remove(mut self, path: &str) -> Self {
        match path.rsplit_once('.') {
            Some((sections, key)) => self.section(sections).remove(key),
            None => self.table.remove(path),
        };
        self
    }

    /// Creates its four topics, the source with that many partitions, the others with one each.
    pub fn create_topics(&self, bootstrap: &str, source_partitions: i32) {
        create_topic(bootstrap, &self.source_topic, source_partitions, &[]);
        self.create_output_topics(bootstrap);
    }

    pub fn create_output_topics(&self, bootstrap: &str) {
        for topic in [&self.alert_topic, &self.late_topic, &self.dead_letter_topic] {
            create_topic(bootstrap, topic, 1, &[]);
        }
    }

    pub fn to_toml(&self) -> String {
        toml::to_string(&self.table).expect("a table is TOML")
    }

    /// Writes it to a file, for commands that take `--config`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.to_toml()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The section of that dotted path, made when it is missing.
    fn section(&mut self, path: &str) -> &mut Table {
        path.split('.').fold(&mut self.table, |table, name| {
            let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            entry.as_table_mut().unwrap_or_else(|| panic!("{name} in {path} is not a section"))
        })
    }

    fn rules(&mut self) -> &mut Vec<Value> {
        let rules = self.table.entry("rules").or_insert_with(|| Value::Array(Vec::new()));
        rules.as_array_mut().expect("rules is an array")
    }
}
