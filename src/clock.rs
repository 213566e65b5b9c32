//! The only place that reads a clock.
//!
//! Promises the current time, as wall-clock time for people and logs, and as monotonic time for durations and deadlines.
//! It must never be called from `domain` or `protocol`: there time is an input, so that a replay and a simulation decide
//! exactly what the live run decided. `clippy.toml` forbids the functions below everywhere else.

//!
//! A simulation puts a clock of its own in place of both, for its thread: see [`set_virtual`].

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// What the clocks of a simulated thread show, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualTime {
    pub monotonic_ms: u64,
    pub wall_ms: i64,
}

thread_local! {
    static VIRTUAL: Cell<Option<VirtualTime>> = const { Cell::new(None) };
}

/// From here on this thread reads that time, and nothing moves it but the next call; `None` gives it the real clocks back.
pub fn set_virtual(time: Option<VirtualTime>) {
    VIRTUAL.set(time);
}

/// Milliseconds since the Unix epoch, UTC. May jump in either direction when the machine's clock is set; a clock before
/// 1970 reads as 0.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn wall_clock_ms() -> i64 {
    if let Some(time) = VIRTUAL.get() {
        return time.wall_ms;
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// The wall-clock time as a date, UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn utc_now() -> DateTime<Utc> {
    VIRTUAL.get().and_then(|time| DateTime::from_timestamp_millis(time.wall_ms)).unwrap_or_else(Utc::now)
}

/// A point in time that never goes back: for durations, deadlines and pauses.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub fn monotonic_now() -> Instant {
    match VIRTUAL.get() {
        Some(time) => *FIRST_ASKED + Duration::from_millis(time.monotonic_ms),
        None => Instant::now(),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds that never go back, since the process first asked: what the sans-IO state machines are told.
#[must_use]
pub fn monotonic_ms() -> u64 {
    match VIRTUAL.get() {
        Some(time) => time.monotonic_ms,
        None => u64::try_from(FIRST_ASKED.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
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
    fn a_virtual_clock_stands_still_until_it_is_set() {
        let before = monotonic_now();
        set_virtual(Some(VirtualTime { monotonic_ms: 7_000, wall_ms: 1_000 }));
        let then = monotonic_now();
        assert_eq!((monotonic_ms(), wall_clock_ms(), utc_now().timestamp_millis()), (7_000, 1_000, 1_000));
        set_virtual(Some(VirtualTime { monotonic_ms: 8_000, wall_ms: 1_000 }));
        assert_eq!(monotonic_now() - then, Duration::from_secs(1));
        set_virtual(None);
        assert!(monotonic_now() >= before && wall_clock_ms() > 1_000_000);
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let earlier = monotonic_now();
        assert!(monotonic_now() >= earlier);
    }
}
