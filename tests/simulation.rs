//! Deterministic simulation: the production engine (domain, commit cycle, recovery, I/O loop) under virtual time, on one
//! thread, from one seed, among everything that can go wrong; afterwards an independent recount judges.
//!
//! `TALLYGUARD_SIM_SEEDS` says how many seeds, `TALLYGUARD_SIM_FIRST_SEED` which is the first.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

// Dice, virtual time, the trace. Read this first, then `run`.
#[path = "simulation/chance.rs"]
mod chance;

// One run: faults, healing, judges.
#[path = "simulation/run.rs"]
mod run;

// A process: the production engine on simulated threads.
#[path = "simulation/process.rs"]
mod process;

// The cluster: transactions, group, source topic.
#[path = "simulation/kafka.rs"]
mod kafka;

// Stored snapshots.
#[path = "simulation/disk.rs"]
mod disk;

// Statistics rows.
#[path = "simulation/database.rs"]
mod database;

// Source records, and the rules.
#[path = "simulation/traffic.rs"]
mod traffic;

use std::collections::BTreeMap;

fn from_env(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
}

#[test]
fn simulation_of_many_seeds_is_exact() {
    let (first, seeds) = (from_env("TALLYGUARD_SIM_FIRST_SEED", 0), from_env("TALLYGUARD_SIM_SEEDS", 300));
    let mut coverage: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        for (what, times) in run::run(seed).coverage {
            *coverage.entry(what).or_default() += times;
        }
    }
    eprintln!("{seeds} seeds from {first}: {coverage:#?}");
}
