//! The independent reader of transaction records against the validation corpus: each rule of the input contract, and
//! each way in which a lenient JSON, number or time library would have broken it.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use serde_json::Value;
use tallyguard::reconcile::validate::{Rejection, Transaction, validate};

const MAX_FUTURE_SKEW_MS: i64 = 60_000;

fn corpus() -> Vec<Value> {
    serde_json::from_str(include_str!("fixtures/validation.v1.json")).expect("the corpus is a JSON array")
}

fn value_of(case: &Value) -> Option<Vec<u8>> {
    let Some(hex) = case["value_hex"].as_str() else {
        return case["value"].as_str().map(|text| text.as_bytes().to_vec());
    };
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

fn read(case: &Value) -> Result<Transaction, Rejection> {
    validate(value_of(case).as_deref(), case["timestamp_ms"].as_i64(), MAX_FUTURE_SKEW_MS)
}

#[test]
fn every_case_of_the_corpus_is_read_as_the_contract_says() {
    let mut wrong = Vec::new();
    for case in corpus() {
        let (outcome, event_time, field) = match read(&case) {
            Ok(transaction) => ("valid", Some(transaction.event_time_ms), None),
            Err(rejection) => (rejection.code.as_str(), None, rejection.field),
        };
        let names_the_field = case["field"].is_null() || case["field"].as_str() == field;
        if case["expect"] != outcome || case["event_time"].as_i64() != event_time || !names_the_field {
            wrong.push(format!("{case}: read as {outcome} {event_time:?} {field:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_corpus_is_well_formed_and_touches_every_reason() {
    let corpus = corpus();
    let texts = |member: &str| -> BTreeSet<String> {
        corpus.iter().filter_map(|case| case[member].as_str()).map(str::to_owned).collect()
    };
    assert!(corpus.len() >= 150);
    assert_eq!(texts("name").len(), corpus.len(), "names are unique");
    let outcomes: Vec<String> = texts("expect").into_iter().collect();
    let reasons = [
        "event_time_in_future",
        "invalid_field",
        "invalid_json",
        "invalid_utf8",
        "missing_field",
        "null_value",
        "valid",
    ];
    assert_eq!(outcomes, reasons);
    for case in &corpus {
        assert_eq!(case["expect"] == "valid", case["event_time"].is_i64(), "{}", case["name"]);
        assert!(case["timestamp_ms"].is_i64() || case["timestamp_ms"].is_null(), "{}", case["name"]);
        assert!(case.get("value").is_some() != case.get("value_hex").is_some(), "{}", case["name"]);
    }
}

#[test]
fn ids_and_optional_fields_come_out_unescaped_and_unchanged() {
    let value = r#"{"transaction_id":"t\u002d\"1\"","order_id":" o ","user_id":"\ud83d\ude00","merchant_id":"É\u0301",
        "amount_minor":7,"currency":"EUR","event_time":1795168831500,"channel":null,"status":""}"#;
    let transaction = validate(Some(value.as_bytes()), None, 0).expect("valid");
    assert_eq!(transaction.transaction_id, "t-\"1\"");
    assert_eq!(transaction.order_id, " o ");
    assert_eq!(transaction.user_id, "\u{1f600}");
    assert_eq!(transaction.merchant_id, "É\u{301}");
    assert_eq!((transaction.amount_minor, transaction.event_time_ms), (7, 1_795_168_831_500));
    assert_eq!((transaction.channel, transaction.status), (None, Some(String::new())));
}

#[test]
fn a_message_names_the_field_and_never_repeats_a_value() {
    for field in ["transaction_id", "currency", "event_time", "status"] {
        let mut value = serde_json::json!({
            "transaction_id": "t", "order_id": "o", "user_id": "u", "merchant_id": "m", "amount_minor": 1,
            "currency": "EUR", "event_time": 1_795_168_831_500_i64, "status": "s",
        });
        value[field] = Value::from("secret\u{7}");
        let rejection = validate(Some(value.to_string().as_bytes()), None, 0).expect_err("invalid");
        assert!(rejection.to_string().contains(field), "{rejection}");
        assert!(!rejection.to_string().contains("secret"), "{rejection}");
    }
}
