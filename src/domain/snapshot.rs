//! A partition's state as key/value entries, whole or as the changes since the last time.
//!
//! The first byte of a key tells the kind; these bytes are never given another meaning:
//!
//! | key | value |
//! | --- | --- |
//! | `w` size start `0` | first position of an open window |
//! | `w` size start `u` chunk | user actors: (user key, actor)*; a later chunk overrides an earlier one |
//! | `w` size start `t` chunk | keys of the transactions taken: key* |
//! | `m` minute `0` | first position of a statistics minute |
//! | `m` minute `r` row key | the row |
//! | `m` minute `o` chunk | keys of the distinct orders: key* |
//! | `p` order key | an `orders` row that the database has not acknowledged |
//! | `s` | watermark, closed-through, acknowledged position |
//! | `g` | minutes that start at or before this lost records: absent unless some did |
//!
//! Chunks make a snapshot as large as what changed, not as what is open; a window whose chunks hold far more user
//! entries than it has users has them written anew.

use std::sync::Arc;

use crate::domain::codec::{Decoder, Encoder, Unreadable};
use crate::domain::duration::Millis;
use crate::domain::ids::{IdKey, Offset, PartitionId};
use crate::domain::partition::PartitionState;
use crate::domain::rule::Parameters;
use crate::domain::statistics::{OrderRow, StatisticsRow};
use crate::domain::statistics_state::{RowState, StatisticsMinute, StatisticsState};
use crate::domain::time::{EventTime, Watermark, WindowStart};
use crate::domain::user::UserActor;
use crate::domain::window::{OpenWindow, Position};
use crate::mutants::{self, Mutant};

/// Entries to remove and to write, in this order; all keys are relative to the partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateDelta {
    pub removed_prefixes: Vec<Vec<u8>>,
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Keys of one chunk: about 1 MiB of transaction keys.
const CHUNK_KEYS: usize = 65_536;
/// A key and an actor.
const USER_BYTES: usize = 24;
/// Looking up one user of a large table takes as long as passing so many by.
const PASSED_BY_PER_LOOK_UP: usize = 8;

#[must_use]
pub(super) fn window_prefix(size: Millis, start: WindowStart) -> Vec<u8> {
    Encoder::default().bytes(*b"w").i64(size.0).i64(start.0).0
}

#[must_use]
pub(super) fn minute_prefix(start: WindowStart) -> Vec<u8> {
    Encoder::default().bytes(*b"m").i64(start.0).0
}

