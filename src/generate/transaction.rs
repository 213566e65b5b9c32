//! An ordinary transaction and its JSON form of about 200 bytes.
//!
//! A transaction is kept as numbers, so that repeating it hours later needs no copy of its bytes: the same numbers
//! always give the same bytes. The writer appends to the caller's buffer and allocates nothing of its own.

use chrono::{DateTime, Utc};

use crate::domain::duration::Millis;
use crate::domain::time::{EventTime, WindowStart};
use crate::generate::population::{Merchant, User};

/// Often-used currencies stand here more than once.
pub(super) const CURRENCIES: [&str; 16] =
    ["EUR", "EUR", "EUR", "EUR", "EUR", "USD", "USD", "USD", "GBP", "GBP", "PLN", "PLN", "CHF", "SEK", "JPY", "BRL"];
/// The empty ones stand for an absent field.
pub(super) const CHANNELS: [&str; 8] = ["web", "web", "app", "app", "pos", "moto", "recurring", ""];
pub(super) const STATUSES: [&str; 8] =
    ["authorized", "authorized", "captured", "captured", "captured", "settled", "refunded", ""];

/// One transaction, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) number: u64,
    pub(super) order: u64,
    pub(super) user: User,
    pub(super) merchant: Merchant,
    pub(super) amount_minor: u64,
    /// Positions in the tables above, taken modulo their length.
    pub(super) currency: u8,
    pub(super) channel: u8,
    pub(super) status: u8,
    pub(super) event_time: EventTime,
}

impl Transaction {
    pub(super) fn currency(&self) -> &'static str {
        CURRENCIES[usize::from(self.currency) % CURRENCIES.len()]
    }

    pub(super) fn channel(&self) -> &'static str {
        CHANNELS[usize::from(self.channel) % CHANNELS.len()]
    }

    pub(super) fn status(&self) -> &'static str {
        STATUSES[usize::from(self.status) % STATUSES.len()]
    }
}

/// Writes transactions of one workload.
pub(super) struct TransactionWriter {
    /// Six hex digits of the seed, so that two workloads do not share transaction ids.
    tag: String,
    time: TimeWriter,
}

impl TransactionWriter {
    pub(super) fn new(seed: u64) -> Self {
        // An odd multiplier mixes near seeds apart.
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        Self { tag: format!("{mixed:06x}"), time: TimeWriter::default() }
    }

    pub(super) fn push_transaction_id(&self, buffer: &mut Vec<u8>, number: u64) {
        buffer.extend_from_slice(b"t-");
        buffer.extend_from_slice(self.tag.as_bytes());
        buffer.push(b'-');
        push_decimal(buffer, number, 1);
    }

    pub(super) fn push_order_id(&self, buffer: &mut Vec<u8>, order: u64) {
        buffer.extend_from_slice(b"o-");
        buffer.extend_from_slice(self.tag.as_bytes());
        buffer.push(b'-');
        push_decimal(buffer, order, 1);
    }

    pub(super) fn push_time(&mut self, buffer: &mut Vec<u8>, time: EventTime) {
        self.time.push(buffer, time);
    }

    /// Appends the whole JSON object. None of the texts needs an escape.
    pub(super) fn push_json(&mut self, buffer: &mut Vec<u8>, transaction: &Transaction) {
        buffer.extend_from_slice(b"{\"transaction_id\":\"");
        self.push_transaction_id(buffer, transaction.number);
        buffer.extend_from_slice(b"\",\"order_id\":\"");
        self.push_order_id(buffer, transaction.order);
        buffer.extend_from_slice(b"\",\"user_id\":\"");
        transaction.user.push_id(buffer);
        buffer.extend_from_slice(b"\",\"merchant_id\":\"");
        transaction.merchant.push_id(buffer);
        buffer.extend_from_slice(b"\",\"amount_minor\":");
        push_decimal(buffer, transaction.amount_minor, 1);
        buffer.extend_from_slice(b",\"currency\":\"");
        buffer.extend_from_slice(transaction.currency().as_bytes());
        buffer.extend_from_slice(b"\",\"event_time\":\"");
        self.push_time(buffer, transaction.event_time);
        buffer.push(b'"');
        push_optional(buffer, b",\"channel\":\"", transaction.channel());
        push_optional(buffer, b",\"status\":\"", transaction.status());
        buffer.push(b'}');
    }
}

fn push_optional(buffer: &mut Vec<u8>, opening: &[u8], value: &str) {
    if !value.is_empty() {
        buffer.extend_from_slice(opening);
        buffer.extend_from_slice(value.as_bytes());
        buffer.push(b'"');
    }
}

/// RFC 3339 in UTC with milliseconds. Neighbouring records mostly share their minute, so its text is kept.
#[derive(Default)]
struct TimeWriter {
    minute: Option<WindowStart>,
    /// `2026-01-01T00:00:`
    text: String,
}

impl TimeWriter {
    fn push(&mut self, buffer: &mut Vec<u8>, time: EventTime) {
        let minute = time.window_start(Millis::MINUTE);
        if self.minute != Some(minute) {
            let start = DateTime::<Utc>::from_timestamp_millis(minute.0).unwrap_or(DateTime::<Utc>::MIN_UTC);
            self.text = start.format("%Y-%m-%dT%H:%M:").to_string();
            self.minute = Some(minute);
        }
        buffer.extend_from_slice(self.text.as_bytes());
        let within = u64::try_from(time.0 - minute.0).unwrap_or(0);
        push_decimal(buffer, within / 1_000, 2);
        buffer.push(b'.');
        push_decimal(buffer, within % 1_000, 3);
        buffer.push(b'Z');
    }
}

/// Appends a decimal number with leading zeros up to `width_min` digits.
pub(super) fn push_decimal(buffer: &mut Vec<u8>, mut value: u64, width_min: usize) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while value > 0 {
        first -= 1;
        digits[first] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
    let first = first.min(digits.len().saturating_sub(width_min));
    buffer.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_padded_and_never_cut() {
        for (value, width, text) in
            [(0, 1, "0"), (7, 3, "007"), (1234, 2, "1234"), (u64::MAX, 1, "18446744073709551615")]
        {
            let mut buffer = Vec::new();
            push_decimal(&mut buffer, value, width);
            assert_eq!(String::from_utf8(buffer).unwrap(), text);
        }
    }

    #[test]
    fn times_are_written_as_outputs_write_them() {
        let mut writer = TimeWriter::default();
        for millis in [0, 59_999, 60_000, 1_767_225_600_000, 1_767_225_659_007, 4_102_444_799_999] {
            let mut buffer = Vec::new();
            writer.push(&mut buffer, EventTime(millis));
            assert_eq!(String::from_utf8(buffer).unwrap(), EventTime(millis).to_string());
        }
    }
}
