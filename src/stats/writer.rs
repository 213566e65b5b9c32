//! The task that writes the statistics, and the handle to it.
//!
//! It holds at most one connection. Whatever goes wrong, the connection is dropped, opened again after a pause, and what
//! waits in the mailbox is written again; the guards in the store make that harmless.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::clock::monotonic_now;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::statistics::StatisticsFlush;
use crate::observe::metrics::{self, StatsErrorKind};
use crate::stats::batch::{self, Batch, no_answer};
use crate::stats::mailbox::{Mailbox, Work};
use crate::stats::mysql::MySqlDatabase;
use crate::stats::session::SqlStore;
use crate::stats::sqlite::SqliteDatabase;
use crate::stats::store::{StatisticsSession, StatisticsStore, StoreError};
use crate::stats::{RuleHistoryEntry, StatsEvent, StatsOptions, Target};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a task that is to stop looks whether everything is written.
const STOP_POLL: Duration = Duration::from_millis(20);

/// The way to the task. Dropping it ends the task at once; [`StatsHandle::shutdown`] ends it in order.
pub struct StatsHandle {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// The task; see the module head.
pub struct StatisticsWriter;

impl StatisticsWriter {
    /// Starts the task on a thread of its own. It connects at once and in the background; nothing here waits for the
    /// database.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(options: StatsOptions, events: impl Fn(StatsEvent) + Send + 'static) -> io::Result<StatsHandle> {
        let options = &options;
        match &options.connect {
            Target::MySql(connect) => {
                let database = MySqlDatabase::new((**connect).clone());
                Self::spawn_on(SqlStore::new(database, options), options, events)
            }
            Target::Sqlite(path) => Self::spawn_on(SqlStore::new(SqliteDatabase::new(path), options), options, events),
        }
    }

    fn spawn_on(
        store: impl StatisticsStore + Send + 'static,
        options: &StatsOptions,
        events: impl Fn(StatsEvent) + Send + 'static,
    ) -> io::Result<StatsHandle> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mailbox = Arc::new(Mailbox::new());
        let task = Task {
            with_orders: options.orders,
            statement_timeout: options.statement_timeout,
            store,
            mailbox: Arc::clone(&mailbox),
            events,
            failures: 0,
            reported: None,
        };
        let thread = std::thread::Builder::new()
            .name("tallyguard-stats".to_owned())
            .spawn(move || runtime.block_on(task.run_until_stopped()))?;
        Ok(StatsHandle { mailbox, thread: Some(thread) })
    }
}

impl StatsHandle {
    /// Hands over a flush whose covering log commit is known. Never waits.
    ///
    /// # Errors
    /// Gives the flush back when the partition's previous one is not acknowledged yet, or when the task has ended.
    pub fn submit(&self, flush: StatisticsFlush) -> Result<(), StatisticsFlush> {
        self.mailbox.submit(flush)
    }

    /// Has a rule version recorded in `rule_history`, as soon as the database takes it.
    pub fn record_rule_version(&self, entry: RuleHistoryEntry) {
        self.mailbox.record(entry);
    }

    /// The partition is no longer ours: what waits of it is dropped. A write that is on its way may still reach the
    /// database, where it is harmless; an acknowledgement may cross this call.
    pub fn forget(&self, partition: PartitionId) {
        self.mailbox.forget(partition);
    }

    /// `order_stats_progress`, all partitions, as last read from the database or acknowledged since: the next record to
    /// be taken in. `None` until the database was reached.
    #[must_use]
    pub fn progress(&self) -> Option<BTreeMap<PartitionId, Offset>> {
        self.mailbox.progress()
    }

    /// Takes nothing more in, writes what waits for at most `deadline`, and ends the task. Returns whether everything
    /// was written.
    pub fn shutdown(mut self, deadline: Duration) -> bool {
        self.mailbox.stop(monotonic_now() + deadline);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        ended && self.mailbox.is_empty()
    }
}

/// Takes flushes to be written; answers with events.
pub trait StatisticsSink {
    /// Hands over a flush whose covering log commit is known. Never waits.
    ///
    /// # Errors
    /// Gives the flush back when the partition's previous one is not acknowledged yet, or when nobody takes it.
    fn submit(&self, flush: StatisticsFlush) -> Result<(), StatisticsFlush>;

    /// Has a rule version recorded.
    fn record_rule_version(&self, entry: RuleHistoryEntry);

    /// The partition is no longer ours: what waits of it is dropped.
    fn forget(&self, partition: PartitionId);
}

impl StatisticsSink for StatsHandle {
    fn submit(&self, flush: StatisticsFlush) -> Result<(), StatisticsFlush> {
        self.submit(flush)
    }

