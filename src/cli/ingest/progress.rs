//! How far a file has been taken in: a bar on a terminal, else a line in the log every few seconds.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::clock::monotonic_now;

const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    /// Hidden unless standard error is a terminal.
    bar: ProgressBar,
    name: String,
    size: Option<u64>,
    began: Instant,
    last_line: Instant,
}

impl Progress {
    /// `size`: bytes of the file as it lies on the disk, when that is known.
    pub fn new(name: &str, size: Option<u64>) -> Self {
        let (bar, template) = match size {
            Some(size) => {
                (ProgressBar::new(size), "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
            }
            None => (ProgressBar::new_spinner(), "{msg} {spinner} {bytes}, {bytes_per_sec}, {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        let now = monotonic_now();
        Self { bar, name: name.to_owned(), size, began: now, last_line: now }
    }

    /// `bytes` of the file were read, and `lines` of it are in the log.
    pub fn at(&mut self, bytes: u64, lines: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_position(bytes);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            let seconds = self.began.elapsed().as_secs().max(1);
            let size = self.size.map_or_else(String::new, |size| format!(" of {}", HumanBytes(size)));
            let left = self.size.filter(|_| bytes > 0).map_or_else(String::new, |size| {
                format!(", about {} s left", size.saturating_sub(bytes).saturating_mul(seconds) / bytes.max(1))
            });
            tracing::info!(
                "{}: {lines} lines in the log, {}{size} read, {} lines/s{left}",
                self.name,
                HumanBytes(bytes),
                lines / seconds
            );
            self.last_line = monotonic_now();
        }
    }

    /// Logs something without tearing the bar.
    pub fn interrupt(&self, log: impl FnOnce()) {
        self.bar.suspend(log);
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
