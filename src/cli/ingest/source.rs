//! Lines out of a file, whatever its form: NDJSON or CSV, plain, gzip or zstd.
//!
//! A thread of its own reads ahead by a few chunks, so that a slow pipe holds up neither what it has brought already nor a
//! signal. Memory does not grow with the file, nor with a line that never ends.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, bail};
use clap::ValueEnum;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::lines::JsonLines;
use super::table::{self, Rows};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BUFFER: usize = 256 << 10;
/// Longer than any header.
const BEGINNING: usize = 64 << 10;
/// A longer line is not taken in: together with a batch before it, it must fit into one request.
pub const LINE_MAX: usize = 8 << 20;
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_LINES: usize = 1_000;
const CHUNKS_AHEAD: usize = 4;
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Auto,
    Ndjson,
    Csv,
}

/// What comes next in a file; lines have the number under which an editor shows them.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Line(u64),
    /// Longer than [`LINE_MAX`].
    TooLong(u64),
    End,
}

/// Consecutive lines.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Each is ended by a line feed.
    pub text: Vec<u8>,
    /// Of each line in `text`.
    pub numbers: Vec<u64>,
    /// Numbers of lines that are too long to be in `text`.
    pub too_long: Vec<u64>,
}

/// What the reading thread hands over.
#[derive(Debug)]
pub enum Piece {
    Chunk(Chunk),
    /// Everything was read; or why not, and behind which line.
    End(Result<(), (u64, anyhow::Error)>),
}

/// A file that is being read.
pub struct Source {
    pub pieces: Receiver<Piece>,
    /// Bytes of the file as it lies on the disk, when that is known.
    pub size: Option<u64>,
    /// How many of them were read.
    pub read: Arc<AtomicU64>,
}

/// What is read and not handed over.
struct Pending {
    chunk: Chunk,
    to: Sender<Piece>,
}

impl Pending {
    /// Waits while enough lies ready. Nobody to take it: the command has ended.
    fn hand_over(&mut self) {
        if !self.chunk.numbers.is_empty() || !self.chunk.too_long.is_empty() {
            let _ = self.to.send(Piece::Chunk(std::mem::take(&mut self.chunk)));
        }
    }
}

/// Counts bytes, and hands over what is complete before it waits for more.
struct Raw {
    inner: Box<dyn Read>,
    read: Arc<AtomicU64>,
    pending: Rc<RefCell<Pending>>,
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pending.borrow_mut().hand_over();
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        Ok(count)
    }
}

impl Source {
    /// Begins to read; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, format: Format) -> anyhow::Result<Self> {
        let file = if path.as_os_str() == "-" {
            None
        } else {
            Some(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
        };
        let size = file.as_ref().and_then(|file| file.metadata().ok()).filter(|found| found.is_file());
        let size = size.map(|found| found.len());
        Self::start(
            move || file.map_or_else(|| Box::new(io::stdin()) as Box<dyn Read>, |file| Box::new(file)),
            format,
            size,
        )
    }

    fn start(
        open: impl FnOnce() -> Box<dyn Read> + Send + 'static,
        format: Format,
        size: Option<u64>,
    ) -> anyhow::Result<Self> {
        let (to, pieces) = bounded(CHUNKS_AHEAD);
        let read = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&read);
        let reading = move || {
            let pending = Rc::new(RefCell::new(Pending { chunk: Chunk::default(), to: to.clone() }));
            let raw = Raw { inner: open(), read: counted, pending: Rc::clone(&pending) };
            let mut last = 0;
            let outcome = read_all(raw, format, &pending, &mut last);
            pending.borrow_mut().hand_over();
            let _ = to.send(Piece::End(outcome.map_err(|error| (last, error))));
        };
        thread::Builder::new().name("ingest".to_owned()).spawn(reading).context("no thread to read the file")?;
        Ok(Self { pieces, size, read })
    }
}

enum Form {
    Ndjson(JsonLines),
    Csv(Box<Rows>),
}

/// `last`: the number of the last line that was read whole.
fn read_all(raw: Raw, format: Format, pending: &RefCell<Pending>, last: &mut u64) -> anyhow::Result<()> {
    let mut form = form(raw, format)?;
    let mut line = Vec::new();
    loop {
        let next = match &mut form {
            Form::Ndjson(lines) => lines.next(&mut line)?,
            Form::Csv(rows) => rows.next(&mut line)?,
        };
        let mut pending = pending.borrow_mut();
        match next {
            Next::End => return Ok(()),
            Next::TooLong(number) => {
                *last = number;
                pending.chunk.too_long.push(number);
            }
            Next::Line(number) => {
                *last = number;
                pending.chunk.text.extend_from_slice(&line);
                pending.chunk.text.push(b'\n');
                pending.chunk.numbers.push(number);
            }
        }
        if pending.chunk.text.len() >= CHUNK_BYTES || pending.chunk.numbers.len() >= CHUNK_LINES {
            pending.hand_over();
        }
    }
}

/// Finds out what the file is, by its first bytes.
fn form(mut raw: Raw, format: Format) -> anyhow::Result<Form> {
    let mut magic = Vec::new();
    raw.by_ref().take(4).read_to_end(&mut magic)?;
    let is = |wanted: &[u8]| magic.starts_with(wanted);
    let (is_gzip, is_zstd) = (is(GZIP), is(ZSTD));
    let raw = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(raw));
    let mut reader: Box<dyn BufRead> = if is_gzip {
        Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw)))
    } else if is_zstd {
        Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(raw)?))
    } else {
        Box::new(raw)
    };
    let start = beginning(&mut reader)?;
    let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&start).to_vec();
    let is_csv = match format {
        Format::Csv => true,
        Format::Ndjson => false,
        Format::Auto => {
            let text = start.trim_ascii();
            if text.starts_with(b"[") {
                bail!("this is a JSON array; one transaction per line is taken (jq -c '.[]' makes lines of it)");
            }
            table::is_header(text)
        }
    };
    let reader = Box::new(Cursor::new(start).chain(reader));
    Ok(if is_csv { Form::Csv(Box::new(Rows::new(reader)?)) } else { Form::Ndjson(JsonLines::new(reader)) })
}

