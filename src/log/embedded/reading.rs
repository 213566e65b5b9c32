//! Reading the log's tables, for the process that owns them and for those that only look.

use rocksdb::{ColumnFamily, DB, Direction, IteratorMode};

use super::keys;
use super::record_batch::{self, OwnedRecord};
use crate::domain::ids::{Offset, PartitionId};
use crate::log::embedded::EmbeddedError;
use crate::protocol::output::Destination;

/// A record and where it stands; outputs have one partition, 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    pub partition: PartitionId,
    pub offset: Offset,
    pub record: OwnedRecord,
}

/// One stored value: its first offset, and its bytes.
pub type Batch = (i64, Box<[u8]>);

pub fn family<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily, EmbeddedError> {
    db.cf_handle(name).ok_or_else(|| EmbeddedError::Damaged { detail: format!("there is no table {name}") })
}

pub fn damaged(error: rocksdb::Error) -> EmbeddedError {
    EmbeddedError::Damaged { detail: error.into_string() }
}

/// A range of keys with the same beginning, read in batches.
#[derive(Debug, Clone)]
pub struct Range {
    pub table: &'static str,
    /// Key of the first batch that may hold the wanted offset, its last eight bytes being that offset.
    pub from: Vec<u8>,
}

impl Range {
    #[must_use]
    pub fn of_records(partition: PartitionId, from: Offset) -> Self {
        Self { table: keys::RECORDS, from: keys::records(partition, from).to_vec() }
    }

    #[must_use]
    pub fn of_outputs(destination: Destination, from: i64) -> Self {
        Self { table: keys::OUTPUTS, from: keys::outputs(destination, from).to_vec() }
    }

    fn prefix(&self) -> &[u8] {
        &self.from[..self.from.len() - 8]
    }
}

/// Batches from the one that holds the range's first offset on, until `take` says that it is enough.
pub fn batches(db: &DB, range: &Range, mut take: impl FnMut(Batch) -> bool) -> Result<(), EmbeddedError> {
    let table = family(db, range.table)?;
    let prefix = range.prefix();
    let mut first = range.from.clone();
    // The batch that holds the offset begins at or before it.
    let mut before = db.iterator_cf(table, IteratorMode::From(&range.from, Direction::Reverse));
    if let Some(found) = before.next() {
        let (key, value) = found.map_err(damaged)?;
        if key.starts_with(prefix)
            && let (Some(at), Some(wanted)) = (keys::first_offset(&key), keys::first_offset(&range.from))
            && at + record_batch::count(&value).unwrap_or(0) > wanted
        {
            first = key.into_vec();
        }
    }
    for found in db.iterator_cf(table, IteratorMode::From(&first, Direction::Forward)) {
        let (key, value) = found.map_err(damaged)?;
        let Some(offset) = keys::first_offset(&key).filter(|_| key.starts_with(prefix)) else { break };
        if !take((offset, value)) {
            break;
        }
    }
    Ok(())
}

/// Every record of a range up to `end`, in order.
pub fn records(db: &DB, range: &Range, end: i64) -> Result<Vec<StoredRecord>, EmbeddedError> {
    let wanted = keys::first_offset(&range.from).unwrap_or(0);
    let partition = match range.from.split_first_chunk::<4>() {
        Some((bytes, _)) if range.table == keys::RECORDS => PartitionId(i32::from_be_bytes(*bytes)),
        _ => PartitionId(0),
    };
    let mut found = Vec::new();
    let mut foreign = None;
    batches(db, range, |(first, bytes)| {
        let Some(records) = record_batch::owned(&bytes) else {
            foreign = Some(first);
            return false;
        };
        let numbered = (first..).zip(records).filter(|(offset, _)| (wanted..end).contains(offset));
        found.extend(numbered.map(|(offset, record)| StoredRecord { partition, offset: Offset(offset), record }));
        first < end
    })?;
    match foreign {
        Some(at) => Err(EmbeddedError::Damaged { detail: format!("{} holds no batch at {at}", range.table) }),
        None => Ok(found),
    }
}

