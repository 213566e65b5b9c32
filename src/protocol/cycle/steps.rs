//! What the commit cycle asks of a log, how it is answered, and what the caller must know.

use std::collections::HashSet;
use std::sync::Arc;

use crate::domain::ids::{Offset, PartitionId};
use crate::protocol::output::{OutputId, OutputRecord};

/// One partition's part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    pub partition: PartitionId,
    pub offset: Offset,
    pub metadata: String,
}

/// What is to be read back of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBackRequest {
    pub partition: PartitionId,
    /// Outputs whose source offset is at or behind this are looked for; `None`: none are.
    pub outputs_from: Option<Offset>,
    /// No output that is looked for is older, epoch ms.
    pub since_ms: i64,
}

/// What the log holds of one partition once the writer is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    pub partition: PartitionId,
    /// With the text of its metadata, which says who committed it.
    pub committed: Option<(Offset, String)>,
    pub outputs: HashSet<OutputId>,
}

/// One thing to do against the log. The caller does it, waits for its end, and reports the [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Drop the writer, make a new one, and settle whatever the old one left (`init_transactions`).
    ReplaceWriter,
    Begin,
    Produce(Vec<Arc<OutputRecord>>),
    SendOffsets(Vec<OffsetCommit>),
    Commit,
    /// Commit offsets outside any transaction, as this generation of the group; done when the group has them.
    CommitOffsets(Vec<OffsetCommit>),
    Abort,
    /// After a fencing error: is this process still a member of the group under its own id?
    ProbeMembership,
    /// Read stable committed offsets, and the outputs, back.
    ReadBack(Vec<ReadBackRequest>),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Done, but something on the way leaves room for a delayed duplicate: a retry, a lost connection, a time-out.
    DoneDisturbed(String),
    /// Not done, may be tried again as it is.
    Retriable(String),
    /// The transaction cannot be committed any more; it can be aborted.
    Abortable(String),
    /// A newer writer with the same id exists, or the coordinator gave up on this one.
    Fenced(String),
    /// Anything else: whether it took effect is unknown.
    Doubtful(String),
    Membership {
        replaced: bool,
    },
    ReadBack(Vec<ReadBack>),
}

impl Outcome {
    /// Why it failed, for a person.
    #[must_use]
    pub fn into_text(self) -> String {
        match self {
            Self::DoneDisturbed(why)
            | Self::Retriable(why)
            | Self::Abortable(why)
            | Self::Fenced(why)
            | Self::Doubtful(why) => why,
            Self::Done | Self::Membership { .. } | Self::ReadBack(_) => "an answer to another question".to_owned(),
        }
    }
}

/// What the caller must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Everything before `through` took effect, once.
    Committed {
        partition: PartitionId,
        through: Offset,
        /// Outputs that this commit holds, for the latency metric.
        outputs: Vec<Arc<OutputRecord>>,
    },
    /// A transaction was given up; its effects stay in the buffer.
    Aborted(String),
    WriterReplaced,
    /// The log's committed offset is neither the old nor the new one: somebody else moved it. Recover it anew.
    Moved {
        partition: PartitionId,
        found: Option<Offset>,
        expected: Offset,
        /// What was certainly committed before; `None` when nothing was.
        certain: Option<Offset>,
    },
    /// At most once: outputs whose offsets are committed may not have been written, and never go again.
    GivenUp {
        outputs: usize,
        why: String,
    },
    /// A newer process with the same id has taken over.
    Replaced,
    /// A step failed and will be tried again.
    Trouble(String),
}
