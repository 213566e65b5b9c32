//! The sequence of records: a virtual clock, fresh records, and a queue of those that were promised for later.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::domain::time::EventTime;
use crate::generate::dice::Dice;
use crate::generate::fields::Fields;
use crate::generate::population::{Population, User};
use crate::generate::shares::{Share, Shares};
use crate::generate::transaction::{Transaction, TransactionWriter};
use crate::generate::{GeneratedRecord, Header, Kind, WorkloadOptions, burst, malformed, unusual};

const RECENT_ORDERS: usize = 256;
/// How far ordinary records of a workload with out-of-order records lie behind the clock at most.
const JITTER_MS_MAX: i64 = 200;
/// A burst must be over this long, and this many records, before the end of the workload, so that it is never cut.
const BURST_MARGIN_MS: i64 = 100;
const BURST_MARGIN_EVENTS: i64 = 50;
/// No event time may come near the end of the accepted range, where the malformed records of 2099 live.
const LATEST_CLOCK: EventTime = EventTime(EventTime::END.0 - 366 * 86_400_000);
/// Late records lie up to five minutes before the start.
const EARLIEST_START: EventTime = EventTime(EventTime::MIN.0 + 600_000);

/// Options that make no workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    #[error("a workload needs at least one user")]
    NoUsers,
    #[error("a workload needs at least one merchant")]
    NoMerchants,
    #[error("a workload needs at least one event per second of event time")]
    NoDensity,
    #[error(
        "the shares of bursts, out-of-order, late, malformed, unusual and wrongly keyed records add up to more than 1"
    )]
    TooManyPeculiarities,
    #[error("the start {0} lies outside 2000-01-01T00:10:00Z to 2098-12-31T00:00:00Z")]
    StartOutOfRange(EventTime),
}

/// What a fresh record becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    BurstStart,
    OutOfOrder,
    Late,
    Malformed,
    Unusual,
    WrongKey,
}

/// A deterministic sequence of records; see the [module](crate::generate).
///
/// As an iterator it hands out records of their own; [`Workload::fill`] reuses the caller's buffers.
pub struct Workload {
    options: WorkloadOptions,
    dice: Dice,
    population: Population,
    writer: TransactionWriter,
    /// Running sums in parts per million.
    thresholds: [(u32, Part); 6],
    /// Whether anything but ordinary, punctual records is wanted.
    lively: bool,
    emitted: u64,
    transactions: u64,
    orders: u64,
    planned: BinaryHeap<Reverse<Planned>>,
    planned_so_far: u64,
    recent_orders: Vec<Transaction>,
    /// For each scripted user the instant from which nothing of an earlier burst can meet a new one.
    scripted_free_from: Vec<EventTime>,
    next_scripted: u32,
}

impl Workload {
    /// # Errors
    /// Without users, merchants or density, with shares that exceed the whole, or with a start outside the range of
    /// event times.
    pub fn new(options: WorkloadOptions) -> Result<Self, WorkloadError> {
        if options.users == 0 {
            return Err(WorkloadError::NoUsers);
        }
        if options.merchants == 0 {
            return Err(WorkloadError::NoMerchants);
        }
        if options.events_per_second == 0 {
            return Err(WorkloadError::NoDensity);
        }
        if options.shares.exclusive_total() > Share::WHOLE {
            return Err(WorkloadError::TooManyPeculiarities);
        }
        if options.start < EARLIEST_START || options.start >= LATEST_CLOCK {
            return Err(WorkloadError::StartOutOfRange(options.start));
        }
        let population = Population::new(options.users, options.merchants);
        let scripted_free_from = vec![EventTime(i64::MIN); population.scripted_users() as usize];
        Ok(Self {
            dice: Dice::new(options.seed),
            writer: TransactionWriter::new(options.seed),
            thresholds: thresholds(&options.shares),
            lively: options.shares != Shares::NONE,
            population,
            emitted: 0,
            transactions: 0,
            orders: 0,
            planned: BinaryHeap::new(),
            planned_so_far: 0,
            recent_orders: Vec::with_capacity(RECENT_ORDERS),
            scripted_free_from,
            next_scripted: 0,
            options,
        })
    }

    /// The virtual clock at the next record: no record so far, nor the next, has a later event time (malformed ones
    /// of 2099 aside).
    #[must_use]
    pub fn clock(&self) -> EventTime {
        self.clock_at(self.emitted)
    }

    fn clock_at(&self, record: u64) -> EventTime {
        let elapsed = u128::from(record) * 1_000 / u128::from(self.options.events_per_second);
        EventTime(i64::try_from(elapsed).map_or(i64::MAX, |elapsed| self.options.start.0.saturating_add(elapsed)))
    }

    /// Writes the next record over `record`, whose buffers are reused. False, and nothing written, after the last one.
    pub fn fill(&mut self, record: &mut GeneratedRecord) -> bool {
        let clock = self.clock();
        if (self.options.events != 0 && self.emitted == self.options.events) || clock >= LATEST_CLOCK {
            return false;
        }
        self.emitted += 1;
        record.headers.clear();
        match self.planned.peek().copied() {
            Some(Reverse(planned)) if planned.due <= clock => {
                self.planned.pop();
                self.write(record, planned.kind, &planned.transaction);
            }
            _ => self.fill_fresh(record, clock),
        }
        true
    }

