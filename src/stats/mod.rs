//! Order statistics in a SQL database, written by one task on a thread of its own.
//!
//! Promises
//! - A flush is acknowledged only after every row of it, and then the progress row of its partition, are committed in
//!   the database. The progress row is written in the SQL transaction of the last rows that it speaks for.
//! - Rows only move forward: values that are older than what is stored, from a process that was replaced or from a
//!   flush that is written again, change nothing. Rows that a reconciliation repaired are never touched.
//! - No state of the database ends the task: outages, wrong passwords and missing rights are reported as events and
//!   retried for ever. A single row that the database refuses for good is set aside and reported; it holds up nothing.
//!   The one exception is a schema that belongs to another log or group: nothing is written, and the task ends.
//!
//! Needs
//! - A flush is handed over only after the log commit that covers it, so that SQL never runs ahead of the log.
//! - Values are absolute, as of the row's `source_offset`. At most one flush per partition is under way: the next one is
//!   submitted after [`StatsEvent::Acknowledged`].
//!
//! Must never block the caller, lose a flush that it accepted, or hold more than one flush per partition.
//!
//! `writer` is the task, `mailbox` what it shares with its callers, and `batch` the way from flushes to SQL transactions.
//! `store` is the port that they need; `session` implements it over `tables` and `schema` for each dialect of `database`,
//! which are `mysql` and `sqlite`. `probe` and `query` read.

mod batch;
mod database;
mod mailbox;
mod mysql;
mod probe;
mod query;
mod schema;
mod session;
mod sqlite;
mod store;
mod tables;
mod target;
mod writer;

use std::fmt;
use std::time::Duration;

use crate::domain::ids::{Offset, PartitionId};

pub use probe::ProgressProbe;
pub use query::{OrderStatsRow, StatisticsQuery};
pub use target::{TARGET_ACCEPTED, Target};
pub use writer::{StatisticsSink, StatisticsWriter, StatsHandle};

/// Longest wait for one answer of the database; a server that hangs is an outage.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How the statistics are written. Not `Debug`: the connection options would print the password.
#[derive(Clone)]
pub struct StatsOptions {
    /// Where to.
    pub connect: Target,
    /// Rows per statement; capped by what one statement may bind.
    pub batch_rows: usize,
    /// Whether the schema is created and kept up to date. Otherwise someone else applies `schemas/mysql` or
    /// `schemas/sqlite`.
    pub migrate: bool,
    /// Whether the table `orders` is written.
    pub orders: bool,
    pub identity: Identity,
    /// See [`STATEMENT_TIMEOUT`].
    pub statement_timeout: Duration,
}

/// Which log, and which group of readers, a schema belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub topic: String,
    /// A topic that was deleted and created again has another one.
    pub topic_id: String,
    pub group: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, topic, topic_id, group } = self;
        write!(f, "cluster {cluster_id}, topic {topic} (id {topic_id}), group {group}")
    }
}

/// One row of `rule_history`: from which record on a version of a rule decides. The first entry of a (rule, version,
/// partition) stays; recording it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleHistoryEntry {
    pub rule_id: String,
    pub version: u32,
    pub partition: PartitionId,
    pub first_offset: Offset,
    /// JSON: the rule as configured.
    pub content: String,
}

/// What the task tells its owner. It is called on the task's thread: it must be quick, and may call the handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsEvent {
    /// Every statistics effect of the partition's records before `through` is in the database (or was set aside).
    Acknowledged { partition: PartitionId, through: Offset },
    /// The database takes writes, at first or again.
    Connected,
    /// The database does not take writes; told once per cause while it lasts. What was submitted is kept and retried.
    Unavailable { error: String },
    /// The schema belongs to another log or group. Nothing was written, nothing will be, and the task has ended.
    IdentityMismatch { found: Identity },
    /// The database refused this row for good; the others of its flush were written. `key` names the table and the
    /// record (partition and offset) but holds no ids, and `error` is a code without values, so both may be logged.
    RowSetAside { key: String, error: String },
    /// The database came back without progress that it had acknowledged: a fail-over lost it. The rows changed from
    /// `found` (`None`: from the beginning) to `acknowledged` may be missing or old.
    GapAfterReconnect { partition: PartitionId, acknowledged: Offset, found: Option<Offset> },
}
