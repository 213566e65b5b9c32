//! The command line: one file per command, and what they share.
//!
//! A command reads its settings, does its work and ends with an [`Exit`]. Results go to standard output, everything
//! else to the log on standard error.

pub mod alerts;
pub mod checkpoint;
pub mod config;
pub mod demo;
pub mod exit;
pub mod generate;
pub mod ingest;
pub mod intake;
pub mod offsets;
pub mod run;
mod signals;
pub mod topics;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use rdkafka::error::KafkaError;

use crate::config::Settings;
use crate::config::client::is_unreachable_error;
use crate::logging::LogFormat;
pub use exit::Exit;

const ABOUT: &str = "Velocity checks on a Kafka transaction log whose alerts take effect exactly once";

const AFTER_HELP: &str = "\
Examples:
  tallyguard demo --for 30s                             see it at work, nothing needs to be installed
  tallyguard config check --config tallyguard.toml      is this configuration legal?
  tallyguard topics create --config tallyguard.toml     create the topics that are missing
  tallyguard run --config tallyguard.toml               the service, until SIGTERM
  tallyguard generate --config tallyguard.toml --events 100000 --users 1000 --rate 5000 --seed 7
  tallyguard offsets show --config tallyguard.toml      how far the group has committed

Every key of the configuration can be given by the environment: TALLYGUARD__KAFKA__BROKERS=k1:9092.
RUST_LOG chooses what is logged, for example RUST_LOG=debug or RUST_LOG=info,librdkafka=debug.

Exit codes:
   0  done; also after SIGTERM or SIGINT with a clean hand-over
   1  anything else
   2  wrong usage or configuration
   3  refused: continuing would lose or repeat data
   4  fenced by another instance with the same id
   5  Kafka stayed unreachable or refused access, or the source topic does not exist
  10  reconciliation found differences that remain";

#[derive(Debug, Parser)]
#[command(name = "tallyguard", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Cli {
    /// Form of the log on standard error
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it at work without a broker or a database server: generated traffic, alerts, a dashboard, a recount
    Demo(demo::DemoArgs),
    /// Run the service until SIGTERM or SIGINT
    Run(run::RunArgs),
    /// Generate deterministic, realistic load into the source topic, or as NDJSON
    Generate(generate::GenerateArgs),
    /// Take transactions out of files into the embedded log
    Ingest(ingest::IngestArgs),
    /// Create the topics
    #[command(subcommand)]
    Topics(topics::TopicsCommand),
    /// Follow committed alerts
    #[command(subcommand)]
    Alerts(alerts::AlertsCommand),
    /// Look at the local snapshots
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Look at committed offsets
    #[command(subcommand)]
    Offsets(offsets::OffsetsCommand),
    /// Check a configuration, show it as it takes effect, or print its JSON Schema
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// The option that every command with a configuration has.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Configuration file (TOML); the environment TALLYGUARD__SECTION__KEY wins over it
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Carries out a command. An error that the command has no exit code for is logged here, once.
#[must_use]
pub fn execute(command: Command) -> Exit {
    let ended = match command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Ingest(args) => ingest::run(&args),
        Command::Topics(command) => topics::run(&command),
        Command::Alerts(command) => alerts::run(&command),
        Command::Checkpoint(command) => checkpoint::run(&command),
        Command::Offsets(command) => offsets::run(&command),
        Command::Config(command) => config::run(&command),
    };
    ended.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        Exit::Failed
    })
}

/// The settings, with their warnings logged; or how to end when they are refused, every problem logged.
///
/// # Errors
/// [`Exit::Usage`] for a configuration that is refused.
pub fn load(file: &Path) -> Result<Settings, Exit> {
    match crate::config::load(file) {
        Ok(settings) => {
            for warning in &settings.warnings {
                tracing::warn!("{warning}");
            }
            Ok(settings)
        }
        Err(refusal) => {
            for problem in &refusal.problems {
                tracing::error!("configuration: {problem}");
            }
            Err(Exit::Usage)
        }
    }
}

/// Exit 5 for a cluster that cannot be reached; any other error is the caller's.
pub(crate) fn unreachable_or(settings: &Settings, error: KafkaError) -> anyhow::Result<Exit> {
    if is_unreachable_error(&error) {
        tracing::error!(
            brokers = settings.kafka.brokers,
            "Kafka stayed unreachable or refused access for kafka.startup_timeout = {}: {error}",
            humantime::format_duration(settings.kafka.startup_timeout),
        );
        return Ok(Exit::KafkaUnreachable);
    }
    Err(error.into())
}

/// Writes a result to standard output. A reader that has gone away is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
