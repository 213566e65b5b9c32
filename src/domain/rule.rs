//! What counts as too many: a velocity rule and its versions.

use crate::domain::duration::Millis;

/// How loud an alert is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A rule: more than `max_transactions` of one user within one tumbling window raise one alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub id: String,
    pub version: u32,
    /// Window size, 1 s to 24 h.
    pub window: Millis,
    /// The size as the configuration writes it (`1m`); it stands in the alert's `reason`.
    pub window_text: String,
    pub max_transactions: u32,
    pub severity: Severity,
}
