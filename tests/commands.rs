//! The commands of the embedded mode, as a person runs them: the demo, taking files in, following alerts, looking at
//! offsets and checkpoints.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch real processes and need the real clock")]

mod support;

// Commands that are started, watched and interrupted, instead of run to their end.
#[path = "commands/running.rs"]
mod running;

// The demo when somebody interferes: signals, killed processes, folders and addresses in use, rows that were changed.
#[path = "commands/demo.rs"]
mod demo;

// Files and pipes that are slow, broken or large, and a service that dies on the way.
#[path = "commands/ingest.rs"]
mod ingest;

// Followers of alerts that are stopped, abandoned, or whose service is killed.
#[path = "commands/alerts.rs"]
mod alerts;

// Checkpoints with damage of every kind, and those of a service at work.
#[path = "commands/checkpoints.rs"]
mod checkpoints;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::process::GuardedDir;
use support::service::run_command_with;
use support::{Service, free_port, wait_until};
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::log::embedded::EmbeddedStore;
use tallyguard::protocol::output::{Destination, OutputId, OutputRecord, Slot};

const TOKEN: &str = "test-token";

/// A folder with a configuration of the embedded mode in it.
struct World {
    dir: GuardedDir,
    port: u16,
}

impl World {
    fn new() -> Self {
        let dir = GuardedDir::new("tallyguard-commands-");
        let world = Self { dir, port: free_port() };
        std::fs::write(world.path("token"), TOKEN).unwrap();
        std::fs::write(world.config(), world.toml()).unwrap();
        world
    }

