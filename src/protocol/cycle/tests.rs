//! The commit cycle, outcome by outcome, and against a small model of a log that loses answers and tears transactions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::*;
use crate::domain::duration::Millis;
use crate::domain::ids::Offset;
use crate::domain::rule::Parameters;
use crate::domain::time::Watermark;
use crate::domain::window::Position;
use crate::protocol::metadata::LogIdentity;
use crate::protocol::output::{Destination, OutputId, OutputRecord, Slot};

#[path = "modes_case_tests.rs"]
mod mode_cases;
#[path = "model_tests.rs"]
mod model;
#[path = "modes_tests.rs"]
mod modes;

const P: PartitionId = PartitionId(0);
const Q: PartitionId = PartitionId(1);
const WALL: i64 = 1_795_168_800_000;

const SETTINGS: CycleSettings = CycleSettings {
    mode: DeliveryMode::ExactlyOnce,
    max_commit_interval_ms: 100,
    settle_ms: 10,
    catch_up_pause_ms: 40,
    catching_up_from: 1_000,
    outputs_per_commit_max: 4,
    recommit_ms: 60_000,
};

fn progress(next: i64) -> Progress {
    let here = Position { offset: Offset(next), watermark: Watermark(next) };
    let final_through = Watermark::NONE;
    Progress { next: here, final_through, horizon: here, statistics_horizon: here, statistics_gap: None }
}

fn id(partition: PartitionId, offset: i64) -> OutputId {
    OutputId { partition, offset: Offset(offset), slot: Slot::Late }
}

fn effects(partition: PartitionId, next: i64, offsets: &[i64]) -> Effects {
    let output = |offset: &i64| {
        Arc::new(OutputRecord {
            id: id(partition, *offset),
            destination: Destination::Late,
            key: None,
            value: None,
            headers: Vec::new(),
            source_timestamp_ms: None,
        })
    };
    Effects { progress: progress(next), outputs: offsets.iter().map(output).collect() }
}

fn opening(partition: PartitionId, committed: i64) -> OpenPartition {
    OpenPartition {
        partition,
        parameters: Arc::new(Parameters {
            rules: Vec::new(),
            out_of_orderness: Millis(0),
            max_future_skew: Millis(0),
            statistics: false,
            orders: false,
        }),
        identity: LogIdentity { cluster_id: "c".into(), topic_id: "t".into(), group: "g".into() },
        partitions_at_first_start: 2,
        committed: progress(committed),
        committed_at_ms: WALL - 5,
        written_already: HashSet::new(),
        owes_first_commit: false,
        never_committed: false,
    }
}

/// The cycle and the time.
struct Bench {
    cycle: CommitCycle,
    now: MonotonicMs,
    /// What was sent with which offset.
    sent: HashMap<(PartitionId, Offset), String>,
}

impl Bench {
    /// P and Q are open at 100, the writer is ready.
    fn ready() -> Self {
        Self::in_mode(DeliveryMode::ExactlyOnce)
    }

    fn in_mode(mode: DeliveryMode) -> Self {
        let mut bench =
            Self { cycle: CommitCycle::new(CycleSettings { mode, ..SETTINGS }), now: 1_000, sent: HashMap::new() };
        bench.cycle.open(opening(P, 100), bench.now);
        bench.cycle.open(opening(Q, 100), bench.now);
        bench.expect_writer();
        bench
    }

    fn step(&mut self) -> Option<Step> {
        let step = self.cycle.next_step(self.now, WALL);
        if let Some(Step::SendOffsets(commits) | Step::CommitOffsets(commits)) = &step {
            let commits = commits.iter().map(|commit| ((commit.partition, commit.offset), commit.metadata.clone()));
            self.sent.extend(commits);
        }
        step
    }

    fn report(&mut self, outcome: Outcome) -> Vec<Notice> {
        self.cycle.outcome(outcome, self.now)
    }

    fn expect_writer(&mut self) {
        self.now += BACK_OFF_MAX_MS;
        let mut step = self.step();
        if step == Some(Step::ProbeMembership) {
            // Asked before every writer but the first.
            assert_eq!(self.report(Outcome::Membership { replaced: false }), []);
            step = self.step();
        }
        assert_eq!(step, Some(Step::ReplaceWriter));
        assert_eq!(self.report(Outcome::Done), [Notice::WriterReplaced]);
    }

