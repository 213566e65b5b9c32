//! What records mean: all of the contract's rules on one topic that holds everything that has ever bitten somebody.

use std::thread;
use std::time::Duration;

use tallyguard::domain::time::EventTime;
use tallyguard::generate::WorkloadOptions;

use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, burst, busy, transaction};
use crate::support::topics::{OpenTransaction, create_topic, produce_aborted_transaction};
use crate::support::{TestRecord, workload};

/// 2099-06-01T00:00:00Z.
const IN_2099_MS: i64 = 4_083_955_200_000;
const DEAD_LETTER_BYTES_MAX: usize = 20_000;

on_both!(a_mixed_log_adds_up_to_what_the_recount_says, poison_is_set_aside_and_the_rest_goes_on,);

/// Every peculiarity of the traffic: before the service runs, while it runs, and between two runs.
fn a_mixed_log_adds_up_to_what_the_recount_says(transport: Transport) {
    let scenario = Scenario::over(transport).with_statistics().create_topics();
    scenario.produce(workload(busy(42, 20_000)));
    let mut service = scenario.start_ready();
    scenario.load(50_000, later(100, busy(43, 20_000))).finish();
    scenario.assert_exact();
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    scenario.produce(unusual_records());
    scenario.produce(workload(later(200, busy(44, 20_000))));
    let service = scenario.start_ready();
    let expected = scenario.assert_exact();
    assert!(expected.outcomes.late > 100 && expected.outcomes.duplicate > 100 && expected.outcomes.dead_letter > 100);
    assert!(expected.alerts.len() > 100, "{:?}", expected.outcomes);
    it_shows_itself(&service, 4);
}

#[test]
fn upstream_transactions_count_when_they_are_committed_and_large_dead_letters_are_cut() {
    let scenario = Scenario::new().with_statistics();
    let names = scenario.config.clone();
    for (topic, partitions) in [(&names.source_topic, 3), (&names.alert_topic, 2), (&names.late_topic, 2)] {
        create_topic(scenario.bootstrap(), topic, partitions, &[]);
    }
    let limit = DEAD_LETTER_BYTES_MAX.to_string();
    create_topic(scenario.bootstrap(), &names.dead_letter_topic, 2, &[("max.message.bytes", &limit)]);

    let mut records = workload(busy(41, 60_000));
    scenario.produce(records.by_ref().take(20_000));
    let service = scenario.start_ready();
    // Upstream transactions: what was taken back does not count, what was committed does, also while it is read.
    let taken_back: Vec<_> = burst("taken-back", 30, 101);
    produce_aborted_transaction(scenario.bootstrap(), &names.source_topic, taken_back);
    let undecided = OpenTransaction::begin(scenario.bootstrap(), &names.source_topic, burst("decided-later", 30, 102));
    scenario.produce(records.by_ref().take(20_000));
    scenario.produce(unusual_records());
    thread::sleep(Duration::from_secs(1));
    undecided.commit();
    scenario.produce(records);
    // Markers alone at the end of every partition: the committed offset goes behind them.
    for partition in 0..3 {
        let record = transaction("taken-back", format!("last-{partition}"), 300).in_partition(partition);
        produce_aborted_transaction(scenario.bootstrap(), &names.source_topic, [record]);
    }

    let expected = scenario.assert_exact();
    let users: Vec<_> = expected.alerts.iter().filter_map(|alert| alert["user_id"].as_str()).collect();
    assert!(users.contains(&"decided-later") && !users.contains(&"taken-back"));
    assert!(expected.outcomes.late > 100 && expected.outcomes.duplicate > 100 && expected.outcomes.dead_letter > 100);
    let dead_letters = scenario.read(&names.dead_letter_topic);
    let is_cut = |header: &(String, Option<Vec<u8>>)| header.0 == "tallyguard.truncated";
    let cut = dead_letters.iter().filter(|record| record.headers.iter().any(is_cut)).count();
    assert_eq!(cut, 3, "the three huge dead letters are marked as cut, and no other");
    it_shows_itself(&service, 3);
}

