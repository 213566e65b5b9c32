//! What may go, and each reason for which it must stay: one test for each rule.

use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::embedded::{
    EmbeddedLog, EmbeddedStore, EmbeddedView, Retention, RetentionReport, StoreFeeds, ViewFeeds,
};
use tallyguard::log::{AlertFeeds, Log, Read, RecordBatch};
use tallyguard::protocol::cycle::OffsetCommit;
use tallyguard::protocol::output::Destination;

use crate::world::{GROUP, World, append, commit, output, output_texts, texts};

const DAY_MS: i64 = 86_400_000;
/// Noon of some day.
const NOW: i64 = 20_000 * DAY_MS + DAY_MS / 2;
const OLD: i64 = NOW - 30 * DAY_MS;
const MARGIN: Duration = Duration::from_secs(120);

fn by_age() -> Retention {
    Retention { age: Duration::from_secs(7 * 86_400), bytes: 0, day_stays_open: MARGIN }
}

pub fn by_size(bytes: u64) -> Retention {
    Retention { age: Duration::ZERO, bytes, day_stays_open: MARGIN }
}

/// One partition with five old batches of ten records, and these commits.
fn fifty_old_records(world: &World, commits: &[OffsetCommit]) -> EmbeddedStore {
    let store = world.open(1);
    for batch in 0..5 {
        append_ten(&store, 0, batch, OLD);
    }
    store.commit(GROUP, &[], commits, OLD).unwrap();
    store
}

fn append_ten(store: &EmbeddedStore, partition: i32, batch: i32, timestamp_ms: i64) {
    let names: Vec<String> = (0..10).map(|number| format!("{partition}-{batch}-{number}")).collect();
    append(store, partition, &names, timestamp_ms);
}

fn start(store: &EmbeddedStore, partition: i32) -> i64 {
    store.bounds(PartitionId(partition)).0.0
}

#[test]
fn what_is_aged_and_not_needed_goes_for_good() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 50, 50, 50)]);
    append_ten(&store, 0, 5, NOW);
    assert_eq!(
        store.apply_retention(GROUP, by_age(), NOW).unwrap(),
        RetentionReport { dropped_records: 50, bytes_over: 0 }
    );
    let names: Vec<String> = (0..10).map(|number| format!("0-5-{number}")).collect();
    assert_eq!((start(&store, 0), texts(&store, 0)), (50, names.clone()));
    assert_eq!(store.apply_retention(GROUP, by_age(), NOW).unwrap(), RetentionReport::default(), "once");
    let view = EmbeddedView::open(&world.dir()).unwrap();
    assert_eq!(view.bounds(PartitionId(0)).unwrap(), (Offset(50), Offset(60)));
    drop(store);
    let store = world.open(1);
    assert_eq!((start(&store, 0), texts(&store, 0)), (50, names));
}

#[test]
fn an_empty_log_keeps_its_end_when_everything_has_gone() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 50, 50, 50)]);
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    drop(store);
    let store = world.open(1);
    assert_eq!(store.bounds(PartitionId(0)), (Offset(50), Offset(50)));
    assert_eq!(append(&store, 0, &["next".to_owned()], NOW), 50);
}

#[test]
fn age_zero_keeps_everything() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 50, 50, 50)]);
    assert_eq!(store.apply_retention(GROUP, by_size(0), NOW).unwrap(), RetentionReport::default());
}

#[test]
fn nothing_at_or_behind_the_committed_offset_goes() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 20, 50, 50)]);
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    assert_eq!(start(&store, 0), 20);
}

#[test]
fn nothing_that_open_windows_are_rebuilt_from_goes() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 50, 30, 50)]);
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    assert_eq!(start(&store, 0), 30);
}

#[test]
fn nothing_that_unacknowledged_statistics_are_rebuilt_from_goes() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 50, 50, 40)]);
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    assert_eq!(start(&store, 0), 40);
}

#[test]
fn a_batch_goes_whole_or_not_at_all() {
    let world = World::new();
    let store = fifty_old_records(&world, &[commit(0, 29, 29, 29)]);
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    assert_eq!(start(&store, 0), 20);
}

