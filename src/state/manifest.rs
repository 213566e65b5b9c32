//! How a stored snapshot proves that it is whole and unchanged.
//!
//! **Changed bytes.** RocksDB checks a checksum of each block that it reads, of each record of its log and of its own
//! manifest. On top of that each value carries a *seal*: SipHash-1-3 over partition, chain, key and value. It covers
//! what the block checksums do not, from the moment the store takes the value until the engine gets it back (memory,
//! compression, compaction, a value under another key), and a value of an earlier chain cannot pass for a current one.
//!
//! **Missing entries.** A count or a sum over all entries would have to be corrected for each value that is overwritten
//! or removed, so each write would have to read first, and each closed window would be read once more in order to be
//! dropped. We need not pay that, because of the units in which RocksDB can lose data without saying so. A block that
//! cannot be read is an error when it is read. A table file that is missing, or is not the one it should be, is an error
//! when the store is opened. Compactions replace files in one atomic manifest record. What remains is the end of a log,
//! of RocksDB's manifest or of its write-ahead log: cut off there (a crash, a damaged length field), it ends early in
//! silence. Both hold whole write batches or the flushes of whole write batches, so what vanishes is always *whole
//! batches, of the newest*. If all the newest are gone, what is left is the complete older snapshot, which is sound. The
//! one dangerous case is a hole: RocksDB's manifest has lost the record of a flush whose log is already deleted, while a
//! newer log with newer batches is replayed.
//!
//! So each batch adds a *link* to the chain of each partition in it: numbers first, first + 1, … last, of which the
//! newest [`LINK_SLOTS`] are kept. A snapshot is whole when exactly these links are there. A hole is never further back
//! than the unflushed batches plus the lost flushes; the store flushes at least every [`LINK_SLOTS`] / 4 batches, and a
//! retained checkpoint flushes each time, so a hole that has just come about lies within the links that are kept.
//! Writing costs one link of about 30 bytes for each partition and batch, and no reading but the manifest itself.
//!
//! A new chain (first snapshot, or one that replaces) starts at the greater of the wall clock in milliseconds and the
//! number after the old chain, so numbers of a discarded chain do not come back even if the manifest is gone.

use std::hash::Hasher;
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher13;

use crate::domain::ids::{Offset, PartitionId};
use crate::state::keys::{self, LINK_SLOTS};

/// Bytes that a seal adds to a value.
pub const SEAL_LENGTH: usize = 8;

/// Manifests are read before their chain is known.
const NO_CHAIN: u64 = 0;

/// What a partition's stored snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Number of the chain's first link; it names the chain.
    pub first: u64,
    /// Number of the newest link.
    pub last: u64,
    pub through: Offset,
    /// Wall clock, milliseconds since the epoch.
    pub written_at_ms: i64,
    /// The engine's own, opaque here.
    pub header: Vec<u8>,
}

impl Manifest {
    /// The links that must be there, and no others.
    #[must_use]
    pub fn links(&self) -> RangeInclusive<u64> {
        let oldest_kept = self.last.saturating_sub(u64::from(LINK_SLOTS) - 1);
        self.first.max(oldest_kept)..=self.last
    }

    /// Sealed: first, last, through, written at, header.
    #[must_use]
    pub fn to_bytes(&self, partition: PartitionId) -> Vec<u8> {
        let mut body = Vec::with_capacity(32 + self.header.len());
        body.extend_from_slice(&self.first.to_be_bytes());
        body.extend_from_slice(&self.last.to_be_bytes());
        body.extend_from_slice(&self.through.0.to_be_bytes());
        body.extend_from_slice(&self.written_at_ms.to_be_bytes());
        body.extend_from_slice(&self.header);
        let mut sealed = Vec::new();
        seal(partition, NO_CHAIN, &keys::manifest_key(partition), &body, &mut sealed);
        sealed
    }

