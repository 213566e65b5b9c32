//! Deliberate errors, for the proof that the simulation finds each of them. Never part of the service: without the feature
//! `mutants`, which only that proof is built with, every question here is answered `false` while compiling.

/// One deliberate error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Committed offsets are read while a predecessor could still move them.
    OffsetsReadBeforeTheWriterIsSettled,
    /// Outputs are committed ahead of their offsets, in a transaction of their own.
    OutputsCommittedBeforeTheirOffsets,
    /// The offsets are committed ahead of the outputs.
    OffsetsCommittedBeforeTheirOutputs,
    /// The writer goes on after an answer that never came.
    WriterReusedAfterATimeOut,
    /// A commit without an answer is taken for done.
    EffectsDroppedOnAnAmbiguousCommit,
    /// A commit that was answered after a disturbance is believed.
    DisturbedCommitBelieved,
    /// After a doubt the offset alone decides.
    OffsetAloneDecidesADoubt,
    /// A doubt is not settled with the group, before the writer is replaced.
    MembershipNotAskedFor,
    /// What a recovery finds written already is written again.
    OutputsFoundAheadWrittenAgain,
    /// Records before the committed offset have their outputs written again.
    ReplayNotSuppressed,
    /// A replay begins one record behind the first that an open window needs.
    HorizonOneTooHigh,
    /// A replay begins at the committed offset.
    HorizonAtTheCommittedOffset,
    /// A replay begins without the watermark of its first record.
    WatermarkNotRestored,
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
    /// A transaction goes on with the effects of a partition that was taken away.
    EffectsOfALostPartitionCommitted,
    /// The recovery does not look again when the offset moved meanwhile.
    MovedOffsetOverlooked,
}

/// Every one.
#[cfg(feature = "mutants")]
pub const ALL: [Mutant; 20] = [
    Mutant::OffsetsReadBeforeTheWriterIsSettled,
    Mutant::OutputsCommittedBeforeTheirOffsets,
    Mutant::OffsetsCommittedBeforeTheirOutputs,
    Mutant::WriterReusedAfterATimeOut,
    Mutant::EffectsDroppedOnAnAmbiguousCommit,
    Mutant::DisturbedCommitBelieved,
    Mutant::OffsetAloneDecidesADoubt,
    Mutant::MembershipNotAskedFor,
    Mutant::OutputsFoundAheadWrittenAgain,
    Mutant::ReplayNotSuppressed,
    Mutant::HorizonOneTooHigh,
    Mutant::HorizonAtTheCommittedOffset,
    Mutant::WatermarkNotRestored,
    Mutant::ClosedWindowsOpenedAgain,
    Mutant::DuplicatesNotRestored,
    Mutant::SnapshotStoredBeforeItsCommit,
    Mutant::FirstStartTakenForCommitted,
    Mutant::StatisticsWrittenBeforeTheirCommit,
    Mutant::EffectsOfALostPartitionCommitted,
    Mutant::MovedOffsetOverlooked,
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
