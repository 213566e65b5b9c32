//! Crashes at random points, several in a row: the recovered state is the uninterrupted one, byte for byte, and what is
//! written in the end is what the recount says, each output once.

use tallyguard::domain::ids::Offset;
use tallyguard::protocol::recovery::{Facts, StartSource};
use tallyguard::reconcile::recount::{RuleChange, recount};

use crate::dice::{Dice, for_seeds};
use crate::streams::{Effects, Tables, configuration, log, recount_parameters};
use crate::world::{PARTITION, Process, World, something_happens};

fn world(dice: &mut Dice) -> World {
    let configured = configuration(dice);
    let length = 1 + dice.below(60);
    let log = log(dice, PARTITION, length);
    World { log, configured, committed: None, topics: Effects::default(), tables: Tables::default(), stored: None }
}

/// Lets the process come to its end: everything taken, committed, written and acknowledged.
fn come_to_rest(world: &mut World, process: &mut Process) {
    process.take_records(&world.log, usize::MAX, true);
    while process.has_pending() {
        world.commit(process, usize::MAX);
        world.write_flush(process);
        process.acknowledge_flush();
        process.take_flush();
        world.commit(process, usize::MAX);
        world.write_flush(process);
        process.acknowledge_flush();
    }
}

/// The operator gives some rules another threshold and a higher version; it acts from the committed offset on.
fn change_rules(dice: &mut Dice, world: &mut World, changes: &mut [Vec<RuleChange>]) {
    let Some((committed, _)) = world.committed else { return };
    for (rule, changes) in world.configured.rules.iter_mut().zip(changes) {
        if dice.chance(60) {
            rule.version += 1;
            rule.max_transactions = u32::try_from(1 + dice.below(4)).unwrap();
            changes.push(RuleChange {
                partition: PARTITION,
                first_offset: committed.0,
                version: rule.version,
                max_transactions: u64::from(rule.max_transactions),
                severity: rule.severity.as_str().to_owned(),
            });
        }
    }
}

fn live_through_crashes(dice: &mut Dice, sources: &std::cell::RefCell<[u64; 3]>) {
    let mut world = world(dice);
    let mut parameters = recount_parameters(&world.configured);
    let mut changes = vec![Vec::new(); world.configured.rules.len()];
    let crashes = 1 + dice.below(6);
    let busy = dice.pick(&[5, 20, 60]);
    for _ in 0..crashes {
        let mut process = recover(&mut world, sources);
        for _ in 0..dice.below(busy) {
            something_happens(dice, &mut world, &mut process);
        }
        drop(process);
        if dice.chance(15) {
            // Another machine takes over: the disk stays behind.
            world.stored = None;
        }
        if dice.chance(20) {
            change_rules(dice, &mut world, &mut changes);
        }
    }
    let mut process = recover(&mut world, sources);
    come_to_rest(&mut world, &mut process);
    for (rule, changes) in parameters.rules.iter_mut().zip(changes) {
        rule.changes = changes;
    }
    let expected = recount(&world.log, &parameters);
    assert_eq!(world.topics.sorted(), Effects::expected(&expected).sorted(), "each output once");
    assert_eq!(world.tables, Tables::expected(&expected), "the database as if nothing had happened");
}

fn recover(world: &mut World, sources: &std::cell::RefCell<[u64; 3]>) -> Process {
    let process = world.recover();
    sources.borrow_mut()[match process.start.source {
        StartSource::First => 0,
        StartSource::Horizon => 1,
        StartSource::Snapshot => 2,
        StartSource::Parked => panic!("no state is kept here"),
    }] += 1;
    let uninterrupted = process.uninterrupted(&world.log);
    assert_eq!(process.state.watermark(), uninterrupted.watermark(), "{:?}", process.start);
    assert_eq!(process.state.canonical(), uninterrupted.canonical(), "{:?}", process.start);
    process
}

#[test]
fn after_any_crashes_the_state_and_everything_written_are_as_if_there_had_been_none() {
    let sources = std::cell::RefCell::new([0; 3]);
    for_seeds(20_000, |dice| live_through_crashes(dice, &sources));
    let [first, horizon, snapshot] = sources.into_inner();
    if std::env::var_os("TALLYGUARD_SEED").is_none() {
        assert!(first > 1_000 && horizon > 10_000 && snapshot > 5_000, "{first}, {horizon}, {snapshot}");
    }
}

