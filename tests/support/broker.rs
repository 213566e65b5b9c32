//! A real Apache Kafka broker (KRaft, one node) for a test or a test binary. `scripts/broker.sh` is its recipe.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::process::{GuardedChild, GuardedDir, free_port, script, tail};
use super::wait::wait_until_or_show;

/// One broker with a log of its own; dropping it kills it and removes its data.
pub struct Broker {
    // The order matters: the process ends before its directory is removed.
    process: Mutex<Option<GuardedChild>>,
    dir: GuardedDir,
    port: u16,
    controller_port: u16,
}

impl Broker {
    /// Starts a broker with an empty log and waits until it serves.
    pub fn start() -> Self {
        install_kafka_when_missing();
        let broker = Self {
            process: Mutex::new(None),
            dir: GuardedDir::new("tallyguard-broker-"),
            port: free_port(),
            controller_port: free_port(),
        };
        broker.launch();
        broker
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn process_id(&self) -> u32 {
        self.process().as_ref().expect("the broker runs").id()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// SIGKILL; what it had acknowledged stays.
    pub fn kill9(&self) {
        self.process().take().expect("the broker runs").kill9();
    }

    /// Freezes the broker: connections stay open, and nothing answers, until `sigcont`.
    pub fn sigstop(&self) {
        self.process().as_mut().expect("the broker runs").signal(libc::SIGSTOP);
    }

    pub fn sigcont(&self) {
        self.process().as_mut().expect("the broker runs").signal(libc::SIGCONT);
    }

    /// Kills the broker if it runs, and starts it on the same log and the same ports.
    pub fn restart(&self) {
        self.process().take();
        self.launch();
    }

    pub fn log(&self) -> String {
        tail(&self.log_path(), 60)
    }

    fn launch(&self) {
        let mut command = Command::new(script("broker.sh"));
        command.arg(self.dir.path()).arg(self.port.to_string()).arg(self.controller_port.to_string());
        *self.process() = Some(GuardedChild::spawn(&mut command, &self.log_path()));
        wait_until_or_show(
            Duration::from_secs(90),
            "the Kafka broker answers",
            || self.log(),
            || {
                let running = self.process().as_mut().is_some_and(GuardedChild::is_running);
                assert!(running, "the Kafka broker ended while it started\n{}", self.log());
                TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.serves_metadata()
            },
        );
    }

    fn serves_metadata(&self) -> bool {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().expect("a Kafka client");
        client.fetch_metadata(None, Duration::from_secs(2)).is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("broker.log")
    }

    fn process(&self) -> MutexGuard<'_, Option<GuardedChild>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broker that all tests of one test binary share, each with topics and groups of its own. Tests that kill the
/// broker start their own.
pub fn shared_broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

/// `make test` has installed it already; this is for a plain `cargo test`.
fn install_kafka_when_missing() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let output = Command::new(script("install.sh")).arg("kafka").output().expect("scripts/install.sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}
