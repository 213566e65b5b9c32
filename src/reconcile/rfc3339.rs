//! RFC 3339 date-times as the contract reads and writes them.
//!
//! Reading is stricter than ISO 8601 and stricter than most libraries: exactly `YYYY-MM-DDTHH:MM:SS`, at most nine
//! fraction digits, then `Z` or `±HH:MM`; `t` and `z` in either case; no leap second, no hour 24, no blank for the `T`.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};

/// Milliseconds since the epoch, digits below the millisecond cut off; `None` if the text is not such a date-time.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    if !text.is_ascii() || text.len() < "2000-01-01T00:00:00Z".len() {
        return None;
    }
    let (date_time, rest) = text.split_at("2000-01-01T00:00:00".len());
    let seconds = local_seconds(date_time)?;
    let (milliseconds, offset) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(after_point) => {
            let digits = after_point.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            let (fraction, offset) = after_point.split_at(digits);
            (number(&format!("{fraction:0<3}")[..3])?, offset)
        }
    };
    Some((seconds - offset_seconds(offset)?) * 1_000 + milliseconds)
}

/// `YYYY-MM-DDTHH:MM:SS` as if it were UTC.
fn local_seconds(text: &str) -> Option<i64> {
    let separators = [(4, "-"), (7, "-"), (13, ":"), (16, ":")];
    let t = &text[10..11];
    if separators.iter().any(|&(at, wanted)| &text[at..=at] != wanted) || !t.eq_ignore_ascii_case("t") {
        return None;
    }
    let part = |from: usize, to: usize| number(&text[from..to]).and_then(|value| u32::try_from(value).ok());
    // A second of 60 and an hour of 24 are refused by `and_hms_opt`, days that the month does not have by `from_ymd_opt`.
    let date = NaiveDate::from_ymd_opt(i32::try_from(part(0, 4)?).ok()?, part(5, 7)?, part(8, 10)?)?;
    let date_time = date.and_hms_opt(part(11, 13)?, part(14, 16)?, part(17, 19)?)?;
    Some(date_time.and_utc().timestamp())
}

/// `Z`, `z` or `±HH:MM`, in seconds east of UTC.
fn offset_seconds(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    if text.len() != "+00:00".len() || &text[3..4] != ":" {
        return None;
    }
    let (hours, minutes) = (number(&text[1..3])?, number(&text[4..6])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = (hours * 60 + minutes) * 60;
    match &text[..1] {
        "+" => Some(seconds),
        "-" => Some(-seconds),
        _ => None,
    }
}

/// Digits only: no sign, no blank.
fn number(digits: &str) -> Option<i64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// RFC 3339 UTC with exactly three fraction digits.
#[must_use]
pub fn with_milliseconds(epoch_ms: i64) -> String {
    utc(epoch_ms).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// RFC 3339 UTC without fraction: the form of window bounds, which are whole seconds.
#[must_use]
pub fn whole_seconds(epoch_ms: i64) -> String {
    utc(epoch_ms).to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn utc(epoch_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(epoch_ms).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_do_not_depend_on_how_they_are_written() {
        for text in [
            "2026-11-20T10:00:31.500Z",
            "2026-11-20t10:00:31.5z",
            "2026-11-20T10:00:31.500999999+00:00",
            "2026-11-20T10:00:31.500-00:00",
            "2026-11-21T09:59:31.500+23:59",
            "2026-11-19T10:01:31.500-23:59",
        ] {
            assert_eq!(parse(text), Some(1_795_168_831_500), "{text}");
        }
        assert_eq!(parse("1969-12-31T23:59:59.9999Z"), Some(-1));
    }

    #[test]
    fn whatever_is_not_exactly_rfc_3339_is_refused() {
        for text in [
            "",
            "2026-11-20",
            "2026-11-20T10:00Z",
            "2026-11-20T10:00:31",
            "2026-11-20 10:00:31Z",
            "2026-11-20T10:00:31.Z",
            "2026-11-20T10:00:31,5Z",
            "2026-11-20T10:00:31.1234567890Z",
            "2026-11-20T10:00:60Z",
            "2016-12-31T23:59:60Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T10:60:00Z",
            "2026-02-29T10:00:00Z",
            "2100-02-29T10:00:00Z",
            "2026-13-01T10:00:00Z",
            "2026-00-01T10:00:00Z",
            "2026-01-00T10:00:00Z",
            "2026-11-20T10:00:31+0100",
            "2026-11-20T10:00:31+01",
            "2026-11-20T10:00:31+24:00",
            "2026-11-20T10:00:31+01:60",
            "2026-11-20T10:00:31\u{2212}01:00",
            "2026-11-20T10:00:31 Z",
            "2026-11-20T10:00:31ZZ",
            "2026-11-20T10:00:31Z ",
            " 2026-11-20T10:00:31Z",
            "+2026-11-20T10:00:31Z",
            "2026-11-20T10:00:+1Z",
            "2026-1-20T10:00:31ZZ",
            "20261120T100031Z0000",
            "2026-11-20T10:00:31+01:00Z",
            "2026-11-20T10:00:31.5+1:000",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn leap_days_exist_where_the_calendar_has_them() {
        assert_eq!(parse("2000-02-29T00:00:00Z"), Some(951_782_400_000));
        assert_eq!(parse("2024-02-29T00:00:00Z"), Some(1_709_164_800_000));
        assert_eq!(parse("1900-02-29T00:00:00Z"), None);
    }

    #[test]
    fn outputs_are_written_in_utc() {
        assert_eq!(with_milliseconds(1_795_168_831_500), "2026-11-20T10:00:31.500Z");
        assert_eq!(with_milliseconds(1_795_168_831_000), "2026-11-20T10:00:31.000Z");
        assert_eq!(whole_seconds(1_795_168_800_000), "2026-11-20T10:00:00Z");
    }
}
