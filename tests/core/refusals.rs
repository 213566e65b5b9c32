//! How a partition begins: every refusal with the facts that cause it, and the accepted cases next to each.

use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::Progress;
use tallyguard::domain::rule::{Rule, Severity};
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;
use tallyguard::protocol::metadata::{DecidedWith, LENGTH_MAX, LogIdentity, Metadata, MetadataError};
use tallyguard::protocol::recovery::{
    Configured, Facts, FirstStart, GroupBeginning, ParkedHead, SnapshotHead, Start, StartSource, decide,
};
use tallyguard::protocol::refusal::Refusal;

use crate::streams::engine_parameters;
use crate::world::identity;

const fn at(offset: i64, watermark: i64) -> Position {
    Position { offset: Offset(offset), watermark: Watermark(watermark) }
}

fn configured() -> Configured {
    let rule = |id: &str, window| Rule {
        id: id.to_owned(),
        version: 3,
        window: Millis(window),
        window_text: "1m".to_owned(),
        max_transactions: 10,
        severity: Severity::High,
    };
    Configured {
        rules: vec![rule("a", 60_000), rule("b", 3_600_000)],
        out_of_orderness: Millis(60_000),
        max_future_skew: Millis(30_000),
        statistics: true,
        orders: false,
        first_start: FirstStart::Earliest,
    }
}

/// Committed at 100, replay for the rules from 80, for statistics from 50.
fn progress() -> Progress {
    Progress {
        next: at(100, 900_000),
        final_through: Watermark(300_000),
        horizon: at(80, 800_000),
        statistics_horizon: at(50, 400_000),
        statistics_gap: None,
    }
}

fn metadata() -> Metadata {
    Metadata::new(&progress(), &engine_parameters(&configured(), Offset(0)), identity(), 4, 1_234)
}

fn facts() -> Facts {
    Facts {
        partition: PartitionId(2),
        committed: Some((Offset(100), Ok(metadata()))),
        group_began: None,
        log_start: Offset(10),
        log_end: Offset(200),
        identity: identity(),
        partitions: 4,
        snapshot: None,
        parked: None,
        statistics_progress: Some(Offset(50)),
        known: None,
    }
}

fn group_of(partitions: i32) -> Option<GroupBeginning> {
    Some(GroupBeginning { partitions, identity: identity() })
}

fn snapshot(through: i64) -> SnapshotHead {
    SnapshotHead {
        through: Offset(through),
        committed: None,
        identity: identity(),
        decided_with: DecidedWith::of(&engine_parameters(&configured(), Offset(0)), Offset(0)),
        orders: false,
    }
}

fn refused(change: impl FnOnce(&mut Facts, &mut Configured)) -> Refusal {
    let (mut facts, mut configured) = (facts(), configured());
    change(&mut facts, &mut configured);
    let refusal = decide(&facts, &configured).expect_err("this cannot go on exactly");
    assert!(!refusal.to_string().is_empty() && !refusal.remedy().is_empty());
    refusal
}

fn accepted(change: impl FnOnce(&mut Facts, &mut Configured)) -> tallyguard::protocol::recovery::Start {
    let (mut facts, mut configured) = (facts(), configured());
    change(&mut facts, &mut configured);
    decide(&facts, &configured).expect("this can go on exactly")
}

#[test]
fn what_was_committed_is_where_it_goes_on() {
    let start = accepted(|_, _| {});
    assert_eq!(start.committed, Offset(100));
    assert_eq!(start.from, at(50, 400_000));
    assert_eq!(start.progress.final_through, Watermark(300_000));
    assert_eq!((start.source, start.progress.statistics_gap), (StartSource::Horizon, None));
    assert_eq!((start.partitions_at_first_start, start.committed_at_ms), (4, Some(1_234)));
    assert_eq!(start.parameters, engine_parameters(&configured(), Offset(0)));
}

