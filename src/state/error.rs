//! What can go wrong in the local state, sorted by what the caller has to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::domain::ids::{Offset, PartitionId};

/// | variant | the caller |
/// | --- | --- |
/// | `Locked` | leaves: another process owns the state directory |
/// | `Corrupt` | discards the partition's snapshot and starts from the log |
/// | `Unreadable` | tells the operator that this folder is not a sound store |
/// | `WithoutBase`, `Backwards` | has a defect: nothing was written |
/// | `Io` | reports it; the store itself is untouched |
/// | `Fatal` | leaves the process; a restart replays from the log, a retry may lose data |
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state directory {} is in use by {holder}", state_dir.display())]
    Locked { state_dir: PathBuf, holder: String },
    #[error("the snapshot of partition {partition} is corrupt: {detail}")]
    Corrupt { partition: PartitionId, detail: String },
    #[error("{} is not a sound snapshot store: {detail}", path.display())]
    Unreadable { path: PathBuf, detail: String },
    #[error(
        "partition {partition}: changes through offset {through} need a stored snapshot to build on, and there is none"
    )]
    WithoutBase { partition: PartitionId, through: Offset },
    #[error("partition {partition}: changes through offset {offered} are older than the stored snapshot at {stored}")]
    Backwards { partition: PartitionId, stored: Offset, offered: Offset },
    #[error("could not {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("could not {action}: {detail}; the process must end, a restart replays from the log")]
    Fatal { action: &'static str, detail: String },
}

impl StateError {
    /// Whether going on in this process could lose or fake durability.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal { .. })
    }

    /// For `map_err` on a file operation.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err` on a RocksDB call that writes: no failed write or fsync is ever tried again.
    pub(super) fn fatal(action: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |error| Self::Fatal { action, detail: error.into_string() }
    }
}
