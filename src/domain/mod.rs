//! What a transaction means: validation, windows, user counters, alerts, order statistics.
//!
//! Pure: no I/O, no clock, no logging, no async. Every decision depends only on record content and record order, so a
//! replay of the same log decides the same.

pub mod alert;
pub mod codec;
pub mod duration;
pub mod ids;
pub mod json;
pub mod lookup;
pub mod partition;
pub mod record;
pub mod rule;
pub mod snapshot;
pub mod statistics;
pub mod statistics_state;
pub mod swar;
pub mod time;
pub mod timestamp;
pub mod user;
mod usual;
pub mod window;
