//! The released binary, a real broker and a real database, and between them a proxy that knows both protocols: answers and
//! requests are lost, late, or sent again, processes are killed, frozen and replaced, and state folders are lost,
//! exchanged and damaged, all drawn from a seed. Afterwards everything must be what the source topic adds up to.
//!
//! `make test` runs a short round, `make chaos` as long a one as is asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch real processes and need the real clock")]

mod support;

#[path = "service/log.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with the tests of the service, which use more of it"
)]
mod log;

#[path = "service/scenario.rs"]
#[allow(dead_code, reason = "shared with the tests of the service, which use more of it")]
mod scenario;

#[path = "service/statistics.rs"]
mod statistics;

#[path = "core/dice.rs"]
#[allow(dead_code, reason = "shared with the tests of the core, which use more of it")]
mod dice;

// What the proxy knows of Kafka and MySQL.
#[path = "chaos/protocol.rs"]
mod protocol;

// The proxy.
#[path = "chaos/proxy.rs"]
mod proxy;

// A reader of committed records that watches all the time.
#[path = "chaos/observer.rs"]
mod observer;

// Broker, database, proxies, instances, and the question at the end.
#[path = "chaos/world.rs"]
mod world;

// What may happen to an instance and its state folder.
#[path = "chaos/instance.rs"]
mod instance;

// A bad disk and a wrong clock for one process.
#[path = "chaos/shim.rs"]
mod shim;

// Each request of a commit, one fault after the other.
#[path = "chaos/wire.rs"]
mod wire;

// Everything at once, from a seed.
#[path = "chaos/rounds.rs"]
mod rounds;

// Three brokers, and one of them gone.
#[path = "chaos/cluster.rs"]
mod cluster;
