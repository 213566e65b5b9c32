//! Puts the parts of the engine together around an open log, and runs the I/O thread to its end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};

use crate::cli::exit::Exit;
use crate::clock;
use crate::config::{Mode, Settings, SourceKind, StartAt};
use crate::engine::directory::ActorDirectory;
use crate::engine::hosts::Arbiters;
use crate::engine::io::{IoThread, Wiring};
use crate::engine::monitor::Monitor;
use crate::engine::recovery::{ProgressQuestion, RecoveryWorker};
use crate::engine::requests::CheckpointDesk;
use crate::engine::snapshots::{SnapshotPace, SnapshotSchedule};
use crate::engine::startup::{Cluster, open_store};
use crate::engine::statistics::StatisticsLine;
use crate::engine::supervisor::Supervisor;
use crate::engine::transport::{Transport, open_embedded, open_kafka};
use crate::http::Ports;
use crate::log::{Log, RecoveryReader};
use crate::observe::status::StatusBoard;
use crate::protocol::cycle::{CommitCycle, CycleSettings, DeliveryMode};
use crate::protocol::recovery::{Configured, FirstStart};
use crate::state::{Snapshots, Snapshotter, SnapshotterSettings};
use crate::stats::{
    Identity, ProgressProbe, STATEMENT_TIMEOUT, StatisticsQuery, StatisticsSink, StatisticsWriter, StatsOptions,
};

/// Reports that may wait for the I/O thread: far more than all credits together.
const REPORTS_MAX: usize = 65_536;
/// Quiet time after a commit, so that the markers of its transaction are written before the next one begins. Measured
/// from 0 to 12 ms: docs/PERFORMANCE.md.
const SETTLE_MS: u64 = 5;
/// Without a transaction there are no markers; the pause only gathers what comes together.
const SETTLE_WITHOUT_MARKERS_MS: u64 = 1;
/// The pause while the log is this many records ahead: a tenth of a second of work. Measured: docs/PERFORMANCE.md.
const CATCH_UP_PAUSE_MS: u64 = 40;
const CATCHING_UP_FROM: i64 = 100_000;
/// How long the end waits for a recovery to let go of the snapshots: a call of its client and a little more.
const STORE_CLOSES: Duration = Duration::from_secs(7);
const OUTPUTS_PER_COMMIT_MAX: usize = 5_000;
/// Group offsets expire after seven days without a commit; and a recovery looks for outputs since the last commit of each
/// partition, idle ones included.
const RECOMMIT_MS: u64 = 300_000;
/// What the I/O thread is given by the process around it.
pub struct Surroundings {
    pub settings: Arc<Settings>,
    pub supervisor: Supervisor,
    pub stop: Arc<AtomicBool>,
    pub board: StatusBoard,
    pub ports: Ports,
    pub arbiters: Vec<actix::ArbiterHandle>,
}

/// Everything that the I/O thread does, from the first connection to the last commit.
///
/// # Errors
/// The exit code and what to tell the operator.
pub fn work(surroundings: Surroundings) -> Result<(), (Exit, String)> {
    let mut monitor = Monitor::new(surroundings.board.clone());
    monitor.heartbeat();
    let settings = Arc::clone(&surroundings.settings);
    match settings.source.kind {
        SourceKind::Kafka => {
            let transport = open_kafka(&settings, &surroundings.stop, &mut monitor)?;
            run(transport, surroundings, monitor)
        }
        SourceKind::Embedded => {
            let transport = open_embedded(&settings, &surroundings.stop, &mut monitor)?;
            run(transport, surroundings, monitor)
        }
    }
}

