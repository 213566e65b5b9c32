//! kill -9 under load and an immediate restart: how long until something newly decided is readable.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tallyguard::clock;

use crate::common::{Arguments, Report, count, median, percentile, plot, whole};
use crate::gauges::Gauges;
use crate::live::{Live, transaction_text, wall_ms};
use crate::support::process::GuardedDir;
use crate::support::topics::{end_offsets, produce};
use crate::support::{Broker, Service, TestConfig, TestRecord};

const RATE: u64 = 2_000;

/// So long do the windows of the many users stay open.
const OUT_OF_ORDERNESS: &str = "10m";

/// Kills one service again and again, with its snapshots and without them: with few open users, and with many.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let mut rows = Vec::new();
    let (mut kept_by_users, mut lost_by_users) = (Vec::new(), Vec::new());
    for users in arguments.scaled(vec![0, 100_000, 1_000_000], vec![0]) {
        let [kept, lost] = kills(broker, arguments, users);
        let open = if users == 0 { "those of the load".to_owned() } else { whole(count(users)) };
        let row = |name: &str, seconds: &[f64]| {
            let slowest = percentile(seconds, 100.0);
            let figures = [format!("{:.2}", median(seconds)), format!("{slowest:.2}"), seconds.len().to_string()];
            [vec![open.clone(), name.to_owned()], figures.to_vec()].concat()
        };
        rows.push(row("snapshot kept", &kept));
        rows.push(row("state directory lost", &lost));
        kept_by_users.push((count(users) / 1_000.0, median(&kept)));
        lost_by_users.push((count(users) / 1_000.0, median(&lost)));
    }
    report.table(
        "Recovery, s: kill -9 at 2 000 records/s and restart at once, to the first new alert read under read_committed",
        &["open users", "state", "median", "slowest", "times"],
        &rows,
    );
    let lines = [("snapshot kept", kept_by_users), ("state directory lost", lost_by_users)];
    report.plot("recovery-users", &plot::lines("Recovery, s, by thousands of open users", &lines));
}

/// Seconds of each recovery, with the state kept and with it lost.
fn kills(broker: &Broker, arguments: &Arguments, users: u64) -> [Vec<f64>; 2] {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-recovery-");
    let mut config = TestConfig::new(&bootstrap, dir.path()).set("checkpoint.interval", "2s");
    if users > 0 {
        config = config.set("time.out_of_orderness", OUT_OF_ORDERNESS);
    }
    config.create_topics(&bootstrap, 4);
    let event_ms = clock::utc_now().timestamp_millis();
    let one_each = (0..users).map(|number| {
        let user = format!("w-{number}");
        let value = transaction_text(&user, &format!("w{number}"), "m-0", 1, event_ms);
        TestRecord::new(user, value)
    });
    produce(&bootstrap, &config.source_topic, one_each);
    let toml = config.to_toml();
    let state_dir = dir.path().join("state-a");
    let mut service = Service::start(&toml, dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    let live = Live::start(&bootstrap, &config, arguments.rate.unwrap_or(RATE));
    let between = arguments.scaled(Duration::from_secs(6), Duration::from_secs(1));
    let (mut with_snapshot, mut without) = (Vec::new(), Vec::new());
    // Windows fill up first, so that there is something to replay.
    sleep(arguments.scaled(Duration::from_secs(if users > 0 { 10 } else { 60 }), Duration::ZERO));
    for _ in 0..arguments.rounds(5) {
        for (keeps_snapshot, seconds) in [(true, &mut with_snapshot), (false, &mut without)] {
            sleep(between);
            let open = Gauges::look(&service).map_or(0.0, |gauges| gauges.open_users());
            assert!(open >= count(users), "only {open} users are open");
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
    [with_snapshot, without]
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
