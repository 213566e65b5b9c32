//! What the Kafka transport must be told, and the client configurations that follow from it.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// Session time-out of the group membership: how long the partitions of a dead process wait for another one. A process
/// that restarts under the same id does not wait.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// What the output topics take, bytes.
#[derive(Debug, Clone, Copy)]
pub struct WriterLimits {
    /// The largest record of any of them.
    pub record_max: usize,
    /// A batch that each of them takes.
    pub batch_max: usize,
}

/// See the module head.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// Brokers, security and whatever else the operator configured.
    pub base: ClientConfig,
    pub topic: String,
    pub group: String,
    pub instance_id: String,
    /// Whether outputs and offsets are committed together. Otherwise nothing fences a predecessor's outputs.
    pub transactional: bool,
    pub transactional_id: String,
    pub alerts_topic: String,
    pub late_topic: String,
    pub dead_letter_topic: String,
    pub transaction_timeout: Duration,
}

impl KafkaSettings {
    /// How long the writer waits for an answer before it repeats a request.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        let configured = self.base.get("socket.timeout.ms").and_then(|text| text.parse().ok());
        let default = (self.transaction_timeout / 2).clamp(Duration::from_secs(1), Duration::from_secs(60));
        configured.map_or(default, Duration::from_millis)
    }

    fn client(&self, role: &str) -> ClientConfig {
        let mut config = self.base.clone();
        default(&mut config, "client.id", &format!("{}-{role}", self.transactional_id));
        default(&mut config, "reconnect.backoff.ms", "50");
        default(&mut config, "reconnect.backoff.max.ms", "1000");
        default(&mut config, "broker.address.family", "v4");
        config
    }

    /// The group member that reads the source topic.
    #[must_use]
    pub fn consumer(&self) -> ClientConfig {
        let mut config = self.reading("source");
        config.set("group.id", &self.group);
        config.set("group.instance.id", &self.instance_id);
        config.set("partition.assignment.strategy", "cooperative-sticky");
        default(&mut config, "session.timeout.ms", &SESSION_TIMEOUT.as_millis().to_string());
        default(&mut config, "heartbeat.interval.ms", &HEARTBEAT_INTERVAL.as_millis().to_string());
        default(&mut config, "max.poll.interval.ms", &MAX_POLL_INTERVAL.as_millis().to_string());
        default(&mut config, "topic.metadata.refresh.interval.ms", "30000");
        // The default of one second throttles a fast consumer to a quarter of a million records a second.
        default(&mut config, "fetch.queue.backoff.ms", "5");
        default(&mut config, "fetch.wait.max.ms", "100");
        default(&mut config, "queued.max.messages.kbytes", "8192");
        default(&mut config, "queued.min.messages", "20000");
        default(&mut config, "fetch.message.max.bytes", "1048576");
        config
    }

    /// A client that only asks for positions and reads outputs back: never a member of the group.
    #[must_use]
    pub fn reader(&self) -> ClientConfig {
        let mut config = self.reading("recovery");
        // The group id is needed to ask for its committed offsets; without a subscription nothing joins it.
        config.set("group.id", &self.group);
        default(&mut config, "fetch.wait.max.ms", "10");
        config
    }

    /// A client that asks the group's coordinator, and nothing else.
    #[must_use]
    pub fn asking(&self) -> ClientConfig {
        self.client("members")
    }

    /// A client that follows the alert topic: never a member of the group.
    #[must_use]
    pub fn feed(&self) -> ClientConfig {
        let mut config = self.reading("alerts");
        // Assigning partitions by hand needs a group id as well; without a subscription nothing joins the group.
        config.set("group.id", &self.group);
        default(&mut config, "fetch.wait.max.ms", "500");
        default(&mut config, "queued.max.messages.kbytes", "8192");
        config
    }

    fn reading(&self, role: &str) -> ClientConfig {
        let mut config = self.client(role);
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        // Also makes the offset fetch wait for transactions that are not decided yet.
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        config
    }

    /// The writer: transactional, or idempotent alone.
    #[must_use]
    pub fn producer(&self, limits: WriterLimits) -> ClientConfig {
        let transaction_ms = self.transaction_timeout.as_millis();
        let mut config = self.client("writer");
        if self.transactional {
            config.set("transactional.id", &self.transactional_id);
            config.set("transaction.timeout.ms", transaction_ms.to_string());
        }
        // Must be below the transaction's own time-out, or a message could outlive its transaction.
        config.set("message.timeout.ms", (transaction_ms * 2 / 3).max(1_000).to_string());
        config.set("enable.idempotence", "true");
        config.set("message.max.bytes", limits.record_max.clamp(1_000_000, 1_000_000_000).to_string());
        // One limit for all topics, so the smallest; a record that is larger alone makes a batch of its own.
        config.set("batch.size", limits.batch_max.clamp(1, 1_000_000).to_string());
        default(&mut config, "socket.timeout.ms", &self.request_timeout().as_millis().to_string());
        // Closed connections and timed-out requests are told at this level.
        config.set_log_level(RDKafkaLogLevel::Info);
        default(&mut config, "linger.ms", "0");
        default(&mut config, "retry.backoff.ms", "10");
        default(&mut config, "retry.backoff.max.ms", "100");
        default(&mut config, "compression.type", "lz4");
        default(&mut config, "partitioner", "murmur2_random");
        config
    }
}

/// Sets a property unless the operator did.
fn default(config: &mut ClientConfig, key: &str, value: &str) {
    if config.get(key).is_none() {
        config.set(key, value);
    }
}
