//! How many instructions a record costs, counted by callgrind: the same on a busy machine as on an idle one.
//!
//! Each case runs twice in a process of its own, with few and with many records; the difference is that of the records
//! alone, whatever start and end of the process cost.

use std::process::Command;

use tallyguard::domain::duration::Millis;
use tallyguard::domain::record::validate;

use crate::cases::{AlertCase, empty, parameters, run};
use crate::common::{Arguments, Report, count, whole};
use crate::traffic::{Shape, Traffic};

const CASES: [(&str, &str); 5] = [
    ("validate", "validate a record of 200 bytes"),
    ("apply", "apply, 1 000 users, rules alone"),
    ("apply-statistics", "apply, 1 000 users, with statistics"),
    ("apply-new", "apply, every record a new user"),
    ("encode", "encode an alert"),
];

/// In a process under callgrind: so many records of a case.
pub fn execute(case: &str, records: u64) {
    let users = if case == "apply-new" { u64::MAX / 2 } else { 1_000 };
    let mut traffic = Traffic::new(users, if case == "apply-new" { Shape::Each } else { Shape::Random });
    match case {
        "validate" => {
            traffic.make(usize::try_from(records).expect("few"));
            for record in traffic.records() {
                std::hint::black_box(validate(&record, Millis::MINUTE).is_ok());
            }
        }
        "apply" | "apply-new" => {
            run(&mut empty(&parameters(false)), &mut traffic, records);
        }
        "apply-statistics" => {
            run(&mut empty(&parameters(true)), &mut traffic, records);
        }
        // Only makes the records: what the others must not be charged with.
        "make" => {
            traffic.make(usize::try_from(records).expect("few"));
        }
        "encode" => {
            let case = AlertCase::new();
            (0..records).for_each(|_| case.encode());
        }
        other => panic!("unknown case {other}"),
    }
}

pub fn count_all(arguments: &Arguments, report: &mut Report) {
    let installed = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    if !installed {
        report.say("Instructions are not counted: valgrind is not installed (scripts/install.sh bench).");
        return;
    }
    let more = arguments.scaled(20_000, 500);
    let per_record = |case: &str| {
        let few = more / 10;
        (collected(case, more) - collected(case, few)) / count(more - few)
    };
    let making = per_record("make");
    let rows = CASES.map(|(case, name)| {
        let made = if case == "encode" { 0.0 } else { making };
        vec![name.to_owned(), whole(per_record(case) - made)]
    });
    report.table("Instructions, by callgrind", &["what", "each"], &rows);
}

/// Instructions of a whole process.
fn collected(case: &str, records: u64) -> f64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--child", "count", case, &records.to_string()])
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let Some((_, number)) = collected else { panic!("callgrind does not say what it counted: {said}") };
    number.trim().parse().expect("a number")
}
