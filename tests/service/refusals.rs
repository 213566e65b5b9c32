//! Continuing would lose or repeat data: the service refuses, says what the operator can do, and leaves with 3 when
//! nothing is left that may go on.

use std::time::Duration;

use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, burst, busy, plain};
use crate::support::topics::{delete_group_offsets, truncate_before};
use crate::support::{wait_until_or_show, workload};

/// A scenario whose service has taken everything in, stored a snapshot, and left.
fn stopped_after(scenario: &Scenario) {
    let mut service = scenario.start_ready();
    scenario.assert_exact();
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
}

/// Each of so many partitions gets the burst of a user of its own.
fn bursts(partitions: i32, second: i64) -> Vec<crate::support::TestRecord> {
    let of = |partition: i32| burst(&format!("u-in-{partition}"), 20, second);
    (0..partitions).flat_map(|at| of(at).into_iter().map(move |record| record.in_partition(at))).collect()
}

#[track_caller]
fn assert_refused(scenario: &Scenario, because: &str) {
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 3, "{log}");
    assert!(log.contains(because) && log.contains("What to do"), "{because} is not in\n{log}");
}

#[test]
fn group_offsets_that_are_gone_while_a_snapshot_exists_are_refused() {
    let scenario = Scenario::new().short_session().create_topics_with(2);
    scenario.produce(workload(busy(51, 5_000)));
    stopped_after(&scenario);
    delete_group_offsets(scenario.bootstrap(), &scenario.config.group);
    assert_refused(&scenario, "committed offset is gone");
    assert_eq!(scenario.committed().len(), 0, "a refused partition commits nothing");
}

#[test]
fn group_offsets_that_are_gone_while_the_database_knows_better_are_refused() {
    let scenario = Scenario::new().short_session().with_statistics().create_topics_with(2);
    scenario.produce(workload(busy(52, 5_000)));
    stopped_after(&scenario);
    std::fs::remove_dir_all(scenario.state_dir()).expect("the state directory");
    delete_group_offsets(scenario.bootstrap(), &scenario.config.group);
    assert_refused(&scenario, "order_stats_progress");
}

on_both!(
    a_topic_that_was_deleted_and_created_again_is_refused,
    a_threshold_under_a_higher_version_acts_from_the_committed_offset_on_wherever_the_rule_stands,
    a_rule_that_changed_without_a_higher_version_and_another_window_are_refused,
);

fn a_topic_that_was_deleted_and_created_again_is_refused(transport: Transport) {
    let scenario = Scenario::over(transport).create_topics_with(2);
    scenario.produce(bursts(2, 10));
    stopped_after(&scenario);
    scenario.recreate_source(2);
    // Longer than before, so that the old offsets exist in it. The group's offsets went with the topic; the snapshot
    // remembers.
    scenario.produce((10..13).flat_map(|second| bursts(2, second)));
    let alerts = scenario.alerts().len();
    assert_refused(&scenario, "committed offset is gone");
    assert_eq!(scenario.alerts().len(), alerts, "a refused service has no effect");
}

#[test]
fn a_topic_that_is_created_again_while_the_service_runs_is_refused() {
    let scenario = Scenario::new().create_topics_with(2);
    scenario.produce(bursts(2, 10));
    let mut service = scenario.start_ready();
    scenario.assert_exact();
    let alerts = scenario.alerts().len();
    scenario.recreate_source(2);
    scenario.produce((10..13).flat_map(|second| bursts(2, second)));
    assert_eq!(service.wait_exit(Duration::from_secs(75)), Some(3), "{}", service.log());
    assert_eq!(scenario.alerts().len(), alerts, "records of another topic had an effect\n{}", service.log());
}

#[test]
fn a_log_truncated_past_what_the_replay_needs_is_refused_unless_a_snapshot_holds_it() {
    let scenario = Scenario::new().create_topics_with(2);
    scenario.produce(bursts(2, 10));
    stopped_after(&scenario);
    let source = scenario.read_all(&scenario.config.source_topic);
    for (partition, offset) in scenario.committed() {
        truncate_before(scenario.bootstrap(), &scenario.config.source_topic, partition, offset);
    }
    // The windows are open, and only the snapshot holds them now.
    scenario.produce(bursts(2, 11));
    let mut service = scenario.start_ready();
    scenario.wait_caught_up();
    let later = scenario.read_all(&scenario.config.source_topic);
    let whole: Vec<_> = source.into_iter().chain(later).map(plain).collect();
    scenario.assert_outputs_of(&whole);
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());

    std::fs::remove_dir_all(scenario.state_dir()).expect("the state directory");
    assert_refused(&scenario, "no longer holds records");
}

