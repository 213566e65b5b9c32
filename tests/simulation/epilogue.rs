//! What no engine can go on from: the log or the group's offsets are not what they were. It must refuse, and change nothing.

use std::collections::BTreeMap;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::protocol::output::Destination;

use crate::kafka::{Kafka, partition_id};
use crate::process::World;
use crate::run::Crew;
use crate::traffic::Traffic;

/// Virtual time in which everybody has found out.
const UNTIL_REFUSED_MS: u64 = 40_000;

#[derive(PartialEq, Eq)]
struct Standing {
    offsets: BTreeMap<PartitionId, Offset>,
    outputs: [usize; 3],
}

fn standing(kafka: &Kafka) -> Standing {
    let count = |destination| kafka.readable_outputs(destination);
    Standing {
        offsets: kafka.committed_offsets(),
        outputs: [Destination::Alerts, Destination::Late, Destination::DeadLetter].map(count),
    }
}

/// Breaks something while nobody runs, starts two processes, and looks whether anything moves.
pub fn epilogue(crew: &Crew, world: &World, traffic: &mut Traffic) {
    crew.kill_everybody();
    crew.run_until(world.chance.now_ms() + 30_000);
    let mut empty = Vec::new();
    let drawn = world.chance.below(5);
    let is_set_back = drawn == 4;
    let (accident, before) = {
        let mut kafka = world.kafka.lock();
        let before = standing(&kafka);
        // Forgotten offsets are missed only by who remembers them. The first flush comes moments after the first commit.
        let database = world.database.lock();
        let remembered =
            |(partition, offset): (&PartitionId, &Offset)| offset.0 == 0 || database.progress(*partition).is_some();
        let accident = if drawn == 3 && !before.offsets.iter().all(remembered) { 0 } else { drawn };
        drop(database);
        let partitions = kafka.source.len();
        if accident > 0 {
            empty.extend((0..partitions).filter(|at| kafka.source[*at].end() == 0).map(partition_id));
        }
        match accident {
            0 => {
                let records = world.chance.index(200);
                kafka.recreate(traffic.strangers(partitions, records));
            }
            1 => {
                for source in &mut kafka.source {
                    source.entries.truncate(source.entries.len() / 2);
                }
                let fewer = kafka.source.iter().map(|source| source.entries.len()).min().unwrap_or(0) / 2;
                kafka.append(traffic.strangers(partitions, fewer));
            }
            // Whatever open windows need is gone; a snapshot may have it.
            2 => {
                for source in &mut kafka.source {
                    source.start = source.end();
                }
            }
            3 => kafka.forget_offsets(),
            // What is in the log ahead of them need not go again; who has a snapshot that knows of a later commit refuses.
            _ => {
                let rules = crew.configuration.get().configured().rules;
                kafka.set_offsets_back(&rules.iter().map(|rule| rule.version).collect::<Vec<_>>());
            }
        }
        (accident, before)
    };
    let refused = || -> u64 {
        let reached = world.chance.coverage();
        ["identity_changed", "log_shorter"].iter().filter_map(|code| reached.get(code)).sum()
    };
    let refused_before = refused();
    crew.start_over();
    crew.run_until(world.chance.now_ms() + UNTIL_REFUSED_MS);
    assert!(accident > 1 || refused() > refused_before, "nobody refused");
    let kafka = world.kafka.lock();
    let after = standing(&kafka);
    assert!(before.outputs == after.outputs, "outputs of what should have been refused: {}", kafka.describe());
    for (partition, offset) in &after.offsets {
        // Where there was nothing, there is nothing to lose.
        let begins = empty.contains(partition) && *offset == Offset(0);
        let was = before.offsets.get(partition);
        let stands = if is_set_back { Some(offset) <= was } else { Some(offset) == was };
        assert!(stands || begins, "{partition} at {offset}, and it should have been refused");
    }
}
