//! Who is measured: `tallyguard run`, or the same rule in Apache Flink or Kafka Streams (`benches/peers`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::gauges::Gauges;
use crate::support::process::{GuardedChild, script, tail};
use crate::support::wait::wait_until_or_show;
use crate::support::{Database, Service, TestConfig, unique_name};

/// A program with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Tallyguard {
        mode: &'static str,
        statistics: bool,
    },
    /// As `benches/peers/run.sh` knows it, with one option and its value.
    Peer {
        name: &'static str,
        option: &'static str,
        ms: u32,
    },
}

impl Engine {
    pub const EXACTLY_ONCE: Self = Self::Tallyguard { mode: "exactly-once", statistics: false };

    pub fn title(&self) -> String {
        match self {
            Self::Tallyguard { mode, statistics: false } => format!("Tallyguard, {mode}"),
            Self::Tallyguard { mode, statistics: true } => format!("Tallyguard, {mode}, statistics into MariaDB"),
            Self::Peer { name, option, ms } => {
                let (what, state) = name.rsplit_once('-').expect("what and where its state is");
                let what = match what {
                    "flink-at-breach" => "Flink, alert at the breach",
                    "flink-textbook" => "Flink, textbook window",
                    "streams" => "Kafka Streams",
                    other => panic!("unknown peer {other}"),
                };
                format!("{what}, state in {state}, {} {ms} ms", option.trim_start_matches('-').trim_end_matches("-ms"))
            }
        }
    }

    pub fn is_peer(&self) -> bool {
        matches!(self, Self::Peer { .. })
    }

    /// Starts it on the topics and the group of the configuration, with all that it keeps below `dir`. Started again with
    /// the same it goes on where it stood.
    pub fn start(&self, bootstrap: &str, config: &TestConfig, dir: &Path) -> Running {
        match self {
            Self::Tallyguard { mode, statistics } => {
                let mut config = config.clone().set("delivery.mode", *mode);
                if *statistics {
                    config = config.with_stats(&database().create_schema(&unique_name("bench").replace('-', "_")));
                }
                Running::Tallyguard(Service::start(&config.to_toml(), dir, &[]))
            }
            Self::Peer { name, option, ms } => {
                let log = dir.join("peer.log");
                let ready_before = std::fs::read_to_string(&log).map_or(0, |text| count_ready(&text));
                let mut command = Command::new(peers_dir().join("run.sh"));
                command.arg(installed_peers()).arg(name).args(["--bootstrap", bootstrap]);
                command.args(["--source", &config.source_topic, "--alerts", &config.alert_topic]);
                command.args(["--group", &config.group, "--threads", "2", option, &ms.to_string()]);
                command.arg("--state-dir").arg(dir.join("peer-state"));
                let process = GuardedChild::spawn(&mut command, &log);
                Running::Peer { process, log, ready_before }
            }
        }
    }
}

/// A server with memory and redo log as in production; the one of the tests is small, and mostly writes pages back.
pub const DATABASE_OPTIONS: &[&str] = &["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"];

fn database() -> &'static Database {
    static DATABASE: OnceLock<Database> = OnceLock::new();
    DATABASE.get_or_init(|| Database::start_with(DATABASE_OPTIONS))
}

fn peers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

/// Builds them when they are not built yet; Maven fetches what it needs. Once only: a restart is timed.
fn installed_peers() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(install_peers)
}

fn install_peers() -> PathBuf {
    let output = Command::new(script("install.sh")).arg("peers").output().expect("the installer");
    assert!(output.status.success(), "the peers cannot be built: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    let place = said.lines().find_map(|line| line.rsplit_once("peers: present in ")).expect("it says where");
    PathBuf::from(place.1)
}

fn count_ready(log: &str) -> usize {
    log.lines().filter(|line| *line == "ready").count()
}

/// A started engine; dropping it kills it.
pub enum Running {
    Tallyguard(Service),
    Peer {
        process: GuardedChild,
        log: PathBuf,
        /// Lines of earlier starts in the same log.
        ready_before: usize,
    },
}

impl Running {
    pub fn process_id(&self) -> u32 {
        match self {
            Self::Tallyguard(service) => service.process_id(),
            Self::Peer { process, .. } => process.id(),
        }
    }

    pub fn is_running(&mut self) -> bool {
        match self {
            Self::Tallyguard(service) => service.is_running(),
            Self::Peer { process, .. } => process.is_running(),
        }
    }

    pub fn wait_ready(&mut self) {
        const TIMEOUT: Duration = Duration::from_secs(90);
        match self {
            Self::Tallyguard(service) => service.wait_ready(TIMEOUT),
            Self::Peer { log, ready_before, .. } => wait_until_or_show(
                TIMEOUT,
                "the peer is ready",
                || tail(log, 60),
                || std::fs::read_to_string(&*log).is_ok_and(|text| count_ready(&text) > *ready_before),
            ),
        }
    }

    pub fn kill9(&mut self) {
        match self {
            Self::Tallyguard(service) => service.kill9(),
            Self::Peer { process, .. } => process.kill9(),
        }
    }

    /// Asks it to leave and waits until it has left.
    pub fn stop(&mut self) {
        const TIMEOUT: Duration = Duration::from_secs(60);
        match self {
            Self::Tallyguard(service) => {
                service.sigterm();
                assert_eq!(service.wait_exit(TIMEOUT), Some(0), "{}", service.log());
            }
            Self::Peer { process, log, .. } => {
                process.signal(libc::SIGTERM);
                assert!(process.wait(TIMEOUT).is_some(), "it does not leave: {}", tail(log, 60));
            }
        }
    }

    pub fn log(&self) -> String {
        match self {
            Self::Tallyguard(service) => service.log(),
            Self::Peer { log, .. } => tail(log, 60),
        }
    }

    /// Transactions that it has committed, where it says so.
    pub fn committed(&self) -> f64 {
        let Self::Tallyguard(service) = self else { return f64::NAN };
        Gauges::look(service).map_or(0.0, |gauges| gauges.committed())
    }
}