fn run<L: Log, R: RecoveryReader + Send + 'static>(
    transport: Transport<L, R>,
    surroundings: Surroundings,
    mut monitor: Monitor,
) -> Result<(), (Exit, String)> {
    let failed = |what: &str, error: &dyn std::fmt::Display| (Exit::Failed, format!("{what}: {error}"));
    let Transport { log, reader, cluster, doorbell, ingest, alerts } = transport;
    let Surroundings { settings, supervisor, stop, board: _, ports, arbiters } = surroundings;
    if let Some(ingest) = ingest {
        ports.set_ingest(ingest);
    }
    if let Some(alerts) = alerts {
        ports.set_alerts(alerts);
    }
    let settings = settings.as_ref();
    for remark in &cluster.remarks {
        tracing::warn!("{remark}");
    }
    let store = Arc::new(open_store(&settings.instance.state_dir, &mut monitor)?);
    let open_store = Arc::downgrade(&store);
    let (reports, report_line) = bounded(REPORTS_MAX);
    let (recovery, requests) = bounded(1_024);
    // The worker answers what it was asked, so these three hold at most one entry per partition and request.
    let (answers, answer_line) = unbounded();
    let (statistics_events, statistics_line) = unbounded();
    let (snapshot_events, snapshot_line) = unbounded();
    let statistics_options = statistics_options(settings, &cluster)?;
    if let Some(options) = &statistics_options {
        ports.set_statistics(Arc::new(StatisticsQuery::new(options)));
    }
    let (desk, checkpoint_requests) = CheckpointDesk::new(store.state_dir().to_owned(), Arc::clone(&doorbell));
    ports.set_checkpoints(Arc::new(desk));
    let directory = ActorDirectory::default();
    ports.set_users(Arc::new(directory.clone()));
    let worker = RecoveryWorker {
        reader,
        topic: Arc::from(settings.source.topic.as_str()),
        configured: configured(settings),
        mode: delivery_mode(settings),
        store: Arc::clone(&store) as Arc<dyn Snapshots>,
        progress: statistics_options.as_ref().map(|options| -> ProgressQuestion {
            let probe = ProgressProbe::new(options);
            Box::new(move |partition| probe.source_offset(partition))
        }),
        requests,
        answers,
        doorbell: Arc::clone(&doorbell),
    };
    std::thread::Builder::new()
        .name("tallyguard-recovery".to_owned())
        .spawn(move || worker.run())
        .map_err(|error| failed("no thread for recovery", &error))?;
    let writer = match statistics_options {
        Some(options) => {
            let doorbell = Arc::clone(&doorbell);
            let spawned = StatisticsWriter::spawn(options, move |event| {
                let _ = statistics_events.send(event);
                doorbell.ring();
            });
            let writer = spawned.map_err(|error| failed("no thread for statistics", &error))?;
            Some(Box::new(writer) as Box<dyn StatisticsSink>)
        }
        None => None,
    };
    let snapshotter = {
        let doorbell = Arc::clone(&doorbell);
        let settings = SnapshotterSettings { retain: settings.checkpoint.retain };
        Snapshotter::spawn(store, settings, move |event| {
            let _ = snapshot_events.send(event);
            doorbell.ring();
        })
        .map_err(|error| failed("instance.state_dir", &error))?
    };
    let wiring = Wiring {
        topic: Arc::from(settings.source.topic.as_str()),
        limits: cluster.limits,
        hosts: Arbiters { handles: arbiters, directory },
        reports: (reports, report_line),
        recovery,
        answers: answer_line,
        statistics_events: statistics_line,
        snapshot_events: snapshot_line,
        checkpoint_requests,
        doorbell,
        stop,
        supervisor,
        monitor,
        statistics: StatisticsLine::new(writer, millis(settings.stats.flush_interval)),
        snapshots: SnapshotSchedule::new(snapshotter, snapshot_pace(settings)),
    };
    let mut cycle = CommitCycle::new(cycle_settings(settings));
    cycle.writer_is_ready();
    IoThread::new(log, cycle, wiring, millis(settings.kafka.startup_timeout)).run();
    // A recovery may still be under way. A process that ends with the store open takes RocksDB's locks from under its
    // threads, and aborts.
    let deadline = clock::monotonic_now() + STORE_CLOSES;
    while open_store.strong_count() > 0 && clock::monotonic_now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn configured(settings: &Settings) -> Configured {
    Configured {
        rules: settings.rules.clone(),
        out_of_orderness: settings.time.out_of_orderness,
        max_future_skew: settings.time.max_future_skew,
        statistics: settings.stats.enabled,
        orders: settings.stats.orders,
        first_start: match settings.source.start {
            StartAt::Earliest => FirstStart::Earliest,
            StartAt::Latest => FirstStart::Latest,
        },
    }
}

fn delivery_mode(settings: &Settings) -> DeliveryMode {
    match settings.delivery.mode {
        Mode::ExactlyOnce => DeliveryMode::ExactlyOnce,
        Mode::AtLeastOnce => DeliveryMode::AtLeastOnce,
        Mode::AtMostOnce => DeliveryMode::AtMostOnce,
    }
}

fn cycle_settings(settings: &Settings) -> CycleSettings {
    CycleSettings {
        mode: delivery_mode(settings),
        max_commit_interval_ms: millis(settings.delivery.max_commit_interval),
        settle_ms: match settings.delivery.mode {
            Mode::ExactlyOnce => SETTLE_MS,
            Mode::AtLeastOnce | Mode::AtMostOnce => SETTLE_WITHOUT_MARKERS_MS,
        },
        catch_up_pause_ms: CATCH_UP_PAUSE_MS,
        catching_up_from: CATCHING_UP_FROM,
        outputs_per_commit_max: OUTPUTS_PER_COMMIT_MAX,
        recommit_ms: RECOMMIT_MS,
    }
}

fn snapshot_pace(settings: &Settings) -> SnapshotPace {
    SnapshotPace {
        interval_ms: millis(settings.checkpoint.interval),
        min_pause_ms: millis(settings.checkpoint.min_pause),
        timeout_ms: millis(settings.checkpoint.timeout),
    }
}

fn statistics_options(settings: &Settings, cluster: &Cluster) -> Result<Option<StatsOptions>, (Exit, String)> {
    if !settings.stats.enabled {
        return Ok(None);
    }
    let connect = settings.stats.connect_options().map_err(|error| (Exit::Usage, format!("stats.url: {error}")))?;
    Ok(Some(StatsOptions {
        connect,
        batch_rows: settings.stats.batch_rows,
        migrate: settings.stats.migrate,
        orders: settings.stats.orders,
        identity: Identity {
            cluster_id: cluster.cluster_id.clone(),
            topic: settings.source.topic.clone(),
            topic_id: cluster.topic_id.clone(),
            group: settings.source.group.clone(),
        },
        statement_timeout: STATEMENT_TIMEOUT,
    }))
}
