//! The end of the demo: what the log says happened, recounted independently, against what was written.

use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use chrono::NaiveDateTime;
use indicatif::HumanBytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row};

use super::acknowledged::Acknowledged;
use super::unless_at_once;
use crate::config::Settings;
use crate::domain::ids::{Offset, PartitionId};
use crate::log::embedded::{EmbeddedView, StoredRecord};
use crate::protocol::output::Destination;
use crate::reconcile::compare::{
    Difference, Guard, Kind, Subject, compare_alert_records, compare_dead_letters, compare_late_records,
    compare_statistics,
};
use crate::reconcile::recount::{Outcomes, Parameters, Recount, Recounter, RuleText, StatisticsCell, StatisticsKey};
use crate::reconcile::side_record::SourceRecord;
use crate::stats::Target;

/// The recount remembers every transaction of every window: measured 830 bytes a record.
const BYTES_PER_RECORD: u64 = 1_000;
/// What is taken to be there when the system does not say.
const MEMORY: u64 = 4 << 30;
/// Records that are read at a time.
const STEP: i64 = 20_000;
const DIFFERENCES_SHOWN: usize = 10;

/// See the module head.
pub struct Verdict {
    records: u64,
    outcomes: Outcomes,
    /// How many transactions were acknowledged to the feeder, and how many of them are not in the log.
    acknowledged: (u64, u64),
    /// What it is, how many there must be, how many there are.
    lines: Vec<(&'static str, Subject, usize, usize)>,
    differences: Vec<Difference>,
}

impl Verdict {
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.differences.is_empty() && self.acknowledged.1 == 0
    }
}

/// Reads everything that there is, recounts it and compares.
///
/// # Errors
/// The log or the database cannot be read, or the log is not all there any more; somebody does not want to wait.
pub fn reach(settings: &Settings, acknowledged: &Acknowledged, at_once: &AtomicBool) -> anyhow::Result<Verdict> {
    let view = EmbeddedView::open(&settings.embedded.dir)?;
    let (records, missing, expected) = recount(&view, settings, acknowledged, at_once)?;
    let outputs = |destination| -> anyhow::Result<Vec<SourceRecord>> {
        let (start, end) = view.output_bounds(destination)?;
        Ok(view.outputs(destination, start, end - start)?.into_iter().map(plain).collect())
    };
    let alerts = outputs(Destination::Alerts)?;
    let late = outputs(Destination::Late)?;
    let dead_letters = outputs(Destination::DeadLetter)?;
    let rows = statistics_rows(settings)?;
    let mut differences = compare_alert_records(&expected.alerts, &alerts);
    differences.extend(compare_late_records(&expected.late, &late));
    differences.extend(compare_dead_letters(&expected.dead_letters, &dead_letters));
    differences.extend(compare_statistics(&expected.statistics, &rows, Guard::Compared));
    Ok(Verdict {
        records,
        outcomes: expected.outcomes,
        acknowledged: (acknowledged.count(), missing),
        lines: vec![
            ("alerts", Subject::Alert, expected.alerts.len(), alerts.len()),
            ("late records", Subject::LateRecord, expected.late.len(), late.len()),
            ("dead letters", Subject::DeadLetter, expected.dead_letters.len(), dead_letters.len()),
            ("statistics rows", Subject::Statistics, expected.statistics.len(), rows.len()),
        ],
        differences,
    })
}

/// Goes through the log once: how many records, how many acknowledged ones are missing, what they add up to.
fn recount(
    view: &EmbeddedView,
    settings: &Settings,
    acknowledged: &Acknowledged,
    at_once: &AtomicBool,
) -> anyhow::Result<(u64, u64, Recount)> {
    let partitions: Vec<_> = (0..view.partitions()?).map(PartitionId).collect();
    let bounds: Vec<_> = partitions.iter().map(|&partition| view.bounds(partition)).collect::<Result<_, _>>()?;
    if bounds.iter().any(|(start, _)| start.0 > 0) {
        bail!("retention has dropped the beginning of the log, so it cannot be recounted; nothing was compared");
    }
    let records = u64::try_from(bounds.iter().map(|(_, end)| end.0).sum::<i64>())?;
    let (needed, free) = (records.saturating_mul(BYTES_PER_RECORD), free_memory().unwrap_or(MEMORY));
    if needed > free {
        bail!(
            "the recount of {records} records needs about {}, and {} are free: nothing was compared",
            HumanBytes(needed),
            HumanBytes(free)
        );
    }
    let mut recounter = Recounter::new(parameters(settings));
    let mut search = acknowledged.search();
    for (&partition, &(_, end)) in partitions.iter().zip(&bounds) {
        let mut from = 0;
        while from < end.0 {
            unless_at_once(at_once)?;
            let to = end.0.min(from + STEP);
            for record in view.records(partition, Offset(from), Offset(to))?.into_iter().map(plain) {
                search.see(record.partition, record.offset, record.value.as_deref().unwrap_or_default());
                recounter.take(&record);
            }
            from = to;
        }
    }
    Ok((records, search.missing(), recounter.finish()))
}

