//! Properties that go to librdkafka as they are, and those that never may.
//!
//! Every property is open to the operator except the ones on which the delivery guarantee, or the engine's own
//! bookkeeping, rests: those are refused by name, with the reason. Names and values are checked by librdkafka itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use toml::{Table, Value};

use super::problem::{Findings, quoted};
use super::raw::PropertyText;
use super::secret::{MASK, Secret, sounds_secret};
use crate::log::kafka::{HEARTBEAT_INTERVAL, MAX_POLL_INTERVAL, SESSION_TIMEOUT};

const COMMITS: &str = "offsets are committed only inside the transaction that holds the alerts";
const SAFE_PRODUCER: &str =
    "the transactional producer needs its own value, or alerts could be lost, repeated or reordered";
const MEMBERSHIP: &str = "group membership and fencing rest on the value that the service sets itself";
const OWN_KEY: &str = "it has a key of its own";
const EVENTS: &str = "the service relies on every delivery report and event of the client";
const BATCHES: &str = "the service takes it from what the output topics accept, so that no record is refused there";
const LEAVE_OUT: &str = "leave it out";

/// Property, why it is refused, and what to do instead. A name that ends in `*` stands for all that begin so.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("bootstrap.servers", OWN_KEY, "use kafka.brokers"),
    ("metadata.broker.list", OWN_KEY, "use kafka.brokers"),
    ("group.id", OWN_KEY, "use source.group"),
    ("group.instance.id", MEMBERSHIP, "use instance.id"),
    ("transactional.id", MEMBERSHIP, "use instance.id and source.group"),
    ("transaction.timeout.ms", OWN_KEY, "use delivery.transaction_timeout"),
    (
        "auto.offset.reset",
        "where to begin is decided once for a group and then committed, never guessed",
        "use source.start",
    ),
    ("enable.auto.commit", COMMITS, LEAVE_OUT),
    ("auto.commit.enable", COMMITS, LEAVE_OUT),
    ("auto.commit.interval.ms", COMMITS, LEAVE_OUT),
    ("enable.auto.offset.store", COMMITS, LEAVE_OUT),
    ("offset.store.*", COMMITS, LEAVE_OUT),
    ("isolation.level", "records and offsets of aborted transactions must never be read", LEAVE_OUT),
    ("partition.assignment.strategy", MEMBERSHIP, LEAVE_OUT),
    ("group.protocol", MEMBERSHIP, LEAVE_OUT),
    ("group.protocol.type", MEMBERSHIP, LEAVE_OUT),
    ("group.remote.assignor", MEMBERSHIP, LEAVE_OUT),
    ("enable.partition.eof", EVENTS, LEAVE_OUT),
    ("enabled_events", EVENTS, LEAVE_OUT),
    ("delivery.report.only.error", EVENTS, LEAVE_OUT),
    ("log.queue", EVENTS, LEAVE_OUT),
    ("log.connection.close", EVENTS, LEAVE_OUT),
    ("log_level", EVENTS, "use RUST_LOG"),
    ("socket.max.fails", EVENTS, LEAVE_OUT),
    ("enable.idempotence", SAFE_PRODUCER, LEAVE_OUT),
    ("enable.gapless.guarantee", SAFE_PRODUCER, LEAVE_OUT),
    ("acks", SAFE_PRODUCER, LEAVE_OUT),
    ("message.max.bytes", BATCHES, "set max.message.bytes of the output topics"),
    ("batch.size", BATCHES, "set max.message.bytes of the output topics"),
    ("request.required.acks", SAFE_PRODUCER, LEAVE_OUT),
    ("max.in.flight*", SAFE_PRODUCER, LEAVE_OUT),
    ("retries", SAFE_PRODUCER, LEAVE_OUT),
    ("message.send.max.retries", SAFE_PRODUCER, LEAVE_OUT),
    ("message.timeout.ms", SAFE_PRODUCER, "use delivery.transaction_timeout"),
    ("delivery.timeout.ms", SAFE_PRODUCER, "use delivery.transaction_timeout"),
    ("queuing.strategy", SAFE_PRODUCER, LEAVE_OUT),
    ("queue.buffering.backpressure.threshold", SAFE_PRODUCER, LEAVE_OUT),
    ("partitioner", "alerts of one user must stay in one partition to keep their order", LEAVE_OUT),
    ("api.version.request", "a broker that does not tell its versions has no transactions", LEAVE_OUT),
    ("broker.version.fallback", "a broker that does not tell its versions has no transactions", LEAVE_OUT),
    ("topic.blacklist", "a topic that the client does not see can be neither read nor written", LEAVE_OUT),
    ("allow.auto.create.topics", "a missing topic is an error, not an occasion", "use `tallyguard topics create`"),
    ("internal.*", "it is internal to the client", LEAVE_OUT),
    ("test.*", "it is internal to the client", LEAVE_OUT),
];

/// Properties whose value is masked, and which may be given as `NAME_file`.
const SECRETS: &[&str] = &[
    "sasl.password",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl_key",
    "ssl.keystore.password",
];

/// Whether the value of a property is masked.
#[must_use]
pub fn is_secret(property: &str) -> bool {
    SECRETS.contains(&property)
}

/// The property that the last part of an environment variable names: `_` stands for `.`, except in `_FILE` behind the
/// name of a secret.
pub(super) fn name_from_environment(lower_case: &str) -> String {
    let name = lower_case.replace('_', ".");
    match name.strip_suffix(".file") {
        Some(secret) if is_secret(secret) => format!("{secret}_file"),
        _ => name,
    }
}

