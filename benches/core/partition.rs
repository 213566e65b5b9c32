//! `PartitionState`: time and memory of `apply`, and snapshots out of it and into it again.

use std::sync::Arc;
use std::time::Duration;

use tallyguard::domain::partition::PartitionState;
use tallyguard::domain::time::Watermark;
use tallyguard::state::{SnapshotDelta, SnapshotStore, StoreOptions};

use crate::cases::{PARTITION, TOPIC, empty, parameters, run};
use crate::common::{Arguments, Report, count, median, plot, resident_bytes, timed, whole};
use crate::traffic::{Shape, Traffic};
use crate::{in_child, medians_of};

/// Changes since the last snapshot are taken out this often, as the checkpoints of a running service do it.
const RECORDS_PER_SNAPSHOT: u64 = 250_000;

/// In a child process: ns per record, open users, bytes of memory per open user.
pub fn measure(users: u64, records: u64, shape: &str, statistics: bool) -> Vec<f64> {
    let parameters = parameters(statistics);
    let mut traffic = Traffic::new(users, Shape::of(shape));
    // Once round with a state that is thrown away: the code and the buffers are warm then.
    run(&mut empty(&parameters), &mut traffic, 4_096);
    let mut traffic = Traffic::new(users, Shape::of(shape));
    let mut state = empty(&parameters);
    let before = resident_bytes("self");
    let mut spent = Duration::ZERO;
    let mut left = records;
    while left > 0 {
        let now = left.min(RECORDS_PER_SNAPSHOT);
        spent += run(&mut state, &mut traffic, now);
        drop(state.take_snapshot(false));
        left -= now;
    }
    let grown = resident_bytes("self").saturating_sub(before);
    let open = count(state.open_users());
    vec![spent.as_secs_f64() * 1e9 / count(records), open, count(grown) / open]
}

/// Time of a record and memory of an open user, by number of users, distribution and statistics.
pub fn apply(arguments: &Arguments, report: &mut Report) {
    let sizes = arguments.scaled(vec![10_000_u64, 100_000, 1_000_000], vec![200]);
    let mut cases = Vec::new();
    for users in sizes {
        let records = arguments.scaled((users * 4).max(1_000_000), 2_000);
        cases.push((users, users, "each", "rules"));
        cases.push((users, records, "random", "rules"));
        cases.push((users, records, "random", "statistics"));
        cases.push((users, records, "zipf", "rules"));
    }
    let mut rounds = vec![Vec::new(); cases.len()];
    for _ in 0..arguments.rounds(3) {
        for (case, rounds) in cases.iter().zip(&mut rounds) {
            let (users, records, shape, what) = *case;
            rounds.push(in_child(&["apply", &users.to_string(), &records.to_string(), shape, what]));
        }
    }
    let rows: Vec<_> = cases
        .iter()
        .zip(&rounds)
        .map(|(&(users, records, shape, what), rounds)| {
            let figures = medians_of(rounds);
            vec![
                format!("{} users, {shape}, {what}", whole(count(users))),
                format!("{:.1}", count(records) / figures[1]),
                whole(figures[0]),
                whole(figures[1]),
                whole(figures[2]),
            ]
        })
        .collect();
    report.table(
        "PartitionState::apply, one core, validation included",
        &["case", "records per open user", "ns per record", "open users", "bytes per open user"],
        &rows,
    );
    report.say(
        "`each`: one record of every user. Memory is that of the process, growth of the tables and the ids of all \
         transactions of the window (16 bytes each, for the duplicates) included.",
    );
}

/// The cost of a record by the number of users: what grows is the share of memory that no cache holds.
pub fn scale(arguments: &Arguments, report: &mut Report) {
    const PER_USER: u64 = 4;
    let sizes = arguments.scaled(vec![10_000_u64, 100_000, 1_000_000, 5_000_000], vec![200]);
    let (mut rows, mut costs) = (Vec::new(), Vec::new());
    for users in sizes {
        let records = (users * PER_USER).max(arguments.scaled(1_000_000, 800)).to_string();
        let one = || in_child(&["apply", &users.to_string(), &records, "random", "rules"]);
        let figures = medians_of(&(0..arguments.rounds(3)).map(|_| one()).collect::<Vec<_>>());
        rows.push(vec![whole(count(users)), whole(figures[0]), whole(figures[2])]);
        costs.push((count(users).log10(), figures[0]));
    }
    let columns = ["users", "ns per record", "bytes per open user, ids of its transactions included"];
    report.table("The cost of a record by the number of users, one core", &columns, &rows);
    report.plot("scale", &plot::lines("ns per record, by the power of ten of users", &[("apply", costs)]));
}

