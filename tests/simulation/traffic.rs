//! What is produced to the source topic: few users and merchants, short windows, and everything that is awkward: late and
//! early events, duplicates, nonsense, and offsets without a record.

use std::sync::Arc;

use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::PartitionState;
use tallyguard::domain::record::SourceRecord;
use tallyguard::domain::rule::{self, Rule, RuleHistory, Severity};
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;
use tallyguard::protocol::recovery::{Configured, FirstStart};
use tallyguard::reconcile::recount::{Parameters, RuleChange, RuleText};

use crate::chance::Chance;
use crate::kafka::{Record, RuleVersions, SourcePartition, TOPIC};

const USERS: u64 = 5;
const OUT_OF_ORDERNESS_MS: u64 = 3_000;
const MAX_FUTURE_SKEW_MS: u64 = 60_000;
/// Id, window in seconds, transactions that are allowed in it, in each version.
const RULES: [(&str, u64, [u32; 3]); 2] = [("velocity-5s", 5, [2, 1, 3]), ("velocity-20s", 20, [4, 3, 5])];

pub struct Traffic {
    chance: Arc<Chance>,
    event_ms: i64,
    number: u64,
    left: u64,
}

impl Traffic {
    pub fn new(chance: Arc<Chance>) -> Self {
        let left = chance.between(60, 240);
        Self { event_ms: chance.wall_ms(), number: 0, left, chance }
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// A few records, or none any more.
    pub fn produce(&mut self, partitions: &mut [SourcePartition]) {
        for _ in 0..self.left.min(1 + self.chance.below(4)) {
            let at = self.chance.index(partitions.len());
            let entry = if self.chance.per_mille(60) { None } else { Some(self.record(at)) };
            partitions[at].entries.push(entry);
            self.left -= 1;
        }
    }

    /// Records of another topic.
    pub fn strangers(&mut self, partitions: usize, count: usize) -> Vec<Vec<Option<Record>>> {
        (0..partitions).map(|at| (0..count).map(|_| Some(self.record(at))).collect()).collect()
    }

    fn record(&mut self, partition: usize) -> Record {
        let chance = Arc::clone(&self.chance);
        self.number += 1;
        self.event_ms += i64::try_from(chance.below(700)).expect("small");
        let timestamp_ms = self.event_ms;
        let back = match chance.below(20) {
            0 => 15_000,
            1..5 => 3_000,
            _ => 1,
        };
        let event_ms = self.event_ms - i64::try_from(chance.below(back)).expect("small");
        // Users have their partition.
        let user = format!("u-{partition}-{}", chance.below(USERS));
        let number = if chance.per_mille(80) { self.number.saturating_sub(chance.below(6)) } else { self.number };
        let value = match chance.below(40) {
            0 => "no json".to_owned(),
            1 => Self::transaction(&user, number, event_ms + 10_000_000, &chance),
            _ => Self::transaction(&user, number, event_ms, &chance),
        };
        Record { timestamp_ms, key: Some(user.into_bytes()), value: Some(value.into_bytes()) }
    }

    fn transaction(user: &str, number: u64, event_ms: i64, chance: &Chance) -> String {
        let (merchant, amount) = (chance.below(2), chance.below(1_000));
        format!(
            r#"{{"transaction_id":"t-{number}","order_id":"o-{user}-{number}","user_id":"{user}","merchant_id":"m-{merchant}","amount_minor":{amount},"currency":"EUR","event_time":{event_ms}}}"#
        )
    }
}

/// What the service is configured with: later versions of the rules are put in force while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// From 1 to [`Configuration::NEWEST`].
    pub rules: u32,
    pub orders: bool,
    /// Somebody has changed what the state depends on; it must be refused.
    pub is_wrong: bool,
}

impl Configuration {
    pub const NEWEST: u32 = 3;

