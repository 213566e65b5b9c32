//! What the records of a source topic add up to, by the contract's semantics, step by step as it lists them.
//!
//! Needs the records of each partition without gap from its beginning (or from where the counters are to begin).
//! Decides by record order and record content alone. Keeps every window and every id for ever: nothing is evicted, so
//! nothing can be evicted too early.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::rfc3339;
use super::validate::{Transaction, validate};

pub use super::side_record::{Header, SideRecord, SourceRecord};

const MINUTE_MS: i64 = 60_000;

/// A rule as configured, and how it changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleText {
    pub id: String,
    pub version: u32,
    pub window_ms: i64,
    /// The window size as the configuration writes it.
    pub window_text: String,
    pub max_transactions: u64,
    pub severity: String,
    /// Later versions (`rule_history`), per partition ascending in the first offset; usually none.
    pub changes: Vec<RuleChange>,
}

/// From `first_offset` of `partition` on, the rule acts with these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChange {
    pub partition: i32,
    pub first_offset: i64,
    pub version: u32,
    pub max_transactions: u64,
    pub severity: String,
}

impl RuleText {
    /// Version, limit and severity that decide a record.
    fn in_force_at(&self, partition: i32, offset: i64) -> (u32, u64, &str) {
        let mut in_force = (self.version, self.max_transactions, self.severity.as_str());
        for change in &self.changes {
            if change.partition == partition && change.first_offset <= offset {
                in_force = (change.version, change.max_transactions, &change.severity);
            }
        }
        in_force
    }
}

/// Everything besides the records that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    pub source_topic: String,
    pub rules: Vec<RuleText>,
    pub out_of_orderness_ms: i64,
    pub max_future_skew_ms: i64,
    /// `stats.enabled`.
    pub statistics: bool,
    /// `stats.orders`; without statistics there are no orders either.
    pub orders: bool,
}

/// Start of the minute (epoch ms), merchant, currency, source partition.
pub type StatisticsKey = (i64, String, String, i32);

/// The measures of a row of `order_stats_by_partition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatisticsCell {
    pub transaction_count: u64,
    pub order_count: u64,
    pub amount_minor: i128,
    pub max_amount_minor: i64,
    /// Offset of the last record that the row took.
    pub last_offset: i64,
}

/// A row of `orders`: the last valid record of the order, by (partition, offset).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    pub user_id: String,
    pub merchant_id: String,
    pub amount_minor: i64,
    pub currency: String,
    pub status: Option<String>,
    pub event_time_ms: i64,
    pub partition: i32,
    pub offset: i64,
}

/// How many records had which outcome; each record has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes {
    pub counted: u64,
    pub duplicate: u64,
    pub late: u64,
    pub dead_letter: u64,
}

/// What the records add up to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recount {
    /// Alert bodies, ordered by partition, offset and then the order of the rules.
    pub alerts: Vec<Value>,
    pub dead_letters: Vec<SideRecord>,
    pub late: Vec<SideRecord>,
    pub statistics: BTreeMap<StatisticsKey, StatisticsCell>,
    pub orders: BTreeMap<String, OrderRow>,
    pub outcomes: Outcomes,
    /// Valid records whose key is missing or differs from their `user_id`.
    pub key_mismatches: u64,
    /// Watermark (epoch ms) after the last record, of partitions that had a valid record.
    pub watermarks: BTreeMap<i32, i64>,
}

/// Recounts records that may come in any interleaving of partitions, each position once.
#[must_use]
pub fn recount(records: &[SourceRecord], parameters: &Parameters) -> Recount {
    let mut in_order: Vec<&SourceRecord> = records.iter().collect();
    in_order.sort_by_key(|record| (record.partition, record.offset));
    let mut recounter = Recounter::new(parameters.clone());
    for record in in_order {
        recounter.take(record);
    }
    recounter.finish()
}

/// The recount of records that come one by one, each partition's in offset order.
#[derive(Debug)]
pub struct Recounter {
    parameters: Parameters,
    partitions: BTreeMap<i32, Partition>,
    result: Recount,
}

/// What is remembered of one partition.
#[derive(Debug)]
struct Partition {
    /// Highest event time of all valid records so far.
    highest_event_time_ms: Option<i64>,
    /// In the order of the rules: the users' windows by (window start, user).
    rules: Vec<BTreeMap<(i64, String), UserWindow>>,
    /// (minute, user, transaction id) that the statistics have taken.
    statistics_ids: BTreeSet<(i64, String, String)>,
    /// (minute, merchant, currency, order id) that the statistics have seen.
    order_ids: BTreeSet<(i64, String, String, String)>,
}