#[test]
fn nothing_goes_while_a_group_has_not_committed_the_partition_or_what_it_committed_is_unreadable() {
    let world = World::new();
    let store = fifty_old_records(&world, &[]);
    let none = RetentionReport::default();
    assert_eq!(store.apply_retention(GROUP, by_age(), NOW).unwrap(), none, "nobody has committed");
    store.commit(GROUP, &[], &[commit(0, 50, 50, 50)], OLD).unwrap();
    assert_eq!(store.apply_retention("new group", by_age(), NOW).unwrap(), none, "the running group has not");
    store.commit("other group", &[], &[commit(9, 50, 50, 50)], OLD).unwrap();
    assert_eq!(store.apply_retention(GROUP, by_age(), NOW).unwrap(), none, "another group has not, here");
    let foreign = OffsetCommit { metadata: "not ours".to_owned(), ..commit(0, 50, 50, 50) };
    store.commit("other group", &[], &[foreign], OLD).unwrap();
    assert_eq!(store.apply_retention(GROUP, by_age(), NOW).unwrap(), none, "nobody knows what the other needs");
    store.commit("other group", &[], &[commit(0, 10, 10, 10)], OLD).unwrap();
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    assert_eq!(start(&store, 0), 10, "as far as the slower group is");
}

#[test]
fn a_day_that_is_not_reconciled_yet_stays_whole_with_what_may_still_count_for_it() {
    let world = World::new();
    let store = world.open(1);
    let yesterday = NOW - DAY_MS / 2 - DAY_MS;
    let margin = i64::try_from(MARGIN.as_millis()).unwrap();
    for (batch, timestamp) in (0..).zip([yesterday - margin - 1, yesterday - margin, NOW]) {
        append_ten(&store, 0, batch, timestamp);
    }
    let outputs = [output(Destination::Late, "gone")];
    store.commit(GROUP, &outputs, &[commit(0, 30, 30, 30)], yesterday - margin - 1).unwrap();
    store.commit(GROUP, &[output(Destination::Late, "kept")], &[], yesterday - margin).unwrap();
    let one_second = Retention { age: Duration::from_secs(1), ..by_age() };
    store.apply_retention(GROUP, one_second, NOW).unwrap();
    assert_eq!(start(&store, 0), 10);
    assert_eq!(output_texts(&store, Destination::Late), ["kept"]);
    store.apply_retention(GROUP, by_size(1), NOW).unwrap();
    assert_eq!(start(&store, 0), 10, "not for its size either");
}

#[test]
fn what_is_aged_behind_something_younger_waits_for_it() {
    let world = World::new();
    let store = world.open(1);
    for (batch, timestamp) in (0..).zip([OLD, NOW - 5 * DAY_MS, OLD]) {
        append_ten(&store, 0, batch, timestamp);
    }
    store.commit(GROUP, &[], &[commit(0, 30, 30, 30)], OLD).unwrap();
    let both = Retention { bytes: 100 << 20, ..by_age() };
    assert_eq!(store.apply_retention(GROUP, both, NOW).unwrap().dropped_records, 10);
    assert_eq!(start(&store, 0), 10);
}

#[test]
fn outputs_go_by_age_and_feeds_that_were_overtaken_go_on_behind_the_gap() {
    let world = World::new();
    let store = std::sync::Arc::new(world.open(1));
    let many: Vec<_> = (0..1_500).map(|number| output(Destination::Alerts, number)).collect();
    store.commit(GROUP, &many, &[], OLD).unwrap();
    let feeds: [Box<dyn AlertFeeds>; 2] = [Box::new(StoreFeeds(store.clone())), Box::new(ViewFeeds(world.dir()))];
    let mut slow: Vec<_> = feeds.iter().map(|feeds| feeds.open(None).unwrap()).collect();
    store.commit(GROUP, &[output(Destination::Alerts, "new")], &[], NOW).unwrap();
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    assert_eq!(output_texts(&store, Destination::Alerts), ["new"]);
    slow.extend(feeds.iter().map(|feeds| feeds.open(None).unwrap()));
    for mut feed in slow {
        let offsets: Vec<_> = feed.next(Duration::ZERO).unwrap().iter().map(|alert| alert.offset).collect();
        assert_eq!(offsets, [1_500]);
    }
    drop(feeds);
    drop(store);
    let store = world.open(1);
    assert_eq!((store.output_start(Destination::Alerts), store.output_end(Destination::Alerts)), (1_500, 1_501));
}

