//! What ends up in the tables.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::statistics::{StatisticsFlush, StatisticsRow};
use tallyguard::domain::time::{Watermark, WindowStart};
use tallyguard::stats::{RuleHistoryEntry, StatsEvent, StatsOptions};

use crate::both::{OnBoth, on_both};
use crate::fixture::{MINUTE, TestWriter, flush, order, row};
use crate::support::wait_until;

on_both! {
    whatever_the_order_of_flushes_each_row_holds_its_latest_values,
    ids_that_differ_in_case_accents_or_trailing_blanks_are_different_merchants_and_orders,
    the_view_adds_up_partitions_and_sums_beyond_64_bits,
    a_row_that_the_database_refuses_is_set_aside_and_holds_up_nothing,
    a_flush_of_nothing_but_refused_rows_still_moves_the_progress,
    an_order_keeps_its_last_record_by_partition_and_offset,
    progress_carries_the_watermark_and_never_goes_back,
    a_rule_version_is_recorded_once_with_its_first_offset,
    ten_thousand_rows_arrive_within_seconds,
}

const MEASURES: &str = "SELECT source_partition, merchant_id, currency, window_start, transaction_count, order_count, \
    amount_minor, max_amount_minor, source_offset FROM order_stats_by_partition \
    ORDER BY source_partition, merchant_id, currency, window_start";

type Model = BTreeMap<(i32, String, [u8; 3], i64), StatisticsRow>;

fn model_texts(model: &Model) -> Vec<Vec<String>> {
    let texts = model.iter().map(|((partition, merchant, currency, minute), row)| {
        let at = chrono::DateTime::from_timestamp_millis(*minute).unwrap().naive_utc();
        vec![
            partition.to_string(),
            merchant.clone(),
            String::from_utf8(currency.to_vec()).unwrap(),
            at.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
            row.transaction_count.to_string(),
            row.order_count.to_string(),
            row.amount_minor.to_string(),
            row.max_amount_minor.to_string(),
            row.source_offset.to_string(),
        ]
    });
    texts.collect()
}

fn random_row(rng: &mut impl Rng) -> StatisticsRow {
    let source_offset = rng.random_range(0..200);
    let merchant = ["m", "m ", "M", "ḿ", "m\u{301}", "商店", "🛒"][rng.random_range(0..7)];
    let currency = [*b"EUR", *b"USD"][rng.random_range(0..2)];
    let minute = WindowStart(MINUTE + 60_000 * rng.random_range(0..2));
    StatisticsRow { minute, currency, ..row(merchant, source_offset) }
}

/// Each flush brings new rows, or is an old one over again, or mixes both, as a restart, a replay or a process that was
/// replaced would. A few rows are repaired on the way. Statements are kept tiny so that a flush takes many.
fn whatever_the_order_of_flushes_each_row_holds_its_latest_values(database: &OnBoth) {
    for seed in 0..6 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        database.renew();
        let writer = TestWriter::spawn(StatsOptions { batch_rows: 3, ..database.options() });
        let (mut model, mut past) = (Model::new(), Vec::<StatisticsFlush>::new());
        let mut furthest = BTreeMap::new();
        for step in 0..30 {
            let next = if !past.is_empty() && rng.random_bool(0.4) {
                past[rng.random_range(0..past.len())].clone()
            } else {
                let partition = rng.random_range(0..3);
                let mut rows = BTreeMap::new();
                for _ in 0..rng.random_range(0..12) {
                    let row = random_row(&mut rng);
                    rows.insert((row.minute.0, row.merchant_id.clone(), row.currency), row);
                }
                flush(partition, rng.random_range(0..=200), rows.into_values().collect())
            };
            writer.write(next.clone());
            let through = furthest.entry(next.partition.0).or_insert(0);
            *through = next.through.0.max(*through);
            for row in &next.rows {
                let key = (next.partition.0, row.merchant_id.to_string(), row.currency, row.minute.0);
                let stored = model.entry(key).or_insert_with(|| row.clone());
                if stored.max_amount_minor >= 0 && row.source_offset >= stored.source_offset {
                    *stored = row.clone();
                }
            }
            past.push(next);
            if step == 15 {
                let repair = format!(
                    "UPDATE order_stats_by_partition SET reconciled_at = {}, max_amount_minor = -1 \
                     WHERE merchant_id = 'm'",
                    database.now()
                );
                database.run(&repair);
                model.iter_mut().filter(|(key, _)| key.1 == "m").for_each(|(_, row)| row.max_amount_minor = -1);
            }
        }
        assert_eq!(database.texts(MEASURES), model_texts(&model), "seed {seed}");
        let progress = database.texts("SELECT source_partition, source_offset FROM order_stats_progress ORDER BY 1");
        let furthest: Vec<_> = furthest.iter().map(|(p, through)| vec![p.to_string(), through.to_string()]).collect();
        assert_eq!(progress, furthest, "seed {seed}");
    }
}

