//! Instances come and go under load: each partition stands still for as short a time as its hand-over takes, state that is
//! still in memory or on disk is used again, and everything stays exact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::instances::{owned, start_ready};
use crate::scenario::{PATIENCE, Scenario, busy};
use crate::support::wait_until_or_show;

const PARTITIONS: i32 = 12;

#[test]
fn from_one_instance_to_three_to_two_and_back_to_three_everything_stays_exact() {
    let scenario = Scenario::new().short_session().with_statistics().create_topics_with(PARTITIONS);
    let (second, third) = (scenario.instance("b"), scenario.instance("c"));
    let a = scenario.start_ready();
    let load = scenario.load(1_500, busy(36, 0));
    thread::sleep(Duration::from_secs(3));

    let pauses = Pauses::of(&scenario);
    let b = start_ready(&scenario, &second);
    let mut c = start_ready(&scenario, &third);
    let shared_by = |shares: [usize; 3], all: [&crate::support::Service; 3]| all.map(owned) == shares;
    wait_until_or_show(PATIENCE, "four each", || scenario.logs(), || shared_by([4, 4, 4], [&a, &b, &c]));
    thread::sleep(Duration::from_secs(3));
    eprintln!("one to three: {}", pauses.longest());

    let pauses = Pauses::of(&scenario);
    c.kill9();
    wait_until_or_show(PATIENCE, "six each", || scenario.logs(), || owned(&a) == 6 && owned(&b) == 6);
    thread::sleep(Duration::from_secs(2));
    eprintln!("one of three killed (the session is 6 s): {}", pauses.longest());

    let pauses = Pauses::of(&scenario);
    let c = start_ready(&scenario, &third);
    wait_until_or_show(PATIENCE, "four each again", || scenario.logs(), || shared_by([4, 4, 4], [&a, &b, &c]));
    thread::sleep(Duration::from_secs(2));
    eprintln!("two to three: {}", pauses.longest());

    load.finish();
    scenario.assert_exact();
    assert!(a.log().contains("kept state from"), "a partition came back to where its state was kept\n{}", a.log());
    assert!(c.log().contains("snapshot from"), "the folder of its predecessor is used again\n{}", c.log());
}

#[test]
fn a_rolling_restart_under_load_moves_no_partition_and_loses_nothing() {
    let scenario = Scenario::new().with_statistics().create_topics_with(PARTITIONS);
    let configs = [scenario.config.clone(), scenario.instance("b"), scenario.instance("c")];
    let mut services = configs.each_ref().map(|config| start_ready(&scenario, config));
    let are_shared = |services: &[crate::support::Service]| services.iter().all(|service| owned(service) == 4);
    wait_until_or_show(PATIENCE, "four each", || scenario.logs(), || are_shared(&services));
    let load = scenario.load(1_500, busy(37, 0));
    thread::sleep(Duration::from_secs(2));
    let before = services.each_ref().map(|service| service.log().matches("assigned partitions").count());
    let pauses = Pauses::of(&scenario);
    for at in 0..services.len() {
        services[at].sigterm();
        assert_eq!(services[at].wait_exit(PATIENCE), Some(0), "{}", services[at].log());
        services[at] = start_ready(&scenario, &configs[at]);
        wait_until_or_show(PATIENCE, "four each again", || scenario.logs(), || are_shared(&services));
        // The others have not been asked: nothing moved.
        for (other, service) in services.iter().enumerate().filter(|(other, _)| *other > at) {
            assert_eq!(service.log().matches("assigned partitions").count(), before[other], "{}", service.log());
        }
    }
    eprintln!("rolling restart of three: {}", pauses.longest());
    load.finish();
    scenario.assert_exact();
}

/// How long each partition has gone without a new commit; under load every one has records all the time.
struct Pauses {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeMap<i32, Duration>>>,
}

impl Pauses {
    fn of(scenario: &Scenario) -> Self {
        let watch = scenario.watch();
        let ended = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                let mut last: BTreeMap<i32, (i64, Instant)> = BTreeMap::new();
                let mut longest: BTreeMap<i32, Duration> = BTreeMap::new();
                while !ended.load(Ordering::SeqCst) {
                    for (partition, offset) in watch.offsets() {
                        let now = Instant::now();
                        let (seen, since) = *last.entry(partition).or_insert((offset, now));
                        if offset != seen {
                            last.insert(partition, (offset, now));
                        }
                        let pause = longest.entry(partition).or_default();
                        *pause = (*pause).max(now - since);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                longest
            }
        });
        Self { ended, thread: Some(thread) }
    }

    fn longest(mut self) -> String {
        self.ended.store(true, Ordering::SeqCst);
        let pauses = self.thread.take().expect("asked once").join().expect("the watching thread");
        let mut all: Vec<Duration> = pauses.into_values().collect();
        all.sort_unstable();
        let at = |share: usize| all.get(all.len() * share / 100).or(all.last()).copied().unwrap_or_default();
        format!("a partition without a commit for at most {:?}, the median of all {:?}", at(100), at(50))
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}
