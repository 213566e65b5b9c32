//! When the next record may be sent.

use std::time::{Duration, Instant};

use crate::clock::monotonic_now;
use crate::domain::time::EventTime;

/// Shorter pauses would cost more than the smoothness that they bring.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longer ones would keep a signal waiting.
const PAUSE_MAX: Duration = Duration::from_millis(100);

pub(super) struct Pacer {
    started: Instant,
    /// Records per second; 0 = no limit.
    rate: u32,
    /// Event time that may be sent at `started`; it advances with the clock. `None` = any event time at any time.
    held_at: Option<EventTime>,
}

impl Pacer {
    pub(super) fn start(rate: u32, held_at: Option<EventTime>) -> Self {
        Self { started: monotonic_now(), rate, held_at }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long to wait before the record with this number (from 0) and virtual clock; `None` if it may go.
    pub(super) fn pause_before(&self, number: u64, clock: EventTime) -> Option<Duration> {
        if self.rate == 0 && self.held_at.is_none() {
            return None;
        }
        self.due(number, clock)
            .checked_sub(self.elapsed())
            .filter(|pause| !pause.is_zero())
            .map(|pause| pause.clamp(PAUSE_MIN, PAUSE_MAX))
    }

    fn due(&self, number: u64, clock: EventTime) -> Duration {
        let by_rate = match self.rate {
            0 => Duration::ZERO,
            rate => {
                let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
                u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
            }
        };
        let by_clock = self.held_at.map_or(0, |held_at| clock.0.saturating_sub(held_at.0));
        by_rate.max(Duration::from_millis(u64::try_from(by_clock).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EventTime = EventTime(1_800_000_000_000);

    #[test]
    fn the_rate_spaces_records_evenly() {
        let pacer = Pacer::start(1_000, None);
        assert_eq!(pacer.due(0, NOW), Duration::ZERO);
        assert_eq!(pacer.due(2_500, NOW), Duration::from_millis(2_500));
        assert!(pacer.pause_before(0, NOW).is_none());
        assert_eq!(pacer.pause_before(1_000_000, NOW), Some(PAUSE_MAX));
    }

    #[test]
    fn a_record_of_the_future_waits_and_one_of_the_past_does_not() {
        let pacer = Pacer::start(0, Some(NOW));
        assert_eq!(pacer.due(9, EventTime(NOW.0 + 400)), Duration::from_millis(400));
        assert_eq!(pacer.due(9, EventTime(NOW.0 - 400)), Duration::ZERO);
        assert!(Pacer::start(0, None).pause_before(9, EventTime(NOW.0 + 400)).is_none());
    }
}
