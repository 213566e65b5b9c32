//! From the append of a source record to its alert in a committed reader's hands.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, count, cpu_seconds, percentile};
use crate::live::{Live, append_times, wall_ms};
use crate::support::process::GuardedDir;
use crate::support::topics::create_topic;
use crate::support::{Broker, Service, TestConfig};

/// One stretch of live load.
pub struct Stretch {
    /// Append → readable, append → produced by the service, produced → readable; milliseconds.
    pub total: Vec<f64>,
    deciding: Vec<f64>,
    committing: Vec<f64>,
    pub commits_per_second: f64,
    pub cpu_cores: f64,
}

/// Live load of moderate rates over the default settings.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let usual = arguments.scaled(vec![200, 2_000, 20_000], vec![500]);
    let rates: Vec<u64> = arguments.rate.map_or(usual, |rate| vec![rate]);
    let mut stretches: Vec<Vec<Stretch>> = rates.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.rounds(2) {
        for (rate, stretches) in rates.iter().zip(&mut stretches) {
            stretches.push(one_stretch(broker, *rate, "exactly-once", arguments));
        }
    }
    let rows: Vec<_> = rates.iter().zip(&stretches).map(|(rate, stretches)| row(*rate, stretches)).collect();
    report.table(
        "Alert latency, ms: source record appended (LogAppendTime) to alert read under read_committed",
        &[
            "records/s",
            "alerts",
            "p50",
            "p90",
            "p99",
            "max",
            "of it deciding, p50",
            "commit and read, p50",
            "commits/s",
            "cores used",
        ],
        &rows,
    );
}

fn row(rate: u64, stretches: &[Stretch]) -> Vec<String> {
    let all = |of: fn(&Stretch) -> &Vec<f64>| stretches.iter().flat_map(of).copied().collect::<Vec<f64>>();
    let total = all(|stretch| &stretch.total);
    let mean = |of: fn(&Stretch) -> f64| stretches.iter().map(of).sum::<f64>() / count(stretches.len());
    let mut row = vec![rate.to_string(), total.len().to_string()];
    row.extend([50.0, 90.0, 99.0, 100.0].map(|percent| format!("{:.1}", percentile(&total, percent))));
    row.push(format!("{:.1}", percentile(&all(|stretch| &stretch.deciding), 50.0)));
    row.push(format!("{:.1}", percentile(&all(|stretch| &stretch.committing), 50.0)));
    row.push(format!("{:.0}", mean(|stretch| stretch.commits_per_second)));
    row.push(format!("{:.2}", mean(|stretch| stretch.cpu_cores)));
    row
}

/// Live load over the default settings but for the delivery mode.
pub fn one_stretch(broker: &Broker, rate: u64, mode: &str, arguments: &Arguments) -> Stretch {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-latency-");
    let config = TestConfig::new(&bootstrap, dir.path()).set("delivery.mode", mode);
    create_topic(&bootstrap, &config.source_topic, 4, &[("message.timestamp.type", "LogAppendTime")]);
    for topic in [&config.alert_topic, &config.late_topic, &config.dead_letter_topic] {
        create_topic(&bootstrap, topic, 1, &[]);
    }
    let mut service = Service::start(&config.to_toml(), dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    let process = service.process_id().to_string();
    let live = Live::start(&bootstrap, &config, rate);
    sleep(arguments.scaled(Duration::from_secs(3), Duration::from_millis(500)));
    let (from_ms, began, cpu, commits) = (wall_ms(), Instant::now(), cpu_seconds(&process), committed(&service));
    sleep(arguments.scaled(Duration::from_secs(20), Duration::from_secs(2)));
    let (to_ms, seconds) = (wall_ms(), began.elapsed().as_secs_f64());
    let cpu_cores = (cpu_seconds(&process) - cpu) / seconds;
    let commits_per_second = (committed(&service) - commits) / seconds;
    sleep(Duration::from_secs(1));
    let seen = live.seen();
    drop(live);
    let appended = append_times(&bootstrap, &config.source_topic);
    let mut stretch =
        Stretch { total: Vec::new(), deciding: Vec::new(), committing: Vec::new(), commits_per_second, cpu_cores };
    for alert in seen {
        let appended = appended[&(alert.partition, alert.offset)];
        if appended >= from_ms && appended < to_ms {
            stretch.total.push(alert.seen_ms - appended);
            stretch.deciding.push(alert.produced_ms - appended);
            stretch.committing.push(alert.seen_ms - alert.produced_ms);
        }
    }
    assert!(!stretch.total.is_empty(), "no alert was seen\n{}", service.log());
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    stretch
}

/// Transactions that the service has committed.
fn committed(service: &Service) -> f64 {
    let (_, metrics) = service.http_get("/metrics");
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("tallyguard_transactions_total{result=\"committed\"} "));
    line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}
