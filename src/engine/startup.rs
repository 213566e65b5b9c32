//! What must be true before the first record is read: Kafka answers, the topics exist, nobody else writes as us.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::exit::Exit;
use crate::clock;
use crate::engine::outputs::TopicLimits;
use crate::log::kafka::{KafkaReader, KafkaSettings, MESSAGE_MAX_BYTES_DEFAULT, TopicConfig, topic_configs};

/// What the start learned.
pub struct Cluster {
    pub cluster_id: String,
    pub topic_id: String,
    pub limits: TopicLimits,
    /// Largest record of any output topic.
    pub message_max_bytes: usize,
    pub remarks: Vec<String>,
}

/// Waits for Kafka, at most `patience`.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn await_cluster(
    settings: &KafkaSettings,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<Cluster, (Exit, String)> {
    let deadline = clock::monotonic_now() + patience;
    let mut reader = KafkaReader::new(settings.clone());
    let mut said = String::new();
    loop {
        let remaining = deadline.saturating_duration_since(clock::monotonic_now());
        match reader.check_topics(remaining.clamp(Duration::from_millis(500), Duration::from_secs(5))) {
            Ok((cluster_id, topic_id)) => {
                return Ok(learn(settings, cluster_id, topic_id));
            }
            Err(why) if stop.load(Ordering::SeqCst) => {
                return Err((Exit::Done, format!("stopped while waiting: {why}")));
            }
            Err(why) if clock::monotonic_now() >= deadline => {
                return Err((
                    Exit::KafkaUnreachable,
                    format!(
                        "gave up after kafka.startup_timeout ({} s): {why}. What to do: check kafka.brokers and the \
                         security properties; missing topics are created by `tallyguard topics create`",
                        patience.as_secs()
                    ),
                ));
            }
            Err(why) => {
                if why != said {
                    tracing::warn!("waiting for Kafka: {why}");
                    said = why;
                }
                std::thread::sleep(Duration::from_millis(250));
            }
        }
    }
}

fn learn(settings: &KafkaSettings, cluster_id: String, topic_id: String) -> Cluster {
    let outputs = [&settings.alerts_topic, &settings.late_topic, &settings.dead_letter_topic];
    let mut topics: Vec<&str> = outputs.iter().map(|topic| topic.as_str()).collect();
    topics.push(&settings.topic);
    let configs = topic_configs(settings, &topics, Duration::from_secs(5));
    let limit = |topic: &str| configs.get(topic).map_or(MESSAGE_MAX_BYTES_DEFAULT, |config| config.message_max_bytes);
    let mut remarks = Vec::new();
    let source = configs.get(&settings.topic).cloned().unwrap_or_default();
    if let TopicConfig { log_append_time: false, future_bound_ms: None, .. } = source {
        remarks.push(format!(
            "topic {} takes the producers' own timestamps without a bound: one producer with a clock far ahead would \
             close every window. Set message.timestamp.type=LogAppendTime or message.timestamp.after.max.ms",
            settings.topic
        ));
    }
    Cluster {
        cluster_id,
        topic_id,
        limits: TopicLimits { late: limit(&settings.late_topic), dead_letter: limit(&settings.dead_letter_topic) },
        message_max_bytes: outputs.iter().map(|topic| limit(topic)).max().unwrap_or(MESSAGE_MAX_BYTES_DEFAULT),
        remarks,
    }
}
