//! Where the service's outputs differ from the recount, as multisets: nothing missing, nothing twice, nothing more.
//!
//! Each difference prints as one line that names positions, keys and what differs. Lines about dead letters and late
//! records never hold record content. The order in which outputs are given plays no part, except that the alerts
//! of one user keep the order of their causes ([`compare_alert_records`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::recount::{OrderRow, StatisticsCell, StatisticsKey};
use super::rfc3339;
use super::side_record::{self, Header, SideRecord, SourceRecord};

/// What a difference is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Alert,
    DeadLetter,
    LateRecord,
    Statistics,
    Order,
}

/// How found and expected differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Expected and not found.
    Missing,
    /// Found more often than expected.
    Duplicate,
    /// Found and not expected.
    Unexpected,
    /// Found with other content.
    Different,
    /// Found behind something that it should stand before.
    OutOfOrder,
}

/// One difference; prints as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub subject: Subject,
    pub kind: Kind,
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match self.subject {
            Subject::Alert => "alert",
            Subject::DeadLetter => "dead letter",
            Subject::LateRecord => "late record",
            Subject::Statistics => "statistics row",
            Subject::Order => "order",
        };
        let kind = match self.kind {
            Kind::Missing => "missing",
            Kind::Duplicate => "duplicate",
            Kind::Unexpected => "unexpected",
            Kind::Different => "different",
            Kind::OutOfOrder => "out of order",
        };
        write!(f, "{subject} {kind}: {}", self.detail)
    }
}

impl Difference {
    fn new(subject: Subject, kind: Kind, detail: impl Into<String>) -> Self {
        Self { subject, kind, detail: detail.into() }
    }
}

/// Compares things that may occur more than once. Equal ones go away in pairs; of what is left under one key, pairs
/// are `Different`, and the rest is `Missing`, `Duplicate` (the key was expected) or `Unexpected` (it was not).
fn compare_by_key<K: Ord, E, F>(
    subject: Subject,
    expected: Vec<(K, E)>,
    found: Vec<(K, F)>,
    name: impl Fn(&K) -> String,
    difference_of: impl Fn(&E, &F) -> Option<String>,
) -> Vec<Difference> {
    let mut groups: BTreeMap<K, (Vec<E>, Vec<F>)> = BTreeMap::new();
    for (key, item) in expected {
        groups.entry(key).or_default().0.push(item);
    }
    for (key, item) in found {
        groups.entry(key).or_default().1.push(item);
    }
    let mut differences = Vec::new();
    for (key, (mut expected, mut found)) in groups {
        let was_expected = !expected.is_empty();
        expected.retain(|wanted| match found.iter().position(|item| difference_of(wanted, item).is_none()) {
            Some(equal) => {
                found.remove(equal);
                false
            }
            None => true,
        });
        let mut found = found.iter();
        for wanted in &expected {
            differences.push(match found.next().and_then(|item| difference_of(wanted, item)) {
                Some(detail) => Difference::new(subject, Kind::Different, format!("{}: {detail}", name(&key))),
                None => Difference::new(subject, Kind::Missing, name(&key)),
            });
        }
        for _ in found {
            let kind = if was_expected { Kind::Duplicate } else { Kind::Unexpected };
            differences.push(Difference::new(subject, kind, name(&key)));
        }
    }
    differences
}

/// Compares alert bodies as a multiset. An alert is known by its `alert_id`; everything in the body is compared.
#[must_use]
pub fn compare_alerts(expected: &[Value], found: &[Value]) -> Vec<Difference> {
    // An alert's name tells what it is about, for whoever reads the line.
    let keyed = |alerts: &[Value]| -> Vec<(String, Value)> {
        alerts.iter().map(|alert| (text_at(alert, "alert_id"), alert.clone())).collect()
    };
    let described: BTreeMap<String, String> =
        found.iter().chain(expected).map(|alert| (text_at(alert, "alert_id"), describe_alert(alert))).collect();
    compare_by_key(
        Subject::Alert,
        keyed(expected),
        keyed(found),
        |id| described.get(id).cloned().unwrap_or_default(),
        |wanted, item| differing_members("", wanted, item),
    )
}

