//! How a partition begins: from what the group, the log and the local snapshot say, decide where to start, or refuse.
//!
//! The rule behind every case: rather refuse than guess. A window open at the committed offset c has all its records at
//! or behind the horizon; an effect that the database has not acknowledged has all its records at or behind the
//! statistics horizon; everything else is closed and safe. So a start at the smaller of the two, or at a snapshot
//! between them and c, rebuilds exactly the state of the uninterrupted run.

use std::sync::Arc;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Progress;
use crate::domain::rule::{Parameters, Rule, RuleHistory, RuleVersion};
use crate::domain::time::Watermark;
use crate::domain::window::Position;
use crate::mutants::{self, Mutant};
use crate::protocol::metadata::{DecidedWith, LENGTH_MAX, LogIdentity, Metadata, MetadataError, SEMANTICS};
use crate::protocol::refusal::Refusal;

/// Where a group that has never committed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstStart {
    Earliest,
    Latest,
}

/// What a stored snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotHead {
    pub through: Offset,
    /// The newest commit that its writer knew of: behind `through` when it was stored in the middle of a replay.
    #[serde(default)]
    pub committed: Option<Offset>,
    pub identity: LogIdentity,
    pub decided_with: DecidedWith,
    pub orders: bool,
}

impl SnapshotHead {
    /// The newest commit that this snapshot is a witness of: none is stored before its commit is known.
    fn witnessed(&self) -> Offset {
        self.committed.map_or(self.through, |committed| committed.max(self.through))
    }
}

/// A state that this process kept when it handed the partition over, as far as the decision needs to know it.
#[derive(Debug, Clone)]
pub struct ParkedHead {
    /// The next record that it would take.
    pub next: Offset,
    pub identity: LogIdentity,
    pub parameters: Arc<Parameters>,
}

/// What all partitions of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupBeginning {
    /// Partitions that the topic had when the group began.
    pub partitions: i32,
    pub identity: LogIdentity,
}

impl GroupBeginning {
    #[must_use]
    pub fn of(metadata: Metadata) -> Self {
        Self { partitions: metadata.partitions_at_first_start, identity: metadata.identity }
    }
}

/// Everything that is known of a partition when it is assigned.
#[derive(Debug, Clone)]
pub struct Facts {
    pub partition: PartitionId,
    /// The committed offset and its metadata; `None` when the group has never committed this partition.
    pub committed: Option<(Offset, Result<Metadata, MetadataError>)>,
    /// As the commit of any partition of the group says.
    pub group_began: Option<GroupBeginning>,
    pub log_start: Offset,
    pub log_end: Offset,
    pub identity: LogIdentity,
    pub partitions: i32,
    pub snapshot: Option<SnapshotHead>,
    pub parked: Option<ParkedHead>,
    /// `order_stats_progress` of the partition, as far as the database could be asked.
    pub statistics_progress: Option<Offset>,
    /// What this very process had committed, and of which log, when the partition is recovered in the middle of a run.
    pub known: Option<(Offset, LogIdentity)>,
}

/// The parameters of this run, as configured.
#[derive(Debug, Clone)]
pub struct Configured {
    pub rules: Vec<Rule>,
    pub out_of_orderness: crate::domain::duration::Millis,
    pub max_future_skew: crate::domain::duration::Millis,
    pub statistics: bool,
    pub orders: bool,
    pub first_start: FirstStart,
}

/// How to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The committed offset: outputs of records before it are in the log already and must be suppressed.
    pub committed: Offset,
    /// The first record to read, and the watermark just before it (unused with a snapshot, which knows its own).
    pub from: Position,
    /// The partition as of `committed`. Whatever an older snapshot knows of the statistics, they are acknowledged so far:
    /// what the log needs to hold never begins earlier again.
    pub progress: Progress,
    pub source: StartSource,
    pub parameters: Parameters,
    /// Positions of the rules whose newest version decides for the first time, from `committed` on.
    pub changed_rules: Vec<usize>,
    pub partitions_at_first_start: i32,
    /// When the covering commit was made; the read-back begins there.
    pub committed_at_ms: Option<i64>,
    pub remark: Option<String>,
}

