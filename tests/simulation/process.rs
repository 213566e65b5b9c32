//! One process of the service: the production engine's I/O loop, partition actors and recovery worker, on simulated threads,
//! a simulated log, disk and database.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::unbounded;
use parking_lot::Mutex;
use tallyguard::domain::partition::PartitionState;
use tallyguard::engine::io::{IoThread, Wiring};
use tallyguard::engine::monitor::Monitor;
use tallyguard::engine::outputs::TopicLimits;
use tallyguard::engine::recovery::RecoveryWorker;
use tallyguard::engine::snapshots::{SnapshotPace, SnapshotSchedule};
use tallyguard::engine::statistics::StatisticsLine;
use tallyguard::engine::supervisor::{Leave, Supervisor};
use tallyguard::log::Doorbell;
use tallyguard::observe::report::About;
use tallyguard::observe::status::StatusBoard;
use tallyguard::protocol::cycle::{CommitCycle, CycleSettings, DeliveryMode};

use crate::chance::{Broken, Chance};
use crate::client::{SimLog, SimReader};
use crate::database::{Database, Writing};
use crate::disk::{Disk, Storing};
use crate::group::Incarnation;
use crate::kafka::{Kafka, TOPIC};
use crate::threads::{SimHosts, Threads};
use crate::traffic::Configuration;

/// What a killed process unwinds with.
pub struct Killed;

/// The world around a process.
#[derive(Clone)]
pub struct World {
    pub chance: Arc<Chance>,
    pub kafka: Arc<Mutex<Kafka>>,
    pub database: Arc<Mutex<Database>>,
    /// Has the other processes run until that time: they go on while one is preempted.
    pub others: Rc<dyn Fn(u64)>,
}

impl World {
    /// Time passes, for everybody.
    pub fn tick(&self, ms: u64) {
        self.chance.advance(ms);
        self.kafka.lock().tick();
        self.database.lock().tick(&self.chance);
    }

    /// Whatever may happen to a process between two instructions.
    pub fn interlude(&self) {
        let faults = self.chance.faults();
        if self.chance.per_mille(faults.kill) {
            self.chance.note(|| "killed".to_owned());
            std::panic::resume_unwind(Box::new(Killed));
        }
        if self.chance.per_mille(faults.pause) {
            let ms = [5, 50, 500, 3_000, 9_000, 20_000][self.chance.index(6)];
            let ms = 1 + self.chance.below(ms);
            self.chance.note(|| format!("preempted for {ms} ms"));
            (self.others)(self.chance.now_ms() + ms);
        }
    }
}

/// A running process.
pub struct Process {
    pub id: String,
    pub incarnation: Incarnation,
    pub configuration: Configuration,
    io: IoThread<SimLog, SimHosts>,
    threads: Rc<Threads>,
    stop: Arc<AtomicBool>,
    supervisor: Supervisor,
    world: World,
}

/// How a process is configured, and what it finds.
pub struct Setup {
    pub id: String,
    pub incarnation: Incarnation,
    pub configuration: Configuration,
    pub disk: Disk,
}

