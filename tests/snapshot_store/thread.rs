//! The snapshot thread, and snapshots of a realistic size.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tallyguard::clock::monotonic_now;
use tallyguard::domain::ids::Offset;
use tallyguard::state::{
    NotTaken, SnapshotDelta, SnapshotEvent, SnapshotSink, SnapshotStore, Snapshotter, SnapshotterSettings, StateError,
};
use tempfile::TempDir;

use crate::{P0, P1, changes, first, open, put};

#[test]
fn the_thread_answers_each_hand_over_and_gives_back_what_it_could_not_store() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(open(directory.path()));
    let (sender, events) = mpsc::channel();
    let settings = SnapshotterSettings { retain: 2 };
    let snapshotter = Snapshotter::spawn(store.clone(), settings, move |event| sender.send(event).unwrap()).unwrap();
    let next = || events.recv_timeout(Duration::from_secs(30)).unwrap();

    snapshotter.store(vec![put(first(P0, 7), b"k", b"1")], 1).unwrap();
    match next() {
        SnapshotEvent::Stored { generation: 1, partitions, bytes, .. } => {
            assert_eq!(partitions, [(P0, Offset(7))]);
            assert!(bytes > 0);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.load(P0).unwrap().unwrap().through, Offset(7));
    assert!(matches!(next(), SnapshotEvent::Retained { generation: 1, .. }));

    let without_base = vec![changes(P1, 1)];
    snapshotter.store(without_base.clone(), 2).unwrap();
    match next() {
        SnapshotEvent::Failed { generation: 2, deltas, error: StateError::WithoutBase { .. } } => {
            assert_eq!(deltas, without_base);
        }
        other => panic!("{other:?}"),
    }
    snapshotter.store(vec![changes(P0, 8)], 3).unwrap();
    snapshotter.finish().unwrap();
    let rest: Vec<_> = events.try_iter().collect();
    assert!(matches!(rest[0], SnapshotEvent::Stored { generation: 3, .. }), "{rest:?}");
    assert_eq!(SnapshotStore::checkpoints(directory.path()).unwrap().len(), 2);
}

#[test]
fn a_busy_thread_refuses_at_once_and_gives_the_changes_back() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(open(directory.path()));
    let (release, gate) = mpsc::channel::<()>();
    let settings = SnapshotterSettings { retain: 0 };
    let snapshotter = Snapshotter::spawn(store, settings, move |_| {
        let _ = gate.recv();
    })
    .unwrap();
    snapshotter.store(vec![first(P0, 1)], 1).unwrap();
    let started = monotonic_now();
    let refused = loop {
        // The first is taken off the queue sooner or later; then one may wait, and the next is refused.
        if let Err(refused) = snapshotter.store(vec![changes(P0, 2)], 2) {
            break refused;
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    };
    assert!(matches!(refused, NotTaken::Busy(deltas) if deltas.len() == 1));
    drop(release);
    snapshotter.finish().unwrap();
}

/// Sizes and times are printed (`--nocapture`); a plain run is a hundredth of the size, `TALLYGUARD_STATE_SCALE=100`
/// gives 1,000,000 small entries and 1,000 large ones.
#[test]
fn large_snapshots_are_stored_loaded_and_retained() {
    let scale: u32 = std::env::var("TALLYGUARD_STATE_SCALE").map_or(1, |scale| scale.parse().unwrap());
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut random_bytes = |length: usize| {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        bytes
    };
    let small = (0..10_000 * scale).map(|_| (random_bytes(24), random_bytes(24))).collect();
    let large = (0..10 * scale).map(|key| (key.to_be_bytes().to_vec(), random_bytes(16 << 10))).collect();
    for (name, puts) in [("48-byte entries", small), ("16 KiB entries", large)] {
        let puts: Vec<(Vec<u8>, Vec<u8>)> = puts;
        let count = puts.len();
        let directory = TempDir::new_in(std::env::temp_dir()).unwrap();
        let store = open(directory.path());
        let again = SnapshotDelta { replace: false, ..changes(P0, 2) };
        let again = SnapshotDelta { puts: puts.clone(), ..again };
        let whole = SnapshotDelta { puts, ..first(P0, 1) };
        let timed = |what: &str, work: &mut dyn FnMut()| {
            let started = monotonic_now();
            work();
            println!("{count} {name}: {what} {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        };
        timed("stored", &mut || {
            store.store(std::slice::from_ref(&whole), 1).unwrap();
        });
        timed("loaded", &mut || assert_eq!(store.load(P0).unwrap().unwrap().entries.len(), count));
        timed("checkpoint (flushes all)", &mut || {
            store.retain_checkpoint(1, 3, 1).unwrap();
        });
        timed("loaded from tables", &mut || assert_eq!(store.load(P0).unwrap().unwrap().entries.len(), count));
        timed("all overwritten", &mut || {
            store.store(std::slice::from_ref(&again), 1).unwrap();
        });
        timed("checkpoint (flushes all)", &mut || {
            store.retain_checkpoint(2, 3, 1).unwrap();
        });
        timed("one entry stored", &mut || {
            store.store(&[put(changes(P0, 3), b"k", b"v")], 1).unwrap();
        });
        timed("checkpoint (flushes one entry)", &mut || {
            store.retain_checkpoint(3, 3, 1).unwrap();
        });
        timed("verified", &mut || assert!(SnapshotStore::verify(&directory.path().join("store")).unwrap().is_sound()));
    }
}
