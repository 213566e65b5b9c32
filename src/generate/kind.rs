//! What a generated record is there for, and how many there were of each.

/// What a record is there for. The generator knows it; a reader of the topic has to find it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A valid record like most others.
    Ordinary,
    /// Of a burst of exactly 10 transactions in one minute: no alert at a limit of 10.
    BurstOfTen,
    /// Of a burst of exactly 11 transactions in one minute.
    BurstOfEleven,
    /// Of a burst of exactly 12 transactions in one minute.
    BurstOfTwelve,
    /// Of 16 transactions within seconds, 8 on either side of a minute's boundary: no alert at a limit of 10.
    BurstAcrossMinutes,
    /// Of 10 transactions in one minute, some of them sent twice: no alert at a limit of 10.
    BurstWithRepeats,
    /// Behind the clock, but by less than one minute.
    OutOfOrder,
    /// Two to five minutes behind the clock.
    Late,
    /// The same bytes again, within half a second of the clock.
    DuplicateNear,
    /// The same bytes again, 5 s to 50 s later.
    DuplicateFar,
    /// The same transaction again with another amount or status, up to 50 s later.
    DuplicateChanged,
    /// The same bytes again after more than two minutes.
    DuplicateLate,
    /// With fields that the format does not know.
    UnknownFields,
    /// With ids beyond ASCII, or written with JSON escapes.
    UnusualText,
    /// With ids, channel and status as long, and an amount as large, as the format allows.
    LargestValues,
    /// With `event_time` as epoch milliseconds, with an offset, in lower case, or in nanoseconds.
    UnusualTime,
    /// With blanks, fields in another order, and optional fields that are null or absent.
    UnusualLayout,
    /// Valid, without a key.
    MissingKey,
    /// Valid, with the key of another user.
    OtherKey,
    /// Malformed: no value at all.
    NullValue,
    /// Malformed: not UTF-8.
    InvalidUtf8,
    /// Malformed: not one JSON object as the format wants it.
    InvalidJson,
    /// Malformed: a required field is missing.
    MissingField,
    /// Malformed: a field breaks its rule.
    InvalidField,
    /// Malformed: valid but for an event time in 2099.
    FutureEventTime,
}

impl Kind {
    /// All kinds, in the order of declaration.
    pub const ALL: [Self; 25] = [
        Self::Ordinary,
        Self::BurstOfTen,
        Self::BurstOfEleven,
        Self::BurstOfTwelve,
        Self::BurstAcrossMinutes,
        Self::BurstWithRepeats,
        Self::OutOfOrder,
        Self::Late,
        Self::DuplicateNear,
        Self::DuplicateFar,
        Self::DuplicateChanged,
        Self::DuplicateLate,
        Self::UnknownFields,
        Self::UnusualText,
        Self::LargestValues,
        Self::UnusualTime,
        Self::UnusualLayout,
        Self::MissingKey,
        Self::OtherKey,
        Self::NullValue,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::MissingField,
        Self::InvalidField,
        Self::FutureEventTime,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::BurstOfTen => "burst of 10",
            Self::BurstOfEleven => "burst of 11",
            Self::BurstOfTwelve => "burst of 12",
            Self::BurstAcrossMinutes => "burst across minutes",
            Self::BurstWithRepeats => "burst with repeats",
            Self::OutOfOrder => "out of order",
            Self::Late => "late",
            Self::DuplicateNear => "duplicate, near",
            Self::DuplicateFar => "duplicate, far",
            Self::DuplicateChanged => "duplicate, changed",
            Self::DuplicateLate => "duplicate, late",
            Self::UnknownFields => "unknown fields",
            Self::UnusualText => "unusual text",
            Self::LargestValues => "largest values",
            Self::UnusualTime => "unusual time form",
            Self::UnusualLayout => "unusual layout",
            Self::MissingKey => "missing key",
            Self::OtherKey => "key of another user",
            Self::NullValue => "malformed: null_value",
            Self::InvalidUtf8 => "malformed: invalid_utf8",
            Self::InvalidJson => "malformed: invalid_json",
            Self::MissingField => "malformed: missing_field",
            Self::InvalidField => "malformed: invalid_field",
            Self::FutureEventTime => "malformed: event_time_in_future",
        }
    }

    /// The reason code under which the record is to be dead-lettered; `None` for valid records.
    #[must_use]
    pub fn dead_letter_code(self) -> Option<&'static str> {
        self.as_str().strip_prefix("malformed: ")
    }
}

/// How many records there were of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    pub fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that occurred, in the order of [`Kind::ALL`].
    pub fn present(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_the_order_in_which_they_are_counted() {
        for (position, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, position, "{kind:?}");
        }
    }
}
