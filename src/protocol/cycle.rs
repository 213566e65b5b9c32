//! The commit cycle: when a transaction is made, in which order its steps go, and what each outcome means.
//!
//! Promise: an effect leaves the buffer only when its commit is known to be decided. Whenever anything leaves room for
//! doubt, the writer is replaced (which settles the old transaction and fences every delayed request of it), and both
//! the committed offsets and the outputs themselves are read back before anything is sent again.
//!
//! Sans-IO: [`CommitCycle::next_step`] says what to do, the caller does it and reports to [`CommitCycle::outcome`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Progress;
use crate::domain::rule::Parameters;
use crate::protocol::metadata::{LogIdentity, Metadata};
use crate::protocol::output::{Effects, OutputId, OutputRecord};

/// Milliseconds of a clock that never goes back. What it counts from does not matter.
pub type MonotonicMs = u64;

/// What the delivery guarantee is; it decides the order of the steps, in [`plan`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    ExactlyOnce,
}

#[derive(Debug, Clone, Copy)]
pub struct CycleSettings {
    pub mode: DeliveryMode,
    /// Longest time between moving offsets and their commit.
    pub max_commit_interval_ms: u64,
    /// Pause after a commit before the next transaction touches the coordinator. While the markers of the previous one
    /// are being written the broker answers CONCURRENT_TRANSACTIONS, and the client then waits 20 ms.
    pub settle_ms: u64,
    /// Outputs of one partition in one transaction.
    pub outputs_per_commit_max: usize,
    /// An idle partition's offset is committed again after this time, so that the group does not forget it.
    pub recommit_ms: u64,
}

/// One partition's part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    pub partition: PartitionId,
    pub offset: Offset,
    pub metadata: String,
}

/// What is to be read back of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBackRequest {
    pub partition: PartitionId,
    /// Outputs whose source offset is at or behind this are looked for.
    pub outputs_from: Offset,
    /// When the transaction before the one in doubt was committed, epoch ms.
    pub since_ms: i64,
}

/// What the log holds of one partition once the writer is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    pub partition: PartitionId,
    pub committed: Option<Offset>,
    pub outputs: HashSet<OutputId>,
}

/// One thing to do against the log. The caller does it, waits for its end, and reports the [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Drop the writer, make a new one, and settle whatever the old one left (`init_transactions`).
    ReplaceWriter,
    Begin,
    Produce(Vec<Arc<OutputRecord>>),
    SendOffsets(Vec<OffsetCommit>),
    Commit,
    Abort,
    /// After a fencing error: is this process still a member of the group under its own id?
    ProbeMembership,
    /// Read stable committed offsets, and the outputs, back.
    ReadBack(Vec<ReadBackRequest>),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Done, but something on the way leaves room for a delayed duplicate: a retry, a lost connection, a time-out.
    DoneDisturbed(String),
    /// Not done, may be tried again as it is.
    Retriable(String),
    /// The transaction cannot be committed any more; it can be aborted.
    Abortable(String),
    /// A newer writer with the same id exists, or the coordinator gave up on this one.
    Fenced(String),
    /// Anything else: whether it took effect is unknown.
    Doubtful(String),
    Membership {
        replaced: bool,
    },
    ReadBack(Vec<ReadBack>),
}

/// What the caller must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Everything before `through` took effect, once.
    Committed {
        partition: PartitionId,
        through: Offset,
        /// Outputs that this commit holds, for the latency metric.
        outputs: Vec<Arc<OutputRecord>>,
    },
    /// A transaction was given up; its effects stay in the buffer.
    Aborted(String),
    WriterReplaced,
    /// The log's committed offset is neither the old nor the new one: somebody else moved it. Recover it anew.
    Moved {
        partition: PartitionId,
        found: Option<Offset>,
        expected: Offset,
    },
    /// A newer process with the same id has taken over.
    Replaced,
    /// A step failed and will be tried again.
    Trouble(String),
}

/// What the buffer holds of one partition.
struct Ledger {
    parameters: Arc<Parameters>,
    identity: LogIdentity,
    partitions_at_first_start: i32,
    committed: Progress,
    committed_at_ms: i64,
    committed_tick: MonotonicMs,
    /// Decided by nobody yet, oldest first. The head may be shared with the running transaction.
    queue: VecDeque<Effects>,
    /// Outputs that the log held already when the partition was recovered or settled.
    written_already: HashSet<OutputId>,
    /// Where the log's offset stands although outputs before it are missing, while they are on their way again.
    torn_at: Option<Offset>,
    /// Nothing was ever committed: the start itself must be, before the first record is read.
    owes_first_commit: bool,
}

/// A transaction between its first step and its decision.
struct Transaction {
    parts: Vec<(PartitionId, Effects)>,
    steps: VecDeque<Step>,
    in_doubt: bool,
}

