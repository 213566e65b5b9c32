//! The state of one source partition: a pure function of its records, taken in offset order (contract §3).
//!
//! `apply` is the whole engine in one call: record in, state changed, outputs out. It must never look at a clock, and
//! never decide differently when the same records come again.

use std::sync::Arc;

use crate::domain::alert::Breach;
use crate::domain::duration::Millis;
use crate::domain::ids::{IdKey, Offset, PartitionId};
use crate::domain::record::{Rejection, SourceRecord, Transaction, validate};
use crate::domain::rule::Parameters;
use crate::domain::statistics::StatisticsFlush;
use crate::domain::statistics_state::StatisticsState;
use crate::domain::time::{Watermark, WindowStart};
use crate::domain::window::{Position, Taken, WindowClass};

/// What a record causes besides the change of state. The shell turns it into a record of an output topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Alert { rule: usize, user_id: Box<str>, body: Vec<u8> },
    DeadLetter(Rejection),
    Late { watermark: Watermark },
}

/// The one outcome that each record has for the metrics (contract §3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Counted,
    Duplicate,
    Late,
    DeadLetter,
}

/// What `apply` says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub outcome: Outcome,
    /// The record's key is not its `user_id`: its user may be spread over partitions.
    pub key_mismatch: bool,
}

/// How far a partition has come, in the terms of the commit metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The next record to be taken, and the watermark just before it.
    pub next: Position,
    /// Every window with an end at or before this is closed, and its statistics are acknowledged.
    pub final_through: Watermark,
    /// Where a replay must start to rebuild the rule windows that are open.
    pub horizon: Position,
    /// Where a replay must start to have again every statistics effect that is not acknowledged.
    pub statistics_horizon: Position,
    /// Minutes that start at or before this have lost records and are never written; `None` once all of them are final.
    pub statistics_gap: Option<Watermark>,
}

/// See the module head.
pub struct PartitionState {
    pub(super) topic: Arc<str>,
    pub(super) partition: PartitionId,
    pub(super) parameters: Arc<Parameters>,
    pub(super) classes: Vec<WindowClass>,
    pub(super) statistics: Option<StatisticsState>,
    pub(super) next: Offset,
    pub(super) watermark: Watermark,
    /// Windows with an end at or before this stay closed, whatever the watermark of a replay says.
    pub(super) closed_through: Watermark,
    /// Keys of windows and minutes that are gone since the last snapshot was taken.
    pub(super) unsaved_removals: Vec<Vec<u8>>,
}

impl PartitionState {
    /// The state of a partition of which nothing is open, about to take the record at `from`.
    ///
    /// `final_through` closes windows for ever: a replay that starts before some of their records must not open them.
    #[must_use]
    pub fn new(
        topic: Arc<str>,
        partition: PartitionId,
        parameters: Arc<Parameters>,
        from: Position,
        final_through: Watermark,
    ) -> Self {
        let classes = window_classes(&parameters);
        // No record before `from` has an effect that is not acknowledged, so what is closed there is final too.
        let acknowledged = Position { offset: from.offset, watermark: final_through.max(from.watermark) };
        let statistics = parameters.statistics.then(|| StatisticsState::new(parameters.orders, acknowledged));
        Self {
            topic,
            partition,
            parameters,
            classes,
            statistics,
            next: from.offset,
            watermark: from.watermark,
            closed_through: final_through,
            unsaved_removals: Vec::new(),
        }
    }

    /// Takes the next record. Its offset must not be behind [`PartitionState::next`]; gaps are transaction markers and
    /// aborted records, and mean nothing.
    pub fn apply(&mut self, record: &SourceRecord<'_>, outputs: &mut Vec<(Offset, Output)>) -> Applied {
        debug_assert!(record.offset >= self.next, "records are taken in order, each once");
        self.next = record.offset.next();
        match validate(record, self.parameters.max_future_skew) {
            Ok(transaction) => {
                let key_mismatch = record.key != Some(transaction.user_id.as_bytes());
                let outcome = self.take(record.offset, &transaction, outputs);
                Applied { outcome, key_mismatch }
            }
            Err(rejection) => {
                outputs.push((record.offset, Output::DeadLetter(rejection)));
                Applied { outcome: Outcome::DeadLetter, key_mismatch: false }
            }
        }
    }

