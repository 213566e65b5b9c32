//! Live traffic: the generator's transactions, in event time = now, through the service's own interface.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

use super::acknowledged::Acknowledged;
use super::engine::Engine;
use super::{Counters, DemoArgs};
use crate::cli::intake::Intake;
use crate::clock::{monotonic_now, wall_clock_ms};
use crate::domain::time::EventTime;
use crate::generate::{GeneratedRecord, Shares, Workload, WorkloadOptions};
use crate::http::Accepts;

/// A request is made this often, with what is due.
/// A request is sent when it has as many bytes: far below what the service takes.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;
const EVERY: Duration = Duration::from_millis(50);
/// The engine may be away as long: it is killed and started again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The thread that feeds.
pub struct Feeder {
    thread: Option<JoinHandle<anyhow::Result<Acknowledged>>>,
    feeding: Arc<AtomicBool>,
    gives_up: Arc<AtomicBool>,
}

struct Feed {
    intake: Intake,
    workload: Workload,
    rate: u64,
    feeding: Arc<AtomicBool>,
    gives_up: Arc<AtomicBool>,
    counters: Arc<Counters>,
    acknowledged: Acknowledged,
}

impl Feeder {
    /// # Errors
    /// The options make no workload.
    pub fn start(
        engine: &Engine,
        args: &DemoArgs,
        gives_up: Arc<AtomicBool>,
        counters: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let workload = Workload::new(WorkloadOptions {
            seed: args.seed,
            users: args.users,
            events: 0,
            start: EventTime(wall_clock_ms()),
            events_per_second: args.rate,
            shares: Shares::DEFAULT,
            ..WorkloadOptions::default()
        });
        let feeding = Arc::new(AtomicBool::new(true));
        let feed = Feed {
            intake: Intake::through(&engine.address(), engine.token()),
            workload: workload.map_err(|error| anyhow::anyhow!("{error}"))?,
            rate: u64::from(args.rate),
            feeding: Arc::clone(&feeding),
            gives_up: Arc::clone(&gives_up),
            counters,
            acknowledged: Acknowledged::default(),
        };
        let thread = std::thread::Builder::new().name("tallyguard-demo-feeder".to_owned()).spawn(move || feed.run())?;
        Ok(Self { thread: Some(thread), feeding, gives_up })
    }

    /// Fails when feeding has ended by itself.
    ///
    /// # Errors
    /// Why it has.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join()?;
            bail!("no more traffic can be fed");
        }
        Ok(())
    }

    /// Makes no more traffic, and waits for the answer to the last request.
    ///
    /// # Errors
    /// Why something could not be fed.
    pub fn finish(mut self) -> anyhow::Result<Acknowledged> {
        self.feeding.store(false, Ordering::SeqCst);
        self.join()
    }

    fn join(&mut self) -> anyhow::Result<Acknowledged> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.context("feeding traffic"),
            Some(Err(_)) | None => bail!("the feeder broke"),
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // After an error nothing is worth waiting for.
        self.feeding.store(false, Ordering::SeqCst);
        if self.thread.is_some() {
            self.gives_up.store(true, Ordering::SeqCst);
        }
    }
}

impl Feed {
    fn run(mut self) -> anyhow::Result<Acknowledged> {
        let began = monotonic_now();
        let mut record = GeneratedRecord::default();
        let (mut made, mut lines) = (0_u64, Vec::new());
        while self.feeding.load(Ordering::SeqCst) {
            let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            // What was missed while the engine was away is made up for, a second's worth at a time.
            let due = (elapsed_ms.saturating_mul(self.rate) / 1_000).saturating_sub(made).min(self.rate);
            made += due;
            lines.clear();
            for _ in 0..due {
                self.workload.fill(&mut record);
                if let Some(value) = record.value.as_deref().filter(|value| is_sendable(value)) {
                    lines.extend_from_slice(value);
                    lines.push(b'\n');
                }
                if lines.len() >= REQUEST_BYTES {
                    self.send(&lines)?;
                    lines.clear();
                }
            }
            if !lines.is_empty() {
                self.send(&lines)?;
            }
            std::thread::sleep(EVERY);
        }
        Ok(self.acknowledged)
    }

    /// A batch whose answer was lost goes again, also at the end: it may be in the log or not.
    fn send(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        let results = self.intake.take(lines, Accepts::Everything, PATIENCE, &self.gives_up)?;
        let values: Vec<_> = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        if results.len() != values.len() {
            bail!("{} results for {} transactions", results.len(), values.len());
        }
        for (result, value) in results.iter().zip(values) {
            let (Some(partition), Some(offset)) = (result.partition, result.offset) else {
                bail!("a transaction was {}: {}", result.result, result.message.as_deref().unwrap_or_default());
            };
            self.acknowledged.add(partition, offset, value);
        }
        self.counters.sent.store(self.acknowledged.count(), Ordering::Relaxed);
        Ok(())
    }
}

/// What is not one line cannot be sent as one, and a blank one has no result. What is not UTF-8 becomes a dead letter.
fn is_sendable(value: &[u8]) -> bool {
    !value.trim_ascii().is_empty() && memchr::memchr2(b'\n', b'\r', value).is_none()
}
