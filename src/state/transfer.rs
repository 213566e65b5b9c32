//! Checkpoints that leave a state directory, and come into another one: a verified copy, whole or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::state::checkpoints::{DESCRIPTION, remove_if_there};
use crate::state::directory::{self, DirectoryLock};
use crate::state::error::StateError;
use crate::state::reading::{VerifyReport, verify};

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub report: VerifyReport,
    /// Where the store is now that was there before.
    pub replaced: Option<PathBuf>,
}

/// Copies a checkpoint to `to`, which must not exist, and verifies the copy. Nothing is at `to` when the report is not
/// sound.
///
/// # Errors
/// [`StateError::Io`], also when a service that runs deleted the checkpoint meanwhile; [`StateError::Unreadable`].
pub fn export(checkpoint: &Path, to: &Path) -> Result<VerifyReport, StateError> {
    if to.exists() {
        return Err(StateError::Io {
            action: "create",
            path: to.to_owned(),
            source: io::ErrorKind::AlreadyExists.into(),
        });
    }
    // The whole name is in it: another export, or a folder of somebody else's, has another one.
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = to.with_file_name(format!(".{name}.unfinished"));
    let report = copy_verified(checkpoint, &unfinished, true)?;
    if !report.is_sound() {
        return Ok(report);
    }
    fs::rename(&unfinished, to).map_err(StateError::io("rename", &unfinished))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    directory::sync_directory(parent)?;
    Ok(report)
}

/// Makes an exported checkpoint the store of `state_dir`, which no process may own. A store that is there already is an
/// error, unless `replace`: then it is moved aside. Nothing changes when the report is not sound.
///
/// # Errors
/// [`StateError::Locked`], [`StateError::Io`], [`StateError::Unreadable`].
pub fn import(from: &Path, state_dir: &Path, replace: bool, now_ms: i64) -> Result<Imported, StateError> {
    fs::create_dir_all(state_dir).map_err(StateError::io("create", state_dir))?;
    let _lock = DirectoryLock::acquire(state_dir, now_ms)?;
    let store = directory::store_path(state_dir);
    if store.exists() && !replace {
        return Err(StateError::Io { action: "create", path: store, source: io::ErrorKind::AlreadyExists.into() });
    }
    let incoming = state_dir.join(".incoming");
    let report = copy_verified(from, &incoming, false)?;
    let mut replaced = None;
    if !report.is_sound() {
        return Ok(Imported { report, replaced });
    }
    if store.exists() {
        let aside = state_dir.join(format!("replaced-{now_ms}"));
        fs::rename(&store, &aside).map_err(StateError::io("rename", &store))?;
        replaced = Some(aside);
    }
    // Between the two renames there is no store: a start would replay the log.
    fs::rename(&incoming, &store).map_err(StateError::io("rename", &incoming))?;
    directory::sync_directory(state_dir)?;
    Ok(Imported { report, replaced })
}

/// Nothing is left of a copy that is not sound.
fn copy_verified(from: &Path, to: &Path, with_description: bool) -> Result<VerifyReport, StateError> {
    remove_if_there(to)?;
    let copied = copy(from, to, with_description).and_then(|()| verify(to));
    if !copied.as_ref().is_ok_and(VerifyReport::is_sound) {
        remove_if_there(to)?;
    }
    copied
}

/// Every file, synced. A checkpoint has no folders in it.
fn copy(from: &Path, to: &Path, with_description: bool) -> Result<(), StateError> {
    fs::create_dir_all(to).map_err(StateError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(StateError::io("list", from))? {
        let entry = entry.map_err(StateError::io("list", from))?;
        let is_description = entry.file_name() == DESCRIPTION;
        if entry.path().is_file() && (with_description || !is_description) {
            let target = to.join(entry.file_name());
            fs::copy(entry.path(), &target).map_err(StateError::io("copy", &entry.path()))?;
            fs::File::open(&target).and_then(|file| file.sync_all()).map_err(StateError::io("sync", &target))?;
        }
    }
    directory::sync_directory(to)
}
