//! From text and environment to the raw model, naming everything that does not fit.
//!
//! The model stops at the first value that it cannot take. To report all of them together, a refused value is taken out
//! and the rest is read again.

use serde_path_to_error::{Path, Segment};
use toml::{Table, Value};

use super::environment;
use super::kafka_properties;
use super::problem::Findings;
use super::raw::RawConfig;
use super::secret::{MASK, sounds_secret};

/// Reads a file's text with the environment laid over it. What cannot be taken is refused in `findings` and left at its
/// default. `None` when the text is not TOML.
pub(super) fn raw_config(text: &str, variables: &[(String, String)], findings: &mut Findings) -> Option<RawConfig> {
    let mut table: Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            refuse_syntax(text, &error, findings);
            return None;
        }
    };
    kafka_properties::flatten(&mut table, findings);
    environment::lay_over(&mut table, variables, findings);
    loop {
        match serde_path_to_error::deserialize(Value::Table(table.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => {
                let removed = remove(&mut table, error.path());
                refuse_value(error.path(), removed.as_ref(), error.inner().message(), findings);
                removed.as_ref()?;
            }
        }
    }
}

/// The text is not repeated: the line may hold a secret.
fn refuse_syntax(text: &str, error: &toml::de::Error, findings: &mut Findings) {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    let reason = format!("line {line}, column {column} is not TOML: {}", error.message().replace('\n', ", "));
    findings.refuse_absent("the configuration file", &reason, "a TOML document");
}

fn refuse_value(path: &Path, value: Option<&Value>, message: &str, findings: &mut Findings) {
    let key = path.to_string();
    let name = match path.iter().next_back() {
        Some(Segment::Map { key }) => key.as_str(),
        _ => "",
    };
    let shown = if is_secret(&key, name) { MASK.to_owned() } else { value.map(shown).unwrap_or_default() };
    let (said, accepted) = message.rsplit_once(", expected ").unwrap_or((message, "a value of another form"));
    if said.starts_with("unknown field") {
        let accepted = format!("here the keys are {}", accepted.trim_start_matches("one of "));
        findings.refuse_because(&key, shown, "unknown key", accepted);
    } else {
        findings.refuse(&key, shown, in_plain_words(accepted));
    }
}

fn is_secret(key: &str, name: &str) -> bool {
    match key.strip_prefix("kafka.properties.") {
        Some(property) => kafka_properties::is_secret(property) || sounds_secret(property),
        None => sounds_secret(name),
    }
}

/// A value on one line. Tables are named, not shown: anything may be inside.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar => scalar.to_string(),
    }
}

/// What the model expects, without its type names.
fn in_plain_words(expected: &str) -> String {
    match expected {
        "u16" | "u32" => "a whole number, not negative and not huge".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a sequence" => "a list of tables, such as [[rules]]".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

/// Takes the value at a path out of the table.
fn remove(table: &mut Table, path: &Path) -> Option<Value> {
    let mut segments: Vec<&Segment> = path.iter().collect();
    // An enum's variant is no place of its own: the value that names it is.
    while matches!(segments.last(), Some(Segment::Enum { .. } | Segment::Unknown)) {
        segments.pop();
    }
    let (last, parents) = segments.split_last()?;
    let (first, inner) = match parents.split_first() {
        Some((Segment::Map { key }, inner)) => (key, inner),
        Some(_) => return None,
        None => return if let Segment::Map { key } = last { table.remove(key) } else { None },
    };
    let mut place = table.get_mut(first)?;
    for segment in inner {
        place = match segment {
            Segment::Map { key } => place.get_mut(key.as_str())?,
            Segment::Seq { index } => place.get_mut(*index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    match last {
        Segment::Map { key } => place.as_table_mut()?.remove(key),
        Segment::Seq { index } if place.get(*index).is_some() => Some(place.as_array_mut()?.remove(*index)),
        _ => None,
    }
}
