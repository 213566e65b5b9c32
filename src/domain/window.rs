//! Tumbling windows of one size: which are open, who has counted in them, and what a snapshot has not seen yet.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::{HashMap, HashSet};

use crate::domain::duration::Millis;
use crate::domain::ids::{IdKey, Offset};
use crate::domain::time::{Watermark, WindowEnd, WindowStart};
use crate::domain::user::UserActor;

/// A place in the log from which a replay may start: an offset and the watermark just before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    #[serde(rename = "o")]
    pub offset: Offset,
    #[serde(rename = "w")]
    pub watermark: Watermark,
}

/// An [`IdKey`] is a keyed digest already: its low half serves as the hash.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.0 = chunk.iter().fold(self.0, |value, byte| value.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }
}

pub type DigestMap<V> = HashMap<IdKey, V, BuildHasherDefault<DigestHasher>>;
pub type DigestSet = HashSet<IdKey, BuildHasherDefault<DigestHasher>>;

/// One open window: its user actors, and the transactions that it has taken.
pub struct OpenWindow {
    pub start: WindowStart,
    /// The first record that fell into the window, counted or not.
    pub first: Position,
    pub users: DigestMap<UserActor>,
    pub taken: DigestSet,
    pub unsaved: Unsaved,
}

/// What changed in a window since the last snapshot was taken.
#[derive(Default)]
pub struct Unsaved {
    pub users: Vec<IdKey>,
    pub taken: Vec<IdKey>,
    /// Number of the next chunk on disk.
    pub next_chunk: u32,
    /// User entries in all chunks so far: when they far outnumber the users, the window is written anew.
    pub stored_users: usize,
}

/// What became of a transaction in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Counted { transactions: u32 },
    Duplicate,
}

impl OpenWindow {
    #[must_use]
    pub fn new(start: WindowStart, first: Position) -> Self {
        Self { start, first, users: DigestMap::default(), taken: DigestSet::default(), unsaved: Unsaved::default() }
    }

    /// Takes a transaction unless its (user, id) was already taken in this window.
    pub fn take(&mut self, user: IdKey, transaction: IdKey) -> Taken {
        if !self.taken.insert(transaction) {
            return Taken::Duplicate;
        }
        self.unsaved.taken.push(transaction);
        let actor = self.users.entry(user).or_default();
        if actor.mark_changed() {
            self.unsaved.users.push(user);
        }
        Taken::Counted { transactions: actor.receive() }
    }
}

/// All open windows of one size, oldest first.
pub struct WindowClass {
    pub size: Millis,
    /// Indices of the rules that count in windows of this size.
    pub rules: Vec<usize>,
    /// Whether the order statistics use these windows (one minute, statistics enabled).
    pub statistics: bool,
    pub open: Vec<OpenWindow>,
}

impl WindowClass {
    /// The open window that starts at `start`, opened by the record at `first` if it is new.
    pub fn window(&mut self, start: WindowStart, first: Position) -> &mut OpenWindow {
        let at = match self.open.last() {
            Some(last) if last.start == start => self.open.len() - 1,
            _ => match self.open.binary_search_by_key(&start, |window| window.start) {
                Ok(at) => at,
                Err(at) => {
                    self.open.insert(at, OpenWindow::new(start, first));
                    at
                }
            },
        };
        &mut self.open[at]
    }

    /// End of the oldest open window.
    #[must_use]
    pub fn oldest_end(&self) -> Option<WindowEnd> {
        self.open.first().map(|window| window.start.end(self.size))
    }

    /// Removes the windows that this watermark closes, oldest first: their user actors are passivated.
    pub fn close(&mut self, watermark: Watermark) -> Vec<OpenWindow> {
        let count = self.open.partition_point(|window| watermark.closes(window.start.end(self.size)));
        self.open.drain(..count).collect()
    }

    /// First record of any open window.
    #[must_use]
    pub fn horizon(&self) -> Option<Position> {
        self.open.iter().map(|window| window.first).min()
    }
}
