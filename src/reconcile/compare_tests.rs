//! Each way in which outputs can differ from the recount is found, named once, and nothing else is.

use serde_json::{Value, json};

use super::compare::{
    Difference, Guard, Kind, compare_alert_records, compare_alerts, compare_dead_letters, compare_late_records,
    compare_orders, compare_statistics,
};
use super::recount::{OrderRow, Parameters, Recount, RuleText, StatisticsCell, recount};
use super::side_record::{SideRecord, SourceRecord};

const TEN: i64 = 1_795_168_800_000;

/// Three users with two transactions each (one is allowed), a dead letter and a late record.
fn recounted() -> Recount {
    let rule = RuleText {
        id: "r".to_owned(),
        version: 1,
        window_ms: 60_000,
        window_text: "1m".to_owned(),
        max_transactions: 1,
        severity: "low".to_owned(),
        changes: Vec::new(),
    };
    let parameters = Parameters {
        source_topic: "transactions".to_owned(),
        rules: vec![rule],
        out_of_orderness_ms: 0,
        max_future_skew_ms: 0,
        statistics: true,
        orders: true,
    };
    let record = |offset: i64, event_time: i64| {
        let user = format!("u-{}", offset % 3);
        let body = json!({"transaction_id": format!("t-{offset}"), "order_id": format!("o-{offset}"), "user_id": user,
            "merchant_id": "m", "amount_minor": 5, "currency": "EUR", "event_time": event_time});
        SourceRecord {
            partition: 3,
            offset,
            timestamp_ms: Some(event_time),
            key: Some(user.into_bytes()),
            value: Some(body.to_string().into_bytes()),
            headers: vec![("trace".to_owned(), Some(b"\xff\x00".to_vec())), ("empty".to_owned(), None)],
        }
    };
    let mut records: Vec<SourceRecord> = (0..6).map(|offset| record(offset, TEN)).collect();
    records.push(SourceRecord { value: Some(b"not JSON, but long enough to be cut".to_vec()), ..record(6, TEN) });
    records.push(record(7, TEN - 1));
    recount(&records, &parameters)
}

/// A side record as the service would have written it.
fn written(record: &SideRecord) -> SourceRecord {
    SourceRecord {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: [record.original_headers.clone(), record.own_headers.clone()].concat(),
        ..SourceRecord::default()
    }
}

fn alert_record(offset: i64, body: &Value) -> SourceRecord {
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    SourceRecord {
        offset,
        key: body["user_id"].as_str().map(|user| user.as_bytes().to_vec()),
        value: Some(body.to_string().into_bytes()),
        headers: vec![header("content-type", "application/json"), header("tallyguard.schema", "alert.v1")],
        ..SourceRecord::default()
    }
}

fn kinds(differences: &[Difference]) -> Vec<Kind> {
    assert!(differences.iter().all(|difference| difference.to_string().lines().count() == 1));
    differences.iter().map(|difference| difference.kind).collect()
}

#[test]
fn equal_alerts_in_another_order_do_not_differ() {
    let expected = recounted().alerts;
    assert_eq!(expected.len(), 3);
    let mut found = expected.clone();
    found.reverse();
    // The order of members plays no part either.
    found[0] = serde_json::from_str(&format!("{{\"origin\":\"stream\",{}", &found[0].to_string()[1..])).unwrap();
    assert_eq!(compare_alerts(&expected, &found), []);
    assert_eq!(compare_alerts(&[], &[]), []);
}

#[test]
fn missing_duplicate_unexpected_and_changed_alerts_are_told_apart() {
    let expected = recounted().alerts;
    assert_eq!(kinds(&compare_alerts(&expected, &expected[1..])), [Kind::Missing]);
    assert_eq!(kinds(&compare_alerts(&expected[1..], &expected)), [Kind::Unexpected]);
    let twice = [&expected[..], &expected[..1]].concat();
    assert_eq!(kinds(&compare_alerts(&expected, &twice)), [Kind::Duplicate]);
    assert_eq!(kinds(&compare_alerts(&expected, &[&twice[..], &expected[..1]].concat())), [Kind::Duplicate; 2]);

    let mut changed = expected.clone();
    changed[1]["count"] = json!(3);
    changed[1]["trigger"]["offset"] = json!(99);
    changed[1]["extra"] = json!(null);
    let differences = compare_alerts(&expected, &changed);
    assert_eq!(kinds(&differences), [Kind::Different]);
    let line = differences[0].to_string();
    for part in ["alert different", "u-1", "count is 3, not 2", "trigger.offset is 99, not 4", "extra is not wanted"] {
        assert!(line.contains(part), "{line}");
    }
    // A second one under the same id is a duplicate, even with another body.
    let both = [&expected[..], &changed[1..2]].concat();
    assert_eq!(kinds(&compare_alerts(&expected, &both)), [Kind::Duplicate]);
    // Without an id it is unexpected.
    let stray = [&expected[..], &[json!("x")]].concat();
    assert_eq!(kinds(&compare_alerts(&expected, &stray)), [Kind::Unexpected]);
}

