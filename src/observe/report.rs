//! The status of an instance as data: what `/api/v1/status` answers, and what readiness and gauges are read from.
//!
//! Wall-clock times end in `_ms` and are milliseconds since the epoch; event times are RFC 3339. An offset names the
//! next record. Fields may be added within a format version; none changes its meaning. The schema is
//! `schemas/status.v1.json`.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::rule::{Rule, Severity};
use crate::domain::time::Watermark;

/// Version of the form of [`StatusReport`].
pub const FORMAT: u32 = 1;

/// Everything that an instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct StatusReport {
    /// Version of this form.
    pub format: u32,
    pub instance: InstanceReport,
    pub state: ServiceState,
    /// Every owned partition is restored and commits succeed.
    pub ready: bool,
    /// Why the instance is not ready; empty when it is.
    pub reasons: Vec<String>,
    /// What a person should look at although the instance is ready.
    pub remarks: Vec<String>,
    pub guarantee: GuaranteeReport,
    pub recent: RecentReport,
    /// The owned partitions, ascending.
    pub partitions: Vec<PartitionReport>,
    pub commits: CommitsReport,
    pub kafka: KafkaReport,
    pub statistics: StatisticsReport,
    pub checkpoints: CheckpointsReport,
    pub rules: Vec<RuleReport>,
    /// Since the start of the process.
    pub totals: Totals,
}

impl StatusReport {
    /// The report of an instance that has done nothing yet.
    #[must_use]
    pub fn of(about: About) -> Self {
        Self {
            format: FORMAT,
            instance: InstanceReport {
                id: about.instance_id,
                group: about.group,
                topic: about.topic,
                cluster_id: None,
                mode: about.mode,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at_ms: about.started_at_ms,
                reported_at_ms: about.started_at_ms,
                since_heartbeat_ms: 0,
            },
            state: ServiceState::Starting,
            ready: false,
            reasons: Vec::new(),
            remarks: Vec::new(),
            guarantee: GuaranteeReport::default(),
            recent: RecentReport::default(),
            partitions: Vec::new(),
            commits: CommitsReport::default(),
            kafka: KafkaReport::default(),
            statistics: StatisticsReport { enabled: about.statistics_enabled, ..StatisticsReport::default() },
            checkpoints: CheckpointsReport {
                tolerable_failures: about.tolerable_checkpoint_failures,
                ..CheckpointsReport::default()
            },
            rules: about.rules,
            totals: Totals::default(),
        }
    }
}

/// What is known of an instance before it does anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub instance_id: String,
    pub group: String,
    pub topic: String,
    /// `delivery.mode`, as the configuration writes it.
    pub mode: String,
    pub started_at_ms: i64,
    pub statistics_enabled: bool,
    /// `checkpoint.tolerable_failures`.
    pub tolerable_checkpoint_failures: u32,
    pub rules: Vec<RuleReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct InstanceReport {
    pub id: String,
    pub group: String,
    pub topic: String,
    /// Unknown until Kafka was reached.
    pub cluster_id: Option<String>,
    /// `delivery.mode`.
    pub mode: String,
    pub version: String,
    pub started_at_ms: i64,
    /// When this report was made.
    pub reported_at_ms: i64,
    /// Since the I/O thread last came round.
    pub since_heartbeat_ms: u64,
}

/// The state of the whole instance in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// The log has not been reached yet.
    Starting,
    /// Waits for the first assignment of the group.
    Joining,
    /// At least one owned partition is being restored.
    Recovering,
    Running,
    /// Alerts may go on, but something needs a look: see the reasons and remarks.
    Degraded,
    /// Every owned partition is refused.
    Refused,
    Stopping,
}

impl ServiceState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Joining => "joining",
            Self::Recovering => "recovering",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Refused => "refused",
            Self::Stopping => "stopping",
        }
    }
}

/// The state of the guarantee, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct GuaranteeReport {
    pub state: GuaranteeState,
    /// Whether it holds and how far, as one or two sentences.
    pub headline: String,
    /// What a person should do about it; null when nothing.
    pub what_to_do: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuaranteeState {
    Holding,
    /// Nothing is lost or repeated; alerts come later.
    #[default]
    Waiting,
    /// At least one partition is held until a person decides.
    Stopped,
}

/// What happened lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct RecentReport {
    /// Records taken in, replayed ones left out, over the last ten whole seconds.
    pub records_per_second: u64,
    /// Alerts committed within the last minute, at most 1,000: those that the latencies speak of.
    pub alerts: u64,
    /// From the timestamp of the source record to the commit of its alert; null without alerts.
    pub alert_latency_p50_ms: Option<u64>,
    pub alert_latency_p99_ms: Option<u64>,
}

