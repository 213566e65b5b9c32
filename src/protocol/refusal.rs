//! What cannot go on exactly is refused: why, under which short name, and what an operator can do.

use std::fmt;

use crate::domain::ids::Offset;
use crate::protocol::metadata::MetadataError;

/// Going on would lose or repeat data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    OffsetsGone { known_by: &'static str, through: Offset },
    Metadata { committed: Offset, error: MetadataError },
    IdentityChanged { what: &'static str, then: String, now: String },
    LogTruncated { needed: Offset, log_start: Offset },
    LogShorter { committed: Offset, log_end: Offset },
    LogDamaged { detail: String },
    SnapshotAhead { snapshot: Offset, committed: Offset },
    ParametersChanged { what: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffsetsGone { known_by, through } => {
                write!(
                    f,
                    "the group's committed offset is gone, but {known_by} knows the partition up to offset {through}"
                )
            }
            Self::Metadata { committed, error } => write!(f, "committed offset {committed}: {error}"),
            Self::IdentityChanged { what, then, now } => {
                write!(f, "the committed offset belongs to another {what}: committed for {then}, connected to {now}")
            }
            Self::LogTruncated { needed, log_start } => {
                write!(f, "the topic no longer holds records from offset {needed} on; it begins at {log_start}")
            }
            Self::LogShorter { committed, log_end } => {
                write!(f, "the log ends at {log_end}, before the committed offset {committed}: records are gone")
            }
            Self::LogDamaged { detail } => write!(f, "the log cannot be read: {detail}"),
            Self::SnapshotAhead { snapshot, committed } => {
                write!(
                    f,
                    "the local snapshot knows of a commit at offset {snapshot}, ahead of the committed offset {committed}"
                )
            }
            Self::ParametersChanged { what } => {
                write!(f, "the configuration changed what the state depends on: {what}")
            }
        }
    }
}

impl Refusal {
    /// A short name that stays the same between versions, for status and alarms.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::OffsetsGone { .. } => "offsets_gone",
            Self::Metadata { .. } => "metadata_unusable",
            Self::IdentityChanged { .. } => "identity_changed",
            Self::LogTruncated { .. } => "log_truncated",
            Self::LogShorter { .. } => "log_shorter",
            Self::LogDamaged { .. } => "log_damaged",
            Self::SnapshotAhead { .. } => "snapshot_ahead",
            Self::ParametersChanged { .. } => "parameters_changed",
        }
    }

    /// What the operator can do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::OffsetsGone { .. } => {
                "restore the group's offsets; or start anew, which raises alerts again: a new source.group, a new or \
                 emptied instance.state_dir and an empty statistics schema"
            }
            Self::Metadata { .. } => {
                "source.group was used by another program or version: run the version that wrote it, or start anew with \
                 a source.group of its own, a new instance.state_dir and an empty statistics schema"
            }
            Self::IdentityChanged { .. } => {
                "connect to the cluster and topic that the group belongs to; or start anew: a new source.group, a new \
                 instance.state_dir and an empty statistics schema"
            }
            Self::LogDamaged { .. } => {
                "look at the disk, and restore the log's folder from a backup or from a copy of the disk; nothing was lost or \
                 repeated so far. Or accept the loss of what cannot be read, and start anew: an empty embedded.dir, a new \
                 instance.state_dir and an empty statistics schema"
            }
            Self::LogTruncated { .. } | Self::LogShorter { .. } => {
                "restore the topic; or accept the loss and start anew: a new source.group, a new instance.state_dir and \
                 an empty statistics schema"
            }
            Self::SnapshotAhead { .. } => {
                "the group's offsets were set back: restore them, or move instance.state_dir away to replay from the log"
            }
            Self::ParametersChanged { .. } => {
                "put the former values back; or start anew: a new source.group, a new instance.state_dir and an empty \
                 statistics schema"
            }
        }
    }
}
