//! One run: some processes, some traffic, everything that can go wrong; then everything heals, and the judges come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use parking_lot::Mutex;
use tallyguard::cli::exit::Exit;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::protocol::output::Destination;
use tallyguard::reconcile::compare::{
    Guard, compare_alert_records, compare_dead_letters, compare_late_records, compare_statistics,
};
use tallyguard::reconcile::recount::{Recount, recount};

use crate::chance::{Broken, Chance, Faults};
use crate::database::Database;
use crate::disk::Disk;
use crate::kafka::Kafka;
use crate::process::{Killed, Process, Setup, World};
use crate::traffic::{Traffic, configured, parameters};

/// Machines, and the instance that runs on each: two of them know the same one, so that one can be replaced while it sleeps.
const MACHINES: [&str; 4] = ["a", "b", "a", "c"];
const QUANTA: u64 = 6_000;
/// Virtual time that a healed world may take.
const HEALING_MS: u64 = 180_000;

struct Machine {
    id: &'static str,
    process: RefCell<Option<Process>>,
    disk: Disk,
    /// When the next process starts; `None`: not by itself.
    starts_at_ms: Cell<Option<u64>>,
}

struct Crew {
    chance: Arc<Chance>,
    machines: Vec<Machine>,
    incarnations: Cell<u64>,
    /// How deep processes are preempted by each other.
    depth: Cell<u32>,
    world: RefCell<Option<World>>,
}

impl Crew {
    fn world(&self) -> World {
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
                let setup = Setup {
                    id: machine.id.to_owned(),
                    incarnation: self.incarnations.get(),
                    configured: configured(),
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
                    Exit::Failed if leave.reason.contains("not known to be decided") => process.die(),
                    _ => panic!("a process left for no good reason: {leave:?}"),
                }
            }
            Err(payload) if payload.is::<Killed>() => {
                self.chance.reached("killed");
                slot.take().expect("it ran").die();
                if self.chance.per_mille(200) {
                    self.chance.reached("disk lost");
                    machine.disk.wipe();
                }
            }
            Err(payload) => resume_unwind(payload),
        }
        machine.starts_at_ms.set(Some(again_at));
    }

    /// Has everybody who is not preempted go on until then.
    fn run_until(&self, until_ms: u64) {
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
            _ => {}
        }
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

/// Runs a seed to its end; a broken promise is the error.
pub fn run(seed: u64, broken: Option<Broken>) -> Result<Report, Failure> {
    let chance = Arc::new(Chance::new(seed, broken));
    let outcome = catch_unwind(AssertUnwindSafe(|| story(&chance)));
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
            assert_consistent(&kafka.lock());
        }
        if traffic.is_over() && chance.per_mille(2) {
            break;
        }
    }
    chance.note(|| "everything heals".to_owned());
    chance.set_faults(Faults::default());
    heal(&crew, &world, &mut traffic);
    judge(&world);
    crew.world.borrow_mut().take();
    for machine in &crew.machines {
        machine.process.borrow_mut().take();
    }
}

/// Without faults everything must be worked off, and nothing may be left hanging.
fn heal(crew: &Crew, world: &World, traffic: &mut Traffic) {
    let until_ms = world.chance.now_ms() + HEALING_MS;
    let mut settled_at_ms = None;
    loop {
        if !traffic.is_over() {
            traffic.produce(&mut world.kafka.lock().source);
        }
        if (0..crew.machines.len()).all(|at| !crew.is_running(at)) {
            crew.machines[0].starts_at_ms.set(Some(0));
        }
        crew.run_until(world.chance.now_ms() + 20);
        let is_done = {
            let kafka = world.kafka.lock();
            traffic.is_over() && kafka.is_caught_up() && kafka.is_quiet() && world.database.lock().is_quiet()
        };
        let now = world.chance.now_ms();
        let settled = *settled_at_ms.get_or_insert(now);
        if !is_done {
            settled_at_ms = None;
        } else if now - settled > 2_000 && rows_differ(world).is_empty() {
            return;
        }
        if now >= until_ms {
            let rows = rows_differ(world);
            let state = world.kafka.lock().describe();
            panic!("not settled {HEALING_MS} ms after everything had healed\n{state}\n{rows:?}");
        }
    }
}

fn expected_at(kafka: &Kafka, ends: &BTreeMap<PartitionId, Offset>) -> Recount {
    recount(&kafka.source_before(ends), &parameters())
}

fn rows_differ(world: &World) -> Vec<String> {
    let kafka = world.kafka.lock();
    let expected = expected_at(&kafka, &kafka.committed_offsets());
    let found = world.database.lock().rows();
    compare_statistics(&expected.statistics, &found, Guard::Compared).iter().map(ToString::to_string).collect()
}

/// Whenever no transaction is being decided, what is committed is what the committed records add up to.
fn assert_consistent(kafka: &Kafka) {
    if kafka.is_deciding() {
        return;
    }
    let expected = expected_at(kafka, &kafka.committed_offsets());
    let mut found = compare_alert_records(&expected.alerts, &kafka.committed_outputs(Destination::Alerts));
    found.extend(compare_dead_letters(&expected.dead_letters, &kafka.committed_outputs(Destination::DeadLetter)));
    found.extend(compare_late_records(&expected.late, &kafka.committed_outputs(Destination::Late)));
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} differences:\n{}\n{}", lines.len(), lines.join("\n"), kafka.describe());
}

fn judge(world: &World) {
    let kafka = world.kafka.lock();
    assert!(!kafka.is_deciding());
    assert_consistent(&kafka);
    let expected = expected_at(&kafka, &kafka.committed_offsets());
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
