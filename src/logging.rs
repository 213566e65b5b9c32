//! Logs: to standard error, as text for people or as one JSON object per line for machines.
//!
//! What is logged is chosen by `RUST_LOG`; without it, everything from `info` on, and of the client libraries only
//! what is wrong. No payload values and no secrets are ever logged; that is the duty of whoever writes a log line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// What is logged when `RUST_LOG` does not say.
///
/// The `rdkafka` crate is silent: it logs as an error what the engine handles and reports in its own words.
const DEFAULT_FILTER: &str = "info,librdkafka=warn,rdkafka=off,sqlx=warn,actix_server=warn";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Starts logging for the whole process. A filter in `RUST_LOG` that cannot be read is reported and replaced by the
/// default; a second call does nothing.
pub fn init(format: LogFormat) {
    let configured = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let parsed = configured.as_deref().map(EnvFilter::try_new);
    let (filter, problem) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
        None => (EnvFilter::new(DEFAULT_FILTER), None),
    };
    let builder = SubscriberBuilder::default().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let started = match format {
        LogFormat::Text => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let (Ok(()), Some(problem)) = (started, problem) {
        tracing::warn!("RUST_LOG cannot be read and is ignored: {problem}");
    }
}
