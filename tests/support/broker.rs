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
    kind: Kind,
}

enum Kind {
    Alone,
    /// Where it listens for a proxy, and the proxy's own port.
    Proxied(u16, u16),
    /// What `scripts/broker.sh` is told of the cluster.
    Node(String),
}

impl Broker {
    /// Starts a broker with an empty log and waits until it serves.
    pub fn start() -> Self {
        Self::start_as(Kind::Alone)
    }

    /// The same, and whoever comes by `inner_port` is told that this broker's port is the proxy's.
    pub fn start_behind(inner_port: u16, proxy_port: u16) -> Self {
        Self::start_as(Kind::Proxied(inner_port, proxy_port))
    }

    fn start_as(kind: Kind) -> Self {
        let broker = Self::prepare(free_port(), kind);
        broker.launch();
        broker
    }

    fn prepare(controller_port: u16, kind: Kind) -> Self {
        install_kafka_when_missing();
        let dir = GuardedDir::new("tallyguard-broker-");
        Self { process: Mutex::new(None), dir, port: free_port(), controller_port, kind }
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
        self.spawn();
        self.wait_until_it_serves();
    }

    fn spawn(&self) {
        let mut command = Command::new(script("broker.sh"));
        command.arg(self.dir.path()).arg(self.port.to_string()).arg(self.controller_port.to_string());
        match &self.kind {
            Kind::Alone => {}
            Kind::Proxied(inner, outer) => {
                command.arg(inner.to_string()).arg(outer.to_string());
            }
            Kind::Node(cluster) => {
                command.env("TALLYGUARD_BROKER_CLUSTER", cluster);
            }
        }
        *self.process() = Some(GuardedChild::spawn(&mut command, &self.log_path()));
    }

    fn wait_until_it_serves(&self) {
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

/// Three brokers: every topic is on all of them, and two must have a record before it is acknowledged.
pub struct Cluster {
    nodes: Vec<Broker>,
}

impl Cluster {
    const NODES: usize = 3;

    pub fn start() -> Self {
        let controller_ports: Vec<u16> = (0..Self::NODES).map(|_| free_port()).collect();
        let ports = controller_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        let id = uuid::Uuid::new_v4().simple().to_string();
        let nodes = controller_ports.iter().zip(1..).map(|(&port, number)| {
            // Twenty-two letters: a UUID as Kafka writes it.
            Broker::prepare(port, Kind::Node(format!("{} {number} {ports}", &id[..22])))
        });
        let cluster = Self { nodes: nodes.collect() };
        // One alone finds no majority, so none is waited for before all are started.
        cluster.nodes.iter().for_each(Broker::spawn);
        cluster.nodes.iter().for_each(Broker::wait_until_it_serves);
        cluster
    }

    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// The node that leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> &Broker {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().expect("a Kafka client");
        let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
        let partitions = metadata.topics().first().expect("the topic").partitions();
        let leader = partitions.iter().find(|found| found.id() == partition).expect("the partition").leader();
        &self.nodes[usize::try_from(leader - 1).expect("a node")]
    }

    /// Waits until every node has every record: until then the loss of another may leave too few.
    pub fn wait_until_in_sync(&self) {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().expect("a Kafka client");
        let in_sync = || {
            client.fetch_metadata(None, Duration::from_secs(5)).is_ok_and(|metadata| {
                let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
                partitions.all(|partition| partition.isr().len() == Self::NODES)
            })
        };
        wait_until_or_show(Duration::from_secs(60), "all replicas are in sync", || self.nodes[0].log(), in_sync);
    }

    /// The node that looks after a consumer group.
    pub fn group_coordinator(&self, group: &str) -> &Broker {
        self.leader("__consumer_offsets", internal_partition(group))
    }

    /// The node that looks after the transactions of that id.
    pub fn transaction_coordinator(&self, transactional_id: &str) -> &Broker {
        self.leader("__transaction_state", internal_partition(transactional_id))
    }
}

/// The partition of an internal topic, of which `scripts/broker.sh` has four: Java's hash of the name, without its sign.
fn internal_partition(name: &str) -> i32 {
    let hash = name.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    (hash & i32::MAX) % 4
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
