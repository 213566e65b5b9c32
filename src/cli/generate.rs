//! `tallyguard generate`: the generated load into the source topic, or as NDJSON into a file or pipe.
//!
//! What is generated is decided by [`crate::generate`] alone. Here are the things that it must not touch: the wall
//! clock, the broker, the file, the signal that ends the run.

mod embedded;
mod kafka;
pub(super) mod ndjson;
mod pacer;
mod progress;
mod summary;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, value_parser};

use crate::cli::exit::Exit;
use crate::clock::wall_clock_ms;
use crate::config::SourceKind;
use crate::domain::time::EventTime;
use crate::generate::timeline::{Pace, Start, Timeline};
use crate::generate::{Counts, GeneratedRecord, Share, Shares, Workload, WorkloadOptions};
use embedded::EmbeddedSink;
use kafka::KafkaSink;
use ndjson::NdjsonSink;
use pacer::Pacer;
use progress::Progress;
use summary::Summary;

const AFTER_HELP: &str = "\
Examples:
  live load until Ctrl-C:                       generate --config F --events 0 --rate 5000
  a backlog, as fast as possible:               generate --config F --events 1000000
  ordinary records only, for a benchmark:       generate --config F --events 5000000 --clean
  NDJSON, the same bytes every time:            generate --out - --events 1000 --seed 7

Event time:
  Record i has the time start + i / event-rate. Ordinary records lie up to 0.2 s before that, \
out-of-order ones up to 55 s, late ones 2 to 5 min. A record whose event_time is later than its \
Kafka timestamp, by more than max_future_skew, is dead-lettered; so live load never runs ahead of \
the clock:

  --start now, with a --rate: event time goes with the clock.
  --start now, without, N events: the run is a backlog of N / event-rate seconds that ends now.
  --start now, without, --events 0: a backlog from a year ago on; when caught up, with the clock.
  --start 2026-01-01T00:00:00Z: event time begins there, whatever the clock says.

  A backlog lies behind what was sent just before it: in a topic that has seen newer event times, \
much of it is late. Use a topic of its own, or a --rate. The Kafka timestamp is the time of \
sending, or the broker's where the topic says so; it is never the event time.

Records:
  Shares are of the fresh records; duplicates come on top. The malformed ones are spread evenly \
over the reason codes. Records go by the murmur2 hash of their key, as those of Java producers do.
  NDJSON has no keys and no headers. A value that is not one line of text (null, empty, not UTF-8, \
with line breaks) is left out, and counted in the summary. One of the malformed \
kinds has an event_time of 2099: only a reader that compares it with a clock refuses it.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct GenerateArgs {
    /// Configuration file (TOML) that names brokers and source topic; not needed with --out
    #[arg(long, value_name = "FILE", required_unless_present = "out")]
    pub config: Option<PathBuf>,

    /// Write the values as NDJSON to this file, or to standard output with -, instead of to Kafka
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Number of records; 0 = until stopped
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub events: u64,

    /// Number of different users
    #[arg(long, value_name = "U", default_value_t = WorkloadOptions::DEFAULT_USERS, value_parser = value_parser!(u32).range(1..))]
    pub users: u32,

    /// Number of different merchants
    #[arg(long, value_name = "M", default_value_t = WorkloadOptions::DEFAULT_MERCHANTS, value_parser = value_parser!(u32).range(1..))]
    pub merchants: u32,

    /// Records to send per second; 0 = as fast as possible
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub rate: u32,

    /// Records per second of event time [default: the rate, or 1000 without one]
    #[arg(long, value_name = "D", value_parser = value_parser!(u32).range(1..))]
    pub event_rate: Option<u32>,

    /// The same seed gives the same records
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Where event time starts: now, or an instant in RFC 3339 [default: now; with --out 2026-01-01T00:00:00Z]
    #[arg(long, value_name = "TIME", value_parser = parse_start)]
    pub start: Option<Start>,

    /// Share of malformed records
    #[arg(long, value_name = "SHARE", default_value_t = Shares::DEFAULT.malformed)]
    pub malformed: Share,

    /// Share of late records
    #[arg(long, value_name = "SHARE", default_value_t = Shares::DEFAULT.late)]
    pub late: Share,

    /// Share of records that are sent twice
    #[arg(long, value_name = "SHARE", default_value_t = Shares::DEFAULT.duplicates)]
    pub duplicates: Share,

    /// Share of records out of order, but punctual
    #[arg(long, value_name = "SHARE", default_value_t = Shares::DEFAULT.out_of_order)]
    pub out_of_order: Share,

    /// Ordinary records only: no bursts, duplicates, late, malformed or otherwise peculiar ones
    #[arg(long, conflicts_with_all = ["malformed", "late", "duplicates", "out_of_order"])]
    pub clean: bool,
}