/// Where a range ends: behind its last record.
pub fn end(db: &DB, range: &Range, behind_all: &[u8]) -> Result<Option<i64>, EmbeddedError> {
    let table = family(db, range.table)?;
    let mut last = db.iterator_cf(table, IteratorMode::From(behind_all, Direction::Reverse));
    let Some(found) = last.next() else { return Ok(None) };
    let (key, value) = found.map_err(damaged)?;
    if !key.starts_with(range.prefix()) {
        return Ok(None);
    }
    match (keys::first_offset(&key), record_batch::count(&value)) {
        (Some(first), Some(count)) => Ok(Some(first + count)),
        _ => Err(EmbeddedError::Damaged { detail: format!("the last batch of {} cannot be read", range.table) }),
    }
}

/// A number in `meta`, or what holds where there is none.
pub fn number<const N: usize>(db: &DB, key: &[u8]) -> Result<Option<[u8; N]>, EmbeddedError> {
    let Some(bytes) = db.get_cf(family(db, keys::META)?, key).map_err(damaged)? else { return Ok(None) };
    let number = bytes.as_slice().try_into();
    number.map(Some).map_err(|_| EmbeddedError::Damaged { detail: "a number has another length".to_owned() })
}

/// The oldest offset that is kept, and the end.
pub fn bounds(db: &DB, partition: PartitionId) -> Result<(i64, i64), EmbeddedError> {
    let start = number::<8>(db, &keys::start(partition))?.map_or(0, i64::from_be_bytes);
    let behind_all = keys::records(partition, Offset(i64::MAX));
    let end = end(db, &Range::of_records(partition, Offset(start)), &behind_all)?;
    Ok((start, end.unwrap_or(start).max(start)))
}

/// The same of an output topic.
pub fn output_bounds(db: &DB, destination: Destination) -> Result<(i64, i64), EmbeddedError> {
    let start = number::<8>(db, &keys::output_start(destination))?.map_or(0, i64::from_be_bytes);
    let behind_all = keys::outputs(destination, i64::MAX);
    let end = end(db, &Range::of_outputs(destination, start), &behind_all)?;
    Ok((start, end.unwrap_or(start).max(start)))
}

/// A committed offset with its metadata.
pub fn committed(db: &DB, group: &str, partition: PartitionId) -> Result<Option<(Offset, String)>, EmbeddedError> {
    let key = keys::offset(group, partition);
    let Some(bytes) = db.get_cf(family(db, keys::META)?, key).map_err(damaged)? else { return Ok(None) };
    decode_committed(&bytes).map(Some)
}

pub fn decode_committed(bytes: &[u8]) -> Result<(Offset, String), EmbeddedError> {
    let (offset, metadata) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| EmbeddedError::Damaged { detail: "a committed offset is cut short".to_owned() })?;
    let metadata = String::from_utf8_lossy(metadata).into_owned();
    Ok((Offset(i64::from_be_bytes(*offset)), metadata))
}

#[must_use]
pub fn encode_committed(offset: Offset, metadata: &str) -> Vec<u8> {
    [&offset.0.to_be_bytes(), metadata.as_bytes()].concat()
}

/// Every committed offset of every group.
pub fn all_committed(db: &DB) -> Result<Vec<(String, PartitionId, Offset, String)>, EmbeddedError> {
    let mut all = Vec::new();
    let prefix = keys::offsets_prefix();
    for found in db.iterator_cf(family(db, keys::META)?, IteratorMode::From(prefix, Direction::Forward)) {
        let (key, value) = found.map_err(damaged)?;
        if !key.starts_with(prefix) {
            break;
        }
        let Some((group, partition)) = keys::parse_offset(&key) else { continue };
        let (offset, metadata) = decode_committed(&value)?;
        all.push((group, partition, offset, metadata));
    }
    Ok(all)
}
