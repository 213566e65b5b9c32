//! What is no longer needed goes: whole batches, from the front, never in the middle.
//!
//! Age and size say what may go; what a recovery or an open reconciliation day needs stays, whatever they say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rocksdb::CompactOptions;

use super::keys;
use super::reading::{self, Range};
use super::record_batch;
use super::store::{EmbeddedError, EmbeddedStore};
use crate::domain::ids::{Offset, PartitionId};
use crate::protocol::metadata::Metadata;
use crate::protocol::output::Destination;

const DAY_MS: i64 = 86_400_000;
/// Bytes of dropped records that may stay on disk whatever the size of the rest.
const WASTE_MAX: u64 = 64 << 20;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Records that were appended longer ago may go; zero: none goes for its age.
    pub age: Duration,
    /// Bytes of all records above which the oldest may go; 0: no limit.
    pub bytes: u64,
    /// How long after its end a day may still change: `out_of_orderness` and `max_future_skew` together.
    pub day_stays_open: Duration,
}

/// What one pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionReport {
    pub dropped_records: i64,
    /// Bytes above the limit that could not go, because something needs them.
    pub bytes_over: u64,
}

/// A stored batch, as far as retention goes.
struct Aged {
    first: i64,
    count: i64,
    newest_ms: i64,
    bytes: u64,
}

impl EmbeddedStore {
    /// Drops what may go. `group`: the one that works on the log now, though it may not have committed yet; `now_ms`:
    /// wall clock, epoch ms.
    ///
    /// # Errors
    /// The log is damaged, or cannot be written any more.
    pub fn apply_retention(
        &self,
        group: &str,
        retention: Retention,
        now_ms: i64,
    ) -> Result<RetentionReport, EmbeddedError> {
        let needed_from = self.needed_by_recovery(group)?;
        let kept_for_its_day = open_day(now_ms, retention.day_stays_open);
        let aged_before = (!retention.age.is_zero()).then(|| now_ms.saturating_sub(millis(retention.age)));
        let mut report = RetentionReport::default();
        let mut over = match retention.bytes {
            0 => 0,
            limit => self.size()?.saturating_sub(limit),
        };
        let mut starts = BTreeMap::new();
        let mut oldest: Vec<(PartitionId, Aged)> = Vec::new();
        for partition in (0..self.partitions()).map(PartitionId) {
            let needed = needed_from.get(&partition).copied().flatten();
            let may_go = |batch: &Aged| {
                needed.is_some_and(|needed| batch.first + batch.count <= needed.0) && batch.newest_ms < kept_for_its_day
            };
            let (mut gathered, mut all_aged) = (0, true);
            self.batches(partition, self.bounds(partition).0, |(first, bytes)| {
                let Some(batch) = aged(first, &bytes).filter(&may_go) else { return false };
                // Timestamps may go back: what is aged behind something younger waits for it.
                all_aged &= aged_before.is_some_and(|before| batch.newest_ms < before);
                if all_aged {
                    over = over.saturating_sub(batch.bytes);
                    report.dropped_records += batch.count;
                    starts.insert(partition, Offset(batch.first + batch.count));
                    return true;
                }
                // No more than the size could ask for.
                let is_wanted = gathered < over;
                gathered += batch.bytes;
                oldest.push((partition, batch));
                is_wanted
            })?;
        }
        // What is left of the fronts goes by age over all partitions, until the size is kept.
        oldest.sort_by_key(|(partition, batch)| (batch.newest_ms, *partition, batch.first));
        for (partition, batch) in oldest {
            let next = starts.get(&partition).copied().unwrap_or(self.bounds(partition).0);
            if over == 0 || next.0 != batch.first {
                continue;
            }
            over = over.saturating_sub(batch.bytes);
            report.dropped_records += batch.count;
            starts.insert(partition, Offset(batch.first + batch.count));
        }
        report.bytes_over = over;
        let output_starts = self.aged_outputs(aged_before, kept_for_its_day)?;
        if !starts.is_empty() || !output_starts.is_empty() {
            let starts: Vec<_> = starts.into_iter().collect();
            self.drop_before(&starts, &output_starts).map_err(EmbeddedError::Io)?;
            self.give_space_back()?;
        }
        Ok(report)
    }

