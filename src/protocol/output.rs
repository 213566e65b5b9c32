//! What a partition has caused and the log does not hold yet.

use std::sync::Arc;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Progress;

/// Which output topic a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    Alerts,
    Late,
    DeadLetter,
}

/// Which of a source record's outputs this is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The alert of the rule with this id.
    Alert(Arc<str>),
    Late,
    DeadLetter,
}

/// Names an output by its cause: deterministic, so that a replay and a read-back name it alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputId {
    pub partition: PartitionId,
    pub offset: Offset,
    pub slot: Slot,
}

/// A record for an output topic, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    pub id: OutputId,
    pub destination: Destination,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Names are bytes: the original of a dead letter may hold names that are not UTF-8.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The source record's own timestamp, for the latency metric.
    pub source_timestamp_ms: Option<i64>,
}

/// The effects of some consecutive records of a partition, and how far the partition had come behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    pub progress: Progress,
    /// In the order of their causes.
    pub outputs: Vec<Arc<OutputRecord>>,
}
