//! The partitioned log, as the engine sees it: records in, one atomic commit of outputs and offsets out.
//!
//! A transport carries out the steps of [`crate::protocol::cycle`] and reports what became of them; it never decides.
//! What it promises: records of a partition come in offset order, each once per [`Log::start`]; a commit that it
//! reports as done without disturbance is durable and atomic.

use std::time::Duration;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::record::SourceRecord;
use crate::protocol::cycle::{Outcome, ReadBack, ReadBackRequest, Step};
use crate::protocol::metadata::{LogIdentity, Metadata, MetadataError};
use crate::protocol::recovery::GroupBeginning;

mod alert_feed;
mod doorbell;
pub mod embedded;
mod ingest;
pub mod kafka;
mod output_identity;
mod partitioner;

pub use alert_feed::{AlertFeed, AlertFeeds, CommittedAlert};
pub use doorbell::Doorbell;
pub use ingest::{Ingest, IngestError, NewRecord, Position};
pub use partitioner::partition_of;

/// Consecutive records of one partition, in the transport's own buffers.
pub trait RecordBatch: Send + 'static {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record at `index`, below [`RecordBatch::len`].
    fn record(&self, index: usize) -> SourceRecord<'_>;

    /// Headers of the record at `index`; names are bytes.
    fn headers(&self, index: usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)>;
}

/// What one call of [`Log::read`] found.
pub enum Read<B> {
    /// Nothing there yet.
    Nothing,
    Records {
        batch: B,
        /// The position behind the last record of the log, when this batch reaches it (behind trailing markers).
        end: Option<Offset>,
    },
    /// The partition cannot be read on at this position: it is to be recovered anew.
    Failed(String),
    /// What stands at this position cannot be read, and trying again does not help.
    Damaged(String),
}

/// What the log tells on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    Assigned(Vec<PartitionId>),
    /// To be handed over; the group waits for [`Log::stop`].
    Revoked(Vec<PartitionId>),
    /// Already somebody else's.
    Lost(Vec<PartitionId>),
    /// A newer process with the same instance id has joined the group.
    Replaced,
    /// The membership was lost and begun anew: every partition is lost, and nothing of it is read any more.
    Rejoined,
    /// The client cannot go on.
    Fatal(String),
    /// Refused by the broker: wrong credentials, missing rights, no such topic.
    Denied(String),
    /// A passing disturbance.
    Trouble(String),
}

/// See the module head.
pub trait Log {
    type Batch: RecordBatch;

    /// Serves the group protocol; never blocks. Must be called often: it keeps the membership alive.
    fn poll(&mut self) -> Vec<LogEvent>;

    /// Begins to read a partition at `from`.
    ///
    /// # Errors
    /// When the transport refuses; the text says why.
    fn start(&mut self, partition: PartitionId, from: Offset) -> Result<(), String>;

    /// Stops reading, and, when `release`, lets the group go on with a rebalance that waits for it.
    fn stop(&mut self, partitions: &[PartitionId], release: bool);

    /// At most `max` records of a started partition; never blocks.
    fn read(&mut self, partition: PartitionId, max: usize) -> Read<Self::Batch>;

    /// Carries out one step of the commit cycle; may block as long as the transaction time-out allows.
    fn execute(&mut self, step: &Step) -> Outcome;

    /// End of the partition as last heard, on Kafka with the records of open transactions, which cannot be read yet; `None`
    /// before the first answer.
    fn end_offset(&self, partition: PartitionId) -> Option<Offset>;

    /// Waits until something may have happened, at most `timeout`.
    fn wait(&self, timeout: Duration);
}

/// What the group and the log know of a partition, read after the predecessor was settled.
#[derive(Debug, Clone)]
pub struct PartitionFacts {
    pub partition: PartitionId,
    pub committed: Option<(Offset, Result<Metadata, MetadataError>)>,
    pub group_began: Option<GroupBeginning>,
    pub log_start: Offset,
    pub log_end: Offset,
    pub identity: LogIdentity,
    pub partitions: i32,
}

/// Reads what a recovery or a settlement needs, on a client of its own; may block.
pub trait RecoveryReader {
    /// Of each partition that answers; the caller asks again for the others.
    ///
    /// # Errors
    /// A text for the log, when none does; the caller tries again.
    fn facts(&mut self, partitions: &[PartitionId]) -> Result<Vec<PartitionFacts>, String>;

    /// # Errors
    /// A text for the log; the caller tries again.
    fn read_back(&mut self, requests: &[ReadBackRequest]) -> Result<Vec<ReadBack>, String>;
}