fn join(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

fn chunk_key(prefix: &[u8], kind: u8, chunk: u32) -> Vec<u8> {
    let mut key = join(prefix, &[kind]);
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

fn keys_to_bytes(keys: &[IdKey]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.to_bytes()).collect()
}

impl PartitionState {
    /// Takes what changed since the last call, or everything when `whole`. The caller must store it, or merge it into
    /// the next one.
    pub fn take_snapshot(&mut self, whole: bool) -> StateDelta {
        let mut delta = StateDelta::default();
        let removals = std::mem::take(&mut self.unsaved_removals);
        if !whole {
            delta.removed_prefixes = removals;
        }
        for class in &mut self.classes {
            let size = class.size;
            for window in &mut class.open {
                save_window(size, window, whole, &mut delta);
            }
        }
        if let Some(statistics) = &mut self.statistics {
            for minute in &mut statistics.minutes {
                save_minute(minute, whole, &mut delta);
            }
            save_orders(statistics, &mut delta);
        }
        let acknowledged = self
            .statistics
            .as_ref()
            .map_or(Position { offset: self.next, watermark: self.closed_through }, |statistics| {
                statistics.acknowledged
            });
        let summary = Encoder::default().i64(self.watermark.0).i64(self.closed_through.0).position(acknowledged);
        delta.puts.push((b"s".to_vec(), summary.0));
        // A commit may not know of it yet.
        let gap = self.statistics.as_ref().map(|statistics| statistics.incomplete_through);
        if let Some(gap) = gap.filter(|gap| *gap != Watermark::NONE) {
            delta.puts.push((b"g".to_vec(), Encoder::default().i64(gap.0).0));
        }
        delta
    }

    /// The state that [`PartitionState::take_snapshot`] described, about to take the record at `next`. Windows that
    /// the commit metadata calls final are left out, and every statistics row that is left counts as unacknowledged.
    ///
    /// # Errors
    /// [`Unreadable`] when the entries are not what this version writes; the caller starts from the log instead.
    pub fn from_snapshot(
        topic: Arc<str>,
        partition: PartitionId,
        parameters: Arc<Parameters>,
        next: Offset,
        final_through: Watermark,
        entries: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Self, Unreadable> {
        let from = Position { offset: next, watermark: Watermark::NONE };
        let mut state = Self::new(topic, partition, parameters, from, final_through);
        let mut summarised = false;
        for (key, value) in entries {
            let (kind, rest) = key.split_first().ok_or(Unreadable)?;
            match kind {
                b'w' => load_window_entry(&mut state, rest, value)?,
                b'm' => load_minute_entry(&mut state, rest, value)?,
                b'p' => load_order(&mut state, value)?,
                b's' => {
                    load_summary(&mut state, value)?;
                    summarised = true;
                }
                b'g' => load_gap(&mut state, value)?,
                _ => return Err(Unreadable),
            }
        }
        if !summarised {
            return Err(Unreadable);
        }
        state.drop_final_windows(final_through);
        Ok(state)
    }

    pub(super) fn drop_final_windows(&mut self, final_through: Watermark) {
        for class in &mut self.classes {
            for window in class.close(final_through.max(self.watermark)) {
                self.unsaved_removals.push(window_prefix(class.size, window.start));
            }
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.acknowledged.watermark = statistics.acknowledged.watermark.max(final_through);
            for minute in statistics.drop_final(final_through) {
                self.unsaved_removals.push(minute_prefix(minute.start));
            }
        }
    }

    /// Everything that the state holds, in one canonical byte string: equal states, equal bytes.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        self.canonical_lines().concat()
    }

    /// The same, entry by entry: counters, what they have counted, statistics rows, and how far it has come.
    #[must_use]
    pub fn canonical_lines(&self) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for class in &self.classes {
            for window in &class.open {
                let prefix = window_prefix(class.size, window.start);
                for (user, actor) in &window.users {
                    lines.push([&prefix[..], b"u", &user.to_bytes(), &actor.to_bytes()].concat());
                }
                lines.extend(window.taken.iter().map(|key| [&prefix[..], b"t", &key.to_bytes()].concat()));
            }
        }
        for minute in self.statistics.iter().flat_map(|statistics| &statistics.minutes) {
            for (key, state) in &minute.rows {
                lines.push([&minute_prefix(minute.start)[..], b"r", &key.to_bytes(), &encode_row(&state.row)].concat());
            }
        }
        lines.sort_unstable();
        lines.push(Encoder::default().i64(self.next.0).i64(self.watermark.0).0);
        lines
    }
}

fn save_window(size: Millis, window: &mut OpenWindow, whole: bool, delta: &mut StateDelta) {
    let OpenWindow { users, taken, unsaved, first, start } = window;
    let prefix = window_prefix(size, *start);
    if whole {
        unsaved.next_chunk = 0;
        unsaved.taken = taken.iter().copied().collect();
    }
    if unsaved.next_chunk == 0 {
        delta.puts.push((join(&prefix, b"0"), Encoder::default().position(*first).0));
    }
    for keys in unsaved.taken.chunks(CHUNK_KEYS) {
        delta.puts.push((chunk_key(&prefix, b't', unsaved.next_chunk), keys_to_bytes(keys)));
        unsaved.next_chunk += 1;
    }
    unsaved.taken.clear();

    let rewrite = !whole && unsaved.stored_users > 2 * users.len() + CHUNK_KEYS;
    if rewrite {
        delta.removed_prefixes.push(join(&prefix, b"u"));
    }
    let all = whole || rewrite;
    if all {
        unsaved.stored_users = 0;
    }
    let mut chunks = UserChunks { expected: if all { users.len() } else { unsaved.users.len() }, full: Vec::new() };
    if all || unsaved.users.len() * PASSED_BY_PER_LOOK_UP > users.len() {
        let changed = users.iter_mut().filter(|(_, actor)| all || actor.is_changed());
        changed.for_each(|(key, actor)| chunks.save(*key, actor));
    } else {
        for key in &unsaved.users {
            if let Some(actor) = users.get_mut(key) {
                chunks.save(*key, actor);
            }
        }
    }
    unsaved.users.clear();
    for chunk in chunks.full {
        unsaved.stored_users += chunk.len() / USER_BYTES;
        delta.puts.push((chunk_key(&prefix, b'u', unsaved.next_chunk), chunk));
        unsaved.next_chunk += 1;
    }
    // A window without any chunk still needs its head only once.
    unsaved.next_chunk = unsaved.next_chunk.max(1);
}

