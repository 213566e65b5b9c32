//! How far a file has been taken in: a bar on a terminal, else a line in the log every few seconds.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::monotonic_now;

const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    bar: ProgressBar,
    name: String,
    last_line: Instant,
}

impl Progress {
    /// `bytes`: the size of the file as it lies on the disk, when it is known.
    pub fn new(path: &Path, bytes: Option<u64>) -> Self {
        let (bar, template) = match bytes {
            Some(bytes) => {
                (ProgressBar::new(bytes), "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
            }
            None => (ProgressBar::new_spinner(), "{msg} {spinner} {bytes}, {bytes_per_sec}, {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let name = path.display().to_string();
        bar.set_message(name.clone());
        Self { bar, name, last_line: monotonic_now() }
    }

    pub fn at(&mut self, bytes: u64, records: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_position(bytes);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            tracing::info!(bytes, records, "taking in {}", self.name);
            self.last_line = monotonic_now();
        }
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
