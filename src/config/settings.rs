//! The configuration as the rest of the program uses it: checked, derived, in the program's own types.
//!
//! A [`Settings`] exists only if everything in it is legal together. It is read-only; a running service never looks at
//! the file or the environment again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::RawConfig;
pub use super::raw::{Mode, SourceKind, StartAt};
use super::secret::Secret;
use crate::domain::duration::Millis;
use crate::domain::rule::Rule;
use crate::stats::Target;

/// Everything that an operator decides.
pub struct Settings {
    pub instance: InstanceSettings,
    pub source: SourceSettings,
    pub kafka: KafkaSettings,
    pub embedded: EmbeddedSettings,
    /// 1 to 31 rules with unlike ids, in the order of the configuration.
    pub rules: Vec<Rule>,
    pub time: TimeSettings,
    pub alerts: AlertsSettings,
    pub delivery: DeliverySettings,
    pub checkpoint: CheckpointSettings,
    pub stats: StatsSettings,
    pub http: HttpSettings,
    /// What is legal but probably not meant; one sentence each, to be logged once.
    pub warnings: Vec<String>,
    /// The configuration in force, secrets masked.
    pub(super) effective: RawConfig,
}

#[derive(Debug, Clone)]
pub struct InstanceSettings {
    /// Stable name of this instance.
    pub id: String,
    pub state_dir: PathBuf,
    /// Arbiters for partition actors, at least one.
    pub threads: usize,
}

#[derive(Debug, Clone)]
pub struct SourceSettings {
    pub kind: SourceKind,
    pub topic: String,
    pub group: String,
    /// Where a group begins that has never committed.
    pub start: StartAt,
}

#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// How long Kafka may stay unreachable at start.
    pub startup_timeout: Duration,
    /// librdkafka properties of the operator, secrets in clear: for [`super::client::client_config`] only.
    pub(super) properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("startup_timeout", &self.startup_timeout)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    pub dir: PathBuf,
    pub partitions: i32,
    /// Zero: for ever.
    pub retention_age: Duration,
    /// 0: no limit.
    pub retention_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct TimeSettings {
    pub out_of_orderness: Millis,
    pub max_future_skew: Millis,
}

#[derive(Debug, Clone)]
pub struct AlertsSettings {
    pub topic: String,
    pub late_topic: String,
    pub dead_letter_topic: String,
}

#[derive(Debug, Clone, Copy)]
pub struct DeliverySettings {
    pub mode: Mode,
    pub max_commit_interval: Duration,
    pub transaction_timeout: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct CheckpointSettings {
    pub interval: Duration,
    pub min_pause: Duration,
    pub timeout: Duration,
    /// Consecutive failures.
    pub tolerable_failures: u32,
    pub retain: usize,
}

#[derive(Debug, Clone)]
pub struct StatsSettings {
    pub enabled: bool,
    /// As configured; it may hold a password.
    pub(super) url: Secret,
    pub(super) password: Option<Secret>,
    pub flush_interval: Duration,
    pub batch_rows: usize,
    pub migrate: bool,
    /// Never true while statistics are off.
    pub orders: bool,
}

impl StatsSettings {
    /// How to connect to the database, password included. Do not log it.
    ///
    /// # Errors
    /// Never for settings of this module, which have passed this very reading.
    pub fn connect_options(&self) -> Result<Target, String> {
        let target: Target = self.url.expose().parse().map_err(Option::<String>::unwrap_or_default)?;
        Ok(match &self.password {
            Some(password) => target.with_password(password.expose()),
            None => target,
        })
    }
}

#[derive(Debug, Clone)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    /// Without a token the administrative calls are off.
    pub admin_token: Option<Secret>,
}

impl Settings {
    /// The identity under which Kafka fences a predecessor: `<source.group>-<instance.id>`.
    #[must_use]
    pub fn transactional_id(&self) -> String {
        format!("{}-{}", self.source.group, self.instance.id)
    }

    /// The configuration in force as TOML: defaults filled in, environment applied, secrets masked.
    ///
    /// # Errors
    /// When it cannot be written as TOML, which no legal configuration brings about.
    pub fn effective_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.effective)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.effective_toml().map_err(|_| fmt::Error)?)
    }
}
