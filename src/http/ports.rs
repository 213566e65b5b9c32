//! What the pages need of the engine beyond the status board. Each part is set once, when the engine has it; before that,
//! and in modes that never have it, the pages that need it say so.
//!
//! Whatever answers here is asked by anybody who can reach the socket: it must be cheap, bounded in time, and change
//! nothing, but for [`Checkpoints::begin`] and [`Ingest`], which only a holder of the token reaches.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use crate::domain::ids::PartitionId;
use crate::domain::lookup::OpenCount;
use crate::log::{AlertFeeds, Ingest};
use crate::state::CheckpointInfo;
use crate::stats::OrderStatsRow;

/// An answer to be awaited on the thread that asks.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What one running partition knows of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInPartition {
    pub partition: PartitionId,
    /// `None`: it did not answer in time.
    pub counts: Option<Vec<OpenCount>>,
}

/// The partitions that run here, as far as users go.
pub trait Users: Send + Sync {
    /// Asks every running partition, because any producer's partitioner is allowed. Ascending by partition.
    fn look_up(&self, user_id: &str) -> Answering<'_, Vec<UserInPartition>>;
}

/// Why no checkpoint was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBegun {
    /// One is under way.
    UnderWay,
    /// No partition runs here, so there is nothing to store.
    NothingRuns,
    /// The engine did not answer in time.
    NoAnswer,
}

/// The local snapshots.
pub trait Checkpoints: Send + Sync {
    /// The retained ones, oldest first; reads the disk, so it may block.
    ///
    /// # Errors
    /// A text for a person.
    fn list(&self) -> Result<Vec<CheckpointInfo>, String>;

    /// Begins one now.
    fn begin(&self) -> Answering<'_, Result<(), NotBegun>>;
}

/// The order statistics, as they stand in the database.
pub trait Statistics: Send + Sync {
    /// Rows with `from_ms` ≤ window start < `to_ms`, in order, at most `limit`. An error is a text for a person.
    fn order_stats(&self, from_ms: i64, to_ms: i64, limit: usize) -> Answering<'_, Result<Vec<OrderStatsRow>, String>>;
}

impl Statistics for crate::stats::StatisticsQuery {
    fn order_stats(&self, from_ms: i64, to_ms: i64, limit: usize) -> Answering<'_, Result<Vec<OrderStatsRow>, String>> {
        Box::pin(crate::stats::StatisticsQuery::order_stats(self, from_ms, to_ms, limit))
    }
}

/// Shared between the HTTP server, which asks, and the start of the engine, which fills it in.
#[derive(Clone, Default)]
pub struct Ports {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    ingest: OnceLock<Arc<dyn Ingest>>,
    alerts: OnceLock<Arc<dyn AlertFeeds>>,
    users: OnceLock<Arc<dyn Users>>,
    checkpoints: OnceLock<Arc<dyn Checkpoints>>,
    statistics: OnceLock<Arc<dyn Statistics>>,
}

impl Ports {
    /// The log takes transactions over HTTP: embedded mode only.
    pub fn set_ingest(&self, ingest: Arc<dyn Ingest>) {
        let _ = self.inner.ingest.set(ingest);
    }

    #[must_use]
    pub fn ingest(&self) -> Option<&Arc<dyn Ingest>> {
        self.inner.ingest.get()
    }

    /// Committed alerts can be read.
    pub fn set_alerts(&self, alerts: Arc<dyn AlertFeeds>) {
        let _ = self.inner.alerts.set(alerts);
    }

    #[must_use]
    pub fn alerts(&self) -> Option<&Arc<dyn AlertFeeds>> {
        self.inner.alerts.get()
    }

    pub fn set_users(&self, users: Arc<dyn Users>) {
        let _ = self.inner.users.set(users);
    }

    #[must_use]
    pub fn users(&self) -> Option<&Arc<dyn Users>> {
        self.inner.users.get()
    }

    pub fn set_checkpoints(&self, checkpoints: Arc<dyn Checkpoints>) {
        let _ = self.inner.checkpoints.set(checkpoints);
    }

    #[must_use]
    pub fn checkpoints(&self) -> Option<&Arc<dyn Checkpoints>> {
        self.inner.checkpoints.get()
    }

    /// Statistics are on, and where they are is known.
    pub fn set_statistics(&self, statistics: Arc<dyn Statistics>) {
        let _ = self.inner.statistics.set(statistics);
    }

    #[must_use]
    pub fn statistics(&self) -> Option<&Arc<dyn Statistics>> {
        self.inner.statistics.get()
    }
}