    fn record_rule_version(&self, entry: RuleHistoryEntry) {
        self.record_rule_version(entry);
    }

    fn forget(&self, partition: PartitionId) {
        self.forget(partition);
    }
}

impl Drop for StatsHandle {
    fn drop(&mut self) {
        self.mailbox.stop(monotonic_now());
    }
}

struct Task<S, E> {
    store: S,
    mailbox: Arc<Mailbox>,
    events: E,
    with_orders: bool,
    statement_timeout: Duration,
    /// Failures since something worked.
    failures: u32,
    /// The state last told: served, or why not.
    reported: Option<Result<(), String>>,
}

impl<S: StatisticsStore, E: Fn(StatsEvent)> Task<S, E> {
    async fn run_until_stopped(self) {
        let mailbox = Arc::clone(&self.mailbox);
        let told_to_stop = async {
            let deadline = mailbox.stopped().await;
            // The task ends by itself once everything is written, unless it waits for an outage to end.
            loop {
                sleep(STOP_POLL.min(deadline.saturating_duration_since(monotonic_now()))).await;
                if mailbox.is_empty() || monotonic_now() >= deadline {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.run() => {}
            () = told_to_stop => {}
        }
    }

    async fn run(mut self) {
        let mut session = None;
        loop {
            let open = match session.take() {
                Some(open) => Ok(open),
                None => self.connect().await,
            };
            let result = match open {
                Ok(mut open) => {
                    let Some(work) = self.mailbox.next().await else { return open.close().await };
                    let written = self.write(&mut open, &work).await;
                    written.map(|()| open)
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(open) => session = Some(open),
                Err(StoreError::IdentityMismatch(found)) => {
                    self.mailbox.close();
                    (self.events)(StatsEvent::IdentityMismatch { found });
                    return;
                }
                Err(error) => self.failed(error).await,
            }
        }
    }

    async fn connect(&mut self) -> Result<S::Session, StoreError> {
        let opened = async {
            let mut session = self.store.connect().await?;
            let progress = session.progress().await?;
            Ok((session, progress))
        };
        let answer = timeout(self.statement_timeout, opened).await;
        let (session, progress) = answer.unwrap_or_else(|_| Err(no_answer(self.statement_timeout)))?;
        self.mailbox.compare_progress(progress).into_iter().for_each(&self.events);
        // With something to write, only a write shows whether the database takes writes.
        if self.mailbox.is_empty() {
            self.works();
        }
        Ok(session)
    }

    async fn write(&mut self, session: &mut S::Session, work: &Work) -> Result<(), StoreError> {
        let started = monotonic_now();
        let batch = Batch::of(work, self.with_orders);
        let refused = batch::write(&self.store, session, &batch, self.statement_timeout).await?;
        metrics::stats_flushed(started.elapsed());
        self.works();
        for row in refused {
            metrics::stats_error(StatsErrorKind::RowSetAside);
            (self.events)(StatsEvent::RowSetAside { key: row.key, error: row.error });
        }
        self.mailbox.acknowledge(work).into_iter().for_each(&self.events);
        Ok(())
    }

    fn works(&mut self) {
        self.failures = 0;
        if self.reported != Some(Ok(())) {
            self.reported = Some(Ok(()));
            (self.events)(StatsEvent::Connected);
        }
    }

    /// Tells what is new about a failure, and waits as long as befits it.
    async fn failed(&mut self, error: StoreError) {
        metrics::stats_error(StatsErrorKind::Unavailable);
        self.failures = self.failures.saturating_add(1);
        let cut_while_idle = self.failures == 1 && matches!(error, StoreError::Disconnected(_));
        if cut_while_idle && self.reported == Some(Ok(())) {
            return;
        }
        let error = error.to_string();
        if self.reported.as_ref() != Some(&Err(error.clone())) {
            self.reported = Some(Err(error.clone()));
            (self.events)(StatsEvent::Unavailable { error });
        }
        sleep(pause_after(self.failures)).await;
    }
}

/// Doubles from 100 ms to 5 s; half of it is left to chance, so that many instances do not come back in step.
fn pause_after(failures: u32) -> Duration {
    let full = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(PAUSE_MAX);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_stay_there() {
        for (failures, full_ms) in [(1, 100), (2, 200), (6, 3_200), (7, 5_000), (u32::MAX, 5_000)] {
            let pause = pause_after(failures);
            assert!(pause <= Duration::from_millis(full_ms), "{failures}: {pause:?}");
            assert!(pause >= Duration::from_millis(full_ms / 2), "{failures}: {pause:?}");
        }
    }
}
