//! The configuration as it is written: sections, keys and defaults, and nothing else.
//!
//! The comments here are the descriptions in `schemas/config.v1.json`. What is legal beyond the type of a value is
//! decided in [`super::check`].

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::duration::ConfiguredDuration;
use super::secret::Secret;
use crate::domain::rule::Severity;

/// Every key can also be given by the environment, as TALLYGUARD__SECTION__KEY; the environment wins.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tallyguard configuration", extend("$id" = "urn:tallyguard:config:v1"))]
pub struct RawConfig {
    pub instance: RawInstance,
    pub source: RawSource,
    pub kafka: RawKafka,
    pub embedded: RawEmbedded,
    /// Velocity rules, 1 to 31. Without any, one rule of 10 transactions within one minute is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<RawRule>", length(min = 1, max = 31))]
    pub rules: Option<Vec<RawRule>>,
    pub time: RawTime,
    pub alerts: RawAlerts,
    pub delivery: RawDelivery,
    pub checkpoint: RawCheckpoint,
    pub stats: RawStats,
    pub http: RawHttp,
    pub reconcile: RawReconcile,
}

/// This process among its peers.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Instance")]
pub struct RawInstance {
    /// Stable name of this instance, unlike that of any other in the group: the transactional id is
    /// `<source.group>-<instance.id>`. Default: the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub id: Option<String>,
    /// Directory of the local snapshots. Losing it costs a longer replay and nothing else.
    pub state_dir: String,
    /// Threads that host partition actors; 0 is one for each core.
    #[schemars(range(max = 1024))]
    pub threads: u16,
}

/// Where transactions come from.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Source")]
pub struct RawSource {
    pub kind: SourceKind,
    /// Topic of the transactions.
    pub topic: String,
    /// Consumer group; it owns the committed offsets.
    pub group: String,
    pub start: StartAt,
}

/// The kind of log that is read: a Kafka topic, or the embedded log in a folder of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Kafka,
    Embedded,
}

/// Where a group begins that has never committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    Earliest,
    Latest,
}

/// How Kafka is reached.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Kafka")]
pub struct RawKafka {
    /// Bootstrap brokers, `host:port`, separated by commas.
    pub brokers: String,
    /// How long Kafka may stay unreachable before a command gives up.
    pub startup_timeout: ConfiguredDuration,
    /// Properties of librdkafka by their own names, such as security.protocol, sasl.* and ssl.*; a secret may be given
    /// as the path of a file under its name with `_file` added. Those that would break the delivery guarantee are
    /// refused.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "properties_schema")]
    pub properties: BTreeMap<String, PropertyText>,
}

/// The embedded log, for `source.kind = "embedded"`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Embedded")]
pub struct RawEmbedded {
    /// Folder of the log. It is the source of truth: losing it loses the transactions. Default: `log` in
    /// `instance.state_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub dir: Option<String>,
    /// Partitions of the log, 1 to 256. It may grow later and never shrinks.
    #[schemars(range(min = 1, max = 256))]
    pub partitions: u16,
    /// Records that were appended longer ago are dropped, unless a recovery or an open reconciliation day needs them; 0s
    /// keeps all.
    pub retention_age: ConfiguredDuration,
    /// Bytes of records above which the oldest are dropped, with the same exceptions; 0 is no limit.
    pub retention_bytes: u64,
}

/// The value of a librdkafka property: a text, number or truth value, kept as text.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PropertyText(pub String);

