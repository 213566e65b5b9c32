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
    /// Statistics are written before the commit that covers them.
    StatisticsWrittenBeforeTheirCommit,
}

/// Every one.
#[cfg(feature = "mutants")]
pub const ALL: [Mutant; 12] = [
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