    fn fill_fresh(&mut self, record: &mut GeneratedRecord, clock: EventTime) {
        let roll = self.dice.below(Share::WHOLE);
        let part = self.thresholds.iter().find(|(below, _)| roll < *below).map(|(_, part)| *part);
        let mut transaction = self.ordinary_transaction(clock);
        match part {
            None => self.fill_ordinary(record, clock, &transaction),
            Some(Part::BurstStart) => {
                self.plan_burst(clock);
                self.fill_ordinary(record, clock, &transaction);
            }
            Some(Part::OutOfOrder) => {
                transaction.event_time = EventTime(clock.0 - self.dice.between(1_000, 55_000));
                self.write(record, Kind::OutOfOrder, &transaction);
            }
            Some(Part::Late) => {
                transaction.event_time = EventTime(clock.0 - self.dice.between(125_000, 300_000));
                self.write(record, Kind::Late, &transaction);
                self.add_headers(record);
            }
            Some(Part::Malformed) => self.fill_malformed(record, transaction),
            Some(Part::Unusual) => {
                let kind = *self.dice.pick(&unusual::KINDS);
                let fields = Fields::of(&transaction, &mut self.writer);
                let value = unusual::value(kind, &mut self.dice, fields, transaction.event_time);
                self.write(record, kind, &transaction);
                record.value = Some(value.into_bytes());
            }
            Some(Part::WrongKey) => self.fill_wrong_key(record, &transaction),
        }
    }

    fn fill_ordinary(&mut self, record: &mut GeneratedRecord, clock: EventTime, transaction: &Transaction) {
        self.write(record, Kind::Ordinary, transaction);
        if self.lively {
            if self.dice.chance(self.options.shares.duplicates) {
                self.plan_duplicate(clock, *transaction);
            }
            if self.dice.below(64) == 0 {
                self.add_headers(record);
            }
        }
    }

    fn fill_malformed(&mut self, record: &mut GeneratedRecord, mut transaction: Transaction) {
        let kind = *self.dice.pick(&malformed::KINDS);
        let value = malformed::value(kind, &mut self.dice, &mut transaction, &mut self.writer);
        self.write(record, kind, &transaction);
        record.value = value;
        self.add_headers(record);
    }

    fn fill_wrong_key(&mut self, record: &mut GeneratedRecord, transaction: &Transaction) {
        let other = self.population.draw_user(&mut self.dice);
        if other == transaction.user || self.dice.below(2) == 0 {
            self.write(record, Kind::MissingKey, transaction);
            record.meant_key = record.key.take();
        } else {
            self.write(record, Kind::OtherKey, transaction);
            set_key(record, other);
        }
    }

    /// A new transaction of anybody but the scripted users; a quarter of them belong to an order that had one before.
    fn ordinary_transaction(&mut self, clock: EventTime) -> Transaction {
        let jitter =
            if self.options.shares.out_of_order == Share::ZERO { 0 } else { self.dice.between(0, JITTER_MS_MAX) };
        let number = self.transactions;
        self.transactions += 1;
        let [bits_0, bits_1, bits_2, bits_3] = self.dice.bits().to_le_bytes();
        let event_time = EventTime(clock.0 - jitter);
        if bits_0 < 64 && self.recent_orders.len() == RECENT_ORDERS {
            let earlier = *self.dice.pick(&self.recent_orders);
            return Transaction { number, event_time, channel: bits_2, status: bits_3, ..earlier };
        }
        let user = self.population.draw_user(&mut self.dice);
        let transaction = self.transaction(number, user, event_time, [bits_1, bits_2, bits_3]);
        let slot = usize::try_from(transaction.order).unwrap_or(0) % RECENT_ORDERS;
        match self.recent_orders.get_mut(slot) {
            Some(recent) => *recent = transaction,
            None => self.recent_orders.push(transaction),
        }
        transaction
    }

    fn transaction(&mut self, number: u64, user: User, event_time: EventTime, bits: [u8; 3]) -> Transaction {
        let [currency_bits, channel, status] = bits;
        let order = self.orders;
        self.orders += 1;
        let merchant = self.population.draw_merchant(&mut self.dice);
        // Most merchants mostly take one currency.
        let home = u8::try_from(merchant.0 % 16).unwrap_or(0);
        let currency = if currency_bits < 224 { home } else { currency_bits };
        // From cents to thousands, small amounts more often.
        let magnitude = 7 + self.dice.below(12);
        let amount_minor = 50 + u64::from(self.dice.below(1 << magnitude));
        Transaction { number, order, user, merchant, amount_minor, currency, channel, status, event_time }
    }

