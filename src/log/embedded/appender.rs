//! Gives appended records their offsets, and writes the appends of many callers with one sync.
//!
//! Whoever finds nobody writing becomes the writer for all that wait; while it syncs, the next ones gather. So offsets are
//! given in the order of the writes: after a power cut there is never a hole.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::record_batch::BatchWriter;
use crate::domain::ids::{Offset, PartitionId};
use crate::log::IngestError;

/// Records of one caller, encoded, by partition.
pub type Encoded = BTreeMap<PartitionId, BatchWriter>;
/// First offset that each partition's records got.
pub type Placed = BTreeMap<PartitionId, Offset>;

/// A value to be written.
pub struct Placement {
    pub partition: PartitionId,
    pub first: Offset,
    pub value: Vec<u8>,
}

struct Ticket {
    records: Encoded,
    answer: Arc<Mutex<Option<Result<Placed, IngestError>>>>,
}

#[derive(Default)]
struct State {
    ends: BTreeMap<PartitionId, i64>,
    waiting: Vec<Ticket>,
    is_writing: bool,
    /// A write failed: what is on disk is not known, and nothing is written any more.
    broken: Option<String>,
}

/// See the module head.
#[derive(Default)]
pub struct Appender {
    state: Mutex<State>,
    written: Condvar,
}

impl Appender {
    #[must_use]
    pub fn new(ends: BTreeMap<PartitionId, i64>) -> Self {
        Self { state: Mutex::new(State { ends, ..State::default() }), written: Condvar::new() }
    }

    /// Appends; `write` makes placements durable, and is called without any lock held. `durable` is told the new ends
    /// before any caller hears of its success.
    pub fn append(
        &self,
        records: Encoded,
        write: impl Fn(Vec<Placement>) -> Result<(), String>,
        durable: impl Fn(PartitionId, i64),
    ) -> Result<Placed, IngestError> {
        let answer = Arc::new(Mutex::new(None));
        let mut state = self.state.lock();
        state.waiting.push(Ticket { records, answer: Arc::clone(&answer) });
        loop {
            if let Some(answer) = answer.lock().take() {
                return answer;
            }
            if state.is_writing {
                self.written.wait(&mut state);
                continue;
            }
            if let Some(why) = state.broken.clone() {
                return Err(IngestError::Failed(why));
            }
            state.is_writing = true;
            let tickets = std::mem::take(&mut state.waiting);
            let mut ends = state.ends.clone();
            drop(state);
            let answers = carry_out(tickets, &mut ends, &write);
            state = self.state.lock();
            state.is_writing = false;
            match answers {
                Ok(answers) => {
                    for (&partition, &end) in &ends {
                        durable(partition, end);
                    }
                    state.ends = ends;
                    for (answer, placed) in answers {
                        *answer.lock() = Some(Ok(placed));
                    }
                }
                Err((tickets, why)) => {
                    for answer in tickets {
                        *answer.lock() = Some(Err(IngestError::Failed(why.clone())));
                    }
                    state.broken = Some(why);
                }
            }
            self.written.notify_all();
        }
    }
}

type Answer = Arc<Mutex<Option<Result<Placed, IngestError>>>>;

/// Places everything, one value for each partition and caller, and writes it.
fn carry_out(
    tickets: Vec<Ticket>,
    ends: &mut BTreeMap<PartitionId, i64>,
    write: &impl Fn(Vec<Placement>) -> Result<(), String>,
) -> Result<Vec<(Answer, Placed)>, (Vec<Answer>, String)> {
    let mut placements = Vec::new();
    let mut answers = Vec::new();
    for Ticket { records, answer } in tickets {
        let mut placed = Placed::new();
        for (partition, batch) in records {
            let end = ends.entry(partition).or_default();
            let first = Offset(*end);
            *end += i64::from(batch.count());
            placed.insert(partition, first);
            placements.push(Placement { partition, first, value: batch.finish() });
        }
        answers.push((answer, placed));
    }
    match write(placements) {
        Ok(()) => Ok(answers),
        Err(why) => Err((answers.into_iter().map(|(answer, _)| answer).collect(), why)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::super::record_batch::Parts;
    use super::*;

    const P: PartitionId = PartitionId(3);

    fn one(value: &[u8]) -> Encoded {
        let mut batch = BatchWriter::default();
        batch.push(&Parts { timestamp_ms: 0, key: None, value: Some(value), headers: &[] });
        Encoded::from([(P, batch)])
    }

    #[test]
    fn offsets_are_dense_and_in_the_order_of_the_writes_whoever_writes() {
        let appender = Appender::new(BTreeMap::from([(P, 10)]));
        let (firsts, writes) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let write = |placements: Vec<Placement>| {
                            writes.fetch_add(1, Ordering::SeqCst);
                            firsts.lock().extend(placements.iter().map(|placement| placement.first.0));
                            std::thread::sleep(Duration::from_micros(200));
                            Ok(())
                        };
                        appender.append(one(b"x"), write, |_, _| {}).expect("written");
                    }
                });
            }
        });
        assert_eq!(*firsts.lock(), (10..410).collect::<Vec<_>>());
        assert!(writes.load(Ordering::SeqCst) < 300, "several callers share a write");
    }

    #[test]
    fn after_a_failed_write_nothing_is_written_any_more() {
        let appender = Appender::default();
        let is_called = AtomicBool::new(false);
        let failed = appender.append(one(b"x"), |_| Err("disk full".to_owned()), |_, _| {});
        assert_eq!(failed, Err(IngestError::Failed("disk full".to_owned())));
        let write = |_: Vec<Placement>| {
            is_called.store(true, Ordering::SeqCst);
            Ok(())
        };
        assert!(appender.append(one(b"y"), write, |_, _| {}).is_err());
        assert!(!is_called.load(Ordering::SeqCst));
    }
}
