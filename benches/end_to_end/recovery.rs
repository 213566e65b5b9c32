//! kill -9 under load and an immediate restart: how long until something newly decided is readable.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, median};
use crate::live::{Live, wall_ms};
use crate::support::process::GuardedDir;
use crate::support::{Broker, Service, TestConfig};

const RATE: u64 = 2_000;

/// Kills one service again and again, with its snapshots and without them.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-recovery-");
    let config = TestConfig::new(&bootstrap, dir.path()).set("checkpoint.interval", "2s");
    config.create_topics(&bootstrap, 4);
    let toml = config.to_toml();
    let state_dir = dir.path().join("state-a");
    let mut service = Service::start(&toml, dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    let live = Live::start(&bootstrap, &config, arguments.rate.unwrap_or(RATE));
    let between = arguments.scaled(Duration::from_secs(6), Duration::from_secs(1));
    let (mut with_snapshot, mut without) = (Vec::new(), Vec::new());
    // Windows fill up first, so that there is something to replay.
    sleep(arguments.scaled(Duration::from_secs(60), Duration::ZERO));
    for _ in 0..arguments.rounds(5) {
        for (keeps_snapshot, seconds) in [(true, &mut with_snapshot), (false, &mut without)] {
            sleep(between);
            service.kill9();
            if !keeps_snapshot {
                std::fs::remove_dir_all(&state_dir).expect("the state directory");
            }
            let restarted_ms = wall_ms();
            service = Service::start(&toml, dir.path(), &[]);
            seconds.push(first_alert_after(&live, restarted_ms, &service));
            if std::env::var_os("TALLYGUARD_BENCH_SHOW_LOGS").is_some() {
                eprintln!("--- restart, snapshot kept: {keeps_snapshot}\n{}", service.log());
            }
        }
    }
    let row = |name: &str, seconds: &[f64]| {
        let slowest = seconds.iter().copied().fold(0.0, f64::max);
        vec![name.to_owned(), format!("{:.2}", median(seconds)), format!("{slowest:.2}"), seconds.len().to_string()]
    };
    report.table(
        "Recovery, s: kill -9 at 2 000 records/s and restart at once, to the first new alert read under read_committed",
        &["state", "median", "slowest", "times"],
        &[row("snapshot kept", &with_snapshot), row("state directory lost", &without)],
    );
}

/// Seconds from `since_ms` to the reading of the first alert that was produced after it.
fn first_alert_after(live: &Live, since_ms: f64, service: &Service) -> f64 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let first = live.seen().into_iter().find(|alert| alert.produced_ms > since_ms);
        if let Some(first) = first {
            return (first.seen_ms - since_ms) / 1e3;
        }
        assert!(Instant::now() < deadline, "no alert after the restart\n{}", service.log());
        sleep(Duration::from_millis(10));
    }
}
