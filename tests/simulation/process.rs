//! One process of the service: the production engine's I/O loop, partition actors and recovery worker, on simulated threads,
//! a simulated log, disk and database.
//!
//! Each call to the log is a place where the process may be killed, or be preempted for any time while the others go on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::unbounded;
use parking_lot::Mutex;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::record::SourceRecord;
use tallyguard::engine::actor::PartitionActor;
use tallyguard::engine::hosts::{Feed, Host, Hosts, NotTaken};
use tallyguard::engine::io::{IoThread, Wiring};
use tallyguard::engine::monitor::Monitor;
use tallyguard::engine::outputs::TopicLimits;
use tallyguard::engine::recovery::{RecoveryWorker, Wanted};
use tallyguard::engine::snapshots::{SnapshotPace, SnapshotSchedule};
use tallyguard::engine::statistics::StatisticsLine;
use tallyguard::engine::supervisor::{Leave, Supervisor};
use tallyguard::log::{Doorbell, Log, LogEvent, PartitionFacts, Read, RecordBatch, RecoveryReader};
use tallyguard::observe::report::About;
use tallyguard::observe::status::StatusBoard;
use tallyguard::protocol::cycle::{CommitCycle, CycleSettings, DeliveryMode, Outcome, ReadBack, ReadBackRequest, Step};
use tallyguard::protocol::recovery::Configured;

use crate::chance::Chance;
use crate::database::{Database, Writing};
use crate::disk::{Disk, Storing};
use crate::kafka::{Incarnation, Kafka, Record, Refused, Request, TOPIC, index};

/// Records that one read gives at most.
const BATCH_MAX: usize = 7;
/// Messages that an actor's mailbox holds.
const MAILBOX_MAX: usize = 64;

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
    fn interlude(&self) {
        let faults = self.chance.faults();
        if self.chance.per_mille(faults.kill) {
            self.chance.note(|| "killed".to_owned());
            std::panic::resume_unwind(Box::new(Killed));
        }
        if self.chance.per_mille(faults.pause) {
            let ms = [5, 50, 500, 3_000, 9_000][self.chance.index(5)];
            let ms = 1 + self.chance.below(ms);
            self.chance.note(|| format!("preempted for {ms} ms"));
            (self.others)(self.chance.now_ms() + ms);
        }
    }
}

enum Message {
    Apply(SimBatch, Option<Offset>),
    TakeFlush,
    FlushAcknowledged(Offset),
    TakeSnapshot(bool),
}

struct Mailbox {
    actor: RefCell<PartitionActor>,
    messages: RefCell<VecDeque<Message>>,
    halted: Cell<bool>,
}

/// The threads of a process beside its I/O thread.
struct Threads {
    world: World,
    mailboxes: RefCell<Vec<Rc<Mailbox>>>,
    storing: Storing,
    writing: RefCell<Option<Writing>>,
    recovery: RefCell<(RecoveryWorker<SimReader>, Vec<Wanted>)>,
}

impl Threads {
    /// One of them does one thing.
    fn work(&self) {
        let actors = self.mailboxes.borrow().len();
        match self.world.chance.index(actors + 3) {
            0 => self.storing.work(),
            1 => {
                if let Some(writing) = self.writing.borrow_mut().as_mut() {
                    writing.work();
                }
            }
            2 => {
                let (worker, wanted) = &mut *self.recovery.borrow_mut();
                worker.attempt(wanted);
            }
            at => {
                let mailbox = Rc::clone(&self.mailboxes.borrow()[at - 3]);
                mailbox.work();
            }
        }
        self.mailboxes.borrow_mut().retain(|mailbox| !mailbox.halted.get());
    }
}

impl Mailbox {
    fn work(&self) {
        let message = self.messages.borrow_mut().pop_front();
        let mut actor = self.actor.borrow_mut();
        match message {
            None => {}
            Some(Message::Apply(batch, end)) => actor.take_batch(&batch, end),
            Some(Message::TakeFlush) => actor.take_flush(),
            Some(Message::FlushAcknowledged(through)) => actor.flush_acknowledged(through),
            Some(Message::TakeSnapshot(whole)) => actor.take_snapshot(whole),
        }
    }
}

#[derive(Clone)]
pub struct SimHost(Rc<Mailbox>);

impl SimHost {
    fn send(&self, message: Message) -> Result<(), NotTaken> {
        let mut messages = self.0.messages.borrow_mut();
        if messages.len() >= MAILBOX_MAX || self.0.halted.get() {
            return Err(NotTaken);
        }
        messages.push_back(message);
        Ok(())
    }
}

impl Host for SimHost {
    fn take_flush(&self) -> Result<(), NotTaken> {
        self.send(Message::TakeFlush)
    }

    fn flush_acknowledged(&self, through: Offset) -> Result<(), NotTaken> {
        self.send(Message::FlushAcknowledged(through))
    }

