//! The whole service on this machine: throughput, alert latency and recovery against a real broker, and the embedded log.
//!
//! `cargo bench --bench end_to_end [-- --quick] [--only throughput|latency|recovery|modes|embedded|posted
//! |pressure|outage|peers|peers-throughput|peers-latency|peers-recovery|soak] [--rounds N] [--rate R] [--minutes M] [--engine TEXT] [--out DIR]`. What is compared takes turns within the same run. The broker and the load share
//! the machine with the service, so the figures are those of a machine that does everything at once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock")]

mod common;
#[path = "end_to_end/embedded.rs"]
mod embedded;
#[path = "end_to_end/engine.rs"]
mod engine;
#[path = "end_to_end/floor.rs"]
mod floor;
#[path = "end_to_end/gauges.rs"]
mod gauges;
#[path = "end_to_end/latency.rs"]
mod latency;
#[path = "end_to_end/live.rs"]
mod live;
#[path = "end_to_end/modes.rs"]
mod modes;
#[path = "end_to_end/outage.rs"]
mod outage;
#[path = "end_to_end/peers.rs"]
mod peers;
#[path = "end_to_end/posted.rs"]
mod posted;
#[path = "end_to_end/pressure.rs"]
mod pressure;
#[path = "end_to_end/recovery.rs"]
mod recovery;
#[path = "end_to_end/soak.rs"]
mod soak;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "end_to_end/throughput.rs"]
mod throughput;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Arguments, Report};
use support::Broker;

const WITH_BROKER: [&str; 8] = ["throughput", "latency", "recovery", "modes", "pressure", "outage", "peers", "soak"];
const BROKER_OPTIONS: &str = "TALLYGUARD_BROKER_JAVA_OPTS";

fn main() {
    let arguments = Arguments::parse();
    if !arguments.quick && std::env::var_os(BROKER_OPTIONS).is_none() {
        // All compiler tiers and room for the page of a consumer that reads everything; the tests' broker has neither.
        let error = Command::new(std::env::current_exe().expect("this program"))
            .args(std::env::args().skip(1))
            .env(BROKER_OPTIONS, "-Xms1g -Xmx1g -XX:+UseSerialGC")
            .exec();
        panic!("cannot start again with a larger broker: {error}");
    }
    let mut report = Report::new("end_to_end", &arguments);
    if arguments.wants("embedded") {
        embedded::measure(&arguments, &mut report);
    }
    if arguments.wants("posted") {
        posted::measure(&arguments, &mut report);
    }
    if peers::is_named(&arguments) || WITH_BROKER.iter().any(|part| arguments.wants(part)) {
        with_broker(&arguments, &mut report);
    }
    report.write(&arguments);
}

fn with_broker(arguments: &Arguments, report: &mut Report) {
    let broker = Broker::start();
    if arguments.wants("throughput") {
        throughput::measure(&broker, arguments, report);
    }
    if arguments.wants("latency") {
        latency::measure(&broker, arguments, report);
    }
    if arguments.wants("recovery") {
        recovery::measure(&broker, arguments, report);
    }
    if arguments.wants("modes") {
        modes::measure(&broker, arguments, report);
    }
    if arguments.wants("pressure") {
        pressure::measure(&broker, arguments, report);
    }
    if arguments.wants("outage") {
        outage::measure(&broker, arguments, report);
    }
    // The peers need a build of their own, and minutes to come up: a quick run has them only when it is asked to.
    if peers::is_named(arguments) || (arguments.wants("peers") && !arguments.quick) {
        peers::measure(&broker, arguments, report);
    }
    // An hour: only when it is asked for.
    if arguments.names("soak") {
        soak::measure(&broker, arguments, report);
    }
}
