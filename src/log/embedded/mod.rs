//! The log without a broker: partitions, output topics and committed offsets in one RocksDB, for one process.
//!
//! Promises: an append is acknowledged only when it would survive a power cut; a commit is one synced write batch of
//! outputs, offsets and metadata, whole or absent; offsets of a partition are dense, and what is read is durable. One
//! process owns the folder; others may look at it through [`EmbeddedView`].
//!
//! Must never: write without syncing, go on after a failed write, or drop a record that a recovery or an open
//! reconciliation day needs.

mod appender;
mod feed;
mod keys;
mod opening;
mod reading;
mod record_batch;
mod retention;
mod store;
mod transport;
mod view;
mod wal;

pub use feed::{StoreFeeds, ViewFeeds};
pub use reading::StoredRecord;
pub use record_batch::OwnedRecord;
pub use retention::{Retention, RetentionReport};
pub use store::{EmbeddedError, EmbeddedStore};
pub use transport::{EmbeddedLog, EmbeddedReader};
pub use view::EmbeddedView;
