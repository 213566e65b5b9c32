//! One run: some processes, some traffic, everything that can go wrong; then everything heals, and the judges come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Once};

use parking_lot::Mutex;
use tallyguard::cli::exit::Exit;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::PartitionState;
use tallyguard::domain::time::Watermark;
use tallyguard::protocol::output::Destination;
use tallyguard::reconcile::compare::{
    Guard, compare_alert_records, compare_dead_letters, compare_late_records, compare_orders, compare_statistics,
};
use tallyguard::reconcile::recount::{Recount, recount};

use crate::chance::{Broken, Chance, Faults};
use crate::database::Database;
use crate::disk::Disk;
use crate::epilogue::epilogue;
use crate::kafka::{Kafka, index, partition_id};
use crate::process::{Killed, Process, Setup, World};
use crate::traffic::{Configuration, Traffic};

/// Machines, and the instance that runs on each: two of them know the same one, so that one can be replaced while it sleeps.
const MACHINES: [&str; 4] = ["a", "b", "a", "c"];
const QUANTA: u64 = 6_000;
const PARTITIONS_MAX: usize = 6;
/// Virtual time that a healed world may take.
const HEALING_MS: u64 = 180_000;
/// How long nothing may change any more: statistics and snapshots have gone by then.
const SETTLED_MS: u64 = 600;

pub struct Machine {
    id: &'static str,
    process: RefCell<Option<Process>>,
    disk: Disk,
    /// When the next process starts; `None`: not by itself.
    starts_at_ms: Cell<Option<u64>>,
}

pub struct Crew {
    chance: Arc<Chance>,
    machines: Vec<Machine>,
    incarnations: Cell<u64>,
    /// What a process that starts now is configured with, unless somebody makes a mistake.
    pub configuration: Cell<Configuration>,
    /// Partitions are added to the topic, or somebody makes mistakes: a mistake with a new partition would be its beginning.
    is_extended: bool,
    /// Nothing is mended any more.
    is_over: Cell<bool>,
    /// How deep processes are preempted by each other.
    depth: Cell<u32>,
    world: RefCell<Option<World>>,
}

impl Crew {
    pub fn world(&self) -> World {
        self.world.borrow().clone().expect("made at once")
    }

    /// Some process does something.
    fn quantum(&self) {
        let machine = &self.machines[self.chance.index(self.machines.len())];
        // One that is preempted further up the stack stands still.
        let Ok(mut slot) = machine.process.try_borrow_mut() else { return };
        let Some(process) = slot.as_mut() else {
            if machine.starts_at_ms.get().is_some_and(|at| at <= self.chance.now_ms()) {
                machine.starts_at_ms.set(None);
                self.incarnations.set(self.incarnations.get() + 1);
                let configuration = Configuration { is_wrong: self.makes_a_mistake(), ..self.configuration.get() };
                let setup = Setup {
                    id: machine.id.to_owned(),
                    incarnation: self.incarnations.get(),
                    configuration,
                    disk: machine.disk.clone(),
                };
                *slot = Some(Process::start(&self.world(), setup));
            }
            return;
        };
        let again_at = self.chance.now_ms() + self.chance.below(3_000);
        let depth = self.depth.get();
        let outcome = catch_unwind(AssertUnwindSafe(|| process.work()));
        // A killed process unwinds through those whom it had let go on.
        self.depth.set(depth);
        match outcome {
            Ok(true) => return,
            Ok(false) => {
                let leave = process.reason().expect("a reason to leave");
                self.chance.note(|| format!("{} ({}): leaves, {leave:?}", process.id, process.incarnation));
                let process = slot.take().expect("it ran");
                match leave.exit {
                    Exit::Done => process.leave(),
                    Exit::Fenced => {
                        self.chance.reached("left because it was replaced");
                        // Whoever took its place has it.
                        machine.starts_at_ms.set(None);
                        process.die();
                        return;
                    }
                    Exit::Refused => {
                        process.die();
                        if self.is_over.get() {
                            return;
                        }
                    }
                    Exit::Failed if leave.reason.contains("not known to be decided") => process.die(),
                    _ => panic!("a process left for no good reason: {leave:?}"),
                }
            }
            Err(payload) if payload.is::<Killed>() => {
                self.chance.reached("killed");
                slot.take().expect("it ran").die();
                match self.chance.below(10) {
                    0..2 => {
                        self.chance.reached("disk lost");
                        machine.disk.wipe();
                    }
                    2..5 => machine.disk.cut_power(),
                    _ => {}
                }
            }
            Err(payload) => resume_unwind(payload),
        }
        machine.starts_at_ms.set(Some(again_at));
    }

