//! A log that takes transactions itself, without a broker between.

use crate::domain::ids::{Offset, PartitionId};

/// A record to be appended. Its key decides on the partition; one without a key goes where its value decides.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(Vec<u8>, Option<Vec<u8>>)],
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub partition: PartitionId,
    pub offset: Offset,
}

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    #[error("a record of {size} bytes is larger than the log takes ({max} bytes)")]
    TooLarge { size: usize, max: usize },
    /// The disk refuses; the process is about to leave.
    #[error("the log cannot be written: {0}")]
    Failed(String),
}

/// See the module head.
pub trait Ingest: Send + Sync {
    /// Appends records, all of them or none, in their order within each partition. Returns when they would survive a
    /// power cut, with the position of each; may block for a disk write.
    ///
    /// # Errors
    /// See [`IngestError`]. After [`IngestError::Failed`] it is unknown whether they were appended.
    fn append(&self, records: &[NewRecord<'_>]) -> Result<Vec<Position>, IngestError>;
}
