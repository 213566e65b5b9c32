//! The end of the demo: what the log says happened, recounted independently, against what was written.

use std::fmt;
use std::path::Path;

use anyhow::{Context, bail};
use chrono::NaiveDateTime;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row};

use crate::config::Settings;
use crate::domain::ids::PartitionId;
use crate::log::embedded::{EmbeddedView, StoredRecord};
use crate::protocol::output::Destination;
use crate::reconcile::compare::{
    Difference, Guard, Kind, Subject, compare_alert_records, compare_dead_letters, compare_late_records,
    compare_statistics,
};
use crate::reconcile::recount::{Outcomes, Parameters, RuleText, StatisticsCell, StatisticsKey, recount};
use crate::reconcile::side_record::SourceRecord;
use crate::stats::Target;

/// A log that is larger than this is not read into memory.
const RECORDS_MAX: i64 = 5_000_000;
const DIFFERENCES_SHOWN: usize = 10;

/// See the module head.
pub struct Verdict {
    records: usize,
    outcomes: Outcomes,
    /// What it is, how many there must be, how many there are.
    lines: Vec<(&'static str, Subject, usize, usize)>,
    differences: Vec<Difference>,
}

impl Verdict {
    pub fn is_exact(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Reads everything that there is, recounts it and compares.
///
/// # Errors
/// The log or the database cannot be read.
pub fn reach(settings: &Settings) -> anyhow::Result<Verdict> {
    let view = EmbeddedView::open(&settings.embedded.dir)?;
    let mut records = Vec::new();
    for partition in (0..view.partitions()?).map(PartitionId) {
        let (start, end) = view.bounds(partition)?;
        if end.0 - start.0 > RECORDS_MAX {
            bail!("the log has become too large to be recounted in memory: {} records in {partition}", end.0 - start.0);
        }
        records.extend(view.records(partition, start, end)?.into_iter().map(plain));
    }
    let expected = recount(&records, &parameters(settings));
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
        records: records.len(),
        outcomes: expected.outcomes,
        lines: vec![
            ("alerts", Subject::Alert, expected.alerts.len(), alerts.len()),
            ("late records", Subject::LateRecord, expected.late.len(), late.len()),
            ("dead letters", Subject::DeadLetter, expected.dead_letters.len(), dead_letters.len()),
            ("statistics rows", Subject::Statistics, expected.statistics.len(), rows.len()),
        ],
        differences,
    })
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
        writeln!(f, "  {:<16} {:>10} {:>10} {:>12}", "", "recounted", "written", "differences")?;
        for (what, subject, expected, found) in &self.lines {
            let differences = self.differences.iter().filter(|it| it.subject == *subject).count();
            writeln!(f, "  {what:<16} {expected:>10} {found:>10} {differences:>12}")?;
        }
        writeln!(f)?;
        if self.is_exact() {
            return writeln!(f, "  Exactly once: nothing is missing, nothing is there twice.");
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
        writeln!(f, "  NOT exact: please report this, with the folder of the demo (--dir).")
    }
}
