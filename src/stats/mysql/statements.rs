//! The statements that write rows, and the guards that keep older values out.
//!
//! `ON DUPLICATE KEY UPDATE` assigns from left to right, and later expressions see the new values: the columns that a
//! guard reads are assigned last. `VALUES(column)` is the only form that both MySQL and MariaDB know. Nothing is ever an
//! increment: writing a statement twice changes nothing.

use chrono::{DateTime, NaiveDateTime};
use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::mysql::MySqlArguments;

use crate::domain::statistics::{OrderRow, StatisticsRow};
use crate::domain::time::Watermark;
use crate::stats::RuleHistoryEntry;
use crate::stats::store::{FromPartition, ProgressRow, Rows, Table};

/// A multi-row statement with its values.
pub struct Upsert {
    pub sql: String,
    pub arguments: MySqlArguments,
    pub rows: usize,
}

/// How rows of one table are inserted.
struct Shape {
    insert: &'static str,
    /// One row of values; the time of writing is the server's.
    values: &'static str,
    on_duplicate: &'static str,
}

const STATISTICS: Shape = Shape {
    insert: "INSERT INTO order_stats_by_partition (window_start, merchant_id, currency, source_partition, \
             transaction_count, order_count, amount_minor, max_amount_minor, source_offset, updated_at) VALUES ",
    values: "(?,?,?,?,?,?,?,?,?,UTC_TIMESTAMP(3))",
    on_duplicate: " ON DUPLICATE KEY UPDATE \
        transaction_count = IF(reconciled_at IS NULL AND VALUES(source_offset) >= source_offset, VALUES(transaction_count), transaction_count), \
        order_count = IF(reconciled_at IS NULL AND VALUES(source_offset) >= source_offset, VALUES(order_count), order_count), \
        amount_minor = IF(reconciled_at IS NULL AND VALUES(source_offset) >= source_offset, VALUES(amount_minor), amount_minor), \
        max_amount_minor = IF(reconciled_at IS NULL AND VALUES(source_offset) >= source_offset, VALUES(max_amount_minor), max_amount_minor), \
        updated_at = IF(reconciled_at IS NULL AND VALUES(source_offset) >= source_offset, VALUES(updated_at), updated_at), \
        source_offset = IF(reconciled_at IS NULL AND VALUES(source_offset) >= source_offset, VALUES(source_offset), source_offset)",
};

/// The guard is (partition, offset) in lexicographic order, written out; `source_partition` is assigned last because
/// every other expression reads it.
const ORDERS: Shape = Shape {
    insert: "INSERT INTO orders (order_id, user_id, merchant_id, amount_minor, currency, status, event_time, \
             source_partition, source_offset) VALUES ",
    values: "(?,?,?,?,?,?,?,?,?)",
    on_duplicate: " ON DUPLICATE KEY UPDATE \
        user_id = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(user_id), user_id), \
        merchant_id = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(merchant_id), merchant_id), \
        amount_minor = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(amount_minor), amount_minor), \
        currency = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(currency), currency), \
        status = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(status), status), \
        event_time = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(event_time), event_time), \
        source_offset = IF(VALUES(source_partition) > source_partition OR (VALUES(source_partition) = source_partition AND VALUES(source_offset) >= source_offset), VALUES(source_offset), source_offset), \
        source_partition = GREATEST(VALUES(source_partition), source_partition)",
};

const PROGRESS: Shape = Shape {
    insert: "INSERT INTO order_stats_progress (source_partition, source_offset, watermark, updated_at) VALUES ",
    values: "(?,?,?,UTC_TIMESTAMP(3))",
    on_duplicate: " ON DUPLICATE KEY UPDATE \
        watermark = IF(VALUES(source_offset) >= source_offset, VALUES(watermark), watermark), \
        updated_at = IF(VALUES(source_offset) >= source_offset, VALUES(updated_at), updated_at), \
        source_offset = GREATEST(VALUES(source_offset), source_offset)",
};

