//! Whether an open database file is still the one that its path names.
//!
//! SQLite goes on writing to a file that was deleted, renamed or replaced: rows would be acknowledged that nobody finds
//! again. So the file and its write-ahead log are looked at after each write.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which files a path and its write-ahead log named at some time: device and number, `None` without a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    file: Option<(u64, u64)>,
    log: Option<(u64, u64)>,
}

impl Place {
    pub fn of(path: &Path) -> Self {
        Self { file: file_number(path), log: file_number(&beside(path, "-wal")) }
    }

    /// Removes the write-ahead log of a file that is no longer there, so that it is not taken for the log of the file
    /// that took its place. The caller has closed the database.
    pub fn leave(self, path: &Path) {
        let now = Self::of(path);
        if now.file != self.file && now.log.is_some() && now.log == self.log {
            for suffix in ["-wal", "-shm"] {
                // What stays is found by the next connection, which says what is wrong with it.
                let _ = fs::remove_file(beside(path, suffix));
            }
        }
    }
}

fn file_number(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
