//! Offsets, order, reopening, partitions, what a commit is, and what others may see of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::embedded::{EmbeddedError, EmbeddedView, StoreFeeds, ViewFeeds};
use tallyguard::log::{AlertFeeds, Ingest, IngestError, NewRecord, partition_of};
use tallyguard::protocol::output::Destination;

use crate::world::{GROUP, World, append, commit, committed, output, output_texts, record, texts};

#[test]
fn everything_is_there_again_after_a_reopen_and_offsets_go_on() {
    let world = World::new();
    let identity = {
        let store = world.open(2);
        assert_eq!(append(&store, 0, &["a".to_owned(), "b".to_owned()], 1), 0);
        assert_eq!(append(&store, 1, &["c".to_owned()], 2), 0);
        let outputs = [output(Destination::Alerts, "alert"), output(Destination::Late, "late")];
        store.commit(GROUP, &outputs, &[commit(0, 2, 1, 1)], 5).unwrap();
        store.identity().clone()
    };
    let store = world.open(2);
    assert_eq!(store.identity(), &identity);
    assert_eq!(append(&store, 0, &["d".to_owned()], 3), 2);
    assert_eq!(texts(&store, 0), ["a", "b", "d"]);
    assert_eq!(texts(&store, 1), ["c"]);
    assert_eq!((committed(&store, 0), committed(&store, 1)), (Some(2), None));
    store.commit(GROUP, &[output(Destination::Alerts, "another")], &[], 6).unwrap();
    assert_eq!(output_texts(&store, Destination::Alerts), ["alert", "another"]);
    assert_eq!(output_texts(&store, Destination::Late), ["late"]);
    assert_eq!(output_texts(&store, Destination::DeadLetter), [""; 0]);
}

#[test]
fn appends_of_many_threads_are_dense_and_each_is_in_one_piece_and_in_its_order() {
    let world = World::new();
    let store = world.open(3);
    thread::scope(|scope| {
        for writer in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..40 {
                    let records: Vec<_> = (0..3)
                        .flat_map(|part| (0..3).map(move |partition| (partition, part)))
                        .map(|(partition, part)| {
                            (PartitionId(partition), record(format!("{writer}:{number}:{part}"), 0))
                        })
                        .collect();
                    let positions = store.append_to(&records).expect("appended");
                    for (position, (partition, _)) in positions.iter().zip(&records) {
                        assert_eq!(position.partition, *partition);
                        assert!(store.bounds(*partition).1 > position.offset, "acknowledged, so readable");
                    }
                }
            });
        }
    });
    for partition in 0..3 {
        let texts = texts(&store, partition);
        assert_eq!(texts.len(), 6 * 40 * 3);
        for piece in texts.chunks(3) {
            let (name, _) = piece[0].rsplit_once(':').unwrap();
            assert_eq!(piece, [0, 1, 2].map(|part| format!("{name}:{part}")));
        }
        for writer in 0..6 {
            let mine: Vec<_> = texts.iter().filter(|text| text.starts_with(&format!("{writer}:"))).cloned().collect();
            let in_order: Vec<_> =
                (0..40).flat_map(|number| (0..3).map(move |part| format!("{writer}:{number}:{part}"))).collect();
            assert_eq!(mine, in_order);
        }
    }
}

