//! The commit cycle: when a transaction is made, in which order its steps go, and what each outcome means.
//!
//! Promise: an effect leaves the buffer only when its commit is known to be decided. Whenever anything leaves room for
//! doubt, the writer is replaced (which settles the old transaction and fences every delayed request of it), and both
//! the committed offsets and the outputs themselves are read back before anything is sent again.
//!
//! Sans-IO: [`CommitCycle::next_step`] says what to do, the caller does it and reports to [`CommitCycle::outcome`].

mod ledger;
mod plan;
mod settle;
mod steps;

use std::collections::{BTreeMap, VecDeque};

use crate::domain::ids::PartitionId;
use crate::domain::partition::Progress;
use crate::mutants::{self, Mutant};
use crate::protocol::metadata::Metadata;
use crate::protocol::output::Effects;
use ledger::Ledger;
pub use ledger::OpenPartition;
pub use plan::DeliveryMode;
use plan::plan;
pub use steps::{Notice, OffsetCommit, Outcome, ReadBack, ReadBackRequest, Step};

/// Milliseconds of a clock that never goes back. What it counts from does not matter.
pub type MonotonicMs = u64;

#[derive(Debug, Clone, Copy)]
pub struct CycleSettings {
    pub mode: DeliveryMode,
    /// Longest time between moving offsets and their commit.
    pub max_commit_interval_ms: u64,
    /// Pause after a commit before the next transaction touches the coordinator. While the markers of the previous one
    /// are being written the broker answers CONCURRENT_TRANSACTIONS, and the client then waits 20 ms.
    pub settle_ms: u64,
    /// The same pause while at least `catching_up_from` records of the log are not taken in yet.
    pub catch_up_pause_ms: u64,
    pub catching_up_from: i64,
    /// Outputs of one partition in one transaction.
    pub outputs_per_commit_max: usize,
    /// An idle partition's offset is committed again after this time, so that the group does not forget it.
    pub recommit_ms: u64,
}

/// What a transaction commits of one partition.
struct Part {
    partition: PartitionId,
    effects: Effects,
    /// As sent: an offset that is found under another text was committed by somebody else.
    metadata: String,
}

/// A transaction between its first step and its decision.
struct Transaction {
    /// Epoch ms: none of its outputs is older.
    began_ms: i64,
    parts: Vec<Part>,
    steps: VecDeque<Step>,
    in_doubt: bool,
}

/// See the module head.
pub struct CommitCycle {
    settings: CycleSettings,
    ledgers: BTreeMap<PartitionId, Ledger>,
    transaction: Option<Transaction>,
    current: Option<Step>,
    writer_ready: bool,
    probe_membership: bool,
    commit_at_once: bool,
    not_before: MonotonicMs,
    last_commit: MonotonicMs,
    failures: u32,
    /// Transactions in a row that were settled as not committed.
    in_vain: u32,
    replaced: bool,
    is_catching_up: bool,
}

const BACK_OFF_MAX_MS: u64 = 2_000;
/// A step that may be repeated is repeated this often, then the writer is replaced.
const RETRIES_MAX: u32 = 20;

impl CommitCycle {
    #[must_use]
    pub fn new(settings: CycleSettings) -> Self {
        Self {
            settings,
            ledgers: BTreeMap::new(),
            transaction: None,
            current: None,
            writer_ready: false,
            probe_membership: false,
            commit_at_once: false,
            not_before: 0,
            last_commit: 0,
            failures: 0,
            in_vain: 0,
            replaced: false,
            is_catching_up: false,
        }
    }

    /// The first writer is in place, its predecessor settled: done before the cycle begins, when there is no membership
    /// to lose yet.
    pub fn writer_is_ready(&mut self) {
        self.writer_ready = true;
    }

    /// Begins to keep the effects of a recovered partition.
    pub fn open(&mut self, open: OpenPartition, now: MonotonicMs) {
        let mut queue = VecDeque::new();
        if open.owes_first_commit {
            queue.push_back(Effects { progress: open.committed, outputs: Vec::new() });
        }
        let ledger = Ledger {
            parameters: open.parameters,
            identity: open.identity,
            partitions_at_first_start: open.partitions_at_first_start,
            committed: open.committed,
            committed_tick: now,
            queue,
            found_through: open.written_already.iter().map(|id| (id.offset, open.committed_at_ms)).max(),
            written_already: open.written_already,
            torn_at: None,
            owes_first_commit: open.owes_first_commit,
            never_committed: open.never_committed,
        };
        self.ledgers.insert(open.partition, ledger);
        self.commit_at_once |= open.owes_first_commit;
    }

