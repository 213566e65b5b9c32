//! The state directory as files: one owner, durable renames, and setting a damaged store aside.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use crate::state::error::StateError;
use crate::state::log_framing;

const LOCK: &str = "lock";
const STORE: &str = "store";
const CHECKPOINTS: &str = "checkpoints";
const SET_ASIDE: &str = "corrupt-";
/// In a store that must not be opened again. It moves with the folder, so setting aside stays one rename.
const CONDEMNED: &str = "CONDEMNED";
/// Set-aside stores that are kept; older ones are deleted, so that a failing disk is not filled as well.
const SET_ASIDE_MAX: usize = 2;

pub(super) fn store_path(state_dir: &Path) -> PathBuf {
    state_dir.join(STORE)
}

pub(super) fn checkpoints_path(state_dir: &Path) -> PathBuf {
    state_dir.join(CHECKPOINTS)
}

/// Ownership of a state directory. The operating system ends it with the process, however the process ends.
pub struct DirectoryLock {
    file: File,
    path: PathBuf,
}

impl DirectoryLock {
    pub fn acquire(state_dir: &Path, now_ms: i64) -> Result<Self, StateError> {
        let path = state_dir.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(StateError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The name is a courtesy: without it the answer is the same.
                let named = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = if named { holder.trim().to_owned() } else { "another process".to_owned() };
                return Err(StateError::Locked { state_dir: state_dir.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(StateError::Io { action: "lock", path, source }),
        }
        let since = chrono::DateTime::from_timestamp_millis(now_ms).unwrap_or_default().to_rfc3339();
        let name = format!("process {} (since {since})\n", process::id());
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(name.as_bytes()));
        written.map_err(StateError::io("write", &path))?;
        Ok(Self { file, path })
    }

    /// Whether the lock is still where it was taken: a folder that was deleted, moved or replaced is not this process's any
    /// more, although everything in it can still be written.
    pub fn is_in_place(&self) -> bool {
        let same = |here: fs::Metadata, held: fs::Metadata| (here.dev(), here.ino()) == (held.dev(), held.ino());
        fs::metadata(&self.path).and_then(|here| Ok(same(here, self.file.metadata()?))).unwrap_or(false)
    }
}

/// Why the store in this folder must not be opened: it was condemned; it has files but no beginning (RocksDB would take
/// it for a new store and delete them); or RocksDB would never come back from opening it.
pub fn damage_before_opening(store: &Path) -> Result<Option<String>, StateError> {
    if let Ok(reason) = fs::read_to_string(store.join(CONDEMNED)) {
        return Ok(Some(reason.trim().to_owned()));
    }
    if !store.exists() {
        return Ok(None);
    }
    let has_beginning = store.join("CURRENT").exists();
    for entry in fs::read_dir(store).map_err(StateError::io("list", store))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_log = name.ends_with(".log") || name.starts_with("MANIFEST-");
        if !has_beginning && (is_log || name.ends_with(".sst")) {
            return Ok(Some("the file CURRENT is missing".to_owned()));
        }
        let would_hang = match is_log.then(|| log_framing::would_hang(&entry.path())) {
            // Whoever owns the folder has just deleted it.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => false,
            Some(looked) => looked.map_err(StateError::io("read", &entry.path()))?,
            None => false,
        };
        if would_hang {
            return Ok(Some(format!("{name} has a record of a type that is never written")));
        }
    }
    Ok(None)
}

/// Sees to it that the next start sets this store aside. Without it a damaged block would end each process again as soon
/// as a compaction meets it.
pub(super) fn condemn(store: &Path, reason: &str) {
    let path = store.join(CONDEMNED);
    if path.exists() {
        return;
    }
    if let Err(error) = fs::write(&path, reason) {
        tracing::error!(path = %path.display(), %error, "could not mark the damaged snapshot store");
    }
}

/// Moves the store out of the way; returns where it is now.
pub(super) fn set_aside(state_dir: &Path, now_ms: i64) -> Result<PathBuf, StateError> {
    let from = store_path(state_dir);
    let mut to = state_dir.join(format!("{SET_ASIDE}{now_ms}"));
    let mut attempt = 0;
    while to.exists() {
        attempt += 1;
        to = state_dir.join(format!("{SET_ASIDE}{now_ms}-{attempt}"));
    }
    fs::rename(&from, &to).map_err(StateError::io("set aside", &from))?;
    sync_directory(state_dir)?;
    delete_older_set_aside(state_dir);
    Ok(to)
}

fn delete_older_set_aside(state_dir: &Path) {
    let Ok(entries) = fs::read_dir(state_dir) else { return };
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(SET_ASIDE))
        .map(|entry| entry.path())
        .collect();
    // Epoch milliseconds have equally many digits for centuries: names sort by age.
    folders.sort_unstable();
    folders.truncate(folders.len().saturating_sub(SET_ASIDE_MAX));
    for folder in folders {
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(path = %folder.display(), %error, "could not delete an old set-aside snapshot store");
        }
    }
}

/// Makes creations, renames and deletions in this directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StateError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StateError::io("sync", path))
}

/// Writes a new file durably, except for its name in the directory.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(StateError::io("write", path))
}
