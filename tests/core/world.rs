//! One partition and all that outlives a crash: the group's offset with its metadata, the output topics, the database,
//! the snapshot store. The process in front of it dies whenever the dice say so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::{Output, PartitionState, Progress};
use tallyguard::domain::statistics::StatisticsFlush;
use tallyguard::domain::time::Watermark;
use tallyguard::protocol::metadata::{DecidedWith, LogIdentity, Metadata};
use tallyguard::protocol::recovery::{Configured, Facts, SnapshotHead, Start, StartSource, decide};
use tallyguard::reconcile::recount::SourceRecord;
use tallyguard::state::SnapshotDelta;

use crate::dice::Dice;
use crate::streams::{Effects, TOPIC, Tables, borrowed};

pub const PARTITION: i32 = 2;

pub fn identity() -> LogIdentity {
    LogIdentity { cluster_id: "cluster".to_owned(), topic_id: "topic".to_owned(), group: "tallyguard".to_owned() }
}

/// What the disk holds of the partition.
pub struct Stored {
    pub head: SnapshotHead,
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// See the module head.
pub struct World {
    pub log: Vec<SourceRecord>,
    pub configured: Configured,
    pub committed: Option<(Offset, String)>,
    pub topics: Effects,
    pub tables: Tables,
    pub stored: Option<Stored>,
}

fn end_of(log: &[SourceRecord]) -> Offset {
    log.last().map_or(Offset(0), |record| Offset(record.offset + 4))
}

/// Effects of some records that no commit holds yet.
struct Pending {
    progress: Progress,
    outputs: Vec<(Offset, Output)>,
}

/// A flush, and whether the database has it.
struct Flush {
    flush: StatisticsFlush,
    is_written: bool,
}

/// What dies in a crash.
pub struct Process {
    pub state: PartitionState,
    pub start: Start,
    pending: VecDeque<Pending>,
    flush: Option<Flush>,
    pub unsaved: Option<SnapshotDelta>,
    whole: bool,
}

impl World {
    /// Behind the last record stand a few markers.
    pub fn end(&self) -> Offset {
        end_of(&self.log)
    }

    pub fn facts(&self) -> Facts {
        let committed = self.committed.as_ref();
        let committed = committed.map(|(offset, text)| (*offset, Metadata::parse(text)));
        // The topic holds nothing that no replay needs.
        let log_start = match &committed {
            Some((_, Ok(metadata))) => metadata.horizon.min(metadata.statistics_horizon).offset,
            _ => Offset(self.log[0].offset),
        };
        Facts {
            partition: PartitionId(PARTITION),
            committed,
            group_began: None,
            log_start,
            log_end: self.end(),
            identity: identity(),
            partitions: 3,
            snapshot: self.stored.as_ref().map(|stored| stored.head.clone()),
            parked: None,
            statistics_progress: None,
            known: None,
        }
    }

    /// Starts a process and replays up to the committed offset.
    pub fn recover(&mut self) -> Process {
        self.recover_from(&self.facts())
    }

    pub fn recover_from(&mut self, facts: &Facts) -> Process {
        let start = decide(facts, &self.configured).expect("nothing is lost and nothing changed, so it goes on");
        assert!(start.from.offset >= facts.log_start, "only what the topic holds is read");
        let parameters = Arc::new(start.parameters.clone());
        let (topic, partition) = (Arc::from(TOPIC), PartitionId(PARTITION));
        let state = match (start.source, &self.stored) {
            (StartSource::Snapshot, Some(stored)) => {
                let entries: Vec<_> = stored.entries.clone().into_iter().collect();
                let next = start.from.offset;
                PartitionState::from_snapshot(
                    topic,
                    partition,
                    parameters,
                    next,
                    start.progress.final_through,
                    &entries,
                )
                .expect("what was stored can be read")
            }
            _ => PartitionState::new(topic, partition, parameters, start.from, start.progress.final_through),
        };
        let mut state = state;
        state.know_statistics(&start.progress);
        let mut process = Process {
            state,
            pending: VecDeque::new(),
            flush: None,
            unsaved: None,
            whole: start.source != StartSource::Snapshot,
            start,
        };
        let committed = process.start.committed;
        process.replay(&self.log, committed);
        if process.start.source == StartSource::First {
            process.pending.push_back(Pending { progress: process.state.progress(), outputs: Vec::new() });
            self.commit(&mut process, 1);
        }
        process
    }

    /// Commits the oldest `count` pending effects, as the commit cycle would.
    pub fn commit(&mut self, process: &mut Process, count: usize) {
        for _ in 0..count {
            let Some(pending) = process.pending.pop_front() else { break };
            for (offset, output) in pending.outputs {
                self.topics.add(PARTITION, offset, output);
            }
            let metadata = Metadata::new(&pending.progress, process.state.parameters(), identity(), 3, 1);
            if let Some((_, before)) = &self.committed {
                let before = Metadata::parse(before).expect("as it was written");
                assert!(metadata.statistics_horizon.offset >= before.statistics_horizon.offset, "it goes back");
            }
            self.committed = Some((pending.progress.next.offset, metadata.to_text()));
        }
    }

