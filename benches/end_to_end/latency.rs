//! From the append of a source record to its alert in a committed reader's hands.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, count, cpu_seconds, percentile};
use crate::engine::Engine;
use crate::live::{Live, append_times, wall_ms};
use crate::support::process::GuardedDir;
use crate::support::topics::create_topic;
use crate::support::{Broker, TestConfig};

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
            stretches.push(one_stretch(broker, *rate, Engine::EXACTLY_ONCE, arguments));
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

/// Live load, from when the engine is warm.
pub fn one_stretch(broker: &Broker, rate: u64, engine: Engine, arguments: &Arguments) -> Stretch {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-latency-");
    let config = TestConfig::new(&bootstrap, dir.path());
    create_topic(&bootstrap, &config.source_topic, 4, &[("message.timestamp.type", "LogAppendTime")]);
    config.create_output_topics(&bootstrap);
    let mut running = engine.start(&bootstrap, &config, dir.path());
    running.wait_ready();
    let process = running.process_id().to_string();
    let live = Live::start(&bootstrap, &config, rate);
    // A JVM compiles what it runs for a while.
    let (warm_up, quick_ms) = if engine.is_peer() { (15, 6_000) } else { (3, 500) };
    sleep(arguments.scaled(Duration::from_secs(warm_up), Duration::from_millis(quick_ms)));
    let (from_ms, began, cpu, commits) = (wall_ms(), Instant::now(), cpu_seconds(&process), running.committed());
    sleep(arguments.scaled(Duration::from_secs(20), Duration::from_secs(2)));
    let (to_ms, seconds) = (wall_ms(), began.elapsed().as_secs_f64());
    let cpu_cores = (cpu_seconds(&process) - cpu) / seconds;
    let commits_per_second = (running.committed() - commits) / seconds;
    // What was appended last may wait for a checkpoint.
    sleep(Duration::from_secs(if engine.is_peer() { 3 } else { 1 }));
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
    assert!(!stretch.total.is_empty(), "no alert was seen\n{}", running.log());
    running.stop();
    stretch
}
