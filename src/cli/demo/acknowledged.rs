//! What the service has acknowledged, so that the end can tell whether all of it is in the log as it was sent.
//!
//! Memory does not grow with what was sent: of each partition it keeps ranges of offsets, which are few because offsets
//! are dense, and one digest over all records.

use std::collections::BTreeMap;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// See the module head.
#[derive(Debug, Default)]
pub struct Acknowledged(BTreeMap<i32, InPartition>);

#[derive(Debug, Default)]
struct InPartition {
    /// Ascending, apart from each other: first offset, and the one behind the last.
    ranges: Vec<(i64, i64)>,
    count: u64,
    /// The sum does not depend on the order.
    digest: u64,
}

impl Acknowledged {
    /// A record was acknowledged with this position. Positions of a partition come in ascending order.
    pub fn add(&mut self, partition: i32, offset: i64, value: &[u8]) {
        let of = self.0.entry(partition).or_default();
        of.count += 1;
        of.digest = of.digest.wrapping_add(digest(offset, value));
        match of.ranges.last_mut() {
            Some((_, end)) if *end == offset => *end += 1,
            _ => of.ranges.push((offset, offset + 1)),
        }
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().map(|of| of.count).sum()
    }

    /// Begins to look for everything in the log.
    #[must_use]
    pub fn search(&self) -> Search<'_> {
        Search { wanted: self, found: BTreeMap::new() }
    }
}

/// What of it was found so far.
pub struct Search<'a> {
    wanted: &'a Acknowledged,
    found: BTreeMap<i32, InPartition>,
}

impl Search<'_> {
    /// The log has this record.
    pub fn see(&mut self, partition: i32, offset: i64, value: &[u8]) {
        let Some(wanted) = self.wanted.0.get(&partition) else { return };
        let before = wanted.ranges.partition_point(|(first, _)| *first <= offset);
        let is_wanted =
            before.checked_sub(1).and_then(|at| wanted.ranges.get(at)).is_some_and(|(_, end)| offset < *end);
        if is_wanted {
            let found = self.found.entry(partition).or_default();
            found.count += 1;
            found.digest = found.digest.wrapping_add(digest(offset, value));
        }
    }

    /// How many acknowledged records are missing; one at least for each partition in which one is not what was sent.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let none = InPartition::default();
        let missing = self.wanted.0.iter().map(|(partition, wanted)| {
            let found = self.found.get(partition).unwrap_or(&none);
            wanted.count.abs_diff(found.count).max(u64::from(wanted.digest != found.digest))
        });
        missing.sum()
    }
}

fn digest(offset: i64, value: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(&offset.to_be_bytes());
    hasher.write(value);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Acknowledged {
        let mut acknowledged = Acknowledged::default();
        // Offsets 3 and 4 belong to a batch whose answer was lost.
        for (partition, offset) in [(0, 0), (1, 0), (0, 1), (0, 2), (0, 5), (0, 6), (1, 1)] {
            acknowledged.add(partition, offset, format!("{partition}/{offset}").as_bytes());
        }
        acknowledged
    }

    fn missing(log: &[(i32, i64, &str)]) -> u64 {
        let sent = sent();
        let mut search = sent.search();
        for (partition, offset, value) in log {
            search.see(*partition, *offset, value.as_bytes());
        }
        search.missing()
    }

    const LOG: [(i32, i64, &str); 9] = [
        (0, 0, "0/0"),
        (0, 1, "0/1"),
        (0, 2, "0/2"),
        (0, 3, "lost answer"),
        (0, 4, "lost answer"),
        (0, 5, "0/5"),
        (0, 6, "0/6"),
        (1, 0, "1/0"),
        (1, 1, "1/1"),
    ];

    #[test]
    fn what_was_acknowledged_is_found_beside_what_was_not() {
        assert_eq!(sent().count(), 7);
        assert_eq!(missing(&LOG), 0);
    }

    #[test]
    fn a_record_that_is_gone_or_another_one_is_noticed() {
        assert_eq!(missing(&LOG[..7]), 2);
        assert_eq!(missing(&LOG[1..]), 1);
        let mut changed = LOG;
        changed[5].2 = "0/6";
        changed[6].2 = "0/5";
        assert_eq!(missing(&changed), 1, "two records that changed places");
    }
}
