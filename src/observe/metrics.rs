//! The only owner of metric names (contract §9).
//!
//! Promises: every name is on the page from the first scrape on; what counts events is told by the engine as it happens,
//! with a function of this module, once per batch or commit; what measures a condition (gauges) is read from the status
//! board at the scrape. So a gauge never goes stale, costs the engine nothing, and the series of a partition appear and
//! vanish with the partition, which the `metrics` registry could not do. Labels come from the configuration, from fixed
//! words and from partition numbers, and must never come from record content.
//!
//! Needs [`install`] once per process; before it, counting is a no-op.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

pub use metrics::Unit;

use crate::domain::partition::Outcome;
use crate::observe::gauges;
use crate::observe::report::StatusReport;

pub const RECORDS: &str = "tallyguard_records_total";
pub const REPLAYED_RECORDS: &str = "tallyguard_replayed_records_total";
pub const KEY_MISMATCH: &str = "tallyguard_key_mismatch_total";
pub const ALERTS: &str = "tallyguard_alerts_total";
pub const ALERT_LATENCY: &str = "tallyguard_alert_latency_seconds";
/// Of mode at-most-once alone.
pub const OUTPUTS_GIVEN_UP: &str = "tallyguard_outputs_given_up_total";
pub const TRANSACTIONS: &str = "tallyguard_transactions_total";
pub const COMMIT_DURATION: &str = "tallyguard_commit_duration_seconds";
pub const PRODUCER_REPLACEMENTS: &str = "tallyguard_producer_replacements_total";
pub const BACKPRESSURE: &str = "tallyguard_backpressure_seconds_total";
pub const RECOVERY_DURATION: &str = "tallyguard_recovery_duration_seconds";
pub const CHECKPOINT_DURATION: &str = "tallyguard_checkpoint_duration_seconds";
pub const CHECKPOINT_FAILURES: &str = "tallyguard_checkpoint_failures_total";
pub const CHECKPOINT_INTERVAL: &str = "tallyguard_checkpoint_interval_seconds";
pub const CHECKPOINT_LAST_SUCCESS: &str = "tallyguard_checkpoint_last_success_timestamp_seconds";
pub const STATS_FLUSH_DURATION: &str = "tallyguard_stats_flush_duration_seconds";
pub const STATS_ERRORS: &str = "tallyguard_stats_errors_total";
pub const STATS_ROWS_SET_ASIDE: &str = "tallyguard_stats_rows_set_aside_total";
pub const STATS_PENDING_ROWS: &str = "tallyguard_stats_pending_rows";
pub const CONSUMER_LAG: &str = "tallyguard_consumer_lag_records";
pub const WATERMARK_LAG: &str = "tallyguard_watermark_lag_seconds";
pub const REPLAY_DISTANCE: &str = "tallyguard_replay_distance_records";
pub const OPEN_USERS: &str = "tallyguard_open_users";
pub const PARTITIONS_OWNED: &str = "tallyguard_partitions_owned";
pub const PARTITIONS_REFUSED: &str = "tallyguard_partitions_refused";
pub const READY: &str = "tallyguard_ready";

/// Counters that the registry keeps: name, unit, description.
const COUNTERS: &[(&str, Unit, &str)] = &[
    (RECORDS, Unit::Count, "Records taken in, by outcome; each record has exactly one."),
    (REPLAYED_RECORDS, Unit::Count, "Records read again to rebuild state; their outputs are in the log already."),
    (KEY_MISMATCH, Unit::Count, "Records whose key is missing or is not their user_id."),
    (ALERTS, Unit::Count, "Committed alerts, by rule."),
    (TRANSACTIONS, Unit::Count, "Transactions of this instance, by result."),
    (OUTPUTS_GIVEN_UP, Unit::Count, "Outputs that may not have been written, in mode at-most-once."),
    (PRODUCER_REPLACEMENTS, Unit::Count, "Producers replaced because the outcome of a transaction was in doubt."),
    (CHECKPOINT_FAILURES, Unit::Count, "Checkpoints that failed; alerts do not depend on them."),
    (STATS_ERRORS, Unit::Count, "Errors of the statistics database, retried ones included."),
    (STATS_ROWS_SET_ASIDE, Unit::Count, "Statistics rows that the database refused for good."),
];

