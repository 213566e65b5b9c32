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

// Deliberate errors, each of which must be found.
#[path = "simulation/mutants.rs"]
mod mutants;

use std::collections::BTreeMap;

use crate::run::{Report, run};

/// What a simulation that never comes to it has not tested.
const MUST_BE_REACHED: [&str; 23] = [
    "a dead letter",
    "a late record",
    "ambiguous commit",
    "an alert",
    "answer lost",
    "disk lost",
    "flush of a zombie",
    "killed",
    "late request fenced",
    "left because it was replaced",
    "offsets of a former generation refused",
    "open outputs waited for",
    "open transaction aborted by its successor",
    "recovered from a replay",
    "snapshot found",
    "request duplicated",
    "request late",
    "session ran out",
    "snapshot stored",
    "stale row rejected",
    "transaction timed out",
    "unstable offset waited for",
    "zombie rejected",
];

fn from_env(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
}

/// Panics with the end of the trace and the command that shows it again.
fn run_or_show(seed: u64) -> Report {
    run(seed, None).unwrap_or_else(|failure| {
        panic!(
            "{}\n{}\nseed {seed} failed; again with: TALLYGUARD_SIM_FIRST_SEED={seed} TALLYGUARD_SIM_SEEDS=1 cargo test \
             --release --test simulation",
            failure.end_of_trace, failure.why,
        )
    })
}

#[test]
fn simulation_of_many_seeds_is_exact() {
    let (first, seeds) = (from_env("TALLYGUARD_SIM_FIRST_SEED", 0), from_env("TALLYGUARD_SIM_SEEDS", 2_000));
    let mut coverage: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        for (what, times) in run_or_show(seed).coverage {
            *coverage.entry(what).or_default() += times;
        }
    }
    eprintln!("{seeds} seeds from {first}: {coverage:#?}");
    if seeds >= 500 {
        let missed: Vec<_> = MUST_BE_REACHED.iter().filter(|what| !coverage.contains_key(*what)).collect();
        assert!(missed.is_empty(), "never reached: {missed:?}");
    }
}

#[test]
fn simulation_of_one_seed_is_the_same_every_time() {
    for seed in 0..25 {
        let (first, second) = (run_or_show(seed).trace, run_or_show(seed).trace);
        let differing = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differing.is_none() && first.len() == second.len(), "seed {seed}: {differing:?}");
    }
}