/// One user in one window of one rule.
#[derive(Debug, Default)]
struct UserWindow {
    transaction_ids: BTreeSet<String>,
    counter: u64,
    has_alerted: bool,
}

/// What became of a record in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Late,
    Duplicate,
    Counted,
}

impl Recounter {
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters, partitions: BTreeMap::new(), result: Recount::default() }
    }

    /// Takes the next record of its partition.
    pub fn take(&mut self, record: &SourceRecord) {
        let Self { parameters, partitions, result } = self;
        let skew_ms = parameters.max_future_skew_ms;
        let transaction = match validate(record.value.as_deref(), record.timestamp_ms, skew_ms) {
            Ok(transaction) => transaction,
            Err(rejection) => {
                result.dead_letters.push(SideRecord::dead_letter(&parameters.source_topic, record, &rejection));
                result.outcomes.dead_letter += 1;
                return;
            }
        };
        if record.key.as_deref() != Some(transaction.user_id.as_bytes()) {
            result.key_mismatches += 1;
        }
        let partition = partitions.entry(record.partition).or_insert_with(|| Partition {
            highest_event_time_ms: None,
            rules: parameters.rules.iter().map(|_| BTreeMap::new()).collect(),
            statistics_ids: BTreeSet::new(),
            order_ids: BTreeSet::new(),
        });
        let watermark = partition.highest_event_time_ms.map(|highest| highest - parameters.out_of_orderness_ms);

        let mut verdicts = Vec::new();
        for (rule, windows) in parameters.rules.iter().zip(&mut partition.rules) {
            let (verdict, alert) =
                take_for_rule(&parameters.source_topic, rule, windows, watermark, record, &transaction);
            verdicts.push(verdict);
            result.alerts.extend(alert);
        }
        if parameters.statistics {
            verdicts.push(take_for_statistics(&mut result.statistics, partition, watermark, record, &transaction));
        }
        if parameters.statistics && parameters.orders {
            take_for_orders(&mut result.orders, record, &transaction);
        }
        if let (Some(watermark), true) = (watermark, verdicts.contains(&Verdict::Late)) {
            let text = rfc3339::with_milliseconds(watermark);
            result.late.push(SideRecord::late(&parameters.source_topic, record, text));
        }
        count_outcome(&mut result.outcomes, &verdicts);

        let highest = partition.highest_event_time_ms.max(Some(transaction.event_time_ms));
        partition.highest_event_time_ms = highest;
    }

    /// What the records taken so far add up to, in the order of partitions and offsets.
    #[must_use]
    pub fn finish(self) -> Recount {
        let Self { parameters, partitions, mut result } = self;
        for (number, partition) in partitions {
            if let Some(highest) = partition.highest_event_time_ms {
                result.watermarks.insert(number, highest - parameters.out_of_orderness_ms);
            }
        }
        // Stable: alerts of one record keep the order of the rules.
        result
            .alerts
            .sort_by_key(|alert| (alert["trigger"]["partition"].as_i64(), alert["trigger"]["offset"].as_i64()));
        result.dead_letters.sort_by_key(|record| (record.partition, record.offset));
        result.late.sort_by_key(|record| (record.partition, record.offset));
        result
    }
}

fn window_start(event_time_ms: i64, size_ms: i64) -> i64 {
    event_time_ms.div_euclid(size_ms) * size_ms
}

/// A window is closed when the watermark has reached its end. Before the first valid record nothing is closed.
fn is_closed(watermark: Option<i64>, window_end: i64) -> bool {
    watermark.is_some_and(|watermark| watermark >= window_end)
}

fn take_for_rule(
    source_topic: &str,
    rule: &RuleText,
    windows: &mut BTreeMap<(i64, String), UserWindow>,
    watermark: Option<i64>,
    record: &SourceRecord,
    transaction: &Transaction,
) -> (Verdict, Option<Value>) {
    let start = window_start(transaction.event_time_ms, rule.window_ms);
    if is_closed(watermark, start + rule.window_ms) {
        return (Verdict::Late, None);
    }
    let window = windows.entry((start, transaction.user_id.clone())).or_default();
    if !window.transaction_ids.insert(transaction.transaction_id.clone()) {
        return (Verdict::Duplicate, None);
    }
    window.counter += 1;
    let (_, max_transactions, _) = rule.in_force_at(record.partition, record.offset);
    if window.counter <= max_transactions || window.has_alerted {
        return (Verdict::Counted, None);
    }
    window.has_alerted = true;
    (Verdict::Counted, Some(alert(source_topic, rule, start, window.counter, record, transaction)))
}