impl Start {
    /// Outputs up to this record are in the log ahead of the committed offset: they were decided, and so is every record up
    /// to there, with the rules of then. A new version begins behind it.
    pub fn decided_ahead_through(&mut self, offset: Offset) {
        for &at in &self.changed_rules {
            if let Some(newest) = self.parameters.rules[at].versions.last_mut() {
                newest.from = newest.from.max(offset.next());
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartSource {
    /// Never committed: the start must be committed, with metadata, before the first record is read.
    First,
    /// Empty state at the horizon.
    Horizon,
    Snapshot,
    /// The state that this process had when it handed the partition over.
    Parked,
}

/// Decides how a partition begins.
///
/// # Errors
/// A [`Refusal`] when no start would be exact.
pub fn decide(facts: &Facts, configured: &Configured) -> Result<Start, Refusal> {
    if let Some((_, identity)) = &facts.known {
        check_identity(identity, &facts.identity)?;
    }
    match &facts.committed {
        None => first_start(facts, configured),
        Some((committed, Ok(metadata))) => resume(facts, configured, *committed, metadata),
        Some((committed, Err(error))) => Err(Refusal::Metadata { committed: *committed, error: error.clone() }),
    }
}

fn first_start(facts: &Facts, configured: &Configured) -> Result<Start, Refusal> {
    if let Some((through, _)) = facts.known {
        return Err(Refusal::OffsetsGone { known_by: "this process", through });
    }
    if let Some(snapshot) = &facts.snapshot {
        return Err(Refusal::OffsetsGone { known_by: "a local snapshot", through: snapshot.witnessed() });
    }
    if let Some(through) = facts.statistics_progress {
        return Err(Refusal::OffsetsGone { known_by: "order_stats_progress", through });
    }
    if let Some(group) = &facts.group_began {
        check_identity(&group.identity, &facts.identity)?;
    }
    let began_with = facts.group_began.as_ref().map_or(facts.partitions, |group| group.partitions);
    let is_added = facts.partition.0 >= began_with;
    let start = match configured.first_start {
        FirstStart::Latest if !is_added => facts.log_end,
        _ => facts.log_start,
    };
    let remark = is_added.then(|| {
        format!("partition {} was added to the topic: read from its beginning; users may have moved", facts.partition)
    });
    let from = Position { offset: start, watermark: Watermark::NONE };
    Ok(Start {
        committed: start,
        from,
        progress: Progress {
            next: from,
            final_through: Watermark::NONE,
            horizon: from,
            statistics_horizon: from,
            statistics_gap: None,
        },
        source: StartSource::First,
        parameters: starting_parameters(configured, start),
        changed_rules: Vec::new(),
        partitions_at_first_start: began_with,
        committed_at_ms: None,
        remark,
    })
}

fn resume(facts: &Facts, configured: &Configured, committed: Offset, metadata: &Metadata) -> Result<Start, Refusal> {
    check_identity(&metadata.identity, &facts.identity)?;
    if facts.log_end < committed {
        return Err(Refusal::LogShorter { committed, log_end: facts.log_end });
    }
    let parameters = resumed_parameters(configured, &metadata.decided_with, committed)?;
    check_history_fits(&parameters, &metadata.identity)?;
    let versions = parameters.rules.iter().zip(&metadata.decided_with.rules).enumerate();
    let changed = versions.filter(|(_, (now, then))| now.versions.len() > then.versions.len());
    let changed_rules = changed.map(|(at, _)| at).collect();
    let mut from = metadata.horizon.min(metadata.statistics_horizon);
    if mutants::is(Mutant::HorizonOneTooHigh) && from.offset < committed {
        from.offset = from.offset.next();
    }
    if mutants::is(Mutant::HorizonAtTheCommittedOffset) {
        from = Position { offset: committed, watermark: metadata.watermark };
    }
    let start = Start {
        committed,
        from,
        progress: Progress {
            next: Position { offset: committed, watermark: metadata.watermark },
            final_through: metadata.final_through,
            horizon: metadata.horizon,
            statistics_horizon: metadata.statistics_horizon,
            statistics_gap: metadata.statistics_gap,
        },
        source: StartSource::Horizon,
        parameters,
        changed_rules,
        partitions_at_first_start: metadata.partitions_at_first_start,
        committed_at_ms: Some(metadata.committed_at_ms),
        remark: None,
    };
    if let Some(snapshot) = &facts.snapshot
        && snapshot.witnessed() > committed
    {
        return Err(Refusal::SnapshotAhead { snapshot: snapshot.witnessed(), committed });
    }
    // The later of the two needs the shorter replay.
    let parked = facts.parked.as_ref().filter(|parked| parked_serves(parked, facts, metadata, &start));
    let snapshot = facts.snapshot.as_ref().filter(|it| snapshot_serves(it, facts, configured, metadata, &start));
    let later = [
        snapshot.map(|snapshot| (snapshot.through, StartSource::Snapshot)),
        parked.map(|parked| (parked.next, StartSource::Parked)),
    ];
    if let Some((offset, source)) = later.into_iter().flatten().max_by_key(|(offset, _)| *offset) {
        let from = Position { offset, watermark: Watermark::NONE };
        return Ok(Start { from, source, ..start });
    }
    if facts.log_start <= start.from.offset {
        return Ok(start);
    }
    if facts.log_start <= metadata.horizon.offset {
        return Ok(without_lost_statistics(start, metadata, facts, configured));
    }
    Err(Refusal::LogTruncated { needed: metadata.horizon.offset, log_start: facts.log_start })
}

/// Only statistics would need the records that are gone: alerts go on, and the gap is reported. A minute whose start is
/// at or before the highest event time seen before the new start may have lost records; later ones cannot have.
fn without_lost_statistics(start: Start, metadata: &Metadata, facts: &Facts, configured: &Configured) -> Start {
    let from = metadata.horizon;
    let highest_before = Watermark(from.watermark.0.saturating_add(configured.out_of_orderness.0));
    let remark = format!(
        "order statistics of partition {} are incomplete for minutes up to {highest_before}: the topic begins at offset \
         {}, but records from {} on were not yet in the database; reconcile from another source",
        facts.partition, facts.log_start, metadata.statistics_horizon.offset
    );
    let statistics_gap = start.progress.statistics_gap.max(Some(highest_before));
    let progress = Progress { statistics_horizon: from, statistics_gap, ..start.progress };
    Start { from, progress, remark: Some(remark), ..start }
}

/// A kept state has taken the records before its offset, and they were committed here: it is a snapshot in memory.
fn parked_serves(parked: &ParkedHead, facts: &Facts, metadata: &Metadata, start: &Start) -> bool {
    parked.identity == facts.identity
        && (start.from.offset..=start.committed).contains(&parked.next)
        && parked.next >= facts.log_start
        && same_shape(&DecidedWith::of(&parked.parameters, Offset(0)), &metadata.decided_with)
}

fn snapshot_serves(
    snapshot: &SnapshotHead,
    facts: &Facts,
    configured: &Configured,
    metadata: &Metadata,
    start: &Start,
) -> bool {
    snapshot.identity == facts.identity
        && snapshot.through >= start.from.offset
        && snapshot.through >= facts.log_start
        && snapshot.orders == configured.orders
        && same_shape(&snapshot.decided_with, &metadata.decided_with)
}

/// Whether two runs keep the same kind of state: thresholds and severities may differ.
fn same_shape(a: &DecidedWith, b: &DecidedWith) -> bool {
    let shape = |decided: &DecidedWith| {
        let rules: Vec<_> = decided.rules.iter().map(|rule| (rule.id.clone(), rule.window)).collect();
        (decided.semantics, decided.out_of_orderness, decided.max_future_skew, decided.statistics, rules)
    };
    shape(a) == shape(b)
}

fn check_identity(then: &LogIdentity, now: &LogIdentity) -> Result<(), Refusal> {
    let changed = |what, then: &str, now: &str| {
        Err(Refusal::IdentityChanged { what, then: then.to_owned(), now: now.to_owned() })
    };
    if then.cluster_id != now.cluster_id {
        return changed("cluster", &then.cluster_id, &now.cluster_id);
    }
    if then.topic_id != now.topic_id {
        return changed("topic of the same name", &then.topic_id, &now.topic_id);
    }
    if then.group != now.group {
        return changed("group", &then.group, &now.group);
    }
    Ok(())
}

/// Each version of a rule that a replay may need is in every commit; a commit without room for them could not be made.
fn check_history_fits(parameters: &Parameters, identity: &LogIdentity) -> Result<(), Refusal> {
    let changed = parameters.rules.iter().any(|history| history.versions.len() > 1);
    let length = Metadata::length_max(parameters, identity.clone());
    if !changed || length <= LENGTH_MAX {
        return Ok(());
    }
    let what = format!(
        "the rules changed so often since the oldest open window that the commit metadata has no room for all their \
         versions ({length} of {LENGTH_MAX} bytes)"
    );
    Err(Refusal::ParametersChanged { what })
}

fn starting_parameters(configured: &Configured, from: Offset) -> Parameters {
    Parameters {
        rules: configured.rules.iter().map(|rule| RuleHistory::starting(rule.clone(), from)).collect(),
        out_of_orderness: configured.out_of_orderness,
        max_future_skew: configured.max_future_skew,
        statistics: configured.statistics,
        orders: configured.orders,
    }
}

/// The rules of this run with the versions that decided the records before `committed`.
fn resumed_parameters(configured: &Configured, then: &DecidedWith, committed: Offset) -> Result<Parameters, Refusal> {
    let refuse = |what: String| Err(Refusal::ParametersChanged { what });
    if then.semantics != SEMANTICS {
        return refuse(format!("semantics version {} became {SEMANTICS}", then.semantics));
    }
    if then.out_of_orderness != configured.out_of_orderness {
        let (was, is) = (then.out_of_orderness.0, configured.out_of_orderness.0);
        return refuse(format!("time.out_of_orderness was {was} ms, is {is} ms"));
    }
    if then.max_future_skew != configured.max_future_skew {
        let (was, is) = (then.max_future_skew.0, configured.max_future_skew.0);
        return refuse(format!("time.max_future_skew was {was} ms, is {is} ms"));
    }
    if then.statistics != configured.statistics {
        return refuse(format!("stats.enabled was {}, is {}", then.statistics, configured.statistics));
    }
    if let Some(added) = configured.rules.iter().find(|rule| then.rules.iter().all(|old| old.id != rule.id)) {
        return refuse(format!("rule {} was added", added.id));
    }
    // In the order of then: what a user was alerted for is kept, in snapshots too, by the position of the rule.
    let mut rules = Vec::with_capacity(then.rules.len());
    for old in &then.rules {
        let Some(rule) = configured.rules.iter().find(|rule| rule.id == old.id) else {
            return refuse(format!("rule {} was removed", old.id));
        };
        if old.window != rule.window {
            return refuse(format!("rule {}: window was {} ms, is {} ms", rule.id, old.window.0, rule.window.0));
        }
        rules.push(resumed_rule(rule, &old.window_text, &old.versions, committed)?);
    }
    Ok(Parameters {
        rules,
        out_of_orderness: configured.out_of_orderness,
        max_future_skew: configured.max_future_skew,
        statistics: configured.statistics,
        orders: configured.orders,
    })
}

fn resumed_rule(
    rule: &Rule,
    window_text_then: &str,
    versions_then: &[RuleVersion],
    committed: Offset,
) -> Result<RuleHistory, Refusal> {
    let refuse = |what: String| Err(Refusal::ParametersChanged { what });
    let Some(last) = versions_then.last() else { return refuse(format!("rule {} has no known version", rule.id)) };
    if rule.version < last.version {
        return refuse(format!("rule {}: version went back from {} to {}", rule.id, last.version, rule.version));
    }
    let same_content = rule.max_transactions == last.max_transactions
        && rule.severity == last.severity
        && rule.window_text == window_text_then;
    let mut versions = versions_then.to_vec();
    if rule.version == last.version {
        if !same_content {
            return refuse(format!("rule {}: other content under the same version {}", rule.id, rule.version));
        }
    } else {
        versions.push(RuleVersion {
            from: committed.max(last.from),
            version: rule.version,
            max_transactions: rule.max_transactions,
            severity: rule.severity,
        });
    }
    Ok(RuleHistory::with_versions(rule.clone(), versions))
}
