//! What pages and programs are told, from either database.

use tallyguard::domain::statistics::StatisticsRow;
use tallyguard::domain::time::WindowStart;
use tallyguard::stats::{Identity, OrderStatsRow, StatisticsQuery, StatsOptions};

use crate::both::{OnBoth, on_both};
use crate::fixture::{MINUTE, TestWriter, flush, identity, row};
use crate::support::block_on;

on_both! {
    a_range_of_minutes_is_read_in_order_and_no_further_than_asked,
    a_database_that_is_not_ours_or_not_there_is_named_as_the_reason,
}

fn a_range_of_minutes_is_read_in_order_and_no_further_than_asked(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    let at = |minute: i64, row: StatisticsRow| StatisticsRow { minute: WindowStart(MINUTE + 60_000 * minute), ..row };
    let huge = StatisticsRow { amount_minor: database.largest_sum(), ..row("m ", 3) };
    let rows =
        vec![at(0, row("m-0", 1)), at(1, row("M", 2)), at(1, huge.clone()), at(1, row("m", 4)), at(2, row("m", 5))];
    writer.write(flush(0, 10, rows));
    writer.write(flush(1, 10, vec![at(1, huge)]));
    let query = StatisticsQuery::new(&database.options());
    let read = |from, to, limit| block_on(query.order_stats(from, to, limit)).expect("an answer");
    let rows = read(MINUTE + 60_000, MINUTE + 120_000, 100);
    let merchants: Vec<_> = rows.iter().map(|row| row.merchant_id.as_str()).collect();
    assert_eq!(merchants, ["M", "m", "m "]);
    assert_eq!(
        rows[2],
        OrderStatsRow {
            window_start_ms: MINUTE + 60_000,
            merchant_id: "m ".to_owned(),
            currency: "EUR".to_owned(),
            transaction_count: 8,
            order_count: 8,
            amount_minor: (2 * database.largest_sum()).to_string(),
            max_amount_minor: 103,
        }
    );
    assert_eq!(read(MINUTE + 60_000, MINUTE + 120_000, 2), rows[..2]);
    assert_eq!(read(i64::MIN, i64::MAX, usize::MAX).len(), 5);
    assert_eq!(read(MINUTE, MINUTE, 100), []);
}

fn a_database_that_is_not_ours_or_not_there_is_named_as_the_reason(database: &OnBoth) {
    let ask = |options: &StatsOptions| block_on(StatisticsQuery::new(options).order_stats(0, i64::MAX, 10));
    let missing = ask(&database.options()).expect_err("no schema yet");
    assert!(missing.contains(&database.spelled("order_stats_identity", "unable to open")), "{missing}");
    let writer = TestWriter::spawn(database.options());
    writer.write(flush(0, 10, vec![row("m-1", 9)]));
    let other = Identity { group: "another".to_owned(), ..identity() };
    let foreign = ask(&StatsOptions { identity: other, ..database.options() }).expect_err("not ours");
    assert!(foreign.contains("group tallyguard"), "{foreign}");
    assert_eq!(ask(&database.options()).expect("ours").len(), 1);
}
