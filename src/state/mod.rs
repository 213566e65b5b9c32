//! The local snapshots of partition state: a cache that shortens the replay of the log.
//!
//! Promises: what [`SnapshotStore::store`] took is on disk when it returns, all deltas or none; [`SnapshotStore::load`]
//! gives exactly the state as of one stored offset, or says that there is none, or that it is corrupt. A crash at any
//! moment leaves each partition at a complete stored snapshot.
//!
//! Needs: a directory of its own on a local file system with working fsync, hard links and `flock`.
//!
//! Must never: hand out a mixture of two snapshots, retry a failed write or fsync, or be asked whether an offset is
//! committed. Everything here can be deleted at the price of a longer replay; nothing here decides anything.
//!
//! ```text
//! <state_dir>/lock                    held by the owning process, names it
//! <state_dir>/store/                  RocksDB: the newest snapshot of each partition
//! <state_dir>/checkpoints/<sequence>/ older states, complete, hard-linked; each can be read by itself
//! <state_dir>/corrupt-<epoch ms>/     a store that could not be read, set aside for a look; safe to delete
//! <state_dir>/replaced-<epoch ms>/    the store that an import took the place of; safe to delete
//! ```
//!
//! Reading order: [`keys`] (what is on disk), [`manifest`] (how it proves itself), [`store`], [`reading`],
//! [`checkpoints`], [`transfer`], [`snapshotter`] (the thread), [`merge`].

pub mod checkpoints;
mod directory;
mod error;
pub mod keys;
mod log_framing;
pub mod manifest;
pub mod merge;
mod options;
pub mod reading;
pub mod snapshotter;
pub mod store;
pub mod transfer;

pub use checkpoints::{CheckpointInfo, NamelessCheckpoint};
pub(crate) use directory::{DirectoryLock, damage_before_opening};
pub use error::StateError;
pub use options::StoreOptions;
pub(crate) use options::log_through_tracing;
pub use reading::{ReadOnlyStore, VerifiedPartition, VerifyReport, verify};
pub use snapshotter::{NotTaken, SnapshotEvent, SnapshotSink, Snapshotter, SnapshotterHandle, SnapshotterSettings};
pub use store::{OpenReport, SetAside, SnapshotStore};

use crate::domain::ids::{Offset, PartitionId};

/// What changed in one partition since its last stored snapshot, as of `through`.
///
/// Applied in this order: `replace`, `removed_prefixes`, `removed`, `puts` (of equal keys the last wins).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDelta {
    pub partition: PartitionId,
    /// The next record to be taken.
    pub through: Offset,
    /// Drop everything that is stored of the partition first. The first snapshot of a partition must say so, since
    /// changes mean nothing without what they change; so must the first after an assignment from elsewhere.
    pub replace: bool,
    /// All entries whose keys start with one of these, such as those of a closed window.
    pub removed_prefixes: Vec<Vec<u8>>,
    pub removed: Vec<Vec<u8>>,
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Opaque to the store; the engine's identity, parameters, watermark and so on.
    pub header: Vec<u8>,
}

/// What a recovery asks of stored snapshots.
pub trait Snapshots: Send + Sync {
    /// The newest stored snapshot of a partition, verified. `None`: there is none.
    ///
    /// # Errors
    /// [`StateError::Corrupt`]; the caller is expected to [`Snapshots::discard`] it.
    fn load(&self, partition: PartitionId) -> Result<Option<StoredSnapshot>, StateError>;

    /// Forgets the snapshot of a partition.
    ///
    /// # Errors
    /// [`StateError::Fatal`].
    fn discard(&self, partition: PartitionId) -> Result<(), StateError>;
}

impl Snapshots for SnapshotStore {
    fn load(&self, partition: PartitionId) -> Result<Option<StoredSnapshot>, StateError> {
        self.load(partition)
    }

    fn discard(&self, partition: PartitionId) -> Result<(), StateError> {
        self.discard(partition)
    }
}

/// The newest stored state of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    pub through: Offset,
    pub header: Vec<u8>,
    /// Ascending by key.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Wall clock, milliseconds since the epoch.
    pub written_at_ms: i64,
}

/// A stored snapshot without its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPartition {
    pub partition: PartitionId,
    pub through: Offset,
    pub header: Vec<u8>,
    /// Wall clock, milliseconds since the epoch.
    pub written_at_ms: i64,
}

/// Of which partitions there is a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredPartitions {
    /// Ascending by partition. Only the manifests were read: loading one may still find it corrupt.
    pub known: Vec<StoredPartition>,
    /// Partitions whose manifest is missing or damaged, and in what way.
    pub corrupt: Vec<(PartitionId, String)>,
}
