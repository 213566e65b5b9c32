//! The only place that reads a clock.
//!
//! Promises the current time, as wall-clock time for people and logs, and as monotonic time for durations and deadlines.
//! It must never be called from `domain` or `protocol`: there time is an input, so that a replay and a simulation decide
//! exactly what the live run decided. `clippy.toml` forbids the functions below everywhere else.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// Milliseconds since the Unix epoch, UTC. May jump in either direction when the machine's clock is set; a clock before
/// 1970 reads as 0.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn wall_clock_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// The wall-clock time as a date, UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn utc_now() -> DateTime<Utc> {
    Utc::now()
}

/// A point in time that never goes back: for durations, deadlines and pauses.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub fn monotonic_now() -> Instant {
    Instant::now()
}

static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(monotonic_now);

/// Milliseconds that never go back, since the process first asked: what the sans-IO state machines are told.
#[must_use]
pub fn monotonic_ms() -> u64 {
    u64::try_from(FIRST_ASKED.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_counts_milliseconds_since_1970() {
        let milliseconds = wall_clock_ms();
        let date = utc_now();
        assert!((date.timestamp_millis() - milliseconds).abs() < 60_000, "{milliseconds} is not about {date}");
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let earlier = monotonic_now();
        assert!(monotonic_now() >= earlier);
    }
}
