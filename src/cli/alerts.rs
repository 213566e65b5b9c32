//! `tallyguard alerts tail`: committed alerts on the terminal, as they come.
//!
//! Reads the alert topic (or the embedded log) itself: it needs no running service, joins no group and commits nothing.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use humantime::parse_duration;

use super::{ConfigFile, Exit, signals};
use crate::clock::monotonic_now;
use crate::config::{Settings, SourceKind, client};
use crate::log::embedded::ViewFeeds;
use crate::log::kafka::KafkaFeeds;
use crate::log::{AlertFeed, AlertFeeds, CommittedAlert};

mod plain_words;

pub use plain_words::AlertText;

const LOOK: Duration = Duration::from_millis(250);
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum AlertsCommand {
    /// Follow the committed alerts
    #[command(after_help = "\
Examples:
  tallyguard alerts tail --config tallyguard.toml
  tallyguard alerts tail --config tallyguard.toml --from beginning --for 1s --json | jq .user_id

Only committed alerts are shown, each once. Ends with SIGINT or SIGTERM, when its reader is gone, or
after --for.")]
    Tail(TailArgs),
}

#[derive(Debug, Args)]
pub struct TailArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Where to begin
    #[arg(long, value_enum, default_value = "end", conflicts_with = "last")]
    pub from: From,

    /// Begin with the newest N alerts of each partition of the topic
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,

    /// Print each alert's own JSON, one a line
    #[arg(long)]
    pub json: bool,

    /// End after this time, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub for_how_long: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// The oldest alert that the topic still has
    Beginning,
    /// What comes from now on
    End,
}

/// Carries out the command.
///
/// # Errors
/// When signals cannot be awaited.
pub fn run(command: &AlertsCommand) -> anyhow::Result<Exit> {
    let AlertsCommand::Tail(args) = command;
    let settings = match super::load(&args.file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    let stop = signals::stop_on_signal()?;
    let last = match (args.last, args.from) {
        (Some(last), _) => Some(last),
        (None, From::Beginning) => None,
        (None, From::End) => Some(0),
    };
    let mut feed = match open(&settings, last, &stop) {
        Ok(feed) => feed,
        Err(exit) => return Ok(exit),
    };
    follow(feed.as_mut(), args, &stop)
}

/// Where the alerts of this configuration are read.
pub fn feeds(settings: &Settings) -> Arc<dyn AlertFeeds> {
    match settings.source.kind {
        SourceKind::Kafka => Arc::new(KafkaFeeds(client::kafka_settings(settings))),
        SourceKind::Embedded => Arc::new(ViewFeeds(settings.embedded.dir.clone())),
    }
}

fn open(settings: &Settings, last: Option<usize>, stop: &AtomicBool) -> Result<Box<dyn AlertFeed>, Exit> {
    let deadline = monotonic_now() + settings.kafka.startup_timeout;
    let feeds = feeds(settings);
    loop {
        let why = match feeds.open(last) {
            Ok(feed) => return Ok(feed),
            Err(why) => why,
        };
        if stop.load(Ordering::Relaxed) {
            return Err(Exit::Done);
        }
        if settings.source.kind == SourceKind::Embedded {
            tracing::error!("{why}; `tallyguard run` makes the log, and `tallyguard ingest` fills it");
            return Err(Exit::Failed);
        }
        if monotonic_now() >= deadline {
            let (brokers, topic) = (&settings.kafka.brokers, &settings.alerts.topic);
            tracing::error!("{brokers}: topic {topic} cannot be read within kafka.startup_timeout: {why}");
            return Err(Exit::KafkaUnreachable);
        }
        std::thread::sleep(LOOK);
    }
}

fn follow(feed: &mut dyn AlertFeed, args: &TailArgs, stop: &AtomicBool) -> anyhow::Result<Exit> {
    let until = args.for_how_long.map(|duration| monotonic_now() + duration);
    let mut said = String::new();
    let mut out = std::io::stdout().lock();
    let is_coloured = out.is_terminal();
    loop {
        let left = until.map(|until| until.saturating_duration_since(monotonic_now()));
        if stop.load(Ordering::Relaxed) || left.is_some_and(|left| left.is_zero()) {
            return Ok(Exit::Done);
        }
        match feed.next(left.unwrap_or(LOOK).min(LOOK)) {
            Ok(alerts) => {
                for alert in alerts {
                    if !write(&mut out, &alert, args.json, is_coloured)? {
                        return Ok(Exit::Done);
                    }
                }
                out.flush().or_else(ignore_closed)?;
            }
            Err(why) => {
                if why != said {
                    tracing::warn!("{why}; trying again");
                    said = why;
                }
                std::thread::sleep(PAUSE_AFTER_TROUBLE.min(left.unwrap_or(PAUSE_AFTER_TROUBLE)));
            }
        }
    }
}

/// False when the reader is gone.
fn write(out: &mut impl Write, alert: &CommittedAlert, json: bool, is_coloured: bool) -> anyhow::Result<bool> {
    let written = if json {
        out.write_all(&alert.value).and_then(|()| out.write_all(b"\n"))
    } else {
        let text = AlertText::read(&alert.value).map_or_else(
            || format!("not an alert: {}/{}", alert.partition, alert.offset),
            |text| text.line(is_coloured),
        );
        writeln!(out, "{text}")
    };
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn ignore_closed(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}
