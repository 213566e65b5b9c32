//! Each deliberate error is found by some seed, or the simulation proves nothing.

use crate::chance::Broken;
use crate::run::run;

/// Seeds that an error may survive.
const SEEDS: u64 = 1_000;

/// The first seed that finds it, and how.
fn hunt(name: &str, broken: Option<Broken>) -> Option<String> {
    (0..SEEDS).find_map(|seed| {
        let failure = run(seed, broken, false).err()?;
        let how = failure.why.lines().take(2).collect::<Vec<_>>().join(" ");
        let how: String = how.chars().take(160).collect();
        Some(format!("{name}: killed by seed {seed}: {how}"))
    })
}

/// Reports what each hunt has found.
fn assert_all_killed(hunts: impl Iterator<Item = (String, Option<String>)>) {
    let survivors: Vec<_> = hunts
        .filter_map(|(name, killed)| match killed {
            Some(line) => {
                eprintln!("{line}");
                None
            }
            None => Some(name),
        })
        .collect();
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
        Broken::OpenOutputsAreNotWaitedFor,
        Broken::UnsyncedSnapshotsAreBelieved,
    ];
    assert_all_killed(all.into_iter().map(|broken| {
        let name = format!("{broken:?}");
        (name.clone(), hunt(&name, Some(broken)))
    }));
}

#[cfg(feature = "mutants")]
#[test]
fn simulation_finds_each_error_in_the_engine() {
    use tallyguard::mutants::{ALL, set};

    assert_all_killed(ALL.into_iter().map(|mutant| {
        set(Some(mutant));
        let name = format!("{mutant:?}");
        let killed = hunt(&name, None);
        set(None);
        (name, killed)
    }));
}
