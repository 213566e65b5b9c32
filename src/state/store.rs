//! The store of the newest snapshot of each partition: one synced RocksDB write batch per call, all or nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rocksdb::{DB, ErrorKind, WriteBatch, WriteOptions};

use crate::domain::ids::PartitionId;
use crate::state::checkpoints::{self, CheckpointInfo, NamelessCheckpoint};
use crate::state::directory::{self, DirectoryLock};
use crate::state::error::StateError;
use crate::state::keys::{self, LINK_SLOTS};
use crate::state::manifest::{self, Manifest};
use crate::state::options::StoreOptions;
use crate::state::reading::{self, Damage, VerifyReport};
use crate::state::{SnapshotDelta, StoredPartitions, StoredSnapshot};

/// Write batches after which the store is flushed at the latest; [`manifest`] says why there is such a bound.
const BATCHES_PER_FLUSH: u16 = LINK_SLOTS / 4;

/// The local snapshots. May be shared: loads run beside a store, writers take turns.
pub struct SnapshotStore {
    db: DB,
    state_dir: PathBuf,
    writer: Mutex<Writer>,
    /// Declared last: given up after the database is closed.
    _lock: DirectoryLock,
}

struct Writer {
    unflushed_batches: u16,
}

/// How opening went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// There was a store, but it could not be read; the one that was opened is empty.
    pub set_aside: Option<SetAside>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where the damaged store is now.
    pub path: PathBuf,
    pub reason: String,
}

impl SnapshotStore {
    /// Opens the store under `state_dir`, creating what is missing, and takes ownership of the directory. A store that
    /// cannot be read is set aside, since the log rebuilds everything. `now_ms`: wall clock, epoch milliseconds.
    ///
    /// # Errors
    /// [`StateError::Locked`], [`StateError::Io`] or [`StateError::Fatal`].
    pub fn open(state_dir: &Path, options: StoreOptions, now_ms: i64) -> Result<(Self, OpenReport), StateError> {
        fs::create_dir_all(state_dir).map_err(StateError::io("create", state_dir))?;
        let lock = DirectoryLock::acquire(state_dir, now_ms)?;
        checkpoints::remove_unfinished(state_dir)?;
        let path = directory::store_path(state_dir);
        let opened = match directory::damage_before_opening(&path)? {
            Some(reason) => Opened::Damaged(reason),
            None => open_database(&path, options)?,
        };
        let mut report = OpenReport::default();
        let db = match opened {
            Opened::Sound(db) => db,
            Opened::Damaged(reason) => {
                let aside = directory::set_aside(state_dir, now_ms)?;
                tracing::error!(
                    path = %aside.display(), %reason,
                    "the snapshot store cannot be read; it is set aside and rebuilt from the log"
                );
                report.set_aside = Some(SetAside { path: aside, reason });
                match open_database(&path, options)? {
                    Opened::Sound(db) => db,
                    Opened::Damaged(detail) => {
                        return Err(StateError::Fatal { action: "create a new snapshot store", detail });
                    }
                }
            }
        };
        directory::sync_directory(state_dir)?;
        let writer = Mutex::new(Writer { unflushed_batches: 0 });
        Ok((Self { db, state_dir: state_dir.to_owned(), writer, _lock: lock }, report))
    }

    /// Makes all these changes durable in one step and returns the size of the write batch in bytes. Several deltas of
    /// one partition are applied in the order given.
    ///
    /// # Errors
    /// [`StateError::WithoutBase`] and [`StateError::Backwards`]: nothing was written. [`StateError::Fatal`]: anything
    /// that goes wrong in RocksDB; what is on disk is either the state before or the one after.
    pub fn store(&self, deltas: &[SnapshotDelta], now_ms: i64) -> Result<u64, StateError> {
        let mut writer = self.writer.lock();
        let (batch, bytes) = self.batch(deltas, now_ms)?;
        self.write(&mut writer, batch, "store a snapshot")?;
        Ok(bytes)
    }

    /// The newest stored snapshot of a partition, verified. `None`: there is none.
    ///
    /// # Errors
    /// [`StateError::Corrupt`]; the caller is expected to [`SnapshotStore::discard`] it.
    pub fn load(&self, partition: PartitionId) -> Result<Option<StoredSnapshot>, StateError> {
        reading::load(&self.db, partition).map_err(|damage| {
            self.condemn_if_in_storage(&damage);
            damage.of(partition)
        })
    }

    /// Of which partitions there is a snapshot; reads the manifests only.
    ///
    /// # Errors
    /// [`StateError::Unreadable`] when RocksDB cannot read its files.
    pub fn partitions(&self) -> Result<StoredPartitions, StateError> {
        reading::partitions(&self.db).map_err(|detail| {
            let path = directory::store_path(&self.state_dir);
            directory::condemn(&path, &detail);
            StateError::Unreadable { path, detail }
        })
    }

