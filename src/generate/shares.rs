//! How much of each peculiarity a workload holds.

use std::fmt;
use std::str::FromStr;

/// A share of the whole, kept in parts per million so that thresholds are exact integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    pub(super) const WHOLE: u32 = 1_000_000;
    pub const ZERO: Self = Self(0);

    /// `None` above a million.
    #[must_use]
    pub const fn from_parts_per_million(parts: u32) -> Option<Self> {
        if parts <= Self::WHOLE { Some(Self(parts)) } else { None }
    }

    #[must_use]
    pub const fn parts_per_million(self) -> u32 {
        self.0
    }
}

/// A text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a share: a decimal number from 0 to 1 with at most six fraction digits is expected, such as 0.005"
)]
pub struct InvalidShare(String);

impl FromStr for Share {
    type Err = InvalidShare;

    /// Reads `0.005`, `1`, `.5`: digits only, so that nothing is rounded.
    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let invalid = || InvalidShare(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits_only(whole) || !digits_only(fraction) || fraction.len() > 6 || (whole.len() + fraction.len()) == 0 {
            return Err(invalid());
        }
        let parts: u32 = format!("0{whole}{fraction:0<6}").parse().map_err(|_| invalid())?;
        Self::from_parts_per_million(parts).ok_or_else(invalid)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / Self::WHOLE, self.0 % Self::WHOLE);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Shares of the fresh records. Repetitions come on top of these: with `duplicates` of 0.01, one of a hundred ordinary
/// records is sent a second time later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Records that belong to a burst.
    pub bursts: Share,
    /// Records 1 s to 55 s behind the clock: within an `out_of_orderness` of one minute.
    pub out_of_order: Share,
    /// Records 2 min to 5 min behind the clock: their one-minute window is closed.
    pub late: Share,
    /// Ordinary records that are repeated, identical or changed.
    pub duplicates: Share,
    /// Records for the dead-letter topic, evenly over the reason codes.
    pub malformed: Share,
    /// Legal records in unusual dress: unknown fields, other time forms, escapes, longest ids, largest amounts.
    pub unusual: Share,
    /// Records without a key, or with the key of another user.
    pub wrong_keys: Share,
}

impl Shares {
    pub const DEFAULT: Self = Self {
        bursts: Share(20_000),
        out_of_order: Share(30_000),
        late: Share(5_000),
        duplicates: Share(10_000),
        malformed: Share(5_000),
        unusual: Share(10_000),
        wrong_keys: Share(1_000),
    };

    /// Ordinary records only, in order: for benchmarks.
    pub const NONE: Self = Self {
        bursts: Share::ZERO,
        out_of_order: Share::ZERO,
        late: Share::ZERO,
        duplicates: Share::ZERO,
        malformed: Share::ZERO,
        unusual: Share::ZERO,
        wrong_keys: Share::ZERO,
    };

    /// Sum of the shares of which each fresh record has at most one, in parts per million.
    #[must_use]
    pub(super) fn exclusive_total(&self) -> u32 {
        [self.bursts, self.out_of_order, self.late, self.malformed, self.unusual, self.wrong_keys]
            .iter()
            .map(|share| share.0)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_exactly_and_written_back_as_it_was() {
        for text in ["0", "1", "0.5", "0.005", "0.000001", "0.999999"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
        assert_eq!(".25".parse::<Share>().unwrap().parts_per_million(), 250_000);
        assert_eq!("1.0".parse::<Share>().unwrap().parts_per_million(), 1_000_000);
    }

    #[test]
    fn what_is_not_a_share_is_refused() {
        for text in ["", ".", "-0.1", "1.1", "2", "0.0000001", "5%", "1e-3", "NaN", "99999999999999"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
