//! Everything that a run decides by chance comes from here, so one seed is one run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tallyguard::clock::{self, VirtualTime};

/// 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;
/// What a failing run shows of its end.
const TRACE_SHOWN: usize = 150;

/// How often what goes wrong, per mille.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A call to the broker or the database fails or is disturbed.
    pub trouble: u64,
    /// A process is killed at a call.
    pub kill: u64,
    /// A process is preempted at a call while the others go on.
    pub pause: u64,
}

/// A deliberate error around the engine: what it relies on, and what its requests must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Rows are replaced by older ones.
    NoGuardOnRows,
    /// The guard's column is assigned first, so the others compare with the new value.
    GuardColumnFirst,
    /// Rows are added to instead of replaced.
    RowsAreIncremented,
    /// Offsets are sent without member and generation (generation -1), so the group takes them from anybody.
    OffsetsWithoutGeneration,
    /// A process reads the committed offsets first, and settles what a predecessor has left then.
    OffsetsReadBeforeTheWriterIsSettled,
    /// A recovery takes an offset whose commit is not decided for the committed one.
    UnstableOffsetsAreRead,
}

/// Virtual time, dice, trace and coverage of one run.
pub struct Chance {
    state: AtomicU64,
    now_ms: AtomicU64,
    faults: Mutex<Faults>,
    /// What of the world around the engine does not keep its promise.
    broken: Option<Broken>,
    /// `None`: nobody will look at it.
    trace: Option<Mutex<Vec<String>>>,
    coverage: Mutex<BTreeMap<&'static str, u64>>,
}

impl Chance {
    pub fn new(seed: u64, broken: Option<Broken>, is_traced: bool) -> Self {
        let chance = Self {
            broken,
            state: AtomicU64::new(seed),
            now_ms: AtomicU64::new(0),
            faults: Mutex::default(),
            trace: is_traced.then(Mutex::default),
            coverage: Mutex::default(),
        };
        chance.advance(1_000);
        chance
    }

    pub fn is_broken(&self, what: Broken) -> bool {
        self.broken == Some(what)
    }

    /// SplitMix64.
    pub fn below(&self, bound: u64) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let state = self.state.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn index(&self, bound: usize) -> usize {
        usize::try_from(self.below(u64::try_from(bound).expect("small"))).expect("small")
    }

    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    pub fn per_mille(&self, share: u64) -> bool {
        // Also when it cannot come: the next throw does not depend on how bad the world is.
        self.below(1_000) < share
    }

    pub fn faults(&self) -> Faults {
        *self.faults.lock()
    }

    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    pub fn trouble(&self) -> bool {
        self.per_mille(self.faults().trouble)
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub fn wall_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.now_ms.load(Ordering::Relaxed)).expect("small")
    }

    pub fn advance(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
        clock::set_virtual(Some(VirtualTime { monotonic_ms: self.now_ms(), wall_ms: self.wall_ms() }));
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            trace.lock().push(format!("{:>8} {}", self.now_ms(), line()));
        }
    }

    /// A rare path was reached.
    pub fn reached(&self, what: &'static str) {
        *self.coverage.lock().entry(what).or_default() += 1;
    }

    pub fn coverage(&self) -> BTreeMap<&'static str, u64> {
        self.coverage.lock().clone()
    }

    pub fn trace(&self) -> Vec<String> {
        self.trace.as_ref().map(|trace| trace.lock().clone()).unwrap_or_default()
    }

    pub fn end_of_trace(&self) -> String {
        let trace = self.trace();
        trace[trace.len().saturating_sub(TRACE_SHOWN)..].join("\n")
    }
}

impl Drop for Chance {
    fn drop(&mut self) {
        clock::set_virtual(None);
    }
}