#[test]
fn a_partition_that_is_refused_is_named_and_the_others_go_on() {
    let scenario = Scenario::new().create_topics_with(3);
    scenario.produce(bursts(3, 10));
    stopped_after(&scenario);
    scenario.produce(bursts(3, 11));
    let committed = scenario.committed();
    let before = scenario.read_all(&scenario.config.source_topic);
    truncate_before(scenario.bootstrap(), &scenario.config.source_topic, 1, committed[&1] + 5);
    let mut service = scenario.start();
    let named = || {
        let (status, body) = service.http_get("/readyz");
        status == 503 && body.contains("partition 1 is refused")
    };
    wait_until_or_show(PATIENCE, "the refused partition is named", || scenario.logs(), named);
    scenario.produce(burst("u-in-0", 20, 70).into_iter().map(|record| record.in_partition(0)));
    scenario.produce(burst("u-in-2", 20, 70).into_iter().map(|record| record.in_partition(2)));
    let newest = |user: &str| {
        scenario
            .alerts()
            .iter()
            .any(|alert| alert.key_text() == user && alert.json()["trigger"]["offset"].as_i64() >= Some(40))
    };
    let both = || newest("u-in-0") && newest("u-in-2");
    wait_until_or_show(PATIENCE, "the other partitions alert", || scenario.logs(), both);
    assert_eq!(scenario.committed()[&1], committed[&1], "the refused partition stays where it was");
    let (_, status) = service.http_get("/api/v1/status");
    assert!(status.contains("log_truncated"), "{status}");
    assert!(service.log().contains("partition 1 is refused") && service.log().contains("What to do"));
    assert!(service.is_running());
    let refused = before.into_iter().filter(|record| record.partition == 1 && record.offset < committed[&1]);
    let others = scenario.read_all(&scenario.config.source_topic);
    let others = others.into_iter().filter(|record| record.partition != 1);
    let outputs = scenario.assert_outputs_of(&refused.chain(others).map(plain).collect::<Vec<_>>());
    assert!(outputs.alerts.len() > 9);
}

fn a_threshold_under_a_higher_version_acts_from_the_committed_offset_on_wherever_the_rule_stands(transport: Transport) {
    let mut scenario = Scenario::over(transport).create_topics_with(2);
    scenario.produce(burst("u-quiet", 8, 10));
    scenario.produce(burst("u-loud", 12, 10));
    stopped_after(&scenario);
    scenario.change_rule("velocity-1m", 2, 6, "critical");
    scenario.produce(burst("u-quiet", 1, 12));
    scenario.produce(burst("u-loud", 3, 12));
    scenario.produce(burst("u-new", 8, 12));
    stopped_after(&scenario);
    let expected = scenario.assert_exact();
    let by_second: Vec<_> = expected
        .alerts
        .iter()
        .filter(|alert| alert["rule_id"] == "velocity-1m" && alert["rule_version"] == 2)
        .map(|alert| (alert["user_id"].as_str().unwrap_or_default(), alert["count"].as_i64().unwrap_or_default()))
        .collect();
    assert!(by_second.contains(&("u-quiet", 9)) && by_second.contains(&("u-new", 7)), "{by_second:?}");
    assert_eq!(by_second.len(), 2, "a window alerts once, whatever the version: {by_second:?}");

    // The same with the state lost: the replay decides with the versions that were in force.
    std::fs::remove_dir_all(scenario.state_dir()).expect("the state directory");
    scenario.produce(burst("u-quiet", 5, 13));
    scenario.produce(burst("u-late-comer", 20, 13));
    stopped_after(&scenario);
}

fn a_rule_that_changed_without_a_higher_version_and_another_window_are_refused(transport: Transport) {
    let scenario = Scenario::over(transport).create_topics_with(1);
    scenario.produce(bursts(1, 10));
    stopped_after(&scenario);
    let config = scenario.config.clone();
    let refused = |config: crate::support::TestConfig, because: &str| {
        let mut service = scenario.start_as(&config);
        assert_eq!(service.wait_exit(PATIENCE), Some(3), "{}", service.log());
        assert!(service.log().contains(because) && service.log().contains("What to do"), "{}", service.log());
    };
    refused(config.clone().with_rule("velocity-1m", 1, "1m", 9, "high"), "same version");
    refused(config.clone().with_rule("velocity-1m", 2, "2m", 10, "high"), "window was");
    refused(config.clone().without_rule("velocity-5m"), "was removed");
    refused(config.clone().with_rule("another", 1, "1m", 10, "high"), "was added");
    refused(config.set("time.out_of_orderness", "6s"), "out_of_orderness");
    // None of this has changed anything.
    scenario.produce(bursts(1, 11));
    stopped_after(&scenario);
}
