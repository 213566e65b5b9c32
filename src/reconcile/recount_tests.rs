//! The recount against expectations that were worked out by hand from the contract.

use serde_json::{Value, json};

use super::recount::{
    OrderRow, Outcomes, Parameters, Recount, RuleChange, RuleText, SourceRecord, StatisticsCell, recount,
};

/// 2026-11-20T10:00:00Z, the start of a minute and of an hour.
const TEN: i64 = 1_795_168_800_000;
const SECOND: i64 = 1_000;
const MINUTE: i64 = 60_000;

fn rule(id: &str, window_text: &str, window_ms: i64, max_transactions: u64) -> RuleText {
    RuleText {
        id: id.to_owned(),
        version: 1,
        window_ms,
        window_text: window_text.to_owned(),
        max_transactions,
        severity: "high".to_owned(),
        changes: Vec::new(),
    }
}

fn parameters(rules: Vec<RuleText>) -> Parameters {
    Parameters {
        source_topic: "transactions".to_owned(),
        rules,
        out_of_orderness_ms: MINUTE,
        max_future_skew_ms: MINUTE,
        statistics: true,
        orders: true,
    }
}

fn ten_a_minute() -> Parameters {
    parameters(vec![rule("velocity-1m", "1m", MINUTE, 10)])
}

/// A record of user `u-1` and merchant `m-1`; each transaction its own order.
fn record(offset: i64, transaction: &str, event_time: i64) -> SourceRecord {
    record_with(offset, json!({"transaction_id": transaction, "event_time": event_time}))
}

