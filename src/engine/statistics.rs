//! Between the partition actors and the statistics writer: at most one flush per partition, and none ahead of its commit.
//!
//! A flush is taken from the actor, waits here until a commit at or behind it is known, and then goes to the writer. The
//! next one is taken only after the writer's answer, so an outage of the database holds one flush per partition here and
//! the changes since then in the actors.

use std::collections::BTreeMap;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::rule::Parameters;
use crate::domain::statistics::StatisticsFlush;
use crate::engine::hosts::Host;
use crate::mutants::{self, Mutant};
use crate::stats::{RuleHistoryEntry, StatisticsSink};

enum Flush {
    /// None under way; the next is due at this time.
    Idle {
        due_ms: u64,
    },
    /// The actor was asked.
    Asked,
    /// Waits for its commit, or for room at the writer.
    Taken {
        flush: StatisticsFlush,
        is_committed: bool,
    },
    Submitted {
        through: Offset,
        rows: usize,
    },
}

/// See the module head.
pub struct StatisticsLine {
    writer: Option<Box<dyn StatisticsSink>>,
    interval_ms: u64,
    flushes: BTreeMap<PartitionId, Flush>,
}

impl StatisticsLine {
    /// Without a writer nothing is ever asked for.
    #[must_use]
    pub fn new(writer: Option<Box<dyn StatisticsSink>>, interval_ms: u64) -> Self {
        Self { writer, interval_ms, flushes: BTreeMap::new() }
    }

    /// Has the rule versions recorded with which the partition goes on; what is known already stays as it is.
    pub fn record_rules(&self, partition: PartitionId, parameters: &Parameters) {
        let Some(writer) = &self.writer else { return };
        for history in &parameters.rules {
            for version in &history.versions {
                let content = serde_json::json!({
                    "id": history.rule.id,
                    "version": version.version,
                    "window": history.rule.window_text,
                    "max_transactions": version.max_transactions,
                    "severity": version.severity,
                });
                writer.record_rule_version(RuleHistoryEntry {
                    rule_id: history.rule.id.clone(),
                    version: version.version,
                    partition,
                    first_offset: version.from,
                    content: content.to_string(),
                });
            }
        }
    }

    /// Asks the actor for a flush when one is due, and offers the writer what waits for it.
    pub fn tick(&mut self, partition: PartitionId, actor: &impl Host, now_ms: u64) {
        if self.writer.is_none() {
            return;
        }
        let flush = self.flushes.entry(partition).or_insert(Flush::Idle { due_ms: now_ms + self.interval_ms });
        match flush {
            // A full mailbox is asked again in the next round.
            Flush::Idle { due_ms } if now_ms >= *due_ms && actor.take_flush().is_ok() => *flush = Flush::Asked,
            Flush::Taken { is_committed: true, .. } => self.submit(partition),
            _ => {}
        }
    }

    /// The actor's answer; `None` when nothing changed.
    pub fn taken(&mut self, partition: PartitionId, flush: Option<StatisticsFlush>, committed: Option<Offset>) {
        let next = match flush {
            Some(flush) => {
                let is_early = mutants::is(Mutant::StatisticsWrittenBeforeTheirCommit);
                let is_committed = is_early || committed.is_some_and(|committed| committed >= flush.through);
                Flush::Taken { flush, is_committed }
            }
            None => Flush::Idle { due_ms: crate::clock::monotonic_ms() + self.interval_ms },
        };
        self.flushes.insert(partition, next);
        self.submit(partition);
    }

    /// A commit is known: what it covers may be written.
    pub fn committed(&mut self, partition: PartitionId, through: Offset) {
        if let Some(Flush::Taken { flush, is_committed }) = self.flushes.get_mut(&partition)
            && through >= flush.through
        {
            *is_committed = true;
            self.submit(partition);
        }
    }

    fn submit(&mut self, partition: PartitionId) {
        let (Some(writer), Some(state)) = (&self.writer, self.flushes.get_mut(&partition)) else { return };
        match std::mem::replace(state, Flush::Asked) {
            Flush::Taken { flush, is_committed: true } => {
                let (through, rows) = (flush.through, flush.rows.len() + flush.orders.len());
                *state = match writer.submit(flush) {
                    Ok(()) => Flush::Submitted { through, rows },
                    Err(flush) => Flush::Taken { flush, is_committed: true },
                };
            }
            other => *state = other,
        }
    }

    /// The writer's answer; true when it is the flush that is under way.
    pub fn acknowledged(&mut self, partition: PartitionId, through: Offset) -> bool {
        match self.flushes.get(&partition) {
            Some(Flush::Submitted { through: submitted, .. }) if *submitted == through => {
                let due_ms = crate::clock::monotonic_ms() + self.interval_ms;
                self.flushes.insert(partition, Flush::Idle { due_ms });
                true
            }
            _ => false,
        }
    }

    /// The partition is somebody else's; a flush that the writer already has is harmless, because rows are guarded.
    pub fn forget(&mut self, partition: PartitionId) {
        self.flushes.remove(&partition);
        if let Some(writer) = &self.writer {
            writer.forget(partition);
        }
    }

    /// Asks every idle actor at once, for the last flush before the process stops.
    pub fn request_last(&mut self, actors: &[(PartitionId, impl Host)]) {
        for (partition, actor) in actors {
            if let Some(Flush::Idle { due_ms }) = self.flushes.get_mut(partition) {
                *due_ms = 0;
                self.tick(*partition, actor, 0);
            }
        }
    }

    /// Nothing of the partition is on its way to the database.
    #[must_use]
    pub fn is_idle_for(&self, partition: PartitionId) -> bool {
        !matches!(self.flushes.get(&partition), Some(Flush::Taken { .. } | Flush::Submitted { .. }))
    }

    /// Nothing is on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flushes.values().all(|flush| matches!(flush, Flush::Idle { .. }))
    }

    /// Rows and orders that were taken from the actors and are not acknowledged.
    #[must_use]
    pub fn rows_waiting(&self) -> usize {
        let waiting = self.flushes.values().map(|flush| match flush {
            Flush::Taken { flush, .. } => flush.rows.len() + flush.orders.len(),
            Flush::Submitted { rows, .. } => *rows,
            Flush::Idle { .. } | Flush::Asked => 0,
        });
        waiting.sum()
    }
}
