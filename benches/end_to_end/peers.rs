//! Side by side: Tallyguard, Apache Flink and Kafka Streams with the same rule on the same topic, in turns within one run.
//!
//! What is compared: catching up on a full topic, the latency of alerts under live load, and how long after a kill -9 the
//! first new alert is readable. The alerts of every round are compared with a recount of the topic.

use std::thread::sleep;
use std::time::Duration;

use crate::common::plot::{self, Bar};
use crate::common::{Arguments, Report, count, median, percentile, whole};
use crate::engine::Engine;
use crate::floor::{self, Floor, Round};
use crate::latency::{Stretch, one_stretch};
use crate::live::Live;
use crate::recovery::Restart;
use crate::support::process::GuardedDir;
use crate::support::{Broker, TestConfig};
use crate::throughput::{Input, ServiceRound, catch_up};

const fn flink(name: &'static str, ms: u32) -> Engine {
    Engine::Peer { name, option: "--checkpoint-ms", ms }
}

const fn streams(name: &'static str, ms: u32) -> Engine {
    Engine::Peer { name, option: "--commit-ms", ms }
}

const THROUGHPUT: [Engine; 7] = [
    Engine::EXACTLY_ONCE,
    flink("flink-at-breach-heap", 1_000),
    flink("flink-at-breach-rocksdb", 1_000),
    flink("flink-textbook-heap", 1_000),
    flink("flink-textbook-rocksdb", 1_000),
    streams("streams-memory", 100),
    streams("streams-rocksdb", 100),
];
const LATENCY: [Engine; 5] = [
    Engine::EXACTLY_ONCE,
    flink("flink-at-breach-heap", 1_000),
    flink("flink-at-breach-heap", 100),
    streams("streams-memory", 100),
    streams("streams-memory", 10),
];
const RECOVERY: [Engine; 4] = [
    Engine::EXACTLY_ONCE,
    flink("flink-at-breach-heap", 1_000),
    streams("streams-memory", 100),
    streams("streams-rocksdb", 100),
];
const RATE: u64 = 2_000;

/// Where each engine is, and what was found of it.
struct Measured<T> {
    engine: Engine,
    rounds: Vec<T>,
}

/// Every engine in turn, so many times.
fn in_turns<T>(engines: &[Engine], arguments: &Arguments, mut one: impl FnMut(Engine) -> T) -> Vec<Measured<T>> {
    let wanted = |engine: &Engine| {
        !engine.is_peer() || arguments.engine.as_ref().is_none_or(|text| engine.title().contains(text.as_str()))
    };
    let engines = engines.iter().copied().filter(wanted);
    let mut measured: Vec<_> = engines.map(|engine| Measured { engine, rounds: Vec::new() }).collect();
    for _ in 0..arguments.rounds(3) {
        for measured in &mut measured {
            eprintln!("… {}", measured.engine.title());
            measured.rounds.push(one(measured.engine));
        }
    }
    measured
}

type Part = fn(&Broker, &Arguments, &mut Report);
const PARTS: [(&str, Part); 3] =
    [("peers-throughput", throughput), ("peers-latency", latency), ("peers-recovery", recovery)];

/// Whether any of it was asked for by name.
pub fn is_named(arguments: &Arguments) -> bool {
    arguments.names("peers") || PARTS.iter().any(|(name, _)| arguments.names(name))
}

/// All parts, or those that were named.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let names_part = PARTS.iter().any(|(name, _)| arguments.names(name));
    for (name, part) in PARTS {
        if !names_part || arguments.names(name) {
            part(broker, arguments, report);
        }
    }
}

fn throughput(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let input = Input::make(broker, arguments, report);
    let mut floors: [(&str, Floor, Vec<Round>); 2] = [
        ("consume (floor)", Floor::Consume, Vec::new()),
        ("consume and parse on two threads (floor)", Floor::ValidateBeside, Vec::new()),
    ];
    let measured = in_turns(&THROUGHPUT, arguments, |engine| {
        // The floors take their turn with Tallyguard, once a round.
        if engine == Engine::EXACTLY_ONCE {
            for (_, floor, rounds) in &mut floors {
                rounds.push(floor::read(&bootstrap, &input.config, &input.ends, *floor));
            }
        }
        catch_up(&bootstrap, &input, engine)
    });
    let plain = |round: &Round| ServiceRound { round: *round, peak_bytes: 0 };
    let mut lines: Vec<Line> =
        floors.iter().map(|(name, _, rounds)| Line::of(name, &rounds.iter().map(plain).collect::<Vec<_>>())).collect();
    lines.extend(measured.iter().map(|it| Line::of(&it.engine.title(), &it.rounds)));
    let ours = lines[floors.len()].clone();
    report.table(
        "Side by side: throughput, 4 partitions, exactly-once (steady state, from 30 to 90 % of the records)",
        &[
            "what",
            "records/s",
            "Tallyguard is",
            "slowest and fastest",
            "CPU µs per record",
            "of it",
            "peak MiB",
            "of it",
        ],
        &lines.iter().map(|line| line.row(&ours)).collect::<Vec<_>>(),
    );
    let bars = |of: fn(&Line) -> f64| lines.iter().map(|line| Bar::new(&line.name, of(line))).collect::<Vec<_>>();
    report.plot("throughput", &plot::bars("Throughput, records/s", &bars(|line| line.records_per_second)));
    report.plot("cpu", &plot::bars("Processor time, µs per record", &bars(|line| line.cpu)));
}

