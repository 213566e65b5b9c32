//! Which names Kafka and this program can carry.

/// Longest legal topic name, in bytes.
const TOPIC_MAX: usize = 249;

pub(super) const TOPIC_ACCEPTED: &str =
    "1 to 249 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`, and not `.` or `..`";

/// Whether Kafka takes this as the name of a topic.
pub(super) fn is_legal_topic(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= TOPIC_MAX && name != "." && name != ".." && name.bytes().all(legal)
}

/// Whether two topics cannot exist side by side: Kafka's metrics do not tell `.` from `_`, so its brokers refuse names
/// that differ in nothing else.
pub(super) fn topics_collide(one: &str, other: &str) -> bool {
    one.replace('.', "_") == other.replace('.', "_")
}

/// Whether a text of 1 to `bytes_max` bytes has no control characters.
pub(super) fn is_plain(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// Whether the text is a list of `host` or `host:port`, separated by commas.
pub(super) fn are_brokers(text: &str) -> bool {
    text.split(',').all(|broker| {
        let broker = broker.trim();
        // Optional scheme, as librdkafka has it: `SASL_SSL://host:port`.
        let broker = broker.split_once("://").map_or(broker, |(_, address)| address);
        let (host, port) = match broker.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("none"))),
                None => return false,
            },
            None => broker.split_once(':').map_or((broker, None), |(host, port)| (host, Some(port))),
        };
        let legal_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
        legal_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    })
}

/// Whether the text is a time of day, `HH:MM`.
pub(super) fn is_time_of_day(text: &str) -> bool {
    let two_digits = |part: &str, end: u32| {
        part.len() == 2
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u32>().is_ok_and(|value| value < end)
    };
    text.split_once(':').is_some_and(|(hour, minute)| two_digits(hour, 24) && two_digits(minute, 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_or_without_ports() {
        for text in ["k1", "k1:9092", "k1:9092, k2:9092", "[::1]:9092", "[::1]", "SASL_SSL://k1:9093"] {
            assert!(are_brokers(text), "{text}");
        }
        for text in ["", "k1:", "k1:0", "k1:x", "k1:70000", "k1,,k2", ":9092", "k 1:9092", "[::1", "[::1]9092", "a/b"] {
            assert!(!are_brokers(text), "{text}");
        }
    }

    #[test]
    fn a_time_of_day_has_two_digits_twice() {
        assert!(is_time_of_day("02:30") && is_time_of_day("23:59") && is_time_of_day("00:00"));
        for text in ["24:00", "2:30", "02:60", "0230", "+2:30", "02:30:00", ""] {
            assert!(!is_time_of_day(text), "{text}");
        }
    }
}
