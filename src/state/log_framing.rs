//! A look at the framing of RocksDB's log files (write-ahead log and manifest) before RocksDB reads them.
//!
//! RocksDB 11.8 never returns from opening a store in which one flipped bit has turned the type of a log record into a
//! *recyclable* one (1 into 5, say): `log::Reader::ReadPhysicalRecord` answers "bad record" before it checks the checksum
//! and without moving on, and its caller asks again, for ever. We never recycle logs, so any record of such a type is
//! damage, and the store is set aside instead.
//!
//! Only headers are followed, and no checksum is verified: everything else is RocksDB's to judge, which it does well.
//! A record never crosses a block, so each block starts at a header whatever the block before it held.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BLOCK_LENGTH: usize = 32 << 10;
/// Checksum (4), length (2, little-endian), type (1).
const HEADER_LENGTH: usize = 7;

/// Whether RocksDB would not come back from reading this log file.
pub(super) fn would_hang(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut block = Vec::with_capacity(BLOCK_LENGTH);
    loop {
        block.clear();
        // A usize has at most 64 bits.
        let limit = u64::try_from(BLOCK_LENGTH).unwrap_or(u64::MAX);
        if file.by_ref().take(limit).read_to_end(&mut block)? == 0 {
            return Ok(false);
        }
        if holds_recyclable_record(&block) {
            return Ok(true);
        }
    }
}

fn holds_recyclable_record(mut block: &[u8]) -> bool {
    while let Some((&[_, _, _, _, low, high, record_type], rest)) = block.split_first_chunk::<HEADER_LENGTH>() {
        if is_recyclable(record_type) {
            return true;
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        let unused_rest = record_type == 0 && length == 0;
        match rest.get(length..) {
            Some(next) if !unused_rest => block = next,
            _ => return false,
        }
    }
    false
}

/// The types of `db/log_format.h` that have the longer header of recycled logs.
fn is_recyclable(record_type: u8) -> bool {
    matches!(record_type, 5..=8 | 11 | 131)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(record_type: u8, length: u8) -> Vec<u8> {
        [vec![0, 0, 0, 0, length, 0, record_type], vec![0xee; usize::from(length)]].concat()
    }

    #[test]
    fn only_headers_count_and_each_block_is_looked_at() {
        let sound = [record(1, 20), record(2, 5), record(10, 0), vec![5; 6]].concat();
        assert!(!holds_recyclable_record(&sound));
        assert!(!holds_recyclable_record(&[record(1, 20), vec![0; 100]].concat()), "preallocated space");
        assert!(!holds_recyclable_record(&[0, 0, 0, 0, 0xff, 0xff, 1, 5, 5, 5]), "cut off");
        for recyclable in [5, 6, 7, 8, 11, 131] {
            assert!(holds_recyclable_record(&[sound[..39].to_vec(), record(recyclable, 3)].concat()));
        }
    }
}
