//! Whether the instance is ready, and why not, in sentences for the person who is on call.
//!
//! Pure: the verdict follows from the report alone. Ready means that every owned partition is restored and commits
//! succeed. An unreachable database does not turn readiness off, because alerts go on; it becomes a remark.

use std::time::Duration;

use crate::observe::report::{PartitionPhase, ServiceState, StatusReport};

/// How long the I/O thread may be away before the instance is not ready.
pub const HEARTBEAT_LATE: Duration = Duration::from_secs(5);
/// How long commits may fail before the instance is not ready: replacing a producer after an abort takes about a
/// second, and readiness should not flap with it.
pub const COMMITS_LATE: Duration = Duration::from_secs(3);

/// How far the instance as a whole has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Joining,
    Joined,
    Stopping,
}

/// What [`judge`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub state: ServiceState,
    /// Why the instance is not ready; it is ready when there are none.
    pub reasons: Vec<String>,
    pub remarks: Vec<String>,
}

/// Judges a report whose other fields are filled.
#[must_use]
pub fn judge(stage: Stage, report: &StatusReport) -> Verdict {
    let mut reasons = Vec::new();
    match stage {
        Stage::Starting => reasons.push("the service is starting: its log has not been reached yet".to_owned()),
        Stage::Joining => reasons.push("the group has not assigned partitions to this instance yet".to_owned()),
        Stage::Stopping => reasons.push("the service is stopping".to_owned()),
        Stage::Joined => {}
    }
    heartbeat_reason(report, &mut reasons);
    partition_reasons(report, &mut reasons);
    commit_reason(report, &mut reasons);
    let mut remarks = Vec::new();
    checkpoint_verdict(report, &mut reasons, &mut remarks);
    statistics_remarks(report, &mut remarks);
    Verdict { state: state(stage, report, reasons.is_empty() && remarks.is_empty()), reasons, remarks }
}

fn heartbeat_reason(report: &StatusReport, reasons: &mut Vec<String>) {
    let away = Duration::from_millis(report.instance.since_heartbeat_ms);
    if away > HEARTBEAT_LATE {
        reasons.push(format!("the I/O thread has not come round for {} s", away.as_secs()));
    }
}

fn partition_reasons(report: &StatusReport, reasons: &mut Vec<String>) {
    for partition in &report.partitions {
        let id = partition.partition;
        match &partition.phase {
            PartitionPhase::Recovering { waiting_for: None } => {
                reasons.push(format!("partition {id} is being restored"));
            }
            PartitionPhase::Recovering { waiting_for: Some(why) } => {
                reasons.push(format!("partition {id} is being restored: {why}"));
            }
            PartitionPhase::Refused(refusal) => {
                reasons.push(format!("partition {id} is refused: {}", refusal.reason));
            }
            PartitionPhase::Live | PartitionPhase::Revoking => {}
        }
    }
}

fn commit_reason(report: &StatusReport, reasons: &mut Vec<String>) {
    let failing = report.commits.failing_for_ms.map(Duration::from_millis);
    if let Some(failing) = failing.filter(|failing| *failing >= COMMITS_LATE) {
        let why = report.commits.last_error.as_ref().map_or("", |error| error.message.as_str());
        reasons.push(format!("commits have failed for {} s: {why}", failing.as_secs()));
    }
}

fn checkpoint_verdict(report: &StatusReport, reasons: &mut Vec<String>, remarks: &mut Vec<String>) {
    let checkpoints = &report.checkpoints;
    let failures = checkpoints.consecutive_failures;
    if failures == 0 {
        return;
    }
    let why = checkpoints.last_error.as_ref().map_or("", |error| error.message.as_str());
    let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times in a row") };
    let sentence = format!("the checkpoint failed {times}: {why}");
    if failures > checkpoints.tolerable_failures { reasons.push(sentence) } else { remarks.push(sentence) }
}

fn statistics_remarks(report: &StatusReport, remarks: &mut Vec<String>) {
    let statistics = &report.statistics;
    if statistics.enabled && !statistics.connected {
        let why = statistics.last_error.as_ref().map_or("not connected yet", |error| error.message.as_str());
        remarks.push(format!("the statistics database takes no writes ({} rows wait): {why}", statistics.pending_rows));
    }
    match statistics.rows_set_aside {
        0 => {}
        1 => remarks.push("the database refused 1 statistics row for good; it was set aside".to_owned()),
        rows => remarks.push(format!("the database refused {rows} statistics rows for good; they were set aside")),
    }
}

