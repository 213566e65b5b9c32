//! The state of the guarantee in words, for the person who is on call: does it hold, how far, and if not, what to do.
//!
//! Pure: everything follows from the report. One place writes these sentences, so the page and the API say the same.
//! The guarantee itself is never broken by what is seen here: in doubt the service waits or refuses. So the words are
//! "holding", "waiting" and "stopped", and each says what became of the data.

use chrono::DateTime;

use crate::observe::report::{
    GuaranteeReport, GuaranteeState, PartitionPhase, PartitionReport, ServiceState, StatusReport,
};

/// How old the end of a partition's log may be that the report knows.
const END_AGE_MS: i64 = 1_000;

/// Judges a report whose other fields are filled.
#[must_use]
pub fn describe(report: &StatusReport) -> GuaranteeReport {
    let promise = promise(&report.instance.mode);
    let (state, progress, what_to_do) = judge(report);
    let word = match state {
        GuaranteeState::Holding => "holding",
        GuaranteeState::Waiting => "waiting",
        GuaranteeState::Stopped => "stopped",
    };
    let caveat = caveat(&report.instance.mode);
    GuaranteeReport { state, headline: format!("{promise}: {word}. {progress}{caveat}"), what_to_do }
}

fn promise(mode: &str) -> &'static str {
    match mode {
        "at-least-once" => "At least once",
        "at-most-once" => "At most once",
        _ => "Exactly once",
    }
}

/// What the mode does not promise.
fn caveat(mode: &str) -> &'static str {
    match mode {
        "at-least-once" => " After a crash or an error an alert may be there twice.",
        "at-most-once" => " After a crash or an error an alert may be missing.",
        _ => "",
    }
}

type Judged = (GuaranteeState, String, Option<String>);

fn judge(report: &StatusReport) -> Judged {
    let refused = report.partitions.iter().filter_map(|one| match &one.phase {
        PartitionPhase::Refused(refusal) => Some((one.partition, refusal)),
        _ => None,
    });
    if let Some((partition, refusal)) = refused.clone().next() {
        let others = match refused.count() {
            1 => String::new(),
            count => format!(" ({} more are refused too)", count - 1),
        };
        let said = format!(
            "Partition {partition} is held, because going on would lose or repeat data: {}{others}. The other partitions \
             go on.",
            refusal.reason
        );
        return (GuaranteeState::Stopped, said, Some(refusal.remedy.clone()));
    }
    match report.state {
        ServiceState::Starting | ServiceState::Joining | ServiceState::Recovering => waiting_to_begin(report),
        ServiceState::Stopping => {
            (GuaranteeState::Waiting, "The instance is stopping; the next one goes on where it ends.".to_owned(), None)
        }
        _ if !report.ready => {
            let why = report.reasons.first().map_or("something is wrong", String::as_str);
            let said = format!("Nothing is lost; alerts wait until this is over: {why}.");
            (GuaranteeState::Waiting, said, Some(advice(report)))
        }
        _ => (GuaranteeState::Holding, progress(report), remark(report)),
    }
}

fn waiting_to_begin(report: &StatusReport) -> Judged {
    let why = report.reasons.first().map_or("the service is starting", String::as_str);
    let said = format!("Nothing is lost; records wait in the log: {why}.");
    let is_late = report.instance.reported_at_ms - report.instance.started_at_ms > 60_000;
    (GuaranteeState::Waiting, said, is_late.then(|| advice(report)))
}

fn advice(report: &StatusReport) -> String {
    let error = [&report.commits.last_error, &report.kafka.last_error].into_iter().flatten().max_by_key(|it| it.at_ms);
    let seen =
        error.map_or_else(String::new, |error| format!(" Last error, at {}: {}.", clock(error.at_ms), error.message));
    format!(
        "Look whether the log answers, and at this instance's own log.{seen} Restarting the instance is always safe."
    )
}

/// How far everything is committed.
fn progress(report: &StatusReport) -> String {
    if report.partitions.is_empty() {
        return "This instance owns no partition; others of the group have them.".to_owned();
    }
    let last = report.commits.last.as_ref();
    let last_at = last.map_or_else(
        || "There was no commit yet".to_owned(),
        |last| format!("The last commit was at {}", clock(last.at_ms)),
    );
    // While the log does not answer, its end is not known either, and nothing is claimed about it.
    let trouble = report.kafka.last_error.as_ref().filter(|error| last.is_none_or(|last| error.at_ms > last.at_ms));
    let behind: Option<u64> = report.partitions.iter().map(uncommitted).sum();
    match (behind, trouble) {
        (_, Some(error)) => format!("{last_at}; the log was in trouble at {}: {}.", clock(error.at_ms), error.message),
        (Some(0), None) => {
            let known_at = report.instance.reported_at_ms - END_AGE_MS;
            format!("Everything up to {} is committed.", clock(known_at))
        }
        (Some(behind), None) => format!("{last_at}; {} to come.", counted(behind)),
        (None, None) => format!("{last_at}."),
    }
}

/// An upper bound: markers of transactions take offsets too.
fn uncommitted(one: &PartitionReport) -> Option<u64> {
    Some(u64::try_from(one.end_offset?.0 - one.committed_offset?.0).unwrap_or(0))
}