/// A record with some fields set; the event's own time is the record's timestamp, and partition 0 its partition.
fn record_with(offset: i64, set: Value) -> SourceRecord {
    let mut body = json!({
        "transaction_id": format!("t-{offset}"), "order_id": format!("o-{offset}"), "user_id": "u-1",
        "merchant_id": "m-1", "amount_minor": 100, "currency": "EUR", "event_time": TEN,
    });
    for (name, value) in set.as_object().unwrap() {
        body[name] = value.clone();
    }
    SourceRecord {
        partition: 0,
        offset,
        timestamp_ms: body["event_time"].as_i64(),
        key: body["user_id"].as_str().map(|user| user.as_bytes().to_vec()),
        value: Some(body.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

fn in_partition(partition: i32, record: SourceRecord) -> SourceRecord {
    SourceRecord { partition, ..record }
}

/// `count` transactions of one user, a second apart.
fn burst(count: i64, first_offset: i64, start: i64) -> Vec<SourceRecord> {
    (0..count).map(|n| record(first_offset + n, &format!("b-{}", first_offset + n), start + n * SECOND)).collect()
}

fn outcomes(counted: u64, duplicate: u64, late: u64, dead_letter: u64) -> Outcomes {
    Outcomes { counted, duplicate, late, dead_letter }
}

/// (rule, user, count, causing offset) of each alert.
fn short(recount: &Recount) -> Vec<(&str, &str, u64, i64)> {
    recount
        .alerts
        .iter()
        .map(|alert| {
            let trigger = alert["trigger"]["offset"].as_i64().unwrap();
            let count = alert["count"].as_u64().unwrap();
            (alert["rule_id"].as_str().unwrap(), alert["user_id"].as_str().unwrap(), count, trigger)
        })
        .collect()
}

fn late_offsets(recount: &Recount) -> Vec<i64> {
    recount.late.iter().map(|record| record.offset).collect()
}

#[test]
fn ten_are_allowed_the_eleventh_alerts_and_the_twelfth_is_silent() {
    assert_eq!(short(&recount(&burst(10, 0, TEN), &ten_a_minute())), []);
    for length in [11, 12, 40] {
        let recount = recount(&burst(length, 0, TEN), &ten_a_minute());
        assert_eq!(short(&recount), [("velocity-1m", "u-1", 11, 10)], "{length}");
        assert_eq!(recount.outcomes.counted, length.unsigned_abs());
    }
}

#[test]
fn an_alert_has_the_body_of_the_contract() {
    let mut records = burst(10, 1224, TEN);
    records.push(record_with(
        1234,
        json!({"transaction_id": "t-9", "order_id": "o-9", "merchant_id": "m-2", "amount_minor": 1299,
            "event_time": TEN + 31_500}),
    ));
    for record in &mut records {
        record.partition = 2;
        let value = String::from_utf8(record.value.take().unwrap()).unwrap();
        record.value = Some(value.replace("u-1", "u-17").into_bytes());
    }
    let expected = r#"{"alert_id":"ALERT-ID","rule_id":"velocity-1m","rule_version":1,"severity":"high","user_id":"u-17","window_start":"2026-11-20T10:00:00Z","window_end":"2026-11-20T10:01:00Z","count":11,"threshold":10,"reason":"11 transactions within 1m, limit 10","trigger":{"transaction_id":"t-9","order_id":"o-9","merchant_id":"m-2","amount_minor":1299,"currency":"EUR","event_time":"2026-11-20T10:00:31.500Z","topic":"transactions","partition":2,"offset":1234},"origin":"stream"}"#;
    let found = recount(&records, &ten_a_minute());
    assert_eq!(found.alerts.len(), 1);
    assert_eq!(found.alerts[0].to_string(), expected.replace("ALERT-ID", "9c2e31ee-794e-5e62-a314-6e33adaa73fd"));
    assert_eq!(found.key_mismatches, 11, "the keys still name u-1");
}

#[test]
fn a_burst_over_a_minute_boundary_counts_in_two_windows() {
    // Ten up to 10:00:59.999, ten from 10:01:00.000 on: never more than ten in one window.
    let mut records: Vec<SourceRecord> = (0..10).map(|n| record(n, &format!("a-{n}"), TEN + MINUTE - 1 - n)).collect();
    records.extend((0..10).map(|n| record(10 + n, &format!("b-{n}"), TEN + MINUTE + n)));
    assert_eq!(short(&recount(&records, &ten_a_minute())), []);
    // One more on either side, out of order: each window has its own alert.
    records.push(record(20, "a-10", TEN));
    records.push(record(21, "b-10", TEN + 2 * MINUTE - 1));
    let found = recount(&records, &ten_a_minute());
    assert_eq!(short(&found), [("velocity-1m", "u-1", 11, 20), ("velocity-1m", "u-1", 11, 21)]);
    assert_eq!(found.alerts[0]["window_start"], "2026-11-20T10:00:00Z");
    assert_eq!(found.alerts[1]["window_start"], "2026-11-20T10:01:00Z");
}

#[test]
fn users_and_partitions_are_counted_apart() {
    let mut records = Vec::new();
    for n in 0..10 {
        records.push(record(n * 3, &format!("t-{n}"), TEN));
        records.push(record_with(n * 3 + 1, json!({"user_id": "u-2", "transaction_id": format!("t-{n}")})));
        // The same user and the same ids in another partition are neither duplicates nor counted together.
        records.push(in_partition(1, record(n, &format!("t-{n}"), TEN)));
    }
    let found = recount(&records, &ten_a_minute());
    assert_eq!(short(&found), []);
    assert_eq!(found.outcomes, outcomes(30, 0, 0, 0));
    assert_eq!(found.watermarks, [(0, TEN - MINUTE), (1, TEN - MINUTE)].into());
}

#[test]
fn a_repeated_transaction_id_counts_once_per_window() {
    let mut records = burst(10, 0, TEN);
    records.push(record(10, "b-3", TEN + 30 * SECOND));
    records.push(record_with(11, json!({"transaction_id": "b-3", "merchant_id": "m-9", "order_id": "o-x"})));
    let found = recount(&records, &ten_a_minute());
    assert_eq!(short(&found), []);
    assert_eq!(found.outcomes, outcomes(10, 2, 0, 0));
    assert_eq!(found.statistics.len(), 1, "a duplicate at another merchant is one still");
    assert_eq!(found.statistics[&(TEN, "m-1".to_owned(), "EUR".to_owned(), 0)].last_offset, 9);

    // The same id in the next window, or of another user, is none.
    let records = [
        record(0, "t", TEN),
        record(1, "t", TEN + MINUTE),
        record_with(2, json!({"transaction_id": "t", "user_id": "u-2"})),
    ];
    assert_eq!(recount(&records, &ten_a_minute()).outcomes, outcomes(3, 0, 0, 0));
}

#[test]
fn a_duplicate_after_the_breach_does_not_alert_again_nor_does_it_before() {
    let mut records = burst(10, 0, TEN);
    records.push(record(10, "b-0", TEN));
    records.push(record(11, "b-11", TEN));
    records.push(record(12, "b-11", TEN));
    assert_eq!(short(&recount(&records, &ten_a_minute())), [("velocity-1m", "u-1", 11, 11)]);
}

#[test]
fn a_duplicate_only_in_the_longer_window_is_counted() {
    let rules = vec![rule("minute", "60s", MINUTE, 10), rule("quarter", "15m", 15 * MINUTE, 1)];
    let records = [record(0, "t", TEN), record(1, "t", TEN + MINUTE), record(2, "t", TEN + MINUTE)];
    let found = recount(&records, &parameters(rules));
    assert_eq!(found.outcomes, outcomes(2, 1, 0, 0));
    assert_eq!(short(&found), [], "the quarter of an hour holds one transaction");
}

#[test]
fn two_rules_of_different_windows_alert_by_themselves() {
    let rules = vec![rule("minute", "60s", MINUTE, 2), rule("hour", "1h", 60 * MINUTE, 3)];
    let records: Vec<SourceRecord> =
        [0, 1, 2, 70, 71].iter().zip(0..).map(|(at, n)| record(n, &format!("t-{n}"), TEN + at * SECOND)).collect();
    let found = recount(&records, &parameters(rules.clone()));
    assert_eq!(short(&found), [("minute", "u-1", 3, 2), ("hour", "u-1", 4, 3)]);
    assert_eq!(found.alerts[0]["reason"], "3 transactions within 60s, limit 2");
    assert_eq!(found.alerts[1]["window_end"], "2026-11-20T11:00:00Z");

    // One record may trigger both.
    let rules = vec![rule("minute", "60s", MINUTE, 2), rule("hour", "1h", 60 * MINUTE, 2)];
    assert_eq!(short(&recount(&records[..3], &parameters(rules))), [("minute", "u-1", 3, 2), ("hour", "u-1", 3, 2)]);
}

#[test]
fn a_window_is_closed_when_the_watermark_reaches_its_end_and_not_before() {
    // The watermark before offset 1 is 10:00:59.999: open. Before offset 2 it is 10:01:00.000: closed.
    let records = [
        record(0, "a", TEN + 2 * MINUTE - 1),
        record(1, "b", TEN + MINUTE - 1),
        record(2, "c", TEN + 2 * MINUTE),
        record(3, "d", TEN + MINUTE - 1),
        record(4, "e", TEN + MINUTE),
    ];
    let found = recount(&records, &ten_a_minute());
    assert_eq!(late_offsets(&found), [3]);
    assert_eq!(found.late[0].cause, "2026-11-20T10:01:00.000Z");
    assert_eq!(found.outcomes, outcomes(4, 0, 1, 0));
    assert_eq!(found.watermarks[&0], TEN + MINUTE);
}

#[test]
fn a_record_does_not_close_its_own_window_whatever_the_lateness() {
    let mut parameters = ten_a_minute();
    parameters.out_of_orderness_ms = 0;
    let records = [record(0, "a", TEN), record(1, "b", TEN + MINUTE), record(2, "c", TEN + MINUTE - 1)];
    let found = recount(&records, &parameters);
    assert_eq!(late_offsets(&found), [2]);
    assert_eq!(found.late[0].cause, "2026-11-20T10:01:00.000Z");
}

#[test]
fn late_and_duplicate_records_move_the_watermark_and_dead_letters_do_not() {
    // The duplicate moves the watermark from 9:59:40 to 10:00:10 and so closes the minute before.
    let mut parameters = ten_a_minute();
    parameters.out_of_orderness_ms = 20 * SECOND;
    let records = [record(0, "a", TEN), record(1, "a", TEN + 30 * SECOND), record(2, "b", TEN - SECOND)];
    let found = recount(&records, &parameters);
    assert_eq!(found.outcomes, outcomes(1, 1, 1, 0));
    assert_eq!((late_offsets(&found), found.late[0].cause.as_str()), (vec![2], "2026-11-20T10:00:10.000Z"));
    let without_the_duplicate = [records[0].clone(), records[2].clone()];
    assert!(recount(&without_the_duplicate, &parameters).late.is_empty());

    // A late record lies below the watermark and never moves it back.
    assert_eq!(found.watermarks[&0], TEN + 10 * SECOND);

    // A dead letter with a valid, far later event time moves nothing.
    let mut invalid = record(1, "b", TEN + 50 * MINUTE);
    invalid.timestamp_ms = Some(TEN);
    let records = [record(0, "a", TEN), invalid, record(2, "c", TEN)];
    let found = recount(&records, &ten_a_minute());
    assert_eq!(found.outcomes, outcomes(2, 0, 0, 1));
    assert_eq!(found.watermarks[&0], TEN - MINUTE);
    assert!(!found.orders.contains_key("o-1"));
}

#[test]
fn lateness_is_decided_for_each_window_by_itself() {
    let rules = vec![rule("minute", "1m", MINUTE, 10), rule("hour", "1h", 60 * MINUTE, 1)];
    // Late for the minute and the statistics, in time for the hour, where it is the second and alerts.
    let records = [record(0, "a", TEN + 30 * MINUTE), record(1, "b", TEN)];
    let found = recount(&records, &parameters(rules.clone()));
    assert_eq!(late_offsets(&found), [1], "once, though late twice");
    assert_eq!(short(&found), [("hour", "u-1", 2, 1)]);
    assert_eq!(found.outcomes, outcomes(1, 0, 1, 0));
    assert_eq!(found.statistics.len(), 1);

    // Late somewhere and duplicate elsewhere: the outcome is late.
    let records = [record(0, "a", TEN + 30 * MINUTE), record(1, "a", TEN)];
    let found = recount(&records, &parameters(rules));
    assert_eq!((short(&found), found.outcomes), (vec![], outcomes(1, 0, 1, 0)));
}

#[test]
fn statistics_have_their_own_minute_and_without_them_it_does_not_exist() {
    let mut hour = parameters(vec![rule("hour", "1h", 60 * MINUTE, 10)]);
    let records = [record(0, "a", TEN + 30 * MINUTE), record(1, "b", TEN), record(2, "a", TEN + 30 * MINUTE)];
    let found = recount(&records, &hour);
    assert_eq!(late_offsets(&found), [1]);
    assert_eq!(found.outcomes, outcomes(1, 1, 1, 0));

    hour.statistics = false;
    let found = recount(&records, &hour);
    assert!(found.late.is_empty());
    assert_eq!(found.outcomes, outcomes(2, 1, 0, 0));
    assert!(found.statistics.is_empty() && found.orders.is_empty());

    // A rule of a second is late where the statistics' minute is not.
    let mut second = parameters(vec![rule("second", "1s", SECOND, 10)]);
    second.out_of_orderness_ms = 5 * SECOND;
    let found = recount(&[record(0, "a", TEN + 20 * SECOND), record(1, "b", TEN)], &second);
    assert_eq!(late_offsets(&found), [1]);
    assert_eq!(found.statistics[&(TEN, "m-1".to_owned(), "EUR".to_owned(), 0)].transaction_count, 2);
}

#[test]
fn statistics_add_up_per_minute_merchant_currency_and_partition() {
    let records = [
        record_with(0, json!({"order_id": "o-a", "amount_minor": 500})),
        record_with(1, json!({"order_id": "o-a", "amount_minor": 700})),
        record_with(2, json!({"order_id": "o-b", "amount_minor": 0, "user_id": "u-2"})),
        record_with(3, json!({"order_id": "o-a", "currency": "USD"})),
        record_with(4, json!({"order_id": "o-a", "merchant_id": "m-2", "amount_minor": 1_000_000_000_000_000_i64})),
        record_with(5, json!({"order_id": "o-a", "event_time": TEN + MINUTE})),
        record_with(6, json!({"merchant_id": "M-1"})),
        record_with(7, json!({"merchant_id": "m-1 "})),
        in_partition(1, record_with(0, json!({"order_id": "o-a", "amount_minor": 1}))),
    ];
    let found = recount(&records, &ten_a_minute());
    let key = |minute: i64, merchant: &str, currency: &str, partition: i32| {
        (minute, merchant.to_owned(), currency.to_owned(), partition)
    };
    let cell = |transaction_count, order_count, amount_minor, max_amount_minor, last_offset| StatisticsCell {
        transaction_count,
        order_count,
        amount_minor,
        max_amount_minor,
        last_offset,
    };
    let expected = [
        (key(TEN, "m-1", "EUR", 0), cell(3, 2, 1200, 700, 2)),
        (key(TEN, "m-1", "USD", 0), cell(1, 1, 100, 100, 3)),
        (key(TEN, "m-2", "EUR", 0), cell(1, 1, 1_000_000_000_000_000, 1_000_000_000_000_000, 4)),
        (key(TEN + MINUTE, "m-1", "EUR", 0), cell(1, 1, 100, 100, 5)),
        (key(TEN, "M-1", "EUR", 0), cell(1, 1, 100, 100, 6)),
        (key(TEN, "m-1 ", "EUR", 0), cell(1, 1, 100, 100, 7)),
        (key(TEN, "m-1", "EUR", 1), cell(1, 1, 1, 1, 0)),
    ];
    assert_eq!(found.statistics, expected.into());
}

#[test]
fn an_order_is_its_last_valid_record_late_and_duplicate_ones_included() {
    let records = [
        record_with(0, json!({"order_id": "o", "status": "new", "transaction_id": "t"})),
        record_with(1, json!({"order_id": "o", "status": "paid", "transaction_id": "t", "amount_minor": 7})),
        record(2, "far", TEN + 30 * MINUTE),
        record_with(3, json!({"order_id": "late", "status": "x"})),
        in_partition(1, record_with(0, json!({"order_id": "late", "user_id": "u-2"}))),
        SourceRecord { offset: 4, ..SourceRecord::default() },
    ];
    let found = recount(&records, &ten_a_minute());
    let row = |user: &str, amount_minor, status: Option<&str>, partition, offset| OrderRow {
        user_id: user.to_owned(),
        merchant_id: "m-1".to_owned(),
        amount_minor,
        currency: "EUR".to_owned(),
        status: status.map(str::to_owned),
        event_time_ms: TEN,
        partition,
        offset,
    };
    assert_eq!(found.orders["o"], row("u-1", 7, Some("paid"), 0, 1));
    assert_eq!(found.orders["late"], row("u-2", 100, None, 1, 0));
    assert_eq!(found.orders.len(), 3);
    assert_eq!(late_offsets(&found), [3]);
}

#[test]
fn records_may_come_in_any_interleaving_of_partitions() {
    let mut records = burst(12, 0, TEN);
    records.extend(burst(12, 0, TEN + 5 * MINUTE).into_iter().map(|record| in_partition(1, record)));
    records.push(record(12, "late", TEN - 5 * MINUTE));
    let in_order = recount(&records, &ten_a_minute());
    records.reverse();
    assert_eq!(recount(&records, &ten_a_minute()), in_order);
    records.sort_by_key(|record| (record.offset % 5, record.partition, record.offset));
    assert_eq!(recount(&records, &ten_a_minute()), in_order);
    assert_eq!(in_order.alerts.len(), 2);
}

#[test]
fn side_records_keep_the_original_and_add_our_headers_behind_its_own() {
    let mut broken = record(7, "a", TEN);
    broken.value = Some(b"{\xff".to_vec());
    broken.headers = vec![("tallyguard.source.offset".to_owned(), None), ("x".to_owned(), Some(Vec::new()))];
    let mut late = record(9, "b", TEN - 5 * MINUTE);
    late.timestamp_ms = None;
    let found = recount(&[broken.clone(), record(8, "c", TEN), late], &ten_a_minute());

    let dead_letter = &found.dead_letters[0];
    assert_eq!((dead_letter.partition, dead_letter.offset, dead_letter.cause.as_str()), (0, 7, "invalid_utf8"));
    assert_eq!((&dead_letter.key, &dead_letter.value), (&broken.key, &broken.value));
    assert_eq!(dead_letter.original_headers, broken.headers);
    let text = |headers: &[(String, Option<Vec<u8>>)]| -> Vec<String> {
        let value = |value: &Option<Vec<u8>>| String::from_utf8(value.clone().unwrap()).unwrap();
        headers.iter().map(|(name, content)| format!("{name}={}", value(content))).collect()
    };
    let expected = [
        "tallyguard.source.topic=transactions",
        "tallyguard.source.partition=0",
        "tallyguard.source.offset=7",
        "tallyguard.source.timestamp=1795168800000",
        "tallyguard.error.code=invalid_utf8",
        "tallyguard.error.message=not UTF-8 at byte 1",
    ];
    assert_eq!(text(&dead_letter.own_headers), expected);
    let expected = [
        "tallyguard.source.topic=transactions",
        "tallyguard.source.partition=0",
        "tallyguard.source.offset=9",
        "tallyguard.late.watermark=2026-11-20T09:59:00.000Z",
    ];
    assert_eq!(text(&found.late[0].own_headers), expected);
}

#[test]
fn a_changed_rule_acts_from_its_first_offset_on_for_counters_as_they_stand() {
    let mut rule = rule("velocity-1m", "1m", MINUTE, 10);
    let change = |partition, first_offset, version, max_transactions| RuleChange {
        partition,
        first_offset,
        version,
        max_transactions,
        severity: "critical".to_owned(),
    };
    // Lowered to 3 when five are counted: the sixth alerts at once, with the count as it stands.
    rule.changes = vec![change(0, 5, 2, 3), change(1, 0, 2, 1)];
    let found = recount(&burst(12, 0, TEN), &parameters(vec![rule.clone()]));
    assert_eq!(short(&found), [("velocity-1m", "u-1", 6, 5)]);
    let alert = &found.alerts[0];
    assert_eq!((&alert["rule_version"], &alert["threshold"]), (&json!(2), &json!(3)));
    assert_eq!(
        (&alert["severity"], &alert["reason"]),
        (&json!("critical"), &json!("6 transactions within 1m, limit 3"))
    );
    assert_eq!(alert["alert_id"], "f84e0406-d660-554e-9e97-ea870c10d3bf");

    // A window that alerted stays silent under a later version; a raised limit spares windows that had not.
    rule.changes = vec![change(0, 11, 2, 3)];
    assert_eq!(short(&recount(&burst(20, 0, TEN), &parameters(vec![rule.clone()]))), [("velocity-1m", "u-1", 11, 10)]);
    rule.changes = vec![change(0, 10, 2, 11), change(0, 12, 3, 20)];
    assert_eq!(short(&recount(&burst(12, 0, TEN), &parameters(vec![rule.clone()]))), [("velocity-1m", "u-1", 12, 11)]);
    rule.changes = vec![change(0, 10, 2, 20)];
    assert_eq!(short(&recount(&burst(20, 0, TEN), &parameters(vec![rule]))), []);
}
