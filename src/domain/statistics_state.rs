//! The order statistics of one partition: open minutes, and closed ones that the database has not acknowledged.

use hashbrown::HashMap;

use crate::domain::duration::Millis;
use crate::domain::ids::{IdKey, Offset, PartitionId};
use crate::domain::record::Transaction;
use crate::domain::statistics::{OrderRow, StatisticsFlush, StatisticsRow};
use crate::domain::time::{Watermark, WindowEnd, WindowStart};
use crate::domain::window::{DigestMap, DigestSet, Position};

/// A set with more room than that for each order it held is given back.
const SPARE_CAPACITY_PER_ORDER: usize = 4;

/// One minute: a row per (merchant, currency), absolute values.
pub struct StatisticsMinute {
    pub start: WindowStart,
    pub first: Position,
    pub rows: DigestMap<RowState>,
    /// (merchant, currency, order) seen; emptied when the minute closes.
    pub orders: DigestSet,
    /// Rows changed since the last flush was taken.
    pub unflushed: Vec<IdKey>,
    pub unsaved_rows: Vec<IdKey>,
    pub unsaved_orders: Vec<IdKey>,
    pub next_chunk: u32,
}

/// A row and whether the two consumers of changes have seen its latest values.
#[derive(Debug, Clone)]
pub struct RowState {
    pub row: StatisticsRow,
    pub unflushed: bool,
    pub unsaved: bool,
}

/// See the module head.
pub struct StatisticsState {
    /// Oldest first; a minute stays until everything of it is acknowledged and no flush can change it.
    pub minutes: Vec<StatisticsMinute>,
    /// Latest record of each order since the last flush was taken; empty unless `orders` is on.
    pub orders: HashMap<Box<str>, OrderRow>,
    pub keeps_orders: bool,
    /// Every effect of the records before this position is acknowledged.
    pub acknowledged: Position,
    /// Minutes that start at or before this have lost records and are never written.
    pub incomplete_through: Watermark,
    /// More rows waited for the database than memory may hold: none are kept until a replay builds them again.
    pub shed: bool,
    /// The flush that is on its way.
    pub in_flight: Option<Position>,
    /// Its orders, kept for snapshots until it is acknowledged.
    pub orders_in_flight: Vec<OrderRow>,
    /// The emptied set of a minute that is closed, for the next one: growing a set costs as much as filling it.
    spare_orders: DigestSet,
}

impl StatisticsState {
    #[must_use]
    pub fn new(keeps_orders: bool, acknowledged: Position) -> Self {
        Self {
            minutes: Vec::new(),
            orders: HashMap::new(),
            keeps_orders,
            acknowledged,
            incomplete_through: Watermark::NONE,
            shed: false,
            in_flight: None,
            orders_in_flight: Vec::new(),
            spare_orders: DigestSet::default(),
        }
    }

    /// Opens the minute if it is new: from here on its records must be replayed until it is acknowledged.
    pub fn minute(&mut self, start: WindowStart, first: Position) -> &mut StatisticsMinute {
        let at = match self.minutes.binary_search_by_key(&start, |minute| minute.start) {
            Ok(at) => at,
            Err(at) => {
                let mut minute = StatisticsMinute::new(start, first);
                minute.orders = std::mem::take(&mut self.spare_orders);
                if let Some(previous) = at.checked_sub(1).and_then(|before| self.minutes.get(before)) {
                    minute.rows.reserve(previous.rows.len());
                    minute.unflushed.reserve(previous.rows.len());
                    minute.unsaved_rows.reserve(previous.rows.len());
                }
                self.minutes.insert(at, minute);
                at
            }
        };
        &mut self.minutes[at]
    }

    /// Remembers the record as the latest of its order.
    pub fn note_order(&mut self, transaction: &Transaction<'_>, offset: Offset) {
        if !self.keeps_orders || self.shed {
            return;
        }
        let row = OrderRow {
            order_id: transaction.order_id.as_ref().into(),
            user_id: transaction.user_id.as_ref().into(),
            merchant_id: transaction.merchant_id.as_ref().into(),
            amount_minor: transaction.amount_minor,
            currency: transaction.currency,
            status: transaction.status.as_deref().map(Into::into),
            event_time: transaction.event_time,
            source_offset: offset,
        };
        self.orders.insert(row.order_id.clone(), row);
    }