    fn makes_a_mistake(&self) -> bool {
        let world = self.world();
        let kafka = world.kafka.lock();
        let is_possible = !self.is_extended && kafka.committed.len() == kafka.source.len();
        is_possible && self.chance.faults().trouble > 0 && self.chance.per_mille(50)
    }

    /// Has everybody who is not preempted go on until then.
    pub fn run_until(&self, until_ms: u64) {
        let deep = self.depth.get();
        self.depth.set(deep + 1);
        while self.chance.now_ms() < until_ms {
            if deep < 3 {
                for _ in 0..3 {
                    self.quantum();
                }
            }
            let left = until_ms.saturating_sub(self.chance.now_ms());
            // Who only waits for a long time need not look at every millisecond.
            self.world().tick((1 + self.chance.below(1 + left / 40)).min(left));
        }
        self.depth.set(deep);
    }

    fn is_running(&self, at: usize) -> bool {
        self.machines[at].process.borrow().is_some() || self.machines[at].starts_at_ms.get().is_some()
    }

    /// Operators and accidents.
    fn happening(&self) {
        let at = self.chance.index(self.machines.len());
        let in_a_moment = Some(self.chance.now_ms() + self.chance.below(500));
        match self.chance.below(400) {
            // On another machine, under an id that may be in use.
            0..8 if !self.is_running(at) => self.machines[at].starts_at_ms.set(in_a_moment),
            10..12 => {
                if let Some(process) = self.machines[at].process.borrow().as_ref() {
                    process.ask_to_stop();
                }
            }
            // New rules: the next processes have them, and meet partitions that others have left with the old ones.
            12 if self.configuration.get().rules < Configuration::NEWEST => {
                let now = self.configuration.get();
                self.configuration.set(Configuration { rules: now.rules + 1, ..now });
                self.chance.reached("rules changed");
            }
            13 => self.machines[at].disk.rot(),
            14..16 => {
                let world = self.world();
                let mut kafka = world.kafka.lock();
                let partition = partition_id(self.chance.index(kafka.source.len()));
                kafka.retain(partition);
            }
            16 if self.is_extended => {
                let world = self.world();
                let mut kafka = world.kafka.lock();
                if kafka.source.len() < PARTITIONS_MAX {
                    kafka.extend();
                    self.chance.reached("partition added");
                }
            }
            _ => {}
        }
    }

    /// Those who run with anything else than what is in force now are stopped, to start again with it.
    fn bring_up_to_date(&self) {
        for machine in &self.machines {
            if let Ok(slot) = machine.process.try_borrow()
                && let Some(process) = slot.as_ref()
                && process.configuration != self.configuration.get()
            {
                process.ask_to_stop();
            }
        }
    }

    /// Kills whoever runs, and loses the disks of some.
    pub fn kill_everybody(&self) {
        for machine in &self.machines {
            if let Some(process) = machine.process.borrow_mut().take() {
                process.die();
            }
            machine.starts_at_ms.set(None);
            if self.chance.per_mille(300) {
                machine.disk.wipe();
            }
        }
    }

    /// Starts those that have an id of their own; whoever refuses stays away.
    pub fn start_over(&self) {
        self.is_over.set(true);
        for machine in [&self.machines[0], &self.machines[1]] {
            machine.starts_at_ms.set(Some(0));
        }
    }

    /// The states of all partitions, out of the hands of who has them.
    fn states(&self) -> Vec<PartitionState> {
        let processes = self.machines.iter().map(|machine| machine.process.borrow());
        processes.filter_map(|process| process.as_ref().map(Process::states)).flatten().collect()
    }
}

/// What a run was like.
pub struct Report {
    pub coverage: BTreeMap<&'static str, u64>,
    pub trace: Vec<String>,
}

/// Why a run failed.
pub struct Failure {
    pub why: String,
    pub end_of_trace: String,
}

thread_local! {
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

/// A panic of a run is its result, and is not printed.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !RUNS.get() {
                usual(info);
            }
        }));
    });
}

