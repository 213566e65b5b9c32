//! The owner of the log's folder: appends, commits, reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rocksdb::{ColumnFamilyDescriptor, DB, WriteBatch, WriteOptions};

use super::appender::{Appender, Encoded, Placed, Placement};
use super::keys;
use super::opening::{
    EmbeddedIdentity, database_options, extend, family_options, identify, make_folders_durable, store_path,
};
use super::reading::{self, Batch, Range, StoredRecord, damaged, family};
use super::record_batch::{BatchWriter, OwnedRecord, Parts};
use super::wal;
use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::log::{Doorbell, Ingest, IngestError, NewRecord, Position, partition_of};
use crate::protocol::cycle::OffsetCommit;
use crate::protocol::output::{Destination, OutputRecord};
use crate::state::{DirectoryLock, StateError, damage_before_opening};

/// Largest record that is taken in, key, value and headers together.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("the embedded log {} is in use by {holder}", dir.display())]
    InUse { dir: PathBuf, holder: String },
    /// The log is the source of truth: nothing is thrown away to get it open.
    #[error("the embedded log is damaged: {detail}")]
    Damaged { detail: String },
    #[error("the embedded log has {found} partitions, and partitions are never taken away (asked for: {asked})")]
    FewerPartitions { found: i32, asked: i32 },
    #[error("there is no embedded log in {}", dir.display())]
    Absent { dir: PathBuf },
    #[error("{0}")]
    Io(String),
}

/// See the module head.
pub struct EmbeddedStore {
    db: DB,
    dir: PathBuf,
    identity: EmbeddedIdentity,
    partitions: i32,
    appender: Appender,
    /// Behind the last durable record of each partition.
    ends: Vec<AtomicI64>,
    starts: Vec<AtomicI64>,
    output_starts: [AtomicI64; 3],
    output_ends: [AtomicI64; 3],
    doorbell: Arc<Doorbell>,
    committed: (Mutex<u64>, Condvar),
    broken: Mutex<Option<String>>,
    /// Declared last: given up after the database is closed.
    lock: DirectoryLock,
}

