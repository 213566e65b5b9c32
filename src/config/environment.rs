//! Environment variables as configuration: `TALLYGUARD__SECTION__KEY` sets `section.key` and wins over the file.
//!
//! A variable is read as a TOML value when it is one of the type that the key needs, else as text. The types come from
//! the same model that the file is read into, so every key has its variable and an unknown one is refused. Lists work
//! too: `TALLYGUARD__RULES` is an inline array of tables, `TALLYGUARD__RULES__0__WINDOW` one key of one rule. In
//! `TALLYGUARD__KAFKA__PROPERTIES__SECURITY_PROTOCOL` the last part names a property: lower-cased, `_` read as `.`.

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::kafka_properties;
use super::problem::{Findings, quoted};
use super::raw::RawConfig;
use super::secret::{MASK, sounds_secret};

/// What every variable of ours begins with.
pub const PREFIX: &str = "TALLYGUARD__";

/// Lays the variables of ours over a parsed file. Others are ignored.
pub(super) fn lay_over(table: &mut Table, environment: &[(String, String)], findings: &mut Findings) {
    let mut ours: Vec<_> = environment.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    if ours.is_empty() {
        return;
    }
    // In order of names, so that a whole list comes before its members.
    ours.sort();
    let schema = inlined_schema();
    for (name, text) in ours {
        match place(&schema, table, name, text) {
            Ok(key) => {
                findings.origins.insert(key, name.clone());
            }
            Err(refused) => {
                let value = if sounds_secret(name) { MASK.to_owned() } else { quoted(text) };
                findings.refuse_because(name, value, refused.reason, refused.accepted);
            }
        }
    }
}

struct Refused {
    reason: &'static str,
    accepted: String,
}

fn unknown(reason: &'static str, schema: &Json) -> Refused {
    let names = schema.get("properties").and_then(Json::as_object);
    let names: Vec<_> = names.into_iter().flatten().map(|(name, _)| name.to_uppercase()).collect();
    Refused { reason, accepted: format!("one of {}", names.join(", ")) }
}

/// Puts one variable where it belongs and returns its dotted key.
fn place(schema: &Json, table: &mut Table, name: &str, text: &str) -> Result<String, Refused> {
    let path = name[PREFIX.len()..].to_lowercase();
    let segments: Vec<&str> = path.split("__").collect();
    match segments.as_slice() {
        ["rules"] => {
            let rules = toml_value(text).filter(Value::is_array);
            table.insert("rules".to_owned(), rules.unwrap_or_else(|| Value::String(text.to_owned())));
            Ok("rules".to_owned())
        }
        ["rules", index, key] => place_in_rule(schema, table, index, key, text),
        ["kafka", "properties", property] => {
            let property = kafka_properties::name_from_environment(property);
            let properties = subtable(table, "kafka").and_then(|kafka| subtable(kafka, "properties"));
            if let Some(properties) = properties {
                properties.insert(property.clone(), Value::String(text.to_owned()));
            }
            Ok(format!("kafka.properties.{property}"))
        }
        [section, key] => {
            let section_schema = property(schema, section).ok_or_else(|| unknown("unknown section", schema))?;
            let key_schema = property(section_schema, key).ok_or_else(|| unknown("unknown key", section_schema))?;
            if key_schema.get("type").is_some_and(|kind| kind == "object") {
                let accepted = format!("{name}__PROPERTY_NAME with the value of one property");
                return Err(Refused { reason: "a table cannot be given as a whole", accepted });
            }
            if let Some(section) = subtable(table, section) {
                section.insert((*key).to_owned(), typed(key_schema, text));
            }
            Ok(format!("{section}.{key}"))
        }
        _ => Err(Refused { reason: "not a section and a key", accepted: format!("{PREFIX}SECTION__KEY") }),
    }
}

