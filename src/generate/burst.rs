//! Bursts: one user, an exact number of transactions, at exact distances from a minute's boundary.

use crate::domain::duration::Millis;
use crate::domain::time::EventTime;
use crate::generate::dice::Dice;
use crate::generate::kind::Kind;

const KINDS: [Kind; 5] =
    [Kind::BurstOfTen, Kind::BurstOfEleven, Kind::BurstOfTwelve, Kind::BurstAcrossMinutes, Kind::BurstWithRepeats];
/// About how many records a burst has; it turns the share of records into a probability of starting one.
pub(super) const TYPICAL_RECORDS: u32 = 12;
const PER_SIDE: usize = 8;
const SPAN_MS_MIN: i64 = 10;
const SPAN_MS_MAX: i64 = 50_000;

/// One record of a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// When it is sent; for a new transaction also its event time.
    pub(super) due: EventTime,
    /// Sends the transaction of an earlier step of the same burst once more.
    pub(super) repeats: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Burst {
    pub(super) kind: Kind,
    /// Each one behind the step that it repeats.
    pub(super) steps: Vec<Step>,
}

/// Lays out a burst that begins after `clock` and is over by `end`; `None` if there is no room for it.
pub(super) fn plan(dice: &mut Dice, clock: EventTime, end: EventTime) -> Option<Burst> {
    let kind = *dice.pick(&KINDS);
    let across = if kind == Kind::BurstAcrossMinutes { across_minutes(dice, clock, end) } else { None };
    if across.is_some() {
        return across;
    }
    let (kind, count) = match kind {
        Kind::BurstOfTen => (kind, 10),
        Kind::BurstOfTwelve => (kind, 12),
        Kind::BurstWithRepeats => (kind, 10),
        _ => (Kind::BurstOfEleven, 11),
    };
    let (first, last) = room_within_minute(dice, clock, end)?;
    let mut steps = spread(dice, first, last, count);
    if kind == Kind::BurstWithRepeats {
        for _ in 0..2 + dice.below(3) {
            let original = dice.below(10) as usize;
            let due = EventTime(dice.between(steps[original].due.0, last.0));
            steps.push(Step { due, repeats: Some(original) });
        }
    }
    Some(Burst { kind, steps })
}

/// Bounds, both inside one minute, between `clock` and `end`.
fn room_within_minute(dice: &mut Dice, clock: EventTime, end: EventTime) -> Option<(EventTime, EventTime)> {
    let span = dice.between(SPAN_MS_MIN, SPAN_MS_MAX).min((end.0 - clock.0) / 2);
    if span < SPAN_MS_MIN {
        return None;
    }
    let boundary = next_minute(clock);
    let first = if clock.0 + 1 + span < boundary.0 { EventTime(clock.0 + 1) } else { boundary };
    let last = EventTime(first.0 + span);
    (last.0 < end.0).then_some((first, last))
}

fn across_minutes(dice: &mut Dice, clock: EventTime, end: EventTime) -> Option<Burst> {
    let boundary = next_minute(clock);
    let reach = (boundary.0 - clock.0 - 1).min(end.0 - boundary.0 - 1);
    let side = dice.between(SPAN_MS_MIN, SPAN_MS_MAX / 2).min(reach);
    if side < SPAN_MS_MIN {
        return None;
    }
    let mut steps = spread(dice, EventTime(boundary.0 - side), EventTime(boundary.0 - 1), PER_SIDE);
    steps.extend(spread(dice, boundary, EventTime(boundary.0 + side), PER_SIDE));
    Some(Burst { kind: Kind::BurstAcrossMinutes, steps })
}

fn spread(dice: &mut Dice, first: EventTime, last: EventTime, count: usize) -> Vec<Step> {
    let mut times: Vec<i64> = (0..count).map(|_| dice.between(first.0, last.0)).collect();
    times.sort_unstable();
    times.into_iter().map(|time| Step { due: EventTime(time), repeats: None }).collect()
}

/// The first boundary after this instant.
pub(super) fn next_minute(time: EventTime) -> EventTime {
    EventTime(time.window_start(Millis::MINUTE).end(Millis::MINUTE).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_keeps_to_its_room_and_to_its_side_of_the_minute() {
        let mut dice = Dice::new(3);
        for round in 0..2_000_i64 {
            let clock = EventTime(1_767_225_600_000 + round * 1_733);
            let end = EventTime(clock.0 + 20 + round * 50);
            let Some(burst) = plan(&mut dice, clock, end) else { continue };
            let minutes: Vec<i64> = burst.steps.iter().map(|step| step.due.window_start(Millis::MINUTE).0).collect();
            assert!(burst.steps.iter().all(|step| step.due > clock && step.due < end));
            let in_first = minutes.iter().filter(|minute| **minute == minutes[0]).count();
            match burst.kind {
                Kind::BurstAcrossMinutes => assert_eq!((in_first, minutes.len()), (8, 16)),
                _ => assert_eq!(in_first, minutes.len()),
            }
        }
    }
}
