//! Random streams through the engine and through the recount: the same at every record.

use tallyguard::domain::ids::Offset;
use tallyguard::domain::partition::{Outcome, PartitionState};
use tallyguard::reconcile::recount::{Outcomes, SourceRecord, recount};

use crate::dice::{Dice, for_seeds};
use crate::streams::{Effects, Tables, borrowed, configuration, engine_parameters, log, new_state, recount_parameters};

/// What the engine has said so far, over all partitions.
#[derive(Default)]
struct Said {
    effects: Effects,
    tables: Tables,
    outcomes: Outcomes,
    key_mismatches: u64,
}

impl Said {
    fn apply(&mut self, state: &mut PartitionState, record: &SourceRecord) {
        let mut outputs = Vec::new();
        let applied = state.apply(&borrowed(record), &mut outputs);
        match applied.outcome {
            Outcome::Counted => self.outcomes.counted += 1,
            Outcome::Duplicate => self.outcomes.duplicate += 1,
            Outcome::Late => self.outcomes.late += 1,
            Outcome::DeadLetter => self.outcomes.dead_letter += 1,
        }
        self.key_mismatches += u64::from(applied.key_mismatch);
        for (offset, output) in outputs {
            assert_eq!(offset, Offset(record.offset));
            self.effects.add(record.partition, offset, output);
        }
    }

    /// Takes a flush, if there is one to take, and writes it; the answer is for the caller to pass on.
    fn flush(&mut self, state: &mut PartitionState) -> Option<Offset> {
        let flush = state.take_flush()?;
        assert_eq!(flush.through, state.next());
        self.tables.write(state.partition().0, &flush.rows, &flush.orders);
        Some(flush.through)
    }
}

/// Records of several partitions in an interleaving that keeps each partition's order.
fn interleaved(dice: &mut Dice, records_max: usize) -> Vec<SourceRecord> {
    let partitions = 1 + dice.below(3);
    let mut logs: Vec<_> = (0..partitions)
        .map(|partition| {
            let length = 1 + dice.below(records_max);
            log(dice, i32::try_from(partition).unwrap(), length).into_iter()
        })
        .collect();
    let mut records = Vec::new();
    while !logs.is_empty() {
        let at = dice.below(logs.len());
        match logs[at].next() {
            Some(record) => records.push(record),
            None => drop(logs.remove(at)),
        }
    }
    records
}

fn states(configured: &tallyguard::protocol::recovery::Configured) -> Vec<PartitionState> {
    (0..3).map(|partition| new_state(partition, engine_parameters(configured, Offset(0)), 0)).collect()
}

#[test]
fn the_engine_says_what_the_recount_says_after_every_record() {
    for_seeds(1_500, |dice| {
        let configured = configuration(dice);
        let parameters = recount_parameters(&configured);
        let records = interleaved(dice, 24);
        let mut states = states(&configured);
        let mut said = Said::default();
        for (at, record) in records.iter().enumerate() {
            let state = &mut states[usize::try_from(record.partition).unwrap()];
            said.apply(state, record);
            if let Some(through) = said.flush(state) {
                state.acknowledge_flush(through);
            }
            let expected = recount(&records[..=at], &parameters);
            assert_eq!(said.effects.clone().sorted(), Effects::expected(&expected).sorted(), "after {record:?}");
            assert_eq!(said.tables, Tables::expected(&expected), "after {record:?}");
            assert_eq!(said.outcomes, expected.outcomes, "after {record:?}");
            assert_eq!(said.key_mismatches, expected.key_mismatches);
            if let Some(watermark) = expected.watermarks.get(&record.partition) {
                assert_eq!(state.watermark().0, *watermark);
            }
        }
    });
}

/// As with a slow database: flushes are taken, stay under way for a while, are acknowledged late; some records between.
#[test]
fn flushes_at_random_times_add_up_to_the_recount() {
    for_seeds(4_000, |dice| {
        let configured = configuration(dice);
        let records = interleaved(dice, 120);
        let mut states = states(&configured);
        let mut said = Said::default();
        let mut under_way = [None; 3];
        for record in &records {
            let at = usize::try_from(record.partition).unwrap();
            said.apply(&mut states[at], record);
            if dice.chance(20)
                && let Some(through) = said.flush(&mut states[at])
            {
                under_way[at] = Some(through);
            }
            if dice.chance(15)
                && let Some(through) = under_way[at].take()
            {
                states[at].acknowledge_flush(through);
            }
        }
        for (state, under_way) in states.iter_mut().zip(under_way) {
            under_way.into_iter().for_each(|through| state.acknowledge_flush(through));
            if let Some(through) = said.flush(state) {
                state.acknowledge_flush(through);
            }
            assert_eq!(state.pending_statistics(), 0);
        }
        let expected = recount(&records, &recount_parameters(&configured));
        assert_eq!(said.effects.sorted(), Effects::expected(&expected).sorted());
        assert_eq!(said.tables, Tables::expected(&expected));
        assert_eq!(said.outcomes, expected.outcomes);
    });
}

/// A generator that never made an alert, a late record or a duplicate would let everything pass.
#[test]
fn the_random_streams_contain_what_they_are_meant_to_test() {
    let (mut seen, mut alerts, mut orders) = (Outcomes::default(), 0, 0);
    for seed in 0..200 {
        let dice = &mut Dice::new(seed);
        let configured = configuration(dice);
        let recount = recount(&interleaved(dice, 120), &recount_parameters(&configured));
        seen.counted += recount.outcomes.counted;
        seen.duplicate += recount.outcomes.duplicate;
        seen.late += recount.outcomes.late;
        seen.dead_letter += recount.outcomes.dead_letter;
        alerts += recount.alerts.len();
        orders += recount.orders.len();
    }
    assert!(seen.counted > 2_000 && seen.duplicate > 200 && seen.late > 2_000 && seen.dead_letter > 1_000, "{seen:?}");
    assert!(alerts > 1_000 && orders > 200, "{alerts} alerts, {orders} orders");
}
