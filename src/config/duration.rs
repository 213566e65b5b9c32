//! Lengths of time as a configuration writes them: `"100ms"`, `"1m"`, `"24h"`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ACCEPTED: &str =
    "a length of time in whole milliseconds, in quotes, such as \"100ms\", \"30s\", \"1m\" or \"24h\"";

/// A length of time in whole milliseconds, together with the text that was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredDuration {
    text: Cow<'static, str>,
    value: Duration,
}

impl ConfiguredDuration {
    /// A default. The text and the number must say the same; the test of the effective configuration proves it.
    pub(super) const fn of(text: &'static str, milliseconds: u64) -> Self {
        Self { text: Cow::Borrowed(text), value: Duration::from_millis(milliseconds) }
    }

    /// Reads one or more spans such as `1m` or `1h 30m`. `None` when the text is anything else, has control characters
    /// in it, or is finer than a millisecond.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value = humantime::parse_duration(text).ok()?;
        let whole = value.subsec_nanos() % 1_000_000 == 0;
        (whole && !text.chars().any(char::is_control)).then(|| Self { text: Cow::Owned(text.to_owned()), value })
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn value(&self) -> Duration {
        self.value
    }
}

impl Serialize for ConfiguredDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ConfiguredDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ConfiguredDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ACCEPTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                ConfiguredDuration::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for ConfiguredDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A length of time in whole milliseconds: numbers with units ms, s, m, h, d.",
            "examples": ["100ms", "30s", "1m", "24h"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_as_configured() {
        let minute = ConfiguredDuration::parse("60s").map(|duration| (duration.text().to_owned(), duration.value()));
        assert_eq!(minute, Some(("60s".to_owned(), Duration::from_secs(60))));
    }

    #[test]
    fn what_is_no_length_of_whole_milliseconds_is_refused() {
        for text in ["", "1", "-1s", "1 minute and a bit", "100us", "1ns", "1m\n", "0.0001s", "99999999999999999999s"] {
            assert_eq!(ConfiguredDuration::parse(text), None, "{text:?}");
        }
    }
}
