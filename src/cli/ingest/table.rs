//! Rows of CSV, each as one line of JSON.
//!
//! Nothing is judged here but the shape of the table: a cell becomes what its column says, and whoever reads the line
//! judges it like any other. A row that does not fit its header becomes an array of its cells, which is no transaction
//! and holds all that was there.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use anyhow::bail;
use csv::{ByteRecord, ReaderBuilder};

use super::source::{LINE_MAX, Next};

const REQUIRED: [&str; 7] =
    ["transaction_id", "order_id", "user_id", "merchant_id", "amount_minor", "currency", "event_time"];
const NUMBERS: [&str; 2] = ["amount_minor", "event_time"];

/// Whether a first line is the header of a table of transactions, perhaps an incomplete one.
#[must_use]
pub fn is_header(first_line: &[u8]) -> bool {
    let mut cells = first_line.split(|byte| matches!(byte, b',' | b';' | b'\t'));
    cells.any(|cell| {
        let cell = cell.trim_ascii();
        let cell = cell.strip_prefix(b"\"").and_then(|cell| cell.strip_suffix(b"\"")).unwrap_or(cell);
        REQUIRED.iter().any(|name| name.as_bytes() == cell)
    })
}

struct Column {
    name: String,
    is_number: bool,
    is_required: bool,
}

/// See the module head.
pub struct Rows {
    reader: csv::Reader<Bounded>,
    columns: Vec<Column>,
    record: ByteRecord,
    since_row: Rc<Cell<usize>>,
}

/// Ends in an error when a row does not end: an open quote would take the rest of the file into memory.
struct Bounded {
    inner: Box<dyn BufRead>,
    since_row: Rc<Cell<usize>>,
    /// What was read so far ends with a line feed. A last line that lacks it gets it, for the numbers of lines.
    is_ended: bool,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_row.get() > LINE_MAX {
            return Err(io::Error::other(format!("a row of more than {LINE_MAX} bytes: is a quote left open?")));
        }
        let count = self.inner.read(buffer)?;
        self.since_row.set(self.since_row.get() + count);
        if let Some(last) = count.checked_sub(1).and_then(|last| buffer.get(last)) {
            self.is_ended = *last == b'\n';
            return Ok(count);
        }
        match buffer.first_mut() {
            Some(first) if !std::mem::replace(&mut self.is_ended, true) => {
                *first = b'\n';
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}

impl Rows {
    /// Reads the header.
    ///
    /// # Errors
    /// The header lacks a required column or names one twice.
    pub fn new(inner: Box<dyn BufRead>) -> anyhow::Result<Self> {
        let since_row = Rc::new(Cell::new(0));
        let bounded = Bounded { inner, since_row: Rc::clone(&since_row), is_ended: true };
        // Ended by line feeds only: with CRLF the reader would be a line behind. What is left of CR is taken off below.
        let mut builder = ReaderBuilder::new();
        builder.flexible(true).trim(csv::Trim::Headers).terminator(csv::Terminator::Any(b'\n'));
        let mut reader = builder.from_reader(bounded);
        let names: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        let missing: Vec<_> = REQUIRED.into_iter().filter(|field| !names.iter().any(|name| name == field)).collect();
        if !missing.is_empty() {
            bail!("the header of the table has no column {} (cells are separated by commas)", missing.join(", "));
        }
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            bail!("the header of the table names the column {:?} twice", twice.1);
        }
        let columns = names.into_iter().map(|name| Column {
            is_number: NUMBERS.contains(&name.as_str()),
            is_required: REQUIRED.contains(&name.as_str()),
            name,
        });
        Ok(Self { columns: columns.collect(), reader, record: ByteRecord::new(), since_row })
    }

    /// Puts the next row into `line`.
    ///
    /// # Errors
    /// The file cannot be read on.
    pub fn next(&mut self, line: &mut Vec<u8>) -> anyhow::Result<Next> {
        loop {
            line.clear();
            self.since_row.set(0);
            if !self.reader.read_byte_record(&mut self.record)? {
                return Ok(Next::End);
            }
            let mut cells: Vec<&[u8]> = self.record.iter().collect();
            if let Some(last) = cells.last_mut() {
                *last = last.strip_suffix(b"\r").unwrap_or(last);
            }
            // An empty line that ends with CRLF.
            if cells == [b""] {
                continue;
            }
            if cells.len() == self.columns.len() {
                write_object(&self.columns, &cells, line);
            } else {
                write_array(&cells, line);
            }
            let number = self.line_of(&cells);
            return Ok(if line.len() > LINE_MAX { Next::TooLong(number) } else { Next::Line(number) });
        }
    }

    /// The line on which the row begins that was just read. The reader knows only where the row before it ended, and
    /// where this one did; what lies between, beside the row's own line feeds, are empty lines.
    fn line_of(&self, cells: &[&[u8]]) -> u64 {
        let within: usize = cells.iter().map(|cell| memchr::memchr_iter(b'\n', cell).count()).sum();
        self.reader.position().line().saturating_sub(1).saturating_sub(u64::try_from(within).unwrap_or(0))
    }
}

fn write_object(columns: &[Column], cells: &[&[u8]], line: &mut Vec<u8>) {
    line.push(b'{');
    for (column, &cell) in columns.iter().zip(cells) {
        if cell.is_empty() && !column.is_required {
            continue;
        }
        if line.len() > 1 {
            line.push(b',');
        }
        write_text(column.name.as_bytes(), line);
        line.push(b':');
        match integer(cell).filter(|_| column.is_number) {
            Some(number) => line.extend_from_slice(number.to_string().as_bytes()),
            None => write_text(cell, line),
        }
    }
    line.push(b'}');
}

fn write_array(cells: &[&[u8]], line: &mut Vec<u8>) {
    line.push(b'[');
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            line.push(b',');
        }
        write_text(cell, line);
    }
    line.push(b']');
}

