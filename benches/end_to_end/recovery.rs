//! kill -9 under load and an immediate restart: how long until something newly decided is readable.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, median};
use crate::live::{Live, wall_ms};
use crate::support::process::GuardedDir;
use crate::support::topics::end_offsets;
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
            let restart = Restart::now(&bootstrap, &config.source_topic);
            service = Service::start(&toml, dir.path(), &[]);
            seconds.push(restart.first_alert(&live, || service.log()));
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

/// The moment of a restart. Only alerts for records that were appended behind the kill count.
pub struct Restart {
    ends: HashMap<i32, i64>,
    began_ms: f64,
}

impl Restart {
    /// To be called between the kill and the start.
    pub fn now(bootstrap: &str, topic: &str) -> Self {
        Self { ends: end_offsets(bootstrap, topic).into_iter().collect(), began_ms: wall_ms() }
    }

    /// Seconds from the restart to the reading of the first alert that counts.
    pub fn first_alert(&self, live: &Live, log: impl FnOnce() -> String) -> f64 {
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            let seen = live.seen();
            if let Some(first) = seen.iter().find(|alert| alert.offset >= self.ends[&alert.partition]) {
                return (first.seen_ms - self.began_ms) / 1e3;
            }
            sleep(Duration::from_millis(5));
        }
        panic!("no alert after the restart\n{}", log());
    }
}
