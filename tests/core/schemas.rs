//! The published JSON Schemas say what the code does: what is taken in validates, what goes out validates.

use jsonschema::Validator;
use serde_json::Value;
use tallyguard::domain::ids::Offset;
use tallyguard::domain::partition::Output;

use crate::dice::Dice;
use crate::streams::{borrowed, configuration, engine_parameters, log, new_state};

fn schema(text: &str) -> Validator {
    let schema: Value = serde_json::from_str(text).expect("a schema is JSON");
    jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema")
}

fn corpus() -> Vec<(String, String, Value)> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../fixtures/validation.v1.json")).expect("the corpus");
    let text = |case: &Value, key: &str| case[key].as_str().map(str::to_owned);
    cases
        .iter()
        .filter_map(|case| {
            let value = serde_json::from_str(case["value"].as_str()?).ok()?;
            Some((text(case, "name")?, text(case, "expect")?, value))
        })
        .collect()
}

#[test]
fn every_record_that_is_taken_in_validates_against_the_transaction_schema() {
    let schema = schema(include_str!("../../schemas/transaction.v1.json"));
    let mut taken = 0;
    for (name, expect, value) in corpus() {
        if expect == "valid" || expect == "event_time_in_future" {
            taken += 1;
            assert!(
                schema.is_valid(&value),
                "{name}: {:?}",
                schema.iter_errors(&value).next().map(|it| it.to_string())
            );
        }
    }
    assert!(taken > 80, "{taken}");
}

/// The schema cannot see literals (`12.0`, `1e3`) and bytes; whatever else the code refuses, it refuses too.
#[test]
fn what_lacks_a_field_or_has_one_of_another_type_does_not_validate() {
    let schema = schema(include_str!("../../schemas/transaction.v1.json"));
    let (mut refused, mut passed) = (0, Vec::new());
    for (name, expect, value) in corpus() {
        match expect.as_str() {
            "missing_field" => assert!(!schema.is_valid(&value), "{name}"),
            "invalid_field" if schema.is_valid(&value) => passed.push(name),
            "invalid_field" => refused += 1,
            _ => {}
        }
    }
    assert!(refused > 100 && passed.len() < 40, "{refused} refused; only the code refuses: {passed:#?}");
}

#[test]
fn every_alert_validates_against_the_alert_schema() {
    let schema = schema(include_str!("../../schemas/alert.v1.json"));
    let mut alerts = 0;
    for seed in 0..20 {
        let dice = &mut Dice::new(seed);
        let configured = configuration(dice);
        let mut state = new_state(3, engine_parameters(&configured, Offset(0)), 0);
        let mut outputs = Vec::new();
        for record in log(dice, 3, 400) {
            state.apply(&borrowed(&record), &mut outputs);
        }
        for (_, output) in outputs {
            let Output::Alert { body, .. } = output else { continue };
            alerts += 1;
            let value: Value = serde_json::from_slice(&body).expect("JSON");
            let error = schema.iter_errors(&value).next().map(|error| error.to_string());
            assert!(error.is_none(), "seed {seed}: {error:?}\n{value}");
        }
    }
    assert!(alerts > 50, "{alerts}");
}
