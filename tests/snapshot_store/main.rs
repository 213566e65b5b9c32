//! The snapshot store: what it holds after restarts, kills and damage, and who may own it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod damage;
mod processes;
mod thread;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::state::{ReadOnlyStore, SnapshotDelta, SnapshotStore, StateError, StoreOptions, StoredSnapshot};
use tempfile::TempDir;

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(state_dir: &Path) -> SnapshotStore {
    let (store, report) = SnapshotStore::open(state_dir, StoreOptions::default(), 1_000).unwrap();
    assert_eq!(report.set_aside, None);
    store
}

fn changes(partition: PartitionId, through: i64) -> SnapshotDelta {
    SnapshotDelta {
        partition,
        through: Offset(through),
        replace: false,
        removed_prefixes: vec![],
        removed: vec![],
        puts: vec![],
        header: format!("header {through}").into_bytes(),
    }
}

fn first(partition: PartitionId, through: i64) -> SnapshotDelta {
    SnapshotDelta { replace: true, ..changes(partition, through) }
}

fn put(mut delta: SnapshotDelta, key: &[u8], value: &[u8]) -> SnapshotDelta {
    delta.puts.push((key.to_vec(), value.to_vec()));
    delta
}

fn apply(model: &mut Model, delta: &SnapshotDelta) {
    if delta.replace {
        model.clear();
    }
    model.retain(|key, _| !delta.removed_prefixes.iter().any(|prefix| key.starts_with(prefix)));
    for key in &delta.removed {
        model.remove(key);
    }
    model.extend(delta.puts.iter().cloned());
}

fn entries(model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn what_was_stored_is_loaded_also_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let delta = put(put(first(P0, 10), b"", b"an empty key"), b"\xff\xff", b"");
    let expected = StoredSnapshot {
        through: Offset(10),
        header: b"header 10".to_vec(),
        entries: vec![(b"".to_vec(), b"an empty key".to_vec()), (b"\xff\xff".to_vec(), vec![])],
        written_at_ms: 77,
    };
    let store = open(directory.path());
    assert_eq!(store.load(P0).unwrap(), None);
    assert!(store.store(&[delta, first(P1, 3)], 77).unwrap() > 0);
    assert_eq!(store.load(P0).unwrap(), Some(expected.clone()));
    drop(store);

    let store = open(directory.path());
    assert_eq!(store.load(P0).unwrap(), Some(expected));
    assert_eq!(store.load(P1).unwrap().unwrap().entries, []);
    let known = store.partitions().unwrap();
    assert_eq!(known.corrupt, []);
    let listed: Vec<_> = known.known.iter().map(|known| (known.partition, known.through, &known.header[..])).collect();
    assert_eq!(listed, [(P0, Offset(10), &b"header 10"[..]), (P1, Offset(3), &b"header 3"[..])]);

    store.discard(P0).unwrap();
    assert_eq!(store.load(P0).unwrap(), None);
    assert!(store.load(P1).unwrap().is_some(), "discarding one partition leaves its neighbour alone");
}

#[test]
fn a_partition_that_comes_back_from_elsewhere_keeps_nothing_of_its_old_state() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    store.store(&[put(first(P0, 10), b"old", b"1"), put(first(P1, 4), b"neighbour", b"1")], 1).unwrap();
    store.store(&[put(changes(P0, 12), b"older", b"1")], 1).unwrap();
    store.store(&[put(first(P0, 5), b"new", b"2")], 1).unwrap();
    let loaded = store.load(P0).unwrap().unwrap();
    assert_eq!((loaded.through, loaded.entries), (Offset(5), vec![(b"new".to_vec(), b"2".to_vec())]));
    assert_eq!(store.load(P1).unwrap().unwrap().entries.len(), 1);
}

#[test]
fn changes_without_the_state_that_they_change_are_refused_and_nothing_is_written() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let refused = store.store(&[put(first(P1, 1), b"a", b"1"), changes(P0, 10)], 1).unwrap_err();
    assert!(matches!(refused, StateError::WithoutBase { partition: P0, through: Offset(10) }), "{refused}");
    assert_eq!(store.load(P1).unwrap(), None);

    store.store(&[first(P0, 10)], 1).unwrap();
    let refused = store.store(&[changes(P0, 9)], 1).unwrap_err();
    assert!(matches!(refused, StateError::Backwards { stored: Offset(10), offered: Offset(9), .. }), "{refused}");
    assert!(!refused.is_fatal());
}

fn random_key(random: &mut impl Rng) -> Vec<u8> {
    let length = random.random_range(0..4);
    (0..length).map(|_| [b'a', b'b', 0xff][random.random_range(0..3)]).collect()
}

fn random_delta(random: &mut impl Rng, partition: PartitionId, through: i64) -> SnapshotDelta {
    let mut delta = changes(partition, through);
    delta.replace = random.random_bool(0.03);
    delta.removed_prefixes = (0..random.random_range(0..2)).map(|_| random_key(random)).collect();
    delta.removed = (0..random.random_range(0..3)).map(|_| random_key(random)).collect();
    for _ in 0..random.random_range(0..6) {
        let value = vec![random.random(); random.random_range(0..2_000)];
        delta.puts.push((random_key(random), value));
    }
    delta
}