    fn take_snapshot(&self, whole: bool) -> Result<(), NotTaken> {
        self.send(Message::TakeSnapshot(whole))
    }

    fn halt(&self) {
        self.0.halted.set(true);
    }
}

impl Feed<SimBatch> for SimHost {
    fn apply(&self, batch: SimBatch, end: Option<Offset>) -> Result<(), NotTaken> {
        self.send(Message::Apply(batch, end))
    }
}

pub struct SimHosts(Rc<Threads>);

impl Hosts<SimBatch> for SimHosts {
    type Host = SimHost;

    fn start(&mut self, actor: PartitionActor) -> SimHost {
        let mailbox =
            Rc::new(Mailbox { actor: RefCell::new(actor), messages: RefCell::default(), halted: Cell::new(false) });
        self.0.mailboxes.borrow_mut().push(Rc::clone(&mailbox));
        SimHost(mailbox)
    }

    fn forget(&mut self, _partition: PartitionId) {}
}

/// Consecutive records of a partition.
pub struct SimBatch(Vec<(i64, Record)>);

impl RecordBatch for SimBatch {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> SourceRecord<'_> {
        let (offset, record) = &self.0[index];
        SourceRecord {
            offset: Offset(*offset),
            timestamp_ms: Some(record.timestamp_ms),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
        }
    }

    fn headers(&self, _index: usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        Vec::new()
    }
}

/// The recovery's own client.
pub struct SimReader {
    chance: Arc<Chance>,
    kafka: Arc<Mutex<Kafka>>,
}

impl RecoveryReader for SimReader {
    fn facts(&mut self, partitions: &[PartitionId]) -> Result<Vec<PartitionFacts>, String> {
        if self.chance.trouble() {
            return Err("as the dice fell".to_owned());
        }
        let facts = self.kafka.lock().facts(partitions);
        self.chance.note(|| match &facts {
            Ok(facts) => {
                let of = |it: &PartitionFacts| (it.partition, it.committed.as_ref().map(|(offset, _)| *offset));
                format!("recovery: committed {:?}", facts.iter().map(of).collect::<Vec<_>>())
            }
            Err(why) => format!("recovery: {why}"),
        });
        facts
    }

    fn read_back(&mut self, requests: &[ReadBackRequest]) -> Result<Vec<ReadBack>, String> {
        if self.chance.trouble() {
            return Err("as the dice fell".to_owned());
        }
        let found = self.kafka.lock().read_back(requests);
        if found.iter().flatten().any(|found| !found.outputs.is_empty()) {
            self.chance.reached("outputs found ahead");
        }
        found
    }
}

/// The log as the process has it: consumer and transactional writer.
struct SimLog {
    world: World,
    id: String,
    incarnation: Incarnation,
    threads: Rc<Threads>,
    /// As far as this process knows.
    generation: u32,
    epoch: u32,
    positions: Vec<Option<i64>>,
}

impl SimLog {
    fn kafka<T>(&self, act: impl FnOnce(&mut Kafka) -> T) -> T {
        act(&mut self.world.kafka.lock())
    }

    /// A client library waits by itself while the markers of the previous transaction are written.
    fn wait_for_markers(&self) {
        while self.kafka(|kafka| kafka.is_ending(&self.id)) {
            self.world.tick(1 + self.world.chance.below(20));
        }
    }

    fn refused(&self, refused: Refused) -> Outcome {
        let why = format!("{refused:?}");
        match refused {
            Refused::Concurrent => Outcome::Retriable(why),
            Refused::Fenced => {
                self.world.chance.reached("zombie rejected");
                Outcome::Fenced(why)
            }
            Refused::InvalidState => Outcome::Doubtful(why),
            Refused::UnknownMember | Refused::IllegalGeneration => Outcome::Abortable(why),
        }
    }

    /// What a request and its answer may suffer; `send` delivers the request.
    fn exchange(&self, late: Option<Request>, send: impl Fn(&mut Kafka) -> Result<(), Refused>) -> Outcome {
        let chance = &self.world.chance;
        let why = || "no answer".to_owned();
        if !chance.trouble() {
            return match self.kafka(&send) {
                Ok(()) => Outcome::Done,
                Err(refused) => self.refused(refused),
            };
        }
        match (chance.below(5), late) {
            // The request is lost; the client gives up.
            (0, _) => Outcome::Doubtful(why()),
            // The request is lost; the client knows.
            (1, _) => Outcome::Retriable("not sent".to_owned()),
            // The answer is lost.
            (2, _) => {
                let _ = self.kafka(&send);
                chance.reached("answer lost");
                Outcome::Doubtful(why())
            }
            // The request arrives when nobody waits for it any more.
            (3, Some(request)) => {
                let in_ms = chance.below(8_000);
                self.kafka(|kafka| kafka.later(in_ms, request));
                chance.reached("request late");
                Outcome::Doubtful(why())
            }
            // The request is sent again, and both arrive, one of them late.
            (4, Some(request)) => {
                let in_ms = chance.below(8_000);
                self.kafka(|kafka| kafka.later(in_ms, request));
                chance.reached("request duplicated");
                match self.kafka(&send) {
                    Ok(()) => Outcome::DoneDisturbed("sent again".to_owned()),
                    Err(refused) => self.refused(refused),
                }
            }
            _ => Outcome::Doubtful(why()),
        }
    }

