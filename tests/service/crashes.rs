//! The service is killed in the middle of whatever it is doing, or asked to leave under load. Nothing is lost, nothing
//! happens twice.

use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, busy};
use crate::support::workload;

/// Kills, and the seed of their moments.
const KILLS: u32 = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Kept,
    Wiped,
}

on_both!(
    twenty_kills_with_the_state_kept_leave_no_trace,
    twenty_kills_with_the_state_lost_leave_no_trace,
    kills_while_a_backlog_is_worked_off_leave_no_trace,
    sigterm_under_load_leaves_with_0_and_the_next_process_continues,
);

fn twenty_kills_with_the_state_kept_leave_no_trace(transport: Transport) {
    survive_kills(transport, State::Kept, 11);
}

fn twenty_kills_with_the_state_lost_leave_no_trace(transport: Transport) {
    survive_kills(transport, State::Wiped, 12);
}

/// Three of four processes are killed 0.3 to 2 s after they were ready, the others while they start.
fn survive_kills(transport: Transport, state: State, seed: u64) {
    let scenario = Scenario::over(transport).with_statistics().create_topics();
    let load = scenario.load(2_000, busy(seed, 0));
    let mut moments = Moments(seed);
    let mut ready_after = Vec::new();
    for number in 0..KILLS {
        let started = Instant::now();
        let mut service = scenario.start();
        if number % 4 == 3 {
            thread::sleep(moments.between(50, 1_500));
        } else {
            service.wait_ready(PATIENCE);
            ready_after.push(started.elapsed());
            thread::sleep(moments.between(300, 2_000));
        }
        service.kill9();
        if state == State::Wiped {
            // Absent when it was killed before it had made one.
            let _ = fs::remove_dir_all(scenario.state_dir());
        }
    }
    let last = scenario.start_ready();
    let sent = load.finish();
    let expected = scenario.assert_exact();
    assert_eq!(last.http_get("/readyz").0, 200, "{}", scenario.logs());
    assert!(expected.alerts.len() > 1_000, "the load raised only {} alerts", expected.alerts.len());
    ready_after.sort_unstable();
    eprintln!(
        "{sent} records, {} alerts; ready after a kill: median {:?}, worst {:?}",
        expected.alerts.len(),
        ready_after[ready_after.len() / 2],
        ready_after[ready_after.len() - 1]
    );
}

/// Every other kill takes the snapshots with it, so that both ways back are taken: from a snapshot and from the log alone.
fn kills_while_a_backlog_is_worked_off_leave_no_trace(transport: Transport) {
    const RECORDS: u64 = 300_000;
    let scenario = Scenario::over(transport).set("checkpoint.interval", "1s").create_topics();
    scenario.produce(workload(busy(14, RECORDS)));
    let (watch, ends) = (scenario.watch(), scenario.ends());
    let mut moments = Moments(14);
    let mut in_the_middle = Vec::new();
    for number in 0..16 {
        let before = watch.total();
        let mut service = scenario.start();
        if number % 4 == 3 {
            thread::sleep(moments.between(1, 150));
        } else {
            let began = Instant::now();
            while watch.total() == before {
                assert!(service.is_running() && began.elapsed() < PATIENCE, "{}", service.log());
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(moments.between(0, 15));
        }
        service.kill9();
        if watch.offsets() == ends {
            break;
        }
        in_the_middle.push(watch.total());
        if number % 2 == 1 {
            // Absent when it was killed before it had made one.
            let _ = fs::remove_dir_all(scenario.state_dir());
        }
    }
    in_the_middle.retain(|committed| *committed > 0);
    in_the_middle.dedup();
    assert!(in_the_middle.len() >= 3, "too few kills in the middle of the work: {in_the_middle:?} of {ends:?}");
    let _last = scenario.start_ready();
    let alerts = scenario.assert_exact().alerts.len();
    eprintln!("killed at {in_the_middle:?} of {ends:?}, {alerts} alerts");
}

fn sigterm_under_load_leaves_with_0_and_the_next_process_continues(transport: Transport) {
    let scenario = Scenario::over(transport).with_statistics().create_topics();
    let load = scenario.load(2_000, busy(13, 0));
    let mut leaving = Vec::new();
    for _ in 0..3 {
        let mut service = scenario.start_ready();
        thread::sleep(Duration::from_millis(1_500));
        let asked = Instant::now();
        service.sigterm();
        assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
        leaving.push(asked.elapsed());
    }
    let slowest = leaving.iter().max().copied().unwrap_or_default();
    eprintln!("left after SIGTERM within {leaving:?}");
    assert!(slowest < Duration::from_secs(15), "a hand-over took {slowest:?}\n{}", scenario.logs());
    let _last = scenario.start_ready();
    load.finish();
    scenario.assert_exact();
}

/// Random moments that are the same in every run.
pub struct Moments(pub u64);

impl Moments {
    pub fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(low_ms + (self.0 >> 33) % (high_ms - low_ms))
    }
}