    /// Does every step up to the one that `stops` names, which is under way then.
    fn until(&mut self, stops: impl Fn(&Step) -> bool) -> Step {
        loop {
            let step = self.step().expect("there is something to do");
            if stops(&step) {
                return step;
            }
            assert_eq!(self.report(Outcome::Done), []);
        }
    }

    fn until_commit(&mut self) {
        self.until(|step| *step == Step::Commit);
    }

    fn sent_with(&self, partition: PartitionId, offset: Offset) -> String {
        self.sent.get(&(partition, offset)).cloned().unwrap_or_else(|| "somebody else's".to_owned())
    }

    /// Lets the writer be replaced, and answers the read-back that follows.
    fn settle(&mut self, found: &[(PartitionId, Option<i64>, &[i64])]) -> Vec<Notice> {
        self.expect_writer();
        assert!(matches!(self.step(), Some(Step::ReadBack(_))));
        let found = found.iter().map(|(partition, committed, offsets)| ReadBack {
            partition: *partition,
            committed: committed.map(|offset| (Offset(offset), self.sent_with(*partition, Offset(offset)))),
            outputs: offsets.iter().map(|offset| id(*partition, *offset)).collect(),
        });
        self.report(Outcome::ReadBack(found.collect()))
    }

    /// The outputs and offsets that the next transaction would write.
    fn next_transaction(&mut self) -> (Vec<i64>, Vec<(PartitionId, i64)>) {
        let mut produced = Vec::new();
        loop {
            match self.step() {
                Some(Step::SendOffsets(commits)) => {
                    return (produced, commits.iter().map(|commit| (commit.partition, commit.offset.0)).collect());
                }
                Some(Step::Produce(outputs)) => produced.extend(outputs.iter().map(|output| output.id.offset.0)),
                Some(_) => {}
                None => return (Vec::new(), Vec::new()),
            }
            self.report(Outcome::Done);
        }
    }
}

fn why() -> String {
    "why".to_owned()
}

fn is_committed(notices: &[Notice], through: i64, outputs: usize) -> bool {
    matches!(notices, [Notice::Committed { partition: P, through: found, outputs: held }]
        if *found == Offset(through) && held.len() == outputs)
}

#[test]
fn a_commit_is_outputs_then_offsets_then_the_decision() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    assert_eq!(bench.step(), Some(Step::Begin));
    bench.report(Outcome::Done);
    assert!(matches!(bench.step(), Some(Step::Produce(outputs)) if outputs.len() == 2));
    bench.report(Outcome::Done);
    let Some(Step::SendOffsets(commits)) = bench.step() else { panic!("offsets come last") };
    assert_eq!((commits.len(), commits[0].partition, commits[0].offset), (1, P, Offset(103)));
    let metadata = Metadata::parse(&commits[0].metadata).expect("readable");
    assert_eq!((metadata.horizon, metadata.committed_at_ms), (progress(103).horizon, WALL));
    bench.report(Outcome::Done);
    assert_eq!(bench.step(), Some(Step::Commit));
    assert!(!bench.cycle.is_settled());
    assert_eq!(bench.cycle.pending_outputs(), 2);
    assert!(is_committed(&bench.report(Outcome::Done), 103, 2));
    assert!(bench.cycle.is_settled());
    assert_eq!(bench.cycle.committed(P), Some(progress(103)));
    assert_eq!(bench.cycle.committed(Q), Some(progress(100)));
}

#[test]
fn without_changes_there_is_no_transaction() {
    let mut bench = Bench::ready();
    assert_eq!(bench.step(), None);
    bench.cycle.effects(P, Effects { progress: progress(100), outputs: Vec::new() });
    bench.cycle.commit_at_once();
    assert_eq!(bench.step(), None);
    assert!(bench.cycle.is_settled());
}

