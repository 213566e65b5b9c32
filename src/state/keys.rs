//! The key space of the snapshot store. This file is its only owner.
//!
//! All integers are big-endian, so that prefixes sort and a partition is one contiguous range. A byte of the tables
//! below is never given another meaning; what is retired stays reserved.
//!
//! | first byte | key | value |
//! | --- | --- | --- |
//! | `00` | `00` | format record: `tallyguard snapshots`, then the format version as u32 |
//! | `01` | `01` partition(4) kind(1) … | one partition, see below |
//!
//! | kind | key after the kind | value |
//! | --- | --- | --- |
//! | `00` | nothing | manifest ([`super::manifest::Manifest`]), sealed |
//! | `10` | slot(2) = link number modulo [`LINK_SLOTS`] | link number(8), sealed |
//! | `20` | the engine's key | the engine's value, sealed |
//!
//! Within a partition the manifest comes first, then the links, then the entries: one pass reads and verifies all.

use crate::domain::ids::PartitionId;

/// Version of everything in this table, of the seals, and of the manifest.
pub const FORMAT_VERSION: u32 = 1;

/// How many links of a partition's chain are kept. [`super::store`] flushes at least every quarter of this many write
/// batches, which [`super::manifest`] relies on.
pub const LINK_SLOTS: u16 = 1024;

const FORMAT: u8 = 0x00;
const PARTITION: u8 = 0x01;

const MANIFEST: u8 = 0x00;
const LINK: u8 = 0x10;
const ENTRY: u8 = 0x20;

const FORMAT_NAME: &[u8] = b"tallyguard snapshots";

/// A key of the store, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredKey<'a> {
    Format,
    Manifest(PartitionId),
    Link(PartitionId, u16),
    Entry(PartitionId, &'a [u8]),
}

/// `None` for a key that this version never writes.
#[must_use]
pub fn parse(key: &[u8]) -> Option<StoredKey<'_>> {
    if key == [FORMAT] {
        return Some(StoredKey::Format);
    }
    let (&[PARTITION, a, b, c, d, kind], rest) = key.split_first_chunk()? else { return None };
    let partition = PartitionId(i32::from_be_bytes([a, b, c, d]));
    match (kind, rest) {
        (MANIFEST, []) => Some(StoredKey::Manifest(partition)),
        (LINK, &[high, low]) => Some(StoredKey::Link(partition, u16::from_be_bytes([high, low]))),
        (ENTRY, entry) => Some(StoredKey::Entry(partition, entry)),
        _ => None,
    }
}

#[must_use]
pub fn format_key() -> [u8; 1] {
    [FORMAT]
}

#[must_use]
pub fn format_record() -> Vec<u8> {
    [FORMAT_NAME, &FORMAT_VERSION.to_be_bytes()].concat()
}

/// What every key of every partition starts with.
#[must_use]
pub fn partitions_prefix() -> [u8; 1] {
    [PARTITION]
}

#[must_use]
pub fn partition_prefix(partition: PartitionId) -> [u8; 5] {
    let [a, b, c, d] = partition.0.to_be_bytes();
    [PARTITION, a, b, c, d]
}

#[must_use]
pub fn manifest_key(partition: PartitionId) -> [u8; 6] {
    of_kind(partition, MANIFEST)
}

#[must_use]
pub fn link_key(partition: PartitionId, number: u64) -> [u8; 8] {
    let [p0, p1, p2, p3, p4, kind] = of_kind(partition, LINK);
    let [high, low] = link_slot(number).to_be_bytes();
    [p0, p1, p2, p3, p4, kind, high, low]
}

/// Slot in which the link of this number stands.
#[must_use]
pub fn link_slot(number: u64) -> u16 {
    // The remainder is below LINK_SLOTS, which is a u16.
    u16::try_from(number % u64::from(LINK_SLOTS)).unwrap_or(0)
}

/// Puts the stored form of the engine's `key` into `out`, in place of what is there. With a prefix of keys it gives the
/// stored form of that prefix.
pub fn write_entry_key(partition: PartitionId, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&of_kind(partition, ENTRY));
    out.extend_from_slice(key);
}

/// The smallest key behind all keys that start with `prefix`. A stored prefix starts with a byte below `ff`, so there
/// always is one.
#[must_use]
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

fn of_kind(partition: PartitionId, kind: u8) -> [u8; 6] {
    let [a, b, c, d] = partition.0.to_be_bytes();
    [PARTITION, a, b, c, d, kind]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_as_what_it_was_written_for() {
        let partition = PartitionId(258);
        let mut entry = Vec::new();
        write_entry_key(partition, b"w\xff", &mut entry);
        assert_eq!(parse(&format_key()), Some(StoredKey::Format));
        assert_eq!(parse(&manifest_key(partition)), Some(StoredKey::Manifest(partition)));
        assert_eq!(parse(&link_key(partition, 1024 + 7)), Some(StoredKey::Link(partition, 7)));
        assert_eq!(parse(&entry), Some(StoredKey::Entry(partition, b"w\xff")));
        for foreign in [&b""[..], b"\x02", b"\x01\0\0\0\0", b"\x01\0\0\0\0\x00x", b"\x01\0\0\0\0\x10x", b"\x00x"] {
            assert_eq!(parse(foreign), None);
        }
    }

    #[test]
    fn bytes_on_disk_are_the_ones_of_format_version_1() {
        assert_eq!(manifest_key(PartitionId(3)), *b"\x01\x00\x00\x00\x03\x00");
        assert_eq!(link_key(PartitionId(3), 0x0203), *b"\x01\x00\x00\x00\x03\x10\x02\x03");
        assert_eq!(format_record(), b"tallyguard snapshots\x00\x00\x00\x01");
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_start_with_it_and_before_everything_else() {
        assert_eq!(end_of(b"\x01a"), b"\x01b");
        assert_eq!(end_of(b"\x01\xff\xff"), b"\x02");
    }
}