/// Compares the records of the alert topic: bodies as [`compare_alerts`] does, and for each record that its key is the
/// user, that its headers are those of an alert, and that alerts of a user stand in the order of their causes.
#[must_use]
pub fn compare_alert_records(expected: &[Value], found: &[SourceRecord]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut bodies = Vec::new();
    let mut in_order: Vec<&SourceRecord> = found.iter().collect();
    in_order.sort_by_key(|record| (record.partition, record.offset));
    let mut last_cause: BTreeMap<(String, Option<i64>), Option<i64>> = BTreeMap::new();
    for record in in_order {
        let at = format!("at {}/{} of the alert topic", record.partition, record.offset);
        let body = record.value.as_deref().and_then(|value| serde_json::from_slice::<Value>(value).ok());
        let Some(body) = body else {
            differences.push(Difference::new(Subject::Alert, Kind::Unexpected, format!("not JSON {at}")));
            continue;
        };
        let user = text_at(&body, "user_id");
        if record.key.as_deref() != Some(user.as_bytes()) {
            differences.push(Difference::new(Subject::Alert, Kind::Different, format!("key is not the user {at}")));
        }
        if !has_alert_headers(&record.headers) {
            differences.push(Difference::new(Subject::Alert, Kind::Different, format!("headers {at}")));
        }
        let trigger = &body["trigger"];
        let previous = last_cause.entry((user, trigger["partition"].as_i64())).or_default();
        let cause = trigger["offset"].as_i64();
        // What only the nightly job found cannot stand where it belongs any more.
        if body["origin"] == "stream" && cause < *previous {
            differences.push(Difference::new(
                Subject::Alert,
                Kind::OutOfOrder,
                format!("{} {at}", describe_alert(&body)),
            ));
        }
        *previous = cause.max(*previous);
        bodies.push(body);
    }
    differences.extend(compare_alerts(expected, &bodies));
    differences
}

fn has_alert_headers(headers: &[Header]) -> bool {
    let has =
        |name: &str, value: &str| headers.iter().any(|(n, v)| n == name && v.as_deref() == Some(value.as_bytes()));
    has("content-type", "application/json") && has("tallyguard.schema", "alert.v1")
}

/// The member as text, empty if it is none.
fn text_at(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_default().to_owned()
}

fn describe_alert(alert: &Value) -> String {
    format!(
        "{} of rule {} for user {:?}, window {}, caused at {}/{}",
        text_at(alert, "alert_id"),
        text_at(alert, "rule_id"),
        text_at(alert, "user_id"),
        text_at(alert, "window_start"),
        alert["trigger"]["partition"],
        alert["trigger"]["offset"],
    )
}

/// The members, by path, in which two JSON values differ; their order plays no part.
fn differing_members(path: &str, expected: &Value, found: &Value) -> Option<String> {
    let (Value::Object(wanted), Value::Object(got)) = (expected, found) else {
        return (expected != found).then(|| format!("{path} is {found}, not {expected}"));
    };
    let names: BTreeSet<&String> = wanted.keys().chain(got.keys()).collect();
    let differing: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match (wanted.get(name), got.get(name)) {
                (Some(wanted), Some(got)) => differing_members(&path, wanted, got),
                (Some(_), None) => Some(format!("{path} is absent")),
                _ => Some(format!("{path} is not wanted")),
            }
        })
        .collect();
    (!differing.is_empty()).then(|| differing.join(", "))
}

/// Compares the dead-letter topic with the dead letters that must be there.
#[must_use]
pub fn compare_dead_letters(expected: &[SideRecord], found: &[SourceRecord]) -> Vec<Difference> {
    compare_side_records(Subject::DeadLetter, expected, found)
}

/// Compares the late topic with the late records that must be there.
#[must_use]
pub fn compare_late_records(expected: &[SideRecord], found: &[SourceRecord]) -> Vec<Difference> {
    compare_side_records(Subject::LateRecord, expected, found)
}

/// A record is known by its source position, as our headers name it. Key, value and original headers are compared byte
/// for byte, our headers by order and value, but for the text of the error message.
fn compare_side_records(subject: Subject, expected: &[SideRecord], found: &[SourceRecord]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut keyed = Vec::new();
    for record in found {
        match source_position(&record.headers) {
            Some(position) => keyed.push((position, record)),
            None => {
                let detail = format!("no source position at {}/{} of its topic", record.partition, record.offset);
                differences.push(Difference::new(subject, Kind::Unexpected, detail));
            }
        }
    }
    let expected = expected.iter().map(|record| ((record.partition, record.offset), record)).collect();
    let name = |(partition, offset): &(i32, i64)| format!("of source record {partition}/{offset}");
    differences.extend(compare_by_key(subject, expected, keyed, name, |wanted, item| side_difference(wanted, item)));
    differences
}

/// Our headers come after the original's, which may have the same names: the last ones are ours.
fn source_position(headers: &[Header]) -> Option<(i32, i64)> {
    let last = |wanted: &str| {
        let (_, value) = headers.iter().rev().find(|(name, _)| name == wanted)?;
        std::str::from_utf8(value.as_deref()?).ok()
    };
    let partition = last(side_record::SOURCE_PARTITION)?.parse().ok()?;
    Some((partition, last(side_record::SOURCE_OFFSET)?.parse().ok()?))
}

fn side_difference(expected: &SideRecord, found: &SourceRecord) -> Option<String> {
    if is_cut(expected, found) {
        return None;
    }
    let (originals, own) = found.headers.split_at(found.headers.len().saturating_sub(expected.own_headers.len()));
    let parts = [
        ("key", found.key == expected.key),
        ("value", found.value == expected.value),
        ("original headers", originals == expected.original_headers),
        ("own headers", own_headers_match(&expected.own_headers, own)),
    ];
    let differing: Vec<&str> = parts.iter().filter(|(_, equal)| !equal).map(|(part, _)| *part).collect();
    (!differing.is_empty()).then(|| format!("other {}", differing.join(", ")))
}

