//! Why a configuration is refused: the key, its value, and what would be accepted.

use std::collections::BTreeMap;
use std::fmt;

/// Longest part of a value that is repeated in a message, in characters.
const SHOWN_MAX: usize = 120;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, such as `rules[0].window`.
    pub key: String,
    /// The value as TOML, masked if it is or may be a secret; `None` when there is none.
    pub value: Option<String>,
    /// Why the value cannot stand, where what is accepted does not say it.
    pub reason: Option<String>,
    /// What would be accepted.
    pub accepted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        f.write_str(" is refused")?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        write!(f, "; accepted: {}", self.accepted)
    }
}

/// A configuration that cannot be used, with everything that was found wrong in it. Never empty.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Refusal {
    pub problems: Vec<Problem>,
}

/// Collects problems and warnings while a configuration is read. One key is refused once, for the first reason.
#[derive(Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
    /// Which environment variable gave the value of a key.
    pub origins: BTreeMap<String, String>,
}

impl Findings {
    /// Refuses a value that may be shown.
    pub fn refuse(&mut self, key: &str, value: impl fmt::Display, accepted: impl Into<String>) {
        self.add(key, Some(value.to_string()), None, accepted.into());
    }

    /// Refuses a value that may be shown, and says why.
    pub fn refuse_because(&mut self, key: &str, value: impl fmt::Display, reason: &str, accepted: impl Into<String>) {
        self.add(key, Some(value.to_string()), Some(reason.to_owned()), accepted.into());
    }

    /// Refuses a key that has no value of its own.
    pub fn refuse_absent(&mut self, key: &str, reason: &str, accepted: impl Into<String>) {
        self.add(key, None, Some(reason.to_owned()), accepted.into());
    }

    fn add(&mut self, key: &str, value: Option<String>, reason: Option<String>, accepted: String) {
        let seen = |problem: &Problem| problem.key == key || problem.key.starts_with(&format!("{key} (from "));
        if self.problems.iter().any(seen) {
            return;
        }
        let key = match self.origins.get(key) {
            Some(variable) => format!("{key} (from {variable})"),
            None => key.to_owned(),
        };
        self.problems.push(Problem { key, value: value.map(|value| shortened(&value)), reason, accepted });
    }

    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

fn shortened(value: &str) -> String {
    match value.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value.to_owned(),
    }
}

/// A text as TOML writes it: quoted, control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
