//! Lines of NDJSON: each as it is, but for its end.

use std::io::{self, BufRead, Read};

use super::source::{LINE_MAX, Next};

/// See the module head.
pub struct JsonLines {
    reader: Box<dyn BufRead>,
    number: u64,
}

impl JsonLines {
    #[must_use]
    pub fn new(reader: Box<dyn BufRead>) -> Self {
        Self { reader, number: 0 }
    }

    /// Puts the next line that is not blank into `line`. Of one that is too long nothing is kept.
    ///
    /// # Errors
    /// The file cannot be read on; a line that was begun is not given.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Next> {
        loop {
            line.clear();
            let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX).saturating_add(2);
            if self.reader.by_ref().take(limit).read_until(b'\n', line)? == 0 {
                return Ok(Next::End);
            }
            self.number += 1;
            let is_complete = line.last() == Some(&b'\n');
            if is_complete {
                line.pop();
                line.pop_if(|byte| *byte == b'\r');
            }
            if line.len() > LINE_MAX {
                if !is_complete {
                    self.reader.skip_until(b'\n')?;
                }
                line.clear();
                return Ok(Next::TooLong(self.number));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Next::Line(self.number));
            }
        }
    }
}
