//! Each deliberate error is found by some seed, or the simulation proves nothing.

use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::chance::Broken;
use crate::run::run;

/// Seeds that an error may survive.
const SEEDS: u64 = 20_000;

/// The first seed that finds it, and how.
fn hunt(name: &str, broken: Option<Broken>) -> Option<String> {
    (0..SEEDS).find_map(|seed| {
        let failure = run(seed, broken, false).err()?;
        let how = failure.why.lines().take(2).collect::<Vec<_>>().join(" ");
        let how: String = how.chars().take(160).collect();
        Some(format!("{name}: killed by seed {seed}: {how}"))
    })
}

/// Hunts all, on as many threads as there are, and reports what each hunt has found.
fn assert_all_killed<E: Copy + Debug + Send + Sync>(all: &[E], hunt: impl Fn(E) -> Option<String> + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut survivors = Vec::new();
        while let Some(&error) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            match hunt(error) {
                Some(line) => eprintln!("{line}"),
                None => survivors.push(format!("{error:?}")),
            }
        }
        survivors
    };
    let survivors: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a failure is caught")).collect()
    });
    assert!(survivors.is_empty(), "not found by {SEEDS} seeds: {survivors:?}");
}

#[test]
fn simulation_finds_each_broken_promise_around_the_engine() {
    let all = [
        Broken::NoGuardOnRows,
        Broken::GuardColumnFirst,
        Broken::RowsAreIncremented,
        Broken::OffsetsWithoutGeneration,
        Broken::OffsetsReadBeforeTheWriterIsSettled,
        Broken::UnstableOffsetsAreRead,
    ];
    assert_all_killed(&all, |broken| hunt(&format!("{broken:?}"), Some(broken)));
}

#[cfg(feature = "mutants")]
#[test]
fn simulation_finds_each_error_in_the_engine() {
    use tallyguard::mutants::{ALL, set};

    assert_all_killed(&ALL, |mutant| {
        set(Some(mutant));
        let killed = hunt(&format!("{mutant:?}"), None);
        set(None);
        killed
    });
}
