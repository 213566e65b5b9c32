//! Reads an RFC 3339 date-time into epoch milliseconds, exactly as the contract narrows it.

use crate::domain::time::EventTime;

/// Parses `YYYY-MM-DDTHH:MM:SS[.f{1,9}](Z|±HH:MM)`; `t` and `z` in either case, no leap second, no hour 24, real
/// calendar dates only. The fraction is truncated to milliseconds. `None` when the text is anything else; the range
/// that the contract allows is checked by the caller.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<EventTime> {
    let bytes = text.as_bytes();
    let (date_time, rest) = bytes.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| date_time[at] != byte) || !matches!(date_time[10], b'T' | b't') {
        return None;
    }
    let year = number(&date_time[..4])?;
    let month = number(&date_time[5..7])?;
    let day = number(&date_time[8..10])?;
    let hour = number(&date_time[11..13])?;
    let minute = number(&date_time[14..16])?;
    let second = number(&date_time[17..19])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_ms, zone) = fraction(rest)?;
    let offset_minutes = zone_offset(zone)?;
    let minutes = (days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Some(EventTime((minutes * 60 + second) * 1_000 + fraction_ms))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))
}

/// Milliseconds of the optional fraction, and what follows it.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = rest.split_first() else { return Some((0, rest)) };
    let count = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let milliseconds = (0..3).fold(0, |value, at| {
        let digit = if at < count { digits[at] - b'0' } else { 0 };
        value * 10 + i64::from(digit)
    });
    Some((milliseconds, &digits[count..]))
}

/// Offset from UTC in minutes.
fn zone_offset(zone: &[u8]) -> Option<i64> {
    match zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), hour @ .., _, _, _] if zone.len() == 6 && zone[3] == b':' => {
            let (hour, minute) = (number(hour)?, number(&zone[4..6])?);
            if hour > 23 || minute > 59 {
                return None;
            }
            let offset = hour * 60 + minute;
            Some(if *sign == b'+' { offset } else { -offset })
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (Howard Hinnant, `days_from_civil`).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_chrono_on_every_day_that_is_accepted() {
        let mut at = EventTime::MIN.0;
        while at < EventTime::END.0 {
            let text = EventTime(at).to_string();
            assert_eq!(parse_rfc3339(&text), Some(EventTime(at)), "{text}");
            at += 86_400_000 + 7_919_001;
        }
    }

    #[test]
    fn refuses_what_the_contract_refuses() {
        for text in [
            "2026-02-30T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00Z",
            "2026-1-01T00:00:00Z",
            "2026-01-01T00:00:00Zx",
            "",
            "2026-13-01T00:00:00Z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00+1:000",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
        assert_eq!(parse_rfc3339("2024-02-29t23:59:59.9999z"), Some(EventTime(1_709_251_199_999)));
        assert_eq!(parse_rfc3339("2026-01-01T00:30:00+00:30"), parse_rfc3339("2026-01-01T00:00:00-00:00"));
    }
}