/// In a child process: records a second of all threads together, each with a partition of its own.
pub fn measure_threads(threads: u64, records: u64) -> Vec<f64> {
    const USERS: u64 = 25_000;
    let one = move || {
        let parameters = parameters(false);
        let mut traffic = Traffic::new(USERS, Shape::Random);
        let mut state = empty(&parameters);
        run(&mut state, &mut traffic, records / 10);
        count(records) / run(&mut state, &mut traffic, records).as_secs_f64()
    };
    let running: Vec<_> = (0..threads).map(|_| std::thread::spawn(one)).collect();
    vec![running.into_iter().map(|thread| thread.join().expect("a rate")).sum()]
}

/// Two partitions on two cores against one on one.
pub fn threads(arguments: &Arguments, report: &mut Report) {
    let records = arguments.scaled("2000000", "2000");
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds(5) {
        one.push(in_child(&["threads", "1", records])[0]);
        two.push(in_child(&["threads", "2", records])[0]);
    }
    let (one, two) = (median(&one), median(&two));
    report.table(
        "Records a second by threads, a partition each, without a log",
        &["threads", "records/s", "of one"],
        &[
            vec!["1".to_owned(), whole(one), "1.00".to_owned()],
            vec!["2".to_owned(), whole(two), format!("{:.2}", two / one)],
        ],
    );
}

/// In a child process: seconds and bytes of a whole snapshot, of the changes of 20 000 records and of those of many, of
/// storing the whole, of reading it back, and of building the state from it.
pub fn measure_snapshot(users: u64) -> Vec<f64> {
    let parameters = parameters(true);
    let mut state = empty(&parameters);
    let mut traffic = Traffic::new(users, Shape::Random);
    run(&mut state, &mut traffic, users * 2);
    let (whole_seconds, whole) = timed(|| state.take_snapshot(true));
    run(&mut state, &mut traffic, 20_000);
    let (change_seconds, change) = timed(|| state.take_snapshot(false));
    run(&mut state, &mut traffic, users);
    let (busy_seconds, _) = timed(|| state.take_snapshot(false));
    let bytes = |puts: &[(Vec<u8>, Vec<u8>)]| puts.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let sizes = (bytes(&whole.puts), bytes(&change.puts));

    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = SnapshotStore::open(dir.path(), StoreOptions::default(), 0).expect("a store");
    let delta = SnapshotDelta {
        partition: PARTITION,
        through: state.next(),
        replace: true,
        removed_prefixes: whole.removed_prefixes,
        removed: Vec::new(),
        puts: whole.puts,
        header: Vec::new(),
    };
    let (store_seconds, stored) = timed(|| store.store(&[delta], 0));
    stored.expect("stored");
    let (read_seconds, found) = timed(|| store.load(PARTITION));
    let found = found.expect("readable").expect("a snapshot");
    let topic = Arc::from(TOPIC);
    let (build_seconds, built) = timed(|| {
        PartitionState::from_snapshot(topic, PARTITION, parameters, state.next(), Watermark::NONE, &found.entries)
    });
    built.expect("a state");
    vec![
        whole_seconds,
        count(sizes.0),
        change_seconds,
        count(sizes.1),
        busy_seconds,
        store_seconds,
        read_seconds,
        build_seconds,
    ]
}

/// How long the actor stands still for a snapshot, and how fast a partition comes back from one.
pub fn snapshots(arguments: &Arguments, report: &mut Report) {
    let mut rows = Vec::new();
    for users in arguments.scaled(vec![10_000_u64, 100_000, 1_000_000], vec![200]) {
        let rounds: Vec<_> = (0..arguments.rounds(3)).map(|_| in_child(&["snapshot", &users.to_string()])).collect();
        let figures = medians_of(&rounds);
        let milliseconds = |seconds: f64| format!("{:.1}", seconds * 1e3);
        rows.push(vec![
            whole(count(users)),
            milliseconds(figures[0]),
            whole(figures[1] / 1024.0),
            milliseconds(figures[2]),
            whole(figures[3] / 1024.0),
            milliseconds(figures[4]),
            milliseconds(figures[5]),
            milliseconds(figures[6]),
            milliseconds(figures[7]),
        ]);
    }
    report.table(
        "Snapshots, two records per user, statistics on (changes: of 20 000 records, and of one for each user)",
        &[
            "users",
            "whole, ms",
            "KiB",
            "changes, ms",
            "KiB",
            "of many, ms",
            "store + sync, ms",
            "read, ms",
            "build, ms",
        ],
        &rows,
    );
}
