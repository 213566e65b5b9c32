//! The two guarantees that promise less: each keeps what it promises when it is killed, and breaks what it does not
//! promise. State, and what is written to the database, are exact in both.

use std::thread;

use tallyguard::reconcile::compare::Kind;

use crate::crashes::Moments;
use crate::scenario::{Scenario, busy};
use crate::support::{shared_database, workload};

const KILLS: u32 = 6;
/// A round of kills that shows nothing is followed by another one.
const ROUNDS: u64 = 8;

/// Kills a service that works off a backlog, so that it dies among many outputs, until `wanted` has appeared. Returns how
/// often.
fn kill_until_seen(mode: &str, tolerated: &[Kind], wanted: Kind, seed: u64) -> usize {
    let scenario = Scenario::new().with_statistics(shared_database()).set("delivery.mode", mode).create_topics();
    let mut moments = Moments(seed);
    for round in 0..ROUNDS {
        scenario.produce(workload(busy(seed + 100 * round, 40_000)));
        for _ in 0..KILLS {
            let mut service = scenario.start();
            thread::sleep(moments.between(250, 700));
            service.kill9();
        }
        let mut last = scenario.start_ready();
        let seen = scenario.assert_exact_but_for(tolerated);
        last.sigterm();
        let times = seen.get(&wanted).copied().unwrap_or(0);
        eprintln!("{mode}, round {round}: {seen:?}");
        if times > 0 {
            return times;
        }
    }
    0
}

#[test]
fn at_least_once_loses_nothing_when_it_is_killed_and_does_write_alerts_twice() {
    // What goes again stands behind what followed it.
    let tolerated = [Kind::Duplicate, Kind::OutOfOrder];
    assert!(kill_until_seen("at-least-once", &tolerated, Kind::Duplicate, 51) > 0, "no duplicate in so many kills");
}

#[test]
fn at_most_once_writes_nothing_twice_when_it_is_killed_and_does_lose_alerts() {
    assert!(kill_until_seen("at-most-once", &[Kind::Missing], Kind::Missing, 52) > 0, "no gap in so many kills");
}

#[test]
fn without_a_crash_both_are_exact() {
    for mode in ["at-least-once", "at-most-once"] {
        let scenario = Scenario::new().with_statistics(shared_database()).set("delivery.mode", mode).create_topics();
        scenario.produce(workload(busy(53, 10_000)));
        let mut service = scenario.start_ready();
        let load = scenario.load(2_000, busy(54, 4_000));
        load.finish();
        let alerts = scenario.assert_exact().alerts.len();
        assert!(alerts > 100, "{mode}: {alerts}");
        service.sigterm();
        assert_eq!(service.wait_exit(crate::scenario::PATIENCE), Some(0), "{}", service.log());
        // A clean stop leaves nothing to be done again.
        let _next = scenario.start_ready();
        scenario.assert_exact();
    }
}
