//! An alert as a person reads it, on one line.

use serde::Deserialize;

/// The parts of an alert that a person looks at.
#[derive(Debug, Deserialize)]
pub struct AlertText {
    rule_id: String,
    severity: String,
    user_id: String,
    reason: String,
    trigger: Trigger,
    origin: String,
}

#[derive(Debug, Deserialize)]
struct Trigger {
    order_id: String,
    merchant_id: String,
    amount_minor: i64,
    currency: String,
    event_time: String,
}

impl AlertText {
    /// `None`: not an alert of this version.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Event time, severity, user, what happened; for terminals with the severity in colour.
    #[must_use]
    pub fn line(&self, is_coloured: bool) -> String {
        let Trigger { order_id, merchant_id, amount_minor, currency, event_time } = &self.trigger;
        let time = event_time.get(11..19).unwrap_or(event_time);
        let severity = self.severity.to_uppercase();
        let (on, off) = match (is_coloured, self.severity.as_str()) {
            (true, "critical" | "high") => ("\u{1b}[1;31m", "\u{1b}[0m"),
            (true, "medium") => ("\u{1b}[33m", "\u{1b}[0m"),
            _ => ("", ""),
        };
        let found_later = if self.origin == "stream" { "" } else { ", found by reconciliation" };
        format!(
            "{time} {on}{severity}{off} {}: {} ({}, order {order_id} at {merchant_id}, {amount_minor} {currency}{found_later})",
            self.user_id, self.reason, self.rule_id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_reads_as_one_line() {
        let value = serde_json::json!({
            "alert_id": "x", "rule_id": "velocity-1m", "rule_version": 1, "severity": "high", "user_id": "u-17",
            "window_start": "2026-11-20T10:00:00Z", "window_end": "2026-11-20T10:01:00Z", "count": 11, "threshold": 10,
            "reason": "11 transactions within 1m, limit 10", "origin": "stream",
            "trigger": {"transaction_id": "t-9", "order_id": "o-9", "merchant_id": "m-2", "amount_minor": 1299,
                "currency": "EUR", "event_time": "2026-11-20T10:00:31.500Z", "topic": "t", "partition": 2, "offset": 7},
        });
        let text = AlertText::read(value.to_string().as_bytes()).expect("an alert");
        assert_eq!(
            text.line(false),
            "10:00:31 HIGH u-17: 11 transactions within 1m, limit 10 (velocity-1m, order o-9 at m-2, 1299 EUR)"
        );
        assert!(text.line(true).contains("\u{1b}[1;31mHIGH\u{1b}[0m"));
        assert!(AlertText::read(b"{}").is_none());
    }
}
