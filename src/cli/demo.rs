//! `tallyguard demo`: the whole service without a broker and without a database server, on generated live traffic, and in
//! the end a comparison with an independent recount of the log.
//!
//! This process feeds and watches; the engine is a child process of its own, the same binary with `run`, so that it can be
//! killed hard. What the end says is read from the log and the database themselves, never from the engine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use humantime::{format_duration, parse_duration};

use super::Exit;
use super::signals::{self, Signals};
use crate::clock::monotonic_now;

mod acknowledged;
mod engine;
mod feeder;
mod narration;
mod place;
mod verdict;

use engine::Engine;
use feeder::Feeder;
use narration::Narration;
use place::{Address, Place};
use verdict::Verdict;

const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long the engine may take to work off what was fed.
const END_PATIENCE: Duration = Duration::from_secs(120);
const TURN: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tallyguard demo
  tallyguard demo --for 30s
  tallyguard demo --for 1m --crash-every 5s --rate 5000

Everything lives in one folder (--dir, or a temporary one that is deleted afterwards): the log, the
state, the statistics (SQLite), the configuration and the engine's own messages. Ctrl-C ends the demo
as --for does: with a comparison of everything that was written with an independent recount of the log;
exit code 0 when there is no difference. A second Ctrl-C leaves at once.")]
pub struct DemoArgs {
    /// End by itself after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub for_how_long: Option<Duration>,

    /// Kill the engine process hard (SIGKILL) this often, and start it again
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub crash_every: Option<Duration>,

    /// Transactions per second
    #[arg(long, value_name = "R", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub rate: u32,

    /// Users that they belong to
    #[arg(long, value_name = "U", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,

    /// The same seed gives the same users and amounts
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Folder to work in; it is kept, and its log goes on with the next demo in it
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Address of the dashboard; another free port is taken when nobody asked for this one and it is in use
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// What the parts of the demo share.
#[derive(Default)]
pub struct Counters {
    /// Transactions that the service has acknowledged.
    pub sent: AtomicU64,
    pub alerts: AtomicU64,
}

/// Runs the demo to its end.
///
/// # Errors
/// The folder cannot be used; the engine does not start, or ends by itself; a person did not wait for the end.
pub fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let signals = signals::stop_or_leave_on_signal()?;
    let address = match place::choose_address(args.listen) {
        Ok(address) => address,
        Err(error) => {
            tracing::error!("{error:#}");
            return Ok(Exit::Usage);
        }
    };
    let mut place = Place::take(args.dir.as_deref())?;
    let outcome = play(args, &signals, &address, &place);
    let is_exact = matches!(&outcome, Ok(verdict) if verdict.is_exact());
    if !is_exact && !signals.at_once.load(Ordering::Relaxed) {
        place.keep();
        tracing::error!("everything is left in {} for a look", place.dir().display());
    }
    super::print(&outcome?.to_string())?;
    Ok(if is_exact { Exit::Done } else { Exit::Failed })
}

fn play(args: &DemoArgs, signals: &Signals, address: &Address, place: &Place) -> anyhow::Result<Verdict> {
    let counters = Arc::new(Counters::default());
    let mut engine = Engine::prepare(place.dir(), address.listen)?;
    let mut narration = Narration::begin(place.dir(), address, args, Arc::clone(&counters));
    engine.start()?;
    let ready = engine.await_ready(READY_PATIENCE, &signals.stop)?;
    narration.engine_is_ready(ready);
    let mut feeder = Feeder::start(&engine, args, Arc::clone(&signals.at_once), Arc::clone(&counters))?;
    watch(args, &signals.stop, &mut engine, &mut feeder, &mut narration)?;
    let acknowledged = feeder.finish()?;
    narration
        .say("no more traffic; waiting until everything is taken in and written (once more Ctrl-C: leave at once)");
    engine.await_caught_up(END_PATIENCE, &signals.at_once)?;
    narration.last_alerts();
    engine.stop()?;
    narration.say("recounting the log");
    let verdict = verdict::reach(engine.settings(), &acknowledged, &signals.at_once)?;
    narration.end();
    Ok(verdict)
}

fn watch(
    args: &DemoArgs,
    stop: &AtomicBool,
    engine: &mut Engine,
    feeder: &mut Feeder,
    narration: &mut Narration,
) -> anyhow::Result<()> {
    let began = monotonic_now();
    let until: Option<Instant> = args.for_how_long.map(|duration| began + duration);
    let mut next_crash = args.crash_every.map(|every| began + every);
    let mut crashes = 0_u64;
    while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| monotonic_now() < until) {
        engine.check()?;
        feeder.check()?;
        narration.turn(engine);
        if let (Some(every), Some(at)) = (args.crash_every, next_crash)
            && monotonic_now() >= at
        {
            engine.kill()?;
            let killed = monotonic_now();
            engine.start()?;
            engine.await_ready(READY_PATIENCE, stop)?;
            crashes += 1;
            let away = Duration::from_millis(u64::try_from(killed.elapsed().as_millis()).unwrap_or(0));
            narration.say(&format!(
                "crash {crashes}: the engine was killed (SIGKILL) and started again: ready after {}",
                format_duration(away)
            ));
            next_crash = Some(monotonic_now() + every);
        }
        std::thread::sleep(TURN);
    }
    Ok(())
}

/// Fails once somebody does not want to wait for the end.
fn unless_at_once(at_once: &AtomicBool) -> anyhow::Result<()> {
    if at_once.load(Ordering::Relaxed) {
        bail!("left at once: nothing was compared");
    }
    Ok(())
}

/// The end of a file, for a message.
fn tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
