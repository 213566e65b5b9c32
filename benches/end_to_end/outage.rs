//! The database was away while ten minutes of events for ten thousand merchants came in: how long until it has them all.

use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, count, resident_peak_bytes, whole};
use crate::engine::DATABASE_OPTIONS;
use crate::gauges::Gauges;
use crate::support::process::GuardedDir;
use crate::support::service::run_command_with;
use crate::support::topics::{CommittedWatch, end_offsets};
use crate::support::wait::wait_until_or_show;
use crate::support::{Broker, Database, Service, TestConfig};

const MINUTES: u64 = 10;
const MERCHANTS: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(300);

/// The events are a backlog, so the ten minutes pass as fast as they can be read; the rows that wait are the same.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let rates = arguments.scaled(vec![2_000, 20_000], vec![100]);
    let rows: Vec<_> = rates.into_iter().map(|rate| one_outage(broker, arguments, rate)).collect();
    report.table(
        &format!("A database that was away for {MINUTES} minutes of events, {MERCHANTS} merchants"),
        &["records/s", "records", "rows that waited", "caught up after, s", "rows/s", "resident at most, MiB"],
        &rows,
    );
}

fn one_outage(broker: &Broker, arguments: &Arguments, rate: u64) -> Vec<String> {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-outage-");
    let database = Database::start_with(DATABASE_OPTIONS);
    let config = TestConfig::new(&bootstrap, dir.path()).with_stats(&database.create_schema("outage"));
    config.create_topics(&bootstrap, 4);
    let mut service = Service::start(&config.to_toml(), dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    database.stop();
    let events = rate * 60 * arguments.scaled(MINUTES, 1);
    generate(&config, &dir, events, rate);
    let total: i64 = end_offsets(&bootstrap, &config.source_topic).iter().map(|(_, end)| end).sum();
    let look = |service: &Service| Gauges::look(service).expect("the service answers");
    let watch = CommittedWatch::new(&bootstrap, &config.group, &config.source_topic);
    let is_taken_in = || watch.offsets().values().sum::<i64>() == total;
    wait_until_or_show(TIMEOUT, "everything is taken in", || service.log(), is_taken_in);
    let waiting = look(&service).pending_rows();
    database.start_again();
    let began = Instant::now();
    wait_until_or_show(TIMEOUT, "the database has it all", || service.log(), || look(&service).pending_rows() < 1.0);
    let seconds = began.elapsed().as_secs_f64();
    let sum = "SELECT CAST(SUM(transaction_count) AS SIGNED) FROM order_stats_by_partition";
    let counted = database.query_in("outage", sum)[0][0].clone().unwrap_or_default();
    assert_eq!(counted, total.to_string(), "the database has every record once");
    let peak = resident_peak_bytes(&service.process_id().to_string()) / 1_048_576;
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    vec![
        whole(count(rate)),
        whole(count(events)),
        whole(waiting),
        format!("{seconds:.1}"),
        whole(waiting / seconds),
        peak.to_string(),
    ]
}

fn generate(config: &TestConfig, dir: &GuardedDir, events: u64, rate: u64) {
    let path = dir.path().join("generate.toml");
    config.write(&path);
    let (path, events, rate, merchants) =
        (path.display().to_string(), events.to_string(), rate.to_string(), MERCHANTS.to_string());
    let arguments = [
        "generate",
        "--config",
        &path,
        "--events",
        &events,
        "--users",
        "100000",
        "--merchants",
        &merchants,
        "--event-rate",
        &rate,
        "--clean",
    ];
    let (code, _, errors) = run_command_with(&arguments, &[], Duration::from_secs(600));
    assert_eq!(code, 0, "{errors}");
}
