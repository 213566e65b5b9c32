//! Everything at once: every few seconds another subset of the accidents, drawn from a seed, a quarter of the time none.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::instance::{Instance, StateFolder};
use crate::proxy::{Fault, Rule};
use crate::scenario::{PATIENCE, busy};
use crate::shim::Disk;
use crate::world::World;

/// What may happen within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Accident {
    KafkaRequests,
    SqlRequests,
    ClockWrong,
    DiskFull,
    DiskDoesNotSync,
    Killed,
    Frozen,
    Replaced,
    LeavesAndComesBack,
    BrokerKilled,
    DatabaseAway,
}

/// The likely ones stand more than once.
const ACCIDENTS: [Accident; 15] = [
    Accident::KafkaRequests,
    Accident::KafkaRequests,
    Accident::KafkaRequests,
    Accident::SqlRequests,
    Accident::Killed,
    Accident::Killed,
    Accident::Killed,
    Accident::Frozen,
    Accident::Replaced,
    Accident::LeavesAndComesBack,
    Accident::BrokerKilled,
    Accident::DatabaseAway,
    Accident::ClockWrong,
    Accident::DiskFull,
    Accident::DiskDoesNotSync,
];
const STATES: [StateFolder; 4] = [StateFolder::Kept, StateFolder::Lost, StateFolder::Exchanged, StateFolder::Damaged];
/// Requests and how rarely one of them suffers.
const REQUESTS: [(&str, usize); 14] = [
    ("EndTxn", 3),
    ("TxnOffsetCommit", 3),
    ("AddPartitionsToTxn", 3),
    ("AddOffsetsToTxn", 3),
    ("InitProducerId", 2),
    ("Produce", 5),
    ("OffsetFetch", 2),
    ("FindCoordinator", 2),
    ("JoinGroup", 2),
    ("SyncGroup", 2),
    ("Heartbeat", 5),
    ("ListOffsets", 2),
    ("Metadata", 3),
    ("Fetch", 30),
];

#[test]
fn a_short_round_of_chaos_leaves_no_trace() {
    round(seed_or(7), Duration::from_secs(75));
}

/// `make chaos`; TALLYGUARD_CHAOS_MINUTES and TALLYGUARD_CHAOS_SEED say how long and which one first. A round takes some
/// minutes and has the next seed.
#[test]
#[ignore = "as long as is asked for"]
fn rounds_of_chaos_leave_no_trace() {
    let minutes: u64 = std::env::var("TALLYGUARD_CHAOS_MINUTES").map_or(30, |text| text.parse().expect("minutes"));
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let mut seed = seed_or(1_000);
    while Instant::now() < until {
        round(seed, Duration::from_secs(240).min(until.duration_since(Instant::now())));
        seed += 1;
    }
}

fn seed_or(usual: u64) -> u64 {
    std::env::var("TALLYGUARD_CHAOS_SEED").map_or(usual, |text| text.parse().expect("a number"))
}

fn round(seed: u64, time: Duration) {
    eprintln!("a round of {} s, TALLYGUARD_CHAOS_SEED={seed}", time.as_secs());
    let mut dice = Dice::new(seed);
    let world = World::start(seed);
    let mut instances = [Instance::start(&world.scenario, "a"), Instance::start(&world.scenario, "b")];
    for instance in &mut instances {
        instance.process().wait_ready(PATIENCE);
    }
    let load = world.scenario.load(800, busy(seed, 0));
    let until = Instant::now() + time;
    let mut happened: BTreeMap<Accident, usize> = BTreeMap::new();
    let mut quiet = 0;
    while Instant::now() < until {
        world.kafka.leave_alone();
        world.sql.leave_alone();
        if dice.chance(25) {
            quiet += 1;
            thread::sleep(milliseconds(&mut dice, 1_000, 4_000));
            continue;
        }
        let mut drawn: Vec<Accident> = (0..=dice.below(3)).map(|_| dice.pick(&ACCIDENTS)).collect();
        // Those on the wire first: the others happen meanwhile.
        drawn.sort_unstable();
        drawn.dedup();
        for accident in drawn {
            *happened.entry(accident).or_default() += 1;
            let who = dice.below(instances.len());
            befall(&world, &mut instances[who], accident, &mut dice);
        }
        thread::sleep(milliseconds(&mut dice, 1_000, 4_000));
        for instance in &mut instances {
            instance.assert_it_stays(&world.scenario);
        }
    }
    world.kafka.leave_alone();
    world.sql.leave_alone();
    for instance in &mut instances {
        instance.assert_it_stays(&world.scenario);
        instance.process().wait_ready(PATIENCE);
    }
    let sent = load.finish();
    let result = world.assert_exact();
    eprintln!("seed {seed}: {sent} sent, {result}\n  {happened:?}, {quiet} periods without\n  {}", world.faults());
    world.database.kill9();
}

fn befall(world: &World, instance: &mut Instance, accident: Accident, dice: &mut Dice) {
    match accident {
        Accident::KafkaRequests => {
            let count = 1 + dice.below(4);
            let rules = (0..count).map(|_| {
                let (request, one_in) = dice.pick(&REQUESTS);
                Rule { request, fault: fault(dice), one_in }
            });
            world.kafka.disturb(rules.collect());
        }
        Accident::SqlRequests => {
            let rules = ["COMMIT", "execute"].map(|request| Rule { request, fault: fault(dice), one_in: 3 });
            world.sql.disturb(rules.to_vec());
        }
        Accident::ClockWrong => instance.has_a_wrong_clock(dice.between(-3_600, 3_600)),
        Accident::DiskFull => instance.has_a_bad_disk(&world.scenario, Disk::Full, milliseconds(dice, 1_000, 5_000)),
        Accident::DiskDoesNotSync => {
            instance.has_a_bad_disk(&world.scenario, Disk::DoesNotSync, milliseconds(dice, 1_000, 5_000));
        }
        Accident::Killed => {
            instance.kill();
            instance.change_state(dice.pick(&STATES), dice);
            thread::sleep(milliseconds(dice, 0, 2_000));
            instance.start_again(&world.scenario);
        }
        // Shorter and longer than transactions (5 s) and sessions (6 s) may take.
        Accident::Frozen => instance.frozen_for(milliseconds(dice, 500, 12_000)),
        Accident::Replaced => instance.is_replaced_while_frozen(&world.scenario, milliseconds(dice, 1_000, 9_000)),
        Accident::LeavesAndComesBack => {
            // A hand-over that meets a wire which loses every other request may take as long as it likes.
            world.kafka.leave_alone();
            instance.leave();
            thread::sleep(milliseconds(dice, 0, 2_000));
            instance.start_again(&world.scenario);
        }
        Accident::BrokerKilled => {
            world.broker.kill9();
            thread::sleep(milliseconds(dice, 0, 3_000));
            world.broker.restart();
        }
        Accident::DatabaseAway => {
            if dice.chance(50) {
                world.database.stop();
            } else {
                world.database.kill9();
            }
            thread::sleep(milliseconds(dice, 0, 4_000));
            world.database.start_again();
        }
    }
}

fn fault(dice: &mut Dice) -> Fault {
    let late = milliseconds(dice, 50, 3_500);
    dice.pick(&[
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::RequestLate(late),
        Fault::RequestAbandoned(late),
        Fault::AnswerLate(late),
        Fault::InPieces,
    ])
}

fn milliseconds(dice: &mut Dice, low: i64, high: i64) -> Duration {
    Duration::from_millis(u64::try_from(dice.between(low, high)).expect("not negative"))
}
