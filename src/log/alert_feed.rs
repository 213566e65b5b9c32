//! Committed alerts, as an analyst reads them: from the alert topic itself, and independent of the engine.
//!
//! A feed belongs to no consumer group and commits nothing. It sees an alert only once its transaction is committed.

use std::time::Duration;

/// One record of the alert topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedAlert {
    pub partition: i32,
    pub offset: i64,
    /// When it was detected: the record's timestamp, epoch ms.
    pub timestamp_ms: i64,
    /// The alert itself, JSON of `schemas/alert.v1.json`.
    pub value: Vec<u8>,
}

/// A reading position in the alert topic.
pub trait AlertFeed: Send {
    /// What came since the last call, each partition in its order; waits at most `timeout` for the first. At most a
    /// thousand at a time.
    ///
    /// # Errors
    /// A text for a person; the next call tries again.
    fn next(&mut self, timeout: Duration) -> Result<Vec<CommittedAlert>, String>;
}

/// Opens feeds. Each is used by one thread.
pub trait AlertFeeds: Send + Sync {
    /// A feed that begins with the newest `last` alerts of each partition of the topic; `None`: with the oldest there is.
    ///
    /// # Errors
    /// A text for a person.
    fn open(&self, last: Option<usize>) -> Result<Box<dyn AlertFeed>, String>;
}