fn state(stage: Stage, report: &StatusReport, is_sound: bool) -> ServiceState {
    let partitions = &report.partitions;
    let is_refused = |phase: &PartitionPhase| matches!(phase, PartitionPhase::Refused(_));
    match stage {
        Stage::Stopping => ServiceState::Stopping,
        Stage::Starting => ServiceState::Starting,
        Stage::Joining => ServiceState::Joining,
        Stage::Joined if !partitions.is_empty() && partitions.iter().all(|one| is_refused(&one.phase)) => {
            ServiceState::Refused
        }
        Stage::Joined if partitions.iter().any(|one| matches!(one.phase, PartitionPhase::Recovering { .. })) => {
            ServiceState::Recovering
        }
        Stage::Joined if is_sound => ServiceState::Running,
        Stage::Joined => ServiceState::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{Offset, PartitionId};
    use crate::observe::report::{About, PartitionRefusal};
    use crate::observe::status::{CommitSummary, Now, StatusBoard};

    /// A board that was fed at second 0, and is read at second 10.
    const FED: Now = Now { wall_ms: 1_700_000_000_000, monotonic_ms: 1_000_000 };
    const READ: Now = Now { wall_ms: 1_700_000_010_000, monotonic_ms: 1_010_000 };

    fn seconds_later(seconds: u64) -> Now {
        Now { monotonic_ms: FED.monotonic_ms + seconds * 1_000, ..FED }
    }

    fn fresh() -> StatusBoard {
        let board = StatusBoard::new(About {
            instance_id: "risk-1".to_owned(),
            group: "tallyguard".to_owned(),
            topic: "transactions".to_owned(),
            mode: "exactly-once".to_owned(),
            started_at_ms: FED.wall_ms,
            statistics_enabled: true,
            tolerable_checkpoint_failures: 3,
            rules: Vec::new(),
        });
        board.heartbeat(READ.monotonic_ms);
        board
    }

    /// Joined, the database connected, partitions 3 and 4 live.
    fn working() -> StatusBoard {
        let board = fresh();
        board.connected("cluster-1");
        board.joined();
        board.statistics_connected();
        for partition in [PartitionId(4), PartitionId(3)] {
            board.recovering(partition, None);
            board.live(partition);
        }
        board
    }

    fn refusal() -> PartitionRefusal {
        PartitionRefusal {
            code: "offsets_gone".to_owned(),
            reason: "the group's committed offset is gone".to_owned(),
            remedy: "restore it".to_owned(),
        }
    }

    type Case = (&'static str, fn() -> StatusBoard, fn(&StatusBoard), ServiceState, &'static [&'static str]);

    #[test]
    fn the_instance_is_ready_when_its_partitions_are_restored_and_commits_succeed_and_says_why_it_is_not() {
        use ServiceState::{Degraded, Joining, Recovering, Refused, Running, Starting, Stopping};
        let cases: &[Case] = &[
            ("just begun", fresh, |_| {}, Starting, &["the service is starting: its log has not been reached yet"]),
            (
                "Kafka was reached",
                fresh,
                |board| board.connected("cluster-1"),
                Joining,
                &["the group has not assigned partitions to this instance yet"],
            ),
            ("all is well", working, |_| {}, Running, &[]),
            (
                "nothing is assigned",
                working,
                |board| {
                    board.forget(PartitionId(3));
                    board.forget(PartitionId(4));
                },
                Running,
                &[],
            ),
            (
                "a partition is restored",
                working,
                |board| board.recovering(PartitionId(3), None),
                Recovering,
                &["partition 3 is being restored"],
            ),
            (
                "a partition waits",
                working,
                |board| board.recovering(PartitionId(3), Some("offsets are pending")),
                Recovering,
                &["partition 3 is being restored: offsets are pending"],
            ),
            ("a partition leaves", working, |board| board.revoking(PartitionId(3)), Running, &[]),
            (
                "one partition is refused",
                working,
                |board| board.refused(PartitionId(3), refusal()),
                Degraded,
                &["partition 3 is refused: the group's committed offset is gone"],
            ),
            (
                "all are refused",
                working,
                |board| {
                    board.forget(PartitionId(4));
                    board.refused(PartitionId(3), refusal());
                },
                Refused,
                &["partition 3 is refused: the group's committed offset is gone"],
            ),
            (
                "a refused partition left",
                working,
                |board| {
                    board.refused(PartitionId(3), refusal());
                    board.forget(PartitionId(3));
                },
                Running,
                &[],
            ),
            (
                "commits fail for long",
                working,
                |board| {
                    board.aborted("the coordinator moved", FED);
                    board.commit_trouble("no answer", seconds_later(9));
                },
                Degraded,
                &["commits have failed for 10 s: no answer"],
            ),
            ("a commit failed just now", working, |board| board.aborted("no answer", seconds_later(8)), Running, &[]),
            (
                "commits succeed again",
                working,
                |board| {
                    board.aborted("no answer", FED);
                    board.committed(CommitSummary::default(), &[], READ);
                },
                Running,
                &[],
            ),
            (
                "the failed commit was settled",
                working,
                |board| {
                    board.aborted("no answer", FED);
                    board.commits_settled();
                },
                Running,
                &[],
            ),
            (
                "the I/O thread is stuck",
                working,
                |board| board.heartbeat(FED.monotonic_ms),
                Degraded,
                &["the I/O thread has not come round for 10 s"],
            ),
            (
                "the I/O thread is a little late",
                working,
                |board| board.heartbeat(READ.monotonic_ms - 5_000),
                Running,
                &[],
            ),
            (
                "too many checkpoints failed",
                working,
                |board| board.checkpoint_failed(4, "no space", FED),
                Degraded,
                &["the checkpoint failed 4 times in a row: no space"],
            ),
            (
                "a checkpoint succeeded again",
                working,
                |board| {
                    board.checkpoint_failed(4, "no space", FED);
                    board.checkpoint_stored(Duration::from_millis(20), 1_000, READ);
                },
                Running,
                &[],
            ),
            (
                "stopping",
                working,
                |board| {
                    board.stopping();
                    board.joined();
                },
                Stopping,
                &["the service is stopping"],
            ),
        ];
        for (case, board, change, state, reasons) in cases {
            let board = board();
            change(&board);
            let report = board.snapshot_at(READ);
            assert_eq!(report.reasons, *reasons, "{case}");
            assert_eq!(report.ready, reasons.is_empty(), "{case}");
            assert_eq!(report.state, *state, "{case}");
        }
    }

    #[test]
    fn what_does_not_stop_alerts_is_a_remark_and_leaves_the_instance_ready() {
        let cases: &[(fn(&StatusBoard), &str)] = &[
            (
                |board| board.statistics_unavailable("access denied", FED),
                "the statistics database takes no writes (0 rows wait): access denied",
            ),
            (|board| board.checkpoint_failed(1, "no space", FED), "the checkpoint failed once: no space"),
            (|board| board.checkpoint_failed(3, "no space", FED), "the checkpoint failed 3 times in a row: no space"),
            (
                |board| board.statistics_set_aside(1, "1406", FED),
                "the database refused 1 statistics row for good; it was set aside",
            ),
        ];
        for (change, remark) in cases {
            let board = working();
            change(&board);
            let report = board.snapshot_at(READ);
            assert!(report.ready, "{remark}: {:?}", report.reasons);
            assert_eq!(report.remarks, [*remark]);
            assert_eq!(report.state, ServiceState::Degraded, "{remark}");
        }
    }

    #[test]
    fn facts_about_a_partition_that_was_given_up_do_not_bring_it_back() {
        let board = working();
        board.forget(PartitionId(3));
        board.live(PartitionId(3));
        board.positions(PartitionId(3), Some(Offset(7)), None);
        board.statistics_acknowledged(PartitionId(3), Offset(7), FED);
        let owned: Vec<_> = board.snapshot_at(READ).partitions.into_iter().map(|one| one.partition).collect();
        assert_eq!(owned, [PartitionId(4)]);
    }

    #[test]
    fn a_machine_whose_clock_is_set_does_not_look_stuck() {
        let board = working();
        let a_day_later = Now { wall_ms: READ.wall_ms + 86_400_000, ..READ };
        assert!(board.snapshot_at(a_day_later).ready);
    }
}
