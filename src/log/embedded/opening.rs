//! What the log's folder is when it is opened: its identity, its number of partitions, and how RocksDB is to treat it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rocksdb::{DB, DBCompressionType, DBRecoveryMode, Options, WriteOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys;
use super::reading::{self, damaged, family};
use super::store::EmbeddedError;
use crate::state::log_through_tracing;

const FORMAT_VERSION: u32 = 1;
const STORE: &str = "store";

/// What a log is told apart by: a folder that was made anew has other ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedIdentity {
    pub format: u32,
    pub cluster_id: String,
    pub topic_id: String,
}

/// RocksDB syncs its files and its own folder. That the folder is found again after a power cut is a matter of those above.
pub fn make_folders_durable(dir: &Path) -> Result<(), EmbeddedError> {
    let dir = std::path::absolute(dir).map_err(|error| EmbeddedError::Io(error.to_string()))?;
    for folder in dir.ancestors().take(3) {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Ok(()) => {}
            // Not ours to read, so not made by us either.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => return Err(EmbeddedError::Io(format!("{}: {error}", folder.display()))),
        }
    }
    Ok(())
}

pub fn store_path(dir: &Path) -> PathBuf {
    dir.join(STORE)
}

pub fn read_identity(db: &DB) -> Result<Option<EmbeddedIdentity>, EmbeddedError> {
    let Some(bytes) = db.get_cf(family(db, keys::META)?, keys::IDENTITY).map_err(damaged)? else { return Ok(None) };
    let identity: EmbeddedIdentity = serde_json::from_slice(&bytes)
        .map_err(|error| EmbeddedError::Damaged { detail: format!("its identity cannot be read: {error}") })?;
    if identity.format != FORMAT_VERSION {
        let detail = format!("format {} is not one that this version reads ({FORMAT_VERSION})", identity.format);
        return Err(EmbeddedError::Damaged { detail });
    }
    Ok(Some(identity))
}

pub fn identify(db: &DB) -> Result<EmbeddedIdentity, EmbeddedError> {
    if let Some(identity) = read_identity(db)? {
        return Ok(identity);
    }
    let identity = EmbeddedIdentity {
        format: FORMAT_VERSION,
        cluster_id: format!("embedded-{}", Uuid::new_v4()),
        topic_id: Uuid::new_v4().to_string(),
    };
    let bytes = serde_json::to_vec(&identity).unwrap_or_default();
    put_synced(db, keys::IDENTITY, &bytes)?;
    Ok(identity)
}

/// The number of partitions as of now.
pub fn extend(db: &DB, asked: i32) -> Result<i32, EmbeddedError> {
    let found = reading::number::<4>(db, keys::PARTITIONS)?.map(i32::from_be_bytes);
    match found {
        Some(found) if found > asked => Err(EmbeddedError::FewerPartitions { found, asked }),
        Some(found) if found == asked => Ok(found),
        _ => {
            put_synced(db, keys::PARTITIONS, &asked.to_be_bytes())?;
            Ok(asked)
        }
    }
}

fn put_synced(db: &DB, key: &[u8], value: &[u8]) -> Result<(), EmbeddedError> {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    let written = db.put_cf_opt(family(db, keys::META)?, key, value, &options);
    written.map_err(|error| EmbeddedError::Io(error.into_string()))
}

pub fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // A crash may cut the last write; everything before it counts. Damage elsewhere was found before ([`super::wal`]).
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_bytes_per_sync(1 << 20);
    // The small tables are flushed when this much log waits for them alone.
    options.set_max_total_wal_size(128 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    log_through_tracing(&mut options);
    options
}

pub fn family_options(name: &str) -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(if name == keys::RECORDS { 64 << 20 } else { 8 << 20 });
    options.set_max_write_buffer_number(3);
    options.set_target_file_size_base(64 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
