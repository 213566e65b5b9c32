//! The disk of one machine: stored snapshots, whole and synced; what is being stored when the process dies is there or not.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::state::{NotTaken, SnapshotDelta, SnapshotEvent, SnapshotSink, Snapshots, StateError, StoredSnapshot};

use crate::chance::Chance;

struct Stored {
    through: Offset,
    header: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What survives the process. A clone is the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<BTreeMap<PartitionId, Stored>>>, Arc<Chance>);

impl Disk {
    pub fn new(chance: Arc<Chance>) -> Self {
        Self(Arc::default(), chance)
    }

    pub fn wipe(&self) {
        self.0.lock().clear();
    }

    /// All of it or none, as the store of the service does it.
    fn store(&self, deltas: &[SnapshotDelta]) -> Result<(), StateError> {
        let mut stored = self.0.lock();
        for delta in deltas {
            let (partition, through) = (delta.partition, delta.through);
            match stored.get(&partition) {
                _ if delta.replace => {}
                None => return Err(StateError::WithoutBase { partition, through }),
                Some(old) if old.through > through => {
                    return Err(StateError::Backwards { partition, stored: old.through, offered: through });
                }
                Some(_) => {}
            }
        }
        for delta in deltas {
            let mut entries = stored
                .remove(&delta.partition)
                .filter(|_| !delta.replace)
                .map_or_else(BTreeMap::new, |old| old.entries);
            entries.retain(|key, _| {
                !delta.removed.contains(key) && !delta.removed_prefixes.iter().any(|prefix| key.starts_with(prefix))
            });
            entries.extend(delta.puts.iter().cloned());
            let new = Stored { through: delta.through, header: delta.header.clone(), entries };
            stored.insert(delta.partition, new);
        }
        Ok(())
    }
}

impl Snapshots for Disk {
    fn load(&self, partition: PartitionId) -> Result<Option<StoredSnapshot>, StateError> {
        let stored = self.0.lock();
        if stored.contains_key(&partition) {
            self.1.reached("snapshot found");
        }
        Ok(stored.get(&partition).map(|stored| StoredSnapshot {
            through: stored.through,
            header: stored.header.clone(),
            entries: stored.entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            written_at_ms: 0,
        }))
    }

    fn discard(&self, partition: PartitionId) -> Result<(), StateError> {
        self.0.lock().remove(&partition);
        Ok(())
    }
}

type Waiting = Rc<RefCell<VecDeque<(Vec<SnapshotDelta>, u64)>>>;

/// The thread of one process that stores.
pub struct Storing {
    chance: Arc<Chance>,
    disk: Disk,
    waiting: Waiting,
    events: Sender<SnapshotEvent>,
}

/// The I/O thread's end of it.
pub struct DiskLine(Waiting);

impl Storing {
    pub fn new(chance: Arc<Chance>, disk: Disk, events: Sender<SnapshotEvent>) -> (Self, DiskLine) {
        let waiting = Waiting::default();
        (Self { chance, disk, waiting: Rc::clone(&waiting), events }, DiskLine(waiting))
    }

    pub fn work(&self) {
        let Some((deltas, generation)) = self.waiting.borrow_mut().pop_front() else { return };
        let partitions = deltas.iter().map(|delta| (delta.partition, delta.through)).collect();
        self.chance.note(|| format!("disk: stores {partitions:?}"));
        let event = match self.disk.store(&deltas) {
            Ok(()) => {
                self.chance.reached("snapshot stored");
                SnapshotEvent::Stored { generation, partitions, duration: Duration::from_millis(1), bytes: 1 }
            }
            Err(error) => SnapshotEvent::Failed { generation, error, deltas },
        };
        let _ = self.events.send(event);
    }

    /// The process dies while it stores.
    pub fn die(&self) {
        if self.chance.per_mille(500) {
            self.work();
        }
    }
}

impl SnapshotSink for DiskLine {
    fn store(&self, deltas: Vec<SnapshotDelta>, generation: u64) -> Result<(), NotTaken> {
        let mut waiting = self.0.borrow_mut();
        if waiting.len() > 1 {
            return Err(NotTaken::Busy(deltas));
        }
        waiting.push_back((deltas, generation));
        Ok(())
    }
}
