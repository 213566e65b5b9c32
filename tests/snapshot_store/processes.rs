//! Kills in the middle of storing, and two owners. The other process is this test binary, started again with [`CHILD`] set
//! to what it shall do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tallyguard::state::{SnapshotStore, StateError, StoreOptions};
use tempfile::TempDir;

use crate::{P0, P1, changes, first, open};

const CHILD: &str = "TALLYGUARD_TEST_CHILD";
const CHILD_DIRECTORY: &str = "TALLYGUARD_TEST_CHILD_DIRECTORY";

fn start_child(task: &str, directory: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, task)
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// Numbers that the child reported, each on a line of its own that starts with `done`.
fn next_done(output: &mut impl BufRead) -> Option<i64> {
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        // The test runner's own text may stand before ours on the same line.
        if let Some((_, number)) = line.split_once("done ") {
            return Some(number.trim().parse().unwrap());
        }
    }
}

fn report_done(number: i64) {
    let mut output = std::io::stdout();
    writeln!(output, "done {number}").unwrap();
    output.flush().unwrap();
}

const CHILD_ENTRIES: u32 = 3_000;

/// Not a test by itself: what the other process does.
#[test]
fn child_process() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let directory = PathBuf::from(std::env::var(CHILD_DIRECTORY).unwrap());
    let store = open(&directory);
    if task == "hold" {
        report_done(0);
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let start = store.load(P0).unwrap().map_or(0, |stored| stored.through.0);
    let mut sequence = SnapshotStore::checkpoints(&directory).unwrap().last().map_or(0, |info| info.sequence);
    for through in start + 1.. {
        let deltas = [P0, P1].map(|partition| {
            let mut delta = if through == 1 { first(partition, through) } else { changes(partition, through) };
            delta.puts =
                (0..CHILD_ENTRIES).map(|key| (key.to_be_bytes().into(), through.to_be_bytes().into())).collect();
            delta
        });
        store.store(&deltas, through).unwrap();
        report_done(through);
        if through % 3 == 0 {
            sequence += 1;
            store.retain_checkpoint(sequence, 2, through).unwrap();
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_one_complete_snapshot_no_older_than_the_last_one_that_was_acknowledged() {
    let directory = TempDir::new().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut acknowledged = 0;
    for round in 0..12 {
        let (mut child, mut output) = start_child("store", directory.path());
        for _ in 0..random.random_range(1..8) {
            acknowledged = next_done(&mut output).expect("the child goes on until it is killed");
        }
        thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(done) = next_done(&mut output) {
            acknowledged = done;
        }
        let store = open(directory.path());
        let found = [P0, P1].map(|partition| store.load(partition).unwrap().unwrap());
        let through = found[0].through.0;
        assert!((acknowledged..=acknowledged + 1).contains(&through), "round {round}: {through}, {acknowledged}");
        for snapshot in found {
            assert_eq!(snapshot.through.0, through, "one batch holds both partitions");
            assert_eq!(snapshot.entries.len(), usize::try_from(CHILD_ENTRIES).unwrap());
            assert!(snapshot.entries.iter().all(|(_, value)| *value == through.to_be_bytes()), "round {round}");
        }
        for info in SnapshotStore::checkpoints(directory.path()).unwrap() {
            assert!(SnapshotStore::verify(&info.path).unwrap().is_sound(), "round {round}");
        }
    }
}

#[test]
fn a_second_process_on_the_same_directory_is_told_who_owns_it() {
    let directory = TempDir::new().unwrap();
    let (mut child, mut output) = start_child("hold", directory.path());
    assert_eq!(next_done(&mut output), Some(0));
    let refused = SnapshotStore::open(directory.path(), StoreOptions::default(), 1).err().unwrap();
    assert!(matches!(refused, StateError::Locked { .. }));
    assert!(refused.to_string().contains(&format!("process {}", child.id())), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    let store = open(directory.path());
    let refused = SnapshotStore::open(directory.path(), StoreOptions::default(), 1).err().unwrap();
    assert!(matches!(refused, StateError::Locked { .. }), "also within one process: {refused}");
    drop(store);
}
