//! Each request of a commit, of a recovery and of the database, one fault after the other, under load.

use std::thread;
use std::time::Duration;

use crate::instance::Instance;
use crate::proxy::{Fault, Rule};
use crate::scenario::{PATIENCE, busy};
use crate::world::World;

const REQUESTS: [&str; 7] =
    ["EndTxn", "TxnOffsetCommit", "AddPartitionsToTxn", "AddOffsetsToTxn", "Produce", "InitProducerId", "OffsetFetch"];
const FAULTS: [Fault; 5] = [
    Fault::AnswerLost,
    Fault::RequestLost,
    Fault::RequestLate(Duration::from_millis(700)),
    Fault::RequestAbandoned(Duration::from_millis(700)),
    Fault::AnswerLate(Duration::from_millis(700)),
];
const EACH_FOR: Duration = Duration::from_millis(1_500);

#[test]
fn every_request_of_a_commit_may_be_lost_late_or_unanswered() {
    let world = World::start(1);
    let mut service = Instance::start(&world.scenario, "a");
    service.process().wait_ready(PATIENCE);
    let load = world.scenario.load(800, busy(61, 0));
    for request in REQUESTS {
        for fault in FAULTS {
            let mut rules = vec![Rule { request, fault, one_in: 3 }];
            if matches!(request, "InitProducerId" | "OffsetFetch") {
                // They come with a new writer or a recovery, and those with a commit in doubt.
                rules.push(Rule { request: "EndTxn", fault: Fault::AnswerLost, one_in: 8 });
            }
            world.kafka.disturb(rules);
            world.sql.disturb(["COMMIT", "execute"].map(|request| Rule { request, fault, one_in: 3 }).to_vec());
            thread::sleep(EACH_FOR);
        }
    }
    world.kafka.leave_alone();
    world.sql.leave_alone();
    thread::sleep(Duration::from_secs(1));
    load.finish();
    let result = world.assert_exact();
    assert!(service.process().is_running(), "{}", world.scenario.logs());
    eprintln!("{result}\n{}", world.faults());
    for request in REQUESTS.iter().filter(|request| **request != "OffsetFetch") {
        let suffered: u64 =
            world.kafka.counts().iter().filter(|((name, _), _)| name == request).map(|(_, count)| count).sum();
        assert!(suffered > 0, "no {request} was disturbed: {} came by", world.kafka.seen(request));
    }
    world.database.kill9();
}
