//! The modes that promise less: what each promises, whatever fails, and that what it does not promise does happen.

use std::collections::BTreeMap;

use super::*;

/// A log without transactions: outputs and offsets are written one after the other, and the process may die between.
struct Model {
    dice: u64,
    outputs: Vec<OutputId>,
    offset: Option<(Offset, String)>,
}

impl Model {
    fn at(&self) -> Option<Offset> {
        self.offset.as_ref().map(|(offset, _)| *offset)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % bound
    }

    fn do_step(&mut self, step: &Step) -> Outcome {
        let fate = self.below(10);
        let why = || "as the dice fell".to_owned();
        match step {
            Step::Produce(outputs) => {
                // Some of them may have been written before the failure.
                let written =
                    if fate < 7 { outputs.len() } else { usize::try_from(self.below(3)).unwrap().min(outputs.len()) };
                self.outputs.extend(outputs[..written].iter().map(|output| output.id.clone()));
                match fate {
                    0..7 => Outcome::Done,
                    7 => Outcome::Abortable(why()),
                    _ => Outcome::Doubtful(why()),
                }
            }
            Step::CommitOffsets(commits) => {
                if fate < 8 {
                    self.offset = Some((commits[0].offset, commits[0].metadata.clone()));
                }
                match fate {
                    0..6 => Outcome::Done,
                    6 | 8 => Outcome::Doubtful(why()),
                    7 => Outcome::Fenced(why()),
                    _ => Outcome::Retriable(why()),
                }
            }
            Step::ReplaceWriter => {
                if fate < 8 {
                    Outcome::Done
                } else {
                    Outcome::Doubtful(why())
                }
            }
            Step::ProbeMembership => Outcome::Membership { replaced: false },
            Step::ReadBack(requests) => {
                assert!(requests.iter().all(|request| request.outputs_from.is_none()), "no output is looked for");
                Outcome::ReadBack(vec![ReadBack {
                    partition: P,
                    committed: self.offset.clone(),
                    outputs: HashSet::new(),
                }])
            }
            Step::Begin | Step::SendOffsets(_) | Step::Commit | Step::Abort => panic!("{step:?} without a transaction"),
        }
    }
}

/// Runs all records through processes that die at random; returns how often each output was written.
fn live(mode: DeliveryMode, seed: u64) -> BTreeMap<i64, usize> {
    const RECORDS: i64 = 60;
    let mut model = Model { dice: seed, outputs: Vec::new(), offset: Some((Offset(0), String::new())) };
    for _ in 0..500 {
        let from = model.at().expect("committed").0;
        let mut cycle = CommitCycle::new(CycleSettings { mode, ..SETTINGS });
        cycle.writer_is_ready();
        cycle.open(opening(P, from), 0);
        let (mut next, mut now) = (from, 0);
        let life = 5 + model.below(60);
        for _ in 0..life {
            if next < RECORDS {
                let taken =
                    (next..(next + 1 + i64::try_from(model.below(3)).unwrap()).min(RECORDS)).collect::<Vec<_>>();
                next = taken.last().unwrap() + 1;
                cycle.effects(P, effects(P, next, &taken));
            }
            now += 3_000;
            if let Some(step) = cycle.next_step(now, WALL) {
                let outcome = model.do_step(&step);
                let before = model.at();
                for notice in cycle.outcome(outcome, now) {
                    if let Notice::Committed { through, .. } = notice {
                        assert!(Some(through) <= before, "a commit is told only when the group has the offset");
                    }
                }
            }
            if next == RECORDS && cycle.is_settled() {
                assert_eq!(model.at(), Some(Offset(RECORDS)));
                let mut times = BTreeMap::new();
                for output in model.outputs {
                    *times.entry(output.offset.0).or_default() += 1;
                }
                (0..RECORDS).for_each(|offset| {
                    times.entry(offset).or_insert(0);
                });
                return times;
            }
        }
    }
    panic!("seed {seed}: never came to its end");
}

#[test]
fn at_least_once_never_loses_an_output_and_may_write_one_twice() {
    let mut twice = 0;
    for seed in 0..400 {
        let times = live(DeliveryMode::AtLeastOnce, seed);
        assert!(times.values().all(|times| *times >= 1), "seed {seed}: {times:?}");
        twice += times.values().filter(|times| **times > 1).count();
    }
    assert!(twice > 100, "{twice}");
}

#[test]
fn at_most_once_never_writes_an_output_twice_and_may_lose_one() {
    let (mut missing, mut written) = (0, 0);
    for seed in 0..400 {
        let times = live(DeliveryMode::AtMostOnce, seed);
        assert!(times.values().all(|times| *times <= 1), "seed {seed}: {times:?}");
        missing += times.values().filter(|times| **times == 0).count();
        written += times.values().filter(|times| **times == 1).count();
    }
    assert!(missing > 100 && written > missing, "{missing} of {}", missing + written);
}

#[test]
fn the_order_of_steps_is_what_the_mode_promises() {
    let names = |mode| {
        let mut cycle = CommitCycle::new(CycleSettings { mode, ..SETTINGS });
        cycle.writer_is_ready();
        cycle.open(opening(P, 0), 0);
        cycle.effects(P, effects(P, 1, &[0]));
        let mut names = Vec::new();
        while let Some(step) = cycle.next_step(1_000, WALL) {
            names.push(match step {
                Step::Begin => "begin",
                Step::Produce(_) => "outputs",
                Step::SendOffsets(_) | Step::CommitOffsets(_) => "offsets",
                Step::Commit => "commit",
                other => panic!("{other:?}"),
            });
            cycle.outcome(Outcome::Done, 1_000);
        }
        names
    };
    assert_eq!(names(DeliveryMode::ExactlyOnce), ["begin", "outputs", "offsets", "commit"]);
    assert_eq!(names(DeliveryMode::AtLeastOnce), ["outputs", "offsets"]);
    assert_eq!(names(DeliveryMode::AtMostOnce), ["offsets", "outputs"]);
}
