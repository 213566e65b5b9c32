//! The statistics' database: upserts behind the guard, in transactions that may be cut before or after their commit, and
//! may take effect when their sender is long gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::statistics::{self as domain, StatisticsFlush, StatisticsRow};
use tallyguard::reconcile::recount::{OrderRow, StatisticsCell, StatisticsKey};
use tallyguard::stats::{RuleHistoryEntry, StatisticsSink, StatsEvent};

use crate::chance::{Broken, Chance};

#[derive(Default)]
pub struct Database {
    rows: BTreeMap<StatisticsKey, StatisticsCell>,
    orders: BTreeMap<String, OrderRow>,
    progress: BTreeMap<PartitionId, Offset>,
    /// `rule_history`: from which record on a version of a rule acts in a partition, as the first to say so said it.
    pub rule_history: BTreeMap<(String, PartitionId, u32), Offset>,
    late: Vec<(u64, StatisticsFlush)>,
}

impl Database {
    pub fn tick(&mut self, chance: &Chance) {
        let now = chance.now_ms();
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|(due_ms, _)| *due_ms <= now);
        self.late = later;
        let due: Vec<(u64, StatisticsFlush)> = due;
        for (_, flush) in due {
            chance.note(|| format!("database: late flush of {} through {}", flush.partition, flush.through));
            self.write(chance, &flush);
        }
    }

    fn write(&mut self, chance: &Chance, flush: &StatisticsFlush) {
        for row in &flush.rows {
            let (key, cell) = (key_of(flush.partition, row), cell_of(row));
            match self.rows.get_mut(&key) {
                Some(old) if chance.is_broken(Broken::RowsAreIncremented) => {
                    old.transaction_count += cell.transaction_count;
                    old.last_offset = cell.last_offset;
                }
                Some(old) if chance.is_broken(Broken::GuardColumnFirst) => old.last_offset = cell.last_offset,
                Some(old) if old.last_offset > cell.last_offset && !chance.is_broken(Broken::NoGuardOnRows) => {
                    chance.reached("stale row rejected");
                }
                Some(old) => *old = cell,
                None => {
                    self.rows.insert(key, cell);
                }
            }
        }
        for order in &flush.orders {
            let (id, row) = order_of(flush.partition, order);
            match self.orders.get(&id) {
                Some(old) if (old.partition, old.offset) > (row.partition, row.offset) => {
                    chance.reached("stale order rejected");
                }
                _ => {
                    self.orders.insert(id, row);
                }
            }
        }
        let progress = self.progress.entry(flush.partition).or_insert(flush.through);
        *progress = (*progress).max(flush.through);
    }

    pub fn progress(&self, partition: PartitionId) -> Option<Offset> {
        self.progress.get(&partition).copied()
    }

    pub fn rows(&self) -> Vec<(StatisticsKey, StatisticsCell)> {
        self.rows.iter().map(|(key, cell)| (key.clone(), *cell)).collect()
    }

    pub fn orders(&self) -> Vec<(String, OrderRow)> {
        self.orders.iter().map(|(id, row)| (id.clone(), row.clone())).collect()
    }

    pub fn is_quiet(&self) -> bool {
        self.late.is_empty()
    }
}

fn key_of(partition: PartitionId, row: &StatisticsRow) -> StatisticsKey {
    let currency = String::from_utf8_lossy(&row.currency).into_owned();
    (row.minute.0, row.merchant_id.to_string(), currency, partition.0)
}

fn cell_of(row: &StatisticsRow) -> StatisticsCell {
    StatisticsCell {
        transaction_count: row.transaction_count,
        order_count: row.order_count,
        amount_minor: row.amount_minor,
        max_amount_minor: row.max_amount_minor,
        last_offset: row.source_offset.0,
    }
}

fn order_of(partition: PartitionId, order: &domain::OrderRow) -> (String, OrderRow) {
    let row = OrderRow {
        user_id: order.user_id.to_string(),
        merchant_id: order.merchant_id.to_string(),
        amount_minor: order.amount_minor,
        currency: String::from_utf8_lossy(&order.currency).into_owned(),
        status: order.status.as_ref().map(ToString::to_string),
        event_time_ms: order.event_time.0,
        partition: partition.0,
        offset: order.source_offset.0,
    };
    (order.order_id.to_string(), row)
}

