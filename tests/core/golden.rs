//! The frozen formats: what this version writes is what the fixtures hold, and what they hold can be read.
//!
//! A difference here means that a running installation could not be updated: raise the format's version and keep the old
//! reader. `TALLYGUARD_WRITE_FIXTURES=1` writes fixtures that do not exist yet; it never changes one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::{PartitionState, Progress};
use tallyguard::domain::record::SourceRecord;
use tallyguard::domain::rule::{Parameters, Rule, RuleHistory, RuleVersion, Severity};
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;
use tallyguard::protocol::metadata::{LENGTH_MAX, LogIdentity, Metadata};

use crate::streams::{TEN_O_CLOCK, TOPIC, new_state};
use crate::world::identity;

fn fixture(name: &str, now: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if !path.exists() && std::env::var_os("TALLYGUARD_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, now).expect("the fixtures can be written");
    }
    std::fs::read_to_string(&path).expect("the fixture is there")
}

fn rule(id: &str, window: i64, text: &str) -> Rule {
    Rule {
        id: id.to_owned(),
        version: 1,
        window: Millis(window),
        window_text: text.to_owned(),
        max_transactions: 2,
        severity: Severity::High,
    }
}

fn parameters() -> Parameters {
    let versions = vec![
        RuleVersion { from: Offset(0), version: 1, max_transactions: 2, severity: Severity::High },
        RuleVersion { from: Offset(90), version: 2, max_transactions: 3, severity: Severity::Critical },
    ];
    Parameters {
        rules: vec![
            RuleHistory::with_versions(rule("velocity-1m", 60_000, "1m"), versions),
            RuleHistory::starting(rule("velocity-1h", 3_600_000, "1h"), Offset(0)),
        ],
        out_of_orderness: Millis(60_000),
        max_future_skew: Millis(30_000),
        statistics: true,
        orders: true,
    }
}

fn metadata(statistics_gap: Option<Watermark>) -> Metadata {
    let at = |offset, watermark| Position { offset: Offset(offset), watermark: Watermark(watermark) };
    let progress = Progress {
        next: at(100, 1_795_168_831_500),
        final_through: Watermark(1_795_168_800_000),
        horizon: at(80, 1_795_168_771_500),
        statistics_horizon: at(50, i64::MIN),
        statistics_gap,
    };
    Metadata::new(&progress, &parameters(), identity(), 12, 1_795_168_832_000)
}

#[test]
fn commit_metadata_is_written_and_read_as_frozen() {
    let gap = Some(Watermark(1_795_168_860_000));
    let now = json!({"plain": metadata(None).to_text(), "with a statistics gap": metadata(gap).to_text()});
    let now = format!("{}\n", serde_json::to_string_pretty(&now).unwrap());
    let frozen = fixture("metadata.v1.json", &now);
    assert_eq!(now, frozen);
    let frozen: BTreeMap<String, String> = serde_json::from_str(&frozen).unwrap();
    assert_eq!(Metadata::parse(&frozen["plain"]), Ok(metadata(None)));
    assert_eq!(Metadata::parse(&frozen["with a statistics gap"]), Ok(metadata(gap)));
}

/// The most and the longest rules that the configuration lets through fit; it refuses what would not.
#[test]
fn metadata_never_exceeds_what_the_broker_takes() {
    let longest = |rules: usize, id_bytes: usize| {
        let mut parameters = parameters();
        let history = parameters.rules[0].clone();
        parameters.rules = vec![history; rules];
        for history in &mut parameters.rules {
            history.rule.id = "x".repeat(id_bytes);
        }
        Metadata::length_max(&parameters, LogIdentity { group: "g".repeat(200), ..identity() })
    };
    assert!(longest(31, 16) <= LENGTH_MAX, "{}", longest(31, 16));
    assert!(longest(31, 64) > LENGTH_MAX, "this is why the configuration has to look: {}", longest(31, 64));
    assert!(metadata(Some(Watermark(0))).to_text().len() <= Metadata::length_max(&parameters(), identity()));
}

