//! `tallyguard offsets show`: how far the group has committed, and the metadata that came with it.
//!
//! Reads only. Offsets are asked for under `read_committed`, so an offset inside an open transaction is waited for, not
//! guessed.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use clap::{Args, Subcommand};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaErrorCode;
use serde::Serialize;
use serde_json::Value;

use super::{ConfigFile, Exit, print, unreachable_or};
use crate::clock::monotonic_now;
use crate::config::client::client_config;
use crate::config::{Settings, SourceKind};
use crate::domain::ids::PartitionId;
use crate::log::embedded::EmbeddedView;

#[derive(Debug, Subcommand)]
pub enum OffsetsCommand {
    /// Show committed offsets, log start and end, lag and commit metadata of each partition of the source topic
    #[command(after_help = "\
Examples:
  tallyguard offsets show --config tallyguard.toml
  tallyguard offsets show --config tallyguard.toml --json

The committed offset is that of the next record to be taken. Lag is the log's end (the last stable
offset) less the committed offset; it counts offsets, of which transaction markers take some, so
it may stay above 0 when every record has been taken.")]
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// What is known about the offsets of one partition.
#[derive(Debug, Serialize)]
struct PartitionOffsets {
    partition: i32,
    /// The next record to be taken; `None` when the group has never committed here.
    committed: Option<i64>,
    log_start: i64,
    log_end: i64,
    lag: Option<i64>,
    metadata: Metadata,
}

/// The text that was committed with an offset.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Metadata {
    Json(Value),
    /// Not JSON: written by something else, or damaged.
    Text(String),
    None,
}

/// Carries out the command.
///
/// # Errors
/// When Kafka answers with an error, or the result cannot be written.
pub fn run(command: &OffsetsCommand) -> anyhow::Result<Exit> {
    let OffsetsCommand::Show(args) = command;
    let settings = match super::load(&args.file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    if settings.source.kind == SourceKind::Embedded {
        let partitions = read_embedded(&settings)?;
        print(&if args.json { as_json(&settings, &partitions) } else { as_text(&settings, &partitions) })?;
        return Ok(Exit::Done);
    }
    let created = client_config(&settings)
        .set("group.id", &settings.source.group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create();
    let consumer: BaseConsumer = match created {
        Ok(consumer) => consumer,
        Err(error) => {
            tracing::error!("kafka.properties do not make a client: {error}");
            return Ok(Exit::Usage);
        }
    };
    match read(&consumer, &settings) {
        Ok(partitions) => {
            print(&if args.json { as_json(&settings, &partitions) } else { as_text(&settings, &partitions) })?;
            Ok(Exit::Done)
        }
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
            tracing::error!(topic = settings.source.topic, "the source topic does not exist");
            Ok(Exit::KafkaUnreachable)
        }
        Err(error) => unreachable_or(&settings, error),
    }
}

fn read(consumer: &BaseConsumer, settings: &Settings) -> Result<Vec<PartitionOffsets>, KafkaError> {
    let deadline = monotonic_now() + settings.kafka.startup_timeout;
    // At least a moment, so that an error says what happened instead of "no time left".
    let left = || deadline.saturating_duration_since(monotonic_now()).max(Duration::from_millis(100));
    let topic = settings.source.topic.as_str();
    let metadata = consumer.fetch_metadata(Some(topic), left())?;
    let mut asked = TopicPartitionList::new();
    for found in metadata.topics() {
        if let Some(error) = found.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        for partition in found.partitions() {
            asked.add_partition(topic, partition.id());
        }
    }
    let committed = consumer.committed_offsets(asked, left())?;
    let mut partitions = Vec::new();
    for element in committed.elements() {
        element.error()?;
        let (log_start, log_end) = consumer.fetch_watermarks(topic, element.partition(), left())?;
        let committed = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        partitions.push(PartitionOffsets {
            partition: element.partition(),
            committed,
            log_start,
            log_end,
            lag: committed.map(|committed| log_end - committed),
            metadata: metadata_of(&element),
        });
    }
    partitions.sort_by_key(|offsets| offsets.partition);
    Ok(partitions)
}

/// Of the embedded log, whether the service runs or not.
fn read_embedded(settings: &Settings) -> anyhow::Result<Vec<PartitionOffsets>> {
    let view = EmbeddedView::open(&settings.embedded.dir)?;
    let committed: Vec<_> =
        view.committed()?.into_iter().filter(|(group, ..)| *group == settings.source.group).collect();
    let mut partitions = Vec::new();
    for partition in (0..view.partitions()?).map(PartitionId) {
        let (start, end) = view.bounds(partition)?;
        let of_partition = committed.iter().find(|(_, of, ..)| *of == partition);
        partitions.push(PartitionOffsets {
            partition: partition.0,
            committed: of_partition.map(|(_, _, offset, _)| offset.0),
            log_start: start.0,
            log_end: end.0,
            lag: of_partition.map(|(_, _, offset, _)| end.0 - offset.0),
            metadata: of_partition.map_or(Metadata::None, |(.., metadata)| metadata_from(metadata.clone())),
        });
    }
    Ok(partitions)
}

fn metadata_from(text: String) -> Metadata {
    if text.is_empty() {
        return Metadata::None;
    }
    serde_json::from_str(&text).map_or(Metadata::Text(text), Metadata::Json)
}

fn metadata_of(element: &TopicPartitionListElem<'_>) -> Metadata {
    // The client library panics on metadata that is not UTF-8; only some other program can have written such.
    match catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())) {
        Ok(text) => metadata_from(text),
        Err(_) => Metadata::Text("not UTF-8, and so not written by this program".to_owned()),
    }
}

fn as_json(settings: &Settings, partitions: &[PartitionOffsets]) -> String {
    let report = serde_json::json!({
        "topic": settings.source.topic,
        "group": settings.source.group,
        "partitions": partitions,
    });
    format!("{report:#}\n")
}

fn as_text(settings: &Settings, partitions: &[PartitionOffsets]) -> String {
    let mut text = format!("topic {}, group {}\n", settings.source.topic, settings.source.group);
    let or_none = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for offsets in partitions {
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "partition {}: committed {}, log {} to {}, lag {}",
            offsets.partition,
            or_none(offsets.committed),
            offsets.log_start,
            offsets.log_end,
            or_none(offsets.lag),
        );
        let metadata = match &offsets.metadata {
            Metadata::None => continue,
            Metadata::Json(value) => format!("{value:#}"),
            Metadata::Text(text) => format!("not JSON: {text:?}"),
        };
        for line in metadata.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
