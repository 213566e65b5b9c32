//! Retained checkpoints: older states of the whole store, each a RocksDB folder of its own whose table files are hard
//! links. Taking one costs a flush and a few fsyncs, and no copy of the tables.
//!
//! A checkpoint is prepared under a name that starts with a dot and renamed when it is complete and durable, so a folder
//! with a number as its name is always whole. One instance has one sequence of them, over all its partitions.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::DB;
use rocksdb::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::domain::ids::{Offset, PartitionId};
use crate::state::error::StateError;
use crate::state::{StoredPartitions, directory};

/// In each checkpoint folder: what it holds, so that listing need not open it.
pub(super) const DESCRIPTION: &str = "tallyguard-checkpoint.json";
const DESCRIPTION_VERSION: u32 = 1;

/// A retained checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Rises by at least one from checkpoint to checkpoint.
    pub sequence: u64,
    pub path: PathBuf,
    /// Wall clock, milliseconds since the epoch.
    pub created_at_ms: i64,
    /// Size of all files; most of them are shared with other checkpoints and with the store.
    pub bytes: u64,
    /// Ascending by partition.
    pub partitions: Vec<(PartitionId, Offset)>,
}

/// A folder that is named as a checkpoint and whose description cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamelessCheckpoint {
    pub path: PathBuf,
    pub detail: String,
}

#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    sequence: u64,
    created_at_ms: i64,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize, Deserialize)]
struct DescribedPartition {
    partition: PartitionId,
    through: Offset,
}

/// Takes a checkpoint of the store as it is now, which holds `stored`.
pub(super) fn take(
    db: &DB,
    state_dir: &Path,
    sequence: u64,
    stored: &StoredPartitions,
    now_ms: i64,
) -> Result<CheckpointInfo, StateError> {
    const ACTION: &str = "take a checkpoint";
    let parent = directory::checkpoints_path(state_dir);
    let path = parent.join(format!("{sequence:020}"));
    let unfinished = parent.join(format!(".{sequence:020}"));
    if path.exists() {
        let source = std::io::ErrorKind::AlreadyExists.into();
        return Err(StateError::Io { action: "create", path, source });
    }
    fs::create_dir_all(&parent).map_err(StateError::io("create", &parent))?;
    remove_if_there(&unfinished)?;
    Checkpoint::new(db)
        .and_then(|checkpoint| checkpoint.create_checkpoint(&unfinished))
        .map_err(StateError::fatal(ACTION))?;
    let partitions: Vec<_> = stored.known.iter().map(|known| (known.partition, known.through)).collect();
    let described = partitions.iter().map(|&(partition, through)| DescribedPartition { partition, through }).collect();
    let description =
        Description { version: DESCRIPTION_VERSION, sequence, created_at_ms: now_ms, partitions: described };
    let text = serde_json::to_vec_pretty(&description).map_err(|error| StateError::Io {
        action: "describe",
        path: path.clone(),
        source: error.into(),
    })?;
    directory::write_synced(&unfinished.join(DESCRIPTION), &text)?;
    directory::sync_directory(&unfinished)?;
    fs::rename(&unfinished, &path).map_err(StateError::io("rename", &unfinished))?;
    directory::sync_directory(&parent)?;
    let bytes = size_of_files(&path)?;
    Ok(CheckpointInfo { sequence, path, created_at_ms: now_ms, bytes, partitions })
}

/// Oldest first. Folders without a readable description are left out, with a warning.
pub(super) fn list(state_dir: &Path) -> Result<Vec<CheckpointInfo>, StateError> {
    let (found, nameless) = survey(state_dir)?;
    for NamelessCheckpoint { path, detail } in nameless {
        tracing::warn!(path = %path.display(), "checkpoint left out: {detail}");
    }
    Ok(found)
}

/// Oldest first; beside them the folders that do not say what they hold. One that the owner deletes meanwhile is in
/// neither.
pub(super) fn survey(state_dir: &Path) -> Result<(Vec<CheckpointInfo>, Vec<NamelessCheckpoint>), StateError> {
    let (mut found, mut nameless) = (Vec::new(), Vec::new());
    for (sequence, path) in folders(state_dir)? {
        let described = describe(&path).and_then(|description| Ok((description, size_of_files(&path)?)));
        match described {
            Ok((Description { version: DESCRIPTION_VERSION, created_at_ms, partitions, .. }, bytes)) => {
                let partitions = partitions.into_iter().map(|known| (known.partition, known.through)).collect();
                found.push(CheckpointInfo { sequence, path, created_at_ms, bytes, partitions });
            }
            Ok((Description { version, .. }, _)) => {
                let detail = format!("its description is of version {version}, which this program does not know");
                nameless.push(NamelessCheckpoint { path, detail });
            }
            Err(error) if path.exists() => nameless.push(NamelessCheckpoint { path, detail: error.to_string() }),
            Err(_) => {}
        }
    }
    Ok((found, nameless))
}

/// Deletes all but the newest `retain`. Each is renamed first, so that a half-deleted one never looks whole.
pub(super) fn prune(state_dir: &Path, retain: usize) -> Result<(), StateError> {
    let mut folders = folders(state_dir)?;
    folders.truncate(folders.len().saturating_sub(retain));
    for (sequence, path) in folders {
        let doomed = directory::checkpoints_path(state_dir).join(format!(".{sequence:020}"));
        remove_if_there(&doomed)?;
        fs::rename(&path, &doomed).map_err(StateError::io("rename", &path))?;
        remove_if_there(&doomed)?;
    }
    Ok(())
}

/// Sequence number of the newest checkpoint, or 0.
pub(super) fn newest_sequence(state_dir: &Path) -> Result<u64, StateError> {
    Ok(folders(state_dir)?.last().map_or(0, |&(sequence, _)| sequence))
}

/// Deletes what a crash left half made or half deleted.
pub(super) fn remove_unfinished(state_dir: &Path) -> Result<(), StateError> {
    let parent = directory::checkpoints_path(state_dir);
    if !parent.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&parent).map_err(StateError::io("list", &parent))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Complete checkpoints, oldest first.
fn folders(state_dir: &Path) -> Result<Vec<(u64, PathBuf)>, StateError> {
    let parent = directory::checkpoints_path(state_dir);
    if !parent.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&parent).map_err(StateError::io("list", &parent))?;
    let mut folders: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect();
    folders.sort_unstable();
    Ok(folders)
}

fn describe(path: &Path) -> Result<Description, StateError> {
    let file = path.join(DESCRIPTION);
    let text = fs::read(&file).map_err(StateError::io("read", &file))?;
    serde_json::from_slice(&text).map_err(|error| StateError::Io {
        action: "understand",
        path: file,
        source: error.into(),
    })
}

fn size_of_files(path: &Path) -> Result<u64, StateError> {
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(StateError::io("list", path))?.flatten() {
        bytes += entry.metadata().map_err(StateError::io("look at", path))?.len();
    }
    Ok(bytes)
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StateError::Io { action: "delete", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
