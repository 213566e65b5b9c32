//! Tallyguard: velocity checks on a Kafka transaction log whose alerts take effect exactly once.
//!
//! The source log is the database: all state of a partition is a pure function of its records in offset order, and
//! there is one commit point, a Kafka transaction that holds the outputs together with the source offsets. `domain` and
//! `protocol` decide and do no I/O; everything else carries their decisions out. `docs/ARCHITECTURE.md` is the map.

pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod engine;
pub mod generate;
pub mod http;
pub mod log;
pub mod logging;
pub mod mutants;
pub mod observe;
pub mod protocol;
pub mod reconcile;
pub mod state;
pub mod stats;
