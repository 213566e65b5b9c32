//! The disk of one machine: stored snapshots. A store is written first and synced later; until then a power cut leaves the
//! first so many of the writes, and no more. A disk may be full, and what is on it may rot.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::state::{NotTaken, SnapshotDelta, SnapshotEvent, SnapshotSink, Snapshots, StateError, StoredSnapshot};

use crate::chance::Chance;

#[derive(Clone)]
struct Stored {
    through: Offset,
    header: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Default)]
struct Content {
    /// As the file system shows it.
    shown: BTreeMap<PartitionId, Stored>,
    /// As a power cut leaves it, after each write since the last sync; the first is the synced one.
    kept: Vec<BTreeMap<PartitionId, Stored>>,
    damaged: BTreeSet<PartitionId>,
}

/// What survives the process. A clone is the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Content>>, Arc<Chance>);

impl Disk {
    pub fn new(chance: Arc<Chance>) -> Self {
        Self(Arc::default(), chance)
    }

    pub fn wipe(&self) {
        *self.0.lock() = Content::default();
    }

    /// What was written and not synced is there up to some write.
    pub fn cut_power(&self) {
        let mut content = self.0.lock();
        if !content.kept.is_empty() {
            self.1.reached("unsynced writes at a power cut");
            let last = self.1.index(content.kept.len());
            content.shown = content.kept.swap_remove(last);
            content.kept.clear();
        }
    }

    /// Some snapshot cannot be read any more.
    pub fn rot(&self) {
        let mut content = self.0.lock();
        let stored: Vec<_> = content.shown.keys().copied().collect();
        if !stored.is_empty() {
            let partition = stored[self.1.index(stored.len())];
            content.damaged.insert(partition);
        }
    }

    fn sync(&self) {
        self.0.lock().kept.clear();
    }

    /// All of it or none, as the store of the service does it.
    fn write(&self, deltas: &[SnapshotDelta]) -> Result<(), StateError> {
        let mut content = self.0.lock();
        let content = &mut *content;
        let stored = &mut content.shown;
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
        if content.kept.is_empty() {
            content.kept.push(stored.clone());
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
        content.kept.push(stored.clone());
        Ok(())
    }
}

impl Snapshots for Disk {
    fn load(&self, partition: PartitionId) -> Result<Option<StoredSnapshot>, StateError> {
        let content = self.0.lock();
        if content.damaged.contains(&partition) {
            self.1.reached("damaged snapshot");
            return Err(StateError::Corrupt { partition, detail: "as the dice fell".to_owned() });
        }
        let stored = &content.shown;
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
        let mut content = self.0.lock();
        content.shown.remove(&partition);
        content.damaged.remove(&partition);
        // Deleting is a write too, and it is synced.
        content.kept.clear();
        Ok(())
    }
}

type Waiting = Rc<RefCell<VecDeque<(Vec<SnapshotDelta>, u64)>>>;
type Unsynced = Rc<RefCell<Option<SnapshotEvent>>>;

/// The thread of one process that stores.
pub struct Storing {
    chance: Arc<Chance>,
    pub disk: Disk,
    waiting: Waiting,
    /// Written, and said to be stored once it is synced.
    unsynced: Unsynced,
    events: Sender<SnapshotEvent>,
}

/// The I/O thread's end of it.
pub struct DiskLine(Waiting);

impl Storing {
    pub fn new(chance: Arc<Chance>, disk: Disk, events: Sender<SnapshotEvent>) -> (Self, DiskLine) {
        let waiting = Waiting::default();
        let unsynced = Unsynced::default();
        (Self { chance, disk, waiting: Rc::clone(&waiting), unsynced, events }, DiskLine(waiting))
    }

    pub fn work(&self) {
        if let Some(event) = self.unsynced.borrow_mut().take() {
            self.disk.sync();
            let _ = self.events.send(event);
            return;
        }
        let Some((deltas, generation)) = self.waiting.borrow_mut().pop_front() else { return };
        let partitions = deltas.iter().map(|delta| (delta.partition, delta.through)).collect();
        self.chance.note(|| format!("disk: stores {partitions:?}"));
        if self.chance.trouble() {
            self.chance.reached("disk full");
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let error = StateError::Io { action: "write", path: "disk".into(), source };
            let _ = self.events.send(SnapshotEvent::Failed { generation, error, deltas });
            return;
        }
        match self.disk.write(&deltas) {
            Ok(()) => {
                self.chance.reached("snapshot stored");
                let duration = Duration::from_millis(1);
                *self.unsynced.borrow_mut() =
                    Some(SnapshotEvent::Stored { generation, partitions, duration, bytes: 1 });
            }
            Err(error) => {
                let _ = self.events.send(SnapshotEvent::Failed { generation, error, deltas });
            }
        }
    }

    /// The process dies while it stores.
    pub fn die(&self) {
        while self.chance.per_mille(500) {
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
