//! Consecutive records as one value: written once, read without copying.
//!
//! Format 1, all integers little-endian: version(1) · count(4) · then of each record: timestamp(8) · key length(4) ·
//! value length(4) · headers length(4) · key · value · headers. A length of `ffffffff` is an absent key or value; headers
//! are: name length(4) · value length(4) · name · value, one after the other. RocksDB keeps a checksum of every value.

use std::ops::Range;

/// Parts of a record that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(Vec<u8>, Option<Vec<u8>>)],
}

/// A record of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedRecord {
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}

const VERSION: u8 = 1;
const ABSENT: u32 = u32::MAX;
const HEAD: usize = 5;
/// Timestamp and three lengths.
const RECORD_MIN: usize = 20;

/// A batch in the making.
#[derive(Debug, Default)]
pub struct BatchWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl BatchWriter {
    pub fn push(&mut self, record: &Parts<'_>) {
        if self.bytes.is_empty() {
            self.bytes.push(VERSION);
            self.bytes.extend_from_slice(&[0; 4]);
        }
        self.bytes.extend_from_slice(&record.timestamp_ms.to_le_bytes());
        self.length(record.key);
        self.length(record.value);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        let before = self.bytes.len();
        for (name, value) in record.headers {
            self.length(Some(name));
            self.length(value.as_deref());
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        let length = length_of(self.bytes.len() - before);
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }

    fn length(&mut self, part: Option<&[u8]>) {
        let length = part.map_or(ABSENT, |part| length_of(part.len()));
        self.bytes.extend_from_slice(&length.to_le_bytes());
    }

    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The value to be stored. Empty when nothing was pushed.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(head) = self.bytes.get_mut(1..HEAD) {
            head.copy_from_slice(&self.count.to_le_bytes());
        }
        self.bytes
    }
}

/// Records above this size are refused long before.
fn length_of(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(ABSENT - 1)
}

/// Where a record stands within its batch.
#[derive(Debug, Clone)]
pub struct Span {
    pub timestamp_ms: i64,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    pub headers: Range<usize>,
}

/// How many records a stored batch holds; `None` when it is no batch of this version.
#[must_use]
pub fn count(bytes: &[u8]) -> Option<i64> {
    let (head, _) = bytes.split_first_chunk::<HEAD>()?;
    let [VERSION, rest @ ..] = *head else { return None };
    Some(i64::from(u32::from_le_bytes(rest)))
}

/// The places of all records of a stored batch; `None` when it is no batch of this version.
#[must_use]
pub fn spans(bytes: &[u8]) -> Option<Vec<Span>> {
    let mut at = HEAD;
    let count = usize::try_from(count(bytes)?).ok()?;
    if count > bytes.len() / RECORD_MIN {
        return None;
    }
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let timestamp_ms = i64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        at += 8;
        let key = length(bytes, &mut at)?;
        let value = length(bytes, &mut at)?;
        let headers = length(bytes, &mut at)?.unwrap_or(0);
        let mut part = |length: Option<usize>| {
            length.map(|length| {
                let from = at;
                at += length;
                from..at
            })
        };
        let (key, value) = (part(key), part(value));
        let headers = at..at + headers;
        at = headers.end;
        spans.push(Span { timestamp_ms, key, value, headers });
    }
    (at == bytes.len()).then_some(spans)
}

fn length(bytes: &[u8], at: &mut usize) -> Option<Option<usize>> {
    let length = u32::from_le_bytes(*bytes.get(*at..)?.first_chunk()?);
    *at += 4;
    if length == ABSENT { Some(None) } else { usize::try_from(length).ok().map(Some) }
}

/// The headers that a span names.
#[must_use]
pub fn headers(mut bytes: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut headers = Vec::new();
    while !bytes.is_empty() {
        let mut at = 0;
        let (Some(Some(name)), Some(value)) = (length(bytes, &mut at), length(bytes, &mut at)) else { break };
        let (Some(name), Some(text)) = (bytes.get(at..at + name), bytes.get(at + name..at + name + value.unwrap_or(0)))
        else {
            break;
        };
        headers.push((name.to_vec(), value.map(|_| text.to_vec())));
        bytes = &bytes[at + name.len() + text.len()..];
    }
    headers
}

/// All records of a stored batch; `None` when it is no batch of this version.
#[must_use]
pub fn owned(bytes: &[u8]) -> Option<Vec<OwnedRecord>> {
    let part = |range: Option<Range<usize>>| range.map(|range| bytes[range].to_vec());
    let records = spans(bytes)?.into_iter().map(|span| OwnedRecord {
        timestamp_ms: span.timestamp_ms,
        key: part(span.key),
        value: part(span.value),
        headers: headers(&bytes[span.headers]),
    });
    Some(records.collect())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..40)
    }

    fn records() -> impl Strategy<Value = Vec<OwnedRecord>> {
        let header = (bytes(), option::of(bytes()));
        let record = (any::<i64>(), option::of(bytes()), option::of(bytes()), vec(header, 0..4));
        vec(record, 1..20).prop_map(|records| {
            let of = |(timestamp_ms, key, value, headers)| OwnedRecord { timestamp_ms, key, value, headers };
            records.into_iter().map(of).collect()
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in records()) {
            let mut writer = BatchWriter::default();
            for record in &records {
                writer.push(&record.parts());
            }
            let bytes = writer.finish();
            prop_assert_eq!(count(&bytes), Some(i64::try_from(records.len()).unwrap()));
            prop_assert_eq!(owned(&bytes), Some(records));
            prop_assert_eq!(spans(&bytes[..bytes.len() - 1]).is_none(), true, "cut short");
        }

        #[test]
        fn foreign_bytes_are_no_batch_and_no_panic(bytes in vec(any::<u8>(), 0..64)) {
            let _ = owned(&bytes);
        }
    }
}