    fn toml(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        format!(
            "[instance]\nid = 'a'\nstate_dir = '{}'\n[source]\nkind = 'embedded'\n[time]\nout_of_orderness = '5s'\n\
             [checkpoint]\ninterval = '500ms'\nmin_pause = '100ms'\n[http]\nlisten = '127.0.0.1:{}'\n\
             admin_token_file = '{}'\n",
            path("state"),
            self.port,
            path("token"),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("tallyguard.toml")
    }

    fn start(&self) -> Service {
        let mut service = Service::start(&self.toml(), self.dir.path(), &[]);
        service.wait_ready(Duration::from_secs(60));
        service
    }

    /// Exit code, standard output, standard error of `tallyguard COMMAND… --config …`.
    fn run(&self, command: &[&str], more: &[&str]) -> (i32, String, String) {
        let config = self.config().display().to_string();
        run(&[command, &["--config", &config], more].concat())
    }

    fn alerts(&self) -> Vec<Value> {
        let (code, out, err) = self.run(&["alerts", "tail"], &["--from", "beginning", "--for", "500ms", "--json"]);
        assert_eq!(code, 0, "{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    run_command_with(arguments, &[], Duration::from_secs(180))
}

fn transaction(user: &str, number: usize) -> Value {
    json!({
        "transaction_id": format!("{user}-{number}"), "order_id": format!("o-{number}"), "user_id": user,
        "merchant_id": "m-1", "amount_minor": 100, "currency": "EUR", "event_time": "2026-01-01T00:00:30Z",
    })
}

fn lines(transactions: impl IntoIterator<Item = Value>) -> String {
    transactions.into_iter().map(|transaction| format!("{transaction}\n")).collect()
}

fn burst(user: &str, count: usize) -> String {
    lines((0..count).map(|number| transaction(user, number)))
}

fn gzip(path: &Path, text: &str) {
    let mut encoder = flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn a_demo_whose_engine_is_killed_again_and_again_ends_equal_to_the_recount_and_leaves_no_process() {
    let address = format!("127.0.0.1:{}", free_port());
    let (code, out, err) =
        run(&["demo", "--for", "7s", "--crash-every", "2s", "--rate", "3000", "--users", "300", "--listen", &address]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains("Exactly once: nothing is missing, nothing is there twice."), "{out}");
    assert!(out.matches("was killed (SIGKILL)").count() >= 2, "{out}");
    // Plain lines: nothing here is a terminal.
    assert!(!out.contains('\u{1b}') && out.contains("HIGH u-"), "{out}");
    assert!(out.contains(&format!("dashboard: http://{address}/")), "{out}");
    assert!(std::net::TcpListener::bind(&address).is_ok(), "nobody listens any more");
}

/// The verdict can fail: an alert that the log does not account for is found.
#[test]
fn a_demo_finds_an_alert_that_should_not_be_there() {
    let dir = GuardedDir::new("tallyguard-commands-");
    let folder = dir.path().display().to_string();
    let address = format!("127.0.0.1:{}", free_port());
    let demo = ["demo", "--for", "1s", "--rate", "500", "--users", "20", "--dir", &folder, "--listen", &address];
    let (code, out, err) = run(&demo);
    assert_eq!(code, 0, "{out}\n{err}");
    let store = EmbeddedStore::open(&dir.path().join("state/log"), 4).expect("the demo's log");
    let forged = OutputRecord {
        id: OutputId { partition: PartitionId(0), offset: Offset(0), slot: Slot::Alert(Arc::from("velocity-1m")) },
        destination: Destination::Alerts,
        key: Some(b"u-forged".to_vec()),
        value: Some(br#"{"alert_id":"x","user_id":"u-forged","origin":"stream","trigger":{}}"#.to_vec()),
        headers: Vec::new(),
        source_timestamp_ms: None,
    };
    store.commit("somebody", &[Arc::new(forged)], &[], 0).expect("written");
    drop(store);
    let (code, out, err) = run(&demo);
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(out.contains("NOT exact") && out.contains("1 Unexpected"), "{out}");
}

#[test]
fn files_go_straight_into_the_log_when_no_service_runs_and_their_alerts_follow_when_it_does() {
    let world = World::new();
    let ndjson = world.path("day.ndjson.gz");
    gzip(&ndjson, &(burst("u-file", 12) + "{\"user_id\": 7}\nnot json\n"));
    let csv = world.path("day.csv");
    let header = "transaction_id,order_id,user_id,merchant_id,amount_minor,currency,event_time,status\n";
    let rows: String = (0..11).map(|n| format!("c-{n},o-{n},u-csv,m-1,100,EUR,2026-01-01T00:00:30Z,\n")).collect();
    std::fs::write(&csv, format!("{header}{rows}")).unwrap();
    let (ndjson, csv) = (ndjson.display().to_string(), csv.display().to_string());
    let (code, out, err) = world.run(&["ingest"], &[&ndjson, &csv]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("23 transactions taken in, 2 dead letters, 0 rejected"), "{out}");
    assert!(err.contains("line 13: missing_field") && err.contains("line 14: invalid_json"), "{err}");

    let service = world.start();
    wait_until(Duration::from_secs(30), "both users alerted", || world.alerts().len() == 2);
    let (_, text, _) = world.run(&["alerts", "tail"], &["--last", "10", "--for", "300ms"]);
    assert!(text.contains("HIGH u-csv: 11 transactions within 1m, limit 10 (velocity-1m"), "{text}");
    let (code, offsets, err) = world.run(&["offsets", "show"], &["--json"]);
    assert_eq!(code, 0, "{err}");
    let offsets: Value = serde_json::from_str(&offsets).expect("JSON");
    let partitions = offsets["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.iter().map(|partition| partition["committed"].as_i64().unwrap()).sum::<i64>(), 25);
    assert!(partitions.iter().all(|partition| partition["lag"] == 0 && partition["metadata"]["v"].is_number()));
    drop(service);
}

#[test]
fn a_running_service_takes_files_in_by_itself_and_a_file_that_comes_twice_counts_once() {
    let world = World::new();
    let mut service = world.start();
    let file = world.path("burst.ndjson");
    std::fs::write(&file, burst("u-twice", 11) + "broken\n").unwrap();
    let file = file.display().to_string();
    for _ in 0..2 {
        let (code, out, err) = world.run(&["ingest"], &[&file, "--invalid", "reject"]);
        assert_eq!(code, 1, "a line was rejected: {err}");
        assert!(out.starts_with("11 transactions taken in, 0 dead letters, 1 rejected"), "{out}");
    }
    wait_until(Duration::from_secs(30), "the alert", || !world.alerts().is_empty());
    let (_, status) = service.http_get("/api/v1/status");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((&status["totals"]["counted"], &status["totals"]["duplicate"]), (&json!(11), &json!(11)));
    assert_eq!(world.alerts().len(), 1);
    // The generator takes the same way.
    let (code, out, err) = world.run(&["generate"], &["--events", "2000", "--users", "50"]);
    assert_eq!(code, 0, "{out}\n{err}");
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
}

#[test]
fn without_a_token_a_log_that_is_in_use_is_named_with_the_remedy() {
    let world = World::new();
    let _service = world.start();
    std::fs::write(world.config(), world.toml().replace("admin_token_file", "# admin_token_file")).unwrap();
    let (code, _, err) = world.run(&["ingest"], &["-"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is in use by process") && err.contains("http.admin_token_file"), "{err}");
}

#[test]
fn a_second_service_on_the_same_log_is_refused_by_name() {
    let world = World::new();
    let _first = world.start();
    let toml = world.toml().replace(&format!(":{}", world.port), &format!(":{}", free_port()));
    let mut second = Service::start(&toml, world.dir.path(), &[]);
    assert_eq!(second.wait_exit(Duration::from_secs(60)), Some(1), "{}", second.log());
    assert!(second.log().contains("is in use by process"), "{}", second.log());
}

#[test]
fn checkpoints_are_listed_and_a_flipped_byte_in_one_is_found() {
    let world = World::new();
    let mut service = world.start();
    let file = world.path("burst.ndjson");
    std::fs::write(&file, (0..50).map(|user| burst(&format!("u-{user}"), 5)).collect::<String>()).unwrap();
    let (code, _, err) = world.run(&["ingest"], &[&file.display().to_string()]);
    assert_eq!(code, 0, "{err}");
    let listed = || -> Value {
        let (code, out, err) = world.run(&["checkpoint", "list"], &["--json"]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).expect("JSON")
    };
    let covers = |listed: &Value| {
        let newest = listed["checkpoints"].as_array().and_then(|all| all.last().cloned()).unwrap_or_default();
        let partitions = newest["partitions"].as_array().cloned().unwrap_or_default();
        partitions.iter().filter_map(|partition| partition["through"].as_i64()).sum::<i64>() == 250
    };
    wait_until(Duration::from_secs(30), "a checkpoint of everything", || covers(&listed()));
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    let (code, out, err) = world.run(&["checkpoint", "verify"], &[]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains(", sound"), "{out}");

    let newest = listed()["checkpoints"].as_array().unwrap().last().unwrap()["path"].as_str().unwrap().to_owned();
    let tables = std::fs::read_dir(&newest).unwrap().flatten().map(|entry| entry.path());
    let largest = tables
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()))
        .expect("a table");
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x40;
    // Not in place: the file is shared with other checkpoints.
    std::fs::remove_file(&largest).unwrap();
    std::fs::write(&largest, bytes).unwrap();
    let (code, out, err) = world.run(&["checkpoint", "verify"], &[]);
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(out.contains("DAMAGED") && out.contains("what to do"), "{out}");
}

#[test]
fn ingest_with_the_kafka_source_says_what_to_do_instead() {
    let world = World::new();
    std::fs::write(world.config(), "[source]\nkind = 'kafka'\n[stats]\nenabled = false\n").unwrap();
    let (code, _, err) = world.run(&["ingest"], &["-"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("produce to topic transactions instead"), "{err}");
}
