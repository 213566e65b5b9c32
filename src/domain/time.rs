//! Event time, watermarks and window bounds: milliseconds since the Unix epoch, UTC, each with its own type.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::domain::duration::Millis;

/// When a transaction says that it happened; milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

impl EventTime {
    /// 2000-01-01T00:00:00Z, the first event time that is accepted.
    pub const MIN: Self = Self(946_684_800_000);
    /// 2100-01-01T00:00:00Z, the first event time that is no longer accepted.
    pub const END: Self = Self(4_102_444_800_000);

    /// Start of the tumbling window of this size that holds the event; windows are aligned to the epoch.
    #[must_use]
    pub fn window_start(self, size: Millis) -> WindowStart {
        WindowStart(self.0 - self.0.rem_euclid(size.0))
    }
}

/// RFC 3339 UTC with exactly three fraction digits, as `event_time` stands in outputs.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&utc(self.0).to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Inclusive start of a tumbling window; milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowStart(pub i64);

impl WindowStart {
    /// Exclusive end of the window.
    #[must_use]
    pub fn end(self, size: Millis) -> WindowEnd {
        WindowEnd(self.0 + size.0)
    }
}

/// RFC 3339 UTC without fraction, as window bounds stand in outputs.
impl fmt::Display for WindowStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&utc(self.0).to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

/// Exclusive end of a tumbling window; milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowEnd(pub i64);

impl fmt::Display for WindowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        WindowStart(self.0).fmt(f)
    }
}

/// How far event time has come in a partition: highest valid event time so far, less the allowed out-of-orderness.
/// [`Watermark::NONE`] before the first valid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Minus infinity: no valid record seen yet.
    pub const NONE: Self = Self(i64::MIN);

    /// Whether a window with this end is closed: `watermark >= end`.
    #[must_use]
    pub fn closes(self, end: WindowEnd) -> bool {
        self.0 >= end.0
    }

    /// The watermark after a valid record: it only ever rises.
    #[must_use]
    pub fn advanced_by(self, event_time: EventTime, out_of_orderness: Millis) -> Self {
        self.max(Self(event_time.0 - out_of_orderness.0))
    }
}

/// RFC 3339 UTC with milliseconds, or `none`.
impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE { f.write_str("none") } else { EventTime(self.0).fmt(f) }
    }
}

fn utc(epoch_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(epoch_ms).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_to_the_epoch_and_closed_at_their_end() {
        let minute = Millis(60_000);
        let start = EventTime(1_700_000_059_999).window_start(minute);
        assert_eq!(start, WindowStart(1_700_000_040_000));
        assert!(!Watermark(1_700_000_099_999).closes(start.end(minute)));
        assert!(Watermark(1_700_000_100_000).closes(start.end(minute)));
        assert!(!Watermark::NONE.closes(start.end(minute)));
    }

    #[test]
    fn outputs_carry_times_as_the_contract_writes_them() {
        assert_eq!(EventTime(1_700_000_000_005).to_string(), "2023-11-14T22:13:20.005Z");
        assert_eq!(WindowStart(1_700_000_040_000).to_string(), "2023-11-14T22:14:00Z");
        assert_eq!(Watermark::NONE.to_string(), "none");
    }
}
