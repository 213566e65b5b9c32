//! What the service says of itself: the status board and the metrics.
//!
//! Promises: the engine tells a fact once and goes on; whoever asks (HTTP, a scraper) gets a consistent copy. Needs
//! nothing but memory, so it answers when Kafka and the database do not. It must never hold up a record, decide
//! anything, or hold payload values and secrets.

mod gauges;
mod guarantee;
pub mod metrics;
pub mod readiness;
mod recent;
pub mod report;
pub mod status;
