//! The common part of every Kafka client: brokers, the operator's properties, a client id; and which of Kafka's errors
//! mean that it cannot be reached.
//!
//! A caller adds what its own role needs after this: the properties on which the guarantee rests are never among the
//! operator's, so nothing is overwritten that was asked for.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaErrorCode;

use super::settings::{Mode, Settings};
use crate::log::kafka::{KafkaSettings, MESSAGE_MAX_BYTES_DEFAULT, WriterLimits};

/// A client configuration that reaches the cluster. It holds secrets: do not log it.
#[must_use]
pub fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", format!("tallyguard-{}", settings.instance.id));
    for (name, value) in &settings.kafka.properties {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &settings.kafka.brokers);
    config
}

/// What the Kafka transport must be told.
#[must_use]
pub fn kafka_settings(settings: &Settings) -> KafkaSettings {
    KafkaSettings {
        base: client_config(settings),
        topic: settings.source.topic.clone(),
        group: settings.source.group.clone(),
        instance_id: settings.instance.id.clone(),
        transactional: settings.delivery.mode == Mode::ExactlyOnce,
        transactional_id: settings.transactional_id(),
        alerts_topic: settings.alerts.topic.clone(),
        late_topic: settings.alerts.late_topic.clone(),
        dead_letter_topic: settings.alerts.dead_letter_topic.clone(),
        transaction_timeout: settings.delivery.transaction_timeout,
    }
}

/// Makes every client that the service will have, without a broker to connect to: librdkafka looks at properties
/// together, at its own abilities and at files of keys only then.
///
/// # Errors
/// librdkafka's own words, which name the property.
pub fn trial(settings: &Settings) -> Result<(), String> {
    let kafka = kafka_settings(settings);
    let limits = WriterLimits { record_max: MESSAGE_MAX_BYTES_DEFAULT, batch_max: MESSAGE_MAX_BYTES_DEFAULT };
    for mut config in [kafka.consumer(), kafka.reader(), kafka.producer(limits)] {
        config.remove("bootstrap.servers");
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let is_producer = config.get("enable.idempotence").is_some();
        let made = if is_producer {
            config.create::<BaseProducer>().map(drop)
        } else {
            config.create::<BaseConsumer>().map(drop)
        };
        made.map_err(|error| match error {
            KafkaError::ClientCreation(why) => why,
            other => other.to_string(),
        })?;
    }
    Ok(())
}

/// Whether the error means that Kafka is unreachable or refuses access, as against an answer that it gave.
#[must_use]
pub fn is_unreachable(error: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::SSL
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// [`is_unreachable`] for an error of the client library.
#[must_use]
pub fn is_unreachable_error(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_unreachable)
}