    /// Deletes everything that is stored of a partition, durably.
    ///
    /// # Errors
    /// [`StateError::Fatal`].
    pub fn discard(&self, partition: PartitionId) -> Result<(), StateError> {
        let mut writer = self.writer.lock();
        let mut batch = WriteBatch::default();
        delete_partition(&mut batch, partition);
        self.write(&mut writer, batch, "discard a snapshot")
    }

    /// Keeps the present state as checkpoint `sequence` (hard links) and deletes all but the newest `retain`.
    ///
    /// # Errors
    /// [`StateError::Io`]: no checkpoint was taken, the store is untouched. [`StateError::Fatal`]: RocksDB failed.
    pub fn retain_checkpoint(&self, sequence: u64, retain: usize, now_ms: i64) -> Result<CheckpointInfo, StateError> {
        let mut writer = self.writer.lock();
        let stored = self.partitions()?;
        let taken = checkpoints::take(&self.db, &self.state_dir, sequence, &stored, now_ms);
        let info = taken.inspect_err(|error| self.condemn_if_fatal_damage(error))?;
        writer.unflushed_batches = 0;
        checkpoints::prune(&self.state_dir, retain)?;
        Ok(info)
    }

    /// Retained checkpoints under a state directory, oldest first. Needs no ownership.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn checkpoints(state_dir: &Path) -> Result<Vec<CheckpointInfo>, StateError> {
        checkpoints::list(state_dir)
    }

    /// The same, beside those that do not say what they hold.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn survey_checkpoints(state_dir: &Path) -> Result<(Vec<CheckpointInfo>, Vec<NamelessCheckpoint>), StateError> {
        checkpoints::survey(state_dir)
    }

    /// Reads everything in a checkpoint or store folder and checks it; see [`reading::verify`].
    ///
    /// # Errors
    /// [`StateError::Unreadable`].
    pub fn verify(path: &Path) -> Result<VerifyReport, StateError> {
        reading::verify(path)
    }

    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    fn batch(&self, deltas: &[SnapshotDelta], now_ms: i64) -> Result<(WriteBatch, u64), StateError> {
        let mut batch = WriteBatch::default();
        let mut manifests = BTreeMap::new();
        for delta in deltas {
            let partition = delta.partition;
            let next = match manifests.entry(partition) {
                Entry::Vacant(slot) => {
                    let stored = self.stored_manifest(delta)?;
                    let link = stored.as_ref().map(|stored| stored.last.saturating_add(1));
                    slot.insert(next_manifest(stored.as_ref(), link, delta, now_ms)?)
                }
                Entry::Occupied(slot) => {
                    // The partition's link in this batch stands for all its deltas.
                    let before = slot.into_mut();
                    *before = next_manifest(Some(before), Some(before.last), delta, now_ms)?;
                    before
                }
            };
            apply(&mut batch, next.first, delta);
        }
        for (partition, manifest) in &manifests {
            let link = manifest::sealed_link(*partition, manifest.first, manifest.last);
            batch.put(keys::link_key(*partition, manifest.last), link);
            batch.put(keys::manifest_key(*partition), manifest.to_bytes(*partition));
        }
        let bytes = u64::try_from(batch.size_in_bytes()).unwrap_or(u64::MAX);
        Ok((batch, bytes))
    }

    fn stored_manifest(&self, delta: &SnapshotDelta) -> Result<Option<Manifest>, StateError> {
        match reading::manifest(&self.db, delta.partition) {
            Ok(stored) => Ok(stored),
            // What is being replaced need not be readable.
            Err(damage) if delta.replace && !damage.in_storage => Ok(None),
            Err(damage) => {
                self.condemn_if_in_storage(&damage);
                Err(StateError::Fatal { action: "read what a snapshot builds on", detail: damage.detail })
            }
        }
    }

    fn write(&self, writer: &mut Writer, batch: WriteBatch, action: &'static str) -> Result<(), StateError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let written = self.db.write_opt(batch, &options).map_err(StateError::fatal(action));
        written
            .and_then(|()| self.check_background(action))
            .inspect_err(|error| self.condemn_if_fatal_damage(error))?;
        writer.unflushed_batches += 1;
        if writer.unflushed_batches >= BATCHES_PER_FLUSH {
            let flushed = self.db.flush().map_err(StateError::fatal("flush the snapshot store"));
            flushed.inspect_err(|error| self.condemn_if_fatal_damage(error))?;
            writer.unflushed_batches = 0;
        }
        Ok(())
    }

    /// RocksDB may recover from a failed background write by itself and go on; we do not.
    fn check_background(&self, action: &'static str) -> Result<(), StateError> {
        match self.db.property_int_value(rocksdb::properties::BACKGROUND_ERRORS) {
            Ok(None | Some(0)) => Ok(()),
            Ok(Some(count)) => {
                Err(StateError::Fatal { action, detail: format!("{count} background errors in RocksDB before") })
            }
            Err(error) => Err(StateError::Fatal { action, detail: error.into_string() }),
        }
    }

    fn condemn_if_in_storage(&self, damage: &Damage) {
        if damage.in_storage {
            directory::condemn(&directory::store_path(&self.state_dir), &damage.detail);
        }
    }

    /// A compaction that met a damaged block would meet it again after each restart.
    fn condemn_if_fatal_damage(&self, error: &StateError) {
        if let StateError::Fatal { detail, .. } = error
            && detail.contains("Corruption")
        {
            directory::condemn(&directory::store_path(&self.state_dir), detail);
        }
    }
}