/// Histograms: name, unit, description.
const HISTOGRAMS: &[(&str, Unit, &str)] = &[
    (ALERT_LATENCY, Unit::Seconds, "From the timestamp of the source record to the commit of its alert."),
    (COMMIT_DURATION, Unit::Seconds, "From the begin of a Kafka transaction to the answer to its commit."),
    (RECOVERY_DURATION, Unit::Seconds, "From the assignment of a partition until it is live."),
    (CHECKPOINT_DURATION, Unit::Seconds, "From asking for changes until they are on disk."),
    (STATS_FLUSH_DURATION, Unit::Seconds, "From handing statistics over until the database has them."),
];

/// Upper bounds, in seconds. An alert takes milliseconds when all is well; a replay may take half a minute.
const BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0,
];
/// Histograms keep single samples until upkeep sorts them into buckets; nobody may ever scrape, so a thread does it.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the source has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackpressureStage {
    /// A partition actor has all the batches that it may have.
    Actors,
    /// As many outputs as allowed wait for their commit.
    Outputs,
}

impl BackpressureStage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Actors => "actors",
            Self::Outputs => "outputs",
        }
    }

    /// Microseconds so far.
    pub(super) fn waited_us(self) -> u64 {
        self.total().load(Ordering::Relaxed)
    }

    fn total(self) -> &'static AtomicU64 {
        match self {
            Self::Actors => &WAITED_FOR_ACTORS_US,
            Self::Outputs => &WAITED_FOR_OUTPUTS_US,
        }
    }
}

/// The registry counts in integers; seconds need fractions, so these are counted here, in microseconds.
static WAITED_FOR_ACTORS_US: AtomicU64 = AtomicU64::new(0);
static WAITED_FOR_OUTPUTS_US: AtomicU64 = AtomicU64::new(0);

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionResult {
    Committed,
    Aborted,
}

/// Records of a batch that had this outcome.
pub fn records(outcome: Outcome, count: u64) {
    counter!(RECORDS, "outcome" => outcome_word(outcome)).increment(count);
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Counted => "counted",
        Outcome::Duplicate => "duplicate",
        Outcome::Late => "late",
        Outcome::DeadLetter => "dead_letter",
    }
}

pub fn replayed_records(count: u64) {
    counter!(REPLAYED_RECORDS).increment(count);
}

pub fn key_mismatches(count: u64) {
    counter!(KEY_MISMATCH).increment(count);
}

/// Alerts of a configured rule that are committed now.
pub fn alerts(rule_id: &str, count: u64) {
    // The exporter takes a backslash for one that escapes already, unless it comes twice.
    counter!(ALERTS, "rule" => rule_id.replace('\\', r"\\")).increment(count);
}

/// From the source record's timestamp to the commit; once per committed alert.
pub fn alert_latency(latency: Duration) {
    histogram!(ALERT_LATENCY).record(latency);
}

pub fn outputs_given_up(count: u64) {
    counter!(OUTPUTS_GIVEN_UP).increment(count);
}

pub fn transaction(result: TransactionResult) {
    let word = match result {
        TransactionResult::Committed => "committed",
        TransactionResult::Aborted => "aborted",
    };
    counter!(TRANSACTIONS, "result" => word).increment(1);
}

pub fn commit_duration(duration: Duration) {
    histogram!(COMMIT_DURATION).record(duration);
}

pub fn producer_replaced() {
    counter!(PRODUCER_REPLACEMENTS).increment(1);
}

/// Time during which the source was not read on.
pub fn backpressure(stage: BackpressureStage, waited: Duration) {
    stage.total().fetch_add(u64::try_from(waited.as_micros()).unwrap_or(0), Ordering::Relaxed);
}

