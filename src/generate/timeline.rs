//! How a workload's event time relates to the clock of whoever sends it.
//!
//! The service dead-letters a record whose `event_time` is later than the record's own timestamp plus
//! `max_future_skew`, and a topic with append time stamps records with the broker's clock. So a *live* workload must
//! never run ahead of the real clock, however fast it is sent:
//!
//! | asked for | virtual clock starts | and then |
//! | --- | --- | --- |
//! | a fixed start | there | the caller's business: event time ignores the real clock |
//! | now; sending no faster than event time passes | now | record by record at or behind the real clock |
//! | now; N events, faster than that | so long before now that the last record is due now | the run is a backlog that is sent at once |
//! | now; endless, faster than that | one year before now | a backlog until it has caught up, then at the pace of event time |
//!
//! In the last three the sender in addition holds each record back until the real clock has reached its event time.

use crate::domain::time::EventTime;
use crate::generate::WorkloadOptions;

const BACKLOG_OF_ENDLESS_MS: i64 = 365 * 86_400_000;

/// Where event time is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In step with the real clock.
    Now,
    At(EventTime),
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub start: Start,
    /// 0 = endless.
    pub events: u64,
    /// Records per second of real time; 0 = as fast as possible.
    pub rate: u32,
    /// Records per second of event time; by default `rate`, or [`WorkloadOptions::DEFAULT_EVENTS_PER_SECOND`].
    pub event_rate: Option<u32>,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeline {
    pub start: EventTime,
    /// At least 1.
    pub events_per_second: u32,
    /// Hold a record back until the real clock has reached the workload's [clock](crate::generate::Workload::clock).
    pub hold_back: bool,
    /// The virtual clock will be ahead of the real one before the end: records will be dead-lettered.
    pub runs_ahead: bool,
}

impl Timeline {
    /// `now` is the real clock at the start of the run.
    #[must_use]
    pub fn of(pace: Pace, now: EventTime) -> Self {
        let default_density = if pace.rate > 0 { pace.rate } else { WorkloadOptions::DEFAULT_EVENTS_PER_SECOND };
        let events_per_second = pace.event_rate.unwrap_or(default_density).max(1);
        let length_ms = |events: u64, per_second: u32| {
            i64::try_from(u128::from(events) * 1_000 / u128::from(per_second) + 1).unwrap_or(i64::MAX)
        };
        let start = match pace.start {
            Start::At(start) => start,
            Start::Now if pace.rate > 0 && pace.rate <= events_per_second => now,
            Start::Now if pace.events > 0 => EventTime(now.0.saturating_sub(length_ms(pace.events, events_per_second))),
            Start::Now => EventTime(now.0 - BACKLOG_OF_ENDLESS_MS),
        };
        let runs_ahead = match pace.start {
            Start::Now => false,
            Start::At(start) => {
                let paced_faster = pace.rate == 0 || pace.rate > events_per_second;
                let end = start.0.saturating_add(length_ms(pace.events, events_per_second));
                start > now || (paced_faster && (pace.events == 0 || end > now.0))
            }
        };
        Self { start, events_per_second, hold_back: pace.start == Start::Now, runs_ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EventTime = EventTime(1_800_000_000_000);

    fn live(events: u64, rate: u32, event_rate: Option<u32>) -> Timeline {
        Timeline::of(Pace { start: Start::Now, events, rate, event_rate }, NOW)
    }

    #[test]
    fn a_paced_live_run_starts_now_and_goes_with_the_clock() {
        let expected = Timeline { start: NOW, events_per_second: 500, hold_back: true, runs_ahead: false };
        assert_eq!(live(0, 500, None), expected);
    }

    #[test]
    fn a_burst_as_fast_as_possible_lies_wholly_in_the_past() {
        let timeline = live(1_000_000, 0, None);
        assert_eq!(timeline.events_per_second, 1_000);
        assert_eq!(timeline.start.0, NOW.0 - 1_000_001);
    }

    #[test]
    fn a_run_that_is_sent_faster_than_its_event_time_passes_lies_in_the_past_too() {
        assert_eq!(live(60_000, 1_000, Some(100)).start.0, NOW.0 - 600_001);
        assert_eq!(live(0, 1_000, Some(100)).start.0, NOW.0 - BACKLOG_OF_ENDLESS_MS);
        assert_eq!(live(60_000, 1_000, Some(2_000)).start, NOW);
    }

    #[test]
    fn a_fixed_start_is_taken_as_it_is_and_said_to_run_ahead_when_it_does() {
        let at = |start, events| Timeline::of(Pace { start: Start::At(start), events, rate: 0, event_rate: None }, NOW);
        let past = EventTime(NOW.0 - 10_000_000);
        assert_eq!(at(past, 1_000_000).start, past);
        assert!(!at(past, 1_000_000).runs_ahead);
        assert!(at(past, 20_000_000).runs_ahead);
        assert!(at(past, 0).runs_ahead);
        assert!(at(EventTime(NOW.0 + 1), 1).runs_ahead);
    }
}