#[test]
fn alert_records_need_their_key_their_headers_and_the_order_of_their_causes() {
    let expected = recounted().alerts;
    let records: Vec<SourceRecord> = expected.iter().zip(0..).map(|(body, at)| alert_record(at, body)).collect();
    assert_eq!(compare_alert_records(&expected, &records), []);

    let mut other_key = records.clone();
    other_key[0].key = None;
    other_key[1].headers.pop();
    assert_eq!(kinds(&compare_alert_records(&expected, &other_key)), [Kind::Different; 2]);

    let mut no_json = records.clone();
    no_json[2].value = Some(b"{".to_vec());
    assert_eq!(kinds(&compare_alert_records(&expected, &no_json)), [Kind::Unexpected, Kind::Missing]);

    // A later window's alert in front of an earlier one of the same user.
    let mut later = expected[0].clone();
    later["alert_id"] = json!("later");
    later["trigger"]["offset"] = json!(50);
    let swapped = [alert_record(0, &later), alert_record(1, &expected[0])];
    assert_eq!(kinds(&compare_alert_records(&[later, expected[0].clone()], &swapped)), [Kind::OutOfOrder]);
}

#[test]
fn side_records_are_compared_byte_for_byte_with_our_headers_behind() {
    let expected = recounted();
    let (dead, late) = (written(&expected.dead_letters[0]), written(&expected.late[0]));
    let dead_letters = |found: &[SourceRecord]| kinds(&compare_dead_letters(&expected.dead_letters, found));
    let late_records = |found: &[SourceRecord]| kinds(&compare_late_records(&expected.late, found));
    assert_eq!(dead_letters(std::slice::from_ref(&dead)), []);
    assert_eq!(late_records(std::slice::from_ref(&late)), []);
    assert_eq!(dead_letters(&[]), [Kind::Missing]);
    assert_eq!(late_records(&[late.clone(), late.clone()]), [Kind::Duplicate]);
    assert_eq!(kinds(&compare_late_records(&[], std::slice::from_ref(&late))), [Kind::Unexpected]);

    let changes: [fn(&mut SourceRecord); 8] = [
        |record| record.key = Some(Vec::new()),
        |record| record.value = None,
        |record| record.headers.swap(0, 1),
        |record| record.headers[0].1 = Some(Vec::new()),
        |record| record.headers[1].1 = Some(Vec::new()),
        |record| record.headers.swap(2, 3),
        |record| record.headers.rotate_right(1),
        |record| record.headers.insert(2, ("more".to_owned(), None)),
    ];
    for change in changes {
        let (mut dead, mut late) = (dead.clone(), late.clone());
        change(&mut dead);
        change(&mut late);
        assert_eq!((dead_letters(&[dead]), late_records(&[late])), (vec![Kind::Different], vec![Kind::Different]));
    }

    let mut stray = dead.clone();
    stray.headers.clear();
    assert_eq!(dead_letters(&[dead, stray]), [Kind::Unexpected]);
}

#[test]
fn the_text_of_the_error_message_is_free_but_has_to_be_there() {
    let expected = recounted().dead_letters;
    let mut found = written(&expected[0]);
    found.headers.last_mut().unwrap().1 = Some(b"another text".to_vec());
    assert_eq!(compare_dead_letters(&expected, std::slice::from_ref(&found)), []);
    found.headers.last_mut().unwrap().1 = None;
    assert_eq!(kinds(&compare_dead_letters(&expected, std::slice::from_ref(&found))), [Kind::Different]);
    found.headers.pop();
    assert_eq!(kinds(&compare_dead_letters(&expected, std::slice::from_ref(&found))), [Kind::Different]);
}