impl<'de> Deserialize<'de> for PropertyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = PropertyText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(PropertyText(value.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
                Ok(PropertyText(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                Ok(PropertyText(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
                Ok(PropertyText(value.to_string()))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

fn properties_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    // Objects are allowed because TOML reads an unquoted `security.protocol` as a table within a table.
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": { "type": ["string", "integer", "number", "boolean", "object"] }
    })
}

/// More than `max_transactions` of one user within one tumbling window raise one alert.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
pub struct RawRule {
    /// 1 to 64 bytes without control characters and `|`; unlike that of any other rule.
    #[schemars(required)]
    pub id: Option<String>,
    /// Rises with every change of threshold or severity.
    #[serde(default = "first_version")]
    #[schemars(range(min = 1))]
    pub version: u32,
    /// Window size in whole seconds, 1s to 24h.
    #[schemars(required)]
    pub window: Option<ConfiguredDuration>,
    /// How many transactions are fine; the next one raises the alert.
    #[schemars(required, range(min = 1))]
    pub max_transactions: Option<u32>,
    #[serde(default = "default_severity")]
    pub severity: Severity,
}

fn first_version() -> u32 {
    1
}

fn default_severity() -> Severity {
    Severity::High
}

/// How event time is read.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Time")]
pub struct RawTime {
    /// How far a record's event time may lie behind the latest one of its partition without being late, 0s to 24h.
    /// Alerts are raised at the breach, so a generous value delays nothing; it only keeps windows open longer.
    pub out_of_orderness: ConfiguredDuration,
    /// How far event time may lie ahead of the record's Kafka timestamp before the record is dead-lettered.
    pub max_future_skew: ConfiguredDuration,
}

/// Output topics. They differ from each other and from the source topic.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Alerts")]
pub struct RawAlerts {
    /// Topic of the alerts.
    pub topic: String,
    /// Topic of late records. Default: `<source.topic>.late`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub late_topic: Option<String>,
    /// Topic of invalid records. Default: `<source.topic>.dead-letter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub dead_letter_topic: Option<String>,
}

/// What is guaranteed, and how often it is committed.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Delivery")]
pub struct RawDelivery {
    pub mode: Mode,
    /// Longest time between commits that hold offsets only; a pending alert commits as soon as the previous commit is
    /// done.
    pub max_commit_interval: ConfiguredDuration,
    /// After this time the broker aborts a transaction whose instance went silent, 1s to 15m. In the modes without
    /// transactions: how long the outputs of a commit, or its offsets, may take.
    pub transaction_timeout: ConfiguredDuration,
}

/// The delivery guarantee: what may happen to an output when the process dies. `exactly-once`: nothing; `at-least-once`: it
/// may be written twice; `at-most-once`: it may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    ExactlyOnce,
    AtLeastOnce,
    AtMostOnce,
}

impl Mode {
    /// As the configuration writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
            Self::AtMostOnce => "at-most-once",
        }
    }
}

/// Local snapshots, which shorten the replay after a restart.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Checkpoint")]
pub struct RawCheckpoint {
    /// Time from the start of one snapshot to the start of the next, at least 100ms.
    pub interval: ConfiguredDuration,
    /// Shortest pause between the end of a snapshot and the start of the next.
    pub min_pause: ConfiguredDuration,
    /// A snapshot that takes longer is given up and counted as failed.
    pub timeout: ConfiguredDuration,
    /// Failures in a row after which the instance reports not ready.
    pub tolerable_failures: u32,
    /// How many snapshots are kept.
    #[schemars(range(min = 1, max = 1000))]
    pub retain: u32,
}

/// Order statistics in MySQL or MariaDB.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Stats")]
pub struct RawStats {
    pub enabled: bool,
    /// `mysql://user@host:port/database`, or, with the embedded log only, `sqlite:path/of/a/file`. Default:
    /// `mysql://tallyguard@127.0.0.1:3306/tallyguard`; with the embedded log `statistics.sqlite` in
    /// `instance.state_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub url: Option<String>,
    /// Password of the database user. Give it here, in `password_file` or in the URL, in one place only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Secret")]
    pub password: Option<Secret>,
    /// Path of a file that holds the password.
    pub password_file: String,
    /// How often changed rows are written.
    pub flush_interval: ConfiguredDuration,
    /// Rows in one statement.
    #[schemars(range(min = 1, max = 10_000))]
    pub batch_rows: u32,
    /// Whether the service applies its own schema migrations.
    pub migrate: bool,
    /// Whether the last record of each order is kept in table `orders` too.
    pub orders: bool,
}

/// Dashboard, API and metrics.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Http")]
pub struct RawHttp {
    /// Address and port, such as 127.0.0.1:8088 or `[::]:8088`.
    pub listen: String,
    /// Bearer token of the administrative calls. Without a token they are off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Secret")]
    pub admin_token: Option<Secret>,
    /// Path of a file that holds the token.
    pub admin_token_file: String,
}

/// The nightly comparison.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Reconcile")]
pub struct RawReconcile {
    /// Time of day in UTC, `HH:MM`, or nothing. This version runs no schedule: leave it empty.
    pub schedule: String,
}
