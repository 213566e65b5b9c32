//! Puts the parts together, waits for the first reason to leave, and takes them apart again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::{Arbiter, System};
use crossbeam_channel::{bounded, unbounded};

use crate::cli::exit::Exit;
use crate::clock;
use crate::config::{Mode, Settings, StartAt};
use crate::engine::io::{IoThread, Wiring};
use crate::engine::monitor::Monitor;
use crate::engine::recovery::RecoveryWorker;
use crate::engine::snapshots::{SnapshotPace, SnapshotSchedule};
use crate::engine::startup::{Cluster, await_cluster, fence_predecessor, open_store};
use crate::engine::statistics::StatisticsLine;
use crate::engine::supervisor::{Leave, Supervisor};
use crate::http;
use crate::log::kafka::{KafkaLog, KafkaReader, KafkaSettings};
use crate::observe::status::StatusBoard;
use crate::protocol::cycle::{CommitCycle, CycleSettings, DeliveryMode};
use crate::protocol::recovery::{Configured, FirstStart};
use crate::state::{Snapshotter, SnapshotterSettings};
use crate::stats::{Identity, ProgressProbe, STATEMENT_TIMEOUT, StatisticsWriter, StatsOptions};

/// Reports that may wait for the I/O thread: far more than all credits together.
const REPORTS_MAX: usize = 65_536;
/// Quiet time after a commit, so that the markers of its transaction are written before the next one begins. Measured
/// from 0 to 12 ms: docs/PERFORMANCE.md.
const SETTLE_MS: u64 = 5;
const OUTPUTS_PER_COMMIT_MAX: usize = 5_000;
/// Group offsets expire after seven days without a commit.
const RECOMMIT_MS: u64 = 3_600_000;
/// A thread that has not come round for this long, beyond what one transaction call may take, is stuck in a call without
/// a time-out; a restart is always safe.
const STUCK: Duration = Duration::from_secs(90);

/// Runs the service until it is asked to stop or cannot go on.
pub fn run(settings: Settings) -> Exit {
    let supervisor = Supervisor::new();
    leave_on_panic();
    let leave = System::new().block_on(serve(Arc::new(settings), supervisor));
    match leave.exit {
        Exit::Done => tracing::info!("{}", leave.reason),
        _ => tracing::error!("leaving with exit code {}: {}", leave.exit.code(), leave.reason),
    }
    leave.exit
}

/// A panic anywhere ends the process: nothing goes on half alive.
fn leave_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("a part of the service panicked; leaving with exit code 1: {panic}");
        std::process::exit(i32::from(Exit::Failed.code()));
    }));
}

async fn serve(settings: Arc<Settings>, supervisor: Supervisor) -> Leave {
    let metrics = crate::observe::metrics::install();
    let board = StatusBoard::new(crate::engine::monitor::about(&settings));
    let server = match http::serve(settings.http.listen, board.clone(), metrics) {
        Ok((server, address)) => {
            tracing::info!("status, metrics and health on http://{address}");
            server
        }
        Err(error) => {
            let reason = format!("http.listen = {}: {error}", settings.http.listen);
            return Leave { exit: Exit::Usage, reason };
        }
    };
    let stuck = STUCK + settings.delivery.transaction_timeout * 2;
    let server_handle = server.handle();
    actix::spawn(server);
    let stop = Arc::new(AtomicBool::new(false));
    let arbiters: Vec<_> = (0..settings.instance.threads).map(|_| Arbiter::new()).collect();
    let io = std::thread::Builder::new().name("tallyguard-io".to_owned()).spawn({
        let (settings, supervisor, stop, board) = (settings, supervisor.clone(), Arc::clone(&stop), board.clone());
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        move || {
            if let Err((exit, reason)) = work(&settings, &supervisor, &stop, &board, handles) {
                supervisor.leave(exit, reason);
            }
        }
    });
    let io = match io {
        Ok(io) => io,
        Err(error) => return Leave { exit: Exit::Failed, reason: format!("no thread for I/O: {error}") },
    };
    let leave = await_leave(&supervisor, &stop, &board, stuck).await;
    server_handle.stop(false).await;
    await_end(io).await;
    for arbiter in arbiters {
        arbiter.stop();
    }
    leave
}

