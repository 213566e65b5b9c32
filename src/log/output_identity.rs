//! What an output says of its cause, read back from its topic.

use std::sync::Arc;

use serde::Deserialize;

use crate::domain::ids::{Offset, PartitionId};
use crate::protocol::output::{Destination, OutputId, Slot};

#[derive(Deserialize)]
struct AlertCause {
    rule_id: String,
    origin: String,
    trigger: Trigger,
}

#[derive(Deserialize)]
struct Trigger {
    topic: String,
    partition: i32,
    offset: i64,
}

/// The cause that a record of an output topic names; `None` when it is not one of this source topic's, or none that the
/// engine wrote.
#[must_use]
pub fn identify(
    destination: Destination,
    source_topic: &str,
    value: Option<&[u8]>,
    headers: &[(Vec<u8>, Option<Vec<u8>>)],
) -> Option<OutputId> {
    match destination {
        Destination::Alerts => {
            let cause: AlertCause = serde_json::from_slice(value?).ok()?;
            let is_ours = cause.trigger.topic == source_topic && cause.origin == "stream";
            is_ours.then(|| OutputId {
                partition: PartitionId(cause.trigger.partition),
                offset: Offset(cause.trigger.offset),
                slot: Slot::Alert(Arc::from(cause.rule_id)),
            })
        }
        Destination::Late => by_headers(source_topic, headers, Slot::Late),
        Destination::DeadLetter => by_headers(source_topic, headers, Slot::DeadLetter),
    }
}

fn by_headers(source_topic: &str, headers: &[(Vec<u8>, Option<Vec<u8>>)], slot: Slot) -> Option<OutputId> {
    // Ours come last, so the last of a name is the one to believe.
    let last = |wanted: &str| {
        let found = headers.iter().rev().find(|(name, _)| name == wanted.as_bytes())?;
        std::str::from_utf8(found.1.as_deref()?).ok()
    };
    if last("tallyguard.source.topic") != Some(source_topic) {
        return None;
    }
    let partition = last("tallyguard.source.partition")?.parse().ok()?;
    let offset = last("tallyguard.source.offset")?.parse().ok()?;
    Some(OutputId { partition: PartitionId(partition), offset: Offset(offset), slot })
}
