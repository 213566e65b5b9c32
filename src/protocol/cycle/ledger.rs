//! What the commit cycle keeps of one open partition.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::MonotonicMs;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Progress;
use crate::domain::rule::Parameters;
use crate::protocol::metadata::LogIdentity;
use crate::protocol::output::{Effects, OutputId};

/// What `open` needs to know of a partition.
pub struct OpenPartition {
    pub partition: PartitionId,
    pub parameters: Arc<Parameters>,
    pub identity: LogIdentity,
    pub partitions_at_first_start: i32,
    /// The partition as of its committed offset.
    pub committed: Progress,
    /// Epoch ms: no output at or behind the committed offset is older, and the log was read back from there.
    pub committed_at_ms: i64,
    pub written_already: HashSet<OutputId>,
    /// The start, or a rule that has changed with it, must be committed before the first record is read.
    pub owes_first_commit: bool,
    /// The group has no offset of it.
    pub never_committed: bool,
}

/// What the buffer holds of one partition.
pub(super) struct Ledger {
    pub(super) parameters: Arc<Parameters>,
    pub(super) identity: LogIdentity,
    pub(super) partitions_at_first_start: i32,
    pub(super) committed: Progress,
    pub(super) committed_tick: MonotonicMs,
    /// Decided by nobody yet, oldest first. The head may be shared with the running transaction.
    pub(super) queue: VecDeque<Effects>,
    /// Outputs that the log held already when the partition was recovered or settled.
    pub(super) written_already: HashSet<OutputId>,
    /// The last record of which one was found, and since when they may be there (epoch ms).
    pub(super) found_through: Option<(Offset, i64)>,
    /// Where the log's offset stands although outputs before it are missing, while they are on their way again.
    pub(super) torn_at: Option<Offset>,
    /// The start itself must be committed before the first record is read.
    pub(super) owes_first_commit: bool,
    pub(super) never_committed: bool,
}

impl Ledger {
    /// What a commit of this offset says of its time, for whoever reads outputs at or behind it back: those that were found
    /// ahead are older than the commit itself.
    pub(super) fn outputs_since(&self, offset: Offset, wall_ms: i64) -> i64 {
        match self.found_through {
            Some((last, since_ms)) if offset <= last => since_ms.min(wall_ms),
            _ => wall_ms,
        }
    }
}
