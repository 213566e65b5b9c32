//! The common part of every Kafka client: brokers, the operator's properties, a client id; and which of Kafka's errors
//! mean that it cannot be reached.
//!
//! A caller adds what its own role needs after this: the properties on which the guarantee rests are never among the
//! operator's, so nothing is overwritten that was asked for.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::settings::Settings;

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