/// While the database is away for long, a partition lets its unwritten statistics go, and is recovered anew once the
/// database is back: they are then built again from the log, alerts go on meanwhile.
#[test]
fn statistics_that_were_let_go_of_are_built_again_from_the_log() {
    for_seeds(6_000, |dice| {
        let mut world = world(dice);
        world.configured.statistics = true;
        let parameters = recount_parameters(&world.configured);
        for _ in 0..=dice.below(5) {
            let mut process = world.recover();
            for _ in 0..dice.below(30) {
                something_happens(dice, &mut world, &mut process);
            }
            process.state.shed_statistics();
            // From here on nothing more is snapshotted: the state is no longer complete.
            process.unsaved = None;
            for _ in 0..dice.below(20) {
                match dice.below(5) {
                    0 | 1 => process.take_records(&world.log, dice.below(6), dice.chance(30)),
                    2 => world.commit(&mut process, 1 + dice.below(3)),
                    3 => world.write_flush(&mut process),
                    _ => process.acknowledge_flush(),
                }
                assert!(process.state.take_flush().is_none(), "what is not complete is not written");
            }
        }
        let mut process = world.recover();
        come_to_rest(&mut world, &mut process);
        let expected = recount(&world.log, &parameters);
        assert_eq!(world.topics.sorted(), Effects::expected(&expected).sorted(), "alerts went on, each once");
        assert_eq!(world.tables, Tables::expected(&expected), "and nothing is missing in the database");
    });
}

/// `stats.orders` may be switched between runs: what was there before is not made up for, but the rows of the minutes
/// stay exact.
#[test]
fn switching_the_orders_table_on_and_off_leaves_the_rows_exact() {
    for_seeds(6_000, |dice| {
        let mut world = world(dice);
        world.configured.statistics = true;
        let parameters = recount_parameters(&world.configured);
        for _ in 0..=dice.below(6) {
            world.configured.orders = dice.chance(50);
            let mut process = world.recover();
            for _ in 0..dice.below(30) {
                something_happens(dice, &mut world, &mut process);
            }
        }
        let mut process = world.recover();
        come_to_rest(&mut world, &mut process);
        let expected = recount(&world.log, &parameters);
        assert_eq!(world.topics.sorted(), Effects::expected(&expected).sorted());
        assert_eq!(world.tables.rows, expected.statistics);
    });
}

/// Only records that statistics still needed are gone: alerts stay exact, and no row of a minute that lost records is
/// ever written with too little, in this run or a later one.
#[test]
fn a_log_that_lost_what_only_statistics_needed_keeps_alerts_exact_and_writes_no_partial_minute() {
    let gaps = std::cell::Cell::new(0);
    for_seeds(6_000, |dice| {
        let mut world = world(dice);
        (world.configured.statistics, world.configured.orders) = (true, false);
        let expected = recount(&world.log, &recount_parameters(&world.configured));
        let mut lost_before = Offset(0);
        for round in 0..=1 + dice.below(5) {
            let mut facts = world.facts();
            if round > 0
                && dice.chance(50)
                && let Some((_, Ok(metadata))) = &facts.committed
            {
                lost_before = lost_before.max(metadata.horizon.offset);
            }
            facts.log_start = facts.log_start.max(lost_before);
            // One from before the gap may know more than the gap leaves.
            facts.snapshot = facts.snapshot.filter(|_| dice.chance(50));
            let mut process = world.recover_from(&facts);
            gaps.set(gaps.get() + u64::from(process.start.progress.statistics_gap.is_some()));
            for _ in 0..dice.below(40) {
                something_happens(dice, &mut world, &mut process);
            }
        }
        let log_start = world.facts().log_start.max(lost_before);
        let mut process = world.recover_from(&Facts { log_start, snapshot: None, ..world.facts() });
        come_to_rest(&mut world, &mut process);
        assert_eq!(world.topics.sorted(), Effects::expected(&expected).sorted());
        for (key, cell) in &world.tables.rows {
            // A row is complete, or it is as some complete prefix of the log left it.
            let until: Vec<_> = world.log.iter().filter(|record| record.offset <= cell.last_offset).cloned().collect();
            let then = recount(&until, &recount_parameters(&world.configured));
            assert_eq!(then.statistics.get(key), Some(cell), "{key:?}");
        }
    });
    assert!(gaps.get() > 100 || std::env::var_os("TALLYGUARD_SEED").is_some(), "{}", gaps.get());
}
