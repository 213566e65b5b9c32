//! The tables that the service writes: their columns, their values, and the guards that keep older values out.
//!
//! Each is written down once; a dialect says how the update of a row that exists is spelled. Nothing is ever an
//! increment: writing a statement twice changes nothing.

use sqlx::error::BoxDynError;

use crate::domain::statistics::{OrderRow, StatisticsRow};
use crate::domain::time::Watermark;
use crate::stats::database::{Dialect, Value};
use crate::stats::store::{FromPartition, ProgressRow, Rows, Table};
use crate::stats::{Identity, RuleHistoryEntry};

/// Spells the value that a statement brings for a column.
pub type Incoming = fn(&str) -> String;

/// How rows of one table are upserted.
pub struct Shape {
    pub table: &'static str,
    pub key: &'static [&'static str],
    /// The columns that take a parameter each, in the order of the values; the key is among them.
    pub columns: &'static [&'static str],
    /// The column that takes the time of writing.
    pub stamped: Option<&'static str>,
    /// What an update sets. The columns that the guard reads come last, for a database that assigns from left to right
    /// and lets later expressions see the new values. Empty: the first row stays.
    pub updated: &'static [&'static str],
    /// The condition under which a row that exists is updated.
    pub guard: fn(Incoming) -> String,
}

const STATISTICS: Shape = Shape {
    table: "order_stats_by_partition",
    key: &["window_start", "merchant_id", "currency", "source_partition"],
    columns: &[
        "window_start",
        "merchant_id",
        "currency",
        "source_partition",
        "transaction_count",
        "order_count",
        "amount_minor",
        "max_amount_minor",
        "source_offset",
    ],
    stamped: Some("updated_at"),
    updated: &["transaction_count", "order_count", "amount_minor", "max_amount_minor", "updated_at", "source_offset"],
    guard: |incoming| format!("reconciled_at IS NULL AND {} >= source_offset", incoming("source_offset")),
};

/// The guard is (partition, offset) in lexicographic order, written out. Once `source_offset` holds the new value, the
/// guard still says the same of `source_partition`.
const ORDERS: Shape = Shape {
    table: "orders",
    key: &["order_id"],
    columns: &[
        "order_id",
        "user_id",
        "merchant_id",
        "amount_minor",
        "currency",
        "status",
        "event_time",
        "source_partition",
        "source_offset",
    ],
    stamped: None,
    updated: &[
        "user_id",
        "merchant_id",
        "amount_minor",
        "currency",
        "status",
        "event_time",
        "source_offset",
        "source_partition",
    ],
    guard: |incoming| {
        let (partition, offset) = (incoming("source_partition"), incoming("source_offset"));
        format!("{partition} > source_partition OR ({partition} = source_partition AND {offset} >= source_offset)")
    },
};

const PROGRESS: Shape = Shape {
    table: "order_stats_progress",
    key: &["source_partition"],
    columns: &["source_partition", "source_offset", "watermark"],
    stamped: Some("updated_at"),
    updated: &["watermark", "updated_at", "source_offset"],
    guard: |incoming| format!("{} >= source_offset", incoming("source_offset")),
};

const RULE_HISTORY: Shape = Shape {
    table: "rule_history",
    key: &["rule_id", "version", "source_partition"],
    columns: &["rule_id", "version", "source_partition", "first_offset", "content"],
    stamped: Some("recorded_at"),
    updated: &[],
    guard: |_| String::new(),
};

const IDENTITY: Shape = Shape {
    table: "order_stats_identity",
    key: &["singleton"],
    columns: &["singleton", "cluster_id", "topic", "topic_id", "consumer_group"],
    stamped: Some("claimed_at"),
    updated: &[],
    guard: |_| String::new(),
};

/// A multi-row statement with its values.
pub struct Upsert<'a> {
    pub sql: String,
    pub values: Vec<Value<'a>>,
    pub rows: usize,
}

/// Parameters per row.
pub fn columns(table: Table) -> usize {
    let shape = match table {
        Table::RuleHistory => RULE_HISTORY,
        Table::Statistics => STATISTICS,
        Table::Orders => ORDERS,
    };
    shape.columns.len()
}