#[test]
fn any_sequence_of_changes_restarts_and_merges_leaves_what_a_plain_map_would_hold() {
    for seed in 0..6 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let directory = TempDir::new().unwrap();
        // A tiny write buffer, so that flushes and compactions take part.
        let options = StoreOptions { write_buffer_bytes: 64 << 10, ..StoreOptions::default() };
        let reopen = || SnapshotStore::open(directory.path(), options, 5).unwrap();
        let (mut store, _) = reopen();
        let mut models: BTreeMap<PartitionId, Model> = [(P0, Model::new()), (P1, Model::new())].into();
        store.store(&[first(P0, 0), first(P1, 0)], 1).unwrap();
        for step in 1..400 {
            let mut batch = Vec::new();
            for (&partition, model) in &mut models {
                if random.random_bool(0.7) {
                    let older = random_delta(&mut random, partition, step);
                    let newer = random_delta(&mut random, partition, step);
                    apply(model, &older);
                    apply(model, &newer);
                    match random.random_range(0..3) {
                        0 => batch.push(SnapshotDelta::merge(older, newer)),
                        1 => batch.extend([older, newer]),
                        _ => {
                            store.store(&[older], step).unwrap();
                            batch.push(newer);
                        }
                    }
                }
            }
            store.store(&batch, step).unwrap();
            if random.random_bool(0.02) {
                drop(store);
                let (again, report) = reopen();
                assert_eq!(report.set_aside, None);
                store = again;
            }
            if random.random_bool(0.05) {
                for (&partition, model) in &models {
                    let loaded = store.load(partition).unwrap().unwrap();
                    assert_eq!(loaded.entries, entries(model), "seed {seed}, step {step}, partition {partition}");
                }
            }
        }
    }
}

#[test]
fn a_chain_longer_than_the_links_that_are_kept_stays_sound() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    store.store(&[first(P0, 0)], 1).unwrap();
    for through in 1..1_500 {
        store.store(&[put(changes(P0, through), b"k", &through.to_be_bytes())], 1).unwrap();
    }
    let loaded = store.load(P0).unwrap().unwrap();
    assert_eq!(loaded.entries, [(b"k".to_vec(), 1_499_i64.to_be_bytes().to_vec())]);
    let report = SnapshotStore::verify(&store.retain_checkpoint(1, 1, 1).unwrap().path).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn retained_checkpoints_are_older_states_that_can_each_be_read_alone() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    store.store(&[put(first(P0, 1), b"k", b"1")], 1).unwrap();
    for sequence in 2..=6 {
        let value = sequence.to_string();
        let through = i64::try_from(sequence).unwrap();
        store.store(&[put(changes(P0, through), b"k", value.as_bytes())], through).unwrap();
        let taken = store.retain_checkpoint(sequence, 3, through).unwrap();
        assert_eq!(taken.partitions, [(P0, Offset(through))]);
        assert!(taken.bytes > 0);
    }
    let refused = store.retain_checkpoint(6, 3, 7).unwrap_err();
    assert!(matches!(refused, StateError::Io { .. }), "{refused}");
    let listed = SnapshotStore::checkpoints(directory.path()).unwrap();
    assert_eq!(listed.iter().map(|info| info.sequence).collect::<Vec<_>>(), [4, 5, 6]);
    drop(store);
    fs::remove_dir_all(directory.path().join("store")).unwrap();
    for info in listed {
        let files_before = files_of(&info.path);
        let report = SnapshotStore::verify(&info.path).unwrap();
        assert!(report.is_sound());
        assert_eq!((report.sound[0].entries, report.sound[0].through), (1, info.partitions[0].1));
        let alone = ReadOnlyStore::open(&info.path).unwrap();
        let loaded = alone.load(P0).unwrap().unwrap();
        assert_eq!(loaded.entries, [(b"k".to_vec(), info.sequence.to_string().into_bytes())]);
        assert_eq!(alone.partitions().unwrap().known[0].header, loaded.header);
        drop(alone);
        assert_eq!(files_of(&info.path), files_before, "looking at a checkpoint leaves no trace");
    }
}

#[test]
fn what_a_crash_left_half_made_is_neither_listed_nor_kept() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    store.store(&[first(P0, 1)], 1).unwrap();
    store.retain_checkpoint(1, 3, 1).unwrap();
    let half_made = directory.path().join("checkpoints/.00000000000000000002");
    fs::create_dir(&half_made).unwrap();
    fs::write(half_made.join("CURRENT"), b"MANIFEST-000005\n").unwrap();
    assert_eq!(SnapshotStore::checkpoints(directory.path()).unwrap().len(), 1);
    drop(store);
    drop(open(directory.path()));
    assert!(!half_made.exists());
}

/// Name and content of each file, ascending by name.
fn files_of(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}
