//! What the database holds, as the recount says it.

use std::collections::BTreeMap;

use tallyguard::reconcile::compare::{Guard, compare_orders, compare_statistics};
use tallyguard::reconcile::recount::{OrderRow, Recount, StatisticsCell, StatisticsKey};

use crate::support::{Database, Schema};

/// Every way in which tables and view differ from the recount; a schema that cannot be read is one.
pub fn differences(database: &Database, schema: &Schema, expected: &Recount, orders: bool) -> Vec<String> {
    match try_differences(database, schema, expected, orders) {
        Ok(found) => found,
        Err(error) => vec![format!("the schema cannot be read: {error}")],
    }
}

fn try_differences(
    database: &Database,
    schema: &Schema,
    expected: &Recount,
    orders: bool,
) -> Result<Vec<String>, sqlx::Error> {
    let rows = database.try_query_in(
        &schema.name,
        "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', window_start) DIV 1000, merchant_id, currency, \
         source_partition, transaction_count, order_count, amount_minor, max_amount_minor, source_offset \
         FROM order_stats_by_partition",
    )?;
    let found: Vec<(StatisticsKey, StatisticsCell)> = rows.iter().map(|row| statistics_row(row)).collect();
    let mut lines: Vec<String> =
        compare_statistics(&expected.statistics, &found, Guard::Compared).iter().map(ToString::to_string).collect();
    lines.extend(view_differences(database, schema, expected)?);
    if orders {
        let rows = database.try_query_in(
            &schema.name,
            "SELECT order_id, user_id, merchant_id, amount_minor, currency, status, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', event_time) DIV 1000, source_partition, source_offset FROM orders",
        )?;
        let found: Vec<(String, OrderRow)> = rows.iter().map(|row| order_row(row)).collect();
        lines.extend(compare_orders(&expected.orders, &found).iter().map(ToString::to_string));
    }
    Ok(lines)
}

/// The view is what dashboards read: sums over the partitions, and the largest of the maxima.
fn view_differences(database: &Database, schema: &Schema, expected: &Recount) -> Result<Vec<String>, sqlx::Error> {
    let mut wanted: BTreeMap<(i64, String, String), (u64, u64, i128, i64)> = BTreeMap::new();
    for ((minute, merchant, currency, _), cell) in &expected.statistics {
        let sum = wanted.entry((*minute, merchant.clone(), currency.clone())).or_insert((0, 0, 0, i64::MIN));
        sum.0 += cell.transaction_count;
        sum.1 += cell.order_count;
        sum.2 += cell.amount_minor;
        sum.3 = sum.3.max(cell.max_amount_minor);
    }
    let rows = database.try_query_in(
        &schema.name,
        "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', window_start) DIV 1000, merchant_id, currency, \
         transaction_count, order_count, amount_minor, max_amount_minor FROM order_stats",
    )?;
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
