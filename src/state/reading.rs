//! Reading stored snapshots: every byte that is handed out has been verified, see [`super::manifest`].

use std::path::{Path, PathBuf};

use rocksdb::{DB, DBRawIterator, PrefixRange, ReadOptions};

use crate::domain::ids::{Offset, PartitionId};
use crate::state::error::StateError;
use crate::state::keys::{self, StoredKey};
use crate::state::manifest::{self, Manifest};
use crate::state::{StoredPartition, StoredPartitions, StoredSnapshot, directory, options};

/// A store or retained checkpoint that is only looked at. Nothing in its folder changes.
///
/// Meant for checkpoints, exported folders, and stores that no process has open; under a running owner files may vanish
/// in the middle of reading, which then shows as an error.
pub struct ReadOnlyStore {
    db: DB,
    path: PathBuf,
}

impl ReadOnlyStore {
    /// # Errors
    /// [`StateError::Unreadable`] when this is no store of this format.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let unreadable = |detail| StateError::Unreadable { path: path.to_owned(), detail };
        if !path.join("CURRENT").exists() {
            return Err(unreadable("the file CURRENT is missing".to_owned()));
        }
        if let Some(reason) = directory::damage_before_opening(path)? {
            return Err(unreadable(reason));
        }
        let opened = DB::open_for_read_only(&options::read_only(), path, false);
        let db = opened.map_err(|error| unreadable(error.into_string()))?;
        match db.get(keys::format_key()) {
            Ok(Some(record)) if record == keys::format_record() => Ok(Self { db, path: path.to_owned() }),
            Ok(record) => Err(unreadable(describe_format(record.as_deref()))),
            Err(error) => Err(unreadable(error.into_string())),
        }
    }

    /// # Errors
    /// [`StateError::Corrupt`] when what is stored of the partition is not one complete snapshot.
    pub fn load(&self, partition: PartitionId) -> Result<Option<StoredSnapshot>, StateError> {
        load(&self.db, partition).map_err(|damage| damage.of(partition))
    }

    /// # Errors
    /// [`StateError::Unreadable`] when the store cannot be read.
    pub fn partitions(&self) -> Result<StoredPartitions, StateError> {
        partitions(&self.db).map_err(|detail| StateError::Unreadable { path: self.path.clone(), detail })
    }
}

/// What [`verify`] found in one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    pub path: PathBuf,
    /// Ascending by partition.
    pub sound: Vec<VerifiedPartition>,
    /// What could not be verified, and why.
    pub corrupt: Vec<(PartitionId, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedPartition {
    pub partition: PartitionId,
    pub through: Offset,
    /// Wall clock, milliseconds since the epoch.
    pub written_at_ms: i64,
    pub entries: u64,
    /// Keys and values of the engine, without seals.
    pub bytes: u64,
}

impl VerifyReport {
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.corrupt.is_empty()
    }
}

/// Reads everything in a store or checkpoint folder and checks all checksums, seals and chains.
///
/// # Errors
/// [`StateError::Unreadable`] when the folder as a whole cannot be read. Damaged partitions are in the report.
pub fn verify(path: &Path) -> Result<VerifyReport, StateError> {
    let store = ReadOnlyStore::open(path)?;
    let StoredPartitions { known, corrupt } = store.partitions()?;
    let mut report = VerifyReport { path: path.to_owned(), sound: Vec::new(), corrupt };
    for StoredPartition { partition, .. } in known {
        let (mut entries, mut bytes) = (0, 0);
        let walked = walk(&store.db, partition, |key, value| {
            entries += 1;
            bytes += u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX);
        });
        match walked {
            Ok(Some(Manifest { through, written_at_ms, .. })) => {
                report.sound.push(VerifiedPartition { partition, through, written_at_ms, entries, bytes });
            }
            Ok(None) => report.corrupt.push((partition, "it vanished while it was read".to_owned())),
            Err(damage) => report.corrupt.push((partition, damage.detail)),
        }
    }
    report.corrupt.sort();
    Ok(report)
}

/// Why a partition's snapshot cannot be used.
#[derive(Debug)]
pub(super) struct Damage {
    pub detail: String,
    /// RocksDB itself could not read a block: discarding the partition would leave the block in the way of compactions.
    pub in_storage: bool,
}

impl Damage {
    pub(super) fn of(self, partition: PartitionId) -> StateError {
        StateError::Corrupt { partition, detail: self.detail }
    }

    fn of_content(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), in_storage: false }
    }

    pub(super) fn of_storage(error: rocksdb::Error) -> Self {
        Self { detail: error.into_string(), in_storage: true }
    }
}

pub(super) fn load(db: &DB, partition: PartitionId) -> Result<Option<StoredSnapshot>, Damage> {
    let mut entries = Vec::new();
    let manifest = walk(db, partition, |key, value| entries.push((key.to_vec(), value.to_vec())))?;
    Ok(manifest.map(|Manifest { through, header, written_at_ms, .. }| StoredSnapshot {
        through,
        header,
        entries,
        written_at_ms,
    }))
}