/// Runs a seed to its end; a broken promise is the error.
pub fn run(seed: u64, broken: Option<Broken>, is_traced: bool) -> Result<Report, Failure> {
    hush();
    let chance = Arc::new(Chance::new(seed, broken, is_traced));
    RUNS.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| story(&chance)));
    RUNS.set(false);
    match outcome {
        Ok(()) => Ok(Report { coverage: chance.coverage(), trace: chance.trace() }),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let why = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure { why: why.unwrap_or_else(|| "a panic".to_owned()), end_of_trace: chance.end_of_trace() })
        }
    }
}

fn story(chance: &Arc<Chance>) {
    let partitions = 1 + chance.index(4);
    let kafka = Arc::new(Mutex::new(Kafka::new(Arc::clone(chance), partitions)));
    let crew = Rc::new(Crew {
        chance: Arc::clone(chance),
        machines: MACHINES
            .iter()
            .map(|id| Machine {
                id,
                process: RefCell::new(None),
                disk: Disk::new(Arc::clone(chance)),
                starts_at_ms: Cell::new(None),
            })
            .collect(),
        incarnations: Cell::new(0),
        configuration: Cell::new(Configuration { rules: 1, orders: chance.per_mille(300), is_wrong: false }),
        is_extended: chance.per_mille(300),
        is_over: Cell::new(false),
        depth: Cell::new(0),
        world: RefCell::new(None),
    });
    let others: Weak<Crew> = Rc::downgrade(&crew);
    let world = World {
        chance: Arc::clone(chance),
        kafka: Arc::clone(&kafka),
        database: Arc::new(Mutex::new(Database::default())),
        others: Rc::new(move |until_ms| {
            if let Some(crew) = others.upgrade() {
                crew.run_until(until_ms);
            }
        }),
    };
    *crew.world.borrow_mut() = Some(world.clone());
    crew.machines[0].starts_at_ms.set(Some(0));
    if chance.per_mille(700) {
        crew.machines[1].starts_at_ms.set(Some(0));
    }
    chance.set_faults(
        [
            Faults { trouble: 0, kill: 0, pause: 5 },
            Faults { trouble: 30, kill: 1, pause: 3 },
            Faults { trouble: 30, kill: 4, pause: 0 },
            Faults { trouble: 120, kill: 2, pause: 5 },
            Faults { trouble: 300, kill: 1, pause: 1 },
        ][chance.index(5)],
    );
    let mut traffic = Traffic::new(Arc::clone(chance));
    for number in 0..QUANTA {
        crew.quantum();
        crew.happening();
        if chance.per_mille(60) {
            traffic.produce(&mut kafka.lock().source);
        }
        if chance.per_mille(300) {
            world.tick(chance.below(6));
        }
        if number % 500 == 499 {
            assert_consistent(&crew, &kafka.lock());
        }
        if traffic.is_over() && chance.per_mille(2) {
            break;
        }
    }
    chance.note(|| "everything heals".to_owned());
    chance.set_faults(Faults::default());
    heal(&crew, &world, &mut traffic);
    judge(&crew, &world);
    if chance.per_mille(300) {
        epilogue(&crew, &world, &mut traffic);
    }
    crew.world.borrow_mut().take();
    for machine in &crew.machines {
        machine.process.borrow_mut().take();
    }
}

/// Without faults everything must be worked off, and nothing may be left hanging.
fn heal(crew: &Crew, world: &World, traffic: &mut Traffic) {
    let until_ms = world.chance.now_ms() + HEALING_MS;
    world.kafka.lock().release();
    let mut settled_at_ms = None;
    loop {
        if !traffic.is_over() {
            traffic.produce(&mut world.kafka.lock().source);
        }
        if (0..crew.machines.len()).all(|at| !crew.is_running(at)) {
            crew.machines[0].starts_at_ms.set(Some(0));
        }
        crew.bring_up_to_date();
        crew.run_until(world.chance.now_ms() + 20);
        let is_done = {
            let kafka = world.kafka.lock();
            traffic.is_over() && kafka.is_caught_up() && kafka.is_quiet() && world.database.lock().is_quiet()
        };
        let now = world.chance.now_ms();
        let settled = *settled_at_ms.get_or_insert(now);
        if !is_done {
            settled_at_ms = None;
        } else if now - settled > SETTLED_MS && rows_differ(crew, world).is_empty() {
            return;
        }
        if now >= until_ms {
            let rows = rows_differ(crew, world);
            let state = world.kafka.lock().describe();
            panic!("not settled {HEALING_MS} ms after everything had healed\n{state}\n{rows:?}");
        }
    }
}