/// Bytes that the system could still give, where it says so.
fn free_memory() -> Option<u64> {
    let report = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = report.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

fn plain(stored: StoredRecord) -> SourceRecord {
    let StoredRecord { partition, offset, record } = stored;
    let text = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
    SourceRecord {
        partition: partition.0,
        offset: offset.0,
        timestamp_ms: Some(record.timestamp_ms),
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(|(name, value)| (text(name), value)).collect(),
    }
}

fn parameters(settings: &Settings) -> Parameters {
    let rules = settings.rules.iter().map(|rule| RuleText {
        id: rule.id.clone(),
        version: rule.version,
        window_ms: rule.window.0,
        window_text: rule.window_text.clone(),
        max_transactions: u64::from(rule.max_transactions),
        severity: rule.severity.as_str().to_owned(),
        changes: Vec::new(),
    });
    Parameters {
        source_topic: settings.source.topic.clone(),
        rules: rules.collect(),
        out_of_orderness_ms: settings.time.out_of_orderness.0,
        max_future_skew_ms: settings.time.max_future_skew.0,
        statistics: settings.stats.enabled,
        orders: settings.stats.orders,
    }
}

fn statistics_rows(settings: &Settings) -> anyhow::Result<Vec<(StatisticsKey, StatisticsCell)>> {
    let target = settings.stats.connect_options().map_err(anyhow::Error::msg)?;
    let Target::Sqlite(path) = target else { bail!("the demo writes its statistics to SQLite") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(read_rows(&path)).with_context(|| format!("statistics in {}", path.display()))
}

async fn read_rows(path: &Path) -> anyhow::Result<Vec<(StatisticsKey, StatisticsCell)>> {
    let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
    let found = sqlx::query(
        "SELECT window_start, merchant_id, currency, source_partition, transaction_count, order_count, amount_minor, \
         max_amount_minor, source_offset FROM order_stats_by_partition",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    found.iter().map(statistics_row).collect()
}

fn statistics_row(row: &SqliteRow) -> anyhow::Result<(StatisticsKey, StatisticsCell)> {
    let window_start: String = row.try_get(0)?;
    let window_start = NaiveDateTime::parse_from_str(&window_start, "%Y-%m-%d %H:%M:%S%.3f")?;
    let key = (window_start.and_utc().timestamp_millis(), row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    let cell = StatisticsCell {
        transaction_count: u64::try_from(row.try_get::<i64, _>(4)?)?,
        order_count: u64::try_from(row.try_get::<i64, _>(5)?)?,
        amount_minor: i128::from(row.try_get::<i64, _>(6)?),
        max_amount_minor: row.try_get(7)?,
        last_offset: row.try_get(8)?,
    };
    Ok((key, cell))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcomes { counted, duplicate, late, dead_letter } = self.outcomes;
        writeln!(f, "\nWhat the engine wrote, against an independent recount of the log:\n")?;
        writeln!(
            f,
            "  {} records in the log: {counted} counted, {duplicate} duplicates, {late} late, {dead_letter} dead letters\n",
            self.records
        )?;
        let (acknowledged, missing) = self.acknowledged;
        let found = acknowledged.saturating_sub(missing);
        writeln!(f, "  {:<16} {:>10} {:>10} {:>12}", "", "sent", "in the log", "missing")?;
        writeln!(f, "  {:<16} {acknowledged:>10} {found:>10} {missing:>12}\n", "acknowledged")?;
        writeln!(f, "  {:<16} {:>10} {:>10} {:>12}", "", "recounted", "written", "differences")?;
        for (what, subject, expected, found) in &self.lines {
            let differences = self.differences.iter().filter(|it| it.subject == *subject).count();
            writeln!(f, "  {what:<16} {expected:>10} {found:>10} {differences:>12}")?;
        }
        writeln!(f)?;
        if self.is_exact() {
            return writeln!(f, "  Exactly once: nothing is missing, nothing is there twice.");
        }
        if missing > 0 {
            writeln!(f, "  {missing} transactions were acknowledged and are not in the log as they were sent")?;
        }
        for kind in [Kind::Missing, Kind::Duplicate, Kind::Unexpected, Kind::Different, Kind::OutOfOrder] {
            let count = self.differences.iter().filter(|it| it.kind == kind).count();
            if count > 0 {
                writeln!(f, "  {count} {kind:?}")?;
            }
        }
        for difference in self.differences.iter().take(DIFFERENCES_SHOWN) {
            writeln!(f, "  {difference}")?;
        }
        writeln!(f, "  NOT exact: please report this, with the folder of the demo.")
    }
}
