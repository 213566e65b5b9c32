//! Raw TOML to checked, derived settings.
//!
//! Promise: a [`Settings`] that this module hands out is legal as a whole, and a configuration that is not is refused
//! with every problem that could be found, each with its key, its value and what would be accepted. Secrets leave this
//! module only through [`client::client_config`], [`StatsSettings::connect_options`] and [`Secret::expose`]; no message
//! repeats one. The environment wins over the file, and an unknown key is refused in both.
//!
//! Reading order: `raw` (what can be written), `defaults`, `environment` and `read` (text to raw), `check*` (raw to
//! settings), `settings` (what the program uses).

mod check;
mod check_rules;
mod check_services;
pub mod client;
mod defaults;
mod duration;
mod environment;
mod kafka_properties;
mod names;
mod problem;
mod raw;
mod read;
mod secret;
mod settings;

use std::ffi::OsString;
use std::path::Path;

pub use environment::PREFIX;
pub use problem::{Problem, Refusal};
pub use secret::Secret;
pub use settings::{
    AlertsSettings, CheckpointSettings, DeliverySettings, EmbeddedSettings, HttpSettings, InstanceSettings,
    KafkaSettings, Mode, Settings, SourceKind, SourceSettings, StartAt, StatsSettings, TimeSettings,
};

use problem::Findings;

/// Reads a configuration file and the environment of this process.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load(path: &Path) -> Result<Settings, Refusal> {
    let mut findings = Findings::default();
    let variables = ours(std::env::vars_os(), &mut findings);
    match std::fs::read_to_string(path) {
        Ok(text) => read_and_check(&text, &variables, findings),
        Err(error) => {
            let value = problem::quoted(&path.display().to_string());
            findings.refuse_because("--config", value, &error.to_string(), "the path of a readable TOML file in UTF-8");
            Err(Refusal { problems: findings.problems })
        }
    }
}

/// Reads a configuration from a text and variables, touching neither a configuration file nor the environment; files
/// of secrets that they name are read.
///
/// # Errors
/// Everything that is wrong with them.
pub fn from_text(text: &str, variables: &[(&str, &str)]) -> Result<Settings, Refusal> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    read_and_check(text, &variables, Findings::default())
}

/// JSON Schema of a configuration file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::RawConfig).to_value()
}

fn read_and_check(text: &str, variables: &[(String, String)], mut findings: Findings) -> Result<Settings, Refusal> {
    let settings = read::raw_config(text, variables, &mut findings).map(|raw| check::settings(raw, &mut findings));
    if let Some(settings) = &settings
        && findings.problems.is_empty()
        && settings.source.kind == SourceKind::Kafka
        && !settings.kafka.properties.is_empty()
        && let Err(why) = client::trial(settings)
    {
        findings.refuse_absent("kafka.properties", why.trim(), "values with which a client can be made");
    }
    match settings {
        Some(settings) if findings.problems.is_empty() => Ok(settings),
        _ => Err(Refusal { problems: findings.problems }),
    }
}

/// The variables that belong to us; one that is not Unicode is refused.
fn ours(variables: impl Iterator<Item = (OsString, OsString)>, findings: &mut Findings) -> Vec<(String, String)> {
    let mut ours = Vec::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        match value.into_string() {
            Ok(value) => ours.push((name, value)),
            Err(_) => findings.refuse(&name, "a value that is not Unicode", "a text in UTF-8"),
        }
    }
    ours
}