/// The first reason to leave; a signal asks the I/O thread, which then gives the reason.
async fn await_leave(supervisor: &Supervisor, stop: &AtomicBool, board: &StatusBoard, stuck: Duration) -> Leave {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return Leave { exit: Exit::Failed, reason: "signals cannot be waited for".to_owned() };
    };
    let mut watchdog = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            leave = supervisor.wait() => return leave,
            _ = terminate.recv() => stop.store(true, Ordering::SeqCst),
            _ = interrupt.recv() => stop.store(true, Ordering::SeqCst),
            _ = watchdog.tick() => {
                if board.since_heartbeat(clock::monotonic_ms()) > stuck {
                    supervisor.fail("the I/O thread has not come round for too long; a restart is safe");
                }
            }
        }
    }
}

/// Gives the I/O thread a moment to end; a stuck one is left behind, and ends with the process.
async fn await_end(io: JoinHandle<()>) {
    for _ in 0..200 {
        if io.is_finished() {
            let _ = io.join();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!("the I/O thread does not end; leaving without it");
}

/// Everything that the I/O thread does, from the first connection to the last commit.
fn work(
    settings: &Settings,
    supervisor: &Supervisor,
    stop: &Arc<AtomicBool>,
    board: &StatusBoard,
    arbiters: Vec<actix::ArbiterHandle>,
) -> Result<(), (Exit, String)> {
    let failed = |what: &str, error: &dyn std::fmt::Display| (Exit::Failed, format!("{what}: {error}"));
    let mut monitor = Monitor::new(board.clone());
    monitor.heartbeat();
    let kafka = kafka_settings(settings);
    let mut reader = KafkaReader::new(kafka.clone());
    let cluster = await_cluster(&kafka, &mut reader, settings.kafka.startup_timeout, stop, &mut monitor)?;
    monitor.connected(&cluster.cluster_id);
    for remark in &cluster.remarks {
        tracing::warn!("{remark}");
    }
    let mut log = KafkaLog::join(&kafka, cluster.message_max_bytes)
        .map_err(|error| (Exit::Usage, format!("kafka.properties: {error:#}")))?;
    fence_predecessor(&mut log, settings.kafka.startup_timeout, stop, &mut monitor)?;
    let store = Arc::new(open_store(&settings.instance.state_dir, &mut monitor)?);
    let doorbell = log.doorbell();
    let (reports, report_line) = bounded(REPORTS_MAX);
    let (recovery, requests) = bounded(1_024);
    // The worker answers what it was asked, so these three hold at most one entry per partition and request.
    let (answers, answer_line) = unbounded();
    let (statistics_events, statistics_line) = unbounded();
    let (snapshot_events, snapshot_line) = unbounded();
    let statistics_options = statistics_options(settings, &cluster)?;
    let worker = RecoveryWorker {
        reader,
        topic: Arc::from(settings.source.topic.as_str()),
        configured: configured(settings),
        store: Arc::clone(&store),
        progress: statistics_options.as_ref().map(ProgressProbe::new),
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
            Some(spawned.map_err(|error| failed("no thread for statistics", &error))?)
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
        arbiters,
        reports: (reports, report_line),
        recovery,
        answers: answer_line,
        statistics_events: statistics_line,
        snapshot_events: snapshot_line,
        doorbell,
        stop: Arc::clone(stop),
        supervisor: supervisor.clone(),
        monitor,
        statistics: StatisticsLine::new(writer, millis(settings.stats.flush_interval)),
        snapshots: SnapshotSchedule::new(snapshotter, snapshot_pace(settings)),
    };
    let mut cycle = CommitCycle::new(cycle_settings(settings));
    cycle.writer_is_ready();
    IoThread::new(log, cycle, wiring, millis(settings.kafka.startup_timeout)).run();
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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

fn cycle_settings(settings: &Settings) -> CycleSettings {
    CycleSettings {
        mode: match settings.delivery.mode {
            Mode::ExactlyOnce | Mode::AtLeastOnce | Mode::AtMostOnce => DeliveryMode::ExactlyOnce,
        },
        max_commit_interval_ms: millis(settings.delivery.max_commit_interval),
        settle_ms: SETTLE_MS,
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
