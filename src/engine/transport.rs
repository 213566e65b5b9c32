//! Opens the log that the configuration names: when this returns, nobody else writes as this instance any more.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::exit::Exit;
use crate::config::{Settings, client};
use crate::engine::monitor::Monitor;
use crate::engine::startup::{Cluster, await_cluster, fence_predecessor};
use crate::log::kafka::{KafkaLog, KafkaReader};
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
    let kafka = client::kafka_settings(settings);
    let patience = settings.kafka.startup_timeout;
    let mut reader = KafkaReader::new(kafka.clone());
    let cluster = await_cluster(&kafka, &mut reader, patience, stop, monitor)?;
    monitor.connected(&cluster.cluster_id);
    let mut log = KafkaLog::join(&kafka, cluster.writer_limits)
        .map_err(|error| (Exit::Usage, format!("kafka.properties: {error:#}")))?;
    fence_predecessor(&mut log, patience, stop, monitor)?;
    let doorbell = log.doorbell();
    Ok(Transport { log, reader, cluster, doorbell, ingest: None, alerts: None })
}
