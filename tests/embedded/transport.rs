//! The engine as the log's reader: the transport trait and a recovery's facts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::embedded::{EmbeddedLog, EmbeddedReader, EmbeddedStore};
use tallyguard::log::{Log, LogEvent, Read, RecordBatch, RecoveryReader};
use tallyguard::protocol::cycle::{Outcome, ReadBackRequest, Step};
use tallyguard::protocol::output::{Destination, OutputRecord};

use crate::world::{GROUP, World, append, commit, committed, output, output_texts, record};

const P: PartitionId = PartitionId(0);

fn log(world: &World, partitions: i32) -> (Arc<EmbeddedStore>, EmbeddedLog) {
    let store = Arc::new(world.open(partitions));
    let log = EmbeddedLog::new(Arc::clone(&store), "transactions", GROUP);
    (store, log)
}

/// Everything that one partition has from the log's position on.
fn drain(log: &mut EmbeddedLog, max: usize) -> (Vec<i64>, Option<Offset>) {
    let (mut offsets, mut behind) = (Vec::new(), None);
    loop {
        match log.read(P, max) {
            Read::Nothing => return (offsets, behind),
            Read::Failed(why) | Read::Damaged(why) => panic!("{why}"),
            Read::Records { batch, end } => {
                offsets.extend((0..batch.len()).map(|index| batch.record(index).offset.0));
                behind = end;
            }
        }
    }
}

#[test]
fn every_partition_is_assigned_once_and_read_only_while_it_is_started() {
    let world = World::new();
    let (store, mut log) = log(&world, 3);
    append(&store, 0, &["a".to_owned()], 1);
    assert_eq!(log.poll(), [LogEvent::Assigned([0, 1, 2].map(PartitionId).to_vec())]);
    assert_eq!(log.poll(), []);
    assert!(matches!(log.read(P, 10), Read::Nothing), "not started");
    log.start(P, Offset(0)).unwrap();
    assert_eq!(drain(&mut log, 10), (vec![0], Some(Offset(1))));
    log.stop(&[P], true);
    append(&store, 0, &["b".to_owned()], 1);
    assert!(matches!(log.read(P, 10), Read::Nothing), "stopped");
    assert_eq!(log.end_offset(P), Some(Offset(2)));
}

#[test]
fn records_come_whole_in_order_from_any_offset_and_in_any_portion() {
    let world = World::new();
    let (store, mut log) = log(&world, 1);
    for batch in 0..7_i64 {
        let names: Vec<_> = (0..=batch * 3).map(|number| format!("{batch}-{number}")).collect();
        append(&store, 0, &names, batch);
    }
    let end = store.bounds(P).1.0;
    for from in 0..=end {
        for max in [1, 5, 1_000] {
            log.start(P, Offset(from)).unwrap();
            assert_eq!(drain(&mut log, max).0, (from..end).collect::<Vec<_>>(), "from {from}, {max} at a time");
        }
    }
    log.start(P, Offset(1)).unwrap();
    let Read::Records { batch, .. } = log.read(P, 1) else { panic!("a record") };
    let original = record("1-0", 1);
    let source = batch.record(0);
    assert_eq!((source.key, source.value), (original.key.as_deref(), original.value.as_deref()));
    assert_eq!((source.timestamp_ms, batch.headers(0)), (Some(1), original.headers.clone()));
}

#[test]
fn an_append_wakes_the_reader() {
    let world = World::new();
    let (store, log) = log(&world, 1);
    log.wait(Duration::ZERO);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| append(&store, 0, &["a".to_owned()], 1));
        log.wait(Duration::from_secs(20));
    });
    assert!(began.elapsed() < Duration::from_secs(10), "woken after {:?}", began.elapsed());
}

fn alert(offset: i64) -> Arc<OutputRecord> {
    let value = format!(
        r#"{{"rule_id":"r","origin":"stream","trigger":{{"topic":"transactions","partition":0,"offset":{offset}}}}}"#
    );
    let mut alert = OutputRecord::clone(&output(Destination::Alerts, value));
    alert.id.offset = Offset(offset);
    alert.id.slot = tallyguard::protocol::output::Slot::Alert(Arc::from("r"));
    Arc::new(alert)
}

