//! Several instances of one group: partitions move between them, and only one process with an id has any effect.

use std::thread;
use std::time::{Duration, Instant};

use crate::scenario::{PATIENCE, Scenario, busy, transaction};
use crate::support::topics::{OpenTransaction, produce_aborted_transaction};
use crate::support::{Service, TestConfig, wait_until_or_show};

/// A process that was replaced learns of it with its next heartbeat or commit.
pub const UNTIL_IT_LEAVES: Duration = Duration::from_secs(30);

#[test]
fn when_one_of_two_instances_is_killed_the_other_takes_over_and_a_third_may_join() {
    let scenario = Scenario::new().short_session().with_statistics().create_topics();
    let (second, third) = (scenario.instance("b"), scenario.instance("c"));
    let mut a = scenario.start_ready();
    let mut b = start_ready(&scenario, &second);
    let load = scenario.load(1_500, busy(31, 0));
    wait_until_or_show(PATIENCE, "both own two partitions", || scenario.logs(), || owned(&a) == 2 && owned(&b) == 2);
    thread::sleep(Duration::from_secs(2));

    a.kill9();
    let killed = Instant::now();
    wait_until_or_show(PATIENCE, "the other owns all", || scenario.logs(), || owned(&b) == 4);
    let taken_over = killed.elapsed();
    let at_takeover = scenario.watch().offsets();
    let watch = scenario.watch();
    let moved = || watch.offsets().iter().all(|(partition, offset)| at_takeover.get(partition) < Some(offset));
    wait_until_or_show(PATIENCE, "all partitions move again", || scenario.logs(), moved);
    eprintln!("taken over {taken_over:?} after the kill (the session is 6 s), all move after {:?}", killed.elapsed());

    let mut c = start_ready(&scenario, &third);
    wait_until_or_show(PATIENCE, "the third owns two", || scenario.logs(), || owned(&b) == 2 && owned(&c) == 2);
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    assert!(b.is_running() && c.is_running(), "{}", scenario.logs());
    assert_eq!((b.http_get("/readyz").0, c.http_get("/readyz").0), (200, 200), "{}", scenario.logs());
}

/// librdkafka's batch call took an end of partition for a record: a member that kept a partition over a rebalance
/// went on one record too far.
#[test]
fn a_rebalance_at_the_end_of_the_log_skips_no_record() {
    let scenario = Scenario::new().create_topics();
    let second = scenario.instance("b");
    let one_each = |round: i64| {
        (0..4).map(move |partition| {
            transaction(&format!("u-in-{partition}"), format!("{partition}-{round}"), 10).in_partition(partition)
        })
    };
    let a = scenario.start_ready();
    scenario.produce(one_each(0));
    scenario.wait_caught_up();
    thread::sleep(Duration::from_millis(500));
    let b = start_ready(&scenario, &second);
    wait_until_or_show(PATIENCE, "both own two partitions", || scenario.logs(), || owned(&a) == 2 && owned(&b) == 2);
    // One more than the rule allows: a single record that is lost is an alert that is lost.
    for round in 1..=5 {
        scenario.produce(one_each(round));
        scenario.wait_caught_up();
    }
    let alerted = scenario.assert_exact().alerts.len();
    assert_eq!(alerted, 4);
    assert!(!a.log().contains("recovered anew"), "{}", a.log());
}

/// The same while a transaction upstream is open: the log goes on behind the end that a reader of committed records sees,
/// so the service takes records at once, and the end among them.
#[test]
fn a_rebalance_at_an_open_transaction_skips_no_record() {
    let scenario = Scenario::new().create_topics();
    let second = scenario.instance("b");
    let one_each = |round: i64| {
        (0..4).map(move |partition| {
            transaction(&format!("u-in-{partition}"), format!("{partition}-{round}"), 10).in_partition(partition)
        })
    };
    let fill = |round: usize| {
        (0..12_000).map(move |number: usize| {
            let partition = i32::try_from(number % 4).expect("a partition");
            transaction(&format!("u-{round}-{number}"), format!("{round}-fill-{number}"), 10).in_partition(partition)
        })
    };
    scenario.produce(one_each(0).chain(fill(0)));
    let undecided =
        OpenTransaction::begin(scenario.bootstrap(), &scenario.config.source_topic, one_each(1).chain(fill(1)));
    let a = scenario.start_ready();
    let watch = scenario.watch();
    let stands_before_it = || watch.offsets().values().all(|&offset| offset == 3_001) && watch.offsets().len() == 4;
    wait_until_or_show(PATIENCE, "all before the transaction is read", || scenario.logs(), stands_before_it);
    thread::sleep(Duration::from_millis(500));
    let b = start_ready(&scenario, &second);
    wait_until_or_show(PATIENCE, "both own two partitions", || scenario.logs(), || owned(&a) == 2 && owned(&b) == 2);
    thread::sleep(Duration::from_secs(1));
    undecided.commit();
    for round in 2..=5 {
        scenario.produce(one_each(round));
    }
    assert_eq!(scenario.assert_exact().alerts.len(), 4);
    // Aborted ones at the very end: what they leave is passed over.
    let taken_back = one_each(6).chain(fill(6));
    produce_aborted_transaction(scenario.bootstrap(), &scenario.config.source_topic, taken_back);
    assert_eq!(scenario.assert_exact().alerts.len(), 4);
    assert!(!a.log().contains("recovered anew"), "{}", a.log());
}