/// Everything up to the end of the first line that is not blank, as far as it tells the form of the file.
fn beginning(reader: &mut dyn BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    while start.len() < BEGINNING && start.trim_ascii().is_empty() {
        let room = u64::try_from(BEGINNING - start.len()).unwrap_or(u64::MAX);
        if (&mut *reader).take(room).read_until(b'\n', &mut start)? == 0 {
            break;
        }
    }
    Ok(start)
}

/// A file by its name, or standard input, for messages.
#[must_use]
pub fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { PathBuf::from(path).display().to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    /// Lines with their numbers, the numbers of those that are too long, and how it ended.
    type Found = (Vec<(u64, String)>, Vec<u64>, Result<(), (u64, String)>);

    fn all(bytes: Vec<u8>, format: Format) -> Found {
        let source = Source::start(move || Box::new(Cursor::new(bytes)), format, None).expect("a thread");
        let (mut lines, mut too_long) = (Vec::new(), Vec::new());
        loop {
            match source.pieces.recv().expect("an end") {
                Piece::Chunk(chunk) => {
                    let text = String::from_utf8_lossy(&chunk.text).into_owned();
                    lines.extend(chunk.numbers.into_iter().zip(text.lines().map(str::to_owned)));
                    too_long.extend(chunk.too_long);
                }
                Piece::End(outcome) => {
                    return (lines, too_long, outcome.map_err(|(line, error)| (line, error.to_string())));
                }
            }
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstandard(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("memory")
    }

    const TEXT: &str = "{\"a\": 1}\r\n\n  \n{\"b\":2}\nnot json\n{\"last\":3}";

    #[test]
    fn lines_keep_their_bytes_and_their_numbers_in_every_wrapping() {
        let expected = [(1, "{\"a\": 1}"), (4, "{\"b\":2}"), (5, "not json"), (6, "{\"last\":3}")];
        let expected: Vec<_> = expected.into_iter().map(|(number, line)| (number, line.to_owned())).collect();
        let (head, rest) = TEXT.as_bytes().split_at(10);
        for bytes in [
            TEXT.as_bytes().to_vec(),
            [BYTE_ORDER_MARK, TEXT.as_bytes()].concat(),
            gzip(TEXT.as_bytes()),
            zstandard(TEXT.as_bytes()),
            // Two parts, one behind the other, as `cat a.gz b.gz` makes them.
            [gzip(head), gzip(rest)].concat(),
            [zstandard(head), zstandard(rest)].concat(),
        ] {
            assert_eq!(all(bytes, Format::Auto), (expected.clone(), Vec::new(), Ok(())));
        }
        for nothing in [Vec::new(), b"\n\n".to_vec(), gzip(b"")] {
            assert_eq!(all(nothing, Format::Auto), (Vec::new(), Vec::new(), Ok(())));
        }
    }

    #[test]
    fn a_first_line_that_is_bad_does_not_make_a_table_of_the_file() {
        let (lines, _, outcome) = all(b"garbage\n{\"a\":1}\n".to_vec(), Format::Auto);
        assert_eq!((lines.len(), outcome), (2, Ok(())));
        let (_, _, outcome) = all(b" [{\"a\":1}]".to_vec(), Format::Auto);
        assert!(outcome.is_err_and(|(_, why)| why.contains("JSON array")));
    }

    #[test]
    fn a_file_that_breaks_off_gives_what_is_whole_and_says_where() {
        let text = "{\"n\":12345}\n".repeat(200_000);
        for whole in [gzip(text.as_bytes()), zstandard(text.as_bytes())] {
            let cut = whole[..whole.len() - whole.len() / 3].to_vec();
            let (lines, _, outcome) = all(cut, Format::Auto);
            let (last, _) = outcome.expect_err("it breaks off");
            assert_eq!(lines.len(), usize::try_from(last).expect("a number"));
            assert!(lines.iter().all(|(_, line)| line == "{\"n\":12345}"), "no half line");
        }
    }

    #[test]
    fn a_line_without_end_is_named_and_not_kept() {
        let text =
            ["{}\n", &"x".repeat(LINE_MAX + 1), "\n{}\n", &"y".repeat(LINE_MAX), "\n", &"z".repeat(LINE_MAX * 2)];
        let (lines, too_long, outcome) = all(text.concat().into_bytes(), Format::Auto);
        let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers, too_long, outcome), (vec![1, 3, 4], vec![2, 5], Ok(())));
    }

    #[test]
    fn what_a_slow_pipe_has_brought_is_handed_over_before_more_is_waited_for() {
        let (reading, mut writing) = io::pipe().expect("a pipe");
        let source = Source::start(move || Box::new(reading), Format::Auto, None).expect("a thread");
        for round in 1..=3_u64 {
            writing.write_all(b"{\"a\":1}\n").expect("a reader");
            let piece = source.pieces.recv_timeout(Duration::from_secs(10)).expect("a line that is complete");
            let Piece::Chunk(chunk) = piece else { panic!("not the end") };
            assert_eq!(chunk.numbers, [round]);
        }
        drop(writing);
        assert!(matches!(source.pieces.recv_timeout(Duration::from_secs(10)), Ok(Piece::End(Ok(())))));
    }
}
