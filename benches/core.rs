//! Micro benchmarks of the pure core: validation, `PartitionState::apply`, snapshots, and what hosting user actors
//! within their partition saves against one actix actor per user.
//!
//! `cargo bench --bench core [-- --quick] [--only validate|apply|scale|threads|snapshot|hosting|instructions] [--out DIR]`. Every figure that
//! involves memory is taken in a process of its own (this program, started again with `--child`), because an allocator
//! that has been used before gives no honest difference.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock")]

#[path = "core/cases.rs"]
mod cases;
mod common;
#[path = "core/hosting.rs"]
mod hosting;
#[path = "core/instructions.rs"]
mod instructions;
#[path = "core/partition.rs"]
mod partition;
#[path = "core/traffic.rs"]
mod traffic;

use std::process::{Command, Stdio};

use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::Offset;
use tallyguard::domain::record::{SourceRecord, validate};
use tallyguard::generate::{GeneratedRecord, Shares, Workload, WorkloadOptions};

use common::{Arguments, Report, count, median, timed, whole};

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--child") {
        let call: Vec<String> = arguments.collect();
        println!("{}", child(&call));
        return;
    }
    let arguments = Arguments::parse();
    let mut report = Report::new("core", &arguments);
    if arguments.wants("validate") {
        validation(&arguments, &mut report);
    }
    if arguments.wants("apply") {
        partition::apply(&arguments, &mut report);
    }
    if arguments.wants("scale") {
        partition::scale(&arguments, &mut report);
    }
    if arguments.wants("threads") {
        partition::threads(&arguments, &mut report);
    }
    if arguments.wants("snapshot") {
        partition::snapshots(&arguments, &mut report);
    }
    if arguments.wants("hosting") {
        hosting::compare(&arguments, &mut report);
    }
    if arguments.wants("instructions") {
        instructions::count_all(&arguments, &mut report);
    }
    report.write(&arguments);
}

/// One measurement in a fresh process; the answer is numbers.
fn in_child(call: &[&str]) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg("--child").args(call).stderr(Stdio::inherit()).output();
    let output = output.expect("a child process");
    assert!(output.status.success(), "{call:?} failed");
    let text = String::from_utf8(output.stdout).expect("numbers");
    text.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn child(call: &[String]) -> String {
    let call: Vec<&str> = call.iter().map(String::as_str).collect();
    let figures = match call.as_slice() {
        ["apply", users, records, shape, statistics] => {
            partition::measure(number(users), number(records), shape, *statistics == "statistics")
        }
        ["threads", threads, records] => partition::measure_threads(number(threads), number(records)),
        ["snapshot", users] => partition::measure_snapshot(number(users)),
        ["count", case, records] => {
            instructions::execute(case, number(records));
            Vec::new()
        }
        ["hosting", "hosted", users, messages] => hosting::measure_hosted(number(users), number(messages)),
        ["hosting", "actix", users, messages] => hosting::measure_actix(number(users), number(messages)),
        other => panic!("unknown measurement {other:?}"),
    };
    figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// The median of each figure over `rounds` runs of the same measurement.
fn medians_of(rounds: &[Vec<f64>]) -> Vec<f64> {
    let figures = rounds.first().map_or(0, Vec::len);
    (0..figures).map(|at| median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>())).collect()
}

/// Validation alone, of ordinary records and of everything that the generator can think of.
fn validation(arguments: &Arguments, report: &mut Report) {
    let events = arguments.scaled(200_000, 2_000);
    let mut rows = Vec::new();
    for (name, shares) in [("ordinary", Shares::NONE), ("mixed", Shares::DEFAULT)] {
        let records = generated(events, shares);
        let bytes: usize = records.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).sum();
        let rounds: Vec<f64> = (0..arguments.scaled(15, 2)).map(|_| timed(|| validate_all(&records)).0).collect();
        let seconds = median(&rounds);
        rows.push(vec![
            name.to_owned(),
            whole(count(bytes) / count(records.len())),
            format!("{:.0}", seconds * 1e9 / count(records.len())),
            format!("{:.0}", count(bytes) / seconds / 1e6),
        ]);
    }
    report.table("Validation, one core", &["records", "bytes each", "ns each", "MB/s"], &rows);
}

fn generated(events: u64, shares: Shares) -> Vec<GeneratedRecord> {
    let mut workload =
        Workload::new(WorkloadOptions { events, shares, ..WorkloadOptions::default() }).expect("options");
    let mut records = Vec::new();
    let mut record = GeneratedRecord::default();
    while workload.fill(&mut record) {
        records.push(std::mem::take(&mut record));
    }
    records
}

fn validate_all(records: &[GeneratedRecord]) -> usize {
    let accepted = records.iter().filter(|record| {
        let source = SourceRecord {
            offset: Offset(0),
            timestamp_ms: Some(record.event_time.0),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
        };
        std::hint::black_box(validate(&source, Millis::MINUTE)).is_ok()
    });
    accepted.count()
}
