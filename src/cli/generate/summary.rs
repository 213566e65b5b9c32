//! What a run has done, as text.

use std::fmt;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};

use crate::domain::time::EventTime;
use crate::generate::Counts;

pub(super) struct Summary {
    pub(super) counts: Counts,
    /// Records that are written, or acknowledged by the broker.
    pub(super) written: u64,
    /// Records that the output has no way to express.
    pub(super) left_out: u64,
    /// Keys and values.
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    /// The virtual clock at the first record and behind the last.
    pub(super) event_times: (EventTime, EventTime),
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.event_times;
        writeln!(
            f,
            "{} records generated, {} written, in {:.1?}: {} records/s, {}",
            HumanCount(self.counts.total()),
            HumanCount(self.written),
            self.elapsed,
            HumanCount(per_second(self.written, self.elapsed)),
            HumanBytes(self.bytes),
        )?;
        writeln!(f, "event time {first} to {last}")?;
        if self.left_out > 0 {
            let count = HumanCount(self.left_out);
            writeln!(f, "{count} left out: their value is not one line of text (null, empty, not UTF-8, line breaks)")?;
        }
        for (kind, count) in self.counts.present() {
            writeln!(f, "{:>14}  {}", HumanCount(count).to_string(), kind.as_str())?;
        }
        Ok(())
    }
}

pub(super) fn per_second(count: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Kind;

    #[test]
    fn the_summary_names_every_kind_that_occurred_and_no_other() {
        let mut counts = Counts::default();
        (0..1_500).for_each(|_| counts.add(Kind::Ordinary));
        counts.add(Kind::NullValue);
        let summary = Summary {
            counts,
            written: 1_500,
            left_out: 1,
            bytes: 300_000,
            elapsed: Duration::from_millis(500),
            event_times: (EventTime(1_767_225_600_000), EventTime(1_767_225_601_501)),
        };
        let text = summary.to_string();
        assert!(text.starts_with("1,501 records generated, 1,500 written, in 500.0ms: 3,000 records/s, "), "{text}");
        assert!(text.contains("event time 2026-01-01T00:00:00.000Z to 2026-01-01T00:00:01.501Z\n1 left out"), "{text}");
        assert!(text.contains("1,500  ordinary\n") && text.contains("1  malformed: null_value\n"), "{text}");
        assert!(!text.contains("late"), "{text}");
    }
}
