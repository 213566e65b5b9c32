//! A transaction as a list of fields, each with its raw JSON text: for records that are not written in the ordinary way.

use crate::generate::transaction::{Transaction, TransactionWriter};

/// The required fields in the order of the format's table.
pub(super) const REQUIRED: [&str; 7] =
    ["transaction_id", "order_id", "user_id", "merchant_id", "amount_minor", "currency", "event_time"];

#[derive(Clone)]
pub(super) struct Fields(pub(super) Vec<(&'static str, String)>);

impl Fields {
    pub(super) fn of(transaction: &Transaction, writer: &mut TransactionWriter) -> Self {
        let mut fields = vec![
            (REQUIRED[0], quoted(|buffer| writer.push_transaction_id(buffer, transaction.number))),
            (REQUIRED[1], quoted(|buffer| writer.push_order_id(buffer, transaction.order))),
            (REQUIRED[2], quoted(|buffer| transaction.user.push_id(buffer))),
            (REQUIRED[3], quoted(|buffer| transaction.merchant.push_id(buffer))),
            (REQUIRED[4], transaction.amount_minor.to_string()),
            (REQUIRED[5], format!("\"{}\"", transaction.currency())),
            (REQUIRED[6], quoted(|buffer| writer.push_time(buffer, transaction.event_time))),
        ];
        for (name, value) in [("channel", transaction.channel()), ("status", transaction.status())] {
            if !value.is_empty() {
                fields.push((name, format!("\"{value}\"")));
            }
        }
        Self(fields)
    }

    /// Replaces the raw JSON text of a field, or adds the field.
    pub(super) fn set(&mut self, name: &'static str, raw: impl Into<String>) {
        match self.0.iter_mut().find(|(existing, _)| *existing == name) {
            Some((_, text)) => *text = raw.into(),
            None => self.0.push((name, raw.into())),
        }
    }

    /// The raw JSON text of a field; empty when it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(existing, _)| *existing == name).map_or("", |(_, text)| text)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(existing, _)| *existing != name);
    }

    pub(super) fn to_json(&self) -> String {
        self.to_json_with("", "")
    }

    /// With something after each comma and around each colon.
    pub(super) fn to_json_with(&self, after_comma: &str, around_colon: &str) -> String {
        let members: Vec<String> =
            self.0.iter().map(|(name, raw)| format!("\"{name}\"{around_colon}:{around_colon}{raw}")).collect();
        format!("{{{after_comma}{}{after_comma}}}", members.join(&format!(",{after_comma}")))
    }
}

fn quoted(push: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut buffer = vec![b'"'];
    push(&mut buffer);
    buffer.push(b'"');
    // The writers append UTF-8 only.
    String::from_utf8(buffer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::EventTime;
    use crate::generate::population::{Merchant, User};

    #[test]
    fn the_list_of_fields_gives_the_same_bytes_as_the_direct_writer() {
        let mut writer = TransactionWriter::new(7);
        for number in 0..64_u8 {
            let transaction = Transaction {
                number: u64::from(number),
                order: 3,
                user: User(u32::from(number)),
                merchant: Merchant(5),
                amount_minor: 1_299,
                currency: number,
                channel: number,
                status: number / 8,
                event_time: EventTime(1_767_225_600_123),
            };
            let mut direct = Vec::new();
            writer.push_json(&mut direct, &transaction);
            assert_eq!(Fields::of(&transaction, &mut writer).to_json().into_bytes(), direct);
        }
    }
}