#[test]
fn outputs_wait_for_the_markers_and_mere_offsets_for_the_interval() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.until_commit();
    bench.report(Outcome::Done);
    bench.cycle.effects(P, effects(P, 102, &[101]));
    bench.now += SETTINGS.settle_ms - 1;
    assert_eq!(bench.step(), None, "the markers of the commit before are still being written");
    bench.now += 1;
    bench.until_commit();
    bench.report(Outcome::Done);
    bench.cycle.effects(P, effects(P, 103, &[]));
    bench.now += SETTINGS.max_commit_interval_ms - 1;
    assert_eq!(bench.step(), None, "nobody waits for an offset");
    bench.now += 1;
    assert_eq!(bench.next_transaction(), (vec![], vec![(P, 103)]));
}

#[test]
fn outputs_are_committed_less_often_while_the_log_is_far_ahead() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.until_commit();
    bench.report(Outcome::Done);
    bench.cycle.note_lag(SETTINGS.catching_up_from);
    bench.cycle.effects(P, effects(P, 102, &[101]));
    bench.now += SETTINGS.catch_up_pause_ms - 1;
    assert_eq!(bench.step(), None);
    assert_eq!(bench.cycle.due_in(bench.now), Some(1));
    bench.cycle.note_lag(SETTINGS.catching_up_from - 1);
    assert_eq!(bench.next_transaction(), (vec![101], vec![(P, 102)]), "it has caught up");
}

#[test]
fn a_transaction_that_is_full_does_not_wait_for_more_however_far_ahead_the_log_is() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.until_commit();
    bench.report(Outcome::Done);
    bench.cycle.note_lag(SETTINGS.catching_up_from);
    bench.cycle.effects(P, effects(P, 104, &[101, 102, 103]));
    bench.cycle.effects(P, effects(P, 106, &[104, 105]));
    bench.now += SETTINGS.settle_ms;
    assert_eq!(bench.next_transaction(), (vec![101, 102, 103], vec![(P, 104)]));
}

#[test]
fn a_transaction_takes_no_more_outputs_of_a_partition_than_it_may() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 104, &[101, 102, 103]));
    bench.cycle.effects(P, effects(P, 106, &[104, 105]));
    assert_eq!(bench.next_transaction(), (vec![101, 102, 103], vec![(P, 104)]));
}

#[test]
fn a_retriable_step_is_repeated_as_it_is_and_not_for_ever() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    let step = bench.until(|step| matches!(step, Step::SendOffsets(_)));
    for _ in 0..RETRIES_MAX {
        assert_eq!(bench.report(Outcome::Retriable(why())), [Notice::Trouble(why())]);
        assert_eq!(bench.step(), None, "not without a pause");
        bench.now += BACK_OFF_MAX_MS;
        assert_eq!(bench.step(), Some(step.clone()));
    }
    bench.report(Outcome::Retriable(why()));
    bench.expect_writer();
}

#[test]
fn an_aborted_transaction_goes_again_with_another_writer() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    bench.until(|step| matches!(step, Step::SendOffsets(_)));
    assert_eq!(bench.report(Outcome::Abortable(why())), [Notice::Aborted(why())]);
    assert_eq!(bench.step(), Some(Step::Abort));
    assert_eq!(bench.report(Outcome::Done), []);
    assert!(bench.cycle.in_doubt());
    assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
    assert_eq!(bench.next_transaction(), (vec![101, 102], vec![(P, 103)]));
}

#[test]
fn the_read_back_asks_for_outputs_behind_the_last_certain_commit_since_the_transaction_began() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    bench.until_commit();
    bench.report(Outcome::Doubtful(why()));
    bench.expect_writer();
    let request = ReadBackRequest { partition: P, outputs_from: Some(Offset(100)), since_ms: WALL };
    assert_eq!(bench.step(), Some(Step::ReadBack(vec![request])));
    // The read-back itself may fail; nothing is sent before it has succeeded.
    for outcome in [Outcome::Doubtful(why()), Outcome::Retriable(why()), Outcome::Abortable(why())] {
        bench.report(outcome);
        assert_eq!(bench.step(), None);
        bench.now += BACK_OFF_MAX_MS;
        assert!(matches!(bench.step(), Some(Step::ReadBack(_))));
    }
}