fn own_headers_match(expected: &[Header], found: &[Header]) -> bool {
    expected.len() == found.len()
        && expected.iter().zip(found).all(|((wanted_name, wanted), (name, value))| {
            let value = value.as_deref();
            wanted_name == name
                && match name.as_str() {
                    side_record::ERROR_MESSAGE => value.is_some_and(|text| !text.is_empty()),
                    side_record::LATE_WATERMARK => {
                        instant(value).is_some() && instant(value) == instant(wanted.as_deref())
                    }
                    _ => value == wanted.as_deref(),
                }
        })
}

fn instant(text: Option<&[u8]>) -> Option<i64> {
    rfc3339::parse(std::str::from_utf8(text?).ok()?)
}

/// Whether the record is the expected one, cut because it was too large for its topic: marked so, the value cut first,
/// headers only when nothing of the value is left, the key only when none of the original's headers is left either.
fn is_cut(expected: &SideRecord, found: &SourceRecord) -> bool {
    let own_count = expected.own_headers.len() + 1;
    if found.headers.len() < own_count {
        return false;
    }
    let (originals, marked) = found.headers.split_at(found.headers.len() - own_count);
    let is_mark = |(name, value): &Header| name == side_record::TRUNCATED && value.as_deref() == Some(b"true");
    let Some(mark) = marked.iter().position(is_mark) else { return false };
    let mut own = marked.to_vec();
    own.remove(mark);

    let value_is_whole = found.value == expected.value;
    let headers_are_whole = originals == expected.original_headers;
    let key_is_whole = found.key == expected.key;
    let nothing_of_value = found.value.as_ref().is_none_or(Vec::is_empty);
    own_headers_match(&expected.own_headers, &own)
        && !(value_is_whole && headers_are_whole && key_is_whole)
        && is_beginning(found.value.as_deref(), expected.value.as_deref())
        && (headers_are_whole || nothing_of_value)
        && expected.original_headers.starts_with(originals)
        && (key_is_whole || (nothing_of_value && originals.is_empty()))
        && is_beginning(found.key.as_deref(), expected.key.as_deref())
}

fn is_beginning(cut: Option<&[u8]>, whole: Option<&[u8]>) -> bool {
    match (cut, whole) {
        (None, _) => true,
        (Some(cut), Some(whole)) => whole.starts_with(cut),
        (Some(_), None) => false,
    }
}

/// Whether `last_offset`, the guard of the rows, is compared with the measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Compared,
    Ignored,
}

/// Compares rows of `order_stats_by_partition`.
#[must_use]
pub fn compare_statistics(
    expected: &BTreeMap<StatisticsKey, StatisticsCell>,
    found: &[(StatisticsKey, StatisticsCell)],
    guard: Guard,
) -> Vec<Difference> {
    let expected = expected.iter().map(|(key, cell)| (key.clone(), *cell)).collect();
    compare_by_key(Subject::Statistics, expected, found.to_vec(), describe_row, |wanted, cell| {
        let measures = [
            ("transaction_count", i128::from(wanted.transaction_count), i128::from(cell.transaction_count)),
            ("order_count", i128::from(wanted.order_count), i128::from(cell.order_count)),
            ("amount_minor", wanted.amount_minor, cell.amount_minor),
            ("max_amount_minor", i128::from(wanted.max_amount_minor), i128::from(cell.max_amount_minor)),
            ("source_offset", i128::from(wanted.last_offset), i128::from(cell.last_offset)),
        ];
        let compared = if guard == Guard::Compared { measures.len() } else { measures.len() - 1 };
        let differing: Vec<String> = measures[..compared]
            .iter()
            .filter(|(_, wanted, found)| wanted != found)
            .map(|(measure, wanted, found)| format!("{measure} is {found}, not {wanted}"))
            .collect();
        (!differing.is_empty()).then(|| differing.join(", "))
    })
}

fn describe_row((minute, merchant, currency, partition): &StatisticsKey) -> String {
    format!("{}, merchant {merchant:?}, {currency}, partition {partition}", rfc3339::whole_seconds(*minute))
}

/// Compares rows of `orders`.
#[must_use]
pub fn compare_orders(expected: &BTreeMap<String, OrderRow>, found: &[(String, OrderRow)]) -> Vec<Difference> {
    let expected = expected.iter().map(|(id, row)| (id.clone(), row.clone())).collect();
    compare_by_key(
        Subject::Order,
        expected,
        found.to_vec(),
        |id| format!("{id:?}"),
        |wanted, row| (wanted != row).then(|| format!("is {row:?}, not {wanted:?}")),
    )
}
