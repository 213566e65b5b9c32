//! The port to a SQL database: what the writer needs of one, whatever its dialect.
//!
//! An implementation promises that a write is one SQL transaction, that older values change nothing (see `stats`), and
//! that every error is sorted into one of the kinds of [`StoreError`]; the writer decides what follows from it.

use std::collections::BTreeMap;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::statistics::{OrderRow, StatisticsRow};
use crate::domain::time::Watermark;
use crate::stats::{Identity, RuleHistoryEntry};

/// A row and the partition that it comes from.
pub type FromPartition<'a, R> = (PartitionId, &'a R);

/// The tables that take rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    RuleHistory,
    Statistics,
    Orders,
}

/// Rows of one table, sorted by its primary key.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    RuleHistory(&'a [RuleHistoryEntry]),
    Statistics(&'a [FromPartition<'a, StatisticsRow>]),
    Orders(&'a [FromPartition<'a, OrderRow>]),
}

/// One row of `order_stats_progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressRow {
    pub partition: PartitionId,
    pub through: Offset,
    pub watermark: Watermark,
}

/// What kind of failure it was; each has one treatment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The connection is gone. Retried on a new one; an idle connection may be cut at any time, so the first is no news.
    #[error("the connection was lost: {0}")]
    Disconnected(String),
    /// The database does not serve us now, for whatever reason. Retried for ever.
    #[error("{0}")]
    Unavailable(String),
    /// Another transaction was in the way. Retried at once.
    #[error("another transaction was in the way: {0}")]
    Contention(String),
    /// A row is refused for good; the same rows will be refused again. Holds a code and no values.
    #[error("a row was refused: {0}")]
    RowRefused(String),
    #[error("the schema belongs to {0}")]
    IdentityMismatch(Identity),
}

/// A database that can be connected to. Sessions live on one thread: no caller needs the futures to be `Send`.
pub trait StatisticsStore {
    type Session: StatisticsSession;

    /// Opens a session that may write: the schema is there, and it belongs to this log and group.
    async fn connect(&self) -> Result<Self::Session, StoreError>;

    /// How many rows of this table one write may hold; at least 1.
    fn rows_max(&self, table: Table) -> usize;
}

/// An open connection. After an error other than [`StoreError::RowRefused`] and [`StoreError::Contention`], or when a
/// call was cancelled, it must be dropped.
pub trait StatisticsSession {
    /// `order_stats_progress`: the next record to be taken in, by partition.
    async fn progress(&mut self) -> Result<BTreeMap<PartitionId, Offset>, StoreError>;

    /// Writes rows and progress in one SQL transaction: all or nothing.
    async fn write(&mut self, rows: Option<Rows<'_>>, progress: &[ProgressRow]) -> Result<(), StoreError>;

    /// Says good-bye to the server; best effort.
    async fn close(self);
}