/// The first entry stays. `INSERT IGNORE` would say the same but hide real errors.
const RULE_HISTORY: Shape = Shape {
    insert: "INSERT INTO rule_history (rule_id, version, source_partition, first_offset, content, recorded_at) VALUES ",
    values: "(?,?,?,?,?,UTC_TIMESTAMP(3))",
    on_duplicate: " ON DUPLICATE KEY UPDATE version = version",
};

/// Parameters per row.
pub fn columns(table: Table) -> usize {
    let shape = match table {
        Table::RuleHistory => RULE_HISTORY,
        Table::Statistics => STATISTICS,
        Table::Orders => ORDERS,
    };
    shape.values.matches('?').count()
}

/// # Errors
/// When a value cannot be encoded.
pub fn upsert_rows(rows: Rows<'_>) -> Result<Upsert, BoxDynError> {
    match rows {
        Rows::RuleHistory(rows) => upsert(&RULE_HISTORY, rows, bind_rule_history),
        Rows::Statistics(rows) => upsert(&STATISTICS, rows, bind_statistics),
        Rows::Orders(rows) => upsert(&ORDERS, rows, bind_order),
    }
}

/// # Errors
/// When a value cannot be encoded.
pub fn upsert_progress(rows: &[ProgressRow]) -> Result<Upsert, BoxDynError> {
    upsert(&PROGRESS, rows, bind_progress)
}

fn upsert<R>(
    shape: &Shape,
    rows: &[R],
    bind: fn(&mut MySqlArguments, &R) -> Result<(), BoxDynError>,
) -> Result<Upsert, BoxDynError> {
    let length = shape.insert.len() + rows.len() * (shape.values.len() + 1) + shape.on_duplicate.len();
    let mut sql = String::with_capacity(length);
    let mut arguments = MySqlArguments::default();
    sql.push_str(shape.insert);
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            sql.push(',');
        }
        sql.push_str(shape.values);
        bind(&mut arguments, row)?;
    }
    sql.push_str(shape.on_duplicate);
    Ok(Upsert { sql, arguments, rows: rows.len() })
}

fn bind_statistics(
    arguments: &mut MySqlArguments,
    (partition, row): &FromPartition<'_, StatisticsRow>,
) -> Result<(), BoxDynError> {
    arguments.add(date_time(row.minute.0))?;
    arguments.add(&*row.merchant_id)?;
    arguments.add(std::str::from_utf8(&row.currency)?)?;
    arguments.add(partition.0)?;
    arguments.add(row.transaction_count)?;
    arguments.add(row.order_count)?;
    // As text, which the server reads exactly: the sum may be longer than any integer of the protocol.
    arguments.add(row.amount_minor.to_string())?;
    arguments.add(row.max_amount_minor)?;
    arguments.add(row.source_offset.0)
}

fn bind_order(
    arguments: &mut MySqlArguments,
    (partition, row): &FromPartition<'_, OrderRow>,
) -> Result<(), BoxDynError> {
    arguments.add(&*row.order_id)?;
    arguments.add(&*row.user_id)?;
    arguments.add(&*row.merchant_id)?;
    arguments.add(row.amount_minor)?;
    arguments.add(std::str::from_utf8(&row.currency)?)?;
    arguments.add(row.status.as_deref())?;
    arguments.add(date_time(row.event_time.0))?;
    arguments.add(partition.0)?;
    arguments.add(row.source_offset.0)
}

fn bind_progress(arguments: &mut MySqlArguments, row: &ProgressRow) -> Result<(), BoxDynError> {
    let watermark = (row.watermark != Watermark::NONE).then(|| date_time(row.watermark.0)).flatten();
    arguments.add(row.partition.0)?;
    arguments.add(row.through.0)?;
    arguments.add(watermark)
}

fn bind_rule_history(arguments: &mut MySqlArguments, entry: &RuleHistoryEntry) -> Result<(), BoxDynError> {
    arguments.add(&*entry.rule_id)?;
    arguments.add(entry.version)?;
    arguments.add(entry.partition.0)?;
    arguments.add(entry.first_offset.0)?;
    arguments.add(&*entry.content)
}

/// Epoch milliseconds as a UTC `DATETIME(3)`; `None` beyond what a date can say, which the database then refuses.
fn date_time(epoch_ms: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_millis(epoch_ms).map(|at| at.naive_utc())
}
