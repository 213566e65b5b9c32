//! Questions to the cluster at start: how large a record a topic takes, and whose clock stamps it.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::log::kafka::settings::KafkaSettings;

/// The broker's default `message.max.bytes`, used where a topic's own limit cannot be asked for.
pub const MESSAGE_MAX_BYTES_DEFAULT: usize = 1_048_588;

/// What is known of one topic.
#[derive(Debug, Clone)]
pub struct TopicConfig {
    pub message_max_bytes: usize,
    pub log_append_time: bool,
    /// Bound of `message.timestamp.after.max.ms`, when there is one.
    pub future_bound_ms: Option<i64>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self { message_max_bytes: MESSAGE_MAX_BYTES_DEFAULT, log_append_time: false, future_bound_ms: None }
    }
}

/// Asks for the configuration of topics; what cannot be had is left out.
pub fn topic_configs(settings: &KafkaSettings, topics: &[&str], timeout: Duration) -> HashMap<String, TopicConfig> {
    let client: AdminClient<DefaultClientContext> = match settings.base.create() {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!("topic configurations cannot be asked for: {error}");
            return HashMap::new();
        }
    };
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!("topic configurations cannot be asked for: {error}");
            return HashMap::new();
        }
    };
    let answer = runtime.block_on(client.describe_configs(&resources, &options));
    let mut configs = HashMap::new();
    for resource in answer.unwrap_or_default().into_iter().flatten() {
        let rdkafka::admin::OwnedResourceSpecifier::Topic(topic) = &resource.specifier else { continue };
        let value = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
        let mut config = TopicConfig::default();
        if let Some(limit) = value("max.message.bytes").and_then(|limit| limit.parse().ok()) {
            config.message_max_bytes = limit;
        }
        config.log_append_time = value("message.timestamp.type").as_deref() == Some("LogAppendTime");
        config.future_bound_ms = value("message.timestamp.after.max.ms")
            .and_then(|bound| bound.parse().ok())
            .filter(|bound| *bound < i64::MAX);
        configs.insert(topic.clone(), config);
    }
    configs
}
