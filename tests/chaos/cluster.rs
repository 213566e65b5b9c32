//! Three brokers, of which one at a time is killed: the leader of a partition, and both coordinators.

use std::thread;
use std::time::{Duration, Instant};

use crate::instance::Instance;
use crate::scenario::{PATIENCE, Scenario, busy};
use crate::support::Cluster;

#[test]
fn the_loss_of_any_one_of_three_brokers_costs_time_and_nothing_else() {
    let cluster = Cluster::start();
    let scenario = Scenario::on(cluster.bootstrap()).with_statistics().create_topics();
    let mut service = Instance::start(&scenario, "a");
    service.process().wait_ready(PATIENCE);
    let load = scenario.load(800, busy(62, 0));
    let watch = scenario.watch();
    let transactional_id = format!("{}-a", scenario.config.group);
    for what in ["leader", "transaction coordinator", "group coordinator"] {
        cluster.wait_until_in_sync();
        thread::sleep(Duration::from_secs(2));
        let victim = match what {
            "leader" => cluster.leader(&scenario.config.source_topic, 0),
            "transaction coordinator" => cluster.transaction_coordinator(&transactional_id),
            _ => cluster.group_coordinator(&scenario.config.group),
        };
        let before = watch.total();
        victim.kill9();
        let killed = Instant::now();
        scenario.await_progress(&watch, before + 1_000);
        eprintln!("without its {what}: a thousand records further after {:?}", killed.elapsed());
        victim.restart();
    }
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    assert!(service.process().is_running(), "{}", scenario.logs());
}
