//! The engine's reader of records against the corpus, and against the recount's reader on mutated records.

use serde_json::Value;
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::Offset;
use tallyguard::domain::record::{Rejection, SourceRecord, Transaction, validate};
use tallyguard::reconcile::validate as recount;

use crate::dice::{Dice, for_seeds};

const SKEW: i64 = 60_000;

fn corpus() -> Vec<Value> {
    serde_json::from_str(include_str!("../fixtures/validation.v1.json")).expect("the corpus is a JSON array")
}

fn value_of(case: &Value) -> Option<Vec<u8>> {
    let Some(hex) = case["value_hex"].as_str() else {
        return case["value"].as_str().map(|text| text.as_bytes().to_vec());
    };
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

fn read(value: Option<&[u8]>, timestamp_ms: Option<i64>) -> Result<Transaction<'_>, Rejection> {
    validate(&SourceRecord { offset: Offset(0), timestamp_ms, key: None, value }, Millis(SKEW))
}

fn field_of(rejection: Rejection) -> Option<&'static str> {
    match rejection {
        Rejection::MissingField(field) | Rejection::InvalidField(field, _) => Some(field.name()),
        Rejection::EventTimeInFuture => Some("event_time"),
        Rejection::NullValue | Rejection::InvalidUtf8 | Rejection::InvalidJson(..) => None,
    }
}

#[test]
fn every_case_of_the_corpus_is_read_as_the_contract_says() {
    let mut wrong = Vec::new();
    for case in corpus() {
        let value = value_of(&case);
        let (outcome, event_time, field) = match read(value.as_deref(), case["timestamp_ms"].as_i64()) {
            Ok(transaction) => ("valid", Some(transaction.event_time.0), None),
            Err(rejection) => (rejection.code(), None, field_of(rejection)),
        };
        let names_the_field = case["field"].is_null() || case["field"].as_str() == field;
        if case["expect"] != outcome || case["event_time"].as_i64() != event_time || !names_the_field {
            wrong.push(format!("{case}: read as {outcome} {event_time:?} {field:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// Pieces that break, or nearly break, a JSON text or a field.
const PIECES: [&str; 46] = [
    "\\ud800",
    "\\udc00",
    "\\ud83d\\ude00",
    "\\u0000",
    "\\u0041",
    "\\u007f",
    "\\u0085",
    "\\n",
    "\\x",
    "\\",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-0",
    "1e3",
    "12.0",
    "1e999",
    "00",
    "-",
    "\u{feff}",
    "\u{85}",
    "\u{7f}",
    "\u{a0}",
    " ",
    "\t",
    "\r\n",
    "\u{b}",
    "\u{0}",
    "é",
    "\u{1f600}",
    "[[]]",
    "{\"user_id\":1}",
    "\"status\":\"x\",",
    "\"user_id\":\"u\",",
    "\"\\u0073tatus\":null,",
    "Z",
    "+23:59",
    ".123456789",
    "0",
    "9",
];

fn mutate(dice: &mut Dice, text: &mut Vec<u8>) {
    let at = dice.below(text.len().max(1)).min(text.len());
    match dice.below(9) {
        0 if !text.is_empty() => text[at] ^= 1 << dice.below(8),
        1 => text.truncate(at),
        2 if !text.is_empty() => drop(text.remove(at)),
        3 => text.insert(at, dice.pick(b"0123456789\"\\{}[],:.eE+-tTzZ \n\x00\x7f\xc2\x85\xff")),
        4 => drop(text.splice(at..at, dice.pick(&PIECES).bytes())),
        5 => {
            let end = at + dice.below(text.len() - at + 1).min(12);
            text.splice(at..end, dice.pick(&PIECES).bytes());
        }
        6 => {
            let end = at + dice.below(text.len() - at + 1).min(40);
            let copy = text[at..end].to_vec();
            let to = dice.below(text.len() + 1);
            text.splice(to..to, copy);
        }
        7 => {
            let depth = dice.pick(&[1, 2, 30, 31, 32, 33]);
            let (open, close) = dice.pick(&[("[", "]"), ("{\"a\":", "}")]);
            let nested = format!("\"x\":{}1{},", open.repeat(depth), close.repeat(depth));
            let to = text.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
            text.splice(to..to, nested.into_bytes());
        }
        _ => {
            // A digit, wherever one stands: dates, amounts and offsets around their limits.
            let digits: Vec<_> = (0..text.len()).filter(|at| text[*at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                text[dice.pick(&digits)] = dice.pick(b"0123456789");
            }
        }
    }
}

fn compare(value: &[u8], timestamp_ms: Option<i64>) -> &'static str {
    let found = read(Some(value), timestamp_ms);
    let expected = recount::validate(Some(value), timestamp_ms, SKEW);
    let shown = String::from_utf8_lossy(value);
    match (&found, &expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found.transaction_id, expected.transaction_id, "{shown}");
            assert_eq!(found.order_id, expected.order_id, "{shown}");
            assert_eq!(found.user_id, expected.user_id, "{shown}");
            assert_eq!(found.merchant_id, expected.merchant_id, "{shown}");
            assert_eq!(found.amount_minor, expected.amount_minor, "{shown}");
            assert_eq!(found.currency, expected.currency.as_bytes(), "{shown}");
            assert_eq!(found.event_time.0, expected.event_time_ms, "{shown}");
            assert_eq!(found.status.as_deref(), expected.status.as_deref(), "{shown}");
            "valid"
        }
        (Err(found), Err(expected)) => {
            assert_eq!(found.code(), expected.code.as_str(), "{shown}: {found} / {expected}");
            if expected.code.as_str() != "invalid_json" {
                assert_eq!(field_of(*found), expected.field, "{shown}: {found} / {expected}");
            }
            found.code()
        }
        _ => panic!("engine {found:?}, recount {expected:?}: {shown}"),
    }
}

#[test]
fn both_readers_agree_on_mutated_records() {
    let seeds: Vec<(Vec<u8>, Option<i64>)> = corpus()
        .iter()
        .filter_map(|case| Some((value_of(case)?, case["timestamp_ms"].as_i64())))
        .chain([(
            br#" { "transaction_id" : "t" , "order_id":"o","user_id":"u","merchant_id":"m","amount_minor":999999999999999,
            "currency":"EUR","event_time":"1999-12-31T23:59:59.999-00:01","channel":"web","status":"paid","x":[1,{"y":[]}]}"#
                .to_vec(),
            None,
        )])
        .collect();
    let verdicts = std::cell::RefCell::new(std::collections::BTreeMap::<&str, u64>::new());
    for_seeds(25_000, |dice| {
        let (original, timestamp_ms) = dice.pick(&seeds);
        for _ in 0..5 {
            let mut value = original.clone();
            for _ in 0..=dice.below(3) {
                mutate(dice, &mut value);
                *verdicts.borrow_mut().entry(compare(&value, timestamp_ms)).or_default() += 1;
            }
        }
    });
    let verdicts = verdicts.into_inner();
    let total: u64 = verdicts.values().sum();
    if std::env::var_os("TALLYGUARD_SEED").is_none() {
        assert!(total >= 200_000, "{total}");
        for verdict in
            ["valid", "invalid_utf8", "invalid_json", "missing_field", "invalid_field", "event_time_in_future"]
        {
            assert!(verdicts.get(verdict).is_some_and(|count| *count >= 500), "{verdict}: {verdicts:?}");
        }
    }
}
