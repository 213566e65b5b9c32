//! Random source logs and parameters, and the translation between the engine's words and the recount's.

use std::sync::Arc;

use serde_json::json;
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::{Output, PartitionState};
use tallyguard::domain::record::SourceRecord;
use tallyguard::domain::rule::{Parameters, Rule, RuleHistory, Severity};
use tallyguard::domain::statistics::{OrderRow, StatisticsRow};
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;
use tallyguard::protocol::recovery::{Configured, FirstStart};
use tallyguard::reconcile::recount;

use crate::dice::Dice;

pub const TOPIC: &str = "transactions";
/// 2026-11-20T10:00:00Z.
pub const TEN_O_CLOCK: i64 = 1_795_168_800_000;

const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;

/// Out-of-orderness from none to far more than any window, windows from one second to an hour, at times two of a size.
pub fn configuration(dice: &mut Dice) -> Configured {
    let sizes = [(1_000, "1s"), (2_000, "2s"), (10_000, "10s"), (MINUTE, "1m"), (MINUTE, "60s"), (60 * MINUTE, "1h")];
    let rules = (0..=dice.below(3)).map(|number| {
        let (window, text) = dice.pick(&sizes);
        Rule {
            id: format!("rule-{number}"),
            version: 1,
            window: Millis(window),
            window_text: text.to_owned(),
            max_transactions: u32::try_from(1 + dice.below(3)).unwrap(),
            severity: dice.pick(&[Severity::Low, Severity::Medium, Severity::High, Severity::Critical]),
        }
    });
    let rules = rules.collect();
    let statistics = dice.chance(75);
    Configured {
        rules,
        out_of_orderness: Millis(dice.pick(&[0, 1_000, 5_000, MINUTE, MINUTE, 10 * MINUTE])),
        max_future_skew: Millis(dice.pick(&[0, MINUTE, 3_650 * DAY])),
        statistics,
        orders: statistics && dice.chance(60),
        first_start: FirstStart::Earliest,
    }
}

pub fn engine_parameters(configured: &Configured, from: Offset) -> Parameters {
    Parameters {
        rules: configured.rules.iter().map(|rule| RuleHistory::starting(rule.clone(), from)).collect(),
        out_of_orderness: configured.out_of_orderness,
        max_future_skew: configured.max_future_skew,
        statistics: configured.statistics,
        orders: configured.orders,
    }
}

pub fn recount_parameters(configured: &Configured) -> recount::Parameters {
    let rules = configured.rules.iter().map(|rule| recount::RuleText {
        id: rule.id.clone(),
        version: rule.version,
        window_ms: rule.window.0,
        window_text: rule.window_text.clone(),
        max_transactions: u64::from(rule.max_transactions),
        severity: rule.severity.as_str().to_owned(),
        changes: Vec::new(),
    });
    recount::Parameters {
        source_topic: TOPIC.to_owned(),
        rules: rules.collect(),
        out_of_orderness_ms: configured.out_of_orderness.0,
        max_future_skew_ms: configured.max_future_skew.0,
        statistics: configured.statistics,
        orders: configured.orders,
    }
}

pub fn new_state(partition: i32, parameters: Parameters, from: i64) -> PartitionState {
    let from = Position { offset: Offset(from), watermark: Watermark::NONE };
    PartitionState::new(Arc::from(TOPIC), PartitionId(partition), Arc::new(parameters), from, Watermark::NONE)
}

pub fn borrowed(record: &recount::SourceRecord) -> SourceRecord<'_> {
    SourceRecord {
        offset: Offset(record.offset),
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
    }
}

/// One partition's records in offset order, with gaps as transaction markers leave them.
pub fn log(dice: &mut Dice, partition: i32, length: usize) -> Vec<recount::SourceRecord> {
    let mut offset = dice.between(0, 1_000);
    let mut clock = TEN_O_CLOCK + dice.between(0, 2 * MINUTE);
    // A slow stream fills windows, a fast one closes them.
    let pace = dice.pick(&[300, 3_000, 30_000, 200_000]);
    let users = 1 + dice.below(4);
    let records = (0..length).map(|_| {
        let record = record(dice, partition, offset, &mut clock, pace, users);
        offset += if dice.chance(20) { dice.between(2, 4) } else { 1 };
        record
    });
    records.collect()
}