#[test]
fn after_a_doubt_only_what_is_missing_goes_again() {
    type Case = (Option<i64>, &'static [i64], Option<&'static [i64]>);
    let cases: [Case; 6] = [
        (Some(103), &[101, 102], None),
        (Some(103), &[101], Some(&[102])),
        (Some(103), &[], Some(&[101, 102])),
        (Some(100), &[101, 102], Some(&[])),
        (Some(100), &[102], Some(&[101])),
        (Some(100), &[], Some(&[101, 102])),
    ];
    for doubt in [Outcome::Doubtful(why()), Outcome::DoneDisturbed(why())] {
        for (committed, there, again) in cases {
            let mut bench = Bench::ready();
            bench.cycle.effects(P, effects(P, 103, &[101, 102]));
            bench.until_commit();
            assert!(matches!(&bench.report(doubt.clone())[..], [Notice::Trouble(_)]));
            assert!(bench.cycle.in_doubt());
            let notices = bench.settle(&[(P, committed, there)]);
            match again {
                None => {
                    assert!(is_committed(&notices, 103, 2), "{notices:?}");
                    assert!(bench.cycle.is_settled());
                }
                Some(missing) => {
                    assert_eq!(notices, [], "{committed:?} {there:?}");
                    assert_eq!(bench.next_transaction(), (missing.to_vec(), vec![(P, 103)]), "{committed:?} {there:?}");
                }
            }
        }
    }
}

/// The offset had moved although an output was missing; while the repair was under way, further records came, and then
/// the repair was in doubt too. The offset found then is neither the old nor the new one, and yet nobody else's.
#[test]
fn a_torn_commit_whose_repair_is_in_doubt_too_is_still_repaired() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 103, &[101, 102]));
    bench.until_commit();
    bench.report(Outcome::Doubtful(why()));
    assert_eq!(bench.settle(&[(P, Some(103), &[101])]), []);
    bench.cycle.effects(P, effects(P, 105, &[104]));
    bench.until_commit();
    bench.report(Outcome::Doubtful(why()));
    assert_eq!(bench.settle(&[(P, Some(103), &[101])]), []);
    bench.now += BACK_OFF_MAX_MS;
    assert_eq!(bench.next_transaction(), (vec![102, 104], vec![(P, 105)]));
    bench.report(Outcome::Done);
    assert!(is_committed(&bench.report_commit(), 105, 2));
}

/// Whoever reads back from the time of a commit must find them too, although they are older than the commit.
#[test]
fn a_commit_before_outputs_that_were_found_ahead_is_dated_back_to_when_they_may_have_been_written() {
    let mut bench = Bench::ready();
    let found = HashSet::from([id(PartitionId(2), 105)]);
    let partition = PartitionId(2);
    bench.cycle.open(OpenPartition { written_already: found, ..opening(partition, 100) }, bench.now);
    for (next, at) in [(103, WALL - 5), (105, WALL - 5), (106, WALL)] {
        bench.cycle.effects(partition, effects(partition, next, &[next - 1]));
        bench.cycle.commit_at_once();
        let step = bench.until(|step| matches!(step, Step::SendOffsets(_)));
        let Step::SendOffsets(commits) = step else { panic!("{step:?}") };
        assert_eq!(Metadata::parse(&commits[0].metadata).unwrap().committed_at_ms, at, "{next}");
        bench.report(Outcome::Done);
        bench.until_commit();
        bench.report(Outcome::Done);
    }
}

/// A group that refuses again and again is asked at once the first time, and then less and less often.
#[test]
fn what_is_aborted_again_and_again_is_tried_with_longer_and_longer_pauses() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 103, &[101]));
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let before = bench.now;
        while bench.step().is_none() {
            bench.now += 10;
        }
        pauses.push(bench.now - before);
        bench.report(Outcome::Done);
        bench.until(|step| matches!(step, Step::SendOffsets(_)));
        bench.report(Outcome::Abortable(why()));
        assert_eq!(bench.step(), Some(Step::Abort));
        bench.report(Outcome::Done);
        assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
    }
    assert_eq!(pauses[..2], [0, 0], "a transaction may fail once");
    assert!(pauses.is_sorted() && pauses[9] == BACK_OFF_MAX_MS, "{pauses:?}");
    bench.now += BACK_OFF_MAX_MS;
    bench.until_commit();
    assert!(is_committed(&bench.report(Outcome::Done), 103, 1));
}

