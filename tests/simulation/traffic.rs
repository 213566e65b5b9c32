//! What is produced to the source topic: few users and merchants, short windows, and everything that is awkward: late and
//! early events, duplicates, nonsense, and offsets without a record.

use std::sync::Arc;

use tallyguard::domain::duration::Millis;
use tallyguard::domain::rule::{Rule, Severity};
use tallyguard::protocol::recovery::{Configured, FirstStart};
use tallyguard::reconcile::recount::{Parameters, RuleText};

use crate::chance::Chance;
use crate::kafka::{Record, SourcePartition, TOPIC};

const USERS: u64 = 5;
const OUT_OF_ORDERNESS_MS: u64 = 3_000;
const MAX_FUTURE_SKEW_MS: u64 = 60_000;
/// Id, window in seconds, transactions that are allowed in it.
const RULES: [(&str, u64, u32); 2] = [("velocity-5s", 5, 2), ("velocity-20s", 20, 4)];

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
            r#"{{"transaction_id":"t-{number}","order_id":"o-{number}","user_id":"{user}","merchant_id":"m-{merchant}","amount_minor":{amount},"currency":"EUR","event_time":{event_ms}}}"#
        )
    }
}

/// The service's configuration.
pub fn configured() -> Configured {
    let rules = RULES.map(|(id, seconds, max_transactions)| Rule {
        id: id.to_owned(),
        version: 1,
        window: Millis(i64::try_from(seconds * 1_000).expect("small")),
        window_text: format!("{seconds}s"),
        max_transactions,
        severity: Severity::High,
    });
    Configured {
        rules: rules.into(),
        out_of_orderness: Millis(i64::try_from(OUT_OF_ORDERNESS_MS).expect("small")),
        max_future_skew: Millis(i64::try_from(MAX_FUTURE_SKEW_MS).expect("small")),
        statistics: true,
        orders: false,
        first_start: FirstStart::Earliest,
    }
}

/// The same for the recount.
pub fn parameters() -> Parameters {
    let rules = RULES.map(|(id, seconds, max_transactions)| RuleText {
        id: id.to_owned(),
        version: 1,
        window_ms: i64::try_from(seconds * 1_000).expect("small"),
        window_text: format!("{seconds}s"),
        max_transactions: u64::from(max_transactions),
        severity: "high".to_owned(),
        changes: Vec::new(),
    });
    Parameters {
        source_topic: TOPIC.to_owned(),
        rules: rules.into(),
        out_of_orderness_ms: i64::try_from(OUT_OF_ORDERNESS_MS).expect("small"),
        max_future_skew_ms: i64::try_from(MAX_FUTURE_SKEW_MS).expect("small"),
        statistics: true,
        orders: false,
    }
}
