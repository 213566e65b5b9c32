//! The embedded log: its promises to whoever appends and commits, what retention may take, what a power cut leaves, and the
//! service's own binary on top of it, compared with the recount.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch real processes and need the real clock")]

mod support;

// Records, outputs and commits of these tests, and a log in a directory of its own. Read this first.
#[path = "embedded/world.rs"]
mod world;

// Offsets, order, reopening, partitions, what a commit is, and what others may see of it.
#[path = "embedded/store.rs"]
mod store;

// What may go, and each reason for which it must stay.
#[path = "embedded/retention.rs"]
mod retention;

// The write-ahead log cut off at every place a power cut can cut it.
#[path = "embedded/power_cut.rs"]
mod power_cut;

// The engine as the log's reader: the transport trait and a recovery's facts.
#[path = "embedded/transport.rs"]
mod transport;