fn expected_at(crew: &Crew, kafka: &Kafka, ends: &BTreeMap<PartitionId, Offset>) -> Recount {
    recount(&kafka.source_before(ends), &crew.configuration.get().parameters(&kafka.rule_versions))
}

fn rows_differ(crew: &Crew, world: &World) -> Vec<String> {
    let kafka = world.kafka.lock();
    let expected = expected_at(crew, &kafka, &kafka.committed_offsets());
    let database = world.database.lock();
    let mut found = compare_statistics(&expected.statistics, &database.rows(), Guard::Compared);
    found.extend(compare_orders(&expected.orders, &database.orders()));
    found.iter().map(ToString::to_string).collect()
}

/// Whenever no transaction is being decided, what is committed is what the committed records add up to.
fn assert_consistent(crew: &Crew, kafka: &Kafka) {
    if kafka.is_deciding() {
        return;
    }
    let expected = expected_at(crew, kafka, &kafka.committed_offsets());
    let mut found = compare_alert_records(&expected.alerts, &kafka.committed_outputs(Destination::Alerts));
    found.extend(compare_dead_letters(&expected.dead_letters, &kafka.committed_outputs(Destination::DeadLetter)));
    found.extend(compare_late_records(&expected.late, &kafka.committed_outputs(Destination::Late)));
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} differences:\n{}\n{}", lines.len(), lines.join("\n"), kafka.describe());
}

fn judge(crew: &Crew, world: &World) {
    let states = crew.states();
    let kafka = world.kafka.lock();
    assert!(!kafka.is_deciding());
    assert_consistent(crew, &kafka);
    let committed = kafka.committed_offsets();
    let expected = expected_at(crew, &kafka, &committed);
    let outcomes = expected.outcomes;
    let records = kafka.source_before(&committed).len();
    let sum = outcomes.counted + outcomes.duplicate + outcomes.late + outcomes.dead_letter;
    assert_eq!(sum, records as u64, "{outcomes:?}");
    assert_eq!(outcomes.late, kafka.committed_outputs(Destination::Late).len() as u64, "late records");
    assert_eq!(outcomes.dead_letter, kafka.committed_outputs(Destination::DeadLetter).len() as u64, "dead letters");
    for mut state in states {
        // Whether the last flush is acknowledged is not known.
        let parameters = state.parameters().clone();
        state.take_up(parameters, Watermark::NONE);
        if let Some(flush) = state.take_flush() {
            state.acknowledge_flush(flush.through);
        }
        let partition = state.partition();
        let source = &kafka.source[index(partition)];
        // One that is still replaying has not come to it yet, and in one without records nothing may be committed.
        if state.next() != Offset(source.end()) || !committed.contains_key(&partition) {
            continue;
        }
        let uninterrupted = crew.configuration.get().uninterrupted(partition, source, &kafka.rule_versions);
        let (has, should) = (state.canonical_lines(), uninterrupted.canonical_lines());
        let only_in = |one: &[Vec<u8>], other: &[Vec<u8>]| -> Vec<String> {
            one.iter().filter(|line| !other.contains(line)).map(|line| line.escape_ascii().to_string()).collect()
        };
        assert!(
            has == should,
            "the state of {partition} is not that of its records: {:?} should be {:?}",
            only_in(&has, &should),
            only_in(&should, &has)
        );
        world.chance.reached("state compared");
    }
    for ((rule, partition, version), first) in &world.database.lock().rule_history {
        let committed = kafka.rule_versions.get(&(rule.clone(), *partition)).and_then(|versions| versions.get(version));
        assert_eq!(
            committed.map(|version| version.from),
            Some(*first),
            "rule_history of {rule} in {partition}, version {version}: {:?}",
            kafka.rule_versions.get(&(rule.clone(), *partition))
        );
    }
    for (what, found) in [
        ("an alert", expected.alerts.len()),
        ("a late record", expected.late.len()),
        ("a dead letter", expected.dead_letters.len()),
    ] {
        if found > 0 {
            world.chance.reached(what);
        }
    }
}