/// One owned partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct PartitionReport {
    #[schemars(with = "i32")]
    #[schema(value_type = i32)]
    pub partition: PartitionId,
    #[serde(flatten)]
    pub phase: PartitionPhase,
    /// Taken in, not necessarily committed.
    #[schemars(with = "Option<i64>")]
    #[schema(value_type = Option<i64>)]
    pub applied_offset: Option<Offset>,
    #[schemars(with = "Option<i64>")]
    #[schema(value_type = Option<i64>)]
    pub committed_offset: Option<Offset>,
    /// Behind the last record of the log that may be read.
    #[schemars(with = "Option<i64>")]
    #[schema(value_type = Option<i64>)]
    pub end_offset: Option<Offset>,
    /// End less applied offset: an upper bound of the records not yet taken in, because markers of transactions take
    /// offsets too.
    pub lag_records: Option<u64>,
    #[serde(serialize_with = "event_time_text")]
    #[schemars(with = "Option<String>")]
    #[schema(value_type = Option<String>)]
    pub watermark: Watermark,
    /// Every window that ends at or before this is closed, and its statistics are in the database.
    #[serde(serialize_with = "event_time_text")]
    #[schemars(with = "Option<String>")]
    #[schema(value_type = Option<String>)]
    pub final_through: Watermark,
    /// Where a replay without a local snapshot starts to rebuild the open rule windows.
    #[schemars(with = "Option<i64>")]
    #[schema(value_type = Option<i64>)]
    pub horizon: Option<Offset>,
    /// The same for the statistics that the database has not acknowledged.
    #[schemars(with = "Option<i64>")]
    #[schema(value_type = Option<i64>)]
    pub statistics_horizon: Option<Offset>,
    /// Offsets from the lower horizon to the committed offset: what a replay without a local snapshot reads.
    pub replay_distance_records: Option<u64>,
    pub open_users: u64,
    /// Statistics rows that changed and are not yet on their way to the database.
    pub statistics_pending_rows: u64,
    /// Statistics before this are in the database.
    #[schemars(with = "Option<i64>")]
    #[schema(value_type = Option<i64>)]
    pub statistics_acknowledged_offset: Option<Offset>,
}

impl PartitionReport {
    /// A partition of which nothing is known but that it is owned.
    #[must_use]
    pub fn assigned(partition: PartitionId) -> Self {
        Self {
            partition,
            phase: PartitionPhase::Recovering { waiting_for: None },
            applied_offset: None,
            committed_offset: None,
            end_offset: None,
            lag_records: None,
            watermark: Watermark::NONE,
            final_through: Watermark::NONE,
            horizon: None,
            statistics_horizon: None,
            replay_distance_records: None,
            open_users: 0,
            statistics_pending_rows: 0,
            statistics_acknowledged_offset: None,
        }
    }

    /// Fills the fields that follow from others.
    pub(super) fn derive_distances(&mut self) {
        self.lag_records = distance(self.applied_offset, self.end_offset);
        self.replay_distance_records = distance(self.horizon.min(self.statistics_horizon), self.committed_offset);
    }
}

/// From one position to a later one; 0 when the later one is not known to be later.
fn distance(from: Option<Offset>, to: Option<Offset>) -> Option<u64> {
    Some(u64::try_from(to?.0.saturating_sub(from?.0)).unwrap_or(0))
}

/// How far an owned partition has come in its life with this instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum PartitionPhase {
    /// Being restored; nothing of it is put out yet.
    Recovering {
        /// Why it takes longer than usual.
        waiting_for: Option<String>,
    },
    Live,
    /// Held paused, because going on would lose or repeat data.
    Refused(PartitionRefusal),
    /// On its way to another instance.
    Revoking,
}

impl PartitionPhase {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Recovering { .. } => "recovering",
            Self::Live => "live",
            Self::Refused(_) => "refused",
            Self::Revoking => "revoking",
        }
    }
}

/// Why a partition is refused, and what the operator can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct PartitionRefusal {
    /// A short name that stays the same between versions.
    pub code: String,
    pub reason: String,
    pub remedy: String,
}

/// An error and when it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct Trouble {
    pub at_ms: i64,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct CommitsReport {
    pub last: Option<LastCommit>,
    /// For how long no commit has succeeded although one was tried; null while commits succeed.
    pub failing_for_ms: Option<u64>,
    pub last_error: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct LastCommit {
    pub at_ms: i64,
    pub duration_ms: u64,
    pub alerts: u64,
    pub late: u64,
    pub dead_letters: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct KafkaReport {
    pub last_error: Option<Trouble>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct StatisticsReport {
    pub enabled: bool,
    pub connected: bool,
    /// Rows that changed and are not acknowledged by the database.
    pub pending_rows: u64,
    /// Rows that the database refused for good.
    pub rows_set_aside: u64,
    pub last_flush_at_ms: Option<i64>,
    pub last_error: Option<Trouble>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct CheckpointsReport {
    pub last_success_at_ms: Option<i64>,
    pub last_duration_ms: Option<u64>,
    pub last_bytes: Option<u64>,
    /// Between the last two that succeeded.
    pub last_interval_ms: Option<u64>,
    pub consecutive_failures: u32,
    /// How many of those readiness tolerates.
    pub tolerable_failures: u32,
    pub last_error: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct RuleReport {
    pub id: String,
    pub version: u32,
    pub window: String,
    pub max_transactions: u32,
    pub severity: Severity,
}

impl From<&Rule> for RuleReport {
    fn from(rule: &Rule) -> Self {
        Self {
            id: rule.id.clone(),
            version: rule.version,
            window: rule.window_text.clone(),
            max_transactions: rule.max_transactions,
            severity: rule.severity,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema, ToSchema)]
pub struct Totals {
    pub counted: u64,
    pub duplicate: u64,
    pub late: u64,
    pub dead_letter: u64,
    /// Records read again to rebuild state.
    pub replayed: u64,
    pub key_mismatch: u64,
    /// Committed alerts.
    pub alerts: u64,
    pub transactions_committed: u64,
    pub transactions_aborted: u64,
    pub producer_replacements: u64,
}

/// RFC 3339, or null while there is none.
fn event_time_text<S: Serializer>(watermark: &Watermark, serializer: S) -> Result<S::Ok, S::Error> {
    if *watermark == Watermark::NONE { serializer.serialize_none() } else { serializer.collect_str(watermark) }
}
