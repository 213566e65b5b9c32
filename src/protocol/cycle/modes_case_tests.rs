//! At-least-once and at-most-once, case by case: the order of the steps, and what a failure of each of them leads to.

use super::*;
use DeliveryMode::{AtLeastOnce, AtMostOnce};

/// Every way in which a step can fail for good.
fn failures() -> [Outcome; 3] {
    [Outcome::Abortable(why()), Outcome::Doubtful(why()), Outcome::Fenced(why())]
}

fn is_produce(step: &Step) -> bool {
    matches!(step, Step::Produce(_))
}

fn is_commit_offsets(step: &Step) -> bool {
    matches!(step, Step::CommitOffsets(_))
}

fn offsets_of(outputs: &[Arc<OutputRecord>]) -> Vec<i64> {
    outputs.iter().map(|output| output.id.offset.0).collect()
}

/// P with outputs at 101 and 102, which belong to a commit of 103; the step that `stops` names is under way.
fn under_way(mode: DeliveryMode, stops: fn(&Step) -> bool) -> Bench {
    let mut bench = Bench::in_mode(mode);
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    bench.until(stops);
    bench
}

/// The outputs and offsets that the next commit consists of, in the order of the steps.
fn next_commit(bench: &mut Bench) -> Vec<(&'static str, Vec<i64>)> {
    let mut steps = Vec::new();
    while let Some(step) = bench.step() {
        match step {
            Step::Produce(outputs) => steps.push(("outputs", offsets_of(&outputs))),
            Step::CommitOffsets(commits) => {
                steps.push(("offsets", commits.iter().map(|commit| commit.offset.0).collect()));
            }
            other => panic!("{other:?}"),
        }
        bench.report(Outcome::Done);
    }
    steps
}

/// Outputs that were given up; an incident is told once.
fn given_up(notices: &[Notice]) -> usize {
    let incidents = notices.iter().filter_map(|notice| match notice {
        Notice::GivenUp { outputs, .. } => Some(*outputs),
        _ => None,
    });
    let incidents: Vec<_> = incidents.collect();
    assert!(incidents.len() <= 1, "{notices:?}");
    incidents.iter().sum()
}

#[test]
fn at_least_once_commits_the_offsets_behind_the_outputs() {
    let mut bench = Bench::in_mode(AtLeastOnce);
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    assert!(matches!(bench.step(), Some(Step::Produce(outputs)) if offsets_of(&outputs) == [101, 102]));
    assert_eq!(bench.report(Outcome::Done), []);
    let Some(Step::CommitOffsets(commits)) = bench.step() else { panic!("offsets come last") };
    assert_eq!((commits.len(), commits[0].partition, commits[0].offset), (1, P, Offset(103)));
    let metadata = Metadata::parse(&commits[0].metadata).expect("the same metadata as in a transaction");
    assert_eq!((metadata.horizon, metadata.committed_at_ms), (progress(103).horizon, WALL));
    assert!(is_committed(&bench.report(Outcome::Done), 103, 2));
    assert!(bench.cycle.is_settled());
}

#[test]
fn at_most_once_commits_the_offsets_before_the_outputs() {
    let mut bench = Bench::in_mode(AtMostOnce);
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    assert!(matches!(bench.step(), Some(Step::CommitOffsets(commits)) if commits[0].offset == Offset(103)));
    assert_eq!(bench.report(Outcome::Done), [], "not decided before the outputs are");
    assert!(matches!(bench.step(), Some(Step::Produce(outputs)) if offsets_of(&outputs) == [101, 102]));
    assert!(is_committed(&bench.report(Outcome::Done), 103, 2));
    assert!(bench.cycle.is_settled());
}

#[test]
fn mere_offsets_are_one_step_in_both_modes() {
    for mode in [AtLeastOnce, AtMostOnce] {
        let mut bench = Bench::in_mode(mode);
        bench.cycle.effects(P, effects(P, 103, &[]));
        bench.cycle.commit_at_once();
        assert_eq!(next_commit(&mut bench), [("offsets", vec![103])]);
        assert_eq!(bench.cycle.committed(P), Some(progress(103)));
    }
}

#[test]
fn an_answer_after_a_disturbance_is_an_answer() {
    for mode in [AtLeastOnce, AtMostOnce] {
        let mut bench = under_way(mode, is_commit_offsets);
        bench.report(Outcome::DoneDisturbed(why()));
        while bench.step().is_some() {
            bench.report(Outcome::DoneDisturbed(why()));
        }
        assert_eq!(bench.cycle.committed(P), Some(progress(103)), "{mode:?}");
    }
}

#[test]
fn at_least_once_writes_everything_again_when_outputs_failed() {
    for failure in failures() {
        let mut bench = under_way(AtLeastOnce, is_produce);
        let notices = bench.report(failure);
        assert!(matches!(&notices[..], [Notice::Trouble(_)]), "{notices:?}");
        assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
        assert_eq!(next_commit(&mut bench), [("outputs", vec![101, 102]), ("offsets", vec![103])]);
    }
}