#[test]
fn keys_choose_the_partition_and_too_large_or_misplaced_records_leave_nothing_behind() {
    let world = World::new();
    let store = world.open(5);
    let keys: Vec<Vec<u8>> = (0..50).map(|number| format!("user-{number}").into_bytes()).collect();
    let records: Vec<_> =
        keys.iter().map(|key| NewRecord { key: Some(key), value: Some(b"v"), headers: &[] }).collect();
    let positions = store.append(&records).unwrap();
    for (key, position) in keys.iter().zip(&positions) {
        assert_eq!(position.partition.0, partition_of(key, 5));
    }
    let ends = |store: &tallyguard::log::embedded::EmbeddedStore| {
        (0..5).map(|p| store.bounds(PartitionId(p)).1.0).sum::<i64>()
    };
    assert_eq!(ends(&store), 50);
    let huge = vec![b'x'; (16 << 20) + 1];
    let small = NewRecord { key: Some(b"k"), value: Some(b"v"), headers: &[] };
    let refused = store.append(&[small, NewRecord { value: Some(&huge), ..small }]);
    assert!(matches!(refused, Err(IngestError::TooLarge { .. })), "{refused:?}");
    for misplaced in [-1, 5] {
        let refused = store.append_to(&[(PartitionId(0), record("a", 0)), (PartitionId(misplaced), record("b", 0))]);
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(ends(&store), 50, "all of an append or none of it");
    assert_eq!(store.append(&[]).unwrap(), []);
}

#[test]
fn more_partitions_extend_the_log_and_fewer_are_refused() {
    let world = World::new();
    {
        let store = world.open(2);
        append(&store, 1, &["a".to_owned()], 0);
    }
    {
        let store = world.open(4);
        assert_eq!(store.partitions(), 4);
        assert_eq!(texts(&store, 1), ["a"]);
        assert_eq!(append(&store, 3, &["b".to_owned()], 0), 0);
    }
    let refused = world.try_open(3).err();
    assert!(matches!(refused, Some(EmbeddedError::FewerPartitions { found: 4, asked: 3 })), "{refused:?}");
    assert_eq!(texts(&world.open(4), 3), ["b"]);
}

#[test]
fn a_second_owner_is_refused_by_the_name_of_the_folder_and_of_its_holder() {
    let world = World::new();
    let store = world.open(1);
    let refused = world.try_open(1).err().expect("in use").to_string();
    assert!(refused.contains(&world.dir().display().to_string()), "{refused}");
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    drop(store);
    world.open(1);
}

#[test]
fn groups_are_kept_apart() {
    let world = World::new();
    let store = world.open(1);
    store.commit("a", &[], &[commit(0, 7, 0, 0)], 0).unwrap();
    store.commit("ab", &[], &[commit(0, 9, 0, 0)], 0).unwrap();
    let of = |group: &str| store.committed(group, PartitionId(0)).unwrap().map(|(offset, _)| offset.0);
    assert_eq!((of("a"), of("ab"), of("b")), (Some(7), Some(9), None));
    let view = EmbeddedView::open(&world.dir()).unwrap();
    let all: Vec<_> = view.committed().unwrap().into_iter().map(|(group, _, offset, _)| (group, offset.0)).collect();
    assert_eq!(all, [("a".to_owned(), 7), ("ab".to_owned(), 9)]);
}

#[test]
fn others_may_look_while_the_owner_writes_and_after_it_has_gone() {
    let world = World::new();
    assert!(matches!(EmbeddedView::open(&world.dir()).err(), Some(EmbeddedError::Absent { .. })));
    let store = world.open(2);
    append(&store, 0, &["a".to_owned()], 1);
    let view = EmbeddedView::open(&world.dir()).unwrap();
    let seen = |view: &EmbeddedView| {
        let (start, end) = view.bounds(PartitionId(0)).unwrap();
        let records = view.records(PartitionId(0), start, end).unwrap();
        records.into_iter().map(|stored| String::from_utf8(stored.record.value.unwrap()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((view.partitions().unwrap(), seen(&view)), (2, vec!["a".to_owned()]));
    append(&store, 0, &["b".to_owned()], 1);
    store.commit(GROUP, &[output(Destination::DeadLetter, "x")], &[commit(0, 1, 0, 0)], 1).unwrap();
    view.refresh().unwrap();
    assert_eq!(seen(&view), ["a", "b"]);
    assert_eq!(view.outputs(Destination::DeadLetter, 0, 10).unwrap().len(), 1);
    assert_eq!(view.records(PartitionId(0), Offset(1), Offset(2)).unwrap().len(), 1, "from the middle of a batch on");
    drop(store);
    assert_eq!(seen(&EmbeddedView::open(&world.dir()).unwrap()), ["a", "b"]);
}

/// The owner makes, replaces and deletes files while others open the folder: none of that may look like damage.
#[test]
fn opening_a_look_never_fails_because_the_owner_is_busy() {
    let world = World::new();
    let store = world.open(2);
    let stop = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        scope.spawn(|| {
            let value: Vec<String> = (0..100).map(|number| format!("{number:0>2000}")).collect();
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) {
                append(&store, rounds % 2, &value, 0);
                rounds += 1;
                thread::sleep(Duration::from_millis(2));
                if rounds % 10 == 0 {
                    // Measuring the size flushes: a new file, a new write-ahead log, an old one deleted.
                    store.apply_retention(GROUP, crate::retention::by_size(u64::MAX), 0).unwrap();
                }
            }
        });
        let began = std::time::Instant::now();
        let mut looks = 0;
        let mut failed = None;
        while began.elapsed() < Duration::from_secs(4) && failed.is_none() {
            let look = EmbeddedView::open(&world.dir()).and_then(|view| {
                view.refresh()?;
                let (_, end) = view.bounds(PartitionId(0))?;
                view.records(PartitionId(0), Offset((end.0 - 10).max(0)), end)
            });
            failed = look.err();
            looks += 1;
        }
        stop.store(true, Ordering::SeqCst);
        assert!(failed.is_none(), "look {looks}: {failed:?}");
        looks
    });
    assert!(looks > 5, "only {looks} looks");
}

#[test]
fn feeds_give_committed_alerts_once_and_in_order_whoever_asks() {
    let world = World::new();
    let store = std::sync::Arc::new(world.open(1));
    let alert = |number: i64| output(Destination::Alerts, number);
    let early: Vec<_> = (0..3).map(alert).collect();
    store.commit(GROUP, &early, &[], 1).unwrap();
    let feeds: [Box<dyn AlertFeeds>; 2] = [Box::new(StoreFeeds(store.clone())), Box::new(ViewFeeds(world.dir()))];
    for (round, feeds) in (0..).zip(feeds) {
        let mut all = feeds.open(None).unwrap();
        let mut newest = feeds.open(Some(1)).unwrap();
        let offsets =
            |alerts: Vec<tallyguard::log::CommittedAlert>| alerts.iter().map(|it| it.offset).collect::<Vec<_>>();
        let end = 3 + round;
        assert_eq!(offsets(all.next(Duration::ZERO).unwrap()), (0..end).collect::<Vec<_>>());
        assert_eq!(offsets(newest.next(Duration::ZERO).unwrap()), [end - 1]);
        assert_eq!(offsets(all.next(Duration::ZERO).unwrap()), [0; 0]);
        let later = thread::scope(|scope| {
            let waiting = scope.spawn(|| all.next(Duration::from_secs(10)).unwrap());
            thread::sleep(Duration::from_millis(50));
            store.commit(GROUP, &[alert(end)], &[], 9).unwrap();
            waiting.join().unwrap()
        });
        assert_eq!(later.len(), 1);
        assert_eq!((later[0].offset, later[0].timestamp_ms, &later[0].value), (end, 9, &end.to_string().into_bytes()));
    }
}
