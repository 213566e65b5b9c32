//! What each delivery guarantee costs: throughput and alert latency of the three modes, in turns within one run.

use crate::common::{Arguments, Report, count, median, percentile, whole};
use crate::engine::Engine;
use crate::latency::{Stretch, one_stretch};
use crate::support::Broker;
use crate::throughput::{Input, ServiceRound, catch_up};

const MODES: [&str; 3] = ["exactly-once", "at-least-once", "at-most-once"];
/// Records a second of the live load.
const RATE: u64 = 2_000;

/// What one mode was measured at.
#[derive(Default)]
struct Measured {
    throughput: Vec<ServiceRound>,
    latency: Vec<Stretch>,
}

impl Measured {
    fn records_per_second(&self) -> f64 {
        median(&self.throughput.iter().map(|it| it.round.records_per_second).collect::<Vec<_>>())
    }

    fn latency_ms(&self, percent: f64) -> f64 {
        let all: Vec<f64> = self.latency.iter().flat_map(|stretch| &stretch.total).copied().collect();
        percentile(&all, percent)
    }

    fn mean(&self, of: fn(&Stretch) -> f64) -> f64 {
        self.latency.iter().map(of).sum::<f64>() / count(self.latency.len())
    }
}

/// The modes take turns; the ratios are those to exactly-once.
pub fn measure(broker: &Broker, arguments: &Arguments, report: &mut Report) {
    let bootstrap = broker.bootstrap();
    let input = Input::make(broker, arguments, report);
    let rate = arguments.rate.unwrap_or(arguments.scaled(RATE, 500));
    let mut measured: [Measured; 3] = Default::default();
    for _ in 0..arguments.rounds(3) {
        for (mode, measured) in MODES.iter().zip(&mut measured) {
            measured.throughput.push(catch_up(&bootstrap, &input, Engine::Tallyguard { mode, statistics: false }));
        }
        for (mode, measured) in MODES.iter().zip(&mut measured) {
            let engine = Engine::Tallyguard { mode, statistics: false };
            measured.latency.push(one_stretch(broker, rate, engine, arguments));
        }
    }
    let reference = (measured[0].records_per_second(), measured[0].latency_ms(50.0));
    let rows: Vec<_> = MODES.iter().zip(&measured).map(|(mode, measured)| row(mode, measured, reference)).collect();
    report.table(
        &format!("What each guarantee costs: catching up on 4 partitions, and alert latency at {rate} records/s"),
        &[
            "delivery.mode",
            "records/s",
            "ratio",
            "slowest and fastest round",
            "alert p50, ms",
            "ratio",
            "p99, ms",
            "commits/s",
            "cores used",
        ],
        &rows,
    );
}

fn row(mode: &str, measured: &Measured, (throughput, latency): (f64, f64)) -> Vec<String> {
    let speeds: Vec<f64> = measured.throughput.iter().map(|it| it.round.records_per_second).collect();
    let slowest = speeds.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = speeds.iter().copied().fold(0.0, f64::max);
    vec![
        mode.to_owned(),
        whole(measured.records_per_second()),
        format!("{:.2}", measured.records_per_second() / throughput),
        format!("{} – {}", whole(slowest), whole(fastest)),
        format!("{:.1}", measured.latency_ms(50.0)),
        format!("{:.2}", measured.latency_ms(50.0) / latency),
        format!("{:.1}", measured.latency_ms(99.0)),
        format!("{:.0}", measured.mean(|stretch| stretch.commits_per_second)),
        format!("{:.2}", measured.mean(|stretch| stretch.cpu_cores)),
    ]
}