    /// Bytes of files that the records which are kept take, about: as they are compressed, and without what was dropped
    /// and lies in the files still.
    fn size(&self) -> Result<u64, EmbeddedError> {
        let table = reading::family(self.db(), keys::RECORDS)?;
        self.db().flush_cf(table).map_err(reading::damaged)?;
        let kept = (0..self.partitions()).map(PartitionId).map(|partition| {
            let (start, end) = self.bounds(partition);
            (keys::records(partition, start), keys::records(partition, end))
        });
        let kept: Vec<_> = kept.collect();
        let ranges: Vec<_> = kept.iter().map(|(from, to)| rocksdb::Range::new(from, to)).collect();
        Ok(self.db().get_approximate_sizes_cf(table, &ranges).iter().sum())
    }

    /// Rewrites the files that hold dropped records beside others, once these are a good part of all: what is written for
    /// that stays in proportion to what is gained.
    fn give_space_back(&self) -> Result<(), EmbeddedError> {
        let table = reading::family(self.db(), keys::RECORDS)?;
        let kept = self.size()?;
        let taken = self.db().property_int_value_cf(table, "rocksdb.live-sst-files-size").map_err(reading::damaged)?;
        if taken.unwrap_or(0) <= kept + kept / 2 + WASTE_MAX {
            return Ok(());
        }
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        for partition in (0..self.partitions()).map(PartitionId) {
            let (from, to) = (keys::records(partition, Offset(0)), keys::records(partition, self.bounds(partition).0));
            self.db().compact_range_cf_opt(table, Some(from), Some(to), &options);
        }
        Ok(())
    }

    /// Before this offset no group's recovery reads; `None`: nothing of the partition may go, because a group has not
    /// committed it yet, or what it committed cannot be understood.
    fn needed_by_recovery(&self, running: &str) -> Result<BTreeMap<PartitionId, Option<Offset>>, EmbeddedError> {
        let mut needed: BTreeMap<PartitionId, Vec<Option<Offset>>> = BTreeMap::new();
        let all = reading::all_committed(self.db())?;
        let mut groups: BTreeSet<&str> = all.iter().map(|(group, ..)| group.as_str()).collect();
        groups.insert(running);
        for (_, partition, offset, metadata) in &all {
            let from = Metadata::parse(metadata).ok().map(|metadata| metadata.replay_needs_from().min(*offset));
            needed.entry(*partition).or_default().push(from);
        }
        let of = needed.into_iter().map(|(partition, of)| {
            let is_complete = of.len() == groups.len() && of.iter().all(Option::is_some);
            (partition, if is_complete { of.into_iter().flatten().min() } else { None })
        });
        Ok(of.collect())
    }

    /// Outputs go by age alone, and with the same regard for an open day.
    fn aged_outputs(
        &self,
        aged_before: Option<i64>,
        kept_for_its_day: i64,
    ) -> Result<Vec<(Destination, i64)>, EmbeddedError> {
        let Some(before) = aged_before.map(|before| before.min(kept_for_its_day)) else { return Ok(Vec::new()) };
        let mut starts = Vec::new();
        for destination in keys::DESTINATIONS {
            let (start, _) = reading::output_bounds(self.db(), destination)?;
            let mut next = start;
            reading::batches(self.db(), &Range::of_outputs(destination, start), |(first, bytes)| {
                match aged(first, &bytes).filter(|batch| batch.newest_ms < before) {
                    Some(batch) => next = batch.first + batch.count,
                    None => return false,
                }
                true
            })?;
            if next > start {
                starts.push((destination, next));
            }
        }
        Ok(starts)
    }
}

fn aged(first: i64, bytes: &[u8]) -> Option<Aged> {
    let spans = record_batch::spans(bytes)?;
    Some(Aged {
        first,
        count: i64::try_from(spans.len()).unwrap_or(i64::MAX),
        newest_ms: spans.iter().map(|span| span.timestamp_ms).max().unwrap_or(i64::MAX),
        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
    })
}

/// Records from this time on belong to a day that is not reconciled yet: today's, yesterday's, and what may still count
/// for it.
fn open_day(now_ms: i64, day_stays_open: Duration) -> i64 {
    let today = now_ms.div_euclid(DAY_MS) * DAY_MS;
    today - DAY_MS - millis(day_stays_open)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
