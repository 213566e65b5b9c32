//! Lines out of a file, whatever its form: NDJSON or CSV, plain, gzip or zstd. Memory does not grow with the file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use clap::ValueEnum;
use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BUFFER: usize = 256 << 10;
/// A longer line is cut, and so no valid transaction.
const LINE_MAX: u64 = 8 << 20;
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
const REQUIRED: [&str; 7] =
    ["transaction_id", "order_id", "user_id", "merchant_id", "amount_minor", "currency", "event_time"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Auto,
    Ndjson,
    Csv,
}

/// See the module head.
pub struct Lines {
    form: Form,
    size: Option<u64>,
    read: Arc<AtomicU64>,
}

enum Form {
    Ndjson { reader: Box<dyn BufRead>, number: u64 },
    Csv { reader: Box<csv::Reader<Box<dyn BufRead>>>, columns: Vec<String>, record: ByteRecord },
}

/// Counts what is read of the file as it lies on the disk.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        Ok(count)
    }
}

impl Lines {
    /// # Errors
    /// The file cannot be read; a CSV file whose header lacks a required field.
    pub fn open(path: &Path, format: Format) -> anyhow::Result<Self> {
        let (raw, size): (Box<dyn Read>, _) = if path.as_os_str() == "-" {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
            (Box::new(file), size)
        };
        let mut lines = Self::read(raw, format).with_context(|| path.display().to_string())?;
        lines.size = size;
        Ok(lines)
    }

    fn read(raw: Box<dyn Read>, format: Format) -> anyhow::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let mut raw = BufReader::with_capacity(BUFFER, Counted { inner: raw, read: Arc::clone(&read) });
        let start = raw.fill_buf()?;
        let mut reader: Box<dyn BufRead> = if start.starts_with(GZIP) {
            Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw)))
        } else if start.starts_with(ZSTD) {
            Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(raw)?))
        } else {
            Box::new(raw)
        };
        if reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        let is_csv = match format {
            Format::Csv => true,
            Format::Ndjson => false,
            Format::Auto => {
                let first = reader.fill_buf()?.iter().find(|byte| !byte.is_ascii_whitespace());
                first.is_some_and(|first| *first != b'{')
            }
        };
        let form = if is_csv { csv_form(reader)? } else { Form::Ndjson { reader, number: 0 } };
        Ok(Self { form, size: None, read })
    }

    /// Bytes of the file, as it lies on the disk.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Appends the next transaction as one line of JSON to `line`, and gives its number in the file; `None` at the end.
    /// Blank lines are passed over.
    ///
    /// # Errors
    /// The file cannot be read on.
    pub fn next(&mut self, line: &mut Vec<u8>) -> anyhow::Result<Option<u64>> {
        match &mut self.form {
            Form::Ndjson { reader, number } => loop {
                if reader.by_ref().take(LINE_MAX).read_until(b'\n', line)? == 0 {
                    return Ok(None);
                }
                *number += 1;
                while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                    line.pop();
                }
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(*number));
                }
                line.clear();
            },
            Form::Csv { reader, columns, record } => {
                if !reader.read_byte_record(record)? {
                    return Ok(None);
                }
                let number = record.position().map_or(0, csv::Position::line);
                write_row(columns, record, line);
                Ok(Some(number))
            }
        }
    }
}

fn csv_form(reader: Box<dyn BufRead>) -> anyhow::Result<Form> {
    let mut reader = ReaderBuilder::new().flexible(true).trim(csv::Trim::Headers).from_reader(reader);
    let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let missing: Vec<_> = REQUIRED.into_iter().filter(|field| !columns.iter().any(|column| column == field)).collect();
    if !missing.is_empty() {
        bail!("neither NDJSON nor CSV of transactions: the header has no column {}", missing.join(", "));
    }
    Ok(Form::Csv { reader: Box::new(reader), columns, record: ByteRecord::new() })
}