    fn do_step(&mut self, step: &Step) -> Outcome {
        let (id, epoch) = (self.id.clone(), self.epoch);
        match step {
            Step::ReplaceWriter => {
                let given = Cell::new(None);
                let outcome = self.exchange(Some(Request::Initialise { writer: id.clone() }), |kafka| {
                    kafka.initialise(&id).map(|epoch| given.set(Some(epoch)))
                });
                match (outcome, given.get()) {
                    (Outcome::Done | Outcome::DoneDisturbed(_), Some(epoch)) => {
                        self.epoch = epoch;
                        Outcome::Done
                    }
                    (Outcome::Done | Outcome::DoneDisturbed(_), None) => Outcome::Retriable("not given".to_owned()),
                    (failure, _) => failure,
                }
            }
            Step::Begin => Outcome::Done,
            Step::Produce(outputs) => {
                self.wait_for_markers();
                let late = Request::Produce { writer: id.clone(), epoch, outputs: outputs.clone() };
                let outcome = self.exchange(Some(late), |kafka| kafka.produce(&id, epoch, outputs));
                match outcome {
                    // Records of a failed produce may not be repeated as they are: some may be in the transaction. And the
                    // broker knows a batch that comes twice by its sequence number.
                    Outcome::Retriable(why) => Outcome::Doubtful(why),
                    Outcome::DoneDisturbed(why) => Outcome::Doubtful(why),
                    outcome => outcome,
                }
            }
            Step::SendOffsets(commits) => {
                self.wait_for_markers();
                let member = (id.as_str(), self.incarnation, self.generation);
                self.exchange(None, |kafka| kafka.send_offsets(&id, epoch, member, commits))
            }
            Step::Commit | Step::Abort => {
                let commit = *step == Step::Commit;
                let late = Request::End { writer: id.clone(), epoch, commit };
                let outcome = self.exchange(Some(late), |kafka| kafka.end_transaction(&id, epoch, commit));
                if commit && !matches!(outcome, Outcome::Done) {
                    self.world.chance.reached("ambiguous commit");
                }
                outcome
            }
            Step::CommitOffsets(_) => panic!("{step:?} in a transaction"),
            Step::ProbeMembership => {
                if self.world.chance.trouble() {
                    return Outcome::Retriable("no answer".to_owned());
                }
                let replaced = self.kafka(|kafka| kafka.is_replaced(&self.id, self.incarnation));
                Outcome::Membership { replaced }
            }
            Step::ReadBack(requests) => {
                if self.world.chance.trouble() {
                    return Outcome::Retriable("no answer".to_owned());
                }
                match self.kafka(|kafka| kafka.read_back(requests)) {
                    Ok(found) => Outcome::ReadBack(found),
                    Err(why) => Outcome::Retriable(why),
                }
            }
        }
    }
}

impl Log for SimLog {
    type Batch = SimBatch;

    fn poll(&mut self) -> Vec<LogEvent> {
        self.world.interlude();
        let polled = self.kafka(|kafka| kafka.poll(&self.id, self.incarnation));
        let events = match polled {
            Some((generation, events)) => {
                self.generation = generation;
                events
            }
            None if self.kafka(|kafka| kafka.is_replaced(&self.id, self.incarnation)) => vec![LogEvent::Replaced],
            None => {
                self.positions.fill(None);
                self.kafka(|kafka| kafka.join(&self.id, self.incarnation));
                vec![LogEvent::Rejoined]
            }
        };
        if !events.is_empty() {
            self.world.chance.note(|| format!("{} ({}): {events:?}", self.id, self.incarnation));
        }
        events
    }

    fn start(&mut self, partition: PartitionId, from: Offset) -> Result<(), String> {
        let committed = self.kafka(|kafka| kafka.committed.get(&partition).map(|(offset, _)| *offset));
        if committed.is_some_and(|committed| from < committed) {
            self.world.chance.reached("recovered from a replay");
        }
        self.world.chance.note(|| format!("{} ({}): reads {partition} from {from}", self.id, self.incarnation));
        self.positions[index(partition)] = Some(from.0);
        Ok(())
    }

