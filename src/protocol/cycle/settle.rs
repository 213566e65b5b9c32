//! How a transaction ends: known to be committed, or judged by what the log holds.

use super::plan::DeliveryMode;
use super::steps::{Notice, ReadBack};
use super::{CommitCycle, MonotonicMs, Part, pause_after};
use crate::domain::ids::PartitionId;
use crate::mutants::{self, Mutant};
use crate::protocol::output::Effects;

impl CommitCycle {
    pub(super) fn decide_committed(&mut self, now: MonotonicMs) -> Vec<Notice> {
        (self.failures, self.in_vain) = (0, 0);
        let Some(transaction) = self.transaction.take() else { return Vec::new() };
        self.last_commit = now;
        let parts = transaction.parts.into_iter();
        parts.filter_map(|part| self.part_committed(part.partition, part.effects, now)).collect()
    }

    /// At most once: the offsets are committed, and whether the outputs were written is unknown. They never go again.
    pub(super) fn give_outputs_up(&mut self, why: String, now: MonotonicMs) -> Vec<Notice> {
        let Some(transaction) = &mut self.transaction else { return Vec::new() };
        let mut outputs = 0;
        for part in &mut transaction.parts {
            outputs += std::mem::take(&mut part.effects.outputs).len();
        }
        let mut notices = vec![Notice::GivenUp { outputs, why }];
        notices.extend(self.decide_committed(now));
        // The writer that failed is not used again: what it still holds must not come late, behind newer outputs.
        self.doubt();
        notices
    }

    fn part_committed(&mut self, partition: PartitionId, effects: Effects, now: MonotonicMs) -> Option<Notice> {
        let ledger = self.ledgers.get_mut(&partition)?;
        ledger.committed = effects.progress;
        ledger.committed_tick = now;
        ledger.torn_at = None;
        (ledger.owes_first_commit, ledger.never_committed) = (false, false);
        Some(Notice::Committed { partition, through: effects.progress.next.offset, outputs: effects.outputs })
    }

    /// Judges a transaction in doubt by what the log holds. Neither the offset nor the outputs are believed alone: a
    /// delayed end of an earlier attempt may have torn the transaction either way.
    pub(super) fn settle(&mut self, found: Vec<ReadBack>, now: MonotonicMs) -> Vec<Notice> {
        let Some(transaction) = &self.transaction else { return Vec::new() };
        let read_back_of = |partition| found.iter().find(|read_back| read_back.partition == partition);
        if let Some(unread) = transaction.parts.iter().find(|part| read_back_of(part.partition).is_none()) {
            let why = format!("nothing was read back of partition {}", unread.partition);
            self.failures = self.failures.saturating_add(1);
            self.back_off(now);
            return vec![Notice::Trouble(why)];
        }
        self.failures = 0;
        let Some(transaction) = self.transaction.take() else { return Vec::new() };
        let mut notices = Vec::new();
        let mut given_up = 0;
        for Part { partition, mut effects, metadata } in transaction.parts {
            let Some(ledger) = self.ledgers.get_mut(&partition) else { continue };
            let Some(read_back) = read_back_of(partition) else { continue };
            let (before, after) = (ledger.committed.next.offset, effects.progress.next.offset);
            let committed = read_back.committed.as_ref().map(|(offset, _)| *offset);
            let unmoved = committed == Some(before)
                || (ledger.never_committed && committed.is_none())
                || (ledger.torn_at.is_some() && ledger.torn_at == committed);
            // A process that was thought dead may come upon the offset and the outputs that it wanted, and yet they are its
            // successor's: decided by other rules, perhaps, than its own state was.
            let is_ours = |text: &String| *text == metadata || mutants::is(Mutant::CommitOfAnotherTakenForOwn);
            let moved = committed == Some(after) && read_back.committed.as_ref().is_some_and(|(_, text)| is_ours(text));
            if !moved && !unmoved {
                if self.settings.mode == DeliveryMode::AtMostOnce {
                    // The recovery begins at what was found, and writes what lies behind it.
                    let outputs = effects.outputs.iter();
                    given_up += outputs.filter(|output| Some(output.id.offset) < committed).count();
                }
                // Somebody else's word counts now: nothing more goes out before the partition is recovered anew.
                let certain = (!ledger.never_committed).then_some(before);
                self.ledgers.remove(&partition);
                notices.push(Notice::Moved { partition, found: committed, expected: after, certain });
                continue;
            }
            if moved && !effects.outputs.is_empty() && self.settings.mode == DeliveryMode::AtMostOnce {
                // The outputs were not sent from here. But that it was this process that moved the offset is not certain: two that
                // were recovered from the same commit may send the same text. Whoever else did writes them.
                given_up += std::mem::take(&mut effects.outputs).len();
                notices.extend(self.part_committed(partition, effects, now));
                continue;
            }
            let (written, missing): (Vec<_>, Vec<_>) = effects.outputs.drain(..).partition(|output| {
                // Without transactions an offset never moves before the outputs, if they go first.
                let is_known = self.settings.mode == DeliveryMode::AtLeastOnce && moved;
                is_known || read_back.outputs.contains(&output.id)
            });
            if moved && missing.is_empty() {
                effects.outputs = written;
                notices.extend(self.part_committed(partition, effects, now));
            } else {
                // What is missing goes again, and so does the offset, even if it has moved.
                // Until then it may stand there, ahead of what is known to be committed.
                if moved {
                    ledger.torn_at = Some(after);
                }
                effects.outputs = missing;
                ledger.queue.push_front(effects);
            }
        }
        if given_up > 0 {
            let why = "the commit of their offsets was in doubt, and the offsets have moved".to_owned();
            notices.insert(0, Notice::GivenUp { outputs: given_up, why });
        }
        self.last_commit = now;
        self.commit_at_once = true;
        if notices.iter().any(|notice| matches!(notice, Notice::Committed { .. })) {
            self.in_vain = 0;
        } else {
            // The first time at once; a group that refuses again and again is not asked a hundred times a second.
            self.not_before = self.not_before.max(now + if self.in_vain > 0 { pause_after(self.in_vain) } else { 0 });
            self.in_vain += 1;
        }
        notices
    }
}
