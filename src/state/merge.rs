//! Two successive sets of changes of one partition as one: storing the merged delta leaves what storing first the older
//! and then the newer would have left. Used when a snapshot failed or found the thread busy.

use std::collections::HashSet;

use crate::state::SnapshotDelta;

impl SnapshotDelta {
    /// # Panics
    /// When the two are of different partitions, or `newer` is as of an earlier offset: that is a defect in the caller,
    /// and the result would be a wrong state.
    #[must_use]
    pub fn merge(older: Self, newer: Self) -> Self {
        assert_eq!(older.partition, newer.partition, "changes of two partitions cannot be merged");
        assert!(newer.through >= older.through, "changes are merged in the order in which they came about");
        if newer.replace {
            return newer;
        }
        let gone = Prefixes::new(&newer.removed_prefixes);
        let removed_since: HashSet<&[u8]> = newer.removed.iter().map(Vec::as_slice).collect();
        let put_since: HashSet<&[u8]> = newer.puts.iter().map(|(key, _)| key.as_slice()).collect();
        let mut puts = older.puts;
        puts.retain(|(key, _)| {
            !put_since.contains(key.as_slice()) && !removed_since.contains(key.as_slice()) && !gone.cover(key)
        });
        drop((gone, removed_since, put_since));
        puts.extend(newer.puts);

        // Removals come before all puts when a delta is applied, so they can simply be joined. After a replacement there
        // is nothing left for them to remove.
        let (mut removed_prefixes, mut removed) = (older.removed_prefixes, older.removed);
        if older.replace {
            removed_prefixes.clear();
            removed.clear();
        } else {
            removed_prefixes = without_repetition(removed_prefixes, newer.removed_prefixes);
            removed = without_repetition(removed, newer.removed);
        }
        Self {
            partition: newer.partition,
            through: newer.through,
            replace: older.replace,
            removed_prefixes,
            removed,
            puts,
            header: newer.header,
        }
    }
}

/// Both lists, sorted, each key once. Repeated failures must not make the lists grow without bound.
fn without_repetition(mut older: Vec<Vec<u8>>, newer: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    older.extend(newer);
    older.sort_unstable();
    older.dedup();
    older
}

/// A set of prefixes that tells in logarithmic time whether it covers a key.
struct Prefixes<'a>(Vec<&'a [u8]>);

impl<'a> Prefixes<'a> {
    fn new(prefixes: &'a [Vec<u8>]) -> Self {
        let mut sorted: Vec<&[u8]> = prefixes.iter().map(Vec::as_slice).collect();
        sorted.sort_unstable();
        // A prefix that another one covers stands behind it. Without those, only the last that is not greater than a key
        // can cover the key.
        sorted.dedup_by(|later, earlier| later.starts_with(earlier));
        Self(sorted)
    }

    fn cover(&self, key: &[u8]) -> bool {
        let not_greater = self.0.partition_point(|prefix| *prefix <= key);
        not_greater.checked_sub(1).is_some_and(|at| key.starts_with(self.0[at]))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::{Offset, PartitionId};

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn apply(model: &mut Model, delta: &SnapshotDelta) {
        if delta.replace {
            model.clear();
        }
        for prefix in &delta.removed_prefixes {
            model.retain(|key, _| !key.starts_with(prefix));
        }
        for key in &delta.removed {
            model.remove(key);
        }
        model.extend(delta.puts.iter().cloned());
    }

    /// Few and short keys, so that prefixes, removals and puts meet often.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xff)], 0..4)
    }

    fn delta(through: i64) -> impl Strategy<Value = SnapshotDelta> {
        let puts = vec((key(), vec(any::<u8>(), 0..3)), 0..6);
        (prop::bool::weighted(0.2), vec(key(), 0..3), vec(key(), 0..4), puts, vec(any::<u8>(), 0..3)).prop_map(
            move |(replace, removed_prefixes, removed, puts, header)| SnapshotDelta {
                partition: PartitionId(1),
                through: Offset(through),
                replace,
                removed_prefixes,
                removed,
                puts,
                header,
            },
        )
    }

    fn stored(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Model {
        entries.into_iter().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn merged_changes_do_what_the_two_did_one_after_the_other(
            before in vec((key(), vec(any::<u8>(), 0..3)), 0..12),
            older in delta(1),
            newer in delta(2),
        ) {
            let mut one_by_one = stored(before.clone());
            apply(&mut one_by_one, &older);
            apply(&mut one_by_one, &newer);
            let merged = SnapshotDelta::merge(older.clone(), newer.clone());
            let mut at_once = stored(before);
            apply(&mut at_once, &merged);
            prop_assert_eq!(at_once, one_by_one);
            prop_assert_eq!(merged.through, newer.through);
            prop_assert_eq!(merged.header, newer.header);
            prop_assert_eq!(merged.replace, older.replace || newer.replace);
        }

        #[test]
        fn merging_is_associative_in_its_effect(
            before in vec((key(), vec(any::<u8>(), 0..3)), 0..12),
            a in delta(1),
            b in delta(2),
            c in delta(3),
        ) {
            let mut one_by_one = stored(before.clone());
            for delta in [&a, &b, &c] {
                apply(&mut one_by_one, delta);
            }
            let mut left = stored(before.clone());
            apply(&mut left, &SnapshotDelta::merge(SnapshotDelta::merge(a.clone(), b.clone()), c.clone()));
            let mut right = stored(before);
            apply(&mut right, &SnapshotDelta::merge(a, SnapshotDelta::merge(b, c)));
            prop_assert_eq!(&left, &one_by_one);
            prop_assert_eq!(&right, &one_by_one);
        }
    }

    #[test]
    fn a_put_that_is_removed_with_its_window_does_not_come_back() {
        let older = SnapshotDelta {
            partition: PartitionId(0),
            through: Offset(1),
            replace: false,
            removed_prefixes: vec![],
            removed: vec![b"w1u0".to_vec()],
            puts: vec![(b"w1t0".to_vec(), b"1".to_vec()), (b"w2t0".to_vec(), b"1".to_vec())],
            header: vec![],
        };
        let newer = SnapshotDelta {
            through: Offset(2),
            removed_prefixes: vec![b"w1".to_vec()],
            removed: vec![],
            puts: vec![(b"w2t0".to_vec(), b"2".to_vec())],
            ..older.clone()
        };
        let merged = SnapshotDelta::merge(older, newer);
        assert_eq!(merged.puts, [(b"w2t0".to_vec(), b"2".to_vec())]);
        assert_eq!(merged.removed_prefixes, [b"w1".to_vec()]);
    }
}