impl EmbeddedStore {
    /// Opens the log in `dir`, creating what is missing; a larger number of partitions than there are extends it.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub fn open(dir: &Path, partitions: i32) -> Result<Self, EmbeddedError> {
        std::fs::create_dir_all(dir).map_err(|error| EmbeddedError::Io(format!("{}: {error}", dir.display())))?;
        let lock = DirectoryLock::acquire(dir, clock::wall_clock_ms()).map_err(|error| match error {
            StateError::Locked { holder, .. } => EmbeddedError::InUse { dir: dir.to_owned(), holder },
            other => EmbeddedError::Io(other.to_string()),
        })?;
        let path = store_path(dir);
        let unopenable = damage_before_opening(&path).map_err(|error| EmbeddedError::Io(error.to_string()))?;
        let damage = unopenable.map_or_else(|| wal::damage(&path), |detail| Ok(Some(detail)));
        if let Some(detail) = damage.map_err(|error| EmbeddedError::Io(format!("{}: {error}", path.display())))? {
            return Err(EmbeddedError::Damaged { detail });
        }
        let families = [keys::RECORDS, keys::OUTPUTS, keys::META]
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(name)));
        let db = DB::open_cf_descriptors(&database_options(), &path, families).map_err(damaged)?;
        make_folders_durable(dir)?;
        let identity = identify(&db)?;
        let partitions = extend(&db, partitions)?;
        let mut store = Self {
            db,
            dir: dir.to_owned(),
            identity,
            partitions,
            appender: Appender::default(),
            ends: Vec::new(),
            starts: Vec::new(),
            output_starts: [const { AtomicI64::new(0) }; 3],
            output_ends: [const { AtomicI64::new(0) }; 3],
            doorbell: Arc::new(Doorbell::default()),
            committed: (Mutex::new(0), Condvar::new()),
            broken: Mutex::new(None),
            lock,
        };
        store.find_bounds()?;
        Ok(store)
    }

    fn find_bounds(&mut self) -> Result<(), EmbeddedError> {
        let mut ends = BTreeMap::new();
        for partition in (0..self.partitions).map(PartitionId) {
            let (start, end) = reading::bounds(&self.db, partition)?;
            self.starts.push(AtomicI64::new(start));
            self.ends.push(AtomicI64::new(end));
            ends.insert(partition, end);
        }
        for destination in keys::DESTINATIONS {
            let (start, end) = reading::output_bounds(&self.db, destination)?;
            of(&self.output_starts, destination).store(start, Ordering::SeqCst);
            of(&self.output_ends, destination).store(end, Ordering::SeqCst);
        }
        self.appender = Appender::new(ends);
        Ok(())
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn identity(&self) -> &EmbeddedIdentity {
        &self.identity
    }

    #[must_use]
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Rung after every append.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// Why nothing can be written any more.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.lock().clone()
    }

    /// The oldest offset that is kept, and the end of what is durable.
    #[must_use]
    pub fn bounds(&self, partition: PartitionId) -> (Offset, Offset) {
        let at = |of: &[AtomicI64]| {
            let index = usize::try_from(partition.0).ok();
            Offset(index.and_then(|index| of.get(index)).map_or(0, |number| number.load(Ordering::SeqCst)))
        };
        (at(&self.starts), at(&self.ends))
    }

    /// The oldest record of an output topic that is kept.
    #[must_use]
    pub fn output_start(&self, destination: Destination) -> i64 {
        of(&self.output_starts, destination).load(Ordering::SeqCst)
    }

    #[must_use]
    pub fn output_end(&self, destination: Destination) -> i64 {
        of(&self.output_ends, destination).load(Ordering::SeqCst)
    }

    /// The one way to disk: synced, into the folder that everybody else would open, or the log is broken for good.
    fn write(&self, batch: WriteBatch) -> Result<(), String> {
        if let Some(why) = self.broken() {
            return Err(why);
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let written = self.db.write_opt(batch, &options).map_err(rocksdb::Error::into_string);
        let in_place = written.and_then(|()| {
            let gone =
                || format!("its folder {} was deleted, moved or replaced while it was in use", self.dir.display());
            if self.lock.is_in_place() { Ok(()) } else { Err(gone()) }
        });
        in_place.inspect_err(|why| {
            self.broken.lock().get_or_insert_with(|| why.clone());
            self.doorbell.ring();
        })
    }

    /// Appends records to chosen partitions under their own timestamps, in their order within each partition.
    ///
    /// # Errors
    /// See [`IngestError`].
    pub fn append_to(&self, records: &[(PartitionId, OwnedRecord)]) -> Result<Vec<Position>, IngestError> {
        let parts: Vec<_> = records.iter().map(|(partition, record)| (*partition, record.parts())).collect();
        self.append_parts(&parts)
    }

    fn append_parts(&self, records: &[(PartitionId, Parts<'_>)]) -> Result<Vec<Position>, IngestError> {
        let mut encoded = Encoded::new();
        for (partition, parts) in records {
            let of_headers = parts.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
            let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
            let size = length(parts.key) + length(parts.value) + of_headers.sum::<usize>();
            if size > RECORD_BYTES_MAX {
                return Err(IngestError::TooLarge { size, max: RECORD_BYTES_MAX });
            }
            if !(0..self.partitions).contains(&partition.0) {
                let why = format!("there is no partition {partition}; there are {}", self.partitions);
                return Err(IngestError::Failed(why));
            }
            encoded.entry(*partition).or_default().push(parts);
        }
        if encoded.is_empty() {
            return Ok(Vec::new());
        }
        let mut placed = self.appender.append(
            encoded,
            |placements| self.write_records(placements),
            |partition, end| {
                if let Some(of) = usize::try_from(partition.0).ok().and_then(|index| self.ends.get(index)) {
                    of.fetch_max(end, Ordering::SeqCst);
                }
            },
        )?;
        self.doorbell.ring();
        Ok(records.iter().filter_map(|(partition, _)| next_position(&mut placed, *partition)).collect())
    }

    fn write_records(&self, placements: Vec<Placement>) -> Result<(), String> {
        let table = family(&self.db, keys::RECORDS).map_err(|error| error.to_string())?;
        let mut batch = WriteBatch::default();
        for Placement { partition, first, value } in placements {
            batch.put_cf(table, keys::records(partition, first), value);
        }
        self.write(batch)
    }

    /// Writes outputs, offsets and metadata in one step. `group` owns the offsets.
    ///
    /// # Errors
    /// A text; nothing more can be written then, and whether this was is unknown.
    pub fn commit(
        &self,
        group: &str,
        outputs: &[Arc<OutputRecord>],
        commits: &[OffsetCommit],
        now_ms: i64,
    ) -> Result<(), String> {
        let text = |error: EmbeddedError| error.to_string();
        let mut batch = WriteBatch::default();
        let mut ends = Vec::new();
        for destination in keys::DESTINATIONS {
            let mut values = BatchWriter::default();
            for output in outputs.iter().filter(|output| output.destination == destination) {
                values.push(&Parts {
                    timestamp_ms: now_ms,
                    key: output.key.as_deref(),
                    value: output.value.as_deref(),
                    headers: &output.headers,
                });
            }
            if values.count() > 0 {
                let first = self.output_end(destination);
                ends.push((destination, first + i64::from(values.count())));
                let table = family(&self.db, keys::OUTPUTS).map_err(text)?;
                batch.put_cf(table, keys::outputs(destination, first), values.finish());
            }
        }
        let table = family(&self.db, keys::META).map_err(text)?;
        for commit in commits {
            let value = reading::encode_committed(commit.offset, &commit.metadata);
            batch.put_cf(table, keys::offset(group, commit.partition), value);
        }
        self.write(batch)?;
        for (destination, end) in ends {
            of(&self.output_ends, destination).store(end, Ordering::SeqCst);
        }
        *self.committed.0.lock() += 1;
        self.committed.1.notify_all();
        Ok(())
    }

    /// Waits until something was committed since `seen`, at most `timeout`; returns how often there was a commit.
    #[must_use]
    pub fn wait_for_commit(&self, seen: u64, timeout: Duration) -> u64 {
        let mut commits = self.committed.0.lock();
        if *commits == seen {
            self.committed.1.wait_for(&mut commits, timeout);
        }
        *commits
    }

    /// Stored batches of a partition, from the one that holds `from` on.
    ///
    /// # Errors
    /// The log is damaged.
    pub fn batches(
        &self,
        partition: PartitionId,
        from: Offset,
        take: impl FnMut(Batch) -> bool,
    ) -> Result<(), EmbeddedError> {
        reading::batches(&self.db, &Range::of_records(partition, from), take)
    }

    /// Records of a partition from `from` to before `to`, as far as they are durable.
    ///
    /// # Errors
    /// The log is damaged.
    pub fn records(
        &self,
        partition: PartitionId,
        from: Offset,
        to: Offset,
    ) -> Result<Vec<StoredRecord>, EmbeddedError> {
        reading::records(&self.db, &Range::of_records(partition, from), to.min(self.bounds(partition).1).0)
    }

    /// Committed records of an output topic from `from` on, at most about `max`.
    ///
    /// # Errors
    /// The log is damaged.
    pub fn outputs(&self, destination: Destination, from: i64, max: i64) -> Result<Vec<StoredRecord>, EmbeddedError> {
        let end = self.output_end(destination).min(from.saturating_add(max));
        reading::records(&self.db, &Range::of_outputs(destination, from), end)
    }

    /// # Errors
    /// The log is damaged.
    pub fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<(Offset, String)>, EmbeddedError> {
        reading::committed(&self.db, group, partition)
    }

    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    /// Drops what lies before the new starts.
    pub(super) fn drop_before(
        &self,
        starts: &[(PartitionId, Offset)],
        output_starts: &[(Destination, i64)],
    ) -> Result<(), String> {
        let text = |error: EmbeddedError| error.to_string();
        let (records, outputs) =
            (family(&self.db, keys::RECORDS).map_err(text)?, family(&self.db, keys::OUTPUTS).map_err(text)?);
        let meta = family(&self.db, keys::META).map_err(text)?;
        let mut batch = WriteBatch::default();
        for &(partition, start) in starts {
            batch.delete_range_cf(records, keys::records(partition, Offset(0)), keys::records(partition, start));
            batch.put_cf(meta, keys::start(partition), start.0.to_be_bytes());
        }
        for &(destination, start) in output_starts {
            batch.delete_range_cf(outputs, keys::outputs(destination, 0), keys::outputs(destination, start));
            batch.put_cf(meta, keys::output_start(destination), start.to_be_bytes());
        }
        self.write(batch)?;
        for &(partition, start) in starts {
            if let Some(of) = usize::try_from(partition.0).ok().and_then(|index| self.starts.get(index)) {
                of.store(start.0, Ordering::SeqCst);
            }
            // Files that hold nothing else go at once. The last key counts too, so it is one that is dropped.
            let last = keys::records(partition, Offset(start.0 - 1));
            let freed = self.db.delete_file_in_range_cf(records, keys::records(partition, Offset(0)), last);
            freed.map_err(rocksdb::Error::into_string)?;
        }
        for &(destination, start) in output_starts {
            of(&self.output_starts, destination).store(start, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The one of three counters that belongs to a topic.
fn of(counters: &[AtomicI64; 3], destination: Destination) -> &AtomicI64 {
    match destination {
        Destination::Alerts => &counters[0],
        Destination::Late => &counters[1],
        Destination::DeadLetter => &counters[2],
    }
}

/// The records of a partition were placed one behind the other.
fn next_position(placed: &mut Placed, partition: PartitionId) -> Option<Position> {
    let next = placed.get_mut(&partition)?;
    let offset = *next;
    *next = offset.next();
    Some(Position { partition, offset })
}

impl Ingest for EmbeddedStore {
    fn append(&self, records: &[NewRecord<'_>]) -> Result<Vec<Position>, IngestError> {
        let timestamp_ms = clock::wall_clock_ms();
        let placed: Vec<_> = records
            .iter()
            .map(|record| {
                let decides = record.key.or(record.value).unwrap_or_default();
                let parts = Parts { timestamp_ms, key: record.key, value: record.value, headers: record.headers };
                (PartitionId(partition_of(decides, self.partitions)), parts)
            })
            .collect();
        self.append_parts(&placed)
    }
}
