//! Deterministic, realistic load: transactions as a payment platform would send them, with their bad habits.
//!
//! Promise: the records are a pure function of [`WorkloadOptions`]; the same options give the same bytes in every process
//! and on every machine. Event time follows a virtual clock that the record number alone drives: record `i` is due at
//! `start + i / events_per_second`. Who sends the records decides how fast that virtual clock runs against a real one
//! ([`timeline`]).
//!
//! Must never: look at the wall clock, do I/O, or draw randomness from anywhere but the seed.
//!
//! What goes in, beside ordinary traffic of many quiet users and a few heavy hitters: bursts of exactly 10, 11 and 12
//! transactions of one user in one minute, bursts that straddle a minute, repeated transactions (identical, changed,
//! near, far, after their window), records out of order and too late, unusual but legal ones, missing and foreign keys,
//! and malformed records for every dead-letter reason. [`Kind`] says of each record which of these it is.

mod burst;
mod dice;
mod fields;
mod kind;
mod malformed;
mod population;
mod shares;
pub mod timeline;
mod transaction;
mod unusual;
mod workload;

pub use kind::{Counts, Kind};
pub use shares::{InvalidShare, Share, Shares};
pub use workload::{Workload, WorkloadError};

use crate::domain::time::EventTime;

/// Everything that decides what is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadOptions {
    /// Another seed gives other records, and other transaction and order ids.
    pub seed: u64,
    /// Number of different users. Up to a tenth of them are set aside for bursts, so that nothing else disturbs their
    /// counts; with a single user there are no bursts.
    pub users: u32,
    /// Number of different merchants.
    pub merchants: u32,
    /// Number of records; 0 = endless.
    pub events: u64,
    /// Where the virtual clock starts. Late and out-of-order records may lie up to five minutes before it.
    pub start: EventTime,
    /// Density in event time: how many records the virtual clock gets per second.
    pub events_per_second: u32,
    /// How much of each peculiarity.
    pub shares: Shares,
}

impl WorkloadOptions {
    /// 2026-01-01T00:00:00Z: where the clock starts when the output is to be the same every time.
    pub const FIXED_START: EventTime = EventTime(1_767_225_600_000);
    pub const DEFAULT_USERS: u32 = 100_000;
    pub const DEFAULT_MERCHANTS: u32 = 1_000;
    pub const DEFAULT_EVENTS_PER_SECOND: u32 = 1_000;
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            users: Self::DEFAULT_USERS,
            merchants: Self::DEFAULT_MERCHANTS,
            events: 0,
            start: Self::FIXED_START,
            events_per_second: Self::DEFAULT_EVENTS_PER_SECOND,
            shares: Shares::DEFAULT,
        }
    }
}

/// A header of a generated record. Values are bytes, and may be absent, as in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: &'static str,
    pub value: Option<Vec<u8>>,
}

/// One record as it goes into the source topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedRecord {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// The key that a record without one was meant to have. It goes where that key goes: its user stays in one partition.
    pub meant_key: Option<Vec<u8>>,
    /// The `event_time` that the value carries; for a malformed value, the one it would have carried.
    pub event_time: EventTime,
    pub kind: Kind,
}

impl Default for GeneratedRecord {
    /// An empty record, to be filled by [`Workload::fill`].
    fn default() -> Self {
        Self {
            key: None,
            value: None,
            headers: Vec::new(),
            meant_key: None,
            event_time: EventTime(0),
            kind: Kind::Ordinary,
        }
    }
}
