//! Records for the dead-letter topic: for each reason code, every way to earn it that has bitten somebody.

use crate::domain::time::EventTime;
use crate::generate::dice::Dice;
use crate::generate::fields::{Fields, REQUIRED};
use crate::generate::kind::Kind;
use crate::generate::transaction::{Transaction, TransactionWriter};

pub(super) const KINDS: [Kind; 6] = [
    Kind::NullValue,
    Kind::InvalidUtf8,
    Kind::InvalidJson,
    Kind::MissingField,
    Kind::InvalidField,
    Kind::FutureEventTime,
];

/// 2099-01-01T00:00:00Z: inside the range of the format, and later than any clock that this will run under.
const FUTURE: EventTime = EventTime(4_070_908_800_000);
const FUTURE_SPAN_MS: i64 = 300 * 86_400_000;

/// Stray continuation, overlong form, encoded surrogate, cut sequence, beyond U+10FFFF, a byte that never occurs.
const NOT_UTF8: [&[u8]; 6] = [b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf0\x9f\xa6", b"\xf4\x90\x80\x80", b"\xff"];

/// Fields with raw JSON that breaks their rule.
const INVALID_FIELDS: [(&str, &str); 36] = [
    ("transaction_id", "\"\""),
    ("transaction_id", r#""t-\u0000""#),
    ("transaction_id", "\"t-\u{7f}\""),
    ("transaction_id", "null"),
    ("order_id", "17"),
    ("order_id", r#""o-\n""#),
    ("user_id", "null"),
    ("user_id", "[\"u-1\"]"),
    ("user_id", r#""u-\u0085""#),
    ("merchant_id", "{}"),
    ("merchant_id", "true"),
    ("amount_minor", "-1"),
    ("amount_minor", "-0"),
    ("amount_minor", "12.0"),
    ("amount_minor", "1e3"),
    ("amount_minor", "1e999"),
    ("amount_minor", "1000000000000001"),
    ("amount_minor", "99999999999999999999999999"),
    ("amount_minor", "\"12\""),
    ("amount_minor", "null"),
    ("currency", "\"eur\""),
    ("currency", "\"EURO\""),
    ("currency", "\"€UR\""),
    ("currency", "978"),
    ("event_time", "\"2026-02-30T00:00:00Z\""),
    ("event_time", "\"2026-01-01 00:00:00Z\""),
    ("event_time", "\"2026-01-01T24:00:00Z\""),
    ("event_time", "\"2026-06-30T23:59:60Z\""),
    ("event_time", "\"2026-01-01T00:00:00\""),
    ("event_time", "\"2026-01-01T00:00:00.1234567890Z\""),
    ("event_time", "\"yesterday\""),
    ("event_time", "\"1999-12-31T23:59:59.999Z\""),
    ("event_time", "4102444800000"),
    ("event_time", "1e12"),
    ("channel", "7"),
    ("status", r#""done\t""#),
];

/// The value of a record of this kind, and the event time that it carries; `None` is a null value.
pub(super) fn value(
    kind: Kind,
    dice: &mut Dice,
    transaction: &mut Transaction,
    writer: &mut TransactionWriter,
) -> Option<Vec<u8>> {
    if kind == Kind::FutureEventTime {
        transaction.event_time = EventTime(dice.between(FUTURE.0, FUTURE.0 + FUTURE_SPAN_MS));
    }
    let fields = Fields::of(transaction, writer);
    match kind {
        Kind::NullValue => None,
        Kind::InvalidUtf8 => Some(invalid_utf8(dice, &fields)),
        Kind::InvalidJson => Some(invalid_json(dice, fields)),
        Kind::MissingField => Some(missing_field(dice, fields).into_bytes()),
        Kind::InvalidField => Some(invalid_field(dice, fields).into_bytes()),
        _ => Some(fields.to_json().into_bytes()),
    }
}

fn invalid_utf8(dice: &mut Dice, fields: &Fields) -> Vec<u8> {
    let mut bytes = fields.to_json().into_bytes();
    // The first id is ASCII, so nothing is torn apart here that could join with the inserted bytes.
    let position = r#"{"transaction_id":""#.len() + dice.below(8) as usize;
    bytes.splice(position..position, dice.pick(&NOT_UTF8).iter().copied());
    bytes
}

fn invalid_json(dice: &mut Dice, mut fields: Fields) -> Vec<u8> {
    let whole = fields.to_json();
    let text = match dice.below(13) {
        0 => String::new(),
        1 => {
            // Cut at a character's boundary, so that it stays UTF-8 and is found out by its missing end only.
            let wanted = 1 + dice.below(u32::try_from(whole.len()).unwrap_or(2).saturating_sub(2)) as usize;
            let end = (1..=wanted).rev().find(|end| whole.is_char_boundary(*end)).unwrap_or(1);
            whole[..end].to_owned()
        }
        2 => format!("{whole}}}"),
        3 => format!("{whole} {whole}"),
        4 => format!("\u{feff}{whole}"),
        5 => format!("[{whole}]"),
        6 => "17".to_owned(),
        7 => "null".to_owned(),
        8 => whole.replace('"', "'"),
        9 => {
            let deep = format!("{}{}", "[".repeat(32), "]".repeat(32));
            fields.set("metadata", deep);
            fields.to_json()
        }
        10 => {
            let again = *dice.pick(&REQUIRED);
            let raw = fields.get(again).to_owned();
            fields.0.push((again, raw));
            fields.to_json()
        }
        11 => {
            fields.set("transaction_id", r#""t-\ud83e""#);
            fields.to_json()
        }
        _ => {
            fields.set("amount_minor", "NaN");
            fields.to_json()
        }
    };
    text.into_bytes()
}

fn missing_field(dice: &mut Dice, mut fields: Fields) -> String {
    fields.remove(REQUIRED[dice.below(7) as usize]);
    if dice.below(4) == 0 {
        // Missing goes before invalid, whatever the order in the text.
        fields.set("channel", "7");
    }
    fields.to_json()
}

fn invalid_field(dice: &mut Dice, mut fields: Fields) -> String {
    match dice.below(10) {
        0 => fields.set(REQUIRED[dice.below(4) as usize], format!("\"{}\"", "x".repeat(129))),
        // 65 characters of two bytes: too long in bytes, whichever limit is looked at.
        1 => fields.set("merchant_id", format!("\"{}\"", "é".repeat(65))),
        2 => fields.set("channel", format!("\"{}\"", "c".repeat(65))),
        _ => {
            let (name, raw) = *dice.pick(&INVALID_FIELDS);
            fields.set(name, raw);
        }
    }
    fields.to_json()
}
