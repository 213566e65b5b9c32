//! Values as lines of text.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Context;

use super::{Sent, Sink};
use crate::generate::GeneratedRecord;

const BUFFER_BYTES: usize = 256 * 1024;

pub(super) struct NdjsonSink {
    out: BufWriter<Box<dyn Write>>,
    written: u64,
}

impl NdjsonSink {
    /// Writes to standard output for `-`, else to a new file; what was in it is gone.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let out: Box<dyn Write> = if path.as_os_str() == "-" {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).with_context(|| format!("cannot create {}", path.display()))?)
        };
        Ok(Self::new(out))
    }

    fn new(out: Box<dyn Write>) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER_BYTES, out), written: 0 }
    }
}

impl Sink for NdjsonSink {
    fn send(&mut self, record: &GeneratedRecord, _stop: &AtomicBool) -> anyhow::Result<Sent> {
        let Some(line) = record.value.as_deref().filter(|value| is_a_line(value)) else { return Ok(Sent::LeftOut) };
        match self.out.write_all(line).and_then(|()| self.out.write_all(b"\n")) {
            Ok(()) => {
                self.written += 1;
                Ok(Sent::Taken(line.len() + 1))
            }
            // `| head` has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Sent::Closed),
            Err(error) => Err(error).context("cannot write the records"),
        }
    }

    fn idle(&mut self) -> anyhow::Result<()> {
        match self.out.flush() {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the records"),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, _stop: &AtomicBool) -> anyhow::Result<u64> {
        self.idle()?;
        Ok(self.written)
    }
}

/// Whether a reader of lines gets exactly this value back.
pub(in crate::cli) fn is_a_line(value: &[u8]) -> bool {
    !value.is_empty() && memchr::memchr2(b'\n', b'\r', value).is_none() && simdutf8::basic::from_utf8(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_back_as_it_was_is_a_line() {
        assert!(is_a_line("{\"x\":\"é\"}".as_bytes()));
        for value in [b"".as_slice(), b"{\n}", b"{\r}", b"\xff"] {
            assert!(!is_a_line(value), "{value:?}");
        }
    }
}
