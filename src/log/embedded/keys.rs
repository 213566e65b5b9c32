//! The key space of the embedded log. This file is its only owner; a name or byte below is never given another meaning.
//!
//! All integers are big-endian, so that a partition is one contiguous range in the order of its offsets.
//!
//! | column family | key | value |
//! | --- | --- | --- |
//! | `records` | partition(4) first offset(8) | [`super::record_batch`] |
//! | `outputs` | topic(1) first offset(8) | [`super::record_batch`] |
//! | `meta` | `identity` | JSON: format version, cluster id, topic id |
//! | `meta` | `partitions` | number of partitions(4) |
//! | `meta` | `start` partition(4) | the oldest offset that is kept(8); absent: 0 |
//! | `meta` | `output-start` topic(1) | the same of an output topic |
//! | `meta` | `offset` group, 00, partition(4) | committed offset(8), then the metadata |

use crate::domain::ids::{Offset, PartitionId};
use crate::protocol::output::Destination;

pub const RECORDS: &str = "records";
pub const OUTPUTS: &str = "outputs";
pub const META: &str = "meta";

pub const IDENTITY: &[u8] = b"identity";
pub const PARTITIONS: &[u8] = b"partitions";

const START: &[u8] = b"start";
const OUTPUT_START: &[u8] = b"output-start";
const OFFSET: &[u8] = b"offset";

/// The topics of outputs; each has one partition.
pub const DESTINATIONS: [Destination; 3] = [Destination::Alerts, Destination::Late, Destination::DeadLetter];

fn topic_byte(destination: Destination) -> u8 {
    match destination {
        Destination::Alerts => 1,
        Destination::Late => 2,
        Destination::DeadLetter => 3,
    }
}

#[must_use]
pub fn records(partition: PartitionId, first: Offset) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.0.to_be_bytes());
    key[4..].copy_from_slice(&first.0.to_be_bytes());
    key
}

#[must_use]
pub fn outputs(destination: Destination, first: i64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = topic_byte(destination);
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

/// The first offset that a key of `records` or `outputs` names: its last eight bytes.
#[must_use]
pub fn first_offset(key: &[u8]) -> Option<i64> {
    key.last_chunk().map(|bytes| i64::from_be_bytes(*bytes))
}

#[must_use]
pub fn start(partition: PartitionId) -> Vec<u8> {
    [START, &partition.0.to_be_bytes()].concat()
}

#[must_use]
pub fn output_start(destination: Destination) -> Vec<u8> {
    [OUTPUT_START, &[topic_byte(destination)]].concat()
}

#[must_use]
pub fn offset(group: &str, partition: PartitionId) -> Vec<u8> {
    [OFFSET, group.as_bytes(), &[0], &partition.0.to_be_bytes()].concat()
}

/// What every committed offset of every group begins with.
#[must_use]
pub fn offsets_prefix() -> &'static [u8] {
    OFFSET
}

/// Group and partition of a key that [`offset`] made.
#[must_use]
pub fn parse_offset(key: &[u8]) -> Option<(String, PartitionId)> {
    let (rest, partition) = key.strip_prefix(OFFSET)?.split_last_chunk::<4>()?;
    let (separator, group) = rest.split_last()?;
    let group = (*separator == 0).then(|| String::from_utf8(group.to_vec()).ok())??;
    Some((group, PartitionId(i32::from_be_bytes(*partition))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_partition_and_offset_and_are_read_back() {
        let key = |partition, offset| records(PartitionId(partition), Offset(offset));
        assert!(key(0, 255) < key(0, 256) && key(0, i64::MAX) < key(1, 0));
        assert_eq!(first_offset(&key(7, 1_234)), Some(1_234));
        assert_eq!(first_offset(&outputs(Destination::Late, 9)), Some(9));
        assert_eq!(parse_offset(&offset("a\u{e9}", PartitionId(258))), Some(("a\u{e9}".to_owned(), PartitionId(258))));
        assert_eq!(parse_offset(b"offset"), None);
    }
}
