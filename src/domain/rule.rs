//! What counts as too many: velocity rules, their versions, and the parameters that decide a partition's records.

use crate::domain::duration::Millis;
use crate::domain::ids::Offset;

/// How loud an alert is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
    utoipa::ToSchema,
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

/// A rule as configured: more than `max_transactions` of one user within one tumbling window raise one alert.
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

/// The part of a rule that may change between runs, and from which record on it acts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "VersionFields", into = "VersionFields")]
pub struct RuleVersion {
    /// First record that is decided with this version.
    pub from: Offset,
    pub version: u32,
    pub max_transactions: u32,
    pub severity: Severity,
}

/// As the commit metadata holds it, in which every byte counts.
type VersionFields = (Offset, u32, u32, Severity);

impl From<VersionFields> for RuleVersion {
    fn from((from, version, max_transactions, severity): VersionFields) -> Self {
        Self { from, version, max_transactions, severity }
    }
}

impl From<RuleVersion> for VersionFields {
    fn from(it: RuleVersion) -> Self {
        (it.from, it.version, it.max_transactions, it.severity)
    }
}

/// A rule and every version of it that decided a record which a replay may still have to decide again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHistory {
    pub rule: Rule,
    /// Ascending in `from`; never empty.
    pub versions: Vec<RuleVersion>,
    /// The lowest threshold of any version: a counter that has not passed it cannot breach.
    pub lowest_threshold: u32,
}

impl RuleHistory {
    /// A rule that acts as configured from `from` on.
    #[must_use]
    pub fn starting(rule: Rule, from: Offset) -> Self {
        let version = RuleVersion {
            from,
            version: rule.version,
            max_transactions: rule.max_transactions,
            severity: rule.severity,
        };
        Self::with_versions(rule, vec![version])
    }

    /// A rule with the versions that a commit remembers, ascending in `from`.
    #[must_use]
    pub fn with_versions(rule: Rule, versions: Vec<RuleVersion>) -> Self {
        let lowest_threshold = versions.iter().map(|version| version.max_transactions).min().unwrap_or(0);
        Self { rule, versions, lowest_threshold }
    }

    /// The version in force at a record. Records before the first known version are decided with that one.
    #[must_use]
    pub fn version_at(&self, offset: Offset) -> &RuleVersion {
        let after = self.versions.partition_point(|version| version.from <= offset);
        &self.versions[after.saturating_sub(1)]
    }
}

/// Everything besides the records that decides what a partition's records mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    pub rules: Vec<RuleHistory>,
    pub out_of_orderness: Millis,
    pub max_future_skew: Millis,
    /// Whether order statistics are kept; without them their window does not exist, nor its lateness.
    pub statistics: bool,
    /// Whether the last record of each order is kept too (`stats.orders`).
    pub orders: bool,
}

impl Parameters {
    /// The first record that is decided with the newest version of every rule.
    #[must_use]
    pub fn newest_from(&self) -> Offset {
        let newest = self.rules.iter().filter_map(|history| history.versions.last());
        newest.map(|version| version.from).max().unwrap_or(Offset(0))
    }
}