#[test]
fn the_watermark_is_compared_as_an_instant() {
    let expected = recounted().late;
    let mut found = written(&expected[0]);
    found.headers.last_mut().unwrap().1 = Some(b"2026-11-20T10:00:00Z".to_vec());
    assert_eq!(compare_late_records(&expected, std::slice::from_ref(&found)), []);
    for wrong in ["2026-11-20T10:00:00.001Z", "1795168800000", ""] {
        found.headers.last_mut().unwrap().1 = Some(wrong.as_bytes().to_vec());
        assert_eq!(kinds(&compare_late_records(&expected, std::slice::from_ref(&found))), [Kind::Different], "{wrong}");
    }
}

#[test]
fn a_cut_record_is_the_expected_one_if_it_says_so_and_was_cut_in_order() {
    let expected = recounted().dead_letters;
    let whole = written(&expected[0]);
    let mut cut = whole.clone();
    cut.value.as_mut().unwrap().truncate(4);
    let cut_without_mark = cut.clone();
    cut.headers.push(("tallyguard.truncated".to_owned(), Some(b"true".to_vec())));
    let same = |found: &SourceRecord| compare_dead_letters(&expected, std::slice::from_ref(found)).is_empty();
    assert!(same(&cut));
    assert!(!same(&cut_without_mark));

    let mut nothing_cut = cut.clone();
    nothing_cut.value = whole.value.clone();
    assert!(!same(&nothing_cut), "marked, but whole");

    let mut headers_first = cut.clone();
    headers_first.headers.remove(1);
    assert!(!same(&headers_first), "headers went while there was value left");
    headers_first.value = None;
    assert!(same(&headers_first));

    let mut key_too = headers_first.clone();
    key_too.key = None;
    assert!(!same(&key_too), "the key went while there were headers left");
    key_too.headers.remove(0);
    assert!(same(&key_too));
    key_too.key = Some(b"other".to_vec());
    assert!(!same(&key_too));
}

#[test]
fn an_original_that_carries_our_header_names_is_still_recognised() {
    // A dead letter that was fed into the source topic again.
    let expected = recounted().dead_letters;
    let mut fed_again = expected[0].clone();
    fed_again.original_headers = [expected[0].original_headers.clone(), expected[0].own_headers.clone()].concat();
    fed_again.original_headers.push(("tallyguard.truncated".to_owned(), Some(b"true".to_vec())));
    fed_again.own_headers[2].1 = Some(b"77".to_vec());
    fed_again.offset = 77;
    let found = written(&fed_again);
    assert_eq!(compare_dead_letters(&[fed_again], &[found]), []);
}

#[test]
fn statistics_rows_are_compared_measure_by_measure() {
    let expected = recounted().statistics;
    let found: Vec<_> = expected.iter().map(|(key, cell)| (key.clone(), *cell)).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(compare_statistics(&expected, &found, Guard::Compared), []);
    assert_eq!(kinds(&compare_statistics(&expected, &[], Guard::Compared)), [Kind::Missing]);
    assert_eq!(kinds(&compare_statistics(&Default::default(), &found, Guard::Compared)), [Kind::Unexpected]);

    let (key, cell) = found[0].clone();
    let guard_only = [(key.clone(), StatisticsCell { last_offset: 99, ..cell })];
    assert_eq!(compare_statistics(&expected, &guard_only, Guard::Ignored), []);
    assert_eq!(kinds(&compare_statistics(&expected, &guard_only, Guard::Compared)), [Kind::Different]);

    let wrong = [(key, StatisticsCell { amount_minor: 31, order_count: 5, ..cell })];
    let differences = compare_statistics(&expected, &wrong, Guard::Compared);
    let line = differences[0].to_string();
    assert_eq!(
        line,
        "statistics row different: 2026-11-20T10:00:00Z, merchant \"m\", EUR, partition 3: \
         order_count is 5, not 6, amount_minor is 31, not 30"
    );
}

#[test]
fn orders_are_compared_row_by_row() {
    let expected = recounted().orders;
    let mut found: Vec<(String, OrderRow)> = expected.iter().map(|(id, row)| (id.clone(), row.clone())).collect();
    assert_eq!(compare_orders(&expected, &found), []);
    found[0].1.status = Some("other".to_owned());
    let last = found.pop();
    assert!(last.is_some());
    assert_eq!(kinds(&compare_orders(&expected, &found)), [Kind::Different, Kind::Missing]);
}
