//! A long run at most of what the machine takes: memory, latency and disk must stay as they are.
//!
//! First the peak: load is let on as fast as the service keeps up with it, producer, broker and service on the same
//! machine. Then 70 % of that, for as long as `--minutes` says.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, count, cpu_seconds, percentile, plot, resident_bytes, whole};
use crate::gauges::Gauges;
use crate::live::{Live, Load};
use crate::support::process::GuardedDir;
use crate::support::topics::create_topic;
use crate::support::{Broker, Service, TestConfig};

const SHARE_OF_PEAK: f64 = 0.7;
/// The load at which latency has a target of its own.
const SHARE_OF_LATENCY: f64 = 0.5;
const MINUTES: u64 = 60;
/// Lines of the table.
const SAMPLES: u32 = 12;
/// Records that the service may be behind while the peak is looked for.
const LAG_MAX: f64 = 500_000.0;
const AS_FAST_AS_POSSIBLE: u64 = 5_000_000;
/// What a partition of the source keeps, and in how large pieces it is thrown away.
const SOURCE: [(&str, &str); 3] =
    [("retention.bytes", "1073741824"), ("segment.bytes", "67108864"), ("file.delete.delay.ms", "1000")];

/// One look at everything that must not grow.
struct Sample {
    minutes: f64,
    rate: f64,
    lag: f64,
    /// Of the alerts since the sample before, milliseconds.
    latencies: Vec<f64>,
    cores: f64,
    commits: f64,
    resident_mib: f64,
    open_users: f64,
    state_mib: f64,
    log_mib: f64,
}

pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-soak-");
    let config = TestConfig::new(&bootstrap, dir.path());
    create_topic(&bootstrap, &config.source_topic, 4, &SOURCE);
    config.create_output_topics(&bootstrap);
    let mut service = Service::start(&config.to_toml(), dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    let rate = Arc::new(AtomicU64::new(0));
    let others = arguments.scaled(2_000_000, 10_000);
    let live = Live::start_with(&bootstrap, &config, Load { rate: Arc::clone(&rate), others });
    // Windows fill up and close for a while first.
    keep_up(&service, &rate, arguments.scaled(Duration::from_secs(150), Duration::from_secs(2)));
    let (sent, began) = (live.sent(), Instant::now());
    keep_up(&service, &rate, arguments.scaled(Duration::from_secs(60), Duration::from_secs(2)));
    let peak = count(live.sent() - sent) / began.elapsed().as_secs_f64();
    report.say(&format!(
        "{} users; peak {} records/s, with producer and broker beside it.",
        whole(count(others)),
        whole(peak)
    ));
    let settle = arguments.scaled(Duration::from_secs(60), Duration::from_secs(2));
    set_share(&rate, peak, SHARE_OF_LATENCY);
    sleep(settle);
    drop(live.take_latencies());
    sleep(settle);
    let latencies = live.take_latencies();
    let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percent| percentile(&latencies, percent));
    report
        .say(&format!("At {SHARE_OF_LATENCY} of the peak: alert latency p50 {p50:.0}, p99 {p99:.0}, max {max:.0} ms."));
    set_share(&rate, peak, SHARE_OF_PEAK);
    report.say(&format!("From now on {SHARE_OF_PEAK} of the peak."));
    sleep(settle * 2);
    let whole_run = arguments
        .minutes
        .map_or(arguments.scaled(Duration::from_secs(MINUTES * 60), Duration::from_secs(6)), |minutes| {
            Duration::from_secs(minutes * 60)
        });
    let samples = watch(&service, &live, whole_run, [&dir.path().join("state-a"), &broker.data_dir()]);
    drop(live);
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    tell(&samples, report);
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "records per second")]
fn set_share(rate: &AtomicU64, peak: f64, share: f64) {
    rate.store((peak * share) as u64, Ordering::SeqCst);
}

/// Lets records on as long as the service is not too far behind.
fn keep_up(service: &Service, rate: &AtomicU64, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        let lag = Gauges::look(service).map_or(f64::INFINITY, |gauges| gauges.lag());
        rate.store(if lag < LAG_MAX { AS_FAST_AS_POSSIBLE } else { 0 }, Ordering::SeqCst);
        sleep(Duration::from_millis(50));
    }
}

fn watch(service: &Service, live: &Live, time: Duration, [state, log]: [&Path; 2]) -> Vec<Sample> {
    let process = service.process_id().to_string();
    let began = Instant::now();
    let mut samples = Vec::new();
    let gauges = Gauges::look(service).expect("the service answers");
    let (mut at, mut sent, mut cpu, mut committed) = (began, live.sent(), cpu_seconds(&process), gauges.committed());
    drop(live.take_latencies());
    for turn in 1..=SAMPLES {
        sleep((began + time / SAMPLES * turn).saturating_duration_since(Instant::now()));
        let gauges = Gauges::look(service).expect("the service answers");
        let now = Instant::now();
        let seconds = (now - at).as_secs_f64();
        let mib = |bytes: u64| count(bytes) / 1_048_576.0;
        let sample = Sample {
            minutes: (now - began).as_secs_f64() / 60.0,
            rate: count(live.sent() - sent) / seconds,
            lag: gauges.lag(),
            latencies: live.take_latencies(),
            cores: (cpu_seconds(&process) - cpu) / seconds,
            commits: (gauges.committed() - committed) / seconds,
            resident_mib: mib(resident_bytes(&process)),
            open_users: gauges.open_users(),
            state_mib: mib(bytes_below(state)),
            log_mib: mib(bytes_below(log)),
        };
        eprintln!("… {}", row(&sample).join(" | "));
        samples.push(sample);
        (at, sent, cpu, committed) = (now, live.sent(), cpu_seconds(&process), gauges.committed());
    }
    samples
}

/// Size of all files; those that vanish meanwhile count nothing.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => bytes_below(&entry.path()),
            Ok(facts) => facts.len(),
            Err(_) => 0,
        })
        .sum()
}

fn row(sample: &Sample) -> Vec<String> {
    let mut row = vec![format!("{:.0}", sample.minutes), whole(sample.rate), whole(sample.lag)];
    row.extend([50.0, 99.0, 100.0].map(|percent| format!("{:.0}", percentile(&sample.latencies, percent))));
    row.extend([format!("{:.2}", sample.cores), whole(sample.commits), whole(sample.resident_mib)]);
    row.extend([sample.open_users, sample.state_mib, sample.log_mib].map(whole));
    row
}

fn tell(samples: &[Sample], report: &mut Report) {
    report.table(
        "Soak (latency: sent by the producer → alert read under read_committed, ms)",
        &[
            "minute",
            "records/s",
            "lag",
            "p50",
            "p99",
            "max",
            "cores used",
            "commits/s",
            "resident MiB",
            "open users",
            "state directory MiB",
            "broker's log MiB",
        ],
        &samples.iter().map(row).collect::<Vec<_>>(),
    );
    let line = |of: fn(&Sample) -> f64| samples.iter().map(|sample| (sample.minutes, of(sample))).collect::<Vec<_>>();
    let latency = [
        ("p50", line(|sample| percentile(&sample.latencies, 50.0))),
        ("p99", line(|sample| percentile(&sample.latencies, 99.0))),
    ];
    report.plot("soak-latency", &plot::lines("Soak: alert latency, ms, by minute", &latency));
    let sizes =
        [("resident", line(|sample| sample.resident_mib)), ("state directory", line(|sample| sample.state_mib))];
    report.plot("soak-memory", &plot::lines("Soak: MiB, by minute", &sizes));
}
