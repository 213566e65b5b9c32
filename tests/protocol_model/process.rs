//! The service's side: what one process knows, and what it does next.

/// A deliberate error, which the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The committed offset is read while a commit of it is not decided.
    UnstableOffsetIsRead,
    /// Outputs are read back before it is decided which of them count.
    OpenOutputsAreNotWaitedFor,
    /// What is found ahead of the offset is written once more.
    OutputsFoundAheadAreWrittenAgain,
    /// The writer goes on after an answer that never came.
    WriterIsReusedAfterATimeOut,
    /// A commit without an answer is taken for done.
    AmbiguousCommitIsBelieved,
    /// A commit without an answer is taken for not done.
    AmbiguousCommitIsRepeated,
    /// The group takes offsets from whoever sends them.
    OffsetsWithoutGeneration,
    /// Whoever is in doubt replaces the writer without asking the group whether it is still a member.
    MembershipIsNotAskedFor,
    /// After an abort the writer is used on.
    WriterIsKeptAfterAnAbort,
    /// The offset goes out in a transaction of its own, before the output.
    OffsetIsCommittedBeforeItsOutput,
}

/// A call of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Produce,
    SendOffset,
    Commit,
    /// Only of a mutant that has two transactions.
    CommitOutput,
}

/// What a process believes of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Belief {
    /// The record that comes next is the one at this offset.
    pub committed: u8,
    /// Outputs that were found in the log, one bit each: they are not written again.
    pub written: u8,
}

impl Belief {
    pub fn has_written(self, record: u8) -> bool {
        self.written & (1 << record) != 0
    }
}

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Down,
    /// Replaced; it does not come back.
    Left,
    /// Gets its first writer, before it joins.
    Initialise,
    Join,
    /// A member without the partition.
    Unassigned,
    ReadOffset,
    ReadOutputs {
        committed: u8,
    },
    Working(Belief, Step),
    Abort(Belief),
    /// Nothing is believed until the writer is replaced and the log was asked. `None`: the partition is lost anyway.
    Probe(Option<Belief>),
    Replace(Option<Belief>),
    Settle(Belief),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    pub epoch: u8,
    pub generation: u8,
    /// Another process had its id when it last did something: it could know.
    pub was_replaced: bool,
    pub at: At,
}

impl Process {
    pub fn new(at: At) -> Self {
        Self { epoch: 0, generation: 0, was_replaced: false, at }
    }

    /// After its commit, or when everything before is known: the next record, unless its output is there already.
    pub fn go_on(&mut self, belief: Belief, mutant: Option<Mutant>) {
        let is_written = belief.has_written(belief.committed);
        let writes_last = mutant == Some(Mutant::OffsetIsCommittedBeforeItsOutput);
        let step = if is_written || writes_last { Step::SendOffset } else { Step::Produce };
        self.at = At::Working(belief, step);
    }

    /// The call that follows in a transaction; `None`: it was the last.
    pub fn step_after(step: Step, mutant: Option<Mutant>) -> Option<Step> {
        let writes_last = mutant == Some(Mutant::OffsetIsCommittedBeforeItsOutput);
        match step {
            Step::Produce if writes_last => Some(Step::CommitOutput),
            Step::Produce => Some(Step::SendOffset),
            Step::SendOffset => Some(Step::Commit),
            Step::Commit if writes_last => Some(Step::Produce),
            Step::Commit | Step::CommitOutput => None,
        }
    }

    /// What it was in the middle of, if it was.
    pub fn is_in_a_transaction(&self) -> bool {
        matches!(self.at, At::Working(..) | At::Abort(_) | At::Probe(_) | At::Replace(_) | At::Settle(_))
    }

    pub fn has_the_partition(&self) -> bool {
        matches!(
            self.at,
            At::ReadOffset
                | At::ReadOutputs { .. }
                | At::Working(..)
                | At::Abort(_)
                | At::Probe(Some(_))
                | At::Replace(Some(_))
                | At::Settle(_)
        )
    }
}
