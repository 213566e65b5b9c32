//! What happened lately: the rate of records and the latency of alerts, for a person who looks at the page.
//!
//! Bounded in memory whatever the load, and cheap: one addition per batch, one store per alert. The exact history is in
//! the metrics; this is the moment.

use std::collections::VecDeque;

use crate::observe::report::RecentReport;

/// The rate is that of this many whole seconds before the current one.
const SECONDS: u64 = 10;
/// Alerts whose latency counts.
const ALERTS_MAX: usize = 1_000;
/// An alert counts for this long.
const ALERTS_FOR_MS: u64 = 60_000;

/// See the module head.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Records by second, oldest first.
    seconds: VecDeque<(u64, u64)>,
    /// When each alert was committed, and how long after its source record, both in milliseconds.
    alerts: VecDeque<(u64, u64)>,
}

impl Recent {
    pub fn records(&mut self, count: u64, monotonic_ms: u64) {
        let second = monotonic_ms / 1_000;
        match self.seconds.back_mut() {
            Some((last, sum)) if *last == second => *sum += count,
            _ => self.seconds.push_back((second, count)),
        }
        while self.seconds.front().is_some_and(|(oldest, _)| oldest + SECONDS < second) {
            self.seconds.pop_front();
        }
    }

    pub fn alert(&mut self, latency_ms: u64, monotonic_ms: u64) {
        if self.alerts.len() == ALERTS_MAX {
            self.alerts.pop_front();
        }
        self.alerts.push_back((monotonic_ms, latency_ms));
    }

    pub fn report(&self, monotonic_ms: u64) -> RecentReport {
        let now = monotonic_ms / 1_000;
        let whole = self.seconds.iter().filter(|(second, _)| *second < now && second + SECONDS >= now);
        let records: u64 = whole.map(|(_, count)| count).sum();
        let fresh = self.alerts.iter().filter(|(at, _)| at + ALERTS_FOR_MS >= monotonic_ms);
        let mut latencies: Vec<u64> = fresh.map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        RecentReport {
            records_per_second: records / SECONDS,
            alerts: u64::try_from(latencies.len()).unwrap_or(u64::MAX),
            alert_latency_p50_ms: quantile(&latencies, 50),
            alert_latency_p99_ms: quantile(&latencies, 99),
        }
    }
}

/// The smallest value that so many per cent of them do not exceed.
fn quantile(sorted: &[u64], per_cent: usize) -> Option<u64> {
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_whole_seconds_and_falls_to_nothing_when_nothing_comes() {
        let mut recent = Recent::default();
        for second in 100..120 {
            recent.records(300, second * 1_000 + 100);
            recent.records(200, second * 1_000 + 900);
        }
        assert_eq!(recent.report(120_000).records_per_second, 500);
        assert_eq!(recent.report(125_000).records_per_second, 250);
        assert_eq!(recent.report(140_000).records_per_second, 0);
        assert!(recent.seconds.len() <= 11, "bounded");
    }

    #[test]
    fn latencies_are_those_of_the_last_minute_and_of_a_thousand_alerts_at_most() {
        let mut recent = Recent::default();
        assert_eq!(recent.report(0), RecentReport::default());
        for latency in 1..=100 {
            recent.alert(latency, 1_000);
        }
        let report = recent.report(2_000);
        assert_eq!(
            (report.alerts, report.alert_latency_p50_ms, report.alert_latency_p99_ms),
            (100, Some(50), Some(99))
        );
        recent.alert(7, 100_000);
        assert_eq!(recent.report(100_000).alert_latency_p99_ms, Some(7));
        for _ in 0..5_000 {
            recent.alert(1, 100_000);
        }
        assert_eq!(recent.report(100_000).alerts, 1_000);
    }
}
