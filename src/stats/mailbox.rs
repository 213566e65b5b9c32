//! What the writer shares with its callers: the flushes that wait, and what is known of the progress.
//!
//! It is bounded by construction: one flush per partition, one rule history entry per (rule, version, partition). A flush
//! stays here until the database has acknowledged it, so an outage loses nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::statistics::StatisticsFlush;
use crate::stats::{RuleHistoryEntry, StatsEvent};

/// Flushes are written together up to this many rows: one SQL transaction more or less, and a bounded time to the
/// acknowledgement.
const ROWS_TOGETHER: usize = 10_000;

pub struct Mailbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    flushes: VecDeque<Arc<StatisticsFlush>>,
    rule_history: Vec<RuleHistoryEntry>,
    /// What this process was acknowledged, by partition that it still holds.
    acknowledged: BTreeMap<PartitionId, Offset>,
    /// The database's progress table when it was last read, and what was acknowledged since.
    progress: Option<BTreeMap<PartitionId, Offset>>,
    /// The task has ended, or is about to.
    closed: bool,
    stop_at: Option<Instant>,
}

/// What to write next; it also stays in the mailbox until [`Mailbox::acknowledge`].
#[derive(Clone)]
pub struct Work {
    pub flushes: Vec<Arc<StatisticsFlush>>,
    pub rule_history: Vec<RuleHistoryEntry>,
}

impl Mailbox {
    pub fn new() -> Self {
        Self { state: Mutex::new(State::default()), changed: Notify::new() }
    }

    /// Gives the flush back when one of its partition is under way already, or when the task has ended.
    pub fn submit(&self, flush: StatisticsFlush) -> Result<(), StatisticsFlush> {
        let mut state = self.state.lock();
        if state.closed || state.flushes.iter().any(|waiting| waiting.partition == flush.partition) {
            return Err(flush);
        }
        state.flushes.push_back(Arc::new(flush));
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    pub fn record(&self, entry: RuleHistoryEntry) {
        let mut state = self.state.lock();
        let key = |entry: &RuleHistoryEntry| (entry.rule_id.clone(), entry.version, entry.partition);
        if !state.closed && !state.rule_history.iter().any(|waiting| key(waiting) == key(&entry)) {
            state.rule_history.push(entry);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Drops what waits of a partition, and what is remembered of it.
    pub fn forget(&self, partition: PartitionId) {
        let mut state = self.state.lock();
        state.flushes.retain(|flush| flush.partition != partition);
        state.acknowledged.remove(&partition);
    }

    pub fn progress(&self) -> Option<BTreeMap<PartitionId, Offset>> {
        self.state.lock().progress.clone()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.flushes.is_empty() && state.rule_history.is_empty()
    }

    /// Waits for work; `None` when there is none and the task is to stop.
    pub async fn next(&self) -> Option<Work> {
        loop {
            // Created before the look at the state, so that no change in between is missed.
            let changed = self.changed.notified();
            {
                let state = self.state.lock();
                if !state.flushes.is_empty() || !state.rule_history.is_empty() {
                    return Some(state.work());
                }
                if state.stop_at.is_some() {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Removes what was written. Flushes that were forgotten meanwhile are not acknowledged.
    pub fn acknowledge(&self, work: &Work) -> Vec<StatsEvent> {
        let mut state = self.state.lock();
        state.rule_history.retain(|entry| !work.rule_history.contains(entry));
        let mut events = Vec::with_capacity(work.flushes.len());
        for flush in &work.flushes {
            let Some(at) = state.flushes.iter().position(|waiting| Arc::ptr_eq(waiting, flush)) else { continue };
            state.flushes.remove(at);
            state.acknowledged.insert(flush.partition, flush.through);
            if let Some(progress) = &mut state.progress {
                let known = progress.entry(flush.partition).or_insert(flush.through);
                *known = flush.through.max(*known);
            }
            events.push(StatsEvent::Acknowledged { partition: flush.partition, through: flush.through });
        }
        events
    }

    /// Takes in the progress table as read on a new connection; returns what it has lost. A gap is told once.
    pub fn compare_progress(&self, found: BTreeMap<PartitionId, Offset>) -> Vec<StatsEvent> {
        let mut state = self.state.lock();
        let mut gaps = Vec::new();
        state.acknowledged.retain(|&partition, acknowledged| {
            let found = found.get(&partition).copied();
            if found < Some(*acknowledged) {
                gaps.push(StatsEvent::GapAfterReconnect { partition, acknowledged: *acknowledged, found });
                return false;
            }
            true
        });
        state.progress = Some(found);
        gaps
    }

    /// Refuses what comes from now on. What waits stays unwritten.
    pub fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Nothing more is taken in; what waits may be written until then.
    pub fn stop(&self, at: Instant) {
        let mut state = self.state.lock();
        state.closed = true;
        state.stop_at = Some(state.stop_at.map_or(at, |earlier| earlier.min(at)));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until the task is to stop; returns when it must have stopped.
    pub async fn stopped(&self) -> Instant {
        loop {
            let changed = self.changed.notified();
            if let Some(at) = self.state.lock().stop_at {
                return at;
            }
            changed.await;
        }
    }
}

impl State {
    fn work(&self) -> Work {
        let mut rows = 0;
        let mut flushes = Vec::new();
        for flush in &self.flushes {
            rows += flush.rows.len() + flush.orders.len();
            if !flushes.is_empty() && rows > ROWS_TOGETHER {
                break;
            }
            flushes.push(Arc::clone(flush));
        }
        Work { flushes, rule_history: self.rule_history.clone() }
    }
}
