//! The log on Apache Kafka, through librdkafka.
//!
//! One thread owns the consumer and the transactional producer, so that a rebalance and a commit can never overlap.
//! Assigned partitions are acknowledged to the group at once but handed to the fetcher only when their start is
//! decided, at exactly that offset: nothing is ever paused, sought, or read from a default position.

mod admin;
mod classify;
mod client;
mod feed;
mod membership;
mod native;
mod offsets_call;
mod reader;
mod settings;
mod writer;

pub use admin::{MESSAGE_MAX_BYTES_DEFAULT, TopicConfig, topic_configs};
pub use client::KafkaLog;
pub use feed::KafkaFeeds;
pub use reader::KafkaReader;
pub use settings::{HEARTBEAT_INTERVAL, KafkaSettings, MAX_POLL_INTERVAL, SESSION_TIMEOUT, WriterLimits};