    /// Takes everything that changed since the last flush; `None` while one is on its way or nothing moved.
    ///
    /// A snapshot does not say which of its rows the database has: all of them go again, also when nothing moved since.
    pub fn take_flush(&mut self, partition: PartitionId, now: Position) -> Option<StatisticsFlush> {
        let has_moved = now.offset > self.acknowledged.offset;
        let has_rows = || self.minutes.iter().any(|minute| !minute.unflushed.is_empty());
        if self.shed || self.in_flight.is_some() || !(has_moved || has_rows()) {
            return None;
        }
        let mut rows = Vec::new();
        for minute in &mut self.minutes {
            if minute.start.0 <= self.incomplete_through.0 {
                minute.unflushed.clear();
                continue;
            }
            for key in minute.unflushed.drain(..) {
                if let Some(state) = minute.rows.get_mut(&key) {
                    state.unflushed = false;
                    rows.push(state.row.clone());
                }
            }
        }
        self.in_flight = Some(now);
        self.orders_in_flight = std::mem::take(&mut self.orders).into_values().collect();
        Some(StatisticsFlush {
            partition,
            through: now.offset,
            watermark: now.watermark,
            rows,
            orders: self.orders_in_flight.clone(),
        })
    }

    /// The flush up to `through` is in the database. Returns the minutes that are final thereby.
    pub fn acknowledge(&mut self, through: Offset) -> Vec<StatisticsMinute> {
        match self.in_flight {
            Some(flush) if flush.offset == through => {
                self.in_flight = None;
                self.orders_in_flight = Vec::new();
                self.acknowledged = self.acknowledged.max(flush);
            }
            _ => return Vec::new(),
        }
        self.drop_final(self.acknowledged.watermark)
    }

    /// No record before the position is replayed any more: a minute of an older snapshot that began before it begins there.
    pub fn know_acknowledged(&mut self, position: Position) {
        self.acknowledged = Position {
            offset: self.acknowledged.offset.max(position.offset),
            watermark: self.acknowledged.watermark.max(position.watermark),
        };
        for minute in &mut self.minutes {
            minute.first = minute.first.max(position);
        }
    }

    /// Nobody knows any more what became of the flush on its way, nor what the database has of earlier ones: every row and
    /// every order that is not final waits again.
    pub fn flush_is_lost(&mut self) {
        self.in_flight = None;
        for row in std::mem::take(&mut self.orders_in_flight) {
            self.orders.entry(row.order_id.clone()).or_insert(row);
        }
        for minute in &mut self.minutes {
            for (key, state) in &mut minute.rows {
                if !std::mem::replace(&mut state.unflushed, true) {
                    minute.unflushed.push(*key);
                }
            }
        }
    }

    /// Minutes that start at or before this have lost records; `None` when no such minute can still be written.
    #[must_use]
    pub fn gap(&self) -> Option<Watermark> {
        let last = WindowStart(self.incomplete_through.0);
        let is_open =
            self.incomplete_through != Watermark::NONE && !self.acknowledged.watermark.closes(last.end(Millis::MINUTE));
        is_open.then_some(self.incomplete_through)
    }

    /// Forgets the distinct orders of the minutes that are closed: nothing counts in them any more.
    pub fn close(&mut self, watermark: Watermark) {
        for minute in self.minutes.iter_mut().take_while(|minute| watermark.closes(minute.end())) {
            let mut orders = std::mem::take(&mut minute.orders);
            let is_well_filled = orders.capacity() <= SPARE_CAPACITY_PER_ORDER * orders.len();
            if is_well_filled && orders.capacity() > self.spare_orders.capacity() {
                orders.clear();
                self.spare_orders = orders;
            }
        }
    }

    /// Lets go of every row that waits, and keeps only where each minute began: the statistics horizon stays where it is,
    /// so that a replay from there has all of them again.
    pub fn shed(&mut self) {
        self.shed = true;
        self.orders = HashMap::new();
        self.spare_orders = DigestSet::default();
        for minute in &mut self.minutes {
            *minute = StatisticsMinute::new(minute.start, minute.first);
        }
    }