/// A partition is live.
pub fn recovered(duration: Duration) {
    histogram!(RECOVERY_DURATION).record(duration);
}

pub fn checkpoint_stored(duration: Duration) {
    histogram!(CHECKPOINT_DURATION).record(duration);
}

pub fn checkpoint_failed() {
    counter!(CHECKPOINT_FAILURES).increment(1);
}

pub fn stats_flushed(duration: Duration) {
    histogram!(STATS_FLUSH_DURATION).record(duration);
}

/// Something that the database did not take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsErrorKind {
    /// It takes no writes at all.
    Unavailable,
    /// Another transaction was in the way; tried again at once.
    Contention,
    RowSetAside,
}

impl StatsErrorKind {
    const ALL: [Self; 3] = [Self::Unavailable, Self::Contention, Self::RowSetAside];

    fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Contention => "contention",
            Self::RowSetAside => "row_set_aside",
        }
    }
}

pub fn stats_error(kind: StatsErrorKind) {
    counter!(STATS_ERRORS, "kind" => kind.as_str()).increment(1);
}

pub fn stats_rows_set_aside(rows: u64) {
    counter!(STATS_ROWS_SET_ASIDE).increment(rows);
}

/// Makes the registry of this process, at the first call; later calls give the same page.
#[must_use]
pub fn install() -> MetricsPage {
    static PAGE: OnceLock<MetricsPage> = OnceLock::new();
    PAGE.get_or_init(make_registry).clone()
}

fn make_registry() -> MetricsPage {
    let builder = PrometheusBuilder::new();
    // Refuses only an empty list.
    let builder = builder.set_buckets(BUCKETS).unwrap_or_default();
    let recorder = builder.build_recorder();
    let page = MetricsPage { registry: recorder.handle(), process: metrics_process::Collector::default() };
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::error!("another metrics recorder is installed: counters and histograms will not be on /metrics");
    }
    page.process.describe();
    introduce_names();
    let registry = page.registry.clone();
    let upkeep = std::thread::Builder::new().name("tallyguard-metrics".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            registry.run_upkeep();
        }
    });
    if let Err(error) = upkeep {
        tracing::warn!("no thread for metrics: {error}; histograms grow until they are scraped");
    }
    page
}

/// Describes every counter and histogram and makes their series, so that rates begin at zero.
fn introduce_names() {
    for (name, unit, description) in COUNTERS {
        describe_counter!(*name, *unit, *description);
    }
    for (name, unit, description) in HISTOGRAMS {
        describe_histogram!(*name, *unit, *description);
        let _registered = histogram!(*name);
    }
    for outcome in [Outcome::Counted, Outcome::Duplicate, Outcome::Late, Outcome::DeadLetter] {
        records(outcome, 0);
    }
    for result in ["committed", "aborted"] {
        counter!(TRANSACTIONS, "result" => result).increment(0);
    }
    for kind in StatsErrorKind::ALL {
        counter!(STATS_ERRORS, "kind" => kind.as_str()).increment(0);
    }
    for name in [REPLAYED_RECORDS, KEY_MISMATCH, PRODUCER_REPLACEMENTS, CHECKPOINT_FAILURES, STATS_ROWS_SET_ASIDE] {
        counter!(name).increment(0);
    }
}

/// What a scraper reads. A clone is the same page.
#[derive(Debug, Clone)]
pub struct MetricsPage {
    registry: PrometheusHandle,
    process: metrics_process::Collector,
}

impl MetricsPage {
    /// All metrics in the Prometheus text format 0.0.4; gauges as the report says.
    #[must_use]
    pub fn render(&self, report: &StatusReport) -> String {
        for rule in &report.rules {
            alerts(&rule.id, 0);
        }
        self.process.collect();
        let mut text = self.registry.render();
        gauges::append(&mut text, report);
        text
    }
}
