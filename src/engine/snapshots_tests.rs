//! What is on disk after a partition was given up and opened again, or after a store failed, is one whole state: never a
//! mixture of two assignments, never changes without what they change.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tempfile::TempDir;

use super::*;
use crate::domain::duration::Millis;
use crate::domain::partition::Progress;
use crate::domain::time::Watermark;
use crate::domain::window::Position;
use crate::observe::report::About;
use crate::observe::status::StatusBoard;
use crate::state::{SnapshotStore, Snapshotter, SnapshotterSettings, StoreOptions};

const P: PartitionId = PartitionId(0);

struct World {
    schedule: SnapshotSchedule,
    store: Arc<SnapshotStore>,
    events: Receiver<SnapshotEvent>,
    monitor: Monitor,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let (store, _) = SnapshotStore::open(dir.path(), StoreOptions::default(), 0).expect("a store");
        let store = Arc::new(store);
        let (sender, events) = crossbeam_channel::unbounded();
        let writer = Snapshotter::spawn(Arc::clone(&store), SnapshotterSettings { retain: 0 }, move |event| {
            let _ = sender.send(event);
        })
        .expect("a thread");
        let pace = SnapshotPace { interval_ms: 1_000, min_pause_ms: 0, timeout_ms: 5_000 };
        let about = About {
            instance_id: "a".to_owned(),
            group: "g".to_owned(),
            topic: "t".to_owned(),
            mode: "exactly-once".to_owned(),
            started_at_ms: 0,
            statistics_enabled: false,
            tolerable_checkpoint_failures: 3,
            rules: Vec::new(),
        };
        let monitor = Monitor::new(StatusBoard::new(about));
        Self { schedule: SnapshotSchedule::new(writer, pace), store, events, monitor, _dir: dir }
    }

    fn open(&mut self, source: StartSource, at: i64) {
        let parameters = parameters();
        let start = Start {
            committed: Offset(at),
            from: Position { offset: Offset(at), watermark: Watermark::NONE },
            progress: Progress {
                next: Position { offset: Offset(at), watermark: Watermark::NONE },
                final_through: Watermark::NONE,
                horizon: Position { offset: Offset(at), watermark: Watermark::NONE },
                statistics_horizon: Position { offset: Offset(at), watermark: Watermark::NONE },
                statistics_gap: None,
            },
            source,
            parameters: parameters.clone(),
            changed_rules: Vec::new(),
            partitions_at_first_start: 1,
            committed_at_ms: None,
            remark: None,
        };
        let identity = LogIdentity { cluster_id: "c".to_owned(), topic_id: "t".to_owned(), group: "g".to_owned() };
        self.schedule.opened(P, &start, &identity, &parameters);
    }

    fn take(&mut self, keys: &[&str], through: i64, whole: bool) {
        let puts = keys.iter().map(|key| (key.as_bytes().to_vec(), through.to_string().into_bytes())).collect();
        self.schedule.taken(P, StateDelta { removed_prefixes: Vec::new(), puts }, Offset(through), whole);
        self.schedule.committed(P, Offset(through));
    }

    fn store_round(&mut self) {
        self.schedule.round = Round::Gathering { began_ms: 0, awaited: BTreeSet::new() };
        self.schedule.tick::<actix::Addr<crate::engine::actor::PartitionActor>>(&[], 1, &mut self.monitor);
    }

    fn answered(&mut self) {
        let event = self.events.recv_timeout(Duration::from_secs(20)).expect("an answer");
        self.schedule.event(event, &mut self.monitor);
    }

    fn stored_keys(&self) -> Vec<String> {
        let stored = self.store.load(P).expect("readable").expect("a snapshot");
        stored.entries.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }
}

fn parameters() -> Parameters {
    Parameters {
        rules: Vec::new(),
        out_of_orderness: Millis(5_000),
        max_future_skew: Millis(1_000),
        statistics: false,
        orders: false,
    }
}

#[test]
fn a_partition_that_is_opened_again_is_stored_whole_though_it_began_from_a_snapshot() {
    let mut world = World::new();
    world.open(StartSource::Horizon, 0);
    world.take(&["first", "second"], 10, true);
    world.store_round();
    world.answered();
    assert_eq!(world.stored_keys(), ["first", "second"]);

    world.schedule.forget(P);
    world.open(StartSource::Snapshot, 10);
    assert!(world.schedule.subjects[&P].whole, "what a store of the former assignment left is not known");
    world.take(&["third"], 20, true);
    world.store_round();
    world.answered();
    assert_eq!(world.stored_keys(), ["third"], "nothing of the former assignment is left");
}

#[test]
fn an_answer_of_a_former_assignment_says_nothing_of_what_is_stored_of_this_one() {
    let mut world = World::new();
    world.open(StartSource::Horizon, 0);
    world.take(&["first"], 10, true);
    world.store_round();
    world.schedule.forget(P);
    world.open(StartSource::Snapshot, 10);
    world.answered();
    assert_eq!(world.schedule.subjects[&P].stored_through, Some(Offset(10)), "from its own start alone");
    assert!(world.schedule.subjects[&P].whole);
}

#[test]
fn changes_that_were_asked_for_before_a_whole_state_was_wanted_are_not_taken_for_one() {
    let mut world = World::new();
    world.open(StartSource::Horizon, 0);
    world.take(&["first", "second"], 10, true);
    world.schedule.subjects.get_mut(&P).expect("open").whole = true;
    world.take(&["second"], 20, false);
    world.take(&["first", "second", "third"], 30, true);
    world.store_round();
    world.answered();
    assert_eq!(world.stored_keys(), ["first", "second", "third"]);
}

#[test]
fn changes_that_could_not_be_stored_go_with_the_next_ones() {
    let mut world = World::new();
    world.open(StartSource::Horizon, 0);
    world.take(&["first"], 10, true);
    let unsaved = world.schedule.subjects.get_mut(&P).and_then(|subject| subject.unsaved.take()).expect("taken");
    world.take(&["second"], 20, false);
    world.schedule.give_back(vec![unsaved]);
    world.store_round();
    world.answered();
    assert_eq!(world.stored_keys(), ["first", "second"]);
}