/// Values of user chunks, each but the last of them full.
struct UserChunks {
    full: Vec<Vec<u8>>,
    /// Users still to come.
    expected: usize,
}

impl UserChunks {
    fn save(&mut self, key: IdKey, actor: &mut UserActor) {
        actor.clear_changed();
        if self.full.last().is_none_or(|chunk| chunk.len() == CHUNK_KEYS * USER_BYTES) {
            self.full.push(Vec::with_capacity(self.expected.min(CHUNK_KEYS) * USER_BYTES));
        }
        self.expected = self.expected.saturating_sub(1);
        if let Some(chunk) = self.full.last_mut() {
            chunk.extend_from_slice(&key.to_bytes());
            chunk.extend_from_slice(&actor.to_bytes());
        }
    }
}

fn save_minute(minute: &mut StatisticsMinute, whole: bool, delta: &mut StateDelta) {
    let prefix = minute_prefix(minute.start);
    if whole {
        minute.next_chunk = 0;
        minute.unsaved_rows = minute.rows.keys().copied().collect();
        minute.unsaved_orders = minute.orders.iter().copied().collect();
    }
    if minute.next_chunk == 0 {
        delta.puts.push((join(&prefix, b"0"), Encoder::default().position(minute.first).0));
    }
    for key in minute.unsaved_rows.drain(..) {
        if let Some(state) = minute.rows.get_mut(&key) {
            state.unsaved = false;
            let entry_key = [&prefix[..], b"r", &key.to_bytes()].concat();
            delta.puts.push((entry_key, encode_row(&state.row)));
        }
    }
    for keys in std::mem::take(&mut minute.unsaved_orders).chunks(CHUNK_KEYS) {
        delta.puts.push((chunk_key(&prefix, b'o', minute.next_chunk), keys_to_bytes(keys)));
        minute.next_chunk += 1;
    }
    minute.next_chunk = minute.next_chunk.max(1);
}

/// Orders wait for the database only briefly: what waits is written anew each time.
fn save_orders(statistics: &StatisticsState, delta: &mut StateDelta) {
    if !statistics.keeps_orders {
        return;
    }
    delta.removed_prefixes.push(b"p".to_vec());
    for row in statistics.orders_in_flight.iter().chain(statistics.orders.values()) {
        let key = IdKey::of(&row.order_id).to_bytes();
        delta.puts.push((join(b"p", &key), encode_order(row)));
    }
}

fn load_gap(state: &mut PartitionState, value: &[u8]) -> Result<(), Unreadable> {
    let mut input = Decoder(value);
    let gap = Watermark(input.i64()?);
    input.end()?;
    if let Some(statistics) = &mut state.statistics {
        statistics.incomplete_through = gap;
    }
    Ok(())
}

fn load_summary(state: &mut PartitionState, value: &[u8]) -> Result<(), Unreadable> {
    let mut value = Decoder(value);
    let watermark = Watermark(value.i64()?);
    if !mutants::is(Mutant::WatermarkNotRestored) {
        state.watermark = watermark;
    }
    state.closed_through = state.closed_through.max(Watermark(value.i64()?));
    let acknowledged = value.position()?;
    if let Some(statistics) = &mut state.statistics {
        statistics.acknowledged = acknowledged;
    }
    value.end()
}

fn load_window_entry(state: &mut PartitionState, rest: &[u8], value: &[u8]) -> Result<(), Unreadable> {
    let mut rest = Decoder(rest);
    let (size, start) = (Millis(rest.i64()?), WindowStart(rest.i64()?));
    let [kind] = rest.bytes()?;
    let nowhere = Position { offset: Offset(i64::MAX), watermark: Watermark::NONE };
    let class = state.classes.iter_mut().find(|class| class.size == size).ok_or(Unreadable)?;
    let window = class.window(start, nowhere);
    let mut value = Decoder(value);
    match kind {
        b'0' => window.first = value.position()?,
        b'u' => {
            while !value.0.is_empty() {
                let key = value.key()?;
                window.users.insert(key, UserActor::from_bytes(value.bytes()?));
                window.unsaved.stored_users += 1;
            }
            window.unsaved.next_chunk = window.unsaved.next_chunk.max(next_chunk(rest)?);
        }
        b't' => {
            window.taken.reserve(value.0.len() / 16);
            while !value.0.is_empty() {
                let key = value.key()?;
                if !mutants::is(Mutant::DuplicatesNotRestored) {
                    window.taken.insert(key);
                }
            }
            window.unsaved.next_chunk = window.unsaved.next_chunk.max(next_chunk(rest)?);
        }
        _ => return Err(Unreadable),
    }
    value.end()
}