#[test]
fn a_transaction_shows_nothing_before_its_commit_and_nothing_of_one_that_was_aborted() {
    let world = World::new();
    let (store, mut log) = log(&world, 1);
    let steps = |offset: i64| {
        [Step::Begin, Step::Produce(vec![alert(offset)]), Step::SendOffsets(vec![commit(0, offset + 1, 0, 0)])]
    };
    for step in steps(1) {
        assert_eq!(log.execute(&step), Outcome::Done);
    }
    assert_eq!((store.output_end(Destination::Alerts), committed(&store, 0)), (0, None));
    assert_eq!(log.execute(&Step::Abort), Outcome::Done);
    for step in steps(2) {
        assert_eq!(log.execute(&step), Outcome::Done);
    }
    assert_eq!(log.execute(&Step::Commit), Outcome::Done);
    assert_eq!((output_texts(&store, Destination::Alerts).len(), committed(&store, 0)), (1, Some(3)));
    assert_eq!(log.execute(&Step::ProbeMembership), Outcome::Membership { replaced: false });
}

#[test]
fn outside_a_transaction_outputs_and_offsets_are_written_one_after_the_other() {
    let world = World::new();
    let (store, mut log) = log(&world, 1);
    assert_eq!(log.execute(&Step::Produce(vec![alert(5)])), Outcome::Done);
    assert_eq!((store.output_end(Destination::Alerts), committed(&store, 0)), (1, None));
    assert_eq!(log.execute(&Step::CommitOffsets(vec![commit(0, 6, 0, 0)])), Outcome::Done);
    assert_eq!(committed(&store, 0), Some(6));
}

#[test]
fn a_read_back_finds_the_outputs_at_and_behind_an_offset_and_no_others() {
    let world = World::new();
    let (store, mut log) = log(&world, 2);
    let alerts: Vec<_> = (0..10_000).map(alert).collect();
    store.commit(GROUP, &alerts[..9_000], &[commit(0, 8_000, 0, 0)], 1_000_000).unwrap();
    store.commit(GROUP, &alerts[9_000..], &[], 2_000_000).unwrap();
    let request =
        |from: Option<i64>, since_ms| ReadBackRequest { partition: P, outputs_from: from.map(Offset), since_ms };
    let mut ask = |request| match log.execute(&Step::ReadBack(vec![request])) {
        Outcome::ReadBack(found) => found[0].clone(),
        other => panic!("{other:?}"),
    };
    let found = ask(request(Some(8_500), 900_000));
    let committed = commit(0, 8_000, 0, 0);
    assert_eq!(found.committed, Some((committed.offset, committed.metadata)), "with the text that says whose it is");
    let mut offsets: Vec<_> = found.outputs.iter().map(|id| id.offset.0).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (8_500..10_000).collect::<Vec<_>>());
    assert!(ask(request(None, 0)).outputs.is_empty());
}

#[test]
fn a_recovery_is_told_what_is_committed_what_is_kept_and_whose_log_it_is() {
    let world = World::new();
    let store = Arc::new(world.open(2));
    append(&store, 1, &["a".to_owned(), "b".to_owned()], 1);
    store.commit(GROUP, &[], &[commit(1, 2, 1, 1)], 1).unwrap();
    let mut reader = EmbeddedReader::new(Arc::clone(&store), "transactions", GROUP);
    let facts = reader.facts(&[P, PartitionId(1)]).unwrap();
    assert_eq!(facts.len(), 2);
    assert!(facts[0].committed.is_none());
    let (offset, metadata) = facts[1].committed.clone().unwrap();
    assert_eq!((offset, metadata.unwrap().horizon.offset), (Offset(2), Offset(1)));
    assert_eq!((facts[1].log_start, facts[1].log_end, facts[1].partitions), (Offset(0), Offset(2), 2));
    assert_eq!(
        facts[0].group_began.as_ref().map(|group| group.partitions),
        Some(2),
        "known from any partition's commit"
    );
    assert_eq!(facts[0].identity.cluster_id, store.identity().cluster_id);
    let mut other = EmbeddedReader::new(store, "transactions", "other");
    assert!(other.facts(&[PartitionId(1)]).unwrap()[0].committed.is_none());
}
