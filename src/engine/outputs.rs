//! From what the domain decided to complete records for the output topics (contract §4 and §5).

use std::sync::Arc;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Output;
use crate::domain::rule::Parameters;
use crate::log::RecordBatch;
use crate::protocol::output::{Destination, OutputId, OutputRecord, Slot};

/// The head of a record batch (Kafka's format 2): a record that is alone in its batch counts with it.
const BATCH_HEAD_BYTES: usize = 61;
/// Attributes, and the deltas of timestamp and offset of a batch's first record: a byte each.
const RECORD_HEAD_BYTES: usize = 3;

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

/// A part of a record: its length as a zigzag varint, and its bytes.
fn size_of_part(length: usize) -> usize {
    size_of_varint(length) + length
}

/// Bytes of a length that is not negative as a zigzag varint: 7 bits a byte, one of them the sign.
fn size_of_varint(length: usize) -> usize {
    let bits = usize::BITS - length.leading_zeros() + 1;
    usize::try_from(bits.div_ceil(7)).unwrap_or(usize::MAX)
}

/// What the broker compares with the topic's `max.message.bytes`: a batch of this record alone, not compressed.
fn size_of_batch(record: &OutputRecord, ours: &Headers) -> usize {
    let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
    let headers = record.headers.iter().chain(ours);
    let of_headers: usize = headers.map(|(name, value)| size_of_part(name.len()) + size_of_part(length(value))).sum();
    let of_parts = size_of_part(length(&record.key)) + size_of_part(length(&record.value));
    let body = RECORD_HEAD_BYTES + of_parts + size_of_varint(record.headers.len() + ours.len()) + of_headers;
    BATCH_HEAD_BYTES + size_of_part(body)
}

/// Cuts value, then headers, then key, until the record fits, and says so in a header.
fn cut(record: &mut OutputRecord, ours: &mut Headers, limit: usize) {
    if size_of_batch(record, ours) <= limit {
        return;
    }
    ours.push(header("tallyguard.truncated", "true"));
    let excess = size_of_batch(record, ours).saturating_sub(limit);
    if let Some(value) = &mut record.value {
        value.truncate(value.len().saturating_sub(excess));
    }
    while size_of_batch(record, ours) > limit && record.headers.pop().is_some() {}
    let excess = size_of_batch(record, ours).saturating_sub(limit);
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

    /// Sizes as Kafka writes them: 61 bytes of batch head, then the record behind its own length.
    #[test]
    fn the_size_of_a_record_is_that_of_its_batch() {
        let mut record = OutputRecord {
            id: OutputId { partition: PartitionId(0), offset: Offset(0), slot: Slot::DeadLetter },
            destination: Destination::DeadLetter,
            key: None,
            value: None,
            headers: Vec::new(),
            source_timestamp_ms: None,
        };
        // Length, attributes, two deltas, no key, no value, no headers.
        assert_eq!(size_of_batch(&record, &Vec::new()), 61 + 1 + 3 + 1 + 1 + 1);
        record.key = Some(vec![0; 63]);
        record.value = Some(vec![0; 64]);
        // 63 is the longest length in one byte, 64 the shortest in two; the body of 140 bytes takes two for its own.
        assert_eq!(size_of_batch(&record, &Vec::new()), 61 + 2 + 3 + (1 + 63) + (2 + 64) + 1);
        let headers = vec![header("ab", "c")];
        assert_eq!(size_of_batch(&record, &headers), 61 + 2 + 3 + (1 + 63) + (2 + 64) + 1 + (1 + 2) + (1 + 1));
        record.value = Some(vec![0; 8_192]);
        assert_eq!(size_of_varint(8_191), 2);
        assert_eq!(size_of_batch(&record, &Vec::new()), 61 + 3 + 3 + (1 + 63) + (3 + 8_192) + 1);
    }
}