    /// Forgets a partition that was revoked or lost, and every effect of it that is not decided.
    ///
    /// A transaction that holds some of them is given up: its later steps would write what now is somebody else's to
    /// write, and the broker would let them, because it checks the membership and not who owns the partition.
    pub fn close(&mut self, partition: PartitionId) {
        self.ledgers.remove(&partition);
        let Some(transaction) = &mut self.transaction else { return };
        let parts = transaction.parts.len();
        transaction.parts.retain(|part| part.partition != partition);
        if transaction.parts.len() < parts {
            self.doubt();
        }
    }

    /// Takes the effects of the next records of a partition.
    pub fn effects(&mut self, partition: PartitionId, effects: Effects) {
        let outputs_max = self.settings.outputs_per_commit_max;
        let Some(ledger) = self.ledgers.get_mut(&partition) else { return };
        let Effects { progress, mut outputs } = effects;
        if !ledger.written_already.is_empty() && !mutants::is(Mutant::OutputsFoundAheadWrittenAgain) {
            outputs.retain(|output| !ledger.written_already.remove(&output.id));
        }
        let newest = ledger.queue.back().map_or(ledger.committed, |tail| tail.progress);
        if outputs.is_empty() && progress == newest {
            return;
        }
        match ledger.queue.back_mut() {
            Some(tail) if tail.outputs.len() + outputs.len() <= outputs_max => {
                tail.progress = progress;
                tail.outputs.append(&mut outputs);
            }
            _ => ledger.queue.push_back(Effects { progress, outputs }),
        }
    }

    /// Commits what there is without waiting for the interval: before a partition is handed over, and at the end.
    pub fn commit_at_once(&mut self) {
        self.commit_at_once = true;
    }

    /// So many records of the log are not taken in yet. When they are many, outputs are committed less often: they are
    /// late whatever is done, and commits cost the broker what it needs to be read from.
    pub fn note_lag(&mut self, records: i64) {
        self.is_catching_up = records >= self.settings.catching_up_from;
    }

