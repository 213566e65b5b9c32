//! Opens the log that the configuration names: when this returns, nobody else writes as this instance any more.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::exit::Exit;
use crate::config::Settings;
use crate::engine::monitor::Monitor;
use crate::engine::startup::{Cluster, await_cluster, fence_predecessor};
use crate::log::kafka::{KafkaLog, KafkaReader, KafkaSettings};
use crate::log::{AlertFeeds, Doorbell, Ingest};

/// A log that is open, with what the engine needs beside it.
pub struct Transport<L, R> {
    pub log: L,
    pub reader: R,
    pub cluster: Cluster,
    pub doorbell: Arc<Doorbell>,
    /// A log that takes transactions over HTTP.
    pub ingest: Option<Arc<dyn Ingest>>,
    pub alerts: Option<Arc<dyn AlertFeeds>>,
}

/// Waits for Kafka, joins the group in the background and fences the predecessor.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn open_kafka(
    settings: &Settings,
    stop: &AtomicBool,
    monitor: &mut Monitor,
) -> Result<Transport<KafkaLog, KafkaReader>, (Exit, String)> {
    let kafka = kafka_settings(settings);
    let patience = settings.kafka.startup_timeout;
    let mut reader = KafkaReader::new(kafka.clone());
    let cluster = await_cluster(&kafka, &mut reader, patience, stop, monitor)?;
    monitor.connected(&cluster.cluster_id);
    let mut log = KafkaLog::join(&kafka, cluster.message_max_bytes)
        .map_err(|error| (Exit::Usage, format!("kafka.properties: {error:#}")))?;
    fence_predecessor(&mut log, patience, stop, monitor)?;
    let doorbell = log.doorbell();
    Ok(Transport { log, reader, cluster, doorbell, ingest: None, alerts: None })
}

fn kafka_settings(settings: &Settings) -> KafkaSettings {
    KafkaSettings {
        base: crate::config::client::client_config(settings),
        topic: settings.source.topic.clone(),
        group: settings.source.group.clone(),
        instance_id: settings.instance.id.clone(),
        transactional_id: settings.transactional_id(),
        alerts_topic: settings.alerts.topic.clone(),
        late_topic: settings.alerts.late_topic.clone(),
        dead_letter_topic: settings.alerts.dead_letter_topic.clone(),
        transaction_timeout: settings.delivery.transaction_timeout,
    }
}
