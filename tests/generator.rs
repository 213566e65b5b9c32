//! The generated load holds what it promises. Everything is recounted here from the bytes of the records alone, by code
//! that shares nothing with the generator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hasher;

use serde::Deserialize;
use serde_json::value::RawValue;
use siphasher::sip::SipHasher13;
use tallyguard::clock::monotonic_now;
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::Offset;
use tallyguard::domain::record::{SourceRecord, validate};
use tallyguard::domain::time::EventTime;
use tallyguard::generate::{Counts, GeneratedRecord, Kind, Shares, Workload, WorkloadError, WorkloadOptions};

const MINUTE_MS: i64 = 60_000;
const AMOUNT_MAX: u64 = 1_000_000_000_000_000;
const REQUIRED: [&str; 7] =
    ["transaction_id", "order_id", "user_id", "merchant_id", "amount_minor", "currency", "event_time"];
const FIRST_VALUE: &str = r#"{"transaction_id":"t-9e3779-0","order_id":"o-9e3779-0","user_id":"u-0004305","merchant_id":"m-00016","amount_minor":638,"currency":"EUR","event_time":"2025-12-31T23:59:59.941Z","channel":"app","status":"captured"}"#;
/// SipHash-1-3 over 100,000 records of seed 1: other bytes for a seed are a change that users have to be told of.
const DIGEST: u64 = 14_286_595_842_435_436_607;

fn records(options: WorkloadOptions) -> Vec<GeneratedRecord> {
    Workload::new(options).unwrap().collect()
}

fn default_records(events: u64) -> Vec<GeneratedRecord> {
    records(WorkloadOptions { events, ..WorkloadOptions::default() })
}

fn is_malformed(record: &GeneratedRecord) -> bool {
    record.kind.dead_letter_code().is_some()
}

fn counts(records: &[GeneratedRecord]) -> Counts {
    let mut counts = Counts::default();
    records.iter().for_each(|record| counts.add(record.kind));
    counts
}

/// The record as serde understands it: ids as decoded text, numbers as raw JSON, unknown fields whatever they hold.
#[derive(Deserialize)]
struct Parsed {
    transaction_id: String,
    order_id: String,
    user_id: String,
    merchant_id: String,
    amount_minor: Box<RawValue>,
    currency: String,
    event_time: Box<RawValue>,
    channel: Option<String>,
    status: Option<String>,
}

impl Parsed {
    fn of(record: &GeneratedRecord) -> Self {
        let value = record.value.as_deref().unwrap();
        serde_json::from_slice(value)
            .unwrap_or_else(|error| panic!("{:?}: {error}: {}", record.kind, String::from_utf8_lossy(value)))
    }

    fn event_time_ms(&self) -> i64 {
        let raw = self.event_time.get();
        match serde_json::from_str::<String>(raw) {
            Ok(text) => chrono::DateTime::parse_from_rfc3339(&text).unwrap().timestamp_millis(),
            Err(_) => raw.parse().unwrap(),
        }
    }
}

/// Asserts every rule that the format has for a valid transaction.
fn assert_valid(record: &GeneratedRecord) -> Parsed {
    let parsed = Parsed::of(record);
    for id in [&parsed.transaction_id, &parsed.order_id, &parsed.user_id, &parsed.merchant_id] {
        assert!((1..=128).contains(&id.len()) && !id.chars().any(char::is_control), "{id:?}");
    }
    for label in [&parsed.channel, &parsed.status].into_iter().flatten() {
        assert!(label.len() <= 64 && !label.chars().any(char::is_control), "{label:?}");
    }
    let amount = parsed.amount_minor.get();
    assert!(amount.bytes().all(|byte| byte.is_ascii_digit()) && amount.parse::<u64>().unwrap() <= AMOUNT_MAX);
    assert!(parsed.currency.len() == 3 && parsed.currency.bytes().all(|byte| byte.is_ascii_uppercase()));
    assert_eq!(parsed.event_time_ms(), record.event_time.0);
    assert!(depth(record.value.as_deref().unwrap()) <= 32);
    parsed
}