enum Opened {
    Sound(DB),
    Damaged(String),
}

/// The error is about the machine (space, permissions), not about what is stored.
fn open_database(path: &Path, options: StoreOptions) -> Result<Opened, StateError> {
    const ACTION: &str = "open the snapshot store";
    let db = match DB::open(&options.to_rocksdb(), path) {
        Ok(db) => db,
        Err(error) if means_damage(&error) => return Ok(Opened::Damaged(error.into_string())),
        Err(error) => return Err(StateError::fatal(ACTION)(error)),
    };
    match db.get(keys::format_key()) {
        Ok(Some(record)) if record == keys::format_record() => Ok(Opened::Sound(db)),
        Ok(None) if db.latest_sequence_number() == 0 => {
            let mut synced = WriteOptions::default();
            synced.set_sync(true);
            db.put_opt(keys::format_key(), keys::format_record(), &synced).map_err(StateError::fatal(ACTION))?;
            Ok(Opened::Sound(db))
        }
        Ok(record) => Ok(Opened::Damaged(reading::describe_format(record.as_deref()))),
        Err(error) if means_damage(&error) => Ok(Opened::Damaged(error.into_string())),
        Err(error) => Err(StateError::fatal(ACTION)(error)),
    }
}

/// Whether the files are at fault, rather than space, permissions or the device.
fn means_damage(error: &rocksdb::Error) -> bool {
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotSupported | ErrorKind::InvalidArgument | ErrorKind::NotFound => true,
        ErrorKind::IOError => {
            let message = error.as_ref();
            message.contains("No such file or directory") || message.contains("file is too short")
        }
        _ => false,
    }
}

/// The manifest after `delta`. `link` is the number that continues the stored chain.
fn next_manifest(
    stored: Option<&Manifest>,
    link: Option<u64>,
    delta: &SnapshotDelta,
    now_ms: i64,
) -> Result<Manifest, StateError> {
    let SnapshotDelta { partition, through, .. } = *delta;
    let (first, last) = match (stored, link) {
        (_, link) if delta.replace => {
            let first = u64::try_from(now_ms).unwrap_or(0).max(link.unwrap_or(0));
            (first, first)
        }
        (Some(stored), Some(link)) if through >= stored.through => (stored.first, link),
        (Some(stored), _) => {
            return Err(StateError::Backwards { partition, stored: stored.through, offered: through });
        }
        (None, _) => return Err(StateError::WithoutBase { partition, through }),
    };
    Ok(Manifest { first, last, through, written_at_ms: now_ms, header: delta.header.clone() })
}

fn delete_partition(batch: &mut WriteBatch, partition: PartitionId) {
    let prefix = keys::partition_prefix(partition);
    batch.delete_range(&prefix[..], &keys::end_of(&prefix));
}

fn apply(batch: &mut WriteBatch, chain: u64, delta: &SnapshotDelta) {
    let partition = delta.partition;
    let (mut stored_key, mut sealed) = (Vec::new(), Vec::new());
    if delta.replace {
        delete_partition(batch, partition);
    } else {
        for prefix in &delta.removed_prefixes {
            keys::write_entry_key(partition, prefix, &mut stored_key);
            batch.delete_range(&stored_key, &keys::end_of(&stored_key));
        }
        for key in &delta.removed {
            keys::write_entry_key(partition, key, &mut stored_key);
            batch.delete(&stored_key);
        }
    }
    for (key, value) in &delta.puts {
        keys::write_entry_key(partition, key, &mut stored_key);
        manifest::seal(partition, chain, &stored_key, value, &mut sealed);
        batch.put(&stored_key, &sealed);
    }
}