/// The same that many seconds of event time later.
fn later(seconds: i64, options: WorkloadOptions) -> WorkloadOptions {
    WorkloadOptions { start: EventTime(options.start.0 + seconds * 1_000), ..options }
}

/// Status and metrics exist; what they hold is tested elsewhere.
fn it_shows_itself(service: &crate::support::Service, partitions: usize) {
    assert_eq!(service.http_get("/healthz").0, 200);
    assert_eq!(service.http_get("/readyz").0, 200, "{}", service.log());
    let (status, metrics) = service.http_get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("tallyguard_records_total"), "{metrics}");
    let (status, body) = service.http_get("/api/v1/status");
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["partitions"].as_array().map(Vec::len), Some(partitions), "{body}");
}

/// Legal in Kafka, and each the end of a program that did not expect it.
fn unusual_records() -> Vec<TestRecord> {
    let valid = |id: &str| transaction("u-unusual", id, 103);
    let start = transaction("", "", 103).timestamp;
    let bare = TestRecord { timestamp: start, ..TestRecord::default() };
    let names = |record: TestRecord| {
        record
            .with_raw_header(&[0xff, 0xfe, b'n'], [0x00, 0xff])
            .with_raw_header(b"tallyguard.source.offset", "not ours")
            .with_raw_header(b"", "no name")
    };
    let huge_text = |bytes: usize| "x".repeat(bytes);
    vec![
        bare.clone(),
        TestRecord { key: Some(Vec::new()), value: Some(Vec::new()), ..bare.clone() },
        TestRecord { key: None, ..valid("no-key") },
        TestRecord { key: Some(vec![0xff, 0x00, 0xfe]), ..valid("key-of-bytes") },
        names(valid("raw-header-names")),
        names(TestRecord { value: Some(b"{".to_vec()), ..valid("dead-with-raw-header-names") }),
        names(transaction("u-unusual", "late-with-raw-header-names", -3_600)),
        TestRecord { headers: vec![("absent".to_owned(), None)], ..transaction("u-unusual", "late", -3_600) },
        // Too large for the dead-letter topic: value, headers, key.
        TestRecord { value: Some(huge_text(1_000_000).into_bytes()), ..valid("huge-value") },
        TestRecord { value: None, ..valid("huge-header") }.with_header("huge", huge_text(900_000)),
        TestRecord { key: Some(huge_text(1_000_000).into_bytes()), value: None, ..bare },
        // A megabyte that is valid.
        padded(&valid("huge-and-valid"), 1_040_000),
        TestRecord { key: Some(huge_text(1_000_000).into_bytes()), ..valid("huge-key") },
    ]
}

/// The record with an unknown field that fills its value up to that many bytes.
fn padded(record: &TestRecord, bytes: usize) -> TestRecord {
    let value = String::from_utf8(record.value.clone().expect("a value")).expect("JSON");
    let padding = "p".repeat(bytes - value.len() - 16);
    TestRecord { value: Some(format!("{{\"pad\":\"{padding}\",{}", &value[1..]).into_bytes()), ..record.clone() }
}

