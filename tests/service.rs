//! The service as its users meet it: the real binary, a real broker, a real database, and everything that goes wrong
//! with them. Nearly every test ends with the same question, answered by an implementation that shares no counting code
//! with the service: is what it wrote exactly what the source topic adds up to?
//!
//! Tests share one broker and one database, each with topics, a group and a schema of its own; those that stop a broker
//! or a database start their own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch real processes and need the real clock")]

mod support;

// The two transports, and tests that run on both.
#[path = "service/log.rs"]
mod log;

// One test's topics, group and directories, and the comparison with the recount. Read this first.
#[path = "service/scenario.rs"]
mod scenario;

// The tables of the database compared with the recount.
#[path = "service/statistics.rs"]
mod statistics;

// What records mean: every rule of the contract on one mixed topic, poison, huge and unusual records.
#[path = "service/semantics.rs"]
mod semantics;

// SIGKILL again and again, with the state kept and with the state lost; SIGTERM under load.
#[path = "service/crashes.rs"]
mod crashes;

// The broker dies, the database is away.
#[path = "service/outages.rs"]
mod outages;

// Several instances: takeover, a second process with the same id, a frozen one that wakes.
#[path = "service/instances.rs"]
mod instances;

// Instances come and go: from one to three to two, a rolling restart.
#[path = "service/scaling.rs"]
mod scaling;

// At least once, at most once: what they promise, and what they do not.
#[path = "service/modes.rs"]
mod modes;

// Starting: an unreachable broker, a missing topic, where a group begins, partitions that are added.
#[path = "service/starting.rs"]
mod starting;

// Continuing would lose or repeat data: what is refused, how, and what goes on meanwhile.
#[path = "service/refusals.rs"]
mod refusals;

// The dashboard in a real browser.
#[path = "service/dashboard.rs"]
mod dashboard;

// What only the embedded log has.
#[path = "service/embedded_log.rs"]
mod embedded_log;

// What the service answers over HTTP beside the status: users, alerts, checkpoints.
#[path = "service/interface.rs"]
mod interface;
