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

// What no run can go on from, and must refuse.
#[path = "simulation/epilogue.rs"]
mod epilogue;

// A process: the production engine on simulated threads.
#[path = "simulation/process.rs"]
mod process;

// Its partition actors, and whoever stores, writes and recovers.
#[path = "simulation/threads.rs"]
mod threads;

// Its consumer and writer, and what may happen to each call.
#[path = "simulation/client.rs"]
mod client;

// The cluster: transactions, source topic.
#[path = "simulation/kafka.rs"]
mod kafka;

// The consumer group.
#[path = "simulation/group.rs"]
mod group;

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
const MUST_BE_REACHED: [&str; 47] = [
    "a dead letter",
    "a late record",
    "ambiguous commit",
    "an alert",
    "answer lost",
    "cut after its commit",
    "cut before its commit",
    "damaged snapshot",
    "deadlock",
    "disk full",
    "disk lost",
    "first start",
    "flush of a zombie",
    "killed",
    "late request fenced",
    "left because it was replaced",
    "offsets of a former generation refused",
    "open outputs waited for",
    "open transaction aborted by its successor",
    "outputs found ahead",
    "parked state reused",
    "partition added",
    "read-only database",
    "records deleted by retention",
    "recovered from a replay",
    "recovered from a snapshot",
    "identity_changed",
    "log_shorter",
    "log_truncated",
    "offsets_gone",
    "parameters_changed",
    "snapshot_ahead",
    "request duplicated",
    "request duplicated in silence",
    "request late",
    "rules changed",
    "session ran out",
    "slow database",
    "snapshot found",
    "snapshot stored",
    "stale row rejected",
    "state compared",
    "transaction timed out",
    "transaction torn by a late commit",
    "unstable offset waited for",
    "unsynced writes at a power cut",
    "zombie rejected",
];

/// One thread that has found so many goes no further.
const FAILURES_SHOWN: usize = 20;

fn from_env(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
}

/// What some seeds were like together.
#[derive(Default)]
struct Sum {
    coverage: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, String)>,
}

/// Each seed is a world of its own, so threads may share the range.
fn run_some(seeds: impl Iterator<Item = u64>) -> Sum {
    let mut sum = Sum::default();
    for seed in seeds {
        match run(seed, None, false) {
            Ok(Report { coverage, .. }) => {
                for (what, times) in coverage {
                    *sum.coverage.entry(what).or_default() += times;
                }
            }
            Err(failure) => sum.failed.push((seed, failure.why)),
        }
        if sum.failed.len() >= FAILURES_SHOWN {
            break;
        }
    }
    sum
}

/// Panics with all failures in a line each, the end of the first one's trace, and the command that shows it again.
fn report_failures(failed: &[(u64, String)]) {
    let Some((seed, why)) = failed.first() else { return };
    for (seed, why) in failed {
        eprintln!("seed {seed}: {}", why.lines().take(3).collect::<Vec<_>>().join(" "));
    }
    let trace = run(*seed, None, true).err().map(|failure| failure.end_of_trace).unwrap_or_default();
    panic!(
        "{trace}\n{why}\nseed {seed} failed; again with: TALLYGUARD_SIM_FIRST_SEED={seed} TALLYGUARD_SIM_SEEDS=1 cargo test \
         --release --test simulation simulation_of_many",
    );
}

#[test]
fn simulation_of_many_seeds_is_exact() {
    let (first, seeds) = (from_env("TALLYGUARD_SIM_FIRST_SEED", 0), from_env("TALLYGUARD_SIM_SEEDS", 2_000));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let sums: Vec<Sum> = std::thread::scope(|scope| {
        let share = |thread| move || run_some((first..first + seeds).skip(thread).step_by(threads));
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(share(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("a failure is caught")).collect()
    });
    let mut coverage: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for sum in sums {
        failed.extend(sum.failed);
        for (what, times) in sum.coverage {
            *coverage.entry(what).or_default() += times;
        }
    }
    failed.sort();
    report_failures(&failed);
    eprintln!("{seeds} seeds from {first}: {coverage:#?}");
    if seeds >= 500 {
        let missed: Vec<_> = MUST_BE_REACHED.iter().filter(|what| !coverage.contains_key(*what)).collect();
        assert!(missed.is_empty(), "never reached: {missed:?}");
    }
}

#[test]
fn simulation_of_one_seed_is_the_same_every_time() {
    for seed in 0..25 {
        let trace = || run(seed, None, true).map_or_else(|failure| vec![failure.end_of_trace], |report| report.trace);
        let (first, second) = (trace(), trace());
        let differing = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differing.is_none() && first.len() == second.len(), "seed {seed}: {differing:?}");
    }
}
