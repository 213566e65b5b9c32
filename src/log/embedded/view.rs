//! A look at the log of another process, running or not: nothing in its folder is changed.
//!
//! What was written but not yet synced by the owner may be seen: after a power cut it may be gone.

use std::path::Path;
use std::time::Duration;

use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use tempfile::TempDir;

use super::keys;
use super::opening::{EmbeddedIdentity, family_options, read_identity, store_path};
use super::reading::{self, Range, StoredRecord, damaged};
use super::store::EmbeddedError;
use crate::domain::ids::{Offset, PartitionId};
use crate::protocol::output::Destination;
use crate::state::{damage_before_opening, log_through_tracing};

const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// See the module head. [`EmbeddedView::refresh`] takes in what was written since.
pub struct EmbeddedView {
    db: DB,
    /// RocksDB wants a folder of its own for a look; deleted with this.
    _scratch: TempDir,
}

impl EmbeddedView {
    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// [`EmbeddedError::Absent`], [`EmbeddedError::Damaged`] or [`EmbeddedError::Io`].
    pub fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        // The owner may delete a file between the look at the list and the look at the file.
        for _ in 0..ATTEMPTS {
            match Self::try_open(dir) {
                Err(EmbeddedError::Io(_) | EmbeddedError::Damaged { .. }) => std::thread::sleep(PAUSE),
                opened => return opened,
            }
        }
        Self::try_open(dir)
    }

    fn try_open(dir: &Path) -> Result<Self, EmbeddedError> {
        let path = store_path(dir);
        if !path.join("CURRENT").exists() {
            return Err(EmbeddedError::Absent { dir: dir.to_owned() });
        }
        if let Some(detail) = damage_before_opening(&path).map_err(|error| EmbeddedError::Io(error.to_string()))? {
            return Err(EmbeddedError::Damaged { detail });
        }
        let scratch = tempfile::Builder::new().prefix("tallyguard-look-").tempdir();
        let scratch = scratch.map_err(|error| EmbeddedError::Io(error.to_string()))?;
        let mut options = Options::default();
        // A look needs every file open: the owner may delete one at any time.
        options.set_max_open_files(-1);
        log_through_tracing(&mut options);
        let families = [keys::RECORDS, keys::OUTPUTS, keys::META]
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(name)));
        let db = DB::open_cf_descriptors_as_secondary(&options, &path, &scratch.path().to_owned(), families)
            .map_err(damaged)?;
        let view = Self { db, _scratch: scratch };
        view.refresh()?;
        Ok(view)
    }

    /// Takes in what the owner has written since.
    ///
    /// # Errors
    /// [`EmbeddedError::Damaged`]; also when the owner has just deleted a file: the next call may succeed.
    pub fn refresh(&self) -> Result<(), EmbeddedError> {
        self.db.try_catch_up_with_primary().map_err(damaged)
    }

    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn identity(&self) -> Result<Option<EmbeddedIdentity>, EmbeddedError> {
        read_identity(&self.db)
    }

    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn partitions(&self) -> Result<i32, EmbeddedError> {
        Ok(reading::number::<4>(&self.db, keys::PARTITIONS)?.map_or(0, i32::from_be_bytes))
    }

    /// The oldest offset that is kept, and the end.
    ///
    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn bounds(&self, partition: PartitionId) -> Result<(Offset, Offset), EmbeddedError> {
        reading::bounds(&self.db, partition).map(|(start, end)| (Offset(start), Offset(end)))
    }

    /// Records of a partition from `from` to before `to`.
    ///
    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn records(
        &self,
        partition: PartitionId,
        from: Offset,
        to: Offset,
    ) -> Result<Vec<StoredRecord>, EmbeddedError> {
        reading::records(&self.db, &Range::of_records(partition, from), to.0)
    }

    /// The oldest offset of an output topic that is kept, and its end.
    ///
    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn output_bounds(&self, destination: Destination) -> Result<(i64, i64), EmbeddedError> {
        reading::output_bounds(&self.db, destination)
    }

    /// Committed records of an output topic from `from` on, at most `max`.
    ///
    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn outputs(&self, destination: Destination, from: i64, max: i64) -> Result<Vec<StoredRecord>, EmbeddedError> {
        reading::records(&self.db, &Range::of_outputs(destination, from), from.saturating_add(max))
    }

    /// Committed offsets of every group, with their metadata.
    ///
    /// # Errors
    /// [`EmbeddedError::Damaged`].
    pub fn committed(&self) -> Result<Vec<(String, PartitionId, Offset, String)>, EmbeddedError> {
        reading::all_committed(&self.db)
    }
}
