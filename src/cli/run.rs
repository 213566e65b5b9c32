//! `tallyguard run`: the service.

use clap::Args;

use super::{ConfigFile, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tallyguard run --config tallyguard.toml
  TALLYGUARD__INSTANCE__ID=risk-2 tallyguard run --config tallyguard.toml --log-format json

Run as many instances as you like with the same group and unlike instance ids: Kafka divides the
partitions among them. The service ends with SIGTERM or SIGINT after it has handed its partitions
over.")]
pub struct RunArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Stop, as after SIGTERM, once standard input is closed: the service then ends with the process that started it
    #[arg(long)]
    pub while_stdin_is_open: bool,
}

/// Reads the settings and runs the engine until it ends.
///
/// # Errors
/// None of its own: the engine ends with an [`Exit`].
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    Ok(match super::load(&args.file.config) {
        Ok(settings) => crate::engine::run(settings, args.while_stdin_is_open),
        Err(exit) => exit,
    })
}