#[test]
fn lost_group_offsets_are_not_taken_for_a_first_start() {
    let snapshot_knows = refused(|facts, _| {
        (facts.committed, facts.statistics_progress, facts.snapshot) = (None, None, Some(snapshot(90)));
    });
    assert_eq!(snapshot_knows, Refusal::OffsetsGone { known_by: "a local snapshot", through: Offset(90) });
    let database_knows = refused(|facts, _| facts.committed = None);
    assert_eq!(database_knows, Refusal::OffsetsGone { known_by: "order_stats_progress", through: Offset(50) });
    assert_eq!(database_knows.code(), "offsets_gone");
}

#[test]
fn what_this_process_has_committed_cannot_be_new_or_another_topics() {
    let gone = refused(|facts, _| {
        (facts.committed, facts.statistics_progress) = (None, None);
        facts.known = Some((Offset(70), facts.identity.clone()));
    });
    assert_eq!(gone, Refusal::OffsetsGone { known_by: "this process", through: Offset(70) });
    let other = refused(|facts, _| {
        (facts.committed, facts.statistics_progress) = (None, None);
        facts.known = Some((Offset(70), LogIdentity { topic_id: "before".to_owned(), ..facts.identity.clone() }));
    });
    assert_eq!(other.code(), "identity_changed");
}

/// The topic was deleted and made again, and this partition had never been committed: the others say so.
#[test]
fn a_partition_that_was_never_committed_belongs_to_the_topic_of_the_others() {
    let refusal = refused(|facts, _| {
        (facts.committed, facts.statistics_progress) = (None, None);
        let identity = LogIdentity { topic_id: "before".to_owned(), ..identity() };
        facts.group_began = Some(GroupBeginning { partitions: 4, identity });
    });
    assert_eq!(refusal.code(), "identity_changed");
}

