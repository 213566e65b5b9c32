//! Deliberate errors, for the proof that the simulation finds each of them. Never part of the service: without the feature
//! `mutants`, which only that proof is built with, every question here is answered `false` while compiling.

/// One deliberate error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Outputs are committed ahead of their offsets, in a transaction of their own.
    OutputsCommittedBeforeTheirOffsets,
    /// The offsets are committed ahead of the outputs.
    OffsetsCommittedBeforeTheirOutputs,
    /// The writer goes on after an answer that never came.
    WriterReusedAfterATimeOut,
    /// A commit without an answer is taken for done.
    EffectsDroppedOnAnAmbiguousCommit,
    /// Records before the committed offset have their outputs written again.
    ReplayNotSuppressed,
    /// A replay begins one record behind the first that an open window needs.
    HorizonOneTooHigh,
    /// A replay begins at the committed offset.
    HorizonAtTheCommittedOffset,
    /// A replay opens windows that were closed for good.
    ClosedWindowsOpenedAgain,
    /// A snapshot gives counters back, and not what they have counted.
    DuplicatesNotRestored,
    /// A snapshot is stored before the commit that covers it.
    SnapshotStoredBeforeItsCommit,
    /// A first start counts as committed before it is.
    FirstStartTakenForCommitted,
    /// A kept state is taken up as if it had taken what was committed since.
    KeptStateTakenForCommitted,
    /// An offset that somebody else has moved to where this process wanted it is taken for its own commit.
    CommitOfAnotherTakenForOwn,
    /// Who is in doubt replaces the writer without asking the group whether it is still a member.
    MembershipNotAskedFor,
    /// After an abort the writer is used on.
    WriterKeptAfterAnAbort,
    /// Outputs that are found ahead of the committed offset are written once more.
    OutputsFoundAheadWrittenAgain,
    /// A snapshot gives counters back, and not how far event time had come.
    WatermarkNotRestored,
    /// Statistics are written before the commit that covers them.
    StatisticsWrittenBeforeTheirCommit,
}

/// Every one.
#[cfg(feature = "mutants")]
pub const ALL: [Mutant; 18] = [
    Mutant::OutputsCommittedBeforeTheirOffsets,
    Mutant::OffsetsCommittedBeforeTheirOutputs,
    Mutant::WriterReusedAfterATimeOut,
    Mutant::EffectsDroppedOnAnAmbiguousCommit,
    Mutant::ReplayNotSuppressed,
    Mutant::HorizonOneTooHigh,
    Mutant::HorizonAtTheCommittedOffset,
    Mutant::ClosedWindowsOpenedAgain,
    Mutant::DuplicatesNotRestored,
    Mutant::SnapshotStoredBeforeItsCommit,
    Mutant::FirstStartTakenForCommitted,
    Mutant::KeptStateTakenForCommitted,
    Mutant::CommitOfAnotherTakenForOwn,
    Mutant::MembershipNotAskedFor,
    Mutant::WriterKeptAfterAnAbort,
    Mutant::OutputsFoundAheadWrittenAgain,
    Mutant::WatermarkNotRestored,
    Mutant::StatisticsWrittenBeforeTheirCommit,
];

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Puts one error into this thread, or takes it out.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// Whether that error is in.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// No error is in.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline]
pub const fn is(_mutant: Mutant) -> bool {
    false
}
