//! `tallyguard generate`.

use clap::Args;

use super::{ConfigFile, Exit};

#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub file: ConfigFile,
}

/// # Errors
/// Always.
pub fn run(_: GenerateArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not part of this branch")
}
