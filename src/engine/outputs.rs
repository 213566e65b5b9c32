//! From what the domain decided to complete records for the output topics (contract §4 and §5).

use std::sync::Arc;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Output;
use crate::domain::rule::Parameters;
use crate::log::RecordBatch;
use crate::protocol::output::{Destination, OutputId, OutputRecord, Slot};

/// What a record takes in a batch besides its key, value and headers, generously.
const FRAMING_BYTES: usize = 256;
/// Framing of one header.
const HEADER_BYTES: usize = 10;

type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Largest record that each output topic takes, bytes.
#[derive(Debug, Clone, Copy)]
pub struct TopicLimits {
    pub late: usize,
    pub dead_letter: usize,
}

/// Completes outputs of one partition.
pub struct OutputEncoder {
    pub topic: Arc<str>,
    pub partition: PartitionId,
    pub limits: TopicLimits,
    /// Ids of the rules, in the order of the parameters.
    rule_ids: Vec<Arc<str>>,
}

impl OutputEncoder {
    #[must_use]
    pub fn new(topic: Arc<str>, partition: PartitionId, limits: TopicLimits, parameters: &Parameters) -> Self {
        let rule_ids = parameters.rules.iter().map(|history| Arc::from(history.rule.id.as_str())).collect();
        Self { topic, partition, limits, rule_ids }
    }

    /// The record that goes to the output topic because of record `index` of the batch.
    pub fn encode(&self, offset: Offset, output: Output, batch: &impl RecordBatch, index: usize) -> OutputRecord {
        let source = batch.record(index);
        let id = |slot| OutputId { partition: self.partition, offset, slot };
        match output {
            Output::Alert { rule, user_id, body } => OutputRecord {
                id: id(Slot::Alert(self.rule_ids.get(rule).cloned().unwrap_or_else(|| Arc::from("")))),
                destination: Destination::Alerts,
                key: Some(user_id.as_bytes().to_vec()),
                value: Some(body),
                headers: vec![header("content-type", "application/json"), header("tallyguard.schema", "alert.v1")],
                source_timestamp_ms: source.timestamp_ms,
            },
            Output::DeadLetter(rejection) => {
                let reason = vec![
                    header("tallyguard.error.code", rejection.code()),
                    header("tallyguard.error.message", &rejection.to_string()),
                ];
                self.copy(id(Slot::DeadLetter), Destination::DeadLetter, batch, index, reason)
            }
            Output::Late { watermark } => {
                let reason = vec![header("tallyguard.late.watermark", &watermark.to_string())];
                self.copy(id(Slot::Late), Destination::Late, batch, index, reason)
            }
        }
    }

    /// The original, byte for byte, with our headers behind its own; cut where its topic would not take it.
    fn copy(
        &self,
        id: OutputId,
        destination: Destination,
        batch: &impl RecordBatch,
        index: usize,
        reason: Headers,
    ) -> OutputRecord {
        let source = batch.record(index);
        let mut ours = vec![
            header("tallyguard.source.topic", &self.topic),
            header("tallyguard.source.partition", &self.partition.to_string()),
            header("tallyguard.source.offset", &source.offset.to_string()),
        ];
        ours.extend(source.timestamp_ms.map(|timestamp| header("tallyguard.source.timestamp", &timestamp.to_string())));
        ours.extend(reason);
        let limit = if destination == Destination::Late { self.limits.late } else { self.limits.dead_letter };
        let mut record = OutputRecord {
            id,
            destination,
            key: source.key.map(<[u8]>::to_vec),
            value: source.value.map(<[u8]>::to_vec),
            headers: batch.headers(index),
            source_timestamp_ms: source.timestamp_ms,
        };
        cut(&mut record, &mut ours, limit);
        record.headers.append(&mut ours);
        record
    }
}

fn header(name: &str, value: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
}

fn size_of_headers(headers: &Headers) -> usize {
    let sizes = headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + HEADER_BYTES);
    sizes.sum()
}

/// Cuts value, then headers, then key, until the record fits, and says so in a header.
fn cut(record: &mut OutputRecord, ours: &mut Headers, limit: usize) {
    let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
    let marker = header("tallyguard.truncated", "true");
    let total = |record: &OutputRecord, ours: &Headers| {
        let headers = size_of_headers(&record.headers) + size_of_headers(ours);
        length(&record.key) + length(&record.value) + headers + FRAMING_BYTES
    };
    if total(record, ours) <= limit {
        return;
    }
    ours.push(marker);
    let excess = total(record, ours).saturating_sub(limit);
    if let Some(value) = &mut record.value {
        value.truncate(value.len().saturating_sub(excess));
    }
    while total(record, ours) > limit && record.headers.pop().is_some() {}
    let excess = total(record, ours).saturating_sub(limit);
    if let Some(key) = &mut record.key {
        key.truncate(key.len().saturating_sub(excess));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::{Rejection, SourceRecord};

    struct One {
        key: Vec<u8>,
        value: Vec<u8>,
        headers: Headers,
    }

    impl RecordBatch for One {
        fn len(&self) -> usize {
            1
        }

        fn record(&self, _index: usize) -> SourceRecord<'_> {
            SourceRecord { offset: Offset(7), timestamp_ms: Some(5), key: Some(&self.key), value: Some(&self.value) }
        }

        fn headers(&self, _index: usize) -> Headers {
            self.headers.clone()
        }
    }

    fn dead_letter(original: &One, limit: usize) -> OutputRecord {
        let encoder = OutputEncoder {
            topic: Arc::from("transactions"),
            partition: PartitionId(3),
            limits: TopicLimits { late: limit, dead_letter: limit },
            rule_ids: Vec::new(),
        };
        encoder.encode(Offset(7), Output::DeadLetter(Rejection::NullValue), original, 0)
    }

    #[test]
    fn a_dead_letter_is_the_original_with_our_headers_behind_its_own() {
        let original =
            One { key: b"u".to_vec(), value: b"x".to_vec(), headers: vec![(vec![0xff], None), header("a", "b")] };
        let record = dead_letter(&original, 1_000_000);
        assert_eq!(record.headers[..2], original.headers[..]);
        assert_eq!(record.headers[2], header("tallyguard.source.topic", "transactions"));
        assert_eq!(record.headers[6], header("tallyguard.error.code", "null_value"));
        assert!(record.headers.iter().all(|(name, _)| name != b"tallyguard.truncated"));
    }

    #[test]
    fn what_does_not_fit_is_cut_value_first_then_headers_then_key() {
        let original = One { key: vec![b'k'; 2_000], value: vec![b'v'; 9_000], headers: vec![header("h", "x")] };
        let record = dead_letter(&original, 6_000);
        assert_eq!(record.key, Some(original.key.clone()));
        assert!(record.value.as_ref().is_some_and(|value| !value.is_empty() && value.len() < 4_000));
        assert_eq!(record.headers.last(), Some(&header("tallyguard.truncated", "true")));
        let record = dead_letter(&original, 1_500);
        assert_eq!(record.value, Some(Vec::new()));
        assert!(record.key.as_ref().is_some_and(|key| key.len() < 1_500));
        assert!(record.headers.iter().all(|(name, _)| name != b"h"));
    }
}