    fn plan_duplicate(&mut self, clock: EventTime, mut transaction: Transaction) {
        let far_ms = self.dice.between(5_000, 50_000);
        let (kind, delay_ms) = match self.dice.below(8) {
            0..=2 => (Kind::DuplicateNear, self.dice.between(0, 500)),
            3 | 4 => (Kind::DuplicateFar, far_ms),
            5 => (Kind::DuplicateLate, self.dice.between(125_000, 300_000)),
            6 => (Kind::DuplicateChanged, far_ms),
            _ => (Kind::DuplicateChanged, self.dice.between(0, 500)),
        };
        if kind == Kind::DuplicateChanged {
            transaction.amount_minor += 1;
            transaction.status = transaction.status.wrapping_add(1);
        }
        self.plan(EventTime(clock.0 + delay_ms), kind, transaction);
    }

    /// Plans a burst of the scripted user whose turn it is, unless that one is still busy or the end is near.
    fn plan_burst(&mut self, clock: EventTime) {
        let Some(free_from) = self.scripted_free_from.get(self.next_scripted as usize).copied() else { return };
        if free_from > clock {
            return;
        }
        let margin_ms = BURST_MARGIN_MS + BURST_MARGIN_EVENTS * 1_000 / i64::from(self.options.events_per_second);
        let end = match self.options.events {
            0 => EventTime(clock.0 + 600_000),
            events => EventTime(self.clock_at(events).0.saturating_sub(margin_ms)),
        };
        let Some(burst) = burst::plan(&mut self.dice, clock, end) else { return };
        let user = self.population.scripted_user(self.next_scripted);
        let mut sent: Vec<Transaction> = Vec::with_capacity(burst.steps.len());
        for step in &burst.steps {
            let transaction = match step.repeats.and_then(|original| sent.get(original)) {
                Some(original) => *original,
                None => {
                    let number = self.transactions;
                    self.transactions += 1;
                    let [_, bits @ ..] = self.dice.bits().to_le_bytes();
                    self.transaction(number, user, step.due, bits)
                }
            };
            sent.push(transaction);
            self.plan(step.due, burst.kind, transaction);
        }
        let last = sent.iter().map(|transaction| transaction.event_time).max().unwrap_or(clock);
        self.scripted_free_from[self.next_scripted as usize] = burst::next_minute(last);
        self.next_scripted = (self.next_scripted + 1) % self.population.scripted_users().max(1);
    }

    fn plan(&mut self, due: EventTime, kind: Kind, transaction: Transaction) {
        self.planned.push(Reverse(Planned { due, sequence: self.planned_so_far, kind, transaction }));
        self.planned_so_far += 1;
    }

    /// Writes the ordinary form of a transaction under the key of its user.
    fn write(&mut self, record: &mut GeneratedRecord, kind: Kind, transaction: &Transaction) {
        record.kind = kind;
        record.event_time = transaction.event_time;
        record.meant_key = None;
        set_key(record, transaction.user);
        let value = record.value.get_or_insert_default();
        value.clear();
        self.writer.push_json(value, transaction);
    }

    /// Headers that must come through untouched: text, bytes that are no text, no value, and one of our own names.
    fn add_headers(&mut self, record: &mut GeneratedRecord) {
        let trace = format!("00-{:032x}-{:016x}-01", self.emitted, self.dice.bits());
        record.headers.push(Header { name: "traceparent", value: Some(trace.into_bytes()) });
        match self.dice.below(4) {
            0 => record.headers.push(Header { name: "x-signature", value: Some(vec![0x00, 0xff, 0x80, b'\n']) }),
            1 => record.headers.push(Header { name: "x-empty", value: None }),
            2 => record.headers.push(Header { name: "tallyguard.source.topic", value: Some(b"upstream".to_vec()) }),
            _ => {}
        }
    }
}

impl Iterator for Workload {
    type Item = GeneratedRecord;

    fn next(&mut self) -> Option<GeneratedRecord> {
        let mut record = GeneratedRecord::default();
        self.fill(&mut record).then_some(record)
    }
}

fn set_key(record: &mut GeneratedRecord, user: User) {
    let key = record.key.get_or_insert_default();
    key.clear();
    user.push_id(key);
}

fn thresholds(shares: &Shares) -> [(u32, Part); 6] {
    let burst_starts = shares.bursts.parts_per_million().div_ceil(burst::TYPICAL_RECORDS);
    let mut sum = 0;
    [
        (burst_starts, Part::BurstStart),
        (shares.out_of_order.parts_per_million(), Part::OutOfOrder),
        (shares.late.parts_per_million(), Part::Late),
        (shares.malformed.parts_per_million(), Part::Malformed),
        (shares.unusual.parts_per_million(), Part::Unusual),
        (shares.wrong_keys.parts_per_million(), Part::WrongKey),
    ]
    .map(|(share, part)| {
        sum += share;
        (sum, part)
    })
}

/// A record that is to be sent when the clock gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Planned {
    due: EventTime,
    /// Order of planning: it decides between records that are due at the same time.
    sequence: u64,
    kind: Kind,
    transaction: Transaction,
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