/// Once, a topic with a small limit refused whole batches of records that were small enough each, for ever.
#[test]
fn outputs_that_fit_their_topic_one_by_one_are_never_sent_in_batches_that_do_not() {
    let scenario = Scenario::new();
    let names = scenario.config.clone();
    for topic in [&names.source_topic, &names.alert_topic, &names.late_topic] {
        create_topic(scenario.bootstrap(), topic, 1, &[]);
    }
    let limit = DEAD_LETTER_BYTES_MAX.to_string();
    let configs = [("max.message.bytes", limit.as_str()), ("compression.type", "uncompressed")];
    create_topic(scenario.bootstrap(), &names.dead_letter_topic, 1, &configs);
    let mut noise = Noise(7);
    let mut dead = |bytes: usize| TestRecord {
        timestamp: transaction("", "", 10).timestamp,
        ..TestRecord::new("u-noise", noise.text(bytes))
    };
    scenario.produce((0..3_000).map(|_| dead(900)));
    // Around the limit byte by byte: what just fits is not cut, what just does not is cut to what just fits.
    scenario.produce((DEAD_LETTER_BYTES_MAX - 600..DEAD_LETTER_BYTES_MAX + 100).map(&mut dead));
    let _service = scenario.start_ready();
    let expected = scenario.assert_exact();
    assert_eq!(expected.outcomes.dead_letter, 3_700);
    let lengths = scenario.read(&names.dead_letter_topic).into_iter().map(|record| {
        let is_cut = record.headers.iter().any(|(name, _)| name == "tallyguard.truncated");
        (is_cut, record.value.map_or(0, |value| value.len()))
    });
    let (cut, whole): (Vec<_>, Vec<_>) = lengths.partition(|(is_cut, _)| *is_cut);
    let longest = |of: &[(bool, usize)]| of.iter().map(|(_, length)| *length).max().unwrap_or(0);
    let mark = "tallyguard.truncated".len() + "true".len() + 2;
    assert_eq!(longest(&whole) - longest(&cut), mark, "both fill the limit to the last byte; one bears the mark");
}

/// Text that does not compress.
struct Noise(u64);

impl Noise {
    fn text(&mut self, bytes: usize) -> String {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + u8::try_from((self.0 >> 33) % 90).expect("below 90"))
        };
        (0..bytes).map(|_| next()).collect()
    }
}

fn poison_is_set_aside_and_the_rest_goes_on(transport: Transport) {
    let scenario = Scenario::over(transport).create_topics_with(1);
    let of_2099 = TestRecord::new("u-clock", in_2099("u-clock", "ahead").to_string());
    let now = transaction("", "", 10).timestamp;
    let nested = format!("{{\"a\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    scenario.produce([
        TestRecord { timestamp: now, ..of_2099 },
        TestRecord { timestamp: now, ..TestRecord::new("u-nest", nested) },
        TestRecord { timestamp: now, ..TestRecord::new("u-nest", "[".repeat(100_000)) },
        TestRecord { timestamp: now, ..TestRecord::new("k".repeat(1_000_000), "no JSON") },
    ]);
    let service = scenario.start_ready();
    scenario.produce(burst("u-fine", 20, 10));
    let expected = scenario.assert_exact();
    assert_eq!(expected.outcomes.dead_letter, 4);
    assert_eq!(expected.alerts.len(), 3, "the burst alerts once for each rule");
    assert_eq!(service.http_get("/readyz").0, 200, "{}", service.log());
}

/// A producer whose clock is in 2099, on a topic that takes its timestamps: by the contract it closes every window. The
/// service says at the start that this topic allows it.
#[test]
fn a_clock_in_2099_on_an_unbounded_topic_closes_every_window_and_was_warned_about() {
    let scenario = Scenario::new().create_topics_with(1);
    let service = scenario.start_ready();
    scenario.produce(burst("u-before", 20, 10));
    scenario.produce([TestRecord::new("u-clock", in_2099("u-clock", "ahead").to_string()).at(IN_2099_MS)]);
    scenario.produce(burst("u-after", 20, 11));
    let expected = scenario.assert_exact();
    assert_eq!(expected.outcomes.late, 20);
    assert!(service.log().contains("message.timestamp.after.max.ms"), "{}", service.log());
}

fn in_2099(user: &str, id: &str) -> serde_json::Value {
    serde_json::json!({
        "transaction_id": id, "order_id": id, "user_id": user, "merchant_id": "m-1", "amount_minor": 1,
        "currency": "EUR", "event_time": IN_2099_MS,
    })
}
