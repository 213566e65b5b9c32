//! What each error of the Kafka client means for a step. Every error is judged here, once.
//!
//! librdkafka marks a transactional error as fatal, as requiring an abort, or as retriable; one with none of the three
//! marks is to be treated as fatal. Fatal does not mean aborted: a commit may have succeeded on the broker.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::protocol::cycle::Outcome;

/// The outcome that a failed transaction call amounts to.
#[must_use]
pub fn transaction_error(error: &KafkaError) -> Outcome {
    match error {
        KafkaError::Transaction(cause) => {
            let text = format!("{}: {}", cause.name(), cause.string());
            if is_fencing(cause.code()) {
                Outcome::Fenced(text)
            } else if cause.is_fatal() {
                Outcome::Doubtful(text)
            } else if cause.txn_requires_abort() {
                Outcome::Abortable(text)
            } else if cause.is_retriable() && !is_timeout(cause.code()) {
                Outcome::Retriable(text)
            } else {
                Outcome::Doubtful(text)
            }
        }
        // The flush before a commit ran out of time: the transaction is still open.
        KafkaError::Flush(code) => Outcome::Abortable(format!("flush: {code}")),
        other => Outcome::Doubtful(other.to_string()),
    }
}

/// The outcome that a failed commit of offsets outside a transaction amounts to.
#[must_use]
pub fn commit_error(code: Code) -> Outcome {
    let text = format!("committing offsets: {code}");
    match code {
        Code::FencedInstanceId | Code::IllegalGeneration | Code::UnknownMemberId => Outcome::Fenced(text),
        // Refused before anything was done.
        Code::RebalanceInProgress
        | Code::NotCoordinator
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::WaitingForCoordinator
        | Code::AssignmentLost => Outcome::Retriable(text),
        _ => Outcome::Doubtful(text),
    }
}

/// A newer producer or member with the same id exists, or a coordinator has given up on this one.
#[must_use]
pub fn is_fencing(code: Code) -> bool {
    matches!(code, Code::ProducerFenced | Code::InvalidProducerEpoch | Code::Fenced | Code::FencedInstanceId)
}

/// A call that ran out of time may still take effect.
#[must_use]
pub fn is_timeout(code: Code) -> bool {
    matches!(code, Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut)
}

/// The broker answers, but says no.
#[must_use]
pub fn is_denied(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnsupportedSASLMechanism
    )
}

/// The connection was lost or a request went unanswered: librdkafka may have repeated a request on its own.
#[must_use]
pub fn is_disturbance(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::RequestTimedOut
    )
}
