//! From flushes to SQL transactions: which rows go together, in which order, and what happens when some are refused.
//!
//! Promises that progress is written last, with the last rows, and that a row refused for good is the only one missing.
//! Rows are sorted by key, so that two writers lock in the same order.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::domain::statistics::{OrderRow, StatisticsRow};
use crate::observe::metrics::{StatsErrorKind, stats_error};
use crate::stats::RuleHistoryEntry;
use crate::stats::mailbox::Work;
use crate::stats::store::{FromPartition, ProgressRow, Rows, StatisticsSession, StatisticsStore, StoreError, Table};

/// How often a transaction that met another one is tried again before that counts as an outage.
const CONTENTION_RETRIES: u32 = 8;

/// A row that the database refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Table, window, and the record that the row is as of. No ids: this may be logged.
    pub key: String,
    pub error: String,
}

/// The rows of several flushes, sorted by key.
pub struct Batch<'a> {
    rule_history: &'a [RuleHistoryEntry],
    statistics: Vec<FromPartition<'a, StatisticsRow>>,
    orders: Vec<FromPartition<'a, OrderRow>>,
    progress: Vec<ProgressRow>,
}

/// Rows of one table that are written together.
struct Piece {
    table: Table,
    range: Range<usize>,
}

impl<'a> Batch<'a> {
    pub fn of(work: &'a Work, with_orders: bool) -> Self {
        let mut batch =
            Self { rule_history: &work.rule_history, statistics: Vec::new(), orders: Vec::new(), progress: Vec::new() };
        for flush in &work.flushes {
            batch.statistics.extend(flush.rows.iter().map(|row| (flush.partition, row)));
            if with_orders {
                batch.orders.extend(flush.orders.iter().map(|row| (flush.partition, row)));
            }
            batch.progress.push(ProgressRow {
                partition: flush.partition,
                through: flush.through,
                watermark: flush.watermark,
            });
        }
        // The byte order of UTF-8 is the order of the binary collations.
        batch.statistics.sort_unstable_by(|(p, a), (q, b)| {
            (a.minute, &a.merchant_id, a.currency, p).cmp(&(b.minute, &b.merchant_id, b.currency, q))
        });
        batch.orders.sort_unstable_by(|(p, a), (q, b)| {
            (&a.order_id, p, a.source_offset).cmp(&(&b.order_id, q, b.source_offset))
        });
        batch.progress.sort_unstable_by_key(|row| row.partition);
        batch
    }

    fn pieces(&self, store: &impl StatisticsStore) -> VecDeque<Piece> {
        let tables = [
            (Table::RuleHistory, self.rule_history.len()),
            (Table::Statistics, self.statistics.len()),
            (Table::Orders, self.orders.len()),
        ];
        let mut pieces = VecDeque::new();
        for (table, rows) in tables {
            let step = store.rows_max(table).max(1);
            let starts = (0..rows).step_by(step);
            pieces.extend(starts.map(|start| Piece { table, range: start..rows.min(start + step) }));
        }
        if pieces.is_empty() {
            pieces.push_back(Piece { table: Table::Statistics, range: 0..0 });
        }
        pieces
    }

    fn rows(&self, piece: &Piece) -> Option<Rows<'_>> {
        let range = piece.range.clone();
        if range.is_empty() {
            return None;
        }
        Some(match piece.table {
            Table::RuleHistory => Rows::RuleHistory(&self.rule_history[range]),
            Table::Statistics => Rows::Statistics(&self.statistics[range]),
            Table::Orders => Rows::Orders(&self.orders[range]),
        })
    }

    /// Names the row at `at` without its ids.
    fn key(&self, table: Table, at: usize) -> String {
        match table {
            Table::RuleHistory => {
                let entry = &self.rule_history[at];
                format!("rule_history partition {} offset {}", entry.partition, entry.first_offset)
            }
            Table::Statistics => {
                let (partition, row) = self.statistics[at];
                format!("order_stats_by_partition {} partition {partition} offset {}", row.minute, row.source_offset)
            }
            Table::Orders => {
                let (partition, row) = self.orders[at];
                format!("orders partition {partition} offset {}", row.source_offset)
            }
        }
    }
}

