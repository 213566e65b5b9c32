//! As much of the two wire protocols as it takes to disturb them where it hurts: where a message ends, what a client asks
//! for, and which answer belongs to it.

/// What a client asks for, and how its answer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// As the protocol's own documentation calls it.
    pub name: &'static str,
    /// Kafka numbers its requests; MySQL has one at a time.
    pub correlation: Option<[u8; 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Kafka,
    MySql,
}

impl Protocol {
    /// Length of the message that begins with these bytes, its head included; `None` while too little is there.
    pub fn message_length(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Kafka => {
                let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
                Some(4 + usize::try_from(u32::from_be_bytes(length)).ok()?)
            }
            Self::MySql => {
                let length = bytes.get(..3)?;
                Some(4 + usize::from(length[0]) + (usize::from(length[1]) << 8) + (usize::from(length[2]) << 16))
            }
        }
    }

    /// What a whole message of the client asks for.
    pub fn request(self, message: &[u8]) -> Request {
        match self {
            Self::Kafka => {
                let key = message.get(4..6).map_or(-1, |key| i16::from_be_bytes([key[0], key[1]]));
                let correlation = message.get(8..12).and_then(|number| number.try_into().ok());
                Request { name: kafka_name(key), correlation }
            }
            Self::MySql => Request { name: mysql_name(message), correlation: None },
        }
    }

    /// Whether what came from the server answers that request.
    pub fn answers(self, answer: &[u8], request: &Request) -> bool {
        match self {
            Self::Kafka => answer.get(4..8) == request.correlation.as_ref().map(<[u8; 4]>::as_slice),
            Self::MySql => true,
        }
    }

    /// Whether the server's messages are numbered, so that they must be told apart.
    pub fn numbers_answers(self) -> bool {
        self == Self::Kafka
    }
}

/// The names of the Kafka protocol guide; whatever the service has no need for is "other".
fn kafka_name(key: i16) -> &'static str {
    match key {
        0 => "Produce",
        1 => "Fetch",
        2 => "ListOffsets",
        3 => "Metadata",
        8 => "OffsetCommit",
        9 => "OffsetFetch",
        10 => "FindCoordinator",
        11 => "JoinGroup",
        12 => "Heartbeat",
        13 => "LeaveGroup",
        14 => "SyncGroup",
        22 => "InitProducerId",
        24 => "AddPartitionsToTxn",
        25 => "AddOffsetsToTxn",
        26 => "EndTxn",
        28 => "TxnOffsetCommit",
        _ => "other",
    }
}

/// A command has the sequence number 0; what else a client sends belongs to the greeting.
fn mysql_name(message: &[u8]) -> &'static str {
    const QUERY: u8 = 0x03;
    const STATEMENT_EXECUTE: u8 = 0x17;
    match (message.get(3), message.get(4)) {
        (Some(0), Some(&QUERY)) if message[5..].eq_ignore_ascii_case(b"COMMIT") => "COMMIT",
        (Some(0), Some(&STATEMENT_EXECUTE)) => "execute",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_request_is_known_by_its_key_and_its_answer_by_the_number() {
        let end_transaction = [0, 0, 0, 9, 0, 26, 0, 1, 0, 0, 0, 7, 0xff];
        assert_eq!(Protocol::Kafka.message_length(&end_transaction), Some(13));
        assert_eq!(Protocol::Kafka.message_length(&end_transaction[..3]), None);
        let request = Protocol::Kafka.request(&end_transaction);
        assert_eq!(request, Request { name: "EndTxn", correlation: Some([0, 0, 0, 7]) });
        assert!(Protocol::Kafka.answers(&[0, 0, 0, 4, 0, 0, 0, 7], &request));
        assert!(!Protocol::Kafka.answers(&[0, 0, 0, 4, 0, 0, 0, 8], &request));
    }

    #[test]
    fn a_mysql_commit_is_known_by_its_text() {
        let commit = [7, 0, 0, 0, 3, b'C', b'O', b'M', b'M', b'I', b'T'];
        assert_eq!(Protocol::MySql.message_length(&commit), Some(11));
        assert_eq!(Protocol::MySql.request(&commit).name, "COMMIT");
        assert_eq!(Protocol::MySql.request(&[1, 0, 0, 0, 0x17]).name, "execute");
        assert_eq!(Protocol::MySql.request(&[7, 0, 0, 1, 3, b'C', b'O', b'M', b'M', b'I', b'T']).name, "other");
    }
}
