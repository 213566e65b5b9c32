//! Eight bytes of a JSON string at a time ("SIMD within a register"): strings are short, and most of what is parsed.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The beginning of a string that needs no second look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Bytes before the first quote, backslash or control character below 0x20; or before the last bytes of the text that
    /// fill no word.
    pub length: usize,
    /// All of them are 0x20–0x7E.
    pub printable: bool,
}

/// Reads whole words up to the first byte that means something.
#[must_use]
pub fn run(bytes: &[u8]) -> Run {
    let mut odd = 0;
    let mut length = 0;
    for word in bytes.as_chunks().0 {
        let word = u64::from_le_bytes(*word);
        let ends = equal(word, b'"') | equal(word, b'\\') | below_blank(word);
        // The high bit of each byte that is not ASCII, or DEL.
        let suspects = (word | equal(word, 0x7f)) & HIGHS;
        if ends != 0 {
            // The lowest mark is always a true one; what is marked above it may not be.
            let before = ends.trailing_zeros() / 8;
            odd |= suspects & ((1 << (8 * before)) - 1);
            length += before as usize;
            return Run { length, printable: odd == 0 };
        }
        odd |= suspects;
        length += 8;
    }
    Run { length, printable: odd == 0 }
}

/// Marks, by its high bit, each byte that is `byte`; above the lowest mark there may be false ones.
fn equal(word: u64, byte: u8) -> u64 {
    let difference = word ^ (ONES * u64::from(byte));
    difference.wrapping_sub(ONES) & !difference & HIGHS
}

/// Marks each byte below 0x20, with the same reservation.
fn below_blank(word: u64) -> u64 {
    word.wrapping_sub(ONES * 0x20) & !word & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_what_looking_at_every_byte_finds() {
        let ends = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
        for first in 0..=255_u8 {
            for second in [b'a', b'"', 0x00, 0x1f, 0x20, 0x21, 0x7e, 0x7f, 0x80, 0xff, b'\\', b']'] {
                for at in 0..16 {
                    let mut bytes = [b'a'; 16];
                    bytes[at] = first;
                    bytes[(at + 1) % 16] = second;
                    let length = bytes.iter().position(|&byte| ends(byte)).unwrap_or(16);
                    let printable = bytes[..length].iter().all(|byte| (0x20..0x7f).contains(byte));
                    assert_eq!(run(&bytes), Run { length, printable }, "{bytes:?}");
                }
            }
        }
    }
}
