//! `tallyguard demo`: the whole service without a broker and without a database server, on generated live traffic, and in
//! the end a comparison with an independent recount of the log.
//!
//! This process feeds and watches; the engine is a child process of its own, the same binary with `run`, so that it can be
//! killed hard. What the end says is read from the log and the database themselves, never from the engine.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use humantime::{format_duration, parse_duration};

use super::{Exit, signals};
use crate::clock::monotonic_now;

mod engine;
mod feeder;
mod narration;
mod verdict;

use engine::Engine;
use feeder::Feeder;
use narration::Narration;

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
exit code 0 when there is no difference.")]
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
    #[arg(long, value_name = "U", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,

    /// The same seed gives the same users and amounts
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Folder to work in; it is kept, and used again by the next demo in it
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Address of the dashboard; another free port is taken when nobody asked for this one and it is in use
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// What the parts of the demo share.
#[derive(Default)]
pub struct Counters {
    pub sent: AtomicU64,
    pub alerts: AtomicU64,
    /// Milliseconds that the engine was away after the last kill.
    pub away_ms: AtomicU64,
}

/// Runs the demo to its end.
///
/// # Errors
/// The folder cannot be used; the engine does not start, or ends by itself.
pub fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let stop = signals::stop_on_signal()?;
    let temporary = tempfile::Builder::new().prefix("tallyguard-demo-").tempdir().context("no temporary folder")?;
    let dir = match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            std::path::absolute(dir)?
        }
        None => temporary.path().to_owned(),
    };
    let listen = choose_address(args.listen)?;
    let counters = Arc::new(Counters::default());
    let mut engine = Engine::prepare(&dir, listen)?;
    let mut narration = Narration::begin(&dir, listen, args, Arc::clone(&counters));
    engine.start()?;
    let ready = engine.await_ready(READY_PATIENCE, &stop)?;
    narration.engine_is_ready(ready);
    let feeding = Arc::new(AtomicBool::new(true));
    let feeder = Feeder::start(&engine, args, Arc::clone(&feeding), Arc::clone(&counters))?;
    let ended = watch(args, &stop, &mut engine, &feeder, &mut narration, &counters);
    feeding.store(false, Ordering::SeqCst);
    let fed = feeder.finish();
    ended?;
    fed?;
    narration.say("no more traffic; waiting until everything is taken in and written");
    engine.await_caught_up(END_PATIENCE)?;
    narration.last_alerts();
    engine.stop()?;
    let verdict = verdict::reach(engine.settings())?;
    narration.end();
    super::print(&verdict.to_string())?;
    Ok(if verdict.is_exact() { Exit::Done } else { Exit::Failed })
}

fn watch(
    args: &DemoArgs,
    stop: &AtomicBool,
    engine: &mut Engine,
    feeder: &Feeder,
    narration: &mut Narration,
    counters: &Counters,
) -> anyhow::Result<()> {
    let began = monotonic_now();
    let until: Option<Instant> = args.for_how_long.map(|duration| began + duration);
    let mut next_crash = args.crash_every.map(|every| began + every);
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
            let away = killed.elapsed();
            counters.away_ms.store(u64::try_from(away.as_millis()).unwrap_or(0), Ordering::Relaxed);
            let away = format_duration(Duration::from_millis(counters.away_ms.load(Ordering::Relaxed)));
            narration.say(&format!("the engine was killed (SIGKILL) and started again: ready after {away}"));
            next_crash = Some(monotonic_now() + every);
        }
        std::thread::sleep(TURN);
    }
    Ok(())
}

/// The dashboard's usual address, unless somebody else has it.
fn choose_address(asked: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
    if let Some(asked) = asked {
        return Ok(asked);
    }
    let usual = SocketAddr::from(([127, 0, 0, 1], 8_088));
    let listener = TcpListener::bind(usual).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener.context("no free port for the dashboard")?.local_addr()?)
}

/// The end of a file, for a message.
fn tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
