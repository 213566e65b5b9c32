//! The core's three steps by the clock: parse and check a record, apply it, encode an alert.
//!
//! `cargo bench --bench micro [-- --quick]`. Compares with the run before; `benches/core.rs` measures memory, and counts
//! instructions, which a busy machine does not change.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock")]

#[path = "core/cases.rs"]
mod cases;
mod common;
#[path = "core/traffic.rs"]
mod traffic;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tallyguard::domain::duration::Millis;
use tallyguard::domain::record::validate;

use cases::{AlertCase, empty, parameters, run};
use traffic::{BATCH, Shape, Traffic};

const USERS: u64 = 100_000;

fn parse(criterion: &mut Criterion) {
    let mut traffic = Traffic::new(USERS, Shape::Random);
    traffic.make(BATCH);
    let bytes: usize = traffic.records().map(|record| record.value.map_or(0, <[u8]>::len)).sum();
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Bytes(bytes.try_into().expect("few bytes")));
    group.bench_function("2048 records", |bencher| {
        bencher.iter(|| {
            for record in traffic.records() {
                std::hint::black_box(validate(&record, Millis::MINUTE).is_ok());
            }
        });
    });
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(1));
    for (name, statistics) in [("rules", false), ("rules and statistics", true)] {
        let parameters = parameters(statistics);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|records| {
                let mut traffic = Traffic::new(USERS, Shape::Random);
                run(&mut empty(&parameters), &mut traffic, records)
            });
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let case = AlertCase::new();
    criterion.bench_function("encode/alert", |bencher| bencher.iter(|| case.encode()));
}

criterion_group!(benches, parse, apply, encode);
criterion_main!(benches);