fn state() -> PartitionState {
    let mut state = new_state(1, parameters(), 10);
    let mut outputs = Vec::new();
    for (at, (user, transaction, order, minutes)) in [
        ("u-1", "t-1", "o-1", 0),
        ("u-1", "t-2", "o-1", 0),
        ("u-2", "t-1", "o-2", 1),
        ("u-1", "t-3", "o-3", 0),
        ("u-1", "t-3", "o-3", 3),
    ]
    .into_iter()
    .enumerate()
    {
        let offset = 10 + 2 * i64::try_from(at).unwrap();
        let value = json!({
            "transaction_id": transaction, "order_id": order, "user_id": user, "merchant_id": "m-é",
            "amount_minor": 1_000 + offset, "currency": "EUR", "event_time": TEN_O_CLOCK + minutes * 60_000, "status": "paid",
        })
        .to_string();
        let record = SourceRecord {
            offset: Offset(offset),
            timestamp_ms: None,
            key: Some(user.as_bytes()),
            value: Some(value.as_bytes()),
        };
        state.apply(&record, &mut outputs);
        if at == 1 {
            let through = state.take_flush().expect("something changed").through;
            state.acknowledge_flush(through);
        }
    }
    state
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Entries, with what stands in a chunk in an order of its own: users take 24 bytes, everything else 16.
fn entries(state: &mut PartitionState) -> Vec<(String, Vec<String>)> {
    let puts = state.take_snapshot(true).puts;
    let mut entries: Vec<_> = puts
        .iter()
        .map(|(key, value)| {
            let width = match (key.first(), key.get(17), key.get(9)) {
                (Some(b'w'), Some(b'u'), _) => 24,
                (Some(b'w'), Some(b't'), _) | (Some(b'm'), _, Some(b'o')) => 16,
                _ => value.len().max(1),
            };
            let mut parts: Vec<_> = value.chunks(width).map(hex).collect();
            parts.sort();
            (hex(key), parts)
        })
        .collect();
    entries.sort();
    entries
}

#[test]
fn snapshots_are_written_and_read_as_frozen() {
    let mut state = state();
    let now = json!({"entries": entries(&mut state), "canonical": hex(&state.canonical())});
    let now = format!("{}\n", serde_json::to_string_pretty(&now).unwrap());
    let frozen = fixture("snapshot.v1.json", &now);
    assert_eq!(now, frozen);

    let frozen: Value = serde_json::from_str(&frozen).unwrap();
    let parts = |parts: &Value| parts.as_array().unwrap().iter().flat_map(unhex).collect::<Vec<u8>>();
    let stored: Vec<_> =
        frozen["entries"].as_array().unwrap().iter().map(|entry| (unhex(&entry[0]), parts(&entry[1]))).collect();
    let (topic, parameters) = (Arc::from(TOPIC), Arc::new(parameters()));
    let read =
        PartitionState::from_snapshot(topic, PartitionId(1), parameters, Offset(19), Watermark::NONE, &stored).unwrap();
    assert_eq!(hex(&read.canonical()), frozen["canonical"].as_str().unwrap());
}

#[test]
fn a_snapshot_says_which_minutes_lost_records() {
    let mut state = state();
    let gap = Watermark(TEN_O_CLOCK + 600_000);
    let later = Position { offset: Offset(12), watermark: Watermark(TEN_O_CLOCK) };
    let before = state.progress();
    assert!(before.statistics_horizon < later && before.statistics_gap.is_none());
    let committed = Progress { statistics_gap: Some(gap), statistics_horizon: later, ..before };
    state.know_statistics(&committed);
    assert_eq!(state.progress().statistics_horizon, later, "what began before it is not replayed any more");

    let stored = state.take_snapshot(true).puts;
    let written = stored.iter().find(|(key, _)| key == b"g").map(|(_, value)| hex(value));
    assert_eq!(written.as_deref(), Some("000001a1f86f34c0"));
    let (topic, parameters) = (Arc::from(TOPIC), Arc::new(parameters()));
    let read =
        PartitionState::from_snapshot(topic, PartitionId(1), parameters, Offset(19), Watermark::NONE, &stored).unwrap();
    assert_eq!(read.progress().statistics_gap, Some(gap));
}

#[test]
fn a_damaged_or_foreign_snapshot_is_not_read() {
    let stored = state().take_snapshot(true).puts;
    let read = |stored: &[(Vec<u8>, Vec<u8>)]| {
        let (topic, parameters) = (Arc::from(TOPIC), Arc::new(parameters()));
        PartitionState::from_snapshot(topic, PartitionId(1), parameters, Offset(19), Watermark::NONE, stored).is_ok()
    };
    assert!(read(&stored));
    assert!(!read(&[]), "without the summary");
    for at in 0..stored.len() {
        let mut cut = stored.clone();
        cut[at].1.pop();
        assert!(!read(&cut), "a value cut by one byte: {:?}", stored[at].0);
        let mut foreign = stored.clone();
        foreign[at].0[0] = b'z';
        assert!(!read(&foreign), "an unknown kind of key");
    }
}