impl Bench {
    fn report_commit(&mut self) -> Vec<Notice> {
        assert_eq!(self.step(), Some(Step::Commit));
        self.report(Outcome::Done)
    }
}

#[test]
fn what_the_read_back_does_not_speak_of_stays_in_doubt() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.cycle.effects(Q, effects(Q, 101, &[100]));
    bench.until_commit();
    bench.report(Outcome::Doubtful(why()));
    assert!(matches!(&bench.settle(&[(P, Some(101), &[100])])[..], [Notice::Trouble(_)]));
    assert!(bench.cycle.in_doubt());
    bench.now += BACK_OFF_MAX_MS;
    assert!(matches!(bench.step(), Some(Step::ReadBack(requests)) if requests.len() == 2));
}

#[test]
fn a_disturbance_before_the_commit_itself_is_left_to_the_commit() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.until(|step| matches!(step, Step::Produce(_)));
    assert_eq!(bench.report(Outcome::DoneDisturbed(why())), []);
    bench.until_commit();
    assert!(is_committed(&bench.report(Outcome::Done), 101, 1));
}

#[test]
fn a_fenced_writer_asks_whether_it_was_replaced_before_it_fences_anybody() {
    for step in [Step::Begin, Step::Commit] {
        let mut bench = Bench::ready();
        bench.cycle.effects(P, effects(P, 101, &[100]));
        bench.until(|other| *other == step);
        bench.report(Outcome::Fenced(why()));
        bench.now += BACK_OFF_MAX_MS;
        assert_eq!(bench.step(), Some(Step::ProbeMembership));
        bench.report(Outcome::Doubtful(why()));
        bench.now += BACK_OFF_MAX_MS;
        assert_eq!(bench.step(), Some(Step::ProbeMembership), "no answer is not a no");
        assert_eq!(bench.report(Outcome::Membership { replaced: false }), []);
        assert_eq!(bench.settle(&[(P, Some(100), &[])]), []);
        assert_eq!(bench.next_transaction(), (vec![100], vec![(P, 101)]));
    }
}

#[test]
fn a_replaced_process_does_nothing_any_more() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.until_commit();
    bench.report(Outcome::Fenced(why()));
    bench.now += BACK_OFF_MAX_MS;
    assert_eq!(bench.step(), Some(Step::ProbeMembership));
    assert_eq!(bench.report(Outcome::Membership { replaced: true }), [Notice::Replaced]);
    bench.now += 1_000_000;
    assert_eq!(bench.step(), None);
}

/// A frozen process wakes up in doubt, and finds the offset that it wanted and the outputs that it wanted: its successor's.
#[test]
fn an_offset_and_outputs_that_somebody_else_committed_are_not_taken_for_own() {
    for mode in [DeliveryMode::ExactlyOnce, DeliveryMode::AtLeastOnce] {
        let mut bench = Bench::in_mode(mode);
        bench.cycle.effects(P, effects(P, 103, &[101]));
        bench.until(|step| matches!(step, Step::SendOffsets(_) | Step::CommitOffsets(_)));
        bench.report(Outcome::Doubtful(why()));
        bench.sent.clear();
        let moved =
            Notice::Moved { partition: P, found: Some(Offset(103)), expected: Offset(103), certain: Some(Offset(100)) };
        assert_eq!(bench.settle(&[(P, Some(103), &[101])]), [moved]);
    }
}

/// A changed rule is committed first, at an offset that exists: when the offset is gone, that is no beginning.
#[test]
fn an_offset_that_is_gone_is_put_back_only_where_there_never_was_one() {
    for never_committed in [true, false] {
        let mut bench = Bench::ready();
        let new = PartitionId(2);
        bench.cycle.open(OpenPartition { owes_first_commit: true, never_committed, ..opening(new, 7) }, bench.now);
        bench.until_commit();
        bench.report(Outcome::Doubtful(why()));
        let notices = bench.settle(&[(new, None, &[])]);
        if never_committed {
            assert_eq!(notices, []);
        } else {
            let certain = Some(Offset(7));
            assert_eq!(notices, [Notice::Moved { partition: new, found: None, expected: Offset(7), certain }]);
        }
    }
}