fn ids_that_differ_in_case_accents_or_trailing_blanks_are_different_merchants_and_orders(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    // One merchant twice in other Unicode forms, blanks of several kinds, and 128 bytes of the widest characters.
    let long = "🛒".repeat(32);
    let ids = ["ab", "AB", "áb", "a\u{301}b", "ab ", " ab", "ab  ", "ab\u{a0}", "straße", "strasse", &long, "%", "a_"];
    let rows = ids.iter().zip(0..).map(|(id, offset)| row(id, offset)).collect();
    let orders = ids.iter().zip(0..).map(|(id, offset)| order(id, offset, offset)).collect();
    writer.write(StatisticsFlush { orders, ..flush(0, 100, rows) });
    for (id, offset) in ids.iter().zip(0..) {
        let select = |table: &str, column: &str| {
            database.texts(&format!("SELECT {column}, max_amount_minor FROM {table} WHERE {column} = '{id}'"))
        };
        let expected = vec![vec![(*id).to_owned(), (100 + offset).to_string()]];
        assert_eq!(select("order_stats_by_partition", "merchant_id"), expected);
        assert_eq!(select("order_stats", "merchant_id"), expected);
        let found = database.texts(&format!("SELECT amount_minor FROM orders WHERE order_id = '{id}'"));
        assert_eq!(found, [[offset.to_string()]]);
    }
}

fn the_view_adds_up_partitions_and_sums_beyond_64_bits(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    let huge = database.largest_sum();
    for partition in 0..3 {
        let offset = i64::from(partition);
        let row = StatisticsRow { amount_minor: huge, max_amount_minor: 7 + offset, ..row("m-1", 4) };
        writer.write(flush(partition, 5, vec![row, StatisticsRow { currency: *b"USD", ..self::row("m-1", offset) }]));
    }
    let view = database.texts(
        "SELECT window_start, merchant_id, currency, transaction_count, order_count, amount_minor, max_amount_minor \
         FROM order_stats ORDER BY currency",
    );
    let start = "2026-11-20 10:00:00.000";
    assert_eq!(
        view,
        [
            [start, "m-1", "EUR", "15", "15", &(3 * huge).to_string(), "9"],
            [start, "m-1", "USD", "6", "6", "600", "102"],
        ]
    );
}

fn a_row_that_the_database_refuses_is_set_aside_and_holds_up_nothing(database: &OnBoth) {
    // Found among many, at either end, and as the very last row, which the progress travels with.
    for (poisoned, partition) in [(0, 0), (37, 1), (99, 2)] {
        let writer = TestWriter::spawn(StatsOptions { batch_rows: 40, ..database.options() });
        let mut rows: Vec<_> = (0..100).map(|offset| row(&format!("m-{offset:02}"), offset)).collect();
        rows[poisoned].amount_minor = 10_i128.pow(38);
        let orders = vec![order(&format!("o-{partition}"), 1, 5)];
        let events = writer.write(StatisticsFlush { orders, ..flush(partition, 100, rows) });
        let set_aside: Vec<_> =
            events.iter().filter(|event| matches!(event, StatsEvent::RowSetAside { .. })).cloned().collect();
        assert_eq!(
            set_aside,
            [StatsEvent::RowSetAside {
                key: format!("order_stats_by_partition 2026-11-20T10:00:00Z partition {partition} offset {poisoned}"),
                error: database.spelled("MySQL error 1264 (SQLSTATE 22003)", "a number does not fit into 64 bits"),
            }]
        );
        let stored = format!("SELECT COUNT(*) FROM order_stats_by_partition WHERE source_partition = {partition}");
        assert_eq!(database.texts(&stored), [["99"]]);
    }
    assert_eq!(database.texts("SELECT COUNT(*), MIN(source_offset) FROM order_stats_progress"), [["3", "100"]]);
    assert_eq!(database.texts("SELECT COUNT(*) FROM orders"), [["3"]]);
}