impl Process {
    /// As the service starts: its writer first, which settles what a predecessor left; then it joins the group.
    pub fn start(world: &World, setup: Setup) -> Self {
        let Setup { id, incarnation, configuration, disk } = setup;
        let configured = configuration.configured();
        world.chance.note(|| format!("{id} ({incarnation}): starts"));
        let reads_early = world.chance.is_broken(Broken::OffsetsReadBeforeTheWriterIsSettled);
        let early = if reads_early { world.kafka.lock().committed.clone() } else { BTreeMap::new() };
        let mut epoch = None;
        while epoch.is_none() {
            world.tick(1 + world.chance.below(20));
            epoch = world.kafka.lock().initialise(&id).ok();
        }
        let epoch = epoch.expect("given");
        world.kafka.lock().group.join(&id, incarnation);
        let topic: Arc<str> = Arc::from(TOPIC);
        let (reports, from_actors) = unbounded();
        let (to_io, report_line) = unbounded();
        let (recovery, requests) = unbounded();
        let (answers, from_recovery) = unbounded();
        let (to_io_answers, answer_line) = unbounded();
        let (statistics_events, statistics_line) = unbounded();
        let (snapshot_events, snapshot_line) = unbounded();
        let (_, checkpoint_requests) = unbounded();
        let doorbell = Arc::new(Doorbell::default());
        let database = Arc::clone(&world.database);
        let statistics = configured.statistics;
        let worker = RecoveryWorker {
            reader: SimReader { world: world.clone(), early },
            topic: Arc::clone(&topic),
            configured,
            mode: DeliveryMode::ExactlyOnce,
            store: Arc::new(disk.clone()),
            progress: Some(Box::new(move |partition| database.lock().progress(partition))),
            requests,
            answers,
            doorbell: Arc::clone(&doorbell),
        };
        let (storing, disk_line) = Storing::new(Arc::clone(&world.chance), disk, snapshot_events);
        let cluster = Arc::clone(&world.kafka);
        let committed = move |partition| cluster.lock().decided(partition);
        let (writing, database_line) =
            Writing::new(Arc::clone(&world.chance), Arc::clone(&world.database), statistics_events, committed);
        let threads = Rc::new(Threads {
            world: world.clone(),
            mailboxes: RefCell::default(),
            storing,
            writing: RefCell::new(statistics.then_some(writing)),
            recovery: RefCell::new((worker, Vec::new())),
            reports: (from_actors, to_io),
            answers: (from_recovery, to_io_answers),
        });
        let log = SimLog {
            world: world.clone(),
            id: id.clone(),
            incarnation,
            threads: Rc::clone(&threads),
            generation: 0,
            epoch,
            positions: BTreeMap::new(),
            disturbed: None,
            was_replaced: false,
            next_heartbeat_ms: 0,
        };
        let (stop, supervisor) = (Arc::new(AtomicBool::new(false)), Supervisor::new());
        let pace = SnapshotPace { interval_ms: 700, min_pause_ms: 100, timeout_ms: 5_000 };
        let line: Option<Box<dyn tallyguard::stats::StatisticsSink>> =
            if statistics { Some(Box::new(database_line)) } else { None };
        let wiring = Wiring {
            topic,
            limits: TopicLimits { late: 1_000_000, dead_letter: 1_000_000 },
            hosts: SimHosts(Rc::clone(&threads)),
            reports: (reports, report_line),
            recovery,
            answers: answer_line,
            statistics_events: statistics_line,
            snapshot_events: snapshot_line,
            checkpoint_requests,
            doorbell,
            stop: Arc::clone(&stop),
            supervisor: supervisor.clone(),
            monitor: Monitor::new(StatusBoard::new(about(&id))),
            statistics: StatisticsLine::new(line, 200),
            snapshots: SnapshotSchedule::new(disk_line, pace),
        };
        let mut cycle = CommitCycle::new(CycleSettings {
            mode: DeliveryMode::ExactlyOnce,
            max_commit_interval_ms: 100,
            settle_ms: 5,
            catch_up_pause_ms: 40,
            catching_up_from: 20,
            outputs_per_commit_max: 20,
            recommit_ms: 30_000,
        });
        cycle.writer_is_ready();
        let io = IoThread::new(log, cycle, wiring, 60_000);
        Self { id, incarnation, configuration, io, threads, stop, supervisor, world: world.clone() }
    }

    /// One of its threads goes on for a moment; false when the process is leaving.
    pub fn work(&mut self) -> bool {
        if self.world.chance.below(3) > 0 {
            self.threads.work();
            return !self.supervisor.is_leaving();
        }
        self.io.round()
    }

    pub fn ask_to_stop(&self) {
        self.world.chance.note(|| format!("{} ({}): is asked to stop", self.id, self.incarnation));
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn reason(&self) -> Option<Leave> {
        self.supervisor.reason()
    }

    /// What its threads had in hand may still take effect.
    pub fn die(self) {
        self.threads.storing.die();
        if let Some(writing) = self.threads.writing.borrow().as_ref() {
            writing.die();
        }
    }

    /// What it knows of its partitions, and no more of it afterwards.
    pub fn states(&self) -> Vec<PartitionState> {
        self.threads.states()
    }

    /// In order: the group is told.
    pub fn leave(self) {
        self.world.kafka.lock().group.leave(&self.id, self.incarnation);
    }
}

fn about(id: &str) -> About {
    About {
        instance_id: id.to_owned(),
        group: "g".to_owned(),
        topic: TOPIC.to_owned(),
        mode: "exactly-once".to_owned(),
        started_at_ms: 0,
        statistics_enabled: true,
        tolerable_checkpoint_failures: 3,
        rules: Vec::new(),
    }
}
