//! What only the embedded log has: an owner, and partitions that are added between two runs.

use tallyguard::log::embedded::EmbeddedStore;

use crate::log::Transport;
use crate::scenario::{PATIENCE, Scenario, burst, busy};
use crate::support::workload;

#[test]
fn added_partitions_are_read_from_their_beginning_and_taken_away_ones_are_refused() {
    let scenario = Scenario::over(Transport::Embedded).set("embedded.partitions", 2).create_topics_with(2);
    scenario.produce(workload(busy(3, 5_000)));
    let mut service = scenario.start_ready();
    scenario.assert_exact();
    service.sigterm();
    assert_eq!(service.wait_exit(PATIENCE), Some(0), "{}", service.log());
    let scenario = scenario.set("embedded.partitions", 3).create_topics_with(3);
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