    fn stop(&mut self, partitions: &[PartitionId], release: bool) {
        self.world.interlude();
        for partition in partitions {
            self.positions[index(*partition)] = None;
        }
        if release {
            self.kafka(|kafka| kafka.give_back(&self.id, self.incarnation, partitions));
        }
    }

    fn read(&mut self, partition: PartitionId, max: usize) -> Read<SimBatch> {
        let Some(position) = self.positions[index(partition)] else { return Read::Nothing };
        let max = 1 + self.world.chance.index(BATCH_MAX.min(max));
        let kafka = self.world.kafka.lock();
        let source = &kafka.source[index(partition)];
        if position >= source.end() {
            return Read::Nothing;
        }
        let mut records = Vec::new();
        let mut next = position;
        while next < source.end() && records.len() < max {
            if let Some(record) = &source.entries[usize::try_from(next).expect("not negative")] {
                records.push((next, record.clone()));
            }
            next += 1;
        }
        let end = (next == source.end()).then_some(Offset(next));
        drop(kafka);
        self.positions[index(partition)] = Some(next);
        Read::Records { batch: SimBatch(records), end }
    }

    fn execute(&mut self, step: &Step) -> Outcome {
        self.world.interlude();
        self.world.tick(self.world.chance.below(4));
        let outcome = self.do_step(step);
        self.world.chance.note(|| format!("{} ({}): {} -> {}", self.id, self.incarnation, name(step), short(&outcome)));
        self.world.interlude();
        outcome
    }

    fn end_offset(&self, partition: PartitionId) -> Option<Offset> {
        Some(Offset(self.world.kafka.lock().source[index(partition)].end()))
    }

    fn wait(&self, timeout: Duration) {
        self.world.interlude();
        self.threads.work();
        let now = self.world.chance.now_ms();
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).clamp(1, 20);
        (self.world.others)(now + 1 + self.world.chance.below(ms));
    }
}

fn name(step: &Step) -> String {
    match step {
        Step::Produce(outputs) => {
            let ids = outputs.iter().map(|output| format!("{}/{}", output.id.partition, output.id.offset));
            format!("Produce({})", ids.collect::<Vec<_>>().join(" "))
        }
        Step::SendOffsets(commits) => {
            let offsets = commits.iter().map(|commit| format!("{}/{}", commit.partition, commit.offset));
            format!("SendOffsets({})", offsets.collect::<Vec<_>>().join(" "))
        }
        Step::ReadBack(requests) => {
            let asked = requests.iter().map(|request| format!("{}/{:?}", request.partition, request.outputs_from));
            format!("ReadBack({})", asked.collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::ReadBack(found) => {
            let parts =
                found.iter().map(|it| format!("{}: {:?} and {} outputs", it.partition, it.committed, it.outputs.len()));
            parts.collect::<Vec<_>>().join(", ")
        }
        other => format!("{other:?}"),
    }
}

/// A running process.
pub struct Process {
    pub id: String,
    pub incarnation: Incarnation,
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
    pub configured: Configured,
    pub disk: Disk,
}

impl Process {
    /// As the service starts: its writer first, which settles what a predecessor left; then it joins the group.
    pub fn start(world: &World, setup: Setup) -> Self {
        let Setup { id, incarnation, configured, disk } = setup;
        world.chance.note(|| format!("{id} ({incarnation}): starts"));
        let mut epoch = None;
        while epoch.is_none() {
            world.tick(1 + world.chance.below(20));
            epoch = world.kafka.lock().initialise(&id).ok();
        }
        let epoch = epoch.expect("given");
        world.kafka.lock().join(&id, incarnation);
        let topic: Arc<str> = Arc::from(TOPIC);
        let (reports, report_line) = unbounded();
        let (recovery, requests) = unbounded();
        let (answers, answer_line) = unbounded();
        let (statistics_events, statistics_line) = unbounded();
        let (snapshot_events, snapshot_line) = unbounded();
        let (_, checkpoint_requests) = unbounded();
        let doorbell = Arc::new(Doorbell::default());
        let database = Arc::clone(&world.database);
        let statistics = configured.statistics;
        let worker = RecoveryWorker {
            reader: SimReader { chance: Arc::clone(&world.chance), kafka: Arc::clone(&world.kafka) },
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
        });
        let log = SimLog {
            world: world.clone(),
            id: id.clone(),
            incarnation,
            threads: Rc::clone(&threads),
            generation: 0,
            epoch,
            positions: vec![None; world.kafka.lock().source.len()],
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
            outputs_per_commit_max: 20,
            recommit_ms: 30_000,
        });
        cycle.writer_is_ready();
        let io = IoThread::new(log, cycle, wiring, 60_000);
        Self { id, incarnation, io, threads, stop, supervisor, world: world.clone() }
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

    /// In order: the group is told.
    pub fn leave(self) {
        self.world.kafka.lock().leave(&self.id, self.incarnation);
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
