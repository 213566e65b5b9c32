//! How far the run has come: a bar on a terminal, else a line in the log every few seconds.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::monotonic_now;

const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    /// Hidden unless standard error is a terminal.
    bar: ProgressBar,
    events: u64,
    last_line: Instant,
    records_at_last_line: u64,
}

impl Progress {
    /// `events` = 0: nobody knows how many there will be.
    pub(super) fn new(events: u64) -> Self {
        let (bar, template) = if events > 0 {
            (ProgressBar::new(events), "{wide_bar} {human_pos} of {human_len}, {per_sec}, {eta} left")
        } else {
            (ProgressBar::new_spinner(), "{spinner} {human_pos} records, {per_sec}, {elapsed}")
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, events, last_line: monotonic_now(), records_at_last_line: 0 }
    }

    pub(super) fn at(&mut self, records: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_position(records);
            return;
        }
        let elapsed = self.last_line.elapsed();
        if elapsed >= LINE_EVERY {
            let per_second = super::summary::per_second(records - self.records_at_last_line, elapsed);
            tracing::info!(records, of = self.events, per_second, "generating");
            self.last_line = monotonic_now();
            self.records_at_last_line = records;
        }
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