    fn committed_offset(&self) -> Offset {
        self.committed.as_ref().map_or(Offset(-1), |(offset, _)| *offset)
    }

    /// Writes the flush that is under way, once it is covered.
    pub fn write_flush(&mut self, process: &mut Process) {
        let committed = self.committed_offset();
        if let Some(under_way) = &mut process.flush
            && committed >= under_way.flush.through
        {
            self.tables.write(PARTITION, &under_way.flush.rows, &under_way.flush.orders);
            under_way.is_written = true;
        }
    }

    /// Stores the changes that were taken, once they are covered.
    pub fn store_snapshot(&mut self, process: &mut Process) {
        if process.unsaved.as_ref().is_none_or(|delta| delta.through > self.committed_offset()) {
            return;
        }
        let Some(delta) = process.unsaved.take() else { return };
        let head = SnapshotHead {
            through: delta.through,
            committed: Some(self.committed_offset()),
            identity: identity(),
            decided_with: DecidedWith::of(process.state.parameters(), Offset(0)),
            orders: process.state.parameters().orders,
        };
        let mut entries = match self.stored.take() {
            Some(stored) if !delta.replace => stored.entries,
            _ => BTreeMap::new(),
        };
        entries.retain(|key, _| !delta.removed_prefixes.iter().any(|prefix| key.starts_with(prefix)));
        entries.extend(delta.puts);
        self.stored = Some(Stored { head, entries });
    }
}

impl Process {
    fn replay(&mut self, log: &[SourceRecord], committed: Offset) {
        let next = self.state.next();
        let mut suppressed = Vec::new();
        for record in log.iter().filter(|record| (next.0..committed.0).contains(&record.offset)) {
            self.state.apply(&borrowed(record), &mut suppressed);
        }
        self.state.skip_to(committed);
    }

    /// Takes up to `count` further records.
    pub fn take_records(&mut self, log: &[SourceRecord], count: usize, skip_markers: bool) {
        let next = self.state.next();
        let from = log.partition_point(|record| record.offset < next.0);
        let mut outputs = Vec::new();
        for record in log[from..].iter().take(count) {
            self.state.apply(&borrowed(record), &mut outputs);
        }
        if skip_markers {
            // What lies before the next record are markers.
            let at = log.partition_point(|record| record.offset < self.state.next().0);
            self.state.skip_to(log.get(at).map_or_else(|| end_of(log), |record| Offset(record.offset)));
        }
        self.pending.push_back(Pending { progress: self.state.progress(), outputs });
    }

    pub fn take_flush(&mut self) {
        if let Some(flush) = self.state.take_flush() {
            assert!(self.flush.is_none(), "one flush at a time");
            self.flush = Some(Flush { flush, is_written: false });
        }
    }

    pub fn acknowledge_flush(&mut self) {
        if self.flush.as_ref().is_some_and(|flush| flush.is_written)
            && let Some(Flush { flush, .. }) = self.flush.take()
        {
            self.state.acknowledge_flush(flush.through);
            self.pending.push_back(Pending { progress: self.state.progress(), outputs: Vec::new() });
        }
    }

    pub fn take_snapshot(&mut self, force_whole: bool) {
        let whole = self.whole || force_whole;
        let delta = self.state.take_snapshot(whole);
        let newer = SnapshotDelta {
            partition: PartitionId(PARTITION),
            through: self.state.next(),
            replace: whole,
            removed_prefixes: delta.removed_prefixes,
            removed: Vec::new(),
            puts: delta.puts,
            header: Vec::new(),
        };
        self.whole = false;
        self.unsaved = Some(match self.unsaved.take() {
            Some(older) => SnapshotDelta::merge(older, newer),
            None => newer,
        });
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The state of a process that was never interrupted, and whose database acknowledged what this one's has.
    pub fn uninterrupted(&self, log: &[SourceRecord]) -> PartitionState {
        let parameters = self.state.parameters().clone();
        let mut state = crate::streams::new_state(PARTITION, (*parameters).clone(), log[0].offset);
        let final_through = self.state.progress().final_through;
        let mut outputs = Vec::new();
        let mut is_acknowledged = final_through == Watermark::NONE;
        for record in log.iter().filter(|record| record.offset < self.state.next().0) {
            state.apply(&borrowed(record), &mut outputs);
            if !is_acknowledged && state.watermark() == final_through && state.take_flush().is_some() {
                state.acknowledge_flush(state.next());
                is_acknowledged = true;
            }
        }
        state.skip_to(self.state.next());
        state
    }
}

/// One thing that happens to a living process.
pub fn something_happens(dice: &mut Dice, world: &mut World, process: &mut Process) {
    match dice.below(12) {
        0..4 => process.take_records(&world.log, dice.below(6), dice.chance(30)),
        4..7 => world.commit(process, 1 + dice.below(3)),
        7 => process.take_flush(),
        8 => world.write_flush(process),
        9 => process.acknowledge_flush(),
        10 => process.take_snapshot(dice.chance(20)),
        _ => world.store_snapshot(process),
    }
}