#[test]
fn at_least_once_believes_the_offset_it_asked_for_and_no_other() {
    for failure in failures() {
        let mut bench = under_way(AtLeastOnce, is_commit_offsets);
        bench.report(failure.clone());
        assert!(is_committed(&bench.settle(&[(P, Some(103), &[])]), 103, 2), "the outputs were there before");

        let mut bench = under_way(AtLeastOnce, is_commit_offsets);
        bench.report(failure.clone());
        assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
        assert_eq!(next_commit(&mut bench), [("outputs", vec![101, 102]), ("offsets", vec![103])]);
    }
}

#[test]
fn at_most_once_gives_up_outputs_that_may_have_been_written() {
    for failure in failures() {
        let mut bench = under_way(AtMostOnce, is_produce);
        let notices = bench.report(failure);
        assert_eq!(given_up(&notices), 2);
        assert!(is_committed(&notices[1..2], 103, 0), "decided: the offset is committed, {notices:?}");
        // The old writer is of no more use, but nothing is left to be asked.
        bench.expect_writer();
        bench.cycle.effects(P, effects(P, 105, &[104]));
        assert_eq!(next_commit(&mut bench), [("offsets", vec![105]), ("outputs", vec![104])]);
    }
}

#[test]
fn at_most_once_gives_up_outputs_whose_offset_may_have_been_moved_by_another() {
    for failure in failures() {
        let mut bench = under_way(AtMostOnce, is_commit_offsets);
        assert_eq!(given_up(&bench.report(failure.clone())), 0);
        let notices = bench.settle(&[(P, Some(103), &[])]);
        assert_eq!(given_up(&notices), 2);
        assert!(is_committed(&notices[1..], 103, 0), "{notices:?}");

        let mut bench = under_way(AtMostOnce, is_commit_offsets);
        bench.report(failure);
        assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
        assert_eq!(next_commit(&mut bench), [("offsets", vec![103]), ("outputs", vec![101, 102])]);
    }
}

#[test]
fn at_most_once_an_offset_found_elsewhere_takes_what_lies_before_it() {
    for (found, lost) in [(None, 0), (Some(99), 0), (Some(102), 1), (Some(110), 2)] {
        let mut bench = under_way(AtMostOnce, is_commit_offsets);
        bench.report(Outcome::Doubtful(why()));
        let notices = bench.settle(&[(P, found, &[])]);
        assert_eq!(given_up(&notices), lost);
        let moved =
            Notice::Moved { partition: P, found: found.map(Offset), expected: Offset(103), certain: Some(Offset(100)) };
        assert_eq!(notices.last(), Some(&moved), "its recovery begins there");
        assert!(next_commit(&mut bench).is_empty(), "nothing of it is written before");
    }
}

#[test]
fn a_refused_offset_commit_is_repeated_and_then_doubted() {
    for mode in [AtLeastOnce, AtMostOnce] {
        let mut bench = under_way(mode, is_commit_offsets);
        for _ in 0..RETRIES_MAX {
            assert_eq!(bench.report(Outcome::Retriable(why())), [Notice::Trouble(why())]);
            assert_eq!(bench.step(), None, "not without a pause");
            bench.now += BACK_OFF_MAX_MS;
            assert!(bench.step().is_some_and(|step| is_commit_offsets(&step)));
        }
        bench.report(Outcome::Retriable(why()));
        assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
    }
}

/// The membership is asked after every failure: a process that was replaced must not repeat anything.
#[test]
fn a_replaced_process_writes_nothing_more() {
    for mode in [AtLeastOnce, AtMostOnce] {
        let mut bench = under_way(mode, is_commit_offsets);
        bench.report(Outcome::Fenced(why()));
        bench.now += BACK_OFF_MAX_MS;
        assert_eq!(bench.step(), Some(Step::ProbeMembership));
        assert_eq!(bench.report(Outcome::Membership { replaced: true }), [Notice::Replaced]);
        bench.now += 1_000_000;
        assert_eq!(bench.step(), None);
    }
}

#[test]
fn a_partition_that_leaves_before_its_offset_is_committed_takes_the_commit_down() {
    for mode in [AtLeastOnce, AtMostOnce] {
        let mut bench = Bench::in_mode(mode);
        bench.cycle.effects(P, effects(P, 101, &[100]));
        bench.cycle.effects(Q, effects(Q, 102, &[101]));
        bench.until(is_commit_offsets);
        bench.report(Outcome::Retriable(why()));
        bench.cycle.close(P);
        assert_eq!(bench.settle(&[(Q, Some(100), &[])]), []);
        let mut steps = next_commit(&mut bench);
        steps.sort_unstable();
        assert_eq!(steps, [("offsets", vec![102]), ("outputs", vec![101])]);
    }
}

#[test]
fn a_new_group_commits_its_start_before_it_reads() {
    for mode in [AtLeastOnce, AtMostOnce] {
        let mut bench = Bench::in_mode(mode);
        let new = PartitionId(2);
        bench
            .cycle
            .open(OpenPartition { owes_first_commit: true, never_committed: true, ..opening(new, 7) }, bench.now);
        bench.until(is_commit_offsets);
        bench.report(Outcome::Doubtful(why()));
        assert_eq!(bench.settle(&[(new, None, &[])]), []);
        assert!(!bench.cycle.may_read(new));
        assert_eq!(next_commit(&mut bench), [("offsets", vec![7])]);
        assert!(bench.cycle.may_read(new));
    }
}
