//! What a transaction means: validation, windows, user counters, alerts, order statistics.
//!
//! Pure: no I/O, no clock, no logging, no async. Every decision depends only on record content and record order, so a
//! replay of the same log decides the same.

pub mod alert;
pub mod duration;
pub mod ids;
pub mod rule;
pub mod statistics;
pub mod time;