/// Only digits: a sign, a fraction or an exponent is no integer here.
fn integer(cell: &[u8]) -> Option<u64> {
    if !cell.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(cell).ok()?.parse().ok()
}

/// A JSON string. Bytes that are not UTF-8 stay as they are, so that the line is refused for what it is.
fn write_text(text: &[u8], line: &mut Vec<u8>) {
    line.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => line.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => line.push(byte),
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "transaction_id,order_id,user_id,merchant_id,amount_minor,currency,event_time,status";

    fn rows(text: &[u8]) -> anyhow::Result<Vec<(u64, String)>> {
        let mut rows = Rows::new(Box::new(Cursor::new(text.to_vec())))?;
        let (mut found, mut line) = (Vec::new(), Vec::new());
        while let Next::Line(number) = rows.next(&mut line)? {
            found.push((number, String::from_utf8_lossy(&line).into_owned()));
        }
        Ok(found)
    }

    /// The line that one row of these cells becomes, as JSON.
    fn row(cells: &str) -> serde_json::Value {
        let rows = rows(format!("{HEADER}\n{cells}\n").as_bytes()).expect("a table");
        serde_json::from_str(&rows[0].1).unwrap_or_else(|error| panic!("{error}: {}", rows[0].1))
    }

    #[test]
    fn a_cell_becomes_what_its_column_says() {
        let whole = row(r#"t-1,o-1,"u ""1""","m, 1",1299,EUR,2026-11-20T10:00:31.500Z,paid"#);
        let expected = serde_json::json!({
            "transaction_id": "t-1", "order_id": "o-1", "user_id": "u \"1\"", "merchant_id": "m, 1",
            "amount_minor": 1299, "currency": "EUR", "event_time": "2026-11-20T10:00:31.500Z", "status": "paid"
        });
        assert_eq!(whole, expected);
        for (amount, becomes) in [
            ("0", serde_json::json!(0)),
            ("007", serde_json::json!(7)),
            ("12.5", serde_json::json!("12.5")),
            ("-3", serde_json::json!("-3")),
            ("1e3", serde_json::json!("1e3")),
            (" 5", serde_json::json!(" 5")),
            ("", serde_json::json!("")),
            ("99999999999999999999999", serde_json::json!("99999999999999999999999")),
        ] {
            assert_eq!(row(&format!("t,o,u,m,{amount},EUR,1795168831500,x"))["amount_minor"], becomes, "{amount:?}");
        }
        let optional_is_absent = row("t,o,u,m,1,EUR,1795168831500,");
        assert_eq!(optional_is_absent["event_time"], 1_795_168_831_500_i64);
        assert!(optional_is_absent.get("status").is_none());
        assert_eq!(row("1,2,3,4,5,6,7,8")["user_id"], "3", "an id of digits is a text");
    }

    #[test]
    fn a_row_that_does_not_fit_its_header_keeps_its_cells_and_is_no_object() {
        assert_eq!(row("t,o,\"a\nb\""), serde_json::json!(["t", "o", "a\nb"]));
        assert_eq!(row("1,2,3,4,5,6,7,8,9"), serde_json::json!(["1", "2", "3", "4", "5", "6", "7", "8", "9"]));
    }

    #[test]
    fn rows_have_the_number_of_the_line_on_which_they_begin() {
        for end in ["\n", "\r\n"] {
            let rows_of = |last: &str| {
                let lines = [HEADER, "a,b,c,d,1,EUR,1,\"x", "y\"", "", "t,o,u,m,1,EUR,1,", "", "", last].join(end);
                let found = rows(lines.as_bytes()).expect("a table");
                found.into_iter().map(|(number, line)| (number, line.ends_with("\\u000d\"}"))).collect::<Vec<_>>()
            };
            let expected = [(2, false), (5, false), (8, false)];
            assert_eq!(rows_of("t,o,u,m,1,EUR,1,x"), expected, "{end:?}");
            assert_eq!(rows_of(&format!("t,o,u,m,1,EUR,1,x{end}")), expected, "{end:?}");
            assert_eq!(rows_of("")[..], expected[..2]);
        }
    }

    #[test]
    fn a_header_that_ends_with_crlf_names_its_last_column() {
        let found = rows(format!("{HEADER}\r\nt,o,u,m,1,EUR,1,paid\r\n").as_bytes()).expect("a table");
        assert!(found[0].1.ends_with("\"status\":\"paid\"}"), "{}", found[0].1);
    }

    #[test]
    fn bytes_that_are_not_utf8_stay_in_the_line() {
        let mut rows = Rows::new(Box::new(Cursor::new([HEADER.as_bytes(), b"\nt,o,u,m,1,EUR,1,\xff\n"].concat())))
            .expect("a table");
        let mut line = Vec::new();
        assert!(matches!(rows.next(&mut line), Ok(Next::Line(2))));
        assert!(line.ends_with(b"\"status\":\"\xff\"}"), "{}", line.escape_ascii());
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_take_the_file_into_memory() {
        let text = format!("{HEADER}\nt,\"open,u,m,1,EUR,1,x\n{}", "t,o,u,m,1,EUR,1,x\n".repeat(LINE_MAX / 10));
        let error = rows(text.as_bytes()).expect_err("a row without an end");
        assert!(error.to_string().contains("quote"), "{error}");
    }

    #[test]
    fn a_header_that_is_incomplete_or_ambiguous_is_named() {
        let error = rows(b"transaction_id,user_id\nt,u\n").expect_err("refused").to_string();
        assert!(error.contains("order_id, merchant_id, amount_minor"), "{error}");
        let error = rows(format!("{HEADER},status\n").as_bytes()).expect_err("refused").to_string();
        assert!(error.contains("\"status\" twice"), "{error}");
    }

    #[test]
    fn a_header_is_known_by_a_required_column() {
        for header in [HEADER, "note, \"user_id\"", "transaction_id;order_id", "user_id"] {
            assert!(is_header(header.as_bytes()), "{header}");
        }
        for other in ["", "not json", "{\"user_id\":\"u\"}", "my_user_id,x", "{\"transaction_id\":1,\"user_id\":2}"] {
            assert!(!is_header(other.as_bytes()), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_table_comes_back_as_it_was_written(
            cells in proptest::collection::vec(proptest::collection::vec("\\PC{0,6}|[\"\\\\,;\n\r\t]{0,4}", 8), 1..8),
        ) {
            let mut text = csv::Writer::from_writer(Vec::new());
            text.write_record(HEADER.split(',')).expect("written");
            for row in &cells {
                text.write_record(row).expect("written");
            }
            let found = rows(&text.into_inner().expect("written")).expect("a table");
            prop_assert_eq!(found.len(), cells.len());
            for (row, (_, line)) in cells.iter().zip(&found) {
                prop_assert!(!line.contains('\n'));
                let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
                for (name, cell) in HEADER.split(',').zip(row) {
                    let text = match &object[name] {
                        serde_json::Value::Null => String::new(),
                        serde_json::Value::String(text) => text.clone(),
                        number => number.to_string(),
                    };
                    let is_padded = NUMBERS.contains(&name) && cell.starts_with('0');
                    // One CR before the end of a line belongs to the end.
                    let cell = if name == "status" { cell.strip_suffix('\r').unwrap_or(cell) } else { cell };
                    prop_assert!(is_padded || text == cell, "{}: {:?} is {:?}", name, cell, text);
                }
            }
        }
    }
}