impl GenerateArgs {
    fn shares(&self) -> Shares {
        if self.clean {
            return Shares::NONE;
        }
        Shares {
            malformed: self.malformed,
            late: self.late,
            duplicates: self.duplicates,
            out_of_order: self.out_of_order,
            ..Shares::DEFAULT
        }
    }

    fn timeline(&self, now: EventTime) -> Timeline {
        let default = if self.out.is_some() { Start::At(WorkloadOptions::FIXED_START) } else { Start::Now };
        let start = self.start.unwrap_or(default);
        Timeline::of(Pace { start, events: self.events, rate: self.rate, event_rate: self.event_rate }, now)
    }

    fn to_standard_output(&self) -> bool {
        self.out.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

/// What became of a record that a sink was given.
enum Sent {
    /// It went out with so many bytes of key and value, or is on its way.
    Taken(usize),
    /// This sink has no way to express it.
    LeftOut,
    /// Nothing more can be sent: the reader is gone, or the run was stopped while it waited for room.
    Closed,
}

/// Where records go.
trait Sink {
    /// # Errors
    /// When the record, or one before it, cannot be written or delivered.
    fn send(&mut self, record: &GeneratedRecord, stop: &AtomicBool) -> anyhow::Result<Sent>;

    /// Called before a pause: whatever is buffered should get on its way.
    ///
    /// # Errors
    /// As for `send`.
    fn idle(&mut self) -> anyhow::Result<()>;

    /// Waits until everything is written or acknowledged, and says how many records are.
    ///
    /// # Errors
    /// When some are not.
    fn finish(&mut self, stop: &AtomicBool) -> anyhow::Result<u64>;
}

/// Generates and sends until the last record or a signal.
///
/// # Errors
/// When records cannot be written or delivered.
pub fn run(args: GenerateArgs) -> anyhow::Result<Exit> {
    let now = EventTime(wall_clock_ms());
    let timeline = args.timeline(now);
    let options = WorkloadOptions {
        seed: args.seed,
        users: args.users,
        merchants: args.merchants,
        events: args.events,
        start: timeline.start,
        events_per_second: timeline.events_per_second,
        shares: args.shares(),
    };
    let mut workload = match Workload::new(options) {
        Ok(workload) => workload,
        Err(error) => {
            tracing::error!("generate: {error}");
            return Ok(Exit::Usage);
        }
    };
    let stop = super::signals::stop_on_signal()?;
    let mut sink: Box<dyn Sink> = match &args.out {
        Some(path) => Box::new(NdjsonSink::create(path)?),
        None => match connect(&args, &stop)? {
            Ok(sink) => sink,
            Err(exit) => return Ok(exit),
        },
    };
    if timeline.runs_ahead && args.out.is_none() {
        tracing::warn!(
            "event time starts at {} and will run ahead of the clock: such records are dead-lettered",
            timeline.start
        );
    }
    // `now` is a little older than this instant, so what is held back by it stays behind the clock.
    let pacer = Pacer::start(args.rate, timeline.hold_back.then_some(now));
    let summary = send_all(&mut workload, sink.as_mut(), &pacer, &stop, args.events)?;
    if args.to_standard_output() {
        eprint!("{summary}");
    } else {
        crate::cli::print(&summary.to_string()).context("cannot write the summary")?;
    }
    Ok(Exit::Done)
}

fn connect(args: &GenerateArgs, stop: &AtomicBool) -> anyhow::Result<Result<Box<dyn Sink>, Exit>> {
    // The command line demands one of the two.
    let path = args.config.as_deref().context("--config is needed unless --out is given")?;
    let settings = match crate::cli::load(path) {
        Ok(settings) => settings,
        Err(exit) => return Ok(Err(exit)),
    };
    match settings.source.kind {
        SourceKind::Embedded => Ok(Ok(Box::new(EmbeddedSink::open(&settings)?))),
        SourceKind::Kafka => {
            let connected = KafkaSink::connect(&settings, stop)?;
            Ok(connected.map(|sink| -> Box<dyn Sink> { Box::new(sink) }))
        }
    }
}

fn send_all(
    workload: &mut Workload,
    sink: &mut dyn Sink,
    pacer: &Pacer,
    stop: &AtomicBool,
    events: u64,
) -> anyhow::Result<Summary> {
    let mut record = GeneratedRecord::default();
    let mut progress = Progress::new(events);
    let mut counts = Counts::default();
    let (mut bytes, mut left_out) = (0_u64, 0_u64);
    let first_clock = workload.clock();
    while !stop.load(Ordering::Relaxed) {
        if let Some(pause) = pacer.pause_before(counts.total(), workload.clock()) {
            sink.idle()?;
            progress.at(counts.total());
            thread::sleep(pause);
            continue;
        }
        if !workload.fill(&mut record) {
            break;
        }
        match sink.send(&record, stop)? {
            Sent::Taken(size) => bytes += u64::try_from(size)?,
            Sent::LeftOut => left_out += 1,
            Sent::Closed => break,
        }
        counts.add(record.kind);
        if counts.total() % 1_024 == 0 {
            progress.at(counts.total());
        }
    }
    let written = sink.finish(stop)?;
    let elapsed = pacer.elapsed();
    progress.finish();
    Ok(Summary { counts, written, left_out, bytes, elapsed, event_times: (first_clock, workload.clock()) })
}

fn parse_start(text: &str) -> Result<Start, String> {
    if text == "now" {
        return Ok(Start::Now);
    }
    match DateTime::parse_from_rfc3339(text) {
        Ok(instant) => Ok(Start::At(EventTime(instant.timestamp_millis()))),
        Err(_) => {
            let example = DateTime::from_timestamp_millis(WorkloadOptions::FIXED_START.0)
                .map(|start| start.to_rfc3339_opts(SecondsFormat::Secs, true))
                .unwrap_or_default();
            Err(format!("`now` or an instant in RFC 3339 is expected, such as {example}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<GenerateArgs, clap::Error> {
        let arguments = std::iter::once("generate").chain(arguments.iter().copied());
        <Only as clap::Parser>::try_parse_from(arguments).map(|only| only.args)
    }

    #[test]
    fn ndjson_starts_at_a_fixed_instant_and_live_load_at_the_clock() {
        let now = EventTime(1_800_000_000_000);
        assert_eq!(parsed(&["--out", "-"]).unwrap().timeline(now).start, WorkloadOptions::FIXED_START);
        assert_eq!(parsed(&["--out", "-", "--start", "now", "--rate", "5"]).unwrap().timeline(now).start, now);
        assert_eq!(parsed(&["--config", "c.toml", "--rate", "5"]).unwrap().timeline(now).start, now);
        let fixed = parsed(&["--config", "c.toml", "--start", "2026-03-01T01:00:00+01:00"]).unwrap();
        assert_eq!(fixed.timeline(now).start, EventTime(1_772_323_200_000));
    }

    #[test]
    fn a_configuration_is_needed_unless_there_is_an_output() {
        assert!(parsed(&[]).is_err());
        assert!(parsed(&["--config", "c.toml"]).is_ok());
        assert!(parsed(&["--out", "-"]).is_ok());
    }

    #[test]
    fn clean_load_has_no_shares_and_contradicts_giving_some() {
        assert_eq!(parsed(&["--out", "-", "--clean"]).unwrap().shares(), Shares::NONE);
        assert_eq!(parsed(&["--out", "-"]).unwrap().shares(), Shares::DEFAULT);
        assert!(parsed(&["--out", "-", "--clean", "--late", "0.1"]).is_err());
        for wrong in [["--late", "1.1"], ["--users", "0"], ["--event-rate", "0"], ["--start", "yesterday"]] {
            assert!(parsed(&[&["--out", "-"], wrong.as_slice()].concat()).is_err(), "{wrong:?}");
        }
    }
}
