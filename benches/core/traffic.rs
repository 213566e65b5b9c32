//! Records for the partition benchmarks: cheap to make, the same every time, all within one minute of event time, so
//! that every user who was seen stays open.
#![allow(dead_code, reason = "each benchmark uses its own part of this module")]

use std::io::Write as _;

use tallyguard::domain::ids::Offset;
use tallyguard::domain::record::SourceRecord;

use crate::common::dice::Dice;

/// 2026-01-01T00:00:00Z.
const MINUTE_START_MS: u64 = 1_767_225_600_000;
/// Made, and then applied, so many at a time: only the applying is timed.
pub const BATCH: usize = 2_048;

/// Who sends the next record.
#[derive(Clone, Copy)]
pub enum Shape {
    /// Every user in turn, scrambled: after `users` records each has sent one.
    Each,
    Random,
    Zipf,
}

impl Shape {
    pub fn of(name: &str) -> Self {
        match name {
            "each" => Self::Each,
            "random" => Self::Random,
            "zipf" => Self::Zipf,
            other => panic!("unknown shape {other}"),
        }
    }
}

/// An endless row of records.
pub struct Traffic {
    dice: Dice,
    shape: Shape,
    users: u64,
    next: u64,
    bytes: Vec<u8>,
    /// Key and value of each record of the batch, as bounds within `bytes`.
    bounds: Vec<(usize, usize, usize)>,
}

impl Traffic {
    pub fn new(users: u64, shape: Shape) -> Self {
        Self { dice: Dice(users), shape, users, next: 0, bytes: Vec::new(), bounds: Vec::new() }
    }

    /// Makes the next batch.
    pub fn make(&mut self, records: usize) {
        self.bytes.clear();
        self.bounds.clear();
        for _ in 0..records {
            let number = self.next;
            self.next += 1;
            let user = match self.shape {
                // A prime far above the number of users: visits each once before any twice.
                Shape::Each => number.wrapping_mul(2_147_483_647) % self.users,
                Shape::Random => self.dice.below(self.users),
                Shape::Zipf => self.dice.zipf(self.users),
            };
            let at = self.bytes.len();
            write!(self.bytes, "u-{user}").expect("memory");
            let value_at = self.bytes.len();
            write!(
                self.bytes,
                r#"{{"transaction_id":"t-{number}","order_id":"o-{number}","user_id":"u-{user}","merchant_id":"m-{}","#,
                user % 1_000
            )
            .expect("memory");
            write!(
                self.bytes,
                r#""amount_minor":{},"currency":"EUR","event_time":{},"channel":"web","status":"authorized"}}"#,
                number % 10_000,
                MINUTE_START_MS + number % 60_000
            )
            .expect("memory");
            self.bounds.push((at, value_at, self.bytes.len()));
        }
    }

    /// The records of the last batch.
    pub fn records(&self) -> impl Iterator<Item = SourceRecord<'_>> {
        let first = self.next - u64::try_from(self.bounds.len()).expect("a batch");
        self.bounds.iter().zip(first..).map(|(&(at, value_at, end), number)| SourceRecord {
            offset: Offset(i64::try_from(number).expect("an offset")),
            timestamp_ms: None,
            key: Some(&self.bytes[at..value_at]),
            value: Some(&self.bytes[value_at..end]),
        })
    }
}
