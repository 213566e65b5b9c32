//! Tells a write-ahead log that a power cut has torn from one that was damaged afterwards.
//!
//! RocksDB stops at the first record it cannot read, and takes it for the end. That is right when the write was under way,
//! and loses acknowledged appends without a word when the disk has changed a byte in the middle. But every write is
//! synced before the next one begins, so at most the last one can be torn: a sound beginning of a write *behind* an
//! unreadable record proves damage. (Damage of the very last write cannot be told from a torn one.)
//!
//! The framing is RocksDB's `db/log_format.h`: blocks of 32 KiB; a record never crosses a block, a write may take several.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crc::{CRC_32_ISCSI, Crc, Table};

const BLOCK_LENGTH: usize = 32 << 10;
/// Checksum (4), length (2, little-endian), type (1).
const HEADER_LENGTH: usize = 7;
/// A write in one record, and the first record of a longer one.
const BEGINS_A_WRITE: [u8; 2] = [1, 2];

const CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Which write-ahead log in this folder was damaged after it was written, if any.
pub fn damage(store: &Path) -> io::Result<Option<String>> {
    if !store.exists() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(store)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Some(at) = unreadable_before_a_write(File::open(&path)?)?
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Some(format!("{name} cannot be read at byte {at}, and acknowledged writes stand behind that")));
        }
    }
    Ok(None)
}

fn unreadable_before_a_write(mut file: impl Read) -> io::Result<Option<u64>> {
    let mut block = Vec::with_capacity(BLOCK_LENGTH);
    let limit = u64::try_from(BLOCK_LENGTH).unwrap_or(u64::MAX);
    let (mut unreadable, mut start) = (None, 0);
    loop {
        block.clear();
        let length = file.by_ref().take(limit).read_to_end(&mut block)?;
        if length == 0 {
            return Ok(None);
        }
        if let Some(damaged) = follow(&block, start, &mut unreadable) {
            return Ok(Some(damaged));
        }
        start += limit;
    }
}

/// Follows the records of the block that begins at `start`; where the first unreadable one is, once a sound write is found
/// behind it. The length of an unreadable record is not to be trusted: the next one is looked for at every byte.
fn follow(mut block: &[u8], start: u64, unreadable: &mut Option<u64>) -> Option<u64> {
    let whole = block.len();
    while let Some((&[c0, c1, c2, c3, low, high, record_type], rest)) = block.split_first_chunk::<HEADER_LENGTH>() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let begins = BEGINS_A_WRITE.contains(&record_type);
        let is_candidate = record_type != 0 && (begins || unreadable.is_none());
        let payload = rest.get(..length).filter(|_| is_candidate);
        match payload.filter(|payload| checksum(record_type, payload) == u32::from_le_bytes([c0, c1, c2, c3])) {
            Some(_) if begins && unreadable.is_some() => return *unreadable,
            Some(_) => block = &rest[length..],
            None => {
                unreadable.get_or_insert(start + u64::try_from(whole - block.len()).unwrap_or(0));
                block = &block[1..];
            }
        }
    }
    None
}

/// Of type and payload, masked as RocksDB masks it.
fn checksum(record_type: u8, payload: &[u8]) -> u32 {
    let mut digest = CHECKSUM.digest();
    digest.update(&[record_type]);
    digest.update(payload);
    digest.finalize().rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(record_type: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
        [&checksum(record_type, payload).to_le_bytes()[..], &length, &[record_type], payload].concat()
    }

    fn found(log: &[u8]) -> Option<u64> {
        unreadable_before_a_write(log).unwrap()
    }

    #[test]
    fn only_a_sound_write_behind_an_unreadable_record_is_damage() {
        let (first, second) = (record(1, b"first"), record(1, b"second"));
        let sound = [first.clone(), second.clone()].concat();
        assert_eq!(found(&sound), None);
        assert_eq!(found(&sound[..sound.len() - 1]), None, "torn");
        assert_eq!(found(&[sound.clone(), vec![0; 100]].concat()), None, "preallocated");
        for at in 0..first.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            assert_eq!(found(&damaged), Some(0), "byte {at}");
        }
        for at in first.len()..sound.len() {
            let mut torn = sound.clone();
            torn[at] ^= 0x10;
            assert_eq!(found(&torn), None, "the last write, byte {at}");
        }
    }

    #[test]
    fn a_torn_write_of_several_blocks_is_no_damage_unless_another_follows() {
        let full = vec![7; BLOCK_LENGTH - HEADER_LENGTH];
        let long = [record(2, &full), record(3, &full), record(4, b"end")].concat();
        let mut torn = long.clone();
        torn[100] ^= 1;
        assert_eq!(found(&torn), None, "blocks reach the disk in any order");
        assert_eq!(found(&[torn, record(1, b"next")].concat()), Some(0));
        let mut hole = long;
        hole[..BLOCK_LENGTH].fill(0);
        assert_eq!(found(&[hole, record(2, b"next")].concat()), Some(0));
    }
}
