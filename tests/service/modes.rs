//! The two guarantees that promise less: each keeps what it promises when it is killed, and breaks what it does not
//! promise. State, and what is written to the database, are exact in both.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use tallyguard::generate::WorkloadOptions;
use tallyguard::reconcile::compare::{Difference, Kind};

use crate::crashes::Moments;
use crate::instances::{UNTIL_IT_LEAVES, start_ready, successor_of};
use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, busy};
use crate::support::{Broker, Service, workload};

on_both!(
    at_least_once_loses_nothing_when_it_is_killed_and_does_write_outputs_twice,
    at_most_once_writes_nothing_twice_when_it_is_killed_and_does_lose_outputs,
    without_a_crash_both_are_exact,
    the_mode_may_change_between_runs,
);

/// At least so many, and so many at most until what is wanted was seen.
const KILLS: std::ops::Range<u32> = 6..60;

/// Kills a service under load, so that it dies among many outputs, until the topics show a difference of that kind. Whatever
/// else they show is one of the tolerated kinds.
fn kill_until_seen(transport: Transport, mode: &str, tolerated: &[Kind], wanted: Kind, seed: u64) {
    let scenario = dense(Scenario::over(transport), mode).with_statistics().create_topics();
    let load = scenario.load(2_000, crowd(seed));
    let mut moments = Moments(seed);
    let mut seen = 0;
    for number in 0.. {
        if number >= KILLS.start && seen > 0 {
            break;
        }
        assert!(number < KILLS.end, "{mode} never showed what it does not promise");
        let mut service = scenario.start_ready();
        thread::sleep(moments.between(50, 500));
        service.kill9();
        let so_far = count(&scenario.topic_differences(&scenario.recount_before(&scenario.committed())));
        seen = so_far.get(&wanted).copied().unwrap_or(0);
    }
    let _last = scenario.start_ready();
    load.finish();
    let seen = scenario.assert_exact_but_for(tolerated);
    eprintln!("{mode}: {seen:?}");
    assert!(seen.contains_key(&wanted), "{seen:?}");
}

fn at_least_once_loses_nothing_when_it_is_killed_and_does_write_outputs_twice(transport: Transport) {
    // What goes again stands behind what followed it.
    let tolerated = [Kind::Duplicate, Kind::OutOfOrder];
    kill_until_seen(transport, "at-least-once", &tolerated, Kind::Duplicate, 51);
}

fn at_most_once_writes_nothing_twice_when_it_is_killed_and_does_lose_outputs(transport: Transport) {
    kill_until_seen(transport, "at-most-once", &[Kind::Missing], Kind::Missing, 52);
}

fn without_a_crash_both_are_exact(transport: Transport) {
    for mode in ["at-least-once", "at-most-once"] {
        let scenario = Scenario::over(transport).with_statistics().set("delivery.mode", mode).create_topics();
        scenario.produce(workload(busy(53, 10_000)));
        let mut service = scenario.start_ready();
        let load = scenario.load(2_000, busy(54, 4_000));
        load.finish();
        let alerts = scenario.assert_exact().alerts.len();
        assert!(alerts > 100, "{mode}: {alerts}");
        service.sigterm();
        assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
        // A clean stop leaves nothing to be done again.
        let _next = scenario.start_ready();
        scenario.assert_exact();
    }
}

/// What each mode tolerates of its outputs.
const MODES: [(&str, &[Kind]); 2] =
    [("at-least-once", &[Kind::Duplicate, Kind::OutOfOrder]), ("at-most-once", &[Kind::Missing])];

#[test]
fn at_least_once_a_broker_that_freezes_and_dies_under_load_loses_nothing() {
    survive_a_bad_broker(MODES[0], 43);
}

#[test]
fn at_most_once_what_a_broker_costs_that_freezes_and_dies_is_counted() {
    survive_a_bad_broker(MODES[1], 44);
}

/// The process lives on, so everything that is missing was given up, and counted.
fn survive_a_bad_broker((mode, tolerated): (&str, &[Kind]), seed: u64) {
    let broker = Broker::start();
    let scenario = dense(Scenario::on(broker.bootstrap()), mode)
        .set("delivery.transaction_timeout", "2s")
        .with_statistics()
        .create_topics();
    let mut service = scenario.start_ready();
    let load = scenario.load(1_500, crowd(seed));
    thread::sleep(Duration::from_secs(2));
    let watch = scenario.watch();
    // Frozen for longer than a step may take: what was asked for is answered when nobody waits for it any more.
    broker.sigstop();
    thread::sleep(Duration::from_secs(5));
    broker.sigcont();
    scenario.await_progress(&watch, watch.total());
    thread::sleep(Duration::from_secs(1));
    let before = watch.total();
    broker.kill9();
    broker.restart();
    scenario.await_progress(&watch, before);
    thread::sleep(Duration::from_secs(1));
    load.finish();
    let seen = scenario.assert_exact_but_for(tolerated);
    assert!(service.is_running(), "{}", service.log());
    service.wait_ready(PATIENCE);
    let missing = seen.get(&Kind::Missing).copied().unwrap_or(0);
    let given_up = counter(&service, "tallyguard_outputs_given_up_total");
    let writers = counter(&service, "tallyguard_producer_replacements_total");
    eprintln!("{mode}: {seen:?}, {given_up} given up, {writers} writers");
    assert!(writers > 1, "nothing was ever in doubt\n{}", scenario.logs());
    assert!(missing <= given_up, "{missing} are missing, {given_up} were given up\n{}", scenario.logs());
}