    /// `None` when the bytes are not what [`Manifest::to_bytes`] wrote for this partition.
    #[must_use]
    pub fn from_bytes(partition: PartitionId, sealed: &[u8]) -> Option<Self> {
        let body = unseal(partition, NO_CHAIN, &keys::manifest_key(partition), sealed)?;
        let (first, body) = body.split_first_chunk()?;
        let (last, body) = body.split_first_chunk()?;
        let (through, body) = body.split_first_chunk()?;
        let (written_at_ms, header) = body.split_first_chunk()?;
        Some(Self {
            first: u64::from_be_bytes(*first),
            last: u64::from_be_bytes(*last),
            through: Offset(i64::from_be_bytes(*through)),
            written_at_ms: i64::from_be_bytes(*written_at_ms),
            header: header.to_vec(),
        })
    }
}

/// The sealed value of link `number` of a chain.
#[must_use]
pub fn sealed_link(partition: PartitionId, chain: u64, number: u64) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(2 * SEAL_LENGTH);
    seal(partition, chain, &keys::link_key(partition, number), &number.to_be_bytes(), &mut sealed);
    sealed
}

/// Number of a sealed link; `None` when it does not belong to this chain or this slot.
#[must_use]
pub fn unseal_link(partition: PartitionId, chain: u64, key: &[u8], sealed: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(unseal(partition, chain, key, sealed)?.try_into().ok()?);
    (key == keys::link_key(partition, number)).then_some(number)
}

/// Puts the seal and `value` into `out`, in place of what is there. `key` is the key as stored.
pub fn seal(partition: PartitionId, chain: u64, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&digest(partition, chain, key, value).to_be_bytes());
    out.extend_from_slice(value);
}

/// The value behind its seal; `None` when the seal is not the one of this partition, chain, key and value.
#[must_use]
pub fn unseal<'a>(partition: PartitionId, chain: u64, key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (seal, value) = sealed.split_first_chunk::<SEAL_LENGTH>()?;
    (u64::from_be_bytes(*seal) == digest(partition, chain, key, value)).then_some(value)
}

fn digest(partition: PartitionId, chain: u64, key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(u64::from_be_bytes(*b"snapshot"), chain);
    hasher.write(&partition.0.to_be_bytes());
    // A usize has at most 64 bits; the length keeps key and value apart.
    hasher.write(&u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes());
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(4);

    #[test]
    fn a_seal_holds_for_its_own_partition_chain_key_and_value_only() {
        let mut sealed = Vec::new();
        seal(PARTITION, 7, b"key", b"value", &mut sealed);
        assert_eq!(unseal(PARTITION, 7, b"key", &sealed), Some(&b"value"[..]));
        assert_eq!(unseal(PartitionId(5), 7, b"key", &sealed), None);
        assert_eq!(unseal(PARTITION, 8, b"key", &sealed), None);
        assert_eq!(unseal(PARTITION, 7, b"kez", &sealed), None);
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 0x10;
            assert_eq!(unseal(PARTITION, 7, b"key", &flipped), None);
            assert_eq!(unseal(PARTITION, 7, b"key", &sealed[..at]), None);
        }
    }

    #[test]
    fn a_manifest_keeps_its_newest_links_and_survives_its_bytes() {
        let manifest =
            Manifest { first: 10, last: 12, through: Offset(-1), written_at_ms: 99, header: b"header".to_vec() };
        assert_eq!(manifest.links(), 10..=12);
        assert_eq!(Manifest { last: 5_000, ..manifest.clone() }.links(), 3_977..=5_000);
        let bytes = manifest.to_bytes(PARTITION);
        assert_eq!(Manifest::from_bytes(PARTITION, &bytes), Some(manifest));
        assert_eq!(Manifest::from_bytes(PartitionId(9), &bytes), None);
        assert_eq!(Manifest::from_bytes(PARTITION, &bytes[..20]), None);
    }

    #[test]
    fn a_link_counts_only_in_its_slot_and_chain() {
        let sealed = sealed_link(PARTITION, 10, 12);
        assert_eq!(unseal_link(PARTITION, 10, &keys::link_key(PARTITION, 12), &sealed), Some(12));
        assert_eq!(unseal_link(PARTITION, 11, &keys::link_key(PARTITION, 12), &sealed), None);
        assert_eq!(unseal_link(PARTITION, 10, &keys::link_key(PARTITION, 13), &sealed), None);
    }
}
