//! The delivery modes: in which order the steps of a transaction go, and what a doubt means.

use std::collections::VecDeque;
use std::sync::Arc;

use super::steps::{OffsetCommit, Step};
use crate::mutants::{self, Mutant};
use crate::protocol::output::OutputRecord;

/// The delivery guarantee.
///
/// | mode | what may happen to an output when the process dies | order |
/// | --- | --- | --- |
/// | exactly-once | nothing | outputs and offsets in one transaction |
/// | at-least-once | it is written twice | outputs, then offsets |
/// | at-most-once | it is missing | offsets, then outputs |
///
/// State, counters and statistics are exact in each of them: they are rebuilt from the log, whose offsets are committed in
/// each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    ExactlyOnce,
    AtLeastOnce,
    AtMostOnce,
}

impl DeliveryMode {
    /// Whether a recovery looks for outputs that are there already, to leave them out.
    ///
    /// At-least-once does without: repeating is what it allows. At-most-once finds none that it wrote itself, but a former
    /// run in another mode may have written ahead of its offset, and died.
    #[must_use]
    pub fn reads_outputs_back(self) -> bool {
        self != Self::AtLeastOnce
    }
}

/// The one place that knows the order of steps. The last of them decides.
///
/// Exactly-once: outputs first, offsets last (3.2 round trips; the other order takes 5.2), and one commit for both.
pub fn plan(mode: DeliveryMode, outputs: Vec<Arc<OutputRecord>>, commits: Vec<OffsetCommit>) -> VecDeque<Step> {
    let produce = (!outputs.is_empty()).then_some(Step::Produce(outputs));
    let steps = match mode {
        DeliveryMode::ExactlyOnce if mutants::is(Mutant::OutputsCommittedBeforeTheirOffsets) => vec![
            Some(Step::Begin),
            produce,
            Some(Step::Commit),
            Some(Step::Begin),
            Some(Step::SendOffsets(commits)),
            Some(Step::Commit),
        ],
        DeliveryMode::ExactlyOnce if mutants::is(Mutant::OffsetsCommittedBeforeTheirOutputs) => vec![
            Some(Step::Begin),
            Some(Step::SendOffsets(commits)),
            Some(Step::Commit),
            Some(Step::Begin),
            produce,
            Some(Step::Commit),
        ],
        DeliveryMode::ExactlyOnce => {
            vec![Some(Step::Begin), produce, Some(Step::SendOffsets(commits)), Some(Step::Commit)]
        }
        DeliveryMode::AtLeastOnce => vec![produce, Some(Step::CommitOffsets(commits))],
        DeliveryMode::AtMostOnce => vec![Some(Step::CommitOffsets(commits)), produce],
    };
    steps.into_iter().flatten().collect()
}