#[test]
fn an_offset_without_readable_metadata_is_refused() {
    let texts = [("", MetadataError::Absent), (r#"{"v":2}"#, MetadataError::Version(2))];
    for (text, error) in texts {
        let refusal = refused(|facts, _| facts.committed = Some((Offset(100), Metadata::parse(text))));
        assert_eq!(refusal, Refusal::Metadata { committed: Offset(100), error });
        assert_eq!(refusal.code(), "metadata_unusable");
    }
    for text in ["x", "{}", r#"{"v":1}"#, "[]", r#"{"v":"1"}"#] {
        assert!(matches!(Metadata::parse(text), Err(MetadataError::Unreadable(_))), "{text}");
    }
}

#[test]
fn another_log_is_refused_by_what_is_other() {
    let changes: [(&str, fn(&mut Facts)); 3] = [
        ("cluster", |facts| facts.identity.cluster_id.push('x')),
        ("topic of the same name", |facts| facts.identity.topic_id.push('x')),
        ("group", |facts| facts.identity.group.push('x')),
    ];
    for (which, change) in changes {
        let refusal = refused(|facts, _| change(facts));
        assert_eq!(refusal.code(), "identity_changed");
        assert!(matches!(refusal, Refusal::IdentityChanged { what, .. } if what == which), "{refusal}");
    }
}

#[test]
fn a_log_that_lost_its_end_is_refused() {
    let refusal = refused(|facts, _| facts.log_end = Offset(99));
    assert_eq!(refusal, Refusal::LogShorter { committed: Offset(100), log_end: Offset(99) });
    assert_eq!(refusal.code(), "log_shorter");
    assert_eq!(accepted(|facts, _| facts.log_end = Offset(100)).committed, Offset(100));
}

#[test]
fn a_log_that_lost_its_beginning_is_refused_only_where_alerts_need_it() {
    let refusal = refused(|facts, _| facts.log_start = Offset(81));
    assert_eq!(refusal, Refusal::LogTruncated { needed: Offset(80), log_start: Offset(81) });
    assert_eq!(refusal.code(), "log_truncated");

    let whole = accepted(|facts, _| facts.log_start = Offset(50));
    assert_eq!((whole.from, whole.progress.statistics_gap), (at(50, 400_000), None));

    for log_start in [51, 80] {
        let gap = accepted(|facts, _| facts.log_start = Offset(log_start));
        assert_eq!(gap.from, at(80, 800_000));
        // The highest event time before offset 80.
        assert_eq!(gap.progress.statistics_gap, Some(Watermark(860_000)));
        assert!(gap.remark.is_some_and(|remark| remark.contains("incomplete")));
    }
}

#[test]
fn a_gap_of_the_statistics_is_remembered_by_the_next_start() {
    let with_gap = |gap| {
        let progress = Progress { statistics_gap: Some(Watermark(gap)), ..progress() };
        let parameters = engine_parameters(&configured(), Offset(0));
        Metadata::parse(&Metadata::new(&progress, &parameters, identity(), 4, 0).to_text())
    };
    let again = accepted(|facts, _| facts.committed = Some((Offset(100), with_gap(700_000))));
    assert_eq!(again.progress.statistics_gap, Some(Watermark(700_000)));
    let wider = accepted(|facts, _| {
        (facts.committed, facts.log_start) = (Some((Offset(100), with_gap(700_000))), Offset(60));
    });
    assert_eq!(wider.progress.statistics_gap, Some(Watermark(860_000)));
    let narrower = accepted(|facts, _| {
        (facts.committed, facts.log_start) = (Some((Offset(100), with_gap(870_000))), Offset(60));
    });
    assert_eq!(narrower.progress.statistics_gap, Some(Watermark(870_000)));
}

/// What was written ahead of its offset was decided with the rules of then; the records before it are decided so again.
#[test]
fn a_changed_rule_acts_behind_what_was_decided_before() {
    let mut start = accepted(|_, configured| configured.rules[1].version += 1);
    let versions = |start: &Start, offsets: [i64; 3]| {
        offsets.map(|offset| start.parameters.rules[1].version_at(Offset(offset)).version)
    };
    assert_eq!((start.changed_rules.as_slice(), start.progress), (&[1][..], progress()));
    assert_eq!(versions(&start, [99, 100, 150]), [3, 4, 4]);
    start.decided_ahead_through(Offset(120));
    assert_eq!(versions(&start, [100, 120, 121]), [3, 3, 4]);

    let mut unchanged = accepted(|_, _| {});
    unchanged.decided_ahead_through(Offset(120));
    assert_eq!(unchanged.parameters, engine_parameters(&configured(), Offset(0)));
}

#[test]
fn a_kept_state_is_a_snapshot_in_memory() {
    let kept = |next| ParkedHead {
        next: Offset(next),
        identity: identity(),
        parameters: engine_parameters(&configured(), Offset(0)).into(),
    };
    let served = accepted(|facts, _| facts.parked = Some(kept(100)));
    assert_eq!((served.source, served.from.offset), (StartSource::Parked, Offset(100)));
    // Also where the log no longer holds what a replay would need, and before any snapshot.
    let alone = accepted(|facts, _| {
        (facts.parked, facts.log_start, facts.snapshot) = (Some(kept(100)), Offset(100), Some(snapshot(60)));
    });
    assert_eq!((alone.source, alone.progress.statistics_gap), (StartSource::Parked, None));

    // What others have committed since is replayed, under new rules too.
    let behind = accepted(|facts, configured| {
        facts.parked = Some(kept(60));
        configured.rules[0].version += 1;
    });
    assert_eq!((behind.source, behind.from.offset, behind.committed), (StartSource::Parked, Offset(60), Offset(100)));
    assert_eq!(behind.changed_rules, [0]);
    // The later of the two.
    let snapshot_is_later = accepted(|facts, _| (facts.parked, facts.snapshot) = (Some(kept(60)), Some(snapshot(70))));
    assert_eq!((snapshot_is_later.source, snapshot_is_later.from.offset), (StartSource::Snapshot, Offset(70)));

    // Before the horizon, ahead of the commit, or not to be replayed: of no use. And so is one of another log.
    for (next, log_start) in [(49, 10), (101, 10), (60, 61)] {
        let start = accepted(|facts, _| (facts.parked, facts.log_start) = (Some(kept(next)), Offset(log_start)));
        assert_eq!(start.source, StartSource::Horizon, "{next}");
    }
    let other_log = accepted(|facts, _| {
        let identity = LogIdentity { topic_id: "before".to_owned(), ..identity() };
        facts.parked = Some(ParkedHead { identity, ..kept(100) });
    });
    assert_eq!(other_log.source, StartSource::Horizon);

    let ahead = refused(|facts, _| (facts.parked, facts.snapshot) = (Some(kept(100)), Some(snapshot(101))));
    assert_eq!(ahead, Refusal::SnapshotAhead { snapshot: Offset(101), committed: Offset(100) });
}

#[test]
fn a_snapshot_is_used_when_it_lies_between_the_horizons_and_the_commit() {
    for through in [50, 75, 100] {
        let start = accepted(|facts, _| facts.snapshot = Some(snapshot(through)));
        assert_eq!((start.source, start.from.offset), (StartSource::Snapshot, Offset(through)));
        assert_eq!(start.progress.final_through, Watermark(300_000));
    }
    let refusal = refused(|facts, _| facts.snapshot = Some(snapshot(101)));
    assert_eq!(refusal, Refusal::SnapshotAhead { snapshot: Offset(101), committed: Offset(100) });
    assert_eq!(refusal.code(), "snapshot_ahead");
}

#[test]
fn a_snapshot_stored_in_a_replay_knows_which_commit_the_replay_was_for() {
    let knowing = |committed| SnapshotHead { committed: Some(Offset(committed)), ..snapshot(75) };
    let start = accepted(|facts, _| facts.snapshot = Some(knowing(100)));
    assert_eq!((start.source, start.from.offset), (StartSource::Snapshot, Offset(75)));
    let set_back = refused(|facts, _| facts.snapshot = Some(knowing(101)));
    assert_eq!(set_back, Refusal::SnapshotAhead { snapshot: Offset(101), committed: Offset(100) });
    let forgotten = refused(|facts, _| (facts.snapshot, facts.committed) = (Some(knowing(101)), None));
    assert!(matches!(forgotten, Refusal::OffsetsGone { through: Offset(101), .. }), "{forgotten}");
}

#[test]
fn a_snapshot_saves_what_the_log_no_longer_holds() {
    let start = accepted(|facts, _| (facts.snapshot, facts.log_start) = (Some(snapshot(90)), Offset(85)));
    assert_eq!(
        (start.source, start.from.offset, start.progress.statistics_gap),
        (StartSource::Snapshot, Offset(90), None)
    );
}

#[test]
fn a_snapshot_that_does_not_fit_is_passed_over() {
    let cases: [(&str, fn(&mut Facts, &mut Configured)); 6] = [
        ("older than the horizons", |facts, _| facts.snapshot = Some(snapshot(49))),
        ("the log begins behind it", |facts, _| {
            (facts.snapshot, facts.log_start) = (Some(snapshot(60)), Offset(70));
        }),
        ("of another topic", |facts, _| {
            let mut head = snapshot(90);
            head.identity.topic_id.push('x');
            facts.snapshot = Some(head);
        }),
        ("without the orders", |facts, configured| {
            (facts.snapshot, configured.orders) = (Some(snapshot(90)), true);
        }),
        ("of other rules", |facts, _| {
            let mut head = snapshot(90);
            head.decided_with.rules.pop();
            facts.snapshot = Some(head);
        }),
        ("with its rules in another order", |facts, _| {
            let mut head = snapshot(90);
            head.decided_with.rules.reverse();
            facts.snapshot = Some(head);
        }),
    ];
    for (what, change) in cases {
        assert_eq!(accepted(change).source, StartSource::Horizon, "{what}");
    }
}

#[test]
fn a_first_start_begins_where_it_is_told() {
    let first = |facts: &mut Facts| (facts.committed, facts.statistics_progress) = (None, None);
    let earliest = accepted(|facts, _| first(facts));
    assert_eq!((earliest.source, earliest.committed), (StartSource::First, Offset(10)));
    assert_eq!((earliest.from, earliest.partitions_at_first_start), (at(10, i64::MIN), 4));
    let latest = accepted(|facts, configured| {
        first(facts);
        configured.first_start = FirstStart::Latest;
    });
    assert_eq!((latest.committed, latest.from.offset, latest.remark), (Offset(200), Offset(200), None));
}

#[test]
fn an_added_partition_is_read_from_its_beginning_even_with_start_latest() {
    let added = accepted(|facts, configured| {
        (facts.committed, facts.statistics_progress) = (None, None);
        (facts.group_began, configured.first_start) = (group_of(2), FirstStart::Latest);
    });
    assert_eq!((added.committed, added.partitions_at_first_start), (Offset(10), 2));
    assert!(added.remark.is_some_and(|remark| remark.contains("users may have moved")));
}

#[test]
fn parameters_that_the_state_depends_on_may_not_change() {
    let changes: [(&str, fn(&mut Configured)); 10] = [
        ("out_of_orderness", |configured| configured.out_of_orderness.0 += 1),
        ("max_future_skew", |configured| configured.max_future_skew.0 += 1),
        ("stats.enabled", |configured| configured.statistics = false),
        ("rule b was removed", |configured| drop(configured.rules.pop())),
        ("rule c was added", |configured| {
            let added = Rule { id: "c".to_owned(), ..configured.rules[0].clone() };
            configured.rules.push(added);
        }),
        ("window was", |configured| (configured.rules[0].window, configured.rules[0].version) = (Millis(30_000), 4)),
        ("version went back", |configured| configured.rules[0].version = 2),
        ("other content", |configured| configured.rules[0].max_transactions = 11),
        ("other content", |configured| configured.rules[0].severity = Severity::Low),
        ("other content", |configured| configured.rules[0].window_text = "60s".to_owned()),
    ];
    for (what, change) in changes {
        let refusal = refused(|_, configured| change(configured));
        assert_eq!(refusal.code(), "parameters_changed");
        assert!(refusal.to_string().contains(what), "{refusal}");
    }
    let refusal = refused(|facts, _| {
        let mut other = metadata();
        other.decided_with.semantics = 2;
        facts.committed = Some((Offset(100), Ok(other)));
    });
    assert!(refusal.to_string().contains("semantics"), "{refusal}");
}

#[test]
fn a_higher_version_acts_from_the_committed_offset_on() {
    let start = accepted(|_, configured| {
        (configured.rules[0].version, configured.rules[0].max_transactions) = (4, 2);
    });
    let history = &start.parameters.rules[0];
    assert_eq!(history.version_at(Offset(99)).version, 3);
    assert_eq!((history.version_at(Offset(100)).version, history.lowest_threshold), (4, 2));
    assert_eq!(start.parameters.rules[1].versions.len(), 1);
}

#[test]
fn a_history_of_versions_that_no_commit_could_carry_is_refused() {
    let mut long = metadata();
    let first = long.decided_with.rules[0].versions[0].clone();
    long.decided_with.rules[0].versions = (0..200_u32)
        .map(|n| tallyguard::domain::rule::RuleVersion { from: Offset(i64::from(n)), version: n, ..first.clone() })
        .collect();
    let refusal = refused(|facts, configured| {
        facts.committed = Some((Offset(100), Ok(long)));
        configured.rules[0].version = 1_000;
    });
    assert!(refusal.to_string().contains(&LENGTH_MAX.to_string()), "{refusal}");
}