/// Turns tables within `[kafka.properties]` into dotted names: TOML reads an unquoted `sasl.username` as a table.
pub(super) fn flatten(table: &mut Table, findings: &mut Findings) {
    let properties = table.get_mut("kafka").and_then(|kafka| kafka.get_mut("properties"));
    let Some(properties) = properties.and_then(Value::as_table_mut) else { return };
    let mut flat = Table::new();
    for (name, value) in std::mem::take(properties) {
        flatten_into(&mut flat, name, value, findings);
    }
    *properties = flat;
}

fn flatten_into(flat: &mut Table, name: String, value: Value, findings: &mut Findings) {
    if let Value::Table(inner) = value {
        for (part, value) in inner {
            flatten_into(flat, format!("{name}.{part}"), value, findings);
        }
    } else if flat.contains_key(&name) {
        let key = format!("kafka.properties.{name}");
        findings.refuse_absent(&key, "given twice, quoted and unquoted", "one of the two");
    } else {
        flat.insert(name, value);
    }
}

/// The properties as configured: their values for the clients, and what may be shown of them.
#[derive(Default)]
pub(super) struct CheckedProperties {
    pub values: BTreeMap<String, String>,
    pub shown: BTreeMap<String, PropertyText>,
}

/// Checks every property and reads secrets out of their files.
pub(super) fn check(raw: &BTreeMap<String, PropertyText>, findings: &mut Findings) -> CheckedProperties {
    let mut checked = CheckedProperties::default();
    for (name, PropertyText(value)) in raw {
        let key = format!("kafka.properties.{name}");
        let secret_of_file = name.strip_suffix("_file").filter(|name| is_secret(name));
        let (property, text) = match secret_of_file {
            Some(property) if raw.contains_key(property) => {
                let accepted = format!("either {property} or {name}, not both");
                findings.refuse_because(&key, quoted(value), "the secret is given twice", accepted);
                continue;
            }
            Some(property) => match Secret::from_file(Path::new(value)) {
                Ok(secret) => (property, secret.expose().to_owned()),
                Err(accepted) => {
                    findings.refuse(&key, quoted(value), accepted);
                    continue;
                }
            },
            None => (name.as_str(), value.clone()),
        };
        if is_allowed(property, &text, &key, findings) {
            let shown = if is_secret(name) { MASK } else { value };
            checked.shown.insert(name.clone(), PropertyText(shown.to_owned()));
            checked.values.insert(property.to_owned(), text);
        }
    }
    checked
}

fn is_allowed(property: &str, text: &str, key: &str, findings: &mut Findings) -> bool {
    let shown = if is_secret(property) || property.contains("jaas") { MASK.to_owned() } else { quoted(text) };
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(head) => property.starts_with(head),
        None => property == pattern,
    };
    if let Some((_, reason, accepted)) = FORBIDDEN.iter().find(|(pattern, _, _)| matches(pattern)) {
        findings.refuse_because(key, shown, reason, *accepted);
        return false;
    }
    let mut probe = ClientConfig::new();
    probe.set(property, text);
    match probe.create_native_config() {
        Ok(_) => true,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            let shown = if sounds_secret(property) { MASK.to_owned() } else { shown };
            let accepted = "a property named in librdkafka's CONFIGURATION.md";
            findings.refuse_because(key, shown, "librdkafka knows no such property", accepted);
            false
        }
        Err(KafkaError::ClientConfig(_, description, ..)) if !is_secret(property) => {
            let accepted = "a value as in librdkafka's CONFIGURATION.md";
            findings.refuse_because(key, shown, description.trim(), accepted);
            false
        }
        Err(_) => {
            findings.refuse(key, shown, "a value as in librdkafka's CONFIGURATION.md");
            false
        }
    }
}

/// Combinations that librdkafka would refuse only when a client is made, or that would fence a healthy instance.
pub(super) fn check_together(
    values: &BTreeMap<String, String>,
    transaction_timeout: Duration,
    findings: &mut Findings,
) {
    let of = |default: Duration| default.as_secs_f64() * 1_000.0;
    let milliseconds =
        |name: &str, default: f64| values.get(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(default);
    let mut bound = |name: &str, holds: bool, accepted: String| {
        if let Some(text) = values.get(name).filter(|_| !holds) {
            findings.refuse(&format!("kafka.properties.{name}"), quoted(text), accepted);
        }
    };
    let session = milliseconds("session.timeout.ms", of(SESSION_TIMEOUT));
    let heartbeat = milliseconds("heartbeat.interval.ms", of(HEARTBEAT_INTERVAL));
    let poll = milliseconds("max.poll.interval.ms", of(MAX_POLL_INTERVAL));
    let transaction = of(transaction_timeout);
    bound(
        "heartbeat.interval.ms",
        heartbeat * 2.0 <= session,
        format!("at most half of session.timeout.ms ({session})"),
    );
    bound(
        "session.timeout.ms",
        heartbeat * 2.0 <= session,
        format!("at least twice heartbeat.interval.ms ({heartbeat})"),
    );
    bound("max.poll.interval.ms", poll >= session, format!("at least session.timeout.ms ({session})"));
    bound("session.timeout.ms", poll >= session, format!("at most max.poll.interval.ms ({poll})"));
    let within = format!("at most delivery.transaction_timeout ({transaction} ms)");
    bound("socket.timeout.ms", milliseconds("socket.timeout.ms", 0.0) <= transaction, within);
    for name in ["linger.ms", "queue.buffering.max.ms"] {
        let half = transaction / 2.0;
        bound(
            name,
            milliseconds(name, 0.0) <= half,
            format!("at most half of delivery.transaction_timeout ({half} ms)"),
        );
    }
}