/// Medians of one engine.
#[derive(Debug, Clone)]
struct Line {
    name: String,
    records_per_second: f64,
    bounds: (f64, f64),
    cpu: f64,
    peak_mib: f64,
}

impl Line {
    fn of(name: &str, rounds: &[ServiceRound]) -> Self {
        let all = |of: fn(&ServiceRound) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
        let speeds = all(|it| it.round.records_per_second);
        Self {
            name: name.to_owned(),
            records_per_second: median(&speeds),
            bounds: (percentile(&speeds, 0.0), percentile(&speeds, 100.0)),
            cpu: median(&all(|it| it.round.cpu_microseconds_per_record)),
            peak_mib: median(&all(|it| count(it.peak_bytes) / 1_048_576.0)),
        }
    }

    fn row(&self, ours: &Self) -> Vec<String> {
        let has_peak = self.peak_mib > 0.0;
        vec![
            self.name.clone(),
            whole(self.records_per_second),
            format!("{:.2} ×", ours.records_per_second / self.records_per_second),
            format!("{} – {}", whole(self.bounds.0), whole(self.bounds.1)),
            format!("{:.2}", self.cpu),
            format!("1/{:.1}", self.cpu / ours.cpu),
            if has_peak { whole(self.peak_mib) } else { String::new() },
            if has_peak { format!("1/{:.1}", self.peak_mib / ours.peak_mib) } else { String::new() },
        ]
    }
}

fn latency(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let rate = arguments.rate.unwrap_or(arguments.scaled(RATE, 500));
    let measured = in_turns(&LATENCY, arguments, |engine| one_stretch(broker, rate, engine, arguments));
    let all = |rounds: &[Stretch]| rounds.iter().flat_map(|it| &it.total).copied().collect::<Vec<f64>>();
    let rows = measured.iter().map(|it| {
        let total = all(&it.rounds);
        let mut row = vec![it.engine.title(), total.len().to_string()];
        row.extend([50.0, 90.0, 99.0, 100.0].map(|percent| format!("{:.1}", percentile(&total, percent))));
        row.push(format!("{:.2}", median(&it.rounds.iter().map(|it| it.cpu_cores).collect::<Vec<_>>())));
        row
    });
    report.table(
        &format!("Side by side: alert latency at {rate} records/s, ms (appended → read under read_committed)"),
        &["what", "alerts", "p50", "p90", "p99", "max", "cores used"],
        &rows.collect::<Vec<_>>(),
    );
    let bars = measured.iter().flat_map(|it| {
        let total = all(&it.rounds);
        let name = it.engine.title();
        [50.0, 99.0].map(|percent| Bar::new(&format!("{name}: p{percent}"), percentile(&total, percent)))
    });
    report.plot("latency", &plot::bars("Alert latency, ms", &bars.collect::<Vec<_>>()));
}

fn recovery(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let measured = in_turns(&RECOVERY, arguments, |engine| one_recovery(broker, engine, arguments));
    let rows = measured.iter().map(|it| {
        let slowest = percentile(&it.rounds, 100.0);
        vec![
            it.engine.title(),
            format!("{:.1}", median(&it.rounds)),
            format!("{slowest:.1}"),
            it.rounds.len().to_string(),
        ]
    });
    report.table(
        "Side by side: recovery, s (kill -9 under load, state kept, restart at once → first new alert readable)",
        &["what", "median", "slowest", "times"],
        &rows.collect::<Vec<_>>(),
    );
    let bars: Vec<_> = measured.iter().map(|it| Bar::new(&it.engine.title(), median(&it.rounds))).collect();
    report.plot("recovery", &plot::bars("Recovery after kill -9, s", &bars));
}

/// Seconds from the restart to the reading of the first alert for a record that was appended after the kill.
fn one_recovery(broker: &Broker, engine: Engine, arguments: &Arguments) -> f64 {
    let bootstrap = broker.bootstrap();
    let dir = GuardedDir::new("tallyguard-recovery-");
    let config = TestConfig::new(&bootstrap, dir.path());
    config.create_topics(&bootstrap, 4);
    let mut running = engine.start(&bootstrap, &config, dir.path());
    running.wait_ready();
    let live = Live::start(&bootstrap, &config, RATE);
    sleep(arguments.scaled(Duration::from_secs(20), Duration::from_secs(6)));
    running.kill9();
    let restart = Restart::now(&bootstrap, &config.source_topic);
    let mut running = engine.start(&bootstrap, &config, dir.path());
    let seconds = restart.first_alert(&live, || running.log());
    drop(live);
    running.stop();
    seconds
}
