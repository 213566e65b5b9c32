//! What must be true before the first record is read: Kafka answers, the topics exist, nobody else writes as us.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::exit::Exit;
use crate::clock;
use crate::engine::monitor::Monitor;
use crate::engine::outputs::TopicLimits;
use crate::log::Log;
use crate::log::kafka::{
    KafkaLog, KafkaReader, KafkaSettings, MESSAGE_MAX_BYTES_DEFAULT, TopicConfig, WriterLimits, topic_configs,
};
use crate::protocol::cycle::{Outcome, Step};
use crate::state::{SnapshotStore, StateError, StoreOptions};

/// Settling a predecessor's transaction takes up to a second; a shorter `kafka.startup_timeout` is not held against it.
const FENCING_PATIENCE_MIN: Duration = Duration::from_secs(15);
/// A fenced predecessor notices within a heartbeat and leaves.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const STANDBY_MAX: u32 = 3;
/// An alert whose ids are as long as they may be, every character escaped.
const ALERT_BYTES_MAX: usize = 4_096;

/// What the start learned.
pub struct Cluster {
    pub cluster_id: String,
    pub topic_id: String,
    pub limits: TopicLimits,
    pub writer_limits: WriterLimits,
    pub remarks: Vec<String>,
}

/// Waits for Kafka, at most `patience`. `reader` is connected afterwards, and looks for the group's coordinator while
/// the start goes on: the first recovery then does not wait for either.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn await_cluster(
    settings: &KafkaSettings,
    reader: &mut KafkaReader,
    patience: Duration,
    stop: &AtomicBool,
    monitor: &mut Monitor,
) -> Result<Cluster, (Exit, String)> {
    let deadline = clock::monotonic_now() + patience;
    let mut said = String::new();
    loop {
        monitor.heartbeat();
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
                        "{}: gave up after kafka.startup_timeout ({} s): {why}. What to do: check kafka.brokers and the \
                         security properties; missing topics are created by `tallyguard topics create`",
                        settings.base.get("bootstrap.servers").unwrap_or_default(),
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

/// Puts the first transactional writer in place: whatever a predecessor with the same id left is settled, and it can
/// write no more.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn fence_predecessor(
    log: &mut KafkaLog,
    patience: Duration,
    stop: &AtomicBool,
    monitor: &mut Monitor,
) -> Result<(), (Exit, String)> {
    let deadline = clock::monotonic_now() + patience.max(FENCING_PATIENCE_MIN);
    loop {
        monitor.heartbeat();
        let why = match log.execute(&Step::ReplaceWriter) {
            Outcome::Done | Outcome::DoneDisturbed(_) => {
                monitor.writer_replaced();
                return Ok(());
            }
            Outcome::Doubtful(why) | Outcome::Fenced(why) => why,
            other => format!("{other:?}"),
        };
        if stop.load(Ordering::SeqCst) {
            return Err((Exit::Done, format!("stopped while waiting: {why}")));
        }
        if clock::monotonic_now() >= deadline {
            return Err((
                Exit::KafkaUnreachable,
                format!(
                    "no transactional writer within kafka.startup_timeout: {why}. What to do: look at the brokers' \
                         transaction coordinator, and at the right to use the transactional id"
                ),
            ));
        }
        monitor.commit_trouble(&why);
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Opens the local state. A predecessor that was just fenced may still hold it for a moment; one that is frozen holds
/// it until it wakes, so a folder beside it is used then, because snapshots only shorten a replay.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn open_store(state_dir: &Path, monitor: &mut Monitor) -> Result<SnapshotStore, (Exit, String)> {
    let deadline = clock::monotonic_now() + LOCK_PATIENCE;
    let mut standby = 0;
    loop {
        monitor.heartbeat();
        let folder = if standby == 0 { state_dir.to_owned() } else { state_dir.join(format!("standby-{standby}")) };
        match SnapshotStore::open(&folder, StoreOptions::default(), clock::wall_clock_ms()) {
            Ok((store, report)) => {
                if let Some(aside) = report.set_aside {
                    tracing::error!(
                        "the state store could not be read and was set aside, the log rebuilds it: {aside:?}"
                    );
                }
                return Ok(store);
            }
            Err(StateError::Locked { .. }) if clock::monotonic_now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error @ StateError::Locked { .. }) if standby < STANDBY_MAX => {
                standby += 1;
                tracing::warn!("{error}; using {} instead", state_dir.join(format!("standby-{standby}")).display());
            }
            Err(error) => {
                return Err((Exit::Failed, format!("instance.state_dir = {}: {error}", state_dir.display())));
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
    if limit(&settings.alerts_topic) < ALERT_BYTES_MAX {
        remarks.push(format!(
            "topic {} takes records of up to {} bytes, and an alert may have {ALERT_BYTES_MAX}: one that does not fit would \
             hold up everything. Set max.message.bytes",
            settings.alerts_topic,
            limit(&settings.alerts_topic)
        ));
    }
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
        writer_limits: WriterLimits {
            record_max: outputs.iter().map(|topic| limit(topic)).max().unwrap_or(MESSAGE_MAX_BYTES_DEFAULT),
            batch_max: outputs.iter().map(|topic| limit(topic)).min().unwrap_or(MESSAGE_MAX_BYTES_DEFAULT),
        },
        remarks,
    }
}