    /// Removes the minutes with an end at or before `final_through`.
    pub fn drop_final(&mut self, final_through: Watermark) -> Vec<StatisticsMinute> {
        let count = self.minutes.partition_point(|minute| final_through.closes(minute.end()));
        self.minutes.drain(..count).collect()
    }

    /// Rows and orders that the database has not acknowledged, those on their way not counted.
    #[must_use]
    pub fn pending_rows(&self) -> usize {
        self.minutes.iter().map(|minute| minute.unflushed.len()).sum::<usize>() + self.orders.len()
    }

    /// Where a replay must start to have every effect again that is not acknowledged.
    #[must_use]
    pub fn horizon(&self, now: Position) -> Position {
        let open = self.minutes.iter().map(|minute| minute.first).min().unwrap_or(now);
        if self.keeps_orders { open.min(self.acknowledged) } else { open }
    }
}

impl StatisticsMinute {
    #[must_use]
    pub fn new(start: WindowStart, first: Position) -> Self {
        Self {
            start,
            first,
            rows: DigestMap::default(),
            orders: DigestSet::default(),
            unflushed: Vec::new(),
            unsaved_rows: Vec::new(),
            unsaved_orders: Vec::new(),
            next_chunk: 0,
        }
    }

    #[must_use]
    pub fn end(&self) -> WindowEnd {
        self.start.end(Millis::MINUTE)
    }

    /// Takes a record that is neither late nor a duplicate.
    pub fn count(&mut self, transaction: &Transaction<'_>, offset: Offset) {
        let currency = std::str::from_utf8(&transaction.currency).unwrap_or_default();
        let key = IdKey::of_parts(&[transaction.merchant_id.as_ref(), currency]);
        let order = key.within(&transaction.order_id);
        let start = self.start;
        let state = self.rows.entry(key).or_insert_with(|| RowState {
            row: StatisticsRow {
                minute: start,
                merchant_id: transaction.merchant_id.as_ref().into(),
                currency: transaction.currency,
                transaction_count: 0,
                order_count: 0,
                amount_minor: 0,
                max_amount_minor: 0,
                source_offset: offset,
            },
            unflushed: false,
            unsaved: false,
        });
        let row = &mut state.row;
        row.transaction_count += 1;
        row.amount_minor += i128::from(transaction.amount_minor);
        row.max_amount_minor = row.max_amount_minor.max(transaction.amount_minor);
        row.source_offset = offset;
        if self.orders.insert(order) {
            row.order_count += 1;
            self.unsaved_orders.push(order);
        }
        if !std::mem::replace(&mut state.unflushed, true) {
            self.unflushed.push(key);
        }
        if !std::mem::replace(&mut state.unsaved, true) {
            self.unsaved_rows.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::domain::time::EventTime;

    const FIRST: Position = Position { offset: Offset(0), watermark: Watermark::NONE };

    fn count(state: &mut StatisticsState, minute: i64, orders: impl Iterator<Item = u32>) {
        for order in orders {
            let transaction = Transaction {
                transaction_id: Cow::Borrowed("t"),
                order_id: Cow::Owned(format!("o-{order}")),
                user_id: Cow::Borrowed("u"),
                merchant_id: Cow::Borrowed("m"),
                amount_minor: 1,
                currency: *b"EUR",
                status: None,
                event_time: EventTime(minute * 60_000),
            };
            state.minute(WindowStart(minute * 60_000), FIRST).count(&transaction, Offset(i64::from(order)));
        }
    }

    fn orders(state: &StatisticsState) -> Vec<u64> {
        let rows = state.minutes.iter().flat_map(|minute| minute.rows.values());
        rows.map(|row| row.row.order_count).collect()
    }

    #[test]
    fn the_set_of_a_closed_minute_is_used_again_without_its_orders() {
        let mut state = StatisticsState::new(false, FIRST);
        count(&mut state, 0, 0..1_000);
        state.close(Watermark(60_000));
        assert!(state.spare_orders.is_empty() && state.spare_orders.capacity() >= 1_000);
        count(&mut state, 1, (0..10).chain(0..10));
        assert_eq!(orders(&state), [1_000, 10]);
        // A hundred times as much room as it needs: given back.
        state.close(Watermark(120_000));
        assert_eq!(state.spare_orders.capacity(), 0);
    }
}