/// Writes the whole batch; returns the rows that the database refused.
///
/// A refused piece is halved until the row is found: about two transactions for each halving, and the good rows among
/// them are written on the way. After an error some rows may be written; writing the batch again is harmless.
pub async fn write<S: StatisticsStore>(
    store: &S,
    session: &mut S::Session,
    batch: &Batch<'_>,
    statement_timeout: Duration,
) -> Result<Vec<SetAside>, StoreError> {
    let mut refused = Vec::new();
    let mut pieces = batch.pieces(store);
    while let Some(piece) = pieces.pop_front() {
        let progress = if pieces.is_empty() { batch.progress.as_slice() } else { &[] };
        let Range { start, end } = piece.range;
        match write_piece(session, batch.rows(&piece), progress, statement_timeout).await {
            Ok(()) => {}
            Err(StoreError::RowRefused(error)) if start == end => {
                return Err(StoreError::Unavailable(format!("the progress row was refused: {error}")));
            }
            Err(StoreError::RowRefused(error)) if end - start == 1 => {
                refused.push(SetAside { key: batch.key(piece.table, start), error });
                if pieces.is_empty() {
                    pieces.push_back(Piece { table: piece.table, range: end..end });
                }
            }
            Err(StoreError::RowRefused(_)) => {
                let middle = start.midpoint(end);
                pieces.push_front(Piece { table: piece.table, range: middle..end });
                pieces.push_front(Piece { table: piece.table, range: start..middle });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// One SQL transaction, tried again when another one was in the way.
async fn write_piece(
    session: &mut impl StatisticsSession,
    rows: Option<Rows<'_>>,
    progress: &[ProgressRow],
    statement_timeout: Duration,
) -> Result<(), StoreError> {
    let mut retries = 0;
    loop {
        let answer = timeout(statement_timeout, session.write(rows, progress)).await;
        match answer.unwrap_or_else(|_| Err(no_answer(statement_timeout))) {
            Err(StoreError::Contention(error)) if retries == CONTENTION_RETRIES => {
                return Err(StoreError::Unavailable(format!("{error}, {retries} times")));
            }
            Err(StoreError::Contention(_)) => {
                stats_error(StatsErrorKind::Contention);
                retries += 1;
                let pause_ms = rand::random_range(0..=10 * u64::from(retries));
                sleep(Duration::from_millis(pause_ms)).await;
            }
            result => return result,
        }
    }
}

/// The error of a call that was given up.
pub fn no_answer(waited: Duration) -> StoreError {
    StoreError::Unavailable(format!("the database did not answer within {} s", waited.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::*;
    use crate::domain::ids::{Offset, PartitionId};
    use crate::domain::statistics::StatisticsFlush;
    use crate::domain::time::{Watermark, WindowStart};

    /// Refuses some offsets for good, and fails for a while at some of its calls.
    struct FakeStore {
        rows_max: usize,
    }

    #[derive(Default)]
    struct FakeSession {
        poisoned: BTreeSet<i64>,
        contended_calls: BTreeSet<usize>,
        cut_at_call: Option<usize>,
        calls: usize,
        stored: BTreeSet<i64>,
        progress: Vec<ProgressRow>,
    }

    impl StatisticsStore for FakeStore {
        type Session = FakeSession;

        async fn connect(&self) -> Result<FakeSession, StoreError> {
            Ok(FakeSession::default())
        }

        fn rows_max(&self, _table: Table) -> usize {
            self.rows_max
        }
    }

    impl StatisticsSession for FakeSession {
        async fn progress(&mut self) -> Result<BTreeMap<PartitionId, Offset>, StoreError> {
            Ok(BTreeMap::new())
        }

        async fn write(&mut self, rows: Option<Rows<'_>>, progress: &[ProgressRow]) -> Result<(), StoreError> {
            self.calls += 1;
            if self.cut_at_call == Some(self.calls) {
                return Err(StoreError::Disconnected("cut".to_owned()));
            }
            if self.contended_calls.contains(&self.calls) {
                return Err(StoreError::Contention("deadlock".to_owned()));
            }
            let Some(Rows::Statistics(rows)) = rows else {
                self.progress.extend(progress);
                return Ok(());
            };
            if rows.iter().any(|(_, row)| self.poisoned.contains(&row.source_offset.0)) {
                return Err(StoreError::RowRefused("refused".to_owned()));
            }
            assert!(self.progress.is_empty(), "rows after the progress that speaks for them");
            self.stored.extend(rows.iter().map(|(_, row)| row.source_offset.0));
            self.progress.extend(progress);
            Ok(())
        }

        async fn close(self) {}
    }

    fn work(rows: i64) -> Work {
        let row = |offset| StatisticsRow {
            minute: WindowStart(0),
            merchant_id: format!("m-{offset:03}").into(),
            currency: *b"EUR",
            transaction_count: 1,
            order_count: 1,
            amount_minor: 1,
            max_amount_minor: 1,
            source_offset: Offset(offset),
        };
        let flush = StatisticsFlush {
            partition: PartitionId(0),
            through: Offset(rows),
            watermark: Watermark::NONE,
            rows: (0..rows).map(row).collect(),
            orders: Vec::new(),
        };
        Work { flushes: vec![Arc::new(flush)], rule_history: Vec::new() }
    }

    fn run(session: &mut FakeSession, rows: i64, rows_max: usize) -> Result<Vec<SetAside>, StoreError> {
        let work = work(rows);
        let batch = Batch::of(&work, false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(write(&FakeStore { rows_max }, session, &batch, Duration::from_secs(1)))
    }

    #[test]
    fn all_but_the_refused_rows_are_stored_and_the_progress_comes_last() {
        for rows in 0..9 {
            for rows_max in 1..5 {
                for poisoned in 0..1_u32 << rows {
                    let poisoned: BTreeSet<i64> = (0..rows).filter(|at| poisoned & (1 << at) != 0).collect();
                    let mut session = FakeSession { poisoned: poisoned.clone(), ..FakeSession::default() };
                    let refused = run(&mut session, rows, rows_max).unwrap();
                    assert_eq!(refused.len(), poisoned.len());
                    assert_eq!(session.stored, (0..rows).filter(|at| !poisoned.contains(at)).collect());
                    assert_eq!(session.progress.len(), 1);
                }
            }
        }
    }

    #[test]
    fn a_batch_that_is_cut_leaves_no_progress_behind() {
        for call in 1..=4 {
            let mut session = FakeSession { cut_at_call: Some(call), ..FakeSession::default() };
            run(&mut session, 10, 3).unwrap_err();
            assert!(session.progress.is_empty());
            assert_eq!(session.stored.len(), 3 * (call - 1));
        }
    }

    #[test]
    fn deadlocks_are_retried_a_few_times_and_then_count_as_an_outage() {
        let mut session = FakeSession { contended_calls: (2..=7).collect(), ..FakeSession::default() };
        assert_eq!(run(&mut session, 10, 3), Ok(Vec::new()));
        assert_eq!(session.stored.len(), 10);
        let mut session = FakeSession { contended_calls: (2..=99).collect(), ..FakeSession::default() };
        assert!(matches!(run(&mut session, 10, 3), Err(StoreError::Unavailable(_))));
        assert!(session.progress.is_empty());
    }
}