#[test]
fn a_second_process_with_the_same_id_replaces_the_first() {
    let scenario = Scenario::new().create_topics();
    let successor = successor_of(&scenario);
    let mut first = scenario.start_ready();
    let load = scenario.load(1_500, busy(32, 0));
    thread::sleep(Duration::from_secs(2));

    let started = Instant::now();
    let mut second = scenario.start_as(&successor);
    assert_eq!(first.wait_exit(UNTIL_IT_LEAVES), Some(4), "{}\n{}", first.log(), scenario.logs());
    eprintln!("the first left {:?} after the second was started", started.elapsed());
    second.wait_ready(PATIENCE);
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    assert!(second.is_running(), "{}", second.log());
}

/// What an operator does who starts the service twice by mistake: same file, same port, same state directory.
#[test]
fn the_very_same_configuration_started_twice_replaces_the_first_and_takes_its_port() {
    let scenario = Scenario::new().create_topics();
    let mut first = scenario.start_ready();
    let load = scenario.load(1_000, busy(35, 0));
    thread::sleep(Duration::from_secs(1));
    let mut second = scenario.start();
    assert_eq!(first.wait_exit(UNTIL_IT_LEAVES), Some(4), "{}\n{}", first.log(), scenario.logs());
    second.wait_ready(PATIENCE);
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    assert!(second.log().contains("trying again"), "{}", second.log());
}

#[test]
fn a_frozen_process_that_was_replaced_leaves_with_4_when_it_wakes() {
    let scenario = Scenario::new().short_session().set("delivery.transaction_timeout", "3s").create_topics();
    let successor = successor_of(&scenario);
    let mut first = scenario.start_ready();
    let load = scenario.load(1_500, busy(33, 0));
    thread::sleep(Duration::from_secs(2));

    first.sigstop();
    thread::sleep(Duration::from_secs(8));
    let mut second = start_ready(&scenario, &successor);
    let watch = scenario.watch();
    scenario.await_progress(&watch, watch.total());
    first.sigcont();
    let woken = Instant::now();
    assert_eq!(first.wait_exit(UNTIL_IT_LEAVES), Some(4), "{}\n{}", first.log(), scenario.logs());
    eprintln!("the woken process left after {:?}", woken.elapsed());
    thread::sleep(Duration::from_secs(2));
    load.finish();
    scenario.assert_exact();
    assert!(second.is_running(), "{}", second.log());
    assert_eq!(second.http_get("/readyz").0, 200, "{}", second.log());
}

#[test]
fn a_frozen_process_that_nobody_replaced_goes_on_when_it_wakes() {
    let scenario = Scenario::new().short_session().set("delivery.transaction_timeout", "3s").create_topics();
    let mut service = scenario.start_ready();
    let load = scenario.load(1_000, busy(34, 0));
    thread::sleep(Duration::from_secs(2));
    service.sigstop();
    thread::sleep(Duration::from_secs(9));
    service.sigcont();
    let watch = scenario.watch();
    let took = scenario.await_progress(&watch, watch.total());
    eprintln!("the woken process committed again after {took:?}");
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    service.wait_ready(PATIENCE);
}

pub fn start_ready(scenario: &Scenario, config: &TestConfig) -> Service {
    let mut service = scenario.start_as(config);
    service.wait_ready(PATIENCE);
    service
}

/// The same instance id on another machine: another state directory, another port.
pub fn successor_of(scenario: &Scenario) -> TestConfig {
    let elsewhere = scenario.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    scenario.config.clone().for_instance("a", &elsewhere)
}

/// How many partitions the instance says it has.
/// How many partitions it holds.
pub fn owned(service: &Service) -> usize {
    let (_, body) = service.http_get("/api/v1/status");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    status["partitions"].as_array().map_or(0, Vec::len)
}
