//! What happens to alerts and memory while something else is in trouble: the database away, a slow broker, a burst.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, count, forget_resident_peak, percentile, resident_peak_bytes, whole};
use crate::engine::DATABASE_OPTIONS;
use crate::gauges::Gauges;
use crate::live::{Live, Load};
use crate::support::process::GuardedDir;
use crate::support::{Broker, Database, Service, TestConfig};

const RATE: u64 = 2_000;
const BURST: u64 = 10;
/// The slow broker answers for so long, and then stands still for as long.
const BROKER_TURN: Duration = Duration::from_millis(50);

/// What is wrong for a while.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    DatabaseFrozen,
    DatabaseGone,
    SlowBroker,
    Burst,
}

const PHASES: [(Trouble, &str); 9] = [
    (Trouble::Nothing, "nothing wrong"),
    (Trouble::DatabaseFrozen, "the database is frozen (no answers)"),
    (Trouble::Nothing, "it goes on"),
    (Trouble::DatabaseGone, "the database is down (refused)"),
    (Trouble::Nothing, "it is back"),
    (Trouble::SlowBroker, "the broker stands still every other 50 ms"),
    (Trouble::Nothing, "it is quick again"),
    (Trouble::Burst, "ten times the load"),
    (Trouble::Nothing, "the usual load again"),
];

pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-pressure-");
    let database = Database::start_with(DATABASE_OPTIONS);
    let config = TestConfig::new(&bootstrap, dir.path()).with_stats(&database.create_schema("pressure"));
    config.create_topics(&bootstrap, 4);
    let mut service = Service::start(&config.to_toml(), dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    let usual = arguments.rate.unwrap_or(RATE);
    let load = Load::steady(usual);
    let live = Live::start_with(&bootstrap, &config, load.clone());
    sleep(arguments.scaled(Duration::from_secs(20), Duration::from_secs(1)));
    let time = arguments.scaled(Duration::from_secs(20), Duration::from_secs(2));
    let mut rows = Vec::new();
    for (trouble, name) in PHASES {
        eprintln!("… {name}");
        forget_resident_peak(service.process_id());
        drop(live.take_latencies());
        let (sent, began) = (live.sent(), Instant::now());
        begin(trouble, &database, &load, usual);
        let (lag, pending) = watch(trouble, &service, broker, time);
        end(trouble, &database, &load, usual);
        let latencies = live.take_latencies();
        let rate = count(live.sent() - sent) / began.elapsed().as_secs_f64();
        let mut row = vec![name.to_owned(), whole(rate), latencies.len().to_string()];
        row.extend([50.0, 99.0, 100.0].map(|percent| format!("{:.0}", percentile(&latencies, percent))));
        let peak = resident_peak_bytes(&service.process_id().to_string()) / 1_048_576;
        row.extend([whole(lag), whole(pending), peak.to_string()]);
        rows.push(row);
    }
    drop(live);
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    report.table(
        &format!("Under pressure: {usual} records/s (latency: sent → alert read under read_committed, ms)"),
        &[
            "phase",
            "records/s",
            "alerts",
            "p50",
            "p99",
            "max",
            "largest lag",
            "rows waiting at most",
            "resident at most, MiB",
        ],
        &rows,
    );
}

fn begin(trouble: Trouble, database: &Database, load: &Load, usual: u64) {
    match trouble {
        Trouble::DatabaseFrozen => database.sigstop(),
        Trouble::DatabaseGone => database.stop(),
        Trouble::Burst => load.rate.store(usual * BURST, Ordering::SeqCst),
        Trouble::Nothing | Trouble::SlowBroker => {}
    }
}

fn end(trouble: Trouble, database: &Database, load: &Load, usual: u64) {
    match trouble {
        Trouble::DatabaseFrozen => database.sigcont(),
        Trouble::DatabaseGone => database.start_again(),
        Trouble::Burst => load.rate.store(usual, Ordering::SeqCst),
        Trouble::Nothing | Trouble::SlowBroker => {}
    }
}

/// The largest lag and the most rows that waited, as long as the phase lasts.
fn watch(trouble: Trouble, service: &Service, broker: &Broker, time: Duration) -> (f64, f64) {
    let began = Instant::now();
    let (mut lag, mut pending) = (0.0_f64, 0.0_f64);
    while began.elapsed() < time {
        if trouble == Trouble::SlowBroker {
            broker.sigstop();
            sleep(BROKER_TURN);
            broker.sigcont();
        }
        sleep(BROKER_TURN);
        if let Some(gauges) = Gauges::look(service) {
            lag = lag.max(gauges.lag());
            pending = pending.max(gauges.pending_rows());
        }
    }
    (lag, pending)
}
