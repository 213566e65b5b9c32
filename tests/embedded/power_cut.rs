//! A power cut keeps what was synced and any part of what was not. So the write-ahead log is cut off at every place: what
//! comes back is a prefix of the writes, with every acknowledged one whole, and the log goes on from there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use tallyguard::domain::ids::PartitionId;
use tallyguard::log::embedded::{EmbeddedError, EmbeddedStore};
use tallyguard::protocol::output::Destination;

use crate::retention::by_size;
use crate::world::{Dice, GROUP, World, append, commit, committed, copy_folder, output, output_texts, record, texts};

/// What the log must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    records: [Vec<String>; 2],
    alerts: Vec<String>,
    late: Vec<String>,
    committed: [Option<i64>; 2],
}

fn content(store: &EmbeddedStore) -> Content {
    Content {
        records: [texts(store, 0), texts(store, 1)],
        alerts: output_texts(store, Destination::Alerts),
        late: output_texts(store, Destination::Late),
        committed: [committed(store, 0), committed(store, 1)],
    }
}

/// The write-ahead log that is being written, and its length.
fn newest_wal(dir: &Path) -> (PathBuf, u64) {
    let files = std::fs::read_dir(dir.join("store")).unwrap().flatten().map(|entry| entry.path());
    let newest = files.filter(|path| path.extension().is_some_and(|it| it == "log")).max().expect("a write-ahead log");
    let length = std::fs::metadata(&newest).unwrap().len();
    (newest, length)
}

/// One write to the log, and to the model beside it.
fn write(store: &EmbeddedStore, model: &mut Content, number: u64, dice: &mut Dice) {
    let now = i64::try_from(number).unwrap();
    let names = |count: u64| (0..count).map(|part| format!("{number}:{part}")).collect::<Vec<_>>();
    match dice.below(3) {
        0 => {
            let partition = usize::try_from(dice.below(2)).unwrap();
            let names = names(1 + dice.below(400));
            append(store, i32::try_from(partition).unwrap(), &names, now);
            model.records[partition].extend(names);
        }
        1 => {
            let names = names(4);
            let records: Vec<_> =
                (0..).zip(&names).map(|(part, name)| (PartitionId(part % 2), record(name, now))).collect();
            store.append_to(&records).unwrap();
            model.records[0].extend([names[0].clone(), names[2].clone()]);
            model.records[1].extend([names[1].clone(), names[3].clone()]);
        }
        _ => {
            let mut outputs: Vec<_> =
                (0..dice.below(40)).map(|part| output(Destination::Alerts, format!("{number}:{part}"))).collect();
            outputs.push(output(Destination::Late, number));
            store.commit(GROUP, &outputs, &[commit(0, now, 0, 0), commit(1, now + 1, 0, 0)], now).unwrap();
            model.alerts.extend(
                outputs[..outputs.len() - 1].iter().map(|it| String::from_utf8(it.value.clone().unwrap()).unwrap()),
            );
            model.late.push(number.to_string());
            model.committed = [Some(now), Some(now + 1)];
        }
    }
}

/// How the disk may leave what was not synced.
#[derive(Debug, Clone, Copy)]
enum Tail {
    Missing,
    Zeros,
    Garbage,
}

