//! The demo when somebody interferes.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::running::{PATIENCE, Running, processes_of};
use crate::support::{block_on, free_port, wait_until};
use crate::{World, run};

const EXACT: &str = "Exactly once: nothing is missing, nothing is there twice.";

/// A demo in a folder of its own.
struct Stage {
    world: World,
    address: String,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { world: World::new(), address: format!("127.0.0.1:{}", free_port()) };
        fs::create_dir(stage.folder()).unwrap();
        stage
    }

    fn folder(&self) -> PathBuf {
        self.world.path("demo")
    }

    fn arguments<'a>(&'a self, folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let these = ["demo", "--rate", "500", "--users", "20", "--dir", folder, "--listen", &self.address];
        [&these, more].concat()
    }

    /// A demo that goes on until it is stopped, with its first alert on the screen.
    fn start(&self) -> Running {
        let folder = self.folder().display().to_string();
        let running = Running::start(&self.world, &self.arguments(&folder, &[]));
        running.wait_for(" HIGH u-");
        running
    }

    fn run(&self, more: &[&str]) -> (i32, String, String) {
        let folder = self.folder().display().to_string();
        run(&self.arguments(&folder, more))
    }

    /// The process that the demo has started: its configuration lies in the demo's folder.
    fn engine(&self) -> Vec<u32> {
        processes_of(&self.folder().join("tallyguard.toml"))
    }

    fn wait_until_no_engine(&self) {
        wait_until(Duration::from_secs(20), "no engine is left behind", || self.engine().is_empty());
    }
}

/// Ctrl-C goes to every process of the terminal's group. The engine once ended by it before it had taken everything in,
/// and the demo waited for it.
#[test]
fn ctrl_c_ends_the_demo_with_the_comparison() {
    let stage = Stage::new();
    let mut demo = stage.start();
    demo.process.signal_group(libc::SIGINT);
    assert_eq!(demo.end(PATIENCE), 0, "{}\n{}", demo.out(), demo.err());
    assert!(demo.out().contains(EXACT), "{}", demo.out());
    stage.wait_until_no_engine();
}

#[test]
fn whoever_does_not_wait_for_the_end_gets_no_verdict_and_leaves_no_process() {
    let stage = Stage::new();
    let mut demo = stage.start();
    // The terminal was closed: nobody is there to wait.
    demo.process.signal(libc::SIGHUP);
    assert_eq!(demo.end(Duration::from_secs(20)), 1, "{}\n{}", demo.out(), demo.err());
    assert!(demo.err().contains("nothing was compared") && !demo.out().contains(EXACT), "{}", demo.err());
    stage.wait_until_no_engine();
}

#[test]
fn an_engine_does_not_outlive_a_demo_that_was_killed() {
    let stage = Stage::new();
    let mut demo = stage.start();
    assert_eq!(stage.engine().len(), 1);
    demo.process.kill9();
    stage.wait_until_no_engine();
    // What it left is a sound log: the next demo goes on with it.
    let (code, out, err) = stage.run(&["--for", "1s"]);
    assert_eq!(code, 0, "{out}\n{err}");
}

#[test]
fn an_engine_that_dies_by_itself_ends_the_demo_at_once_with_the_end_of_its_log() {
    let stage = Stage::new();
    let mut demo = stage.start();
    let engine = i32::try_from(stage.engine()[0]).unwrap();
    let died = Instant::now();
    #[allow(unsafe_code, reason = "the standard library sends signals to own children only")]
    // SAFETY: kill() takes two integers; the process is a child of the demo, which has not ended.
    let killed = unsafe { libc::kill(engine, libc::SIGKILL) };
    assert_eq!(killed, 0);
    assert_eq!(demo.end(PATIENCE), 1);
    assert!(died.elapsed() < Duration::from_secs(20), "it did not wait for the feeder's patience");
    assert!(demo.err().contains("ended by itself") && demo.err().contains("engine.log"), "{}", demo.err());
    assert!(!demo.out().contains(EXACT), "{}", demo.out());
}

#[test]
fn a_row_that_somebody_changed_is_found() {
    let stage = Stage::new();
    let (code, out, err) = stage.run(&["--for", "2s"]);
    assert_eq!(code, 0, "{out}\n{err}");
    let file = stage.folder().join("state/statistics.sqlite");
    let changed = block_on(async {
        let mut connection = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
        // Marked as repaired, so that the service leaves it as it is.
        let change = "UPDATE order_stats_by_partition SET transaction_count = transaction_count + 1, reconciled_at = \
                      '2026-01-01 00:00:00.000' WHERE (window_start, merchant_id, currency, source_partition) IN \
                      (SELECT window_start, merchant_id, currency, source_partition FROM order_stats_by_partition LIMIT 1)";
        let changed = sqlx::query(change).execute(&mut connection).await.unwrap().rows_affected();
        connection.close().await.unwrap();
        changed
    });
    assert_eq!(changed, 1);
    let (code, out, err) = stage.run(&["--for", "1s"]);
    assert_eq!(code, 1, "{out}\n{err}");
    assert!(out.contains("1 Different") && out.contains("transaction_count is"), "{out}");
    assert!(err.contains("is left in"), "{err}");
}

#[test]
fn a_configuration_that_is_somebodys_own_is_not_written_over() {
    let stage = Stage::new();
    let own = stage.folder().join("tallyguard.toml");
    fs::write(&own, "[instance]\nid = 'mine'\n").unwrap();
    let (code, _, err) = stage.run(&["--for", "1s"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is not a demo's"), "{err}");
    assert_eq!(fs::read_to_string(own).unwrap(), "[instance]\nid = 'mine'\n");
}

#[test]
fn an_address_that_was_asked_for_and_is_in_use_is_refused_at_once() {
    let stage = Stage::new();
    let _taken = TcpListener::bind(&stage.address).unwrap();
    let began = Instant::now();
    let (code, _, err) = stage.run(&["--for", "1s"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("--listen") && began.elapsed() < Duration::from_secs(10), "{err}");
}
