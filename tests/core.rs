//! The pure core against an independent recount: validation, semantics, recovery, and the frozen formats.
//!
//! Every randomised test runs numbered seeds and names the seed that failed; `TALLYGUARD_SEED=<n>` runs that one alone.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "core/dice.rs"]
mod dice;
#[path = "core/golden.rs"]
mod golden;
#[path = "core/recovery.rs"]
mod recovery;
#[path = "core/refusals.rs"]
mod refusals;
#[path = "core/schemas.rs"]
mod schemas;
#[path = "core/semantics.rs"]
mod semantics;
#[path = "core/streams.rs"]
mod streams;
#[path = "core/validation.rs"]
mod validation;
#[path = "core/world.rs"]
mod world;