/// # Errors
/// When a value cannot be written down.
pub fn upsert_rows<'a>(dialect: &Dialect, rows: Rows<'a>) -> Result<Upsert<'a>, BoxDynError> {
    match rows {
        Rows::RuleHistory(rows) => upsert(dialect, &RULE_HISTORY, rows, rule_history_values),
        Rows::Statistics(rows) => upsert(dialect, &STATISTICS, rows, statistics_values),
        Rows::Orders(rows) => upsert(dialect, &ORDERS, rows, order_values),
    }
}

/// # Errors
/// When a value cannot be written down.
pub fn upsert_progress<'a>(dialect: &Dialect, rows: &'a [ProgressRow]) -> Result<Upsert<'a>, BoxDynError> {
    upsert(dialect, &PROGRESS, rows, progress_values)
}

/// Writes the identity unless there is one.
///
/// # Errors
/// When a value cannot be written down.
pub fn claim<'a>(dialect: &Dialect, identity: &'a Identity) -> Result<Upsert<'a>, BoxDynError> {
    upsert(dialect, &IDENTITY, std::slice::from_ref(identity), identity_values)
}

fn upsert<'a, R, const N: usize>(
    dialect: &Dialect,
    shape: &Shape,
    rows: &'a [R],
    values_of: fn(&'a R) -> Result<[Value<'a>; N], BoxDynError>,
) -> Result<Upsert<'a>, BoxDynError> {
    debug_assert_eq!(shape.columns.len(), N, "{}", shape.table);
    let mut tuple = format!("({}", vec!["?"; N].join(","));
    if shape.stamped.is_some() {
        tuple.push(',');
        tuple.push_str(dialect.now);
    }
    tuple.push(')');
    let names: Vec<&str> = shape.columns.iter().copied().chain(shape.stamped).collect();
    let mut sql = format!("INSERT INTO {} ({}) VALUES ", shape.table, names.join(", "));
    let mut values = Vec::with_capacity(rows.len() * N);
    sql.reserve(rows.len() * (tuple.len() + 1));
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            sql.push(',');
        }
        sql.push_str(&tuple);
        values.extend(values_of(row)?);
    }
    sql.push_str(&(dialect.on_conflict)(shape));
    Ok(Upsert { sql, values, rows: rows.len() })
}

fn statistics_values<'a>(
    (partition, row): &'a FromPartition<'_, StatisticsRow>,
) -> Result<[Value<'a>; 9], BoxDynError> {
    Ok([
        Value::Time(row.minute.0),
        Value::Text(&row.merchant_id),
        Value::Text(std::str::from_utf8(&row.currency)?),
        Value::Integer(i64::from(partition.0)),
        Value::Number(i128::from(row.transaction_count)),
        Value::Number(i128::from(row.order_count)),
        Value::Number(row.amount_minor),
        Value::Integer(row.max_amount_minor),
        Value::Integer(row.source_offset.0),
    ])
}

fn order_values<'a>((partition, row): &'a FromPartition<'_, OrderRow>) -> Result<[Value<'a>; 9], BoxDynError> {
    Ok([
        Value::Text(&row.order_id),
        Value::Text(&row.user_id),
        Value::Text(&row.merchant_id),
        Value::Integer(row.amount_minor),
        Value::Text(std::str::from_utf8(&row.currency)?),
        row.status.as_deref().map_or(Value::Null, Value::Text),
        Value::Time(row.event_time.0),
        Value::Integer(i64::from(partition.0)),
        Value::Integer(row.source_offset.0),
    ])
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all tables")]
fn progress_values(row: &ProgressRow) -> Result<[Value<'_>; 3], BoxDynError> {
    let watermark = if row.watermark == Watermark::NONE { Value::Null } else { Value::Time(row.watermark.0) };
    Ok([Value::Integer(i64::from(row.partition.0)), Value::Integer(row.through.0), watermark])
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all tables")]
fn rule_history_values(entry: &RuleHistoryEntry) -> Result<[Value<'_>; 5], BoxDynError> {
    Ok([
        Value::Text(&entry.rule_id),
        Value::Integer(i64::from(entry.version)),
        Value::Integer(i64::from(entry.partition.0)),
        Value::Integer(entry.first_offset.0),
        Value::Text(&entry.content),
    ])
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all tables")]
fn identity_values(identity: &Identity) -> Result<[Value<'_>; 5], BoxDynError> {
    Ok([
        Value::Integer(1),
        Value::Text(&identity.cluster_id),
        Value::Text(&identity.topic),
        Value::Text(&identity.topic_id),
        Value::Text(&identity.group),
    ])
}
