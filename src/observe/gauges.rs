//! The part of the metrics page that is read from the status report at the scrape: conditions rather than events.
//!
//! Written as text here, because the registry of the `metrics` crate keeps a series for ever: the lag of a partition that
//! another instance owns now would stay on the page and in every sum over it.

use std::fmt::{Arguments, Display, Formatter, Write};

use crate::domain::time::Watermark;
use crate::observe::metrics::{
    BACKPRESSURE, BackpressureStage, CHECKPOINT_INTERVAL, CHECKPOINT_LAST_SUCCESS, CONSUMER_LAG, OPEN_USERS,
    PARTITIONS_OWNED, PARTITIONS_REFUSED, READY, REPLAY_DISTANCE, STATS_PENDING_ROWS, WATERMARK_LAG,
};
use crate::observe::report::{PartitionPhase, PartitionReport, StatusReport};

pub fn append(text: &mut String, report: &StatusReport) {
    let partitions = &report.partitions;
    let checkpoints = &report.checkpoints;
    let refused = partitions.iter().filter(|one| matches!(one.phase, PartitionPhase::Refused(_))).count();
    gauge(text, READY, "1 when every owned partition is restored and commits succeed, else 0.", u8::from(report.ready));
    gauge(text, PARTITIONS_OWNED, "Partitions that the group assigned to this instance.", partitions.len());
    gauge(
        text,
        PARTITIONS_REFUSED,
        "Owned partitions that are held paused because going on would not be exact.",
        refused,
    );
    let open_users: u64 = partitions.iter().map(|one| one.open_users).sum();
    gauge(text, OPEN_USERS, "Users with an open window.", open_users);
    let pending = report.statistics.pending_rows;
    gauge(text, STATS_PENDING_ROWS, "Statistics rows that changed and are not in the database.", pending);
    let interval = Seconds::of_ms(checkpoints.last_interval_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0));
    gauge(text, CHECKPOINT_INTERVAL, "Between the last two successful checkpoints; 0 before the second.", interval);
    let success = Seconds::of_ms(checkpoints.last_success_at_ms.unwrap_or(0));
    gauge(
        text,
        CHECKPOINT_LAST_SUCCESS,
        "When the last checkpoint succeeded, since the epoch; 0 before the first.",
        success,
    );
    let lag = |one: &PartitionReport| one.lag_records;
    per_partition(text, CONSUMER_LAG, "End of the log less the offset taken in; markers count too.", report, lag);
    let lag = |one: &PartitionReport| watermark_lag(one.watermark, report.instance.reported_at_ms);
    per_partition(text, WATERMARK_LAG, "Wall clock less the watermark of the partition.", report, lag);
    let distance = |one: &PartitionReport| one.replay_distance_records;
    per_partition(text, REPLAY_DISTANCE, "Records that a replay without local snapshot reads.", report, distance);
    backpressure_seconds(text);
}

fn backpressure_seconds(text: &mut String) {
    head(text, BACKPRESSURE, "counter", "Time during which the source was not read on, by what it waited for.");
    for stage in [BackpressureStage::Actors, BackpressureStage::Outputs] {
        let waited = stage.waited_us();
        let stage = stage.as_str();
        line(
            text,
            format_args!("{BACKPRESSURE}{{stage=\"{stage}\"}} {}.{:06}", waited / 1_000_000, waited % 1_000_000),
        );
    }
}

fn gauge(text: &mut String, name: &str, description: &str, value: impl Display) {
    head(text, name, "gauge", description);
    line(text, format_args!("{name} {value}"));
}

/// One series for each owned partition of which the value is known.
fn per_partition<V: Display>(
    text: &mut String,
    name: &str,
    description: &str,
    report: &StatusReport,
    value: impl Fn(&PartitionReport) -> Option<V>,
) {
    head(text, name, "gauge", description);
    for one in &report.partitions {
        if let Some(value) = value(one) {
            line(text, format_args!("{name}{{partition=\"{}\"}} {value}", one.partition));
        }
    }
}

fn watermark_lag(watermark: Watermark, now_ms: i64) -> Option<Seconds> {
    (watermark != Watermark::NONE).then(|| Seconds::of_ms(now_ms.saturating_sub(watermark.0)))
}

fn head(text: &mut String, name: &str, kind: &str, description: &str) {
    line(text, format_args!("# HELP {name} {description}\n# TYPE {name} {kind}"));
}

fn line(text: &mut String, content: Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{content}");
}

/// Milliseconds, written as seconds without going through a float.
struct Seconds {
    ms: i64,
}

impl Seconds {
    fn of_ms(ms: i64) -> Self {
        Self { ms }
    }
}

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let sign = if self.ms < 0 { "-" } else { "" };
        let ms = self.ms.unsigned_abs();
        write!(f, "{sign}{}.{:03}", ms / 1_000, ms % 1_000)
    }
}