fn counted(records: u64) -> String {
    if records == 1 { "1 record is".to_owned() } else { format!("{records} records are") }
}

/// What needs a look although the guarantee holds.
fn remark(report: &StatusReport) -> Option<String> {
    report.remarks.first().map(|remark| format!("Alerts go on, but have a look: {remark}."))
}

/// Time of day, UTC.
fn clock(epoch_ms: i64) -> String {
    DateTime::from_timestamp_millis(epoch_ms)
        .map_or_else(|| "an unknown time".to_owned(), |time| time.format("%H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use crate::domain::ids::{Offset, PartitionId};
    use crate::domain::time::Watermark;
    use crate::observe::report::{About, PartitionRefusal};
    use crate::observe::status::{CommitSummary, Now, RecordCounts, Standing, StatusBoard};

    /// 2023-11-14T22:13:20Z.
    const AT: Now = Now { wall_ms: 1_700_000_000_000, monotonic_ms: 1_000_000 };

    fn board(mode: &str) -> StatusBoard {
        let board = StatusBoard::new(About {
            instance_id: "risk-1".to_owned(),
            group: "tallyguard".to_owned(),
            topic: "transactions".to_owned(),
            mode: mode.to_owned(),
            started_at_ms: AT.wall_ms,
            statistics_enabled: false,
            tolerable_checkpoint_failures: 3,
            rules: Vec::new(),
        });
        board.heartbeat(AT.monotonic_ms);
        board
    }

    fn running(mode: &str) -> StatusBoard {
        let board = board(mode);
        board.connected("cluster-1");
        board.joined();
        board.recovering(PartitionId(0), None);
        board.live(PartitionId(0));
        let standing =
            Standing { next: Offset(90), watermark: Watermark::NONE, open_users: 0, statistics_pending_rows: 0 };
        board.applied(PartitionId(0), standing, RecordCounts::default(), AT);
        board.committed(CommitSummary::default(), &[(PartitionId(0), Offset(90))], AT);
        board
    }

    fn later(seconds: u32) -> Now {
        Now {
            wall_ms: AT.wall_ms + i64::from(seconds) * 1_000,
            monotonic_ms: AT.monotonic_ms + u64::from(seconds) * 1_000,
        }
    }

    fn said(board: &StatusBoard, now: Now) -> (String, Option<String>) {
        board.heartbeat(now.monotonic_ms);
        let guarantee = board.snapshot_at(now).guarantee;
        (guarantee.headline, guarantee.what_to_do)
    }

    #[test]
    fn it_says_that_the_guarantee_holds_and_how_far() {
        let board = running("exactly-once");
        board.positions(PartitionId(0), Some(Offset(90)), None);
        let (headline, what_to_do) = said(&board, later(7));
        assert_eq!(headline, "Exactly once: holding. Everything up to 22:13:26 UTC is committed.");
        assert_eq!(what_to_do, None);
        board.positions(PartitionId(0), Some(Offset(1_090)), None);
        let expected = "Exactly once: holding. The last commit was at 22:13:20 UTC; 1000 records are to come.";
        assert_eq!(said(&board, later(7)).0, expected);
        board.kafka_trouble("a broker is down", later(6));
        let expected = "Exactly once: holding. The last commit was at 22:13:20 UTC; the log was in trouble at \
                        22:13:26 UTC: a broker is down.";
        assert_eq!(said(&board, later(7)).0, expected);
        let (headline, ..) = said(&running("at-least-once"), later(1));
        assert!(headline.starts_with("At least once: holding.") && headline.ends_with("may be there twice."));
        let (headline, ..) = said(&running("at-most-once"), later(1));
        assert!(headline.starts_with("At most once: holding.") && headline.ends_with("may be missing."));
    }

    #[test]
    fn it_says_what_it_waits_for_and_that_nothing_is_lost() {
        let board = board("exactly-once");
        let (headline, what_to_do) = said(&board, later(1));
        assert!(headline.starts_with("Exactly once: waiting. Nothing is lost; records wait in the log:"), "{headline}");
        assert_eq!(what_to_do, None, "a start of a second needs nobody");
        assert!(said(&board, later(120)).1.is_some(), "one of two minutes does");

        let board = running("exactly-once");
        board.aborted("the coordinator is away", later(1));
        let (headline, what_to_do) = said(&board, later(20));
        assert!(headline.contains("commits have failed for 19 s: the coordinator is away"), "{headline}");
        assert!(what_to_do.expect("advice").contains("Restarting the instance is always safe"));
    }

    #[test]
    fn a_refused_partition_is_named_with_what_to_do() {
        let board = running("exactly-once");
        let refusal = PartitionRefusal {
            code: "log_truncated".to_owned(),
            reason: "the topic begins at 9".to_owned(),
            remedy: "restore the topic".to_owned(),
        };
        board.refused(PartitionId(1), refusal);
        let (headline, what_to_do) = said(&board, later(1));
        assert!(headline.starts_with("Exactly once: stopped. Partition 1 is held,"), "{headline}");
        assert_eq!(what_to_do.as_deref(), Some("restore the topic"));
    }
}