/// Without transactions there is no fencing of a writer: the group refuses the offsets of the one that was replaced. In
/// mode at-most-once it still writes, late, the outputs whose offsets it had committed: nobody else will.
#[test]
fn a_frozen_process_that_was_replaced_leaves_with_4_when_it_wakes_in_both_modes() {
    for (mode, tolerated) in [MODES[0], ("at-most-once", &[Kind::Missing, Kind::OutOfOrder])] {
        let scenario = dense(Scenario::new(), mode).short_session().create_topics();
        let successor = successor_of(&scenario);
        let mut first = scenario.start_ready();
        let load = scenario.load(1_500, crowd(45));
        thread::sleep(Duration::from_secs(2));
        first.sigstop();
        let mut second = start_ready(&scenario, &successor);
        let watch = scenario.watch();
        scenario.await_progress(&watch, watch.total());
        first.sigcont();
        assert_eq!(first.wait_exit(UNTIL_IT_LEAVES), Some(4), "{}\n{}", first.log(), scenario.logs());
        thread::sleep(Duration::from_secs(1));
        load.finish();
        eprintln!("{mode}: {:?}", scenario.assert_exact_but_for(tolerated));
        assert!(second.is_running(), "{}", second.log());
    }
}

/// At-least-once leaves outputs ahead of the committed offset when it is killed. Who begins there in another mode finds
/// them, and does not repeat them.
fn the_mode_may_change_between_runs(transport: Transport) {
    // Who is killed within a transaction leaves it open, and a successor without transactions waits for its time-out.
    let scenario = dense(Scenario::over(transport), "at-least-once")
        .set("delivery.transaction_timeout", "3s")
        .with_statistics()
        .create_topics();
    let load = scenario.load(2_000, crowd(47));
    let mut moments = Moments(47);
    let mut repeated = 0;
    let (mut left_ahead, mut runs) = (0, 0);
    // At-least-once three times in four, until one of them did leave something.
    while runs < 5 || left_ahead == 0 {
        assert!(runs < 60, "no run left outputs ahead of its offset");
        for mode in ["at-least-once", ["at-most-once", "exactly-once"][runs % 2]] {
            let config = scenario.config.clone().set("delivery.mode", mode);
            let mut service = start_ready(&scenario, &config);
            thread::sleep(moments.between(100, 700));
            service.kill9();
            let committed = scenario.committed();
            let so_far = count(&scenario.topic_differences(&scenario.recount_before(&committed)));
            let repeated_now = so_far.get(&Kind::Duplicate).copied().unwrap_or(0);
            if mode == "at-least-once" {
                // Known to no recount of what is committed.
                left_ahead += so_far.get(&Kind::Unexpected).copied().unwrap_or(0);
            } else {
                assert_eq!(repeated_now, repeated, "{mode}: {so_far:?}\n{}", scenario.logs());
            }
            repeated = repeated_now;
        }
        runs += 1;
    }
    let _last = start_ready(&scenario, &scenario.config.clone().set("delivery.mode", "exactly-once"));
    load.finish();
    let seen = scenario.assert_exact_but_for(&[Kind::Missing, Kind::Duplicate, Kind::OutOfOrder]);
    eprintln!("{runs} rounds, {left_ahead} outputs left ahead, {seen:?}");
    assert_eq!(seen.get(&Kind::Duplicate).copied().unwrap_or(0), repeated);
}

fn count(differences: &[Difference]) -> BTreeMap<Kind, usize> {
    let mut counts = BTreeMap::new();
    for difference in differences {
        *counts.entry(difference.kind).or_default() += 1;
    }
    counts
}

/// A rule that nearly every user breaks in every second of event time, so that each commit holds many alerts.
fn dense(scenario: Scenario, mode: &str) -> Scenario {
    scenario.rule("dense-1s", "1s", 1).set("delivery.mode", mode)
}

/// Four transactions of each user within a second of event time.
fn crowd(seed: u64) -> WorkloadOptions {
    WorkloadOptions { users: 500, events_per_second: 2_000, ..busy(seed, 0) }
}

fn counter(service: &Service, name: &str) -> usize {
    let (_, metrics) = service.http_get("/metrics");
    // One that only a certain mode has is absent in the others.
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    line.trim().parse().expect("a whole number")
}
