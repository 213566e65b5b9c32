//! What the integration tests stand on: a real Kafka broker, a real MariaDB server and the service's own binary, each
//! started as a process of its own, each gone when the test process is gone.
//!
//! A test binary includes it with `mod support;` (or `#[path = "../support/mod.rs"] mod support;`). Failures panic with
//! what was waited for and the log of the process that did not do it. Nothing here knows how Tallyguard works inside:
//! tests look at topics, tables, HTTP and exit codes, as users do.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this module")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch real processes and need the real clock")]

pub mod broker;
pub mod browser;
pub mod config;
pub mod database;
pub mod embedded_log;
pub mod load;
pub mod process;
pub mod prometheus_text;
pub mod raw_headers;
pub mod service;
pub mod topics;
pub mod wait;

pub use broker::{Broker, Cluster, shared_broker};
pub use config::TestConfig;
pub use database::{Database, Schema, shared_database};
pub use embedded_log::EmbeddedLog;
pub use load::{Load, workload};
pub use process::{GuardedChild, free_port, script, unique_name};
pub use prometheus_text::MetricsText;
pub use service::{Service, run_command};
pub use topics::{ReadRecord, TestRecord};
pub use wait::{wait_until, wait_until_or_show};

/// Runs a future to its end on a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime").block_on(future)
}