fn take_for_statistics(
    statistics: &mut BTreeMap<StatisticsKey, StatisticsCell>,
    partition: &mut Partition,
    watermark: Option<i64>,
    record: &SourceRecord,
    transaction: &Transaction,
) -> Verdict {
    let minute = window_start(transaction.event_time_ms, MINUTE_MS);
    if is_closed(watermark, minute + MINUTE_MS) {
        return Verdict::Late;
    }
    let Transaction { transaction_id, order_id, user_id, merchant_id, currency, amount_minor, .. } = transaction;
    if !partition.statistics_ids.insert((minute, user_id.clone(), transaction_id.clone())) {
        return Verdict::Duplicate;
    }
    let is_new_order = partition.order_ids.insert((minute, merchant_id.clone(), currency.clone(), order_id.clone()));
    let cell = statistics.entry((minute, merchant_id.clone(), currency.clone(), record.partition)).or_default();
    cell.transaction_count += 1;
    cell.order_count += u64::from(is_new_order);
    cell.amount_minor += i128::from(*amount_minor);
    cell.max_amount_minor = cell.max_amount_minor.max(*amount_minor);
    cell.last_offset = record.offset;
    Verdict::Counted
}

/// Every valid record takes part, late and duplicate ones included; the highest (partition, offset) stays.
fn take_for_orders(orders: &mut BTreeMap<String, OrderRow>, record: &SourceRecord, transaction: &Transaction) {
    let position = (record.partition, record.offset);
    if orders.get(&transaction.order_id).is_some_and(|row| (row.partition, row.offset) > position) {
        return;
    }
    let row = OrderRow {
        user_id: transaction.user_id.clone(),
        merchant_id: transaction.merchant_id.clone(),
        amount_minor: transaction.amount_minor,
        currency: transaction.currency.clone(),
        status: transaction.status.clone(),
        event_time_ms: transaction.event_time_ms,
        partition: record.partition,
        offset: record.offset,
    };
    orders.insert(transaction.order_id.clone(), row);
}

/// Late if late for any window; else duplicate if duplicate in every window; else counted.
fn count_outcome(outcomes: &mut Outcomes, verdicts: &[Verdict]) {
    if verdicts.contains(&Verdict::Late) {
        outcomes.late += 1;
    } else if !verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == Verdict::Duplicate) {
        outcomes.duplicate += 1;
    } else {
        outcomes.counted += 1;
    }
}

/// The body of an alert.
fn alert(
    source_topic: &str,
    rule: &RuleText,
    start: i64,
    count: u64,
    record: &SourceRecord,
    transaction: &Transaction,
) -> Value {
    let (version, limit, severity) = rule.in_force_at(record.partition, record.offset);
    json!({
        "alert_id": alert_id(&rule.id, version, start, &transaction.user_id),
        "rule_id": rule.id,
        "rule_version": version,
        "severity": severity,
        "user_id": transaction.user_id,
        "window_start": rfc3339::whole_seconds(start),
        "window_end": rfc3339::whole_seconds(start + rule.window_ms),
        "count": count,
        "threshold": limit,
        "reason": format!("{count} transactions within {}, limit {limit}", rule.window_text),
        "trigger": {
            "transaction_id": transaction.transaction_id,
            "order_id": transaction.order_id,
            "merchant_id": transaction.merchant_id,
            "amount_minor": transaction.amount_minor,
            "currency": transaction.currency,
            "event_time": rfc3339::with_milliseconds(transaction.event_time_ms),
            "topic": source_topic,
            "partition": record.partition,
            "offset": record.offset,
        },
        "origin": "stream",
    })
}

fn alert_id(rule_id: &str, rule_version: u32, window_start: i64, user_id: &str) -> String {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"tallyguard");
    let name = format!("{rule_id}|{rule_version}|{window_start}|{user_id}");
    Uuid::new_v5(&namespace, name.as_bytes()).to_string()
}