/// Copies the folder, and leaves of its newest write-ahead log what a power cut at `at` leaves.
fn cut(world: &World, to: &Path, at: u64, tail: Tail, dice: &mut Dice) {
    copy_folder(&world.dir(), to);
    let (wal, length) = newest_wal(to);
    let mut file = OpenOptions::new().write(true).open(wal).unwrap();
    file.set_len(at).unwrap();
    let behind = length - at;
    match tail {
        Tail::Missing => {}
        Tail::Zeros => file.set_len(length).unwrap(),
        Tail::Garbage => {
            file.seek(SeekFrom::Start(at)).unwrap();
            let garbage: Vec<u8> = (0..behind.min(5_000)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
            file.write_all(&garbage).unwrap();
        }
    }
}

#[test]
fn a_power_cut_at_any_place_leaves_a_prefix_of_the_writes_with_every_acknowledged_one_whole() {
    let (world, scratch) = (World::new(), World::new());
    let mut dice = Dice(7);
    let store = world.open(2);
    let mut model = Content::default();
    for number in 0..30 {
        write(&store, &mut model, number, &mut dice);
    }
    // A flush: what came before is in files, and a new write-ahead log begins.
    store.apply_retention(GROUP, by_size(u64::MAX), 0).unwrap();
    let mut history = vec![(newest_wal(&world.dir()).1, model.clone())];
    for number in 30..60 {
        write(&store, &mut model, number, &mut dice);
        history.push((newest_wal(&world.dir()).1, model.clone()));
    }
    assert_eq!(content(&store), model);
    let boundaries: Vec<u64> = history.iter().map(|(length, _)| *length).collect();
    let (first, last) = (boundaries[0], boundaries[boundaries.len() - 1]);
    let around =
        boundaries.iter().flat_map(|&at| [at.saturating_sub(1).max(first), at, (at + 1).min(last), (at + 8).min(last)]);
    let between: Vec<u64> = (0..40).map(|_| first + dice.below(last - first)).collect();
    for (number, at) in (0..).zip(around.chain(between)) {
        let tail = [Tail::Missing, Tail::Zeros, Tail::Garbage][number % 3];
        let dir = scratch.dir().join(number.to_string());
        cut(&world, &dir, at, tail, &mut dice);
        let expected = &history.iter().rev().find(|(length, _)| *length <= at).expect("at least the first").1;
        let cut_store = EmbeddedStore::open(&dir, 2).unwrap_or_else(|error| panic!("cut at {at}, {tail:?}: {error}"));
        assert!(
            content(&cut_store) == *expected,
            "cut at {at} of {last}, the rest {tail:?}: not the acknowledged prefix"
        );
        // It goes on from there, and nothing that was cut off comes back.
        let mut expected = expected.clone();
        write(&cut_store, &mut expected, 1_000, &mut dice);
        drop(cut_store);
        let again = EmbeddedStore::open(&dir, 2).unwrap();
        assert!(content(&again) == expected, "cut at {at}, {tail:?}: after going on");
        drop(again);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Whoever was told of success before the cut finds everything; the others find all of their records or none.
#[test]
fn a_power_cut_under_many_writers_loses_nothing_acknowledged_and_tears_nothing() {
    let (world, scratch) = (World::new(), World::new());
    let store = world.open(2);
    let acknowledged: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());
    let commits: Mutex<Vec<(i64, u64)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for writer in 0..4 {
            let (store, acknowledged, dir) = (&store, &acknowledged, world.dir());
            scope.spawn(move || {
                for number in 0..25 {
                    let name = format!("{writer}-{number}");
                    let records: Vec<_> =
                        (0..6).map(|part| (PartitionId(part % 2), record(format!("{name}:{part}"), 0))).collect();
                    store.append_to(&records).unwrap();
                    acknowledged.lock().unwrap().push((name, newest_wal(&dir).1));
                }
            });
        }
        let (store, commits, dir) = (&store, &commits, world.dir());
        scope.spawn(move || {
            for number in 1..25 {
                let outputs = [output(Destination::Alerts, number), output(Destination::Late, number)];
                store.commit(GROUP, &outputs, &[commit(0, number, 0, 0), commit(1, number, 0, 0)], 0).unwrap();
                commits.lock().unwrap().push((number, newest_wal(&dir).1));
            }
        });
    });
    let (acknowledged, commits) = (acknowledged.into_inner().unwrap(), commits.into_inner().unwrap());
    let length = newest_wal(&world.dir()).1;
    let mut dice = Dice(3);
    for number in 0..60 {
        let at = dice.below(length + 1);
        let dir = scratch.dir().join(number.to_string());
        cut(&world, &dir, at, Tail::Missing, &mut dice);
        let store = EmbeddedStore::open(&dir, 2).unwrap();
        let mut parts: BTreeMap<String, usize> = BTreeMap::new();
        let content = content(&store);
        for text in content.records.iter().flatten() {
            *parts.entry(text.split_once(':').unwrap().0.to_owned()).or_default() += 1;
        }
        assert!(parts.values().all(|&count| count == 6), "an append in pieces, cut at {at}: {parts:?}");
        for (name, _) in acknowledged.iter().filter(|(_, length)| *length <= at) {
            assert!(parts.contains_key(name), "{name} was acknowledged before the cut at {at}");
        }
        let newest = content.committed[0].unwrap_or(0);
        assert_eq!(content.committed[1].unwrap_or(0), newest);
        let outputs: Vec<String> = (1..=newest).map(|number| number.to_string()).collect();
        assert_eq!((&content.alerts, &content.late), (&outputs, &outputs), "outputs and offsets are one commit");
        let promised = commits.iter().filter(|(_, length)| *length <= at).map(|(number, _)| *number).max().unwrap_or(0);
        assert!(newest >= promised, "commit {promised} was acknowledged before the cut at {at}, found {newest}");
        drop(store);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// A byte that the disk has changed in the middle is no power cut: going on would lose what was acknowledged behind it.
#[test]
fn a_changed_byte_in_the_middle_is_refused_and_never_taken_for_the_end() {
    let (world, scratch) = (World::new(), World::new());
    let (mut dice, mut model) = (Dice(9), Content::default());
    let store = world.open(2);
    for number in 0..40 {
        write(&store, &mut model, number, &mut dice);
    }
    let before_last = newest_wal(&world.dir()).1;
    write(&store, &mut model, 40, &mut dice);
    let (mut refused, mut unharmed) = (0, 0);
    for number in 0..60 {
        let dir = scratch.dir().join(number.to_string());
        copy_folder(&world.dir(), &dir);
        let (wal, _) = newest_wal(&dir);
        let mut bytes = std::fs::read(&wal).unwrap();
        let at = usize::try_from(dice.below(before_last)).unwrap();
        bytes[at] ^= 1 << dice.below(8);
        std::fs::write(&wal, bytes).unwrap();
        match EmbeddedStore::open(&dir, 2) {
            Err(EmbeddedError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("byte {at}: {other}"),
            // The unused rest of a block.
            Ok(store) => {
                assert!(content(&store) == model, "byte {at} of {before_last} is changed, and something is lost");
                unharmed += 1;
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
    assert!(refused > 50, "{refused} refused, {unharmed} unharmed");
}