type Waiting = Rc<RefCell<VecDeque<StatisticsFlush>>>;

/// The thread of one process that writes.
pub struct Writing {
    chance: Arc<Chance>,
    database: Arc<Mutex<Database>>,
    waiting: Waiting,
    events: Sender<StatsEvent>,
    /// The offset of a partition whose commit is decided.
    committed: Box<dyn Fn(PartitionId) -> Option<Offset>>,
    not_before_ms: u64,
}

/// The I/O thread's end of it.
pub struct DatabaseLine(Waiting, Arc<Mutex<Database>>);

impl Writing {
    pub fn new(
        chance: Arc<Chance>,
        database: Arc<Mutex<Database>>,
        events: Sender<StatsEvent>,
        committed: impl Fn(PartitionId) -> Option<Offset> + 'static,
    ) -> (Self, DatabaseLine) {
        let waiting = Waiting::default();
        let _ = events.send(StatsEvent::Connected);
        let line = DatabaseLine(Rc::clone(&waiting), Arc::clone(&database));
        (Self { chance, database, waiting, events, committed: Box::new(committed), not_before_ms: 0 }, line)
    }

    pub fn work(&mut self) {
        if self.chance.now_ms() < self.not_before_ms {
            return;
        }
        let Some(flush) = self.waiting.borrow_mut().pop_front() else { return };
        let (partition, through) = (flush.partition, flush.through);
        let committed = (self.committed)(partition);
        assert!(committed >= Some(through), "statistics through {through} of {partition} are ahead of {committed:?}");
        if self.chance.trouble() {
            let what = [
                "cut before its commit",
                "deadlock",
                "read-only database",
                "slow database",
                "cut after its commit",
                "flush of a zombie",
            ][self.chance.index(6)];
            self.chance.note(|| format!("database: {what}, with the flush of {partition} through {through}"));
            self.chance.reached(what);
            match what {
                "cut before its commit" => {}
                // Rolled back, and tried again at once.
                "deadlock" => {
                    self.waiting.borrow_mut().push_front(flush);
                    return;
                }
                "read-only database" => self.not_before_ms = self.chance.now_ms() + self.chance.below(3_000),
                // The answer is late: the flush stays the first, and is written when it comes.
                "slow database" => {
                    self.not_before_ms = self.chance.now_ms() + self.chance.below(5_000);
                    self.waiting.borrow_mut().push_front(flush);
                    return;
                }
                // Written, and nobody knows.
                "cut after its commit" => self.database.lock().write(&self.chance, &flush),
                // On its way for longer than anybody waits.
                _ => {
                    let due_ms = self.chance.now_ms() + self.chance.below(20_000);
                    self.database.lock().late.push((due_ms, flush.clone()));
                }
            }
            let _ = self.events.send(StatsEvent::Unavailable { error: "as the dice fell".to_owned() });
            self.waiting.borrow_mut().push_front(flush);
            return;
        }
        self.chance.note(|| format!("database: takes {} rows of {partition} through {through}", flush.rows.len()));
        self.database.lock().write(&self.chance, &flush);
        let _ = self.events.send(StatsEvent::Connected);
        let _ = self.events.send(StatsEvent::Acknowledged { partition, through });
    }

    /// The process dies while it writes.
    pub fn die(&self) {
        if let Some(flush) = self.waiting.borrow_mut().pop_front()
            && self.chance.per_mille(300)
        {
            let due_ms = self.chance.now_ms() + self.chance.below(20_000);
            self.database.lock().late.push((due_ms, flush));
        }
    }
}

impl StatisticsSink for DatabaseLine {
    fn submit(&self, flush: StatisticsFlush) -> Result<(), StatisticsFlush> {
        let mut waiting = self.0.borrow_mut();
        if waiting.iter().any(|other| other.partition == flush.partition) {
            return Err(flush);
        }
        waiting.push_back(flush);
        Ok(())
    }

    fn record_rule_version(&self, entry: RuleHistoryEntry) {
        let key = (entry.rule_id, entry.partition, entry.version);
        let known = self.1.lock().rule_history.insert(key.clone(), entry.first_offset);
        assert!(
            known.is_none_or(|known| known == entry.first_offset),
            "{key:?} acts from {known:?} on, it said before"
        );
    }

    fn forget(&self, partition: PartitionId) {
        self.0.borrow_mut().retain(|flush| flush.partition != partition);
    }
}