/// Deepest nesting, counted by brackets outside of strings.
fn depth(json: &[u8]) -> i32 {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Distinct transaction ids by (user, minute), over everything that is valid.
fn recount(records: &[GeneratedRecord]) -> HashMap<(String, i64), HashSet<String>> {
    let mut counts: HashMap<(String, i64), HashSet<String>> = HashMap::new();
    for record in records.iter().filter(|record| !is_malformed(record)) {
        let parsed = Parsed::of(record);
        let minute = parsed.event_time_ms().div_euclid(MINUTE_MS);
        counts.entry((parsed.user_id, minute)).or_default().insert(parsed.transaction_id);
    }
    counts
}

/// The (user, minute) pairs that records of this kind fall into.
fn burst_minutes(records: &[GeneratedRecord], kind: Kind) -> BTreeSet<(String, i64)> {
    let of_kind = records.iter().filter(|record| record.kind == kind);
    of_kind.map(|record| (Parsed::of(record).user_id, record.event_time.0.div_euclid(MINUTE_MS))).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_gives_others() {
    let once = default_records(20_000);
    assert_eq!(once, default_records(20_000));
    let other = records(WorkloadOptions { seed: 2, events: 20_000, ..WorkloadOptions::default() });
    let ids = |records: &[GeneratedRecord]| -> HashSet<String> {
        records.iter().filter(|record| !is_malformed(record)).map(|record| Parsed::of(record).transaction_id).collect()
    };
    assert!(ids(&once).is_disjoint(&ids(&other)));
}

#[test]
fn the_bytes_of_a_seed_do_not_change_between_versions() {
    let records = default_records(100_000);
    assert_eq!(records[0].value.as_deref(), Some(FIRST_VALUE.as_bytes()));
    let mut hasher = SipHasher13::new();
    for record in &records {
        let headers = record.headers.iter().map(|header| (Some(header.name.as_bytes()), header.value.as_deref()));
        let parts = headers.flat_map(|(name, value)| [name, value]);
        for part in [record.key.as_deref(), record.value.as_deref()].into_iter().chain(parts) {
            hasher.write(part.unwrap_or(b"\xffnone"));
            hasher.write_u8(0xfe);
        }
    }
    assert_eq!(hasher.finish(), DIGEST);
}

#[test]
fn reusing_the_buffers_gives_the_same_records() {
    let options = WorkloadOptions { events: 20_000, ..WorkloadOptions::default() };
    let mut reused = GeneratedRecord::default();
    let mut workload = Workload::new(options).unwrap();
    for fresh in Workload::new(options).unwrap() {
        assert!(workload.fill(&mut reused));
        assert_eq!(reused, fresh);
    }
    assert!(!workload.fill(&mut reused));
}

#[test]
fn every_promised_peculiarity_occurs_in_100_000_events() {
    let counts = counts(&default_records(100_000));
    assert_eq!(counts.total(), 100_000);
    for kind in Kind::ALL {
        // What comes two minutes after its original needs a longer run: these events span 100 s.
        assert!(counts.of(kind) > 0 || kind == Kind::DuplicateLate, "{kind:?}");
    }
    assert!(counts.of(Kind::Ordinary) > 85_000, "{}", counts.of(Kind::Ordinary));
}

#[test]
fn all_records_but_the_malformed_ones_are_valid_and_keyed_by_their_user() {
    for record in default_records(100_000).iter().filter(|record| !is_malformed(record)) {
        let parsed = assert_valid(record);
        match record.kind {
            Kind::MissingKey => assert_eq!(record.key, None),
            Kind::OtherKey => assert_ne!(record.key.as_deref(), Some(parsed.user_id.as_bytes())),
            _ => assert_eq!(record.key.as_deref(), Some(parsed.user_id.as_bytes()), "{:?}", record.kind),
        }
    }
}

#[test]
fn ordinary_records_are_about_200_bytes_long() {
    let records = default_records(10_000);
    let ordinary = records.iter().filter(|record| record.kind == Kind::Ordinary);
    let sizes: Vec<usize> = ordinary.map(|record| record.value.as_ref().unwrap().len()).collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((190..=240).contains(&mean), "{mean}");
}

#[test]
fn bursts_have_exactly_as_many_transactions_in_a_minute_as_their_name_says() {
    let records = default_records(200_000);
    let recounted = recount(&records);
    for (kind, expected) in [
        (Kind::BurstOfTen, 10),
        (Kind::BurstOfEleven, 11),
        (Kind::BurstOfTwelve, 12),
        (Kind::BurstAcrossMinutes, 8),
        (Kind::BurstWithRepeats, 10),
    ] {
        let minutes = burst_minutes(&records, kind);
        assert!(minutes.len() >= 10, "{kind:?}: {}", minutes.len());
        for minute in &minutes {
            assert_eq!(recounted[minute].len(), expected, "{kind:?} {minute:?}");
        }
    }
    for (user, minute) in burst_minutes(&records, Kind::BurstAcrossMinutes) {
        let neighbours = [minute - 1, minute + 1].into_iter();
        assert_eq!(neighbours.filter(|near| recounted.contains_key(&(user.clone(), *near))).count(), 1, "{user}");
    }
    let with_repeats = burst_minutes(&records, Kind::BurstWithRepeats).len();
    assert!(counts(&records).of(Kind::BurstWithRepeats) >= 12 * u64::try_from(with_repeats).unwrap());
}

#[test]
fn bursts_are_exact_in_short_dense_and_in_thin_runs_too() {
    for (events, events_per_second, users) in [(20_000, 100_000, 5_000), (20_000, 20, 50), (500_000, 1_000, 2)] {
        let records = records(WorkloadOptions { events, events_per_second, users, ..WorkloadOptions::default() });
        let recounted = recount(&records);
        let minutes = burst_minutes(&records, Kind::BurstOfEleven);
        assert!(!minutes.is_empty(), "{events_per_second} per second");
        for minute in &minutes {
            assert_eq!(recounted[minute].len(), 11, "{minute:?}");
        }
    }
}

#[test]
fn a_few_users_are_heavy_and_most_are_quiet() {
    let mut by_user: HashMap<Vec<u8>, u32> = HashMap::new();
    for record in records(WorkloadOptions { events: 100_000, shares: Shares::NONE, ..WorkloadOptions::default() }) {
        *by_user.entry(record.key.unwrap()).or_default() += 1;
    }
    let mut counts: Vec<u32> = by_user.values().copied().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    assert!(counts[0] > 1_000, "{}", counts[0]);
    assert!(counts[1] * 3 < counts[0] * 2, "{} {}", counts[0], counts[1]);
    let quiet = counts.iter().filter(|count| **count <= 5).count();
    assert!(quiet * 10 > counts.len() * 9, "{quiet} of {}", counts.len());
}

#[test]
fn orders_hold_several_transactions_of_one_user_merchant_and_currency() {
    let mut transactions: HashMap<String, BTreeSet<String>> = HashMap::new();
    let mut parties: HashMap<String, BTreeSet<(String, String, String)>> = HashMap::new();
    let mut currencies = BTreeSet::new();
    for record in default_records(50_000).iter().filter(|record| record.kind == Kind::Ordinary) {
        let parsed = Parsed::of(record);
        transactions.entry(parsed.order_id.clone()).or_default().insert(parsed.transaction_id);
        currencies.insert(parsed.currency.clone());
        parties.entry(parsed.order_id).or_default().insert((parsed.user_id, parsed.merchant_id, parsed.currency));
    }
    assert!(transactions.values().filter(|ids| ids.len() > 1).count() > 1_000);
    assert!(parties.values().all(|parties| parties.len() == 1));
    assert!(currencies.len() >= 6, "{currencies:?}");
}

#[test]
fn duplicates_repeat_an_earlier_transaction_near_far_and_late() {
    let mut originals: HashMap<String, (usize, GeneratedRecord)> = HashMap::new();
    let mut seen: BTreeMap<Kind, u32> = BTreeMap::new();
    for (position, record) in default_records(300_000).into_iter().enumerate() {
        if is_malformed(&record) {
            continue;
        }
        let id = Parsed::of(&record).transaction_id;
        let Some((original_position, original)) = originals.get(&id) else {
            assert!(!record.kind.as_str().starts_with("duplicate"), "{:?} without an original", record.kind);
            originals.insert(id, (position, record));
            continue;
        };
        *seen.entry(record.kind).or_default() += 1;
        let (distance, same) = (position - original_position, record.value == original.value);
        assert_eq!(record.event_time, original.event_time);
        // 1,000 records stand for one second.
        match record.kind {
            Kind::DuplicateNear => assert!(same && distance <= 1_500, "{distance}"),
            Kind::DuplicateFar => assert!(same && (4_000..=60_000).contains(&distance), "{distance}"),
            Kind::DuplicateLate => assert!(same && distance >= 120_000, "{distance}"),
            Kind::DuplicateChanged => assert!(!same && distance <= 60_000),
            Kind::BurstWithRepeats => assert!(same && distance <= 60_000),
            other => panic!("{other:?} repeats {id}"),
        }
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
}

#[test]
fn out_of_order_is_within_a_minute_of_the_latest_and_late_is_behind_a_closed_window() {
    let mut latest = i64::MIN;
    for record in default_records(300_000).iter().filter(|record| !is_malformed(record)) {
        let time = record.event_time.0;
        let watermark = latest.saturating_sub(MINUTE_MS);
        let closed = watermark >= (time.div_euclid(MINUTE_MS) + 1) * MINUTE_MS;
        let meant_to_be_late = matches!(record.kind, Kind::Late | Kind::DuplicateLate);
        assert_eq!(closed, meant_to_be_late, "{:?} at {time}, watermark {watermark}", record.kind);
        if record.kind == Kind::OutOfOrder {
            assert!(time < latest && time > watermark);
        }
        latest = latest.max(time);
    }
}

#[test]
fn no_valid_event_time_runs_ahead_of_the_virtual_clock() {
    let mut workload = Workload::new(WorkloadOptions { events: 50_000, ..WorkloadOptions::default() }).unwrap();
    let mut record = GeneratedRecord::default();
    let mut clock = workload.clock();
    while workload.fill(&mut record) {
        assert!(record.event_time <= clock || record.kind == Kind::FutureEventTime, "{:?}", record.kind);
        clock = workload.clock();
    }
    assert_eq!(clock, EventTime(WorkloadOptions::FIXED_START.0 + 50_000));
}

#[test]
fn each_malformed_kind_is_what_it_claims() {
    let mut invalid_fields = BTreeSet::new();
    for record in default_records(1_000_000).iter().filter(|record| is_malformed(record)) {
        let value = record.value.as_deref();
        match record.kind {
            Kind::NullValue => assert_eq!(value, None),
            Kind::InvalidUtf8 => assert!(std::str::from_utf8(value.unwrap()).is_err()),
            Kind::InvalidJson => assert_invalid_json(std::str::from_utf8(value.unwrap()).unwrap()),
            Kind::MissingField => {
                let object: HashMap<String, Box<RawValue>> = serde_json::from_slice(value.unwrap()).unwrap();
                assert_eq!(REQUIRED.iter().filter(|name| !object.contains_key(**name)).count(), 1);
            }
            Kind::InvalidField => {
                invalid_fields.insert(the_one_invalid_field(value.unwrap()));
            }
            Kind::FutureEventTime => assert!(assert_valid(record).event_time_ms() >= 4_070_908_800_000),
            other => panic!("{other:?}"),
        }
        assert!(!record.headers.is_empty());
    }
    assert_eq!(invalid_fields.len(), 9, "{invalid_fields:?}");
}

/// Not one JSON text, or not an object, too deep, with a byte-order mark, a field twice or half a surrogate pair.
fn assert_invalid_json(text: &str) {
    let one_text: Result<Box<RawValue>, _> = serde_json::from_str(text);
    let twice = REQUIRED.iter().any(|name| text.matches(&format!("\"{name}\":")).count() > 1);
    let half_pair = text.contains(r#"\ud83e""#);
    assert!(one_text.is_err() || !text.starts_with('{') || depth(text.as_bytes()) > 32 || twice || half_pair, "{text}");
}

/// The name of the one field that breaks its rule, in an object that has all fields.
fn the_one_invalid_field(value: &[u8]) -> String {
    let object: HashMap<String, Box<RawValue>> = serde_json::from_slice(value).unwrap();
    assert!(REQUIRED.iter().all(|name| object.contains_key(*name)));
    let invalid: Vec<&String> =
        object.iter().filter(|(name, raw)| !is_valid_field(name, raw.get())).map(|(name, _)| name).collect();
    assert_eq!(invalid.len(), 1, "{}", String::from_utf8_lossy(value));
    invalid[0].clone()
}

fn is_valid_field(name: &str, raw: &str) -> bool {
    let text: Option<String> = serde_json::from_str(raw).ok();
    let is_text = |low: usize, high: usize| {
        text.as_ref().is_some_and(|text| (low..=high).contains(&text.len()) && !text.chars().any(char::is_control))
    };
    match name {
        "amount_minor" => {
            raw.bytes().all(|byte| byte.is_ascii_digit()) && raw.parse::<u64>().is_ok_and(|amount| amount <= AMOUNT_MAX)
        }
        "currency" => is_text(3, 3) && raw[1..4].bytes().all(|byte| byte.is_ascii_uppercase()),
        "event_time" => {
            let millis = match &text {
                // chrono takes a blank for `T`, a leap second and any number of digits; the format does not.
                Some(text) if text.contains(' ') || text.contains(":60") || text.len() > 30 => None,
                Some(text) => chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis()),
                None => raw.parse::<i64>().ok(),
            };
            millis.is_some_and(|millis| (946_684_800_000..4_102_444_800_000).contains(&millis))
        }
        "channel" | "status" => is_text(0, 64),
        _ => is_text(1, 128),
    }
}

/// Not a recount: here the two sides that were written apart from each other, generator and service, check each other.
#[test]
fn the_service_rejects_exactly_the_malformed_records_and_for_their_reasons() {
    let mut workload = Workload::new(WorkloadOptions { events: 1_000_000, ..WorkloadOptions::default() }).unwrap();
    let mut generated = GeneratedRecord::default();
    while workload.fill(&mut generated) {
        let record = SourceRecord {
            offset: Offset(0),
            timestamp_ms: Some(workload.clock().0),
            key: generated.key.as_deref(),
            value: generated.value.as_deref(),
        };
        match validate(&record, Millis(0)) {
            Ok(transaction) => {
                assert_eq!(generated.kind.dead_letter_code(), None, "{generated:?}");
                assert_eq!(transaction.event_time, generated.event_time);
            }
            Err(rejection) => {
                assert_eq!(generated.kind.dead_letter_code(), Some(rejection.code()), "{rejection}: {generated:?}");
            }
        }
    }
}

#[test]
fn a_clean_workload_holds_ordinary_records_in_order_and_no_headers() {
    let mut last = EventTime(i64::MIN);
    for record in records(WorkloadOptions { events: 20_000, shares: Shares::NONE, ..WorkloadOptions::default() }) {
        assert_eq!(record.kind, Kind::Ordinary);
        assert!(record.headers.is_empty() && record.event_time >= last);
        last = record.event_time;
        assert_valid(&record);
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let good = WorkloadOptions::default();
    for (options, error) in [
        (WorkloadOptions { users: 0, ..good }, WorkloadError::NoUsers),
        (WorkloadOptions { merchants: 0, ..good }, WorkloadError::NoMerchants),
        (WorkloadOptions { events_per_second: 0, ..good }, WorkloadError::NoDensity),
        (WorkloadOptions { start: EventTime(0), ..good }, WorkloadError::StartOutOfRange(EventTime(0))),
        (
            WorkloadOptions { shares: Shares { late: "0.99".parse().unwrap(), ..Shares::DEFAULT }, ..good },
            WorkloadError::TooManyPeculiarities,
        ),
    ] {
        assert_eq!(Workload::new(options).err(), Some(error));
    }
}

#[test]
fn the_smallest_population_works() {
    let options = WorkloadOptions { users: 1, merchants: 1, events: 1_000, ..WorkloadOptions::default() };
    assert_eq!(records(options).len(), 1_000);
}

/// Half a million records a second on one core is the aim. The bound is lower, because test machines are shared.
#[test]
fn generating_is_fast_enough_to_load_a_broker() {
    let mut workload = Workload::new(WorkloadOptions::default()).unwrap();
    let mut record = GeneratedRecord::default();
    let started = monotonic_now();
    for _ in 0..300_000 {
        workload.fill(&mut record);
    }
    let elapsed = started.elapsed();
    eprintln!("300,000 records in {elapsed:?}");
    assert!(cfg!(debug_assertions) || elapsed.as_secs_f64() < 3.0, "{elapsed:?}");
}