    fn take(&mut self, offset: Offset, transaction: &Transaction<'_>, outputs: &mut Vec<(Offset, Output)>) -> Outcome {
        let here = Position { offset, watermark: self.watermark };
        let closed = self.watermark.max(self.closed_through);
        let user = IdKey::of(&transaction.user_id);
        let transaction_key = user.within(&transaction.transaction_id);
        let (mut late, mut counted) = (false, false);
        for at in 0..self.classes.len() {
            let class = &mut self.classes[at];
            let start = transaction.event_time.window_start(class.size);
            if closed.closes(start.end(class.size)) {
                late = true;
                continue;
            }
            let taken = class.window(start, here).take(user, transaction_key);
            if class.statistics
                && let Some(statistics) = &mut self.statistics
            {
                let shed = statistics.shed;
                let minute = statistics.minute(start, here);
                if taken != Taken::Duplicate && !shed {
                    minute.count(transaction, offset);
                }
            }
            if let Taken::Counted { transactions } = taken {
                counted = true;
                self.check_rules(at, start, user, transactions, offset, transaction, outputs);
            }
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.note_order(transaction, offset);
        }
        if late {
            outputs.push((offset, Output::Late { watermark: self.watermark }));
        }
        self.advance(self.watermark.advanced_by(transaction.event_time, self.parameters.out_of_orderness));
        match (late, counted) {
            (true, _) => Outcome::Late,
            (false, true) => Outcome::Counted,
            (false, false) => Outcome::Duplicate,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the pieces of one breach, split for the borrow checker")]
    fn check_rules(
        &mut self,
        class: usize,
        start: WindowStart,
        user: IdKey,
        transactions: u32,
        offset: Offset,
        transaction: &Transaction<'_>,
        outputs: &mut Vec<(Offset, Output)>,
    ) {
        let class = &mut self.classes[class];
        for &index in &class.rules {
            let history = &self.parameters.rules[index];
            if transactions <= history.lowest_threshold {
                continue;
            }
            let version = history.version_at(offset);
            let window = class.open.iter_mut().rev().find(|window| window.start == start);
            let Some(actor) = window.and_then(|window| window.users.get_mut(&user)) else { continue };
            if transactions > version.max_transactions && actor.raise(index) {
                let breach = Breach {
                    rule: &history.rule,
                    version,
                    window_start: start,
                    count: transactions,
                    transaction,
                    topic: &self.topic,
                    partition: self.partition,
                    offset,
                };
                let user_id = transaction.user_id.as_ref().into();
                outputs.push((offset, Output::Alert { rule: index, user_id, body: breach.to_json() }));
            }
        }
    }

    /// Raises the watermark and passivates what it closes.
    fn advance(&mut self, watermark: Watermark) {
        if watermark == self.watermark {
            return;
        }
        self.watermark = watermark;
        let mut minute_closed = false;
        for class in &mut self.classes {
            if class.oldest_end().is_some_and(|end| watermark.closes(end)) {
                for window in class.close(watermark) {
                    self.unsaved_removals.push(super::snapshot::window_prefix(class.size, window.start));
                }
                minute_closed |= class.statistics;
            }
        }
        if minute_closed && let Some(statistics) = &mut self.statistics {
            statistics.close(watermark);
        }
    }

    /// How far the partition has come, as of the record before [`Progress::next`].
    #[must_use]
    pub fn progress(&self) -> Progress {
        let next = Position { offset: self.next, watermark: self.watermark };
        let rules = self.classes.iter().filter(|class| !class.rules.is_empty());
        let horizon = rules.filter_map(WindowClass::horizon).min().unwrap_or(next);
        let (final_through, statistics_horizon) = match &self.statistics {
            Some(statistics) => (statistics.acknowledged.watermark, statistics.horizon(next)),
            None => (self.watermark.max(self.closed_through), next),
        };
        let statistics_gap = self.statistics.as_ref().and_then(StatisticsState::gap);
        Progress { next, final_through, horizon, statistics_horizon, statistics_gap }
    }

    /// Takes the statistics that changed since the last flush; `None` while one is on its way or nothing moved.
    pub fn take_flush(&mut self) -> Option<StatisticsFlush> {
        let now = Position { offset: self.next, watermark: self.watermark };
        self.statistics.as_mut()?.take_flush(self.partition, now)
    }

    /// The flush up to `through` is in the database.
    pub fn acknowledge_flush(&mut self, through: Offset) {
        if let Some(statistics) = &mut self.statistics {
            for minute in statistics.acknowledge(through) {
                self.unsaved_removals.push(super::snapshot::minute_prefix(minute.start));
            }
        }
    }

    /// Takes a state up again that stood still while others went on with the partition: a snapshot in memory, at any offset
    /// that a snapshot could have.
    ///
    /// What is final by now is closed; of the rest nobody knows what the database has: every row goes again.
    pub fn take_up(&mut self, parameters: Arc<Parameters>, final_through: Watermark) {
        self.parameters = parameters;
        self.closed_through = self.closed_through.max(final_through);
        if let Some(statistics) = &mut self.statistics {
            statistics.flush_is_lost();
        }
        self.drop_final_windows(final_through);
    }

    /// The state itself, and one of which nothing is open in its place.
    #[must_use]
    pub fn take_out(&mut self) -> Self {
        let next = Position { offset: self.next, watermark: self.watermark };
        let empty =
            Self::new(Arc::clone(&self.topic), self.partition, Arc::clone(&self.parameters), next, self.closed_through);
        std::mem::replace(self, empty)
    }

    /// What a commit says of the statistics holds in every later run, whatever the state is rebuilt from: what is in the
    /// database or was given up, and which minutes lost records and are never written.
    pub fn know_statistics(&mut self, committed: &Progress) {
        if let Some(statistics) = &mut self.statistics {
            statistics.know_acknowledged(committed.statistics_horizon);
            statistics.incomplete_through =
                statistics.incomplete_through.max(committed.statistics_gap.unwrap_or(Watermark::NONE));
        }
    }

    /// Lets go of the statistics that wait for the database, because they are more than memory may hold. Alerts go on;
    /// a recovery from the commit metadata builds them again. No snapshot may be taken from here on.
    pub fn shed_statistics(&mut self) {
        if let Some(statistics) = &mut self.statistics {
            statistics.shed();
        }
    }

    /// Whether [`PartitionState::shed_statistics`] was called.
    #[must_use]
    pub fn has_shed_statistics(&self) -> bool {
        self.statistics.as_ref().is_some_and(|statistics| statistics.shed)
    }

    /// The log holds no record before `end` that was not taken: what lies between are markers and aborted records.
    pub fn skip_to(&mut self, end: Offset) {
        self.next = self.next.max(end);
    }

    #[must_use]
    pub fn next(&self) -> Offset {
        self.next
    }

    #[must_use]
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    #[must_use]
    pub fn parameters(&self) -> &Arc<Parameters> {
        &self.parameters
    }

    /// Hosted user actors, over all open windows.
    #[must_use]
    pub fn open_users(&self) -> usize {
        let windows = self.classes.iter().flat_map(|class| &class.open);
        windows.map(|window| window.users.len()).sum()
    }

    /// Statistics rows that wait for the database.
    #[must_use]
    pub fn pending_statistics(&self) -> usize {
        self.statistics.as_ref().map_or(0, StatisticsState::pending_rows)
    }
}

/// One class of windows for each distinct size among the rules and, when they are kept, the statistics' minute.
fn window_classes(parameters: &Parameters) -> Vec<WindowClass> {
    let mut sizes: Vec<Millis> = parameters.rules.iter().map(|history| history.rule.window).collect();
    if parameters.statistics {
        sizes.push(Millis::MINUTE);
    }
    sizes.sort_unstable();
    sizes.dedup();
    let rules_of = |size| {
        let indices = parameters.rules.iter().enumerate();
        indices.filter(|(_, history)| history.rule.window == size).map(|(index, _)| index).collect()
    };
    sizes
        .into_iter()
        .map(|size| WindowClass {
            size,
            rules: rules_of(size),
            statistics: parameters.statistics && size == Millis::MINUTE,
            open: Vec::new(),
        })
        .collect()
}
