//! Records as they stand in a topic, and the records that the contract wants in the dead-letter and the late topic.

use super::validate::Rejection;

/// A header; names are kept as text, bytes that are not UTF-8 replaced.
pub type Header = (String, Option<Vec<u8>>);

pub const SOURCE_TOPIC: &str = "tallyguard.source.topic";
pub const SOURCE_PARTITION: &str = "tallyguard.source.partition";
pub const SOURCE_OFFSET: &str = "tallyguard.source.offset";
pub const SOURCE_TIMESTAMP: &str = "tallyguard.source.timestamp";
pub const ERROR_CODE: &str = "tallyguard.error.code";
pub const ERROR_MESSAGE: &str = "tallyguard.error.message";
pub const LATE_WATERMARK: &str = "tallyguard.late.watermark";
pub const TRUNCATED: &str = "tallyguard.truncated";

/// A record of a topic, of the source topic or of one that the service writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceRecord {
    pub partition: i32,
    pub offset: i64,
    /// Epoch milliseconds; `None` if the record carries no timestamp.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

/// A record that the dead-letter or the late topic must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideRecord {
    /// Position of the source record.
    pub partition: i32,
    pub offset: i64,
    /// The reason code of a dead letter; the watermark of a late record, RFC 3339 with milliseconds.
    pub cause: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub original_headers: Vec<Header>,
    /// Ours, in the order in which they follow the original's. The text of the error message is free.
    pub own_headers: Vec<Header>,
}

impl SideRecord {
    pub(super) fn dead_letter(topic: &str, record: &SourceRecord, rejection: &Rejection) -> Self {
        let code = rejection.code.as_str();
        let cause_headers = [(ERROR_CODE, code.to_owned()), (ERROR_MESSAGE, rejection.to_string())];
        Self::new(topic, record, code.to_owned(), &cause_headers)
    }

    pub(super) fn late(topic: &str, record: &SourceRecord, watermark: String) -> Self {
        let cause_headers = [(LATE_WATERMARK, watermark.clone())];
        Self::new(topic, record, watermark, &cause_headers)
    }

    fn new(topic: &str, record: &SourceRecord, cause: String, cause_headers: &[(&str, String)]) -> Self {
        let mut own_headers = vec![
            text_header(SOURCE_TOPIC, topic),
            text_header(SOURCE_PARTITION, &record.partition.to_string()),
            text_header(SOURCE_OFFSET, &record.offset.to_string()),
        ];
        if let Some(timestamp_ms) = record.timestamp_ms {
            own_headers.push(text_header(SOURCE_TIMESTAMP, &timestamp_ms.to_string()));
        }
        own_headers.extend(cause_headers.iter().map(|(name, text)| text_header(name, text)));
        Self {
            partition: record.partition,
            offset: record.offset,
            cause,
            key: record.key.clone(),
            value: record.value.clone(),
            original_headers: record.headers.clone(),
            own_headers,
        }
    }
}

fn text_header(name: &str, text: &str) -> Header {
    (name.to_owned(), Some(text.as_bytes().to_vec()))
}