fn next_chunk(mut rest: Decoder<'_>) -> Result<u32, Unreadable> {
    let chunk = u32::from_be_bytes(rest.bytes()?);
    rest.end()?;
    Ok(chunk + 1)
}

fn load_minute_entry(state: &mut PartitionState, rest: &[u8], value: &[u8]) -> Result<(), Unreadable> {
    let mut rest = Decoder(rest);
    let start = WindowStart(rest.i64()?);
    let [kind] = rest.bytes()?;
    let nowhere = Position { offset: Offset(i64::MAX), watermark: Watermark::NONE };
    let minute = state.statistics.as_mut().ok_or(Unreadable)?.minute(start, nowhere);
    minute.next_chunk = minute.next_chunk.max(1);
    let mut value = Decoder(value);
    match kind {
        b'0' => minute.first = value.position()?,
        b'r' => {
            let key = rest.key()?;
            let row = decode_row(start, &mut value)?;
            minute.rows.insert(key, RowState { row, unflushed: true, unsaved: false });
            minute.unflushed.push(key);
        }
        b'o' => {
            minute.orders.reserve(value.0.len() / 16);
            while !value.0.is_empty() {
                minute.orders.insert(value.key()?);
            }
            minute.next_chunk = minute.next_chunk.max(next_chunk(rest)?);
        }
        _ => return Err(Unreadable),
    }
    value.end()
}

fn load_order(state: &mut PartitionState, value: &[u8]) -> Result<(), Unreadable> {
    let row = decode_order(value)?;
    let statistics = state.statistics.as_mut().ok_or(Unreadable)?;
    statistics.orders.insert(row.order_id.clone(), row);
    Ok(())
}

fn encode_row(row: &StatisticsRow) -> Vec<u8> {
    Encoder::default()
        .text(&row.merchant_id)
        .bytes(row.currency)
        .bytes(row.transaction_count.to_be_bytes())
        .bytes(row.order_count.to_be_bytes())
        .bytes(row.amount_minor.to_be_bytes())
        .i64(row.max_amount_minor)
        .i64(row.source_offset.0)
        .0
}

fn decode_row(minute: WindowStart, value: &mut Decoder<'_>) -> Result<StatisticsRow, Unreadable> {
    Ok(StatisticsRow {
        minute,
        merchant_id: value.text()?.into(),
        currency: value.bytes()?,
        transaction_count: u64::from_be_bytes(value.bytes()?),
        order_count: u64::from_be_bytes(value.bytes()?),
        amount_minor: i128::from_be_bytes(value.bytes()?),
        max_amount_minor: value.i64()?,
        source_offset: Offset(value.i64()?),
    })
}

fn encode_order(row: &OrderRow) -> Vec<u8> {
    let encoder = Encoder::default()
        .text(&row.order_id)
        .text(&row.user_id)
        .text(&row.merchant_id)
        .i64(row.amount_minor)
        .bytes(row.currency)
        .i64(row.event_time.0)
        .i64(row.source_offset.0)
        .bytes([u8::from(row.status.is_some())]);
    encoder.text(row.status.as_deref().unwrap_or_default()).0
}

fn decode_order(value: &[u8]) -> Result<OrderRow, Unreadable> {
    let mut value = Decoder(value);
    let mut row = OrderRow {
        order_id: value.text()?.into(),
        user_id: value.text()?.into(),
        merchant_id: value.text()?.into(),
        amount_minor: value.i64()?,
        currency: value.bytes()?,
        event_time: EventTime(value.i64()?),
        source_offset: Offset(value.i64()?),
        status: None,
    };
    let [has_status] = value.bytes()?;
    let status = value.text()?;
    row.status = (has_status == 1).then(|| status.into());
    value.end()?;
    Ok(row)
}