fn a_flush_of_nothing_but_refused_rows_still_moves_the_progress(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    let mut last = order("o-1", 3, 1);
    last.status = Some("x".repeat(65).into());
    let events = writer.write(StatisticsFlush { orders: vec![last], ..flush(0, 4, vec![]) });
    assert!(events.contains(&StatsEvent::RowSetAside {
        key: "orders partition 0 offset 3".to_owned(),
        error: database.spelled("MySQL error 1406 (SQLSTATE 22001)", "SQLite error 275"),
    }));
    assert_eq!(database.texts("SELECT source_offset FROM order_stats_progress"), [["4"]]);
}

fn an_order_keeps_its_last_record_by_partition_and_offset(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    // (partition, offset) in order of arrival; a larger partition wins whatever the offset.
    for (partition, offset) in [(1, 50), (1, 40), (0, 99), (1, 51), (2, 3), (2, 3), (1, 90), (2, 2)] {
        let mut last = order("o-1", offset, 1_000 * i64::from(partition) + offset);
        last.status = (offset % 2 == 1).then(|| format!("s-{partition}-{offset}").into());
        last.user_id = format!("u-{partition}-{offset}").into();
        let orders = vec![last, order(&format!("o-{partition}-{offset}"), offset, 1)];
        writer.write(StatisticsFlush { orders, ..flush(partition, offset + 1, vec![]) });
    }
    let columns = "user_id, amount_minor, status, source_partition, source_offset, event_time";
    assert_eq!(
        database.texts(&format!("SELECT {columns} FROM orders WHERE order_id = 'o-1'")),
        [["u-2-3", "2003", "s-2-3", "2", "3", "2026-11-20 10:00:01.234"]]
    );
    assert_eq!(database.texts("SELECT COUNT(*) FROM orders"), [["8"]]);

    let without = TestWriter::spawn(StatsOptions { orders: false, ..database.options() });
    without.write(StatisticsFlush { orders: vec![order("o-off", 1, 1)], ..flush(5, 2, vec![]) });
    assert_eq!(database.texts("SELECT COUNT(*) FROM orders"), [["8"]]);
}

fn progress_carries_the_watermark_and_never_goes_back(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    let progress = "SELECT source_offset, watermark FROM order_stats_progress";
    writer.write(StatisticsFlush { watermark: Watermark::NONE, ..flush(0, 1, vec![]) });
    assert_eq!(database.texts(progress), [["1", "NULL"]]);
    writer.write(flush(0, 9, vec![]));
    writer.write(StatisticsFlush { watermark: Watermark::NONE, ..flush(0, 8, vec![]) });
    assert_eq!(database.texts(progress), [["9", "2026-11-20 09:59:00.000"]]);
}

fn a_rule_version_is_recorded_once_with_its_first_offset(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    let entry = |partition, first_offset| RuleHistoryEntry {
        rule_id: "velocity-1m".to_owned(),
        version: 2,
        partition: PartitionId(partition),
        first_offset: Offset(first_offset),
        content: r#"{"max_transactions":10}"#.to_owned(),
    };
    writer.handle.record_rule_version(entry(0, 5));
    writer.handle.record_rule_version(entry(1, 7));
    let recorded = "SELECT source_partition, first_offset, content FROM rule_history ORDER BY 1";
    let expected = [["0", "5", r#"{"max_transactions":10}"#], ["1", "7", r#"{"max_transactions":10}"#]];
    writer.until_connected();
    wait_until(Duration::from_secs(20), "both are recorded", || database.texts(recorded).len() == 2);
    writer.handle.record_rule_version(entry(0, 9));
    assert!(writer.handle.shutdown(Duration::from_secs(20)));
    assert_eq!(database.texts(recorded), expected);
}

fn ten_thousand_rows_arrive_within_seconds(database: &OnBoth) {
    let writer = TestWriter::spawn(database.options());
    writer.until_connected();
    for round in 1..=2 {
        let rows = (0..10_000).map(|n| row(&format!("merchant-{n:05}"), round)).collect();
        let started = Instant::now();
        writer.write(flush(0, 10 * round, rows));
        assert!(started.elapsed() < Duration::from_secs(30), "round {round}: {:?}", started.elapsed());
    }
    let stored = database.texts("SELECT COUNT(*), MIN(source_offset) FROM order_stats_by_partition");
    assert_eq!(stored, [["10000", "2"]]);
}
