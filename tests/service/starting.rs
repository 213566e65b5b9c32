//! How the service starts, waits and gives up; where a group begins; partitions that are added while it runs.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, burst};
use crate::support::topics::add_partitions;
use crate::support::{free_port, shared_broker, wait_until_or_show};

/// What a start may take beyond the time-out that it was given.
const SLACK: Duration = Duration::from_secs(8);

#[test]
fn an_unreachable_broker_is_waited_for_as_long_as_configured_and_then_named() {
    let address = format!("127.0.0.1:{}", free_port());
    let scenario = Scenario::on(address.clone()).set("kafka.startup_timeout", "2s");
    let started = Instant::now();
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 5, "{log}");
    assert!(started.elapsed() >= Duration::from_secs(2) && started.elapsed() < Duration::from_secs(2) + SLACK, "{log}");
    assert!(log.contains("kafka.startup_timeout") && log.contains("What to do"), "{log}");
    assert!(log.contains(&address), "the message names the broker\n{log}");
}

#[test]
fn a_missing_topic_is_named_and_ends_with_5() {
    let scenario = Scenario::new().set("kafka.startup_timeout", "2s");
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 5, "{log}");
    assert!(log.contains(&scenario.config.source_topic) && log.contains("topics create"), "{log}");
}

#[test]
fn a_bad_configuration_ends_with_2_and_names_the_key() {
    let scenario = Scenario::new().set("time.out_of_orderness", "five minutes");
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("time.out_of_orderness") && log.contains("five minutes"), "{log}");
    let scenario = Scenario::new().set("source.tpoic", "x");
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("tpoic"), "{log}");
}

#[test]
fn a_broker_that_appears_after_a_while_is_used() {
    let port = free_port();
    let mut scenario = Scenario::new().create_topics();
    scenario.produce(burst("u-early", 20, 10));
    scenario.config = scenario.config.clone().set("kafka.brokers", format!("127.0.0.1:{port}"));
    let mut service = scenario.start();
    thread::sleep(Duration::from_secs(3));
    assert!(service.is_running(), "{}", service.log());
    assert_ne!(service.http_get("/readyz").0, 200, "not ready without a broker");
    assert_eq!(service.http_get("/healthz").0, 200, "alive without a broker");
    let appeared = Instant::now();
    forward(port, shared_broker().bootstrap());
    service.wait_ready(PATIENCE);
    eprintln!("ready {:?} after the broker appeared", appeared.elapsed());
    assert_eq!(scenario.assert_exact().alerts.len(), 3);
}

/// Listens on `port` and passes everything on to `target`, until the test process ends.
fn forward(port: u16, target: String) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&target) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                thread::spawn(move || {
                    // A connection that ends is the client's business.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
}

on_both!(
    a_new_group_that_starts_at_latest_skips_what_was_there_and_commits_its_start,
    a_group_that_has_committed_ignores_where_new_groups_start,
);

fn a_new_group_that_starts_at_latest_skips_what_was_there_and_commits_its_start(transport: Transport) {
    let scenario = Scenario::over(transport).set("source.start", "latest").create_topics();
    scenario.produce(burst("u-old", 20, 10));
    let ends = scenario.ends();
    let _service = scenario.start_ready();
    let show = || scenario.logs();
    let is_committed = || scenario.committed() == ends;
    wait_until_or_show(PATIENCE, "the start is committed, idle partitions included", show, is_committed);
    let committed = scenario.committed_with_metadata();
    assert!(committed.values().all(|(_, metadata)| !metadata.is_empty()), "{committed:?}");

    scenario.produce(burst("u-old", 20, 11));
    scenario.produce(burst("u-new", 20, 11));
    scenario.wait_caught_up();
    let expected = scenario.assert_outputs(|record| record.offset >= ends[&record.partition]);
    assert_eq!(expected.alerts.len(), 6);
}

fn a_group_that_has_committed_ignores_where_new_groups_start(transport: Transport) {
    let mut scenario = Scenario::over(transport).create_topics();
    scenario.produce(burst("u-1", 3, 10));
    let mut service = scenario.start_ready();
    scenario.wait_caught_up();
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    // Idle partitions have committed too, so what comes to them now is not skipped either.
    for partition in 0..4 {
        let burst = burst(&format!("u-in-{partition}"), 20, 11);
        scenario.produce(burst.into_iter().map(|record| record.in_partition(partition)));
    }
    scenario.config = scenario.config.clone().set("source.start", "latest");
    let _service = scenario.start_ready();
    assert_eq!(scenario.assert_exact().alerts.len(), 12);
}

#[test]
fn partitions_added_to_the_topic_are_read_from_their_beginning_within_a_minute() {
    let scenario = Scenario::new().set("source.start", "latest").create_topics_with(2);
    let service = scenario.start_ready();
    add_partitions(scenario.bootstrap(), &scenario.config.source_topic, 4);
    let added = Instant::now();
    for partition in 0..4 {
        let burst = burst(&format!("u-in-{partition}"), 20, 11);
        scenario.produce(burst.into_iter().map(|record| record.in_partition(partition)));
    }
    let show = || scenario.logs();
    let are_committed = || scenario.committed().len() == 4;
    wait_until_or_show(Duration::from_secs(70), "the new partitions are taken up", show, are_committed);
    eprintln!("new partitions were taken up after {:?}", added.elapsed());
    assert_eq!(scenario.assert_exact().alerts.len(), 12);
    assert!(service.log().contains("was added to the topic"), "{}", service.log());
}
