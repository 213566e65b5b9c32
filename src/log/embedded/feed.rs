//! Committed alerts of the embedded log: from the process that owns it, or from another one that only looks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::reading::StoredRecord;
use super::store::EmbeddedStore;
use super::view::EmbeddedView;
use crate::clock;
use crate::log::{AlertFeed, AlertFeeds, CommittedAlert};
use crate::protocol::output::Destination;

/// Alerts that one call gives at most.
const AT_ONCE: i64 = 1_000;
/// How often another process looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Feeds within the process that owns the log: woken by each commit.
pub struct StoreFeeds(pub Arc<EmbeddedStore>);

struct StoreFeed {
    store: Arc<EmbeddedStore>,
    next: i64,
    seen: u64,
}

impl AlertFeeds for StoreFeeds {
    fn open(&self, last: Option<usize>) -> Result<Box<dyn AlertFeed>, String> {
        let end = self.0.output_end(Destination::Alerts);
        Ok(Box::new(StoreFeed { store: Arc::clone(&self.0), next: first(end, last), seen: 0 }))
    }
}

impl AlertFeed for StoreFeed {
    fn next(&mut self, timeout: Duration) -> Result<Vec<CommittedAlert>, String> {
        let deadline = clock::monotonic_now() + timeout;
        loop {
            // Retention may have overtaken a slow reader.
            self.next = self.next.max(self.store.output_start(Destination::Alerts));
            let found =
                self.store.outputs(Destination::Alerts, self.next, AT_ONCE).map_err(|error| error.to_string())?;
            if !found.is_empty() {
                return Ok(given(found, &mut self.next));
            }
            let left = deadline.saturating_duration_since(clock::monotonic_now());
            if left.is_zero() {
                return Ok(Vec::new());
            }
            self.seen = self.store.wait_for_commit(self.seen, left);
        }
    }
}

/// Feeds of another process: the owner may run or not.
pub struct ViewFeeds(pub PathBuf);

struct ViewFeed {
    dir: PathBuf,
    view: EmbeddedView,
    next: i64,
}

impl AlertFeeds for ViewFeeds {
    fn open(&self, last: Option<usize>) -> Result<Box<dyn AlertFeed>, String> {
        let view = EmbeddedView::open(&self.0).map_err(|error| error.to_string())?;
        let (start, end) = view.output_bounds(Destination::Alerts).map_err(|error| error.to_string())?;
        Ok(Box::new(ViewFeed { dir: self.0.clone(), view, next: first(end, last).max(start) }))
    }
}

impl AlertFeed for ViewFeed {
    fn next(&mut self, timeout: Duration) -> Result<Vec<CommittedAlert>, String> {
        let deadline = clock::monotonic_now() + timeout;
        loop {
            if let Err(error) = self.view.refresh() {
                // The owner has started again, and its files are others now.
                tracing::debug!("{error}; looking anew");
                self.view = EmbeddedView::open(&self.dir).map_err(|error| error.to_string())?;
            }
            let (start, _) = self.view.output_bounds(Destination::Alerts).map_err(|error| error.to_string())?;
            self.next = self.next.max(start);
            let found =
                self.view.outputs(Destination::Alerts, self.next, AT_ONCE).map_err(|error| error.to_string())?;
            let left = deadline.saturating_duration_since(clock::monotonic_now());
            if !found.is_empty() || left.is_zero() {
                return Ok(given(found, &mut self.next));
            }
            std::thread::sleep(LOOK_EVERY.min(left));
        }
    }
}

fn first(end: i64, last: Option<usize>) -> i64 {
    last.map_or(0, |last| end.saturating_sub(i64::try_from(last).unwrap_or(i64::MAX)).max(0))
}

fn given(found: Vec<StoredRecord>, next: &mut i64) -> Vec<CommittedAlert> {
    if let Some(last) = found.last() {
        *next = last.offset.0 + 1;
    }
    let alerts = found.into_iter().map(|StoredRecord { partition, offset, record }| CommittedAlert {
        partition: partition.0,
        offset: offset.0,
        timestamp_ms: record.timestamp_ms,
        value: record.value.unwrap_or_default(),
    });
    alerts.collect()
}
