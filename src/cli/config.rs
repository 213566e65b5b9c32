//! `tallyguard config`: check a configuration, show it as it takes effect, print its schema.

use anyhow::Context;
use clap::Subcommand;

use super::{ConfigFile, Exit, print};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration together with the environment; every problem is reported, exit code 2
    #[command(after_help = "Example:\n  tallyguard config check --config tallyguard.toml")]
    Check(ConfigFile),
    /// Print the configuration as it takes effect, secrets masked
    #[command(after_help = "\
Example:
  TALLYGUARD__KAFKA__BROKERS=k1:9092 tallyguard config show --config tallyguard.toml")]
    Show(ConfigFile),
    /// Print the JSON Schema of the configuration file
    #[command(after_help = "Example:\n  tallyguard config schema > config.v1.json")]
    Schema {
        /// Accepted for uniformity, and not read
        #[arg(long, value_name = "FILE")]
        config: Option<std::path::PathBuf>,
    },
}

/// Carries out one of the commands.
///
/// # Errors
/// When the result cannot be written.
pub fn run(command: &ConfigCommand) -> anyhow::Result<Exit> {
    let file = match command {
        ConfigCommand::Schema { .. } => {
            print(&format!("{:#}\n", crate::config::schema()))?;
            return Ok(Exit::Done);
        }
        ConfigCommand::Check(file) | ConfigCommand::Show(file) => file,
    };
    let settings = match super::load(&file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    if matches!(command, ConfigCommand::Show(_)) {
        print(&settings.effective_toml().context("the configuration cannot be written as TOML")?)?;
    } else {
        let summary = format!(
            "{} is legal: instance {}, topic {}, group {}, {} rule(s), {} warning(s)\n",
            file.config.display(),
            settings.instance.id,
            settings.source.topic,
            settings.source.group,
            settings.rules.len(),
            settings.warnings.len(),
        );
        print(&summary)?;
    }
    Ok(Exit::Done)
}
