//! The broker dies and comes back; the database is away for a while. Alerts are what counts: they go on as soon as the
//! broker is there, whatever the database does.

use std::thread;
use std::time::{Duration, Instant};

use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, burst, busy};
use crate::support::{Broker, Database, Load, wait_until_or_show, workload};

#[test]
fn a_broker_that_is_killed_under_load_costs_time_and_nothing_else() {
    let broker = Broker::start();
    let scenario = Scenario::on(broker.bootstrap()).with_statistics().create_topics();
    let mut service = scenario.start_ready();
    // What is in doubt is read back from the topics, whatever the names of foreign headers are.
    let records = workload(busy(21, 0)).map(|record| record.with_raw_header(&[0xff, 0x80], "not UTF-8"));
    let load = Load::start(scenario.bootstrap(), &scenario.config.source_topic, 1_000, records);
    for pause_ms in [100, 2_500] {
        thread::sleep(Duration::from_secs(3));
        let watch = scenario.watch();
        let before = watch.total();
        broker.kill9();
        thread::sleep(Duration::from_millis(pause_ms));
        broker.restart();
        let restarted = Instant::now();
        scenario.await_progress(&watch, before);
        eprintln!("commits again {:?} after the broker answered", restarted.elapsed());
    }
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    assert!(service.is_running(), "{}", service.log());
    service.wait_ready(PATIENCE);
}

/// Connections stay open and nothing answers, so every question runs out of time; the answers come when nobody waits for
/// them any more. A client library that still knows the question may stumble over them.
#[test]
fn a_broker_that_is_frozen_for_longer_than_a_transaction_may_take_costs_time_and_nothing_else() {
    let broker = Broker::start();
    let scenario = Scenario::on(broker.bootstrap()).set("delivery.transaction_timeout", "2s").create_topics();
    let mut service = scenario.start_ready();
    let load = scenario.load(1_000, busy(25, 0));
    let watch = scenario.watch();
    for frozen_ms in [8_000, 3_000] {
        thread::sleep(Duration::from_secs(1));
        broker.sigstop();
        thread::sleep(Duration::from_millis(frozen_ms));
        broker.sigcont();
        scenario.await_progress(&watch, watch.total());
        assert!(service.is_running(), "{}", scenario.logs());
    }
    load.finish();
    scenario.assert_exact();
    service.wait_ready(PATIENCE);
}

/// The group has forgotten the member, the member itself has given its session up: nobody has replaced it.
#[test]
fn a_broker_that_is_away_longer_than_the_session_is_waited_for() {
    let broker = Broker::start();
    let scenario = Scenario::on(broker.bootstrap()).short_session().create_topics();
    let mut service = scenario.start_ready();
    let load = scenario.load(500, busy(24, 0));
    thread::sleep(Duration::from_secs(2));
    let watch = scenario.watch();
    let before = watch.total();
    broker.kill9();
    thread::sleep(Duration::from_secs(10));
    broker.restart();
    let restarted = Instant::now();
    wait_until_or_show(PATIENCE, "something new is committed", || scenario.logs(), || watch.total() > before);
    assert!(service.is_running(), "{}", scenario.logs());
    eprintln!(
        "commits again {:?} after the broker answered, which was away for longer than the session",
        restarted.elapsed()
    );
    load.finish();
    scenario.assert_exact();
}

on_both!(
    alerts_go_on_while_the_database_is_away_and_the_tables_catch_up,
    a_service_that_starts_while_the_database_is_away_alerts_and_catches_up,
);

fn alerts_go_on_while_the_database_is_away_and_the_tables_catch_up(transport: Transport) {
    // It lives until the test process ends, as the shared one does.
    let database: &'static Database = Box::leak(Box::new(Database::start()));
    let scenario = Scenario::over(transport).with_database(database).create_topics();
    let service = scenario.start_ready();
    let load = scenario.load(1_000, busy(22, 0));
    thread::sleep(Duration::from_secs(3));

    database.stop();
    thread::sleep(Duration::from_secs(1));
    let asked = Instant::now();
    scenario.produce(burst("somebody-new", 40, 120));
    let is_alerted = || scenario.alerts().iter().any(|alert| alert.key_text() == "somebody-new");
    let patience = Duration::from_secs(20);
    wait_until_or_show(patience, "an alert is readable while the database is away", || scenario.logs(), is_alerted);
    eprintln!("an alert was readable after {:?} with the database away", asked.elapsed());
    assert_eq!(service.http_get("/readyz").0, 200, "the database is not what readiness is about\n{}", service.log());
    thread::sleep(Duration::from_secs(3));

    database.start_again();
    thread::sleep(Duration::from_secs(1));
    load.finish();
    scenario.assert_exact();
    database.kill9();
}

fn a_service_that_starts_while_the_database_is_away_alerts_and_catches_up(transport: Transport) {
    let database: &'static Database = Box::leak(Box::new(Database::start()));
    let scenario = Scenario::over(transport).with_database(database).create_topics();
    database.kill9();
    scenario.produce(workload(busy(23, 20_000)));
    let _service = scenario.start_ready();
    let has_alerts = || !scenario.alerts().is_empty();
    wait_until_or_show(PATIENCE, "alerts are raised without a database", || scenario.logs(), has_alerts);
    database.start_again();
    scenario.assert_exact();
    database.kill9();
}