/// What `open` needs to know of a partition.
pub struct OpenPartition {
    pub partition: PartitionId,
    pub parameters: Arc<Parameters>,
    pub identity: LogIdentity,
    pub partitions_at_first_start: i32,
    /// The partition as of its committed offset.
    pub committed: Progress,
    pub committed_at_ms: i64,
    pub written_already: HashSet<OutputId>,
    pub owes_first_commit: bool,
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
    replaced: bool,
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
            replaced: false,
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
            committed_at_ms: open.committed_at_ms,
            committed_tick: now,
            queue,
            written_already: open.written_already,
            torn_at: None,
            owes_first_commit: open.owes_first_commit,
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
        transaction.parts.retain(|(part, _)| *part != partition);
        if transaction.parts.len() < parts {
            self.doubt();
        }
    }

    /// Takes the effects of the next records of a partition.
    pub fn effects(&mut self, partition: PartitionId, effects: Effects) {
        let outputs_max = self.settings.outputs_per_commit_max;
        let Some(ledger) = self.ledgers.get_mut(&partition) else { return };
        let Effects { progress, mut outputs } = effects;
        if !ledger.written_already.is_empty() {
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
        let under_way = self.transaction.iter().flat_map(|it| &it.parts).map(|(_, effects)| effects.outputs.len());
        queued.sum::<usize>() + under_way.sum::<usize>()
    }

    #[must_use]
    pub fn writer_ready(&self) -> bool {
        self.writer_ready
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
        if since_commit >= self.settings.settle_ms && queued.any(|effects| !effects.outputs.is_empty()) {
            return true;
        }
        self.ledgers.values().any(|ledger| now.saturating_sub(ledger.committed_tick) >= self.settings.recommit_ms)
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
        let pause = if has_outputs { self.settings.settle_ms } else { self.settings.max_commit_interval_ms };
        Some((self.last_commit + pause).max(self.not_before).saturating_sub(now))
    }

    /// Takes the oldest undecided effects of every partition into a new transaction.
    fn compose(&mut self, now: MonotonicMs, wall_ms: i64) -> Option<Transaction> {
        self.commit_at_once = false;
        let recommit_ms = self.settings.recommit_ms;
        let mut parts = Vec::new();
        for (&partition, ledger) in &mut self.ledgers {
            if let Some(effects) = ledger.queue.pop_front() {
                parts.push((partition, effects));
            } else if now.saturating_sub(ledger.committed_tick) >= recommit_ms {
                parts.push((partition, Effects { progress: ledger.committed, outputs: Vec::new() }));
            }
        }
        if parts.is_empty() {
            return None;
        }
        let outputs: Vec<_> = parts.iter().flat_map(|(_, effects)| effects.outputs.iter().cloned()).collect();
        let commits = parts.iter().filter_map(|(partition, effects)| {
            let ledger = self.ledgers.get(partition)?;
            let metadata = Metadata::new(
                &effects.progress,
                &ledger.parameters,
                ledger.identity.clone(),
                ledger.partitions_at_first_start,
                wall_ms,
            );
            let offset = effects.progress.next.offset;
            Some(OffsetCommit { partition: *partition, offset, metadata: metadata.to_text() })
        });
        let steps = plan(self.settings.mode, outputs, commits.collect());
        Some(Transaction { parts, steps, in_doubt: false })
    }

    fn read_back_requests(&self) -> Vec<ReadBackRequest> {
        let parts = self.transaction.iter().flat_map(|transaction| &transaction.parts);
        parts
            .filter_map(|(partition, _)| {
                let ledger = self.ledgers.get(partition)?;
                Some(ReadBackRequest {
                    partition: *partition,
                    outputs_from: ledger.committed.next.offset,
                    since_ms: ledger.committed_at_ms,
                })
            })
            .collect()
    }

    /// Takes the outcome of the step that [`CommitCycle::next_step`] gave last.
    pub fn outcome(&mut self, outcome: Outcome, now: MonotonicMs, wall_ms: i64) -> Vec<Notice> {
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
            (Step::ReadBack(_), Outcome::ReadBack(found)) => self.settle(found, now, wall_ms),
            (Step::Commit, Outcome::Done) => self.decide_committed(now, wall_ms),
            (Step::Abort, _) => {
                self.doubt();
                Vec::new()
            }
            (_, Outcome::Done) => {
                self.failures = 0;
                Vec::new()
            }
            (Step::Commit, Outcome::DoneDisturbed(why)) => {
                self.doubt();
                vec![Notice::Trouble(format!("commit answered after a disturbance, verifying it: {why}"))]
            }
            (_, Outcome::DoneDisturbed(_)) => Vec::new(),
            (step, failure) => self.failed(step, failure, now),
        }
    }

    fn failed(&mut self, step: Step, failure: Outcome, now: MonotonicMs) -> Vec<Notice> {
        self.failures = self.failures.saturating_add(1);
        match failure {
            Outcome::Retriable(why) if self.failures <= RETRIES_MAX => {
                self.back_off(now);
                let again = !matches!(step, Step::ReplaceWriter | Step::ProbeMembership | Step::ReadBack(_));
                if again && let Some(transaction) = &mut self.transaction {
                    transaction.steps.push_front(step);
                }
                vec![Notice::Trouble(why)]
            }
            Outcome::Abortable(why) if !self.in_doubt() => {
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
        self.probe_membership = true;
        self.writer_ready = false;
        if let Some(transaction) = &mut self.transaction {
            transaction.in_doubt = true;
            transaction.steps.clear();
        }
    }

    fn back_off(&mut self, now: MonotonicMs) {
        let delay = 20_u64.saturating_mul(1 << self.failures.min(10));
        self.not_before = now + delay.min(BACK_OFF_MAX_MS);
    }

    fn decide_committed(&mut self, now: MonotonicMs, wall_ms: i64) -> Vec<Notice> {
        self.failures = 0;
        let Some(transaction) = self.transaction.take() else { return Vec::new() };
        self.last_commit = now;
        let parts = transaction.parts.into_iter();
        parts.filter_map(|(partition, effects)| self.part_committed(partition, effects, now, wall_ms)).collect()
    }

    fn part_committed(
        &mut self,
        partition: PartitionId,
        effects: Effects,
        now: MonotonicMs,
        wall_ms: i64,
    ) -> Option<Notice> {
        let ledger = self.ledgers.get_mut(&partition)?;
        ledger.committed = effects.progress;
        ledger.committed_at_ms = wall_ms;
        ledger.committed_tick = now;
        ledger.torn_at = None;
        ledger.owes_first_commit = false;
        Some(Notice::Committed { partition, through: effects.progress.next.offset, outputs: effects.outputs })
    }

    /// Judges a transaction in doubt by what the log holds. Neither the offset nor the outputs are believed alone: a
    /// delayed end of an earlier attempt may have torn the transaction either way.
    fn settle(&mut self, found: Vec<ReadBack>, now: MonotonicMs, wall_ms: i64) -> Vec<Notice> {
        let Some(transaction) = &self.transaction else { return Vec::new() };
        let read_back_of = |partition| found.iter().find(|read_back| read_back.partition == partition);
        if let Some((unread, _)) = transaction.parts.iter().find(|(partition, _)| read_back_of(*partition).is_none()) {
            let why = format!("nothing was read back of partition {unread}");
            self.failures = self.failures.saturating_add(1);
            self.back_off(now);
            return vec![Notice::Trouble(why)];
        }
        self.failures = 0;
        let Some(transaction) = self.transaction.take() else { return Vec::new() };
        let mut notices = Vec::new();
        for (partition, mut effects) in transaction.parts {
            let Some(ledger) = self.ledgers.get_mut(&partition) else { continue };
            let Some(read_back) = read_back_of(partition) else { continue };
            let (before, after) = (ledger.committed.next.offset, effects.progress.next.offset);
            let unmoved = read_back.committed == Some(before)
                || (ledger.owes_first_commit && read_back.committed.is_none())
                || (ledger.torn_at.is_some() && ledger.torn_at == read_back.committed);
            let moved = read_back.committed == Some(after);
            if !moved && !unmoved {
                // Somebody else's word counts now: nothing more goes out before the partition is recovered anew.
                self.ledgers.remove(&partition);
                notices.push(Notice::Moved { partition, found: read_back.committed, expected: after });
                continue;
            }
            let (written, missing): (Vec<_>, Vec<_>) =
                effects.outputs.drain(..).partition(|output| read_back.outputs.contains(&output.id));
            if moved && missing.is_empty() {
                effects.outputs = written;
                notices.extend(self.part_committed(partition, effects, now, wall_ms));
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
        self.last_commit = now;
        self.commit_at_once = true;
        notices
    }
}

/// The one place that knows the order of steps.
///
/// Exactly-once: outputs first, offsets last (3.2 round trips; the other order takes 5.2), and one commit for both.
fn plan(mode: DeliveryMode, outputs: Vec<Arc<OutputRecord>>, commits: Vec<OffsetCommit>) -> VecDeque<Step> {
    match mode {
        DeliveryMode::ExactlyOnce => {
            let mut steps = VecDeque::from([Step::Begin]);
            if !outputs.is_empty() {
                steps.push_back(Step::Produce(outputs));
            }
            steps.extend([Step::SendOffsets(commits), Step::Commit]);
            steps
        }
    }
}

#[cfg(test)]
#[path = "cycle_tests.rs"]
mod tests;