/// A row as an object. Integers of `amount_minor` and `event_time` become numbers, everything else stays text; the
/// service judges the result. A row that is no row of this table goes as it is, which is no JSON.
fn write_row(columns: &[String], record: &ByteRecord, line: &mut Vec<u8>) {
    let cells: Option<Vec<&str>> = record.iter().map(|cell| std::str::from_utf8(cell).ok()).collect();
    let Some(cells) = cells.filter(|cells| cells.len() == columns.len()) else {
        let raw = record.iter().collect::<Vec<_>>().join(&b',');
        line.extend(raw.into_iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        return;
    };
    let mut object = Map::new();
    for (column, cell) in columns.iter().zip(cells) {
        let is_number = matches!(column.as_str(), "amount_minor" | "event_time");
        let is_required = REQUIRED.contains(&column.as_str());
        if cell.is_empty() && !is_required {
            continue;
        }
        let value = match cell.parse::<u64>() {
            Ok(number) if is_number && cell.bytes().all(|byte| byte.is_ascii_digit()) => Value::from(number),
            _ => Value::from(cell),
        };
        object.insert(column.clone(), value);
    }
    // Plain data, written to memory: this does not fail.
    let _ = serde_json::to_writer(line, &Value::Object(object));
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    const CSV: &str = "transaction_id,order_id,user_id,merchant_id,amount_minor,currency,event_time,status,note\n\
                       t-1,o-1,u-1,\"m, 1\",1299,EUR,2026-11-20T10:00:31.500Z,,\"a \"\"quote\"\"\"\n\
                       t-2,o-2,u-1,m-2,12.5,EUR,1795168831500,paid,x\n\
                       t-3,o-3\n";

    fn all(bytes: Vec<u8>, format: Format) -> anyhow::Result<Vec<(u64, String)>> {
        let mut lines = Lines::read(Box::new(Cursor::new(bytes)), format)?;
        let mut found = Vec::new();
        let mut line = Vec::new();
        while let Some(number) = lines.next(&mut line)? {
            found.push((number, String::from_utf8(std::mem::take(&mut line)).unwrap()));
        }
        Ok(found)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_of_json_keep_their_bytes_and_their_numbers() {
        let text = "{\"a\": 1}\r\n\n  \n{\"b\":2}\nnot json\n{\"last\":3}";
        let expected = [(1, "{\"a\": 1}"), (4, "{\"b\":2}"), (5, "not json"), (6, "{\"last\":3}")];
        let expected: Vec<_> = expected.into_iter().map(|(number, line)| (number, line.to_owned())).collect();
        for bytes in [
            text.as_bytes().to_vec(),
            [BYTE_ORDER_MARK, text.as_bytes()].concat(),
            gzip(text.as_bytes()),
            // Two members, one behind the other, as `cat a.gz b.gz` makes them.
            [gzip(&text.as_bytes()[..10]), gzip(&text.as_bytes()[10..])].concat(),
            zstd::encode_all(text.as_bytes(), 1).unwrap(),
        ] {
            assert_eq!(all(bytes, Format::Auto).unwrap(), expected);
        }
        assert_eq!(all(Vec::new(), Format::Auto).unwrap(), []);
    }

    #[test]
    fn rows_become_objects_whose_numbers_are_numbers_and_whose_empty_cells_are_absent() {
        let rows = all(gzip(CSV.as_bytes()), Format::Auto).unwrap();
        assert_eq!(
            rows[0],
            (
                2,
                r#"{"transaction_id":"t-1","order_id":"o-1","user_id":"u-1","merchant_id":"m, 1","amount_minor":1299,"currency":"EUR","event_time":"2026-11-20T10:00:31.500Z","note":"a \"quote\""}"#
                    .to_owned()
            )
        );
        // What is no integer stays text, and is judged as such; a row that is too short is no JSON.
        assert!(rows[1].1.contains(r#""amount_minor":"12.5""#) && rows[1].1.contains(r#""event_time":1795168831500"#));
        assert_eq!(rows[2], (4, "t-3,o-3".to_owned()));
    }

    #[test]
    fn a_header_that_lacks_a_field_is_named() {
        let error = all(b"transaction_id,user_id\nt,u\n".to_vec(), Format::Auto).unwrap_err();
        assert!(error.to_string().contains("order_id, merchant_id, amount_minor"), "{error}");
    }
}