/// The manifest alone; nothing else of the partition is looked at.
pub(super) fn manifest(db: &DB, partition: PartitionId) -> Result<Option<Manifest>, Damage> {
    let Some(sealed) = db.get(keys::manifest_key(partition)).map_err(Damage::of_storage)? else { return Ok(None) };
    Manifest::from_bytes(partition, &sealed).map(Some).ok_or_else(damaged_manifest)
}

fn damaged_manifest() -> Damage {
    Damage::of_content("the seal of the manifest does not hold")
}

/// Reads one partition as of one moment, verifies it, and shows each entry (key and value of the engine). Entries that
/// were shown count only if the answer is a manifest.
fn walk(db: &DB, partition: PartitionId, mut show: impl FnMut(&[u8], &[u8])) -> Result<Option<Manifest>, Damage> {
    let mut options = whole_range();
    options.set_iterate_range(PrefixRange(keys::partition_prefix(partition)));
    let mut items = db.raw_iterator_opt(options);
    items.seek_to_first();
    let Some((key, sealed)) = items.item() else {
        return items.status().map(|()| None).map_err(Damage::of_storage);
    };
    if keys::parse(key) != Some(StoredKey::Manifest(partition)) {
        return Err(Damage::of_content("there is no manifest"));
    }
    let manifest = Manifest::from_bytes(partition, sealed).ok_or_else(damaged_manifest)?;
    items.next();
    let mut links = 0;
    while let Some((key, sealed)) = items.item() {
        match keys::parse(key) {
            Some(StoredKey::Link(..)) => {
                let number = manifest::unseal_link(partition, manifest.first, key, sealed);
                if !number.is_some_and(|number| manifest.links().contains(&number)) {
                    return Err(Damage::of_content("a link is not one of its chain"));
                }
                links += 1;
            }
            Some(StoredKey::Entry(_, entry)) => {
                let value = manifest::unseal(partition, manifest.first, key, sealed)
                    .ok_or_else(|| Damage::of_content("the seal of an entry does not hold"))?;
                show(entry, value);
            }
            _ => return Err(Damage::of_content("there is a key that does not belong here")),
        }
        items.next();
    }
    items.status().map_err(Damage::of_storage)?;
    // Each number has one slot, so as many as expected are the expected ones.
    let expected = manifest.links().end() - manifest.links().start() + 1;
    if links != expected {
        return Err(Damage::of_content(format!("{} stored changes are missing", expected.saturating_sub(links))));
    }
    Ok(Some(manifest))
}

/// All partitions of which anything is stored. The error is RocksDB's.
pub(super) fn partitions(db: &DB) -> Result<StoredPartitions, String> {
    let mut options = whole_range();
    options.set_iterate_range(PrefixRange(keys::partitions_prefix()));
    let mut items = db.raw_iterator_opt(options);
    items.seek_to_first();
    let mut found = StoredPartitions::default();
    while let Some((key, sealed)) = items.item() {
        let Some(partition) = partition_of(key) else {
            return Err("there is a key that does not belong here".to_owned());
        };
        match keys::parse(key) {
            Some(StoredKey::Manifest(_)) => match Manifest::from_bytes(partition, sealed) {
                Some(Manifest { through, header, written_at_ms, .. }) => {
                    found.known.push(StoredPartition { partition, through, header, written_at_ms });
                }
                None => found.corrupt.push((partition, damaged_manifest().detail)),
            },
            _ => found.corrupt.push((partition, "there is no manifest".to_owned())),
        }
        items.seek(keys::end_of(&keys::partition_prefix(partition)));
    }
    end_of_items(&items)?;
    Ok(found)
}

fn end_of_items(items: &DBRawIterator<'_>) -> Result<(), String> {
    items.status().map_err(rocksdb::Error::into_string)
}

fn partition_of(key: &[u8]) -> Option<PartitionId> {
    match keys::parse(key)? {
        StoredKey::Manifest(partition) | StoredKey::Link(partition, _) | StoredKey::Entry(partition, _) => {
            Some(partition)
        }
        StoredKey::Format => None,
    }
}

/// In words, for a format record that is not ours.
pub(super) fn describe_format(record: Option<&[u8]>) -> String {
    match record {
        None => "it has no format record".to_owned(),
        Some(record) => format!(
            "its format record is {}, this version writes {}",
            record.escape_ascii(),
            keys::format_record().escape_ascii()
        ),
    }
}

/// For reading a range once, verified, without pushing everything else out of the cache. Iterators see the store as of
/// their creation.
fn whole_range() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.fill_cache(false);
    options.set_readahead_size(2 << 20);
    options
}