#[test]
fn an_offset_that_somebody_else_moved_ends_the_partition_here() {
    for found in [None, Some(99), Some(102), Some(104)] {
        let mut bench = Bench::ready();
        bench.cycle.effects(P, effects(P, 103, &[101]));
        bench.until_commit();
        bench.report(Outcome::Doubtful(why()));
        let moved =
            Notice::Moved { partition: P, found: found.map(Offset), expected: Offset(103), certain: Some(Offset(100)) };
        assert_eq!(bench.settle(&[(P, found, &[])]), [moved]);
        bench.cycle.effects(P, effects(P, 105, &[104]));
        assert_eq!(bench.next_transaction(), (vec![], vec![]), "nothing of it is written before it is recovered");
    }
}

#[test]
fn a_partition_that_leaves_in_the_middle_of_a_doubt_is_forgotten_and_the_others_go_on() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.cycle.effects(Q, effects(Q, 102, &[101]));
    bench.until_commit();
    bench.report(Outcome::Doubtful(why()));
    bench.cycle.close(P);
    assert_eq!(bench.settle(&[(Q, Some(100), &[])]), []);
    assert_eq!(bench.next_transaction(), (vec![101], vec![(Q, 102)]));
}

/// The steps that were planned held the partition's outputs and its offset.
#[test]
fn a_partition_that_leaves_in_the_middle_of_a_transaction_takes_it_down() {
    let mut bench = Bench::ready();
    bench.cycle.effects(P, effects(P, 101, &[100]));
    bench.cycle.effects(Q, effects(Q, 102, &[101]));
    bench.until(|step| matches!(step, Step::SendOffsets(_)));
    bench.report(Outcome::Retriable(why()));
    bench.cycle.close(P);
    assert_eq!(bench.settle(&[(Q, Some(100), &[])]), []);
    assert_eq!(bench.next_transaction(), (vec![101], vec![(Q, 102)]));
}

#[test]
fn a_new_group_commits_its_start_before_it_reads() {
    let mut bench = Bench::ready();
    let new = PartitionId(2);
    bench.cycle.open(OpenPartition { owes_first_commit: true, never_committed: true, ..opening(new, 7) }, bench.now);
    assert!(!bench.cycle.may_read(new) && bench.cycle.may_read(P));
    assert!(!bench.cycle.may_read(PartitionId(3)), "unknown");
    bench.until_commit();
    // The answer is lost, and nothing was committed: none is what the log held before.
    bench.report(Outcome::Doubtful(why()));
    assert_eq!(bench.settle(&[(new, None, &[])]), []);
    assert!(!bench.cycle.may_read(new));
    assert_eq!(bench.next_transaction(), (vec![], vec![(new, 7)]));
    bench.report(Outcome::Done);
    assert!(matches!(&bench.report_commit()[..], [Notice::Committed { through: Offset(7), .. }]));
    assert!(bench.cycle.may_read(new));
}

#[test]
fn what_the_log_held_already_is_not_written_again() {
    let mut bench = Bench::ready();
    let written_already = HashSet::from([id(Q, 101), id(Q, 103)]);
    bench.cycle.open(OpenPartition { written_already, ..opening(Q, 100) }, bench.now);
    bench.cycle.effects(Q, effects(Q, 103, &[100, 101, 102]));
    bench.cycle.effects(Q, effects(Q, 105, &[103, 104]));
    assert_eq!(bench.next_transaction(), (vec![100, 102, 104], vec![(Q, 105)]));
}

#[test]
fn an_idle_partition_is_committed_again_before_the_group_forgets_it() {
    let mut bench = Bench::ready();
    bench.now = 1_000 + SETTINGS.recommit_ms - 1;
    assert_eq!(bench.step(), None);
    bench.now += 1;
    assert_eq!(bench.next_transaction(), (vec![], vec![(P, 100), (Q, 100)]));
    bench.report(Outcome::Done);
    assert_eq!(bench.report_commit().len(), 2);
    assert_eq!(bench.step(), None);
}