    fn rule(self, at: usize) -> Rule {
        let (id, seconds, thresholds) = RULES[at];
        let seconds = if self.is_wrong && at == 0 { seconds + 1 } else { seconds };
        // The second rule changes once only.
        let version = if at == 0 { self.rules } else { 1 + self.rules / Self::NEWEST };
        Rule {
            id: id.to_owned(),
            version,
            window: Millis(i64::try_from(seconds * 1_000).expect("small")),
            window_text: format!("{seconds}s"),
            max_transactions: thresholds[index_of(version)],
            severity: [Severity::High, Severity::Low, Severity::Critical][index_of(version)],
        }
    }

    /// As the service has it.
    pub fn configured(self) -> Configured {
        Configured {
            rules: (0..RULES.len()).map(|at| self.rule(at)).collect(),
            out_of_orderness: Millis(i64::try_from(OUT_OF_ORDERNESS_MS).expect("small")),
            max_future_skew: Millis(i64::try_from(MAX_FUTURE_SKEW_MS).expect("small")),
            statistics: true,
            orders: self.orders,
            first_start: FirstStart::Earliest,
        }
    }

    /// As the recount has it: the rules of the beginning, and where which partition went on to later ones.
    pub fn parameters(self, history: &RuleVersions) -> Parameters {
        let rules = (0..RULES.len()).map(|at| {
            let first = Self { rules: 1, is_wrong: false, ..self }.rule(at);
            let of_partitions = history.iter().filter(|((id, _), _)| *id == first.id);
            let changes = of_partitions.flat_map(|((_, partition), versions)| {
                versions.values().map(|version| RuleChange {
                    partition: partition.0,
                    first_offset: version.from.0,
                    version: version.version,
                    max_transactions: u64::from(version.max_transactions),
                    severity: version.severity.as_str().to_owned(),
                })
            });
            RuleText {
                changes: changes.collect(),
                id: first.id,
                version: first.version,
                window_ms: first.window.0,
                window_text: first.window_text,
                max_transactions: u64::from(first.max_transactions),
                severity: first.severity.as_str().to_owned(),
            }
        });
        Parameters {
            source_topic: TOPIC.to_owned(),
            rules: rules.collect(),
            out_of_orderness_ms: i64::try_from(OUT_OF_ORDERNESS_MS).expect("small"),
            max_future_skew_ms: i64::try_from(MAX_FUTURE_SKEW_MS).expect("small"),
            statistics: true,
            orders: self.orders,
        }
    }

    /// The state that one partition has come to when it took all its records without any interruption.
    pub fn uninterrupted(
        self,
        partition: PartitionId,
        source: &SourcePartition,
        history: &RuleVersions,
    ) -> PartitionState {
        let rules = (0..RULES.len()).map(|at| {
            let rule = self.rule(at);
            let versions = history[&(rule.id.clone(), partition)].values().cloned().collect();
            RuleHistory::with_versions(rule, versions)
        });
        let Configured { out_of_orderness, max_future_skew, .. } = self.configured();
        let parameters = rule::Parameters {
            rules: rules.collect(),
            out_of_orderness,
            max_future_skew,
            statistics: true,
            orders: self.orders,
        };
        let from = Position { offset: Offset(0), watermark: Watermark::NONE };
        let mut state = PartitionState::new(TOPIC.into(), partition, parameters.into(), from, Watermark::NONE);
        for (offset, entry) in (0..).zip(&source.entries) {
            let Some(Record { timestamp_ms, key, value }) = entry else { continue };
            let record = SourceRecord {
                offset: Offset(offset),
                timestamp_ms: Some(*timestamp_ms),
                key: key.as_deref(),
                value: value.as_deref(),
            };
            state.apply(&record, &mut Vec::new());
        }
        state.skip_to(Offset(source.end()));
        if let Some(flush) = state.take_flush() {
            state.acknowledge_flush(flush.through);
        }
        state
    }
}

fn index_of(version: u32) -> usize {
    usize::try_from(version - 1).expect("small")
}
