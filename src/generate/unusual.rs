//! Legal records in unusual dress. A correct reader takes each of them as if it were ordinary.

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};

use crate::domain::time::EventTime;
use crate::generate::dice::Dice;
use crate::generate::fields::Fields;
use crate::generate::kind::Kind;

pub(super) const KINDS: [Kind; 5] =
    [Kind::UnknownFields, Kind::UnusualText, Kind::LargestValues, Kind::UnusualTime, Kind::UnusualLayout];

/// Raw JSON that a field unknown to the format may hold: whatever it is, it is ignored.
const UNKNOWN_VALUES: [&str; 6] = [
    r#"{"ip":"192.0.2.7","tags":["a","b"],"score":0.75,"parent":{"user_id":null}}"#,
    r#""half a surrogate pair: \ud83e""#,
    "-1e999",
    "null",
    // With the outer object 32 levels deep, which is as deep as is allowed.
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    r#"{"note":"Zażółć gęślą jaźń – 支払い 🦀"}"#,
];
const ID_BYTES_MAX: usize = 128;
const LABEL_BYTES_MAX: usize = 64;
const AMOUNT_MAX: &str = "1000000000000000";

/// The value of a record of this kind, made from the fields of an ordinary one. Which kinds: [`KINDS`].
pub(super) fn value(kind: Kind, dice: &mut Dice, mut fields: Fields, event_time: EventTime) -> String {
    match kind {
        Kind::UnusualText => respell(dice, &mut fields),
        Kind::LargestValues => enlarge(&mut fields),
        Kind::UnusualTime => {
            let text = unusual_time(dice, event_time);
            fields.set("event_time", text);
        }
        Kind::UnusualLayout => return relayout(dice, fields),
        _ => {
            let position = dice.below(u32::try_from(fields.0.len()).unwrap_or(0)) as usize;
            fields.0.insert(position, ("metadata", (*dice.pick(&UNKNOWN_VALUES)).to_owned()));
            // Twice the same unknown name is as good as once.
            fields.0.push(("metadata", "true".to_owned()));
        }
    }
    fields.to_json()
}

fn respell(dice: &mut Dice, fields: &mut Fields) {
    let transaction = unquoted(fields, "transaction_id");
    let order = unquoted(fields, "order_id");
    match dice.below(3) {
        0 => {
            fields.set("transaction_id", format!("\"{transaction}-Ω漢字🦀\""));
            fields.set("order_id", format!("\"{order} Größe שלום\""));
        }
        1 => {
            fields.set("transaction_id", format!(r#""{transaction}-\u00fc\ud83e\udd80""#));
            fields.set("order_id", format!(r#""{order}\"\\\/""#));
        }
        _ => {
            // The same user id, spelt with an escape for its first letter.
            let escaped = unquoted(fields, "user_id").replacen('u', r"\u0075", 1);
            fields.set("user_id", format!("\"{escaped}\""));
        }
    }
}

fn enlarge(fields: &mut Fields) {
    for name in ["transaction_id", "order_id"] {
        let id = unquoted(fields, name);
        fields.set(name, format!("\"{id:x<ID_BYTES_MAX$}\""));
    }
    fields.set("amount_minor", AMOUNT_MAX);
    fields.set("channel", format!("\"{}\"", "c".repeat(LABEL_BYTES_MAX)));
    fields.set("status", format!("\"{}\"", "é".repeat(LABEL_BYTES_MAX / "é".len())));
}

fn unusual_time(dice: &mut Dice, event_time: EventTime) -> String {
    let utc = event_time.to_string();
    let with_offset = |seconds: i32| {
        let instant = DateTime::<Utc>::from_timestamp_millis(event_time.0)?;
        let local = instant.with_timezone(&FixedOffset::east_opt(seconds)?);
        Some(local.to_rfc3339_opts(SecondsFormat::Millis, false))
    };
    let text = match dice.below(5) {
        0 => return event_time.0.to_string(),
        1 => with_offset(2 * 3_600).unwrap_or(utc),
        2 => with_offset(-(3 * 3_600 + 1_800)).unwrap_or(utc),
        3 => utc.to_lowercase(),
        // Nanoseconds are cut to milliseconds, never rounded.
        _ => utc.replace('Z', "999999Z"),
    };
    format!("\"{text}\"")
}

fn relayout(dice: &mut Dice, mut fields: Fields) -> String {
    fields.0.reverse();
    match dice.below(3) {
        0 => {
            fields.set("channel", "null");
            fields.remove("status");
            fields.to_json_with(" ", " ")
        }
        1 => {
            fields.remove("channel");
            fields.set("status", "null");
            fields.to_json_with("\t", "")
        }
        _ => fields.to_json_with("\n  ", " "),
    }
}

fn unquoted(fields: &Fields, name: &str) -> String {
    fields.get(name).trim_matches('"').to_owned()
}
