//! Opens the log that the configuration names: when this returns, nobody else writes as this instance any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::exit::Exit;
use crate::clock;
use crate::config::{Settings, client};
use crate::engine::monitor::Monitor;
use crate::engine::outputs::TopicLimits;
use crate::engine::startup::{Cluster, await_cluster, fence_predecessor};
use crate::log::embedded::{EmbeddedError, EmbeddedLog, EmbeddedReader, EmbeddedStore, Retention, StoreFeeds};
use crate::log::kafka::{KafkaFeeds, KafkaLog, KafkaReader, WriterLimits};
use crate::log::{AlertFeeds, Doorbell, Ingest};

/// A predecessor that was killed gives its folder up within moments.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const HOUSEKEEPING: Duration = Duration::from_secs(60);

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
    let alerts: Arc<dyn AlertFeeds> = Arc::new(KafkaFeeds(kafka));
    Ok(Transport { log, reader, cluster, doorbell, ingest: None, alerts: Some(alerts) })
}

/// Opens the embedded log. A predecessor that was just killed may still hold it for a moment.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn open_embedded(
    settings: &Settings,
    stop: &AtomicBool,
    monitor: &mut Monitor,
) -> Result<Transport<EmbeddedLog, EmbeddedReader>, (Exit, String)> {
    let store = Arc::new(open_store(settings, stop, monitor)?);
    let (topic, group) = (&settings.source.topic, &settings.source.group);
    let identity = store.identity().clone();
    monitor.connected(&identity.cluster_id);
    monitor.writer_replaced();
    housekeep(Arc::clone(&store), settings)?;
    Ok(Transport {
        log: EmbeddedLog::new(Arc::clone(&store), topic, group),
        reader: EmbeddedReader::new(Arc::clone(&store), topic, group),
        cluster: Cluster {
            cluster_id: identity.cluster_id,
            topic_id: identity.topic_id,
            limits: TopicLimits { late: usize::MAX, dead_letter: usize::MAX },
            writer_limits: WriterLimits { record_max: usize::MAX, batch_max: usize::MAX },
            remarks: Vec::new(),
        },
        doorbell: store.doorbell(),
        alerts: Some(Arc::new(StoreFeeds(Arc::clone(&store)))),
        ingest: Some(store),
    })
}

fn open_store(settings: &Settings, stop: &AtomicBool, monitor: &mut Monitor) -> Result<EmbeddedStore, (Exit, String)> {
    let deadline = clock::monotonic_now() + LOCK_PATIENCE;
    loop {
        monitor.heartbeat();
        let error = match EmbeddedStore::open(&settings.embedded.dir, settings.embedded.partitions) {
            Ok(store) => return Ok(store),
            Err(error) => error,
        };
        let is_held = matches!(error, EmbeddedError::InUse { .. });
        if is_held && clock::monotonic_now() < deadline && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let (exit, remedy) = match error {
            EmbeddedError::InUse { .. } => {
                (Exit::Failed, "end the other process, or give this one its own embedded.dir")
            }
            EmbeddedError::FewerPartitions { .. } => (Exit::Usage, "set embedded.partitions to at least that"),
            EmbeddedError::Damaged { .. } => {
                (Exit::Refused, "bring the folder back from a copy; nothing was changed in it")
            }
            EmbeddedError::Absent { .. } | EmbeddedError::Io(_) => (Exit::Failed, "check embedded.dir and its disk"),
        };
        return Err((exit, format!("{error}. What to do: {remedy}")));
    }
}

/// Starts the thread that drops what retention lets go, now and every minute.
fn housekeep(store: Arc<EmbeddedStore>, settings: &Settings) -> Result<(), (Exit, String)> {
    let time = settings.time;
    let open_ms = time.out_of_orderness.0.saturating_add(time.max_future_skew.0);
    let retention = Retention {
        age: settings.embedded.retention_age,
        bytes: settings.embedded.retention_bytes,
        day_stays_open: Duration::from_millis(u64::try_from(open_ms).unwrap_or(0)),
    };
    let group = settings.source.group.clone();
    let housekeeping = std::thread::Builder::new().name("tallyguard-retention".to_owned());
    let spawned = housekeeping.spawn(move || {
        for minute in 0_u64.. {
            match store.apply_retention(&group, retention, clock::wall_clock_ms()) {
                Ok(report) => {
                    if report.dropped_records > 0 {
                        tracing::info!("retention: {} records of the embedded log are dropped", report.dropped_records);
                    }
                    if report.bytes_over > 0 && minute.is_multiple_of(60) {
                        tracing::warn!(
                            "the embedded log is {} bytes above embedded.retention_bytes, and all of it is still needed: \
                             by a recovery, or by a day that is not reconciled yet",
                            report.bytes_over
                        );
                    }
                }
                Err(error) => tracing::warn!("retention: {error}"),
            }
            std::thread::sleep(HOUSEKEEPING);
        }
    });
    spawned.map(drop).map_err(|error| (Exit::Failed, format!("no thread for retention: {error}")))
}
