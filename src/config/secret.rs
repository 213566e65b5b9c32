//! Values that must never be seen: passwords, tokens, private keys.
//!
//! A [`Secret`] prints, serialises and logs as `***`; only [`Secret::expose`] hands the text out, to the client that
//! has to send it. Secrets may be kept in files of their own; a file's last line break is not part of the secret.

use std::fmt;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::stats::Target;

/// What stands in place of a secret wherever it could be read.
pub const MASK: &str = "***";

/// A text that is masked in every output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Hand it to the client that needs it, and to nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a secret from a file, without one trailing line break.
    ///
    /// # Errors
    /// What would be accepted instead, when the file cannot be read, is not UTF-8 or holds nothing.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let mut text = std::fs::read_to_string(path)
            .map_err(|error| format!("the path of a readable text file that holds the secret ({error})"))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() { Err("the path of a file that is not empty".to_owned()) } else { Ok(Self(text)) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// Whether the name of a key suggests that its value must not be shown. Used where a key is not known, so that a
/// misspelt `pasword` does not end in a log.
#[must_use]
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "pasw", "pwd", "secret", "tok", "key", "cred", "auth", "pem", "url", "jaas", "config"]
        .iter()
        .any(|part| name.contains(part))
}

/// A connection URL with its password masked. What cannot be told apart is masked as a whole; the path of a file is no
/// secret.
#[must_use]
pub fn masked_url(url: &str) -> String {
    if Target::is_sqlite_url(url) {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let Some((user_info, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    match user_info.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{MASK}@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_with_separators_in_it_does_not_escape_the_mask() {
        assert_eq!(masked_url("mysql://u:p@s/s:w@db:3306/t"), "mysql://u:***@db:3306/t");
        assert_eq!(masked_url("mysql://u@db/t"), "mysql://u@db/t");
        assert_eq!(masked_url("hunter2"), MASK);
        assert_eq!(masked_url("sqlite:a:b@c/statistics.sqlite"), "sqlite:a:b@c/statistics.sqlite");
        assert_eq!(format!("{:?}", Secret::new("hunter2")), MASK);
    }
}
