//! What the page shows, as text: the numbers and words for each place. `dashboard.js` forms the same from the status.

use std::fmt::Display;

use chrono::{DateTime, SecondsFormat};

use crate::domain::time::Watermark;
use crate::observe::report::{PartitionPhase, StatusReport, Trouble};

/// A number that is read at a glance.
pub struct Tile {
    pub id: &'static str,
    pub label: &'static str,
    pub value: String,
    pub note: String,
}

/// In the order of the page.
pub fn tiles(report: &StatusReport) -> [Tile; 6] {
    let tile = |id, label, (value, note)| Tile { id, label, value, note };
    [
        tile("throughput", "Throughput", throughput(report)),
        tile("latency", "Alert latency", latency(report)),
        tile("lag", "Lag", lag(report)),
        tile("alert-count", "Alerts", (grouped(report.totals.alerts), "committed since the start".to_owned())),
        tile("checkpoint", "Last checkpoint", checkpoint(report)),
        tile("statistics", "Statistics", statistics(report)),
    ]
}

type Shown = (String, String);

fn throughput(report: &StatusReport) -> Shown {
    (format!("{}/s", grouped(report.recent.records_per_second)), "records over ten seconds".to_owned())
}

fn latency(report: &StatusReport) -> Shown {
    let recent = &report.recent;
    match (recent.alert_latency_p50_ms, recent.alert_latency_p99_ms) {
        (Some(p50), Some(p99)) => (length(p50), format!("median of {}; 99% within {}", recent.alerts, length(p99))),
        _ => ("–".to_owned(), "no alert in the last minute".to_owned()),
    }
}

fn lag(report: &StatusReport) -> Shown {
    let known: Option<u64> = report.partitions.iter().map(|one| one.lag_records).sum();
    let value = match known {
        _ if report.partitions.is_empty() => "–".to_owned(),
        Some(lag) => grouped(lag),
        None => "unknown".to_owned(),
    };
    (value, "records not taken in yet".to_owned())
}

fn checkpoint(report: &StatusReport) -> Shown {
    let checkpoints = &report.checkpoints;
    let value = checkpoints.last_success_at_ms.map_or_else(none, |at| age(report.instance.reported_at_ms - at));
    let note = match (checkpoints.consecutive_failures, checkpoints.last_bytes, checkpoints.last_duration_ms) {
        (0, Some(bytes), Some(ms)) => format!("{} kB in {} ms", grouped(bytes.div_ceil(1_000)), grouped(ms)),
        (0, _, _) => "shortens the next start".to_owned(),
        (failures, _, _) => format!("failed {failures} times since"),
    };
    (value, note)
}

fn statistics(report: &StatusReport) -> Shown {
    let statistics = &report.statistics;
    let rows = || format!("{} rows wait", grouped(statistics.pending_rows));
    match (statistics.enabled, statistics.connected) {
        (false, _) => ("off".to_owned(), "stats.enabled = false".to_owned()),
        (true, true) => ("connected".to_owned(), rows()),
        (true, false) => ("database away".to_owned(), format!("alerts go on; {}", rows())),
    }
}

pub fn phase(phase: &PartitionPhase) -> String {
    match phase {
        PartitionPhase::Recovering { waiting_for: Some(why) } => format!("{}: {why}", phase.as_str()),
        PartitionPhase::Refused(refusal) => format!("refused. What to do: {}", refusal.remedy),
        PartitionPhase::Recovering { waiting_for: None } | PartitionPhase::Live | PartitionPhase::Revoking => {
            phase.as_str().to_owned()
        }
    }
}

/// A name and what stands beside it.
pub type Row = (&'static str, String);

pub fn work(report: &StatusReport) -> Vec<Row> {
    let totals = &report.totals;
    let records = format!(
        "{} counted, {} duplicate, {} late, {} dead letters",
        grouped(totals.counted),
        grouped(totals.duplicate),
        grouped(totals.late),
        grouped(totals.dead_letter)
    );
    let transactions = format!(
        "{} committed, {} aborted; producers used: {}",
        grouped(totals.transactions_committed),
        grouped(totals.transactions_aborted),
        grouped(totals.producer_replacements)
    );
    let last = report.commits.last.as_ref();
    let mut rows = vec![
        ("records", records),
        ("transactions", transactions),
        ("last commit", last.map_or_else(none, |last| format!("{}, in {} ms", time(last.at_ms), last.duration_ms))),
        ("last statistics", report.statistics.last_flush_at_ms.map_or_else(none, time)),
        ("last checkpoint", report.checkpoints.last_success_at_ms.map_or_else(none, time)),
    ];
    let errors = [
        ("last commit error", &report.commits.last_error),
        ("last log error", &report.kafka.last_error),
        ("last statistics error", &report.statistics.last_error),
        ("last checkpoint error", &report.checkpoints.last_error),
    ];
    for (name, error) in errors {
        if let Some(Trouble { at_ms, message }) = error {
            rows.push((name, format!("{}: {message}", time(*at_ms))));
        }
    }
    rows
}

pub fn about(report: &StatusReport) -> Vec<Row> {
    let instance = &report.instance;
    vec![
        ("topic", instance.topic.clone()),
        ("group", instance.group.clone()),
        ("cluster", instance.cluster_id.clone().unwrap_or_else(none)),
        ("delivery", instance.mode.clone()),
        ("version", instance.version.clone()),
        ("started", time(instance.started_at_ms)),
    ]
}

fn none() -> String {
    "none yet".to_owned()
}

/// To the second, as a table has room for it.
pub fn event_time(watermark: Watermark) -> String {
    let time = DateTime::from_timestamp_millis(watermark.0).filter(|_| watermark != Watermark::NONE);
    time.map_or_else(|| "none".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}

pub fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// With a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A length of time; a latency of days is that of a backlog.
fn length(ms: u64) -> String {
    match ms {
        0..=9_999 => format!("{} ms", grouped(ms)),
        10_000..=119_999 => format!("{} s", ms / 1_000),
        120_000..=7_199_999 => format!("{} min", ms / 60_000),
        7_200_000..=172_799_999 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", grouped(ms / 86_400_000)),
    }
}

fn age(ms: i64) -> String {
    match ms.max(0) / 1_000 {
        seconds @ 0..=119 => format!("{seconds} s ago"),
        seconds @ 120..=7_199 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3_600),
    }
}

fn time(epoch_ms: i64) -> String {
    DateTime::from_timestamp_millis(epoch_ms)
        .map_or_else(|| "unknown".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

pub fn time_of_day(epoch_ms: i64) -> String {
    DateTime::from_timestamp_millis(epoch_ms)
        .map_or_else(|| "unknown".to_owned(), |time| time.format("%H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ages_are_short_and_exact() {
        let numbers = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 119_999, 120_000, 7_200_000].map(age), ["0 s ago", "119 s ago", "2 min ago", "2 h ago"]);
        let lengths = [9_999, 10_000, 120_000, 7_200_000, 172_800_000].map(length);
        assert_eq!(lengths, ["9,999 ms", "10 s", "2 min", "2 h", "2 days"]);
        assert_eq!(age(-5_000), "0 s ago", "the clock was set");
    }
}