/// Values that no compression makes smaller, a megabyte a batch, the partitions in turns.
fn append_megabytes(store: &EmbeddedStore, batches: i64) {
    let mut dice = crate::world::Dice(1);
    for batch in 0..batches {
        let partition = PartitionId(i32::try_from(batch % 2).unwrap());
        let records: Vec<_> = (0..10)
            .map(|_| {
                let value = (0..100_000).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
                let mut record = crate::world::record("", OLD + batch);
                record.value = Some(value);
                (partition, record)
            })
            .collect();
        store.append_to(&records).unwrap();
    }
}

fn folder_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let tables = entries.filter(|entry| entry.path().extension().is_some_and(|it| it == "sst"));
    tables.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn above_its_size_the_log_drops_the_oldest_of_all_partitions_once_and_gives_the_space_back() {
    let world = World::new();
    let store = world.open(2);
    append_megabytes(&store, 40);
    store.commit(GROUP, &[], &[commit(0, 200, 200, 200), commit(1, 200, 200, 200)], OLD).unwrap();
    let report = store.apply_retention(GROUP, by_size(20 << 20), NOW).unwrap();
    assert_eq!(report.bytes_over, 0);
    let starts = [start(&store, 0), start(&store, 1)];
    assert!((starts[0] - starts[1]).abs() <= 10, "by age, not by partition: {starts:?}");
    assert!((180..=220).contains(&report.dropped_records), "{report:?}");
    // The dropped bytes are in the files still; they must not be counted again.
    for _ in 0..3 {
        assert_eq!(store.apply_retention(GROUP, by_size(20 << 20), NOW).unwrap(), RetentionReport::default());
    }
    append_megabytes(&store, 40);
    store.commit(GROUP, &[], &[commit(0, 400, 400, 400), commit(1, 400, 400, 400)], OLD).unwrap();
    store.apply_retention(GROUP, by_size(20 << 20), NOW).unwrap();
    drop(store);
    let store = world.open(2);
    for _ in 0..4 {
        append_megabytes(&store, 20);
        let end = store.bounds(PartitionId(0)).1.0;
        store.commit(GROUP, &[], &[commit(0, end, end, end), commit(1, end, end, end)], OLD).unwrap();
        store.apply_retention(GROUP, by_size(20 << 20), NOW).unwrap();
    }
    let taken = folder_bytes(&world.dir().join("store"));
    assert!(taken < 100 << 20, "{taken} bytes of 160 MB that were appended, with a limit of 20");
}

#[test]
fn a_size_that_cannot_be_kept_is_reported_and_never_enforced() {
    let world = World::new();
    let store = world.open(2);
    append_megabytes(&store, 10);
    store.commit(GROUP, &[], &[commit(0, 20, 20, 20), commit(1, 0, 0, 0)], OLD).unwrap();
    let report = store.apply_retention(GROUP, by_size(1 << 20), NOW).unwrap();
    assert_eq!((report.dropped_records, start(&store, 0), start(&store, 1)), (20, 20, 0));
    assert!((5 << 20..9 << 20).contains(&report.bytes_over), "{report:?}");
}

/// The engine is told that what it wants has gone, and is never given something else in its place.
#[test]
fn reading_from_a_place_that_has_gone_fails() {
    let world = World::new();
    let store = std::sync::Arc::new(fifty_old_records(&world, &[commit(0, 50, 30, 50)]));
    store.apply_retention(GROUP, by_age(), NOW).unwrap();
    let mut log = EmbeddedLog::new(store, "transactions", GROUP);
    log.start(PartitionId(0), Offset(29)).unwrap();
    assert!(matches!(log.read(PartitionId(0), 100), Read::Failed(why) if why.contains("begins at 30")));
    log.start(PartitionId(0), Offset(30)).unwrap();
    let Read::Records { batch, end } = log.read(PartitionId(0), 100) else { panic!("records") };
    assert_eq!((batch.len(), batch.record(0).offset, end), (20, Offset(30), Some(Offset(50))));
}
