//! What the database holds, as the recount says it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use tallyguard::reconcile::compare::{Guard, compare_orders, compare_statistics};
use tallyguard::reconcile::recount::{OrderRow, Recount, StatisticsCell, StatisticsKey};

use crate::support::{Database, Schema, TestConfig, block_on};

/// Where a scenario's statistics go.
pub enum Tables {
    MariaDb(&'static Database, Schema),
    Sqlite(PathBuf),
}

impl Tables {
    pub fn configure(&self, config: TestConfig) -> TestConfig {
        let config = match self {
            Self::MariaDb(_, schema) => config.with_stats(schema),
            Self::Sqlite(path) => {
                config.set("stats.enabled", true).set("stats.url", format!("sqlite:{}", path.display()))
            }
        };
        config.set("stats.orders", true).set("stats.flush_interval", "100ms")
    }

    /// The rows as text.
    fn try_query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, sqlx::Error> {
        match self {
            Self::MariaDb(database, schema) => database.try_query_in(&schema.name, sql),
            Self::Sqlite(path) => block_on(async {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = SqliteConnection::connect_with(&options).await?;
                let rows = sqlx::raw_sql(sql).fetch_all(&mut connection).await?;
                connection.close().await?;
                let texts = |row: &SqliteRow| (0..row.len()).map(|column| row.try_get_unchecked(column)).collect();
                rows.iter().map(texts).collect()
            }),
        }
    }

    /// That column as epoch milliseconds.
    fn epoch_ms(&self, column: &str) -> String {
        match self {
            Self::MariaDb(..) => format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column}) DIV 1000"),
            Self::Sqlite(_) => format!("CAST(round((julianday({column}) - 2440587.5) * 86400000) AS INTEGER)"),
        }
    }
}

/// Every way in which tables and view differ from the recount; a schema that cannot be read is one.
pub fn differences(tables: &Tables, expected: &Recount, orders: bool) -> Vec<String> {
    match try_differences(tables, expected, orders) {
        Ok(found) => found,
        Err(error) => vec![format!("the schema cannot be read: {error}")],
    }
}

fn try_differences(tables: &Tables, expected: &Recount, orders: bool) -> Result<Vec<String>, sqlx::Error> {
    let rows = tables.try_query(&format!(
        "SELECT {}, merchant_id, currency, \
         source_partition, transaction_count, order_count, amount_minor, max_amount_minor, source_offset \
         FROM order_stats_by_partition",
        tables.epoch_ms("window_start"),
    ))?;
    let found: Vec<(StatisticsKey, StatisticsCell)> = rows.iter().map(|row| statistics_row(row)).collect();
    let mut lines: Vec<String> =
        compare_statistics(&expected.statistics, &found, Guard::Compared).iter().map(ToString::to_string).collect();
    lines.extend(view_differences(tables, expected)?);
    if orders {
        let rows = tables.try_query(&format!(
            "SELECT order_id, user_id, merchant_id, amount_minor, currency, status, {}, source_partition, source_offset \
             FROM orders",
            tables.epoch_ms("event_time"),
        ))?;
        let found: Vec<(String, OrderRow)> = rows.iter().map(|row| order_row(row)).collect();
        lines.extend(compare_orders(&expected.orders, &found).iter().map(ToString::to_string));
    }
    Ok(lines)
}

/// The view is what dashboards read: sums over the partitions, and the largest of the maxima.
fn view_differences(tables: &Tables, expected: &Recount) -> Result<Vec<String>, sqlx::Error> {
    let mut wanted: BTreeMap<(i64, String, String), (u64, u64, i128, i64)> = BTreeMap::new();
    for ((minute, merchant, currency, _), cell) in &expected.statistics {
        let sum = wanted.entry((*minute, merchant.clone(), currency.clone())).or_insert((0, 0, 0, i64::MIN));
        sum.0 += cell.transaction_count;
        sum.1 += cell.order_count;
        sum.2 += cell.amount_minor;
        sum.3 = sum.3.max(cell.max_amount_minor);
    }
    let rows = tables.try_query(&format!(
        "SELECT {}, merchant_id, currency, \
         transaction_count, order_count, amount_minor, max_amount_minor FROM order_stats",
        tables.epoch_ms("window_start"),
    ))?;
    let found: BTreeMap<_, _> = rows
        .iter()
        .map(|row| {
            let key = (number(&row[0]), text(&row[1]), text(&row[2]));
            (key, (number(&row[3]), number(&row[4]), number(&row[5]), number(&row[6])))
        })
        .collect();
    let keys: std::collections::BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter(|key| wanted.get(key) != found.get(key));
    Ok(differing.map(|key| format!("view {key:?}: is {:?}, not {:?}", found.get(key), wanted.get(key))).collect())
}

fn statistics_row(row: &[Option<String>]) -> (StatisticsKey, StatisticsCell) {
    let key = (number(&row[0]), text(&row[1]), text(&row[2]), number(&row[3]));
    let cell = StatisticsCell {
        transaction_count: number(&row[4]),
        order_count: number(&row[5]),
        amount_minor: number(&row[6]),
        max_amount_minor: number(&row[7]),
        last_offset: number(&row[8]),
    };
    (key, cell)
}

fn order_row(row: &[Option<String>]) -> (String, OrderRow) {
    let order = OrderRow {
        user_id: text(&row[1]),
        merchant_id: text(&row[2]),
        amount_minor: number(&row[3]),
        currency: text(&row[4]),
        status: row[5].clone(),
        event_time_ms: number(&row[6]),
        partition: number(&row[7]),
        offset: number(&row[8]),
    };
    (text(&row[0]), order)
}

fn text(value: &Option<String>) -> String {
    value.clone().expect("never NULL")
}

fn number<T: std::str::FromStr>(value: &Option<String>) -> T {
    let text = text(value);
    text.parse().unwrap_or_else(|_| panic!("{text} is no number of that kind"))
}
