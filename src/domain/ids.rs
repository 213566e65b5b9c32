//! Positions in the source log, and the 128-bit keys under which ids are held in memory.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// A partition of the source topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub i32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in one partition. As a record's position it names the record; as a committed or applied position it
/// names the next record to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The position just behind the record at this offset.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The 128-bit digest that stands for an id (or a tuple of ids) inside the state.
///
/// SipHash-1-3 with a fixed key: the same id gives the same key in every process and snapshot. At 10^9 live ids the
/// probability of any collision is below 10^-20, far below that of an undetected memory error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdKey {
    pub high: u64,
    pub low: u64,
}

impl IdKey {
    /// Key of one id.
    #[must_use]
    pub fn of(id: &str) -> Self {
        Self::of_parts(&[id])
    }

    /// Key of a tuple of ids. Each part is closed by a byte that no UTF-8 text holds, so tuples never run together.
    #[must_use]
    pub fn of_parts(parts: &[&str]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(0x7461_6c6c_7967_7561, 0x7264_2f69_642f_7631);
        for part in parts {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        let digest = hasher.finish128();
        Self { high: digest.h1, low: digest.h2 }
    }

    /// Key of a pair (parent, id): a transaction id of a user, an order id of a merchant.
    #[must_use]
    pub fn within(self, id: &str) -> Self {
        let mut hasher = SipHasher13::new_with_keys(self.high, self.low);
        hasher.write(id.as_bytes());
        let digest = hasher.finish128();
        Self { high: digest.h1, low: digest.h2 }
    }

    /// Sixteen bytes, big-endian: the form on disk.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.high.to_be_bytes());
        bytes[8..].copy_from_slice(&self.low.to_be_bytes());
        bytes
    }

    /// The inverse of [`IdKey::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let value = u128::from_be_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a u128")]
        Self { high: (value >> 64) as u64, low: value as u64 }
    }
}
