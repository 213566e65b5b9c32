//! Live traffic: the generator's transactions, in event time = now, through the service's own interface.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

use super::engine::Engine;
use super::{Counters, DemoArgs};
use crate::cli::generate::ndjson::is_a_line;
use crate::cli::intake::Intake;
use crate::clock::{monotonic_now, wall_clock_ms};
use crate::domain::time::EventTime;
use crate::generate::{GeneratedRecord, Shares, Workload, WorkloadOptions};
use crate::http::Accepts;

/// A request is made this often, with what is due.
const EVERY: Duration = Duration::from_millis(50);
/// The engine may be away as long: it is killed and started again.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Feeder {
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Feeder {
    pub fn start(
        engine: &Engine,
        args: &DemoArgs,
        feeding: Arc<AtomicBool>,
        counters: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let intake = Intake::through(&engine.address(), engine.token());
        let mut workload = Workload::new(WorkloadOptions {
            seed: args.seed,
            users: args.users,
            events: 0,
            start: EventTime(wall_clock_ms()),
            events_per_second: args.rate,
            shares: Shares::DEFAULT,
            ..WorkloadOptions::default()
        })
        .map_err(|error| anyhow::anyhow!("{error}"))?;
        let rate = u64::from(args.rate);
        let feed = move || feed(&intake, &mut workload, rate, &feeding, &counters);
        let thread = std::thread::Builder::new().name("tallyguard-demo-feeder".to_owned()).spawn(feed)?;
        Ok(Self { thread: Some(thread) })
    }

    /// Fails when feeding has ended by itself.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            bail!("no more traffic can be fed");
        }
        Ok(())
    }

    /// Waits for the last answer.
    pub fn finish(mut self) -> anyhow::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.context("feeding traffic"),
            Some(Err(_)) => bail!("the feeder broke"),
            None => Ok(()),
        }
    }
}

fn feed(
    intake: &Intake,
    workload: &mut Workload,
    rate: u64,
    feeding: &AtomicBool,
    counters: &Counters,
) -> anyhow::Result<()> {
    let began = monotonic_now();
    let mut record = GeneratedRecord::default();
    let (mut made, mut lines) = (0, Vec::new());
    // A batch whose answer was lost goes again, also at the end: it may be in the log or not.
    let never = AtomicBool::new(false);
    while feeding.load(Ordering::SeqCst) {
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // After a pause of the engine it goes on at the rate, and does not make up for the pause.
        let due = (elapsed_ms.saturating_mul(rate) / 1_000).saturating_sub(made).min(rate);
        lines.clear();
        let mut count = 0;
        for _ in 0..due {
            workload.fill(&mut record);
            made += 1;
            // What is no line cannot be sent as one.
            let Some(value) = record.value.as_deref().filter(|value| is_a_line(value)) else { continue };
            lines.extend_from_slice(value);
            lines.push(b'\n');
            count += 1;
        }
        if count > 0 {
            intake.take(&lines, Accepts::Everything, PATIENCE, &never)?;
            counters.sent.fetch_add(count, Ordering::Relaxed);
        }
        std::thread::sleep(EVERY);
    }
    Ok(())
}