    /// Nothing is under way and nothing waits to be committed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.transaction.is_none() && self.ledgers.values().all(|ledger| ledger.queue.is_empty())
    }

    /// Whether a partition's committed offset exists, so that its records may be read.
    #[must_use]
    pub fn may_read(&self, partition: PartitionId) -> bool {
        self.ledgers.get(&partition).is_some_and(|ledger| !ledger.owes_first_commit)
    }

    #[must_use]
    pub fn committed(&self, partition: PartitionId) -> Option<Progress> {
        self.ledgers.get(&partition).map(|ledger| ledger.committed)
    }

    /// Outputs that wait for their commit.
    #[must_use]
    pub fn pending_outputs(&self) -> usize {
        let queued = self.ledgers.values().flat_map(|ledger| &ledger.queue).map(|effects| effects.outputs.len());
        let under_way = self.transaction.iter().flat_map(|it| &it.parts).map(|part| part.effects.outputs.len());
        queued.sum::<usize>() + under_way.sum::<usize>()
    }

    #[must_use]
    pub fn writer_ready(&self) -> bool {
        self.writer_ready
    }

    /// A commit was begun and is not decided.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.transaction.is_some()
    }

    /// A transaction exists whose fate is unknown, or the writer is away.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        !self.writer_ready || self.transaction.as_ref().is_some_and(|transaction| transaction.in_doubt)
    }

    /// What to do now; `None` when there is nothing to do yet. `wall_ms` is stamped into the commit metadata.
    pub fn next_step(&mut self, now: MonotonicMs, wall_ms: i64) -> Option<Step> {
        debug_assert!(self.current.is_none(), "a step is reported before the next one is asked for");
        if self.replaced || now < self.not_before {
            return None;
        }
        let step = self.choose(now, wall_ms)?;
        self.current = Some(step.clone());
        Some(step)
    }

    fn choose(&mut self, now: MonotonicMs, wall_ms: i64) -> Option<Step> {
        if self.probe_membership {
            return Some(Step::ProbeMembership);
        }
        if !self.writer_ready {
            return Some(Step::ReplaceWriter);
        }
        if self.transaction.as_ref().is_some_and(|transaction| transaction.in_doubt) {
            return Some(Step::ReadBack(self.read_back_requests()));
        }
        if self.transaction.is_none() && self.is_due(now) {
            self.transaction = self.compose(now, wall_ms);
        }
        self.transaction.as_mut()?.steps.pop_front()
    }

    fn is_due(&self, now: MonotonicMs) -> bool {
        let since_commit = now.saturating_sub(self.last_commit);
        if self.commit_at_once {
            return true;
        }
        let mut queued = self.ledgers.values().filter_map(|ledger| ledger.queue.front()).peekable();
        if queued.peek().is_some() && since_commit >= self.settings.max_commit_interval_ms {
            return true;
        }
        if since_commit >= self.pause_before_outputs() && queued.any(|effects| !effects.outputs.is_empty()) {
            return true;
        }
        self.ledgers.values().any(|ledger| now.saturating_sub(ledger.committed_tick) >= self.settings.recommit_ms)
    }

    fn pause_before_outputs(&self) -> MonotonicMs {
        let CycleSettings { settle_ms, catch_up_pause_ms, max_commit_interval_ms, .. } = self.settings;
        // When a transaction's fill waits already, waiting for more saves nothing.
        let is_full = self.ledgers.values().any(|ledger| ledger.queue.len() > 1);
        if self.is_catching_up && !is_full { catch_up_pause_ms.min(max_commit_interval_ms) } else { settle_ms }
    }

    /// How long there is nothing to do, if nothing else comes; `None` when only something else can change that.
    #[must_use]
    pub fn due_in(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        if self.transaction.is_some() || !self.writer_ready || self.commit_at_once {
            return Some(self.not_before.saturating_sub(now));
        }
        let mut queued = self.ledgers.values().filter_map(|ledger| ledger.queue.front()).peekable();
        queued.peek()?;
        let has_outputs = queued.any(|effects| !effects.outputs.is_empty());
        let pause = if has_outputs { self.pause_before_outputs() } else { self.settings.max_commit_interval_ms };
        Some((self.last_commit + pause).max(self.not_before).saturating_sub(now))
    }

    /// Takes the oldest undecided effects of every partition into a new transaction.
    fn compose(&mut self, now: MonotonicMs, wall_ms: i64) -> Option<Transaction> {
        self.commit_at_once = false;
        let recommit_ms = self.settings.recommit_ms;
        let mut parts = Vec::new();
        for (&partition, ledger) in &mut self.ledgers {
            let effects = match ledger.queue.pop_front() {
                Some(effects) => effects,
                None if now.saturating_sub(ledger.committed_tick) >= recommit_ms => {
                    Effects { progress: ledger.committed, outputs: Vec::new() }
                }
                None => continue,
            };
            let metadata = Metadata::new(
                &effects.progress,
                &ledger.parameters,
                ledger.identity.clone(),
                ledger.partitions_at_first_start,
                ledger.outputs_since(effects.progress.next.offset, wall_ms),
            );
            parts.push(Part { partition, effects, metadata: metadata.to_text() });
        }
        if parts.is_empty() {
            return None;
        }
        let outputs = parts.iter().flat_map(|part| part.effects.outputs.iter().cloned()).collect();
        let commits = parts.iter().map(|part| OffsetCommit {
            partition: part.partition,
            offset: part.effects.progress.next.offset,
            metadata: part.metadata.clone(),
        });
        let steps = plan(self.settings.mode, outputs, commits.collect());
        Some(Transaction { began_ms: wall_ms, parts, steps, in_doubt: false })
    }

    fn read_back_requests(&self) -> Vec<ReadBackRequest> {
        let reads_outputs = self.settings.mode == DeliveryMode::ExactlyOnce;
        let began_ms = self.transaction.as_ref().map_or(0, |transaction| transaction.began_ms);
        let parts = self.transaction.iter().flat_map(|transaction| &transaction.parts);
        parts
            .filter_map(|part| {
                let ledger = self.ledgers.get(&part.partition)?;
                Some(ReadBackRequest {
                    partition: part.partition,
                    outputs_from: reads_outputs.then_some(ledger.committed.next.offset),
                    since_ms: began_ms,
                })
            })
            .collect()
    }

    /// Takes the outcome of the step that [`CommitCycle::next_step`] gave last.
    pub fn outcome(&mut self, outcome: Outcome, now: MonotonicMs) -> Vec<Notice> {
        let Some(step) = self.current.take() else { return Vec::new() };
        match (step, outcome) {
            (Step::ReplaceWriter, Outcome::Done | Outcome::DoneDisturbed(_)) => {
                self.failures = 0;
                self.writer_ready = true;
                vec![Notice::WriterReplaced]
            }
            (Step::ProbeMembership, Outcome::Membership { replaced: true }) => {
                self.replaced = true;
                vec![Notice::Replaced]
            }
            (Step::ProbeMembership, Outcome::Membership { replaced: false }) => {
                self.probe_membership = false;
                Vec::new()
            }
            (Step::ReadBack(_), Outcome::ReadBack(found)) => self.settle(found, now),
            (Step::Abort, _) => {
                self.doubt();
                self.writer_ready |= mutants::is(Mutant::WriterKeptAfterAnAbort);
                Vec::new()
            }
            (Step::Commit, Outcome::DoneDisturbed(why)) => {
                self.doubt();
                vec![Notice::Trouble(format!("commit answered after a disturbance, verifying it: {why}"))]
            }
            // A disturbance before a transaction's commit shows in the commit. What is written outside of one is written,
            // however often it was asked for.
            (_, Outcome::Done | Outcome::DoneDisturbed(_)) => {
                self.failures = 0;
                let is_carried_out = |it: &Transaction| it.steps.is_empty() && !it.in_doubt;
                if self.transaction.as_ref().is_some_and(is_carried_out) {
                    return self.decide_committed(now);
                }
                Vec::new()
            }
            (Step::Produce(_), failure) if self.settings.mode == DeliveryMode::AtMostOnce => {
                self.failures = self.failures.saturating_add(1);
                self.back_off(now);
                self.give_outputs_up(failure.into_text(), now)
            }
            (step, failure) => self.failed(step, failure, now),
        }
    }

    fn failed(&mut self, step: Step, failure: Outcome, now: MonotonicMs) -> Vec<Notice> {
        self.failures = self.failures.saturating_add(1);
        match failure {
            Outcome::Retriable(why) if self.failures <= RETRIES_MAX => {
                self.back_off(now);
                // A successor may have come meanwhile.
                if step == Step::ReplaceWriter {
                    self.doubt();
                }
                let again = !matches!(step, Step::ReplaceWriter | Step::ProbeMembership | Step::ReadBack(_));
                if again && let Some(transaction) = &mut self.transaction {
                    transaction.steps.push_front(step);
                }
                vec![Notice::Trouble(why)]
            }
            Outcome::Abortable(why) if !self.in_doubt() && self.settings.mode == DeliveryMode::ExactlyOnce => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.steps = VecDeque::from([Step::Abort]);
                }
                vec![Notice::Aborted(why)]
            }
            Outcome::Fenced(why) => {
                self.doubt();
                self.back_off(now);
                vec![Notice::Trouble(format!("fenced: {why}"))]
            }
            Outcome::Doubtful(_) if step == Step::Commit && mutants::is(Mutant::EffectsDroppedOnAnAmbiguousCommit) => {
                self.decide_committed(now)
            }
            Outcome::Doubtful(why) | Outcome::Retriable(why) | Outcome::Abortable(why) => {
                if !matches!(step, Step::ReadBack(_)) {
                    self.doubt();
                }
                self.back_off(now);
                vec![Notice::Trouble(why)]
            }
            _ => Vec::new(),
        }
    }

    /// From here on nothing is believed until a new writer has settled the old transaction and it was read back.
    ///
    /// A new writer fences whoever holds the id now. That may be a successor of this very process, so the group is asked
    /// first: this process may have been frozen, and replaced, while it believed to be waiting for an answer.
    fn doubt(&mut self) {
        self.probe_membership = !mutants::is(Mutant::MembershipNotAskedFor);
        self.writer_ready = mutants::is(Mutant::WriterReusedAfterATimeOut);
        if let Some(transaction) = &mut self.transaction {
            transaction.in_doubt = true;
            transaction.steps.clear();
        }
    }

    fn back_off(&mut self, now: MonotonicMs) {
        self.not_before = now + pause_after(self.failures);
    }
}

fn pause_after(failures: u32) -> u64 {
    20_u64.saturating_mul(1 << failures.min(10)).min(BACK_OFF_MAX_MS)
}

#[cfg(test)]
mod tests;
