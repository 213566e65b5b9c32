//! The metadata that every commit carries for each partition (format version 1, at most 4,096 bytes of JSON).
//!
//! It holds what a recovery needs to rebuild, from the log alone, every effect that might not have happened yet. The
//! keys are short because all of them travel with every commit; `offsets show` spells them out.

use serde::{Deserialize, Serialize};

use crate::domain::duration::Millis;
use crate::domain::ids::Offset;
use crate::domain::partition::Progress;
use crate::domain::rule::{Parameters, RuleHistory, RuleVersion};
use crate::domain::time::Watermark;
use crate::domain::window::Position;

/// The broker's default `offset.metadata.max.bytes`.
pub const LENGTH_MAX: usize = 4_096;
/// Version of the meaning of records; a change of contract §3 raises it.
pub const SEMANTICS: u32 = 1;
const VERSION: u32 = 1;

/// Which log the offsets belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIdentity {
    #[serde(rename = "c")]
    pub cluster_id: String,
    /// The topic's id: a topic that was deleted and created again has another one.
    #[serde(rename = "t")]
    pub topic_id: String,
    #[serde(rename = "g")]
    pub group: String,
}

/// One rule as it decided the records before the commit.
///
/// Written as an array without names, like its versions: many rules must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RuleFields", into = "RuleFields")]
pub struct DecidedRule {
    pub id: String,
    pub window: Millis,
    pub window_text: String,
    pub versions: Vec<RuleVersion>,
}

type RuleFields = (String, Millis, String, Vec<RuleVersion>);

impl From<RuleFields> for DecidedRule {
    fn from((id, window, window_text, versions): RuleFields) -> Self {
        Self { id, window, window_text, versions }
    }
}

impl From<DecidedRule> for RuleFields {
    fn from(DecidedRule { id, window, window_text, versions }: DecidedRule) -> Self {
        (id, window, window_text, versions)
    }
}

/// The parameters that decided the records before the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedWith {
    #[serde(rename = "s")]
    pub semantics: u32,
    #[serde(rename = "o")]
    pub out_of_orderness: Millis,
    #[serde(rename = "k")]
    pub max_future_skew: Millis,
    #[serde(rename = "q")]
    pub statistics: bool,
    #[serde(rename = "r")]
    pub rules: Vec<DecidedRule>,
}

impl DecidedWith {
    /// The parameters in force at `next`, with the rule versions that a replay from `horizon` needs.
    #[must_use]
    pub fn of(parameters: &Parameters, horizon: Offset) -> Self {
        let rules = parameters.rules.iter().map(|history| decided_rule(history, horizon)).collect();
        Self {
            semantics: SEMANTICS,
            out_of_orderness: parameters.out_of_orderness,
            max_future_skew: parameters.max_future_skew,
            statistics: parameters.statistics,
            rules,
        }
    }
}

fn decided_rule(history: &RuleHistory, horizon: Offset) -> DecidedRule {
    let needed = history.versions.partition_point(|version| version.from <= horizon).saturating_sub(1);
    DecidedRule {
        id: history.rule.id.clone(),
        window: history.rule.window,
        window_text: history.rule.window_text.clone(),
        versions: history.versions[needed..].to_vec(),
    }
}

/// What a commit says of one partition, as of its committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    #[serde(rename = "v")]
    version: u32,
    /// Watermark at the committed offset.
    #[serde(rename = "w")]
    pub watermark: Watermark,
    /// Every window with an end at or before this is closed, and its statistics are in the database.
    #[serde(rename = "f")]
    pub final_through: Watermark,
    /// Where the rule windows that are open began.
    #[serde(rename = "h")]
    pub horizon: Position,
    /// The same for all that the database has not acknowledged.
    #[serde(rename = "g")]
    pub statistics_horizon: Position,
    /// Minutes that start at or before this have lost records, because the log was truncated, and are never written.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub statistics_gap: Option<Watermark>,
    #[serde(rename = "p")]
    pub decided_with: DecidedWith,
    #[serde(rename = "i")]
    pub identity: LogIdentity,
    /// Partitions that the topic had when the group began: a later one is read from its beginning.
    #[serde(rename = "n")]
    pub partitions_at_first_start: i32,
    /// When the commit was made, epoch milliseconds.
    #[serde(rename = "at")]
    pub committed_at_ms: i64,
}

/// The metadata of a committed offset cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("the committed offset carries no metadata")]
    Absent,
    #[error("the commit metadata is of format version {0}, which this version does not read")]
    Version(u32),
    #[error("the commit metadata cannot be read: {0}")]
    Unreadable(String),
}

impl Metadata {
    #[must_use]
    pub fn new(
        progress: &Progress,
        parameters: &Parameters,
        identity: LogIdentity,
        partitions_at_first_start: i32,
        committed_at_ms: i64,
    ) -> Self {
        Self {
            version: VERSION,
            watermark: progress.next.watermark,
            final_through: progress.final_through,
            horizon: progress.horizon,
            statistics_horizon: progress.statistics_horizon,
            statistics_gap: progress.statistics_gap,
            decided_with: DecidedWith::of(parameters, progress.horizon.min(progress.statistics_horizon).offset),
            identity,
            partitions_at_first_start,
            committed_at_ms,
        }
    }

    /// The oldest record that a recovery from this commit may read.
    #[must_use]
    pub fn replay_needs_from(&self) -> Offset {
        self.horizon.offset.min(self.statistics_horizon.offset)
    }

    /// The longest text that any commit with these parameters can need, wherever the partition stands.
    #[must_use]
    pub fn length_max(parameters: &Parameters, identity: LogIdentity) -> usize {
        let place = Position { offset: Offset(i64::MAX), watermark: Watermark::NONE };
        let metadata = Self {
            version: VERSION,
            watermark: Watermark::NONE,
            final_through: Watermark::NONE,
            horizon: place,
            statistics_horizon: place,
            statistics_gap: Some(Watermark::NONE),
            // Every version of the history is needed by a replay that starts at the beginning.
            decided_with: DecidedWith::of(parameters, Offset(i64::MIN)),
            identity,
            partitions_at_first_start: i32::MAX,
            committed_at_ms: i64::MAX,
        };
        metadata.to_text().len()
    }

    #[must_use]
    pub fn to_text(&self) -> String {
        // Serialising plain strings and integers to memory cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// # Errors
    /// [`MetadataError`] when the text is empty, of another version, or not what this version writes.
    pub fn parse(text: &str) -> Result<Self, MetadataError> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
        }
        if text.is_empty() {
            return Err(MetadataError::Absent);
        }
        let unreadable = |error: serde_json::Error| MetadataError::Unreadable(error.to_string());
        let head: Head = serde_json::from_str(text).map_err(unreadable)?;
        if head.v != VERSION {
            return Err(MetadataError::Version(head.v));
        }
        serde_json::from_str(text).map_err(unreadable)
    }
}