fn record(
    dice: &mut Dice,
    partition: i32,
    offset: i64,
    clock: &mut i64,
    pace: i64,
    users: usize,
) -> recount::SourceRecord {
    *clock += dice.between(0, pace);
    let event_time = match dice.below(100) {
        0..70 => *clock,
        70..88 => *clock - dice.between(0, 2 * MINUTE),
        88..94 => *clock - dice.between(0, 90 * MINUTE),
        94..96 => *clock - dice.between(0, 9_000 * DAY),
        96..98 => *clock + dice.between(0, 3 * MINUTE),
        // A producer with a wrong clock: it closes every window that others still fill.
        98 => *clock + dice.between(0, 5_000 * DAY),
        // On the very edge of a window.
        _ => *clock - *clock % MINUTE,
    };
    let user = format!("u-{}", dice.below(users));
    let mut value = json!({
        "transaction_id": format!("t-{}", dice.below(12)),
        "order_id": format!("o-{}", dice.below(6)),
        "user_id": user,
        "merchant_id": format!("m-{}", dice.below(2)),
        "amount_minor": dice.between(0, 1_000_000_000_000_000),
        "currency": dice.pick(&["EUR", "USD"]),
        "event_time": event_time,
    });
    if dice.chance(30) {
        value["status"] = dice.pick(&[json!("paid"), json!(null), json!("")]);
    }
    let value = match dice.below(60) {
        0 => None,
        1 => Some(b"{\"transaction_id\":\xff}".to_vec()),
        2 => Some(b"{]".to_vec()),
        3 => Some(br#"{"transaction_id":"t"}"#.to_vec()),
        4 => {
            value["amount_minor"] = json!(-1);
            Some(value.to_string().into_bytes())
        }
        _ => Some(value.to_string().into_bytes()),
    };
    let key = match dice.below(20) {
        0 => None,
        1 => Some(b"somebody else".to_vec()),
        _ => Some(user.into_bytes()),
    };
    let timestamp_ms = match dice.below(4) {
        0 => None,
        1 => Some(*clock - dice.between(0, 3 * MINUTE)),
        _ => Some(*clock + 20),
    };
    recount::SourceRecord { partition, offset, timestamp_ms, key, value, headers: Vec::new() }
}

/// Everything that a log causes for the output topics, in a form that both sides can be brought to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    pub alerts: Vec<serde_json::Value>,
    /// (partition, offset, reason code).
    pub dead_letters: Vec<(i32, i64, String)>,
    /// (partition, offset, watermark).
    pub late: Vec<(i32, i64, String)>,
}

impl Effects {
    pub fn expected(recount: &recount::Recount) -> Self {
        let side = |records: &[recount::SideRecord]| {
            records.iter().map(|record| (record.partition, record.offset, record.cause.clone())).collect()
        };
        Self { alerts: recount.alerts.clone(), dead_letters: side(&recount.dead_letters), late: side(&recount.late) }
    }

    pub fn add(&mut self, partition: i32, offset: Offset, output: Output) {
        match output {
            Output::Alert { body, user_id, .. } => {
                let body: serde_json::Value = serde_json::from_slice(&body).expect("an alert is JSON");
                assert_eq!(body["user_id"], *user_id, "the alert's key is its user");
                self.alerts.push(body);
            }
            Output::DeadLetter(rejection) => {
                self.dead_letters.push((partition, offset.0, rejection.code().to_owned()));
            }
            Output::Late { watermark } => self.late.push((partition, offset.0, watermark.to_string())),
        }
    }

    /// Brings the effects into the order of positions; alerts of one record in the order of their ids.
    pub fn sorted(mut self) -> Self {
        let place = |alert: &serde_json::Value| {
            let trigger = &alert["trigger"];
            (trigger["partition"].as_i64(), trigger["offset"].as_i64(), alert["rule_id"].to_string())
        };
        self.alerts.sort_by_key(place);
        self.dead_letters.sort();
        self.late.sort();
        self
    }
}

/// The two tables, as the guarded upserts leave them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tables {
    pub rows: std::collections::BTreeMap<recount::StatisticsKey, recount::StatisticsCell>,
    pub orders: std::collections::BTreeMap<String, recount::OrderRow>,
}

impl Tables {
    pub fn expected(recount: &recount::Recount) -> Self {
        Self { rows: recount.statistics.clone(), orders: recount.orders.clone() }
    }

    pub fn write(&mut self, partition: i32, rows: &[StatisticsRow], orders: &[OrderRow]) {
        for row in rows {
            let currency = std::str::from_utf8(&row.currency).unwrap().to_owned();
            let key = (row.minute.0, row.merchant_id.to_string(), currency, partition);
            let cell = recount::StatisticsCell {
                transaction_count: row.transaction_count,
                order_count: row.order_count,
                amount_minor: row.amount_minor,
                max_amount_minor: row.max_amount_minor,
                last_offset: row.source_offset.0,
            };
            let stored = self.rows.entry(key).or_insert(cell);
            if cell.last_offset >= stored.last_offset {
                *stored = cell;
            }
        }
        for row in orders {
            let new = recount::OrderRow {
                user_id: row.user_id.to_string(),
                merchant_id: row.merchant_id.to_string(),
                amount_minor: row.amount_minor,
                currency: std::str::from_utf8(&row.currency).unwrap().to_owned(),
                status: row.status.as_deref().map(str::to_owned),
                event_time_ms: row.event_time.0,
                partition,
                offset: row.source_offset.0,
            };
            let stored = self.orders.entry(row.order_id.to_string()).or_insert_with(|| new.clone());
            if (new.partition, new.offset) >= (stored.partition, stored.offset) {
                *stored = new;
            }
        }
    }
}