fn place_in_rule(schema: &Json, table: &mut Table, index: &str, key: &str, text: &str) -> Result<String, Refused> {
    let rule_schema = property(schema, "rules").and_then(|rules| rules.get("items")).unwrap_or(&Json::Null);
    let key_schema = property(rule_schema, key).ok_or_else(|| unknown("unknown key", rule_schema))?;
    // Without rules the default one is in force, and it is the one that a variable changes.
    let rules = table.entry("rules").or_insert_with(default_rules);
    let Some(rules) = rules.as_array_mut() else { return Ok("rules".to_owned()) };
    let index = index.parse().ok().filter(|index| *index <= rules.len());
    let Some(index): Option<usize> = index else {
        let accepted = format!("a number from 0 to {}", rules.len());
        return Err(Refused { reason: "no such rule", accepted });
    };
    if index == rules.len() {
        rules.push(Value::Table(Table::new()));
    }
    if let Some(rule) = rules[index].as_table_mut() {
        rule.insert(key.to_owned(), typed(key_schema, text));
    }
    Ok(format!("rules[{index}].{key}"))
}

fn default_rules() -> Value {
    // The defaults are strings and integers, which TOML takes.
    Value::try_from(super::defaults::rules()).unwrap_or_else(|_| Value::Array(Vec::new()))
}

/// The table under a name, made if there is none; `None` if something else stands there, which is refused later.
fn subtable<'a>(table: &'a mut Table, name: &str) -> Option<&'a mut Table> {
    table.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
}

fn property<'a>(schema: &'a Json, name: &str) -> Option<&'a Json> {
    schema.get("properties")?.get(name)
}

/// The text as a value of the type that the schema asks for, or else as it is: then the model refuses it, and says so
/// under the key's own name.
fn typed(schema: &Json, text: &str) -> Value {
    let wants = |kind: &str| schema.get("type").is_some_and(|found| found == kind);
    let of_type = |value: &Value| match value {
        Value::Integer(_) => wants("integer"),
        Value::Boolean(_) => wants("boolean"),
        Value::String(_) => !wants("integer") && !wants("boolean"),
        _ => false,
    };
    toml_value(text).filter(of_type).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A text read as one TOML value.
fn toml_value(text: &str) -> Option<Value> {
    let mut table = toml::from_str::<Table>(&format!("value = {text}")).ok()?;
    if table.len() == 1 { table.remove("value") } else { None }
}

/// The schema of the model with every part in place, so that a path can be followed.
fn inlined_schema() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<RawConfig>().to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_over(file: &str, variables: &[(&str, &str)]) -> (Table, Findings) {
        let mut table = toml::from_str(file).expect("test file");
        let variables: Vec<_> =
            variables.iter().map(|(name, text)| (format!("{PREFIX}{name}"), (*text).to_owned())).collect();
        let mut findings = Findings::default();
        lay_over(&mut table, &variables, &mut findings);
        (table, findings)
    }

    #[test]
    fn a_value_takes_the_type_that_its_key_needs() {
        let (table, findings) = laid_over(
            "[stats]\nenabled = true",
            &[
                ("STATS__ENABLED", "false"),
                ("INSTANCE__ID", "7"),
                ("STATS__BATCH_ROWS", "7"),
                ("SOURCE__GROUP", "\"g\""),
            ],
        );
        assert_eq!(findings.problems, []);
        assert_eq!(table["stats"]["enabled"], Value::Boolean(false));
        assert_eq!(table["instance"]["id"], Value::String("7".to_owned()));
        assert_eq!(table["stats"]["batch_rows"], Value::Integer(7));
        assert_eq!(table["source"]["group"], Value::String("g".to_owned()));
    }

    #[test]
    fn a_variable_cannot_smuggle_in_a_second_key() {
        let (table, _) = laid_over("", &[("SOURCE__GROUP", "\"g\"\n[stats]\nenabled = false")]);
        assert_eq!(table["source"]["group"], Value::String("\"g\"\n[stats]\nenabled = false".to_owned()));
        assert!(!table.contains_key("stats"));
    }

    #[test]
    fn rules_are_given_as_a_whole_or_key_by_key() {
        let (table, findings) = laid_over(
            "",
            &[
                ("RULES__1__MAX_TRANSACTIONS", "3"),
                ("RULES", "[{id = 'a', window = '1m'}, {id = 'b'}]"),
                ("RULES__2__ID", "c"),
                ("RULES__9__ID", "d"),
            ],
        );
        assert_eq!(table["rules"][0]["window"], Value::String("1m".to_owned()));
        assert_eq!(table["rules"][1]["max_transactions"], Value::Integer(3));
        assert_eq!(table["rules"][2]["id"], Value::String("c".to_owned()));
        assert_eq!(findings.problems.len(), 1);
        assert_eq!(findings.problems[0].key, "TALLYGUARD__RULES__9__ID");
    }
}
