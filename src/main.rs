//! Command line → logging → command → exit code.

use std::process::ExitCode;

use clap::Parser;
use tallyguard::cli::{self, Cli};
use tallyguard::logging;

fn main() -> ExitCode {
    // Wrong usage ends here with exit code 2, a request for help with 0.
    let cli = Cli::parse();
    logging::init(cli.log_format);
    cli::execute(cli.command).into()
}
