//! From the body of a request to records in the log, and from their positions to one result per line.
//!
//! Whether a line is valid is judged by the engine's own reader, with the time of now in place of the record's timestamp,
//! which the log gives a moment later: what is accepted here is not dead-lettered there.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::duration::Millis;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::record::{Rejection, SourceRecord, validate};
use crate::http::problem::Problem;
use crate::log::{Ingest, IngestError, NewRecord, Position};

/// What becomes of a line that is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// It is rejected.
    Valid,
    /// It is appended as it is; the engine makes a dead letter of it.
    Everything,
}

/// The records of a body, each with the number of its line (or of its element), from 1 on.
pub struct Body<'a>(Vec<(u32, &'a [u8])>);

/// What became of one line.
#[derive(Serialize, ToSchema)]
pub struct IngestResult {
    /// From 1 on; in an array, the number of the element.
    line: u32,
    result: IngestOutcome,
    /// Why it is not valid: a reason code of dead letters, or `record_too_large`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// Names the field and never repeats its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Where the record stands; only when it was appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>)]
    partition: Option<PartitionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    offset: Option<Offset>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IngestOutcome {
    Accepted,
    DeadLetter,
    Rejected,
}

impl<'a> Body<'a> {
    /// A body whose first character is `[` is an array, unless it is said to be lines; anything else is one record per line.
    ///
    /// # Errors
    /// An array that is no JSON.
    pub fn read(body: &'a [u8], is_lines: bool) -> Result<Self, Problem> {
        if !is_lines && body.trim_ascii_start().starts_with(b"[") {
            let elements: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| {
                let message = format!(
                    "the body begins with [ and is no JSON array, line {}, column {}",
                    error.line(),
                    error.column()
                );
                Problem::bad_request("invalid_json", message)
            })?;
            return Ok(Self((1..).zip(elements.into_iter().map(|element| element.get().as_bytes())).collect()));
        }
        let lines = body.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        Ok(Self((1..).zip(lines).filter(|(_, line)| !line.trim_ascii().is_empty()).collect()))
    }
}

/// A line on its way.
struct Line<'a> {
    number: u32,
    value: &'a [u8],
    /// `None`: it has no valid user id, so it has no key.
    key: Option<Box<str>>,
    rejection: Option<Rejection>,
}

impl Line<'_> {
    fn bytes(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, |key| key.len())
    }
}

/// Appends what is to be appended, and writes the results.
///
/// # Errors
/// When the log cannot be written; it is unknown then whether anything was appended.
pub fn append(
    body: &Body<'_>,
    accepts: Accepts,
    max_future_skew: Millis,
    now_ms: i64,
    ingest: &dyn Ingest,
) -> Result<Vec<u8>, Problem> {
    let lines: Vec<_> = body.0.iter().map(|(number, value)| judge(*number, value, max_future_skew, now_ms)).collect();
    let wanted: Vec<&Line<'_>> =
        lines.iter().filter(|line| line.rejection.is_none() || accepts == Accepts::Everything).collect();
    let (positions, bytes_max) = match write(&wanted, ingest) {
        Err(IngestError::TooLarge { max, .. }) => {
            let fitting: Vec<&Line<'_>> = wanted.into_iter().filter(|line| line.bytes() <= max).collect();
            (write(&fitting, ingest), max)
        }
        outcome => (outcome, usize::MAX),
    };
    let positions = positions.map_err(|error| Problem::unavailable("not_written", error.to_string()))?;
    Ok(results(&lines, accepts, bytes_max, positions))
}

fn judge<'a>(number: u32, value: &'a [u8], max_future_skew: Millis, now_ms: i64) -> Line<'a> {
    let record = SourceRecord { offset: Offset(0), timestamp_ms: Some(now_ms), key: None, value: Some(value) };
    match validate(&record, max_future_skew) {
        Ok(transaction) => Line { number, value, key: Some(transaction.user_id.into()), rejection: None },
        Err(rejection) => Line { number, value, key: None, rejection: Some(rejection) },
    }
}

fn write(lines: &[&Line<'_>], ingest: &dyn Ingest) -> Result<Vec<Position>, IngestError> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let record = lines.iter().map(|line| NewRecord {
        key: line.key.as_deref().map(str::as_bytes),
        value: Some(line.value),
        headers: &[],
    });
    let records: Vec<_> = record.collect();
    ingest.append(&records)
}

fn results(lines: &[Line<'_>], accepts: Accepts, bytes_max: usize, positions: Vec<Position>) -> Vec<u8> {
    let mut positions = positions.into_iter();
    let mut out = Vec::with_capacity(lines.len() * 72);
    for line in lines {
        let is_wanted = line.rejection.is_none() || accepts == Accepts::Everything;
        let position = if is_wanted && line.bytes() <= bytes_max { positions.next() } else { None };
        let (result, why) = match (position, line.rejection) {
            (Some(_), None) => (IngestOutcome::Accepted, None),
            (Some(_), Some(rejection)) => (IngestOutcome::DeadLetter, Some((rejection.code(), rejection.to_string()))),
            (None, Some(rejection)) if !is_wanted => {
                (IngestOutcome::Rejected, Some((rejection.code(), rejection.to_string())))
            }
            (None, _) => {
                let message = format!("the log takes records of up to {bytes_max} bytes");
                (IngestOutcome::Rejected, Some(("record_too_large", message)))
            }
        };
        let (code, message) = why.unzip();
        let result = IngestResult {
            line: line.number,
            result,
            code,
            message,
            partition: position.map(|position| position.partition),
            offset: position.map(|position| position.offset),
        };
        // Plain data, written to memory: this does not fail.
        let _ = serde_json::to_writer(&mut out, &result);
        out.push(b'\n');
    }
    out
}
