//! What only the embedded log has: an owner, a folder that may be damaged or deleted, partitions that are added between two
//! runs.

use tallyguard::log::embedded::EmbeddedStore;

use crate::log::Transport;
use crate::scenario::{PATIENCE, Scenario, burst, busy};
use crate::support::embedded_log::TOKEN;
use crate::support::{wait_until_or_show, workload};

#[test]
fn added_partitions_are_read_from_their_beginning_and_taken_away_ones_are_refused() {
    let scenario = Scenario::over(Transport::Embedded).create_topics_with(2);
    scenario.produce(workload(busy(3, 5_000)));
    let mut service = scenario.start_ready();
    scenario.assert_exact();
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    let scenario = scenario.create_topics_with(3);
    scenario.produce(burst("u-in-2", 20, 60).into_iter().map(|record| record.in_partition(2)));
    scenario.produce(workload(busy(4, 5_000)));
    let mut service = scenario.start_ready();
    scenario.assert_exact();
    assert_eq!(scenario.committed().len(), 3);
    assert!(service.log().contains("partition 2"), "nobody was warned\n{}", service.log());
    service.kill9();
    let scenario = scenario.set("embedded.partitions", 2);
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("embedded.partitions"), "no remedy\n{log}");
}

#[test]
fn a_log_that_another_process_owns_is_named_and_the_service_leaves_with_1() {
    let scenario = Scenario::over(Transport::Embedded).create_topics();
    let log_dir = scenario.dir().join("log");
    let _owner = EmbeddedStore::open(&log_dir, 4).expect("the log opens");
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains(&log_dir.display().to_string()), "{log}");
    assert!(log.contains(&format!("process {}", std::process::id())), "{log}");
}

/// Whoever is answered may forget the transaction: what goes into a folder that is gone is not answered.
#[test]
fn a_log_that_is_deleted_under_a_running_service_acknowledges_nothing_more() {
    let scenario = Scenario::over(Transport::Embedded).create_topics();
    let mut service = scenario.start_ready();
    scenario.produce(burst("u-1", 12, 10));
    scenario.wait_caught_up();
    std::fs::remove_dir_all(scenario.dir().join("log")).expect("the log");
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let posted = agent
        .post(format!("http://127.0.0.1:{}/api/v1/transactions", scenario.config.http_port))
        .header("Authorization", format!("Bearer {TOKEN}"))
        .send(burst("u-2", 1, 11)[0].value.as_deref().expect("a value"));
    // The process leaves at once, so the refusal itself may not arrive.
    assert!(posted.is_err() || posted.is_ok_and(|answer| answer.status() == 503));
    assert_eq!(service.wait_exit(PATIENCE), Some(1), "{}", service.log());
    assert!(service.log().contains("deleted, moved or replaced"), "{}", service.log());
}

/// Once, the partition was recovered again and again, for ever, and nobody was told.
#[test]
fn a_damaged_block_of_the_log_is_refused_and_named() {
    let scenario = Scenario::over(Transport::Embedded).create_topics_with(1);
    scenario.produce(workload(busy(5, 100_000)));
    // What was appended lies in table files after the next opening.
    scenario.produce(burst("u-1", 1, 10));
    let store = scenario.dir().join("log/store");
    let tables = std::fs::read_dir(&store).expect("the store").flatten().map(|entry| entry.path());
    let tables = tables.filter(|path| path.extension().is_some_and(|it| it == "sst"));
    let largest = tables.max_by_key(|path| std::fs::metadata(path).map_or(0, |it| it.len())).expect("a table");
    let mut bytes = std::fs::read(&largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&largest, bytes).expect("written");
    let (code, log) = scenario.run_to_exit();
    assert_eq!(code, 3, "{log}");
    assert!(log.contains("partition 0 is refused: the log cannot be read") && log.contains("What to do"), "{log}");
}

/// A dashboard and an alarm look at a partition that has nothing to do.
#[test]
fn a_quiet_partition_says_all_about_itself_after_a_restart_too() {
    let scenario = Scenario::over(Transport::Embedded).with_statistics().create_topics_with(1);
    scenario.produce(burst("u-1", 3, 10));
    let mut service = scenario.start_ready();
    scenario.assert_exact();
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    let service = scenario.start_ready();
    let status =
        || -> serde_json::Value { serde_json::from_str(&service.http_get("/api/v1/status").1).unwrap_or_default() };
    let is_complete = || {
        let status = status();
        let partition = &status["partitions"][0];
        partition["lag_records"] == 0
            && partition["applied_offset"] == 3
            && partition["open_users"] == 3
            && partition["statistics_pending_rows"] == 0
            && !partition["watermark"].is_null()
    };
    wait_until_or_show(PATIENCE, "the status is complete", || status().to_string(), is_complete);
    let (_, metrics) = service.http_get("/metrics");
    for series in ["tallyguard_stats_pending_rows 0", "tallyguard_consumer_lag_records{partition=\"0\"} 0"] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
}
