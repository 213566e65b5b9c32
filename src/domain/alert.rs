//! The alert that a breached rule raises, and its wire form (`schemas/alert.v1.json`).

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde::Serialize;
use uuid::Uuid;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::record::Transaction;
use crate::domain::rule::{Rule, RuleVersion};
use crate::domain::time::WindowStart;

/// Namespace of all alert ids: UUIDv5(DNS, "tallyguard").
static NAMESPACE: LazyLock<Uuid> = LazyLock::new(|| Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"tallyguard"));

/// What an alert is about, borrowed from where it arose.
pub struct Breach<'a> {
    pub rule: &'a Rule,
    /// The version in force at the triggering record.
    pub version: &'a RuleVersion,
    pub window_start: WindowStart,
    /// The counter, the triggering record included.
    pub count: u32,
    pub transaction: &'a Transaction<'a>,
    pub topic: &'a str,
    pub partition: PartitionId,
    pub offset: Offset,
}

/// UUIDv5 of `rule_id|rule_version|window_start as epoch ms|user_id`.
#[must_use]
pub fn alert_id(rule_id: &str, rule_version: u32, window_start: WindowStart, user_id: &str) -> Uuid {
    let mut name = String::with_capacity(rule_id.len() + user_id.len() + 32);
    // Writing to a String cannot fail.
    let _ = write!(name, "{rule_id}|{rule_version}|{}|{user_id}", window_start.0);
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[derive(Serialize)]
struct AlertBody<'a> {
    alert_id: String,
    rule_id: &'a str,
    rule_version: u32,
    severity: &'static str,
    user_id: &'a str,
    window_start: String,
    window_end: String,
    count: u32,
    threshold: u32,
    reason: String,
    trigger: TriggerBody<'a>,
    origin: &'static str,
}

#[derive(Serialize)]
struct TriggerBody<'a> {
    transaction_id: &'a str,
    order_id: &'a str,
    merchant_id: &'a str,
    amount_minor: i64,
    currency: &'a str,
    event_time: String,
    topic: &'a str,
    partition: PartitionId,
    offset: Offset,
}

impl Breach<'_> {
    /// The alert's JSON body. It holds nothing that differs between two runs over the same log.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let Self { rule, version, transaction, .. } = self;
        let body = AlertBody {
            alert_id: alert_id(&rule.id, version.version, self.window_start, &transaction.user_id).to_string(),
            rule_id: &rule.id,
            rule_version: version.version,
            severity: version.severity.as_str(),
            user_id: &transaction.user_id,
            window_start: self.window_start.to_string(),
            window_end: self.window_start.end(rule.window).to_string(),
            count: self.count,
            threshold: version.max_transactions,
            reason: format!(
                "{} transactions within {}, limit {}",
                self.count, rule.window_text, version.max_transactions
            ),
            trigger: TriggerBody {
                transaction_id: &transaction.transaction_id,
                order_id: &transaction.order_id,
                merchant_id: &transaction.merchant_id,
                amount_minor: transaction.amount_minor,
                currency: std::str::from_utf8(&transaction.currency).unwrap_or_default(),
                event_time: transaction.event_time.to_string(),
                topic: self.topic,
                partition: self.partition,
                offset: self.offset,
            },
            origin: "stream",
        };
        // Serialising plain strings and integers to memory cannot fail.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}
