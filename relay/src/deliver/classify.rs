//! What an error of librdkafka means for an event. Pure.

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::ports::{DeliveryError, ErrorClass, Outcome};

/// The class of an error. `templated`: the topic was made of the event, so a topic that the cluster does not have is
/// the event's fault and not the configuration's. librdkafka fails a message with an unknown topic only after
/// metadata from a live broker has said so.
///
/// A code that is not listed may be anything, also something newer than this table. Transient is the safe verdict: the
/// event is tried again and never given up as unacceptable.
pub fn class(code: Code, templated: bool) -> ErrorClass {
    match code {
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat
        | Code::KeySerialization
        | Code::ValueSerialization => ErrorClass::Message,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic if templated => {
            ErrorClass::Message
        }
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SSL
        | Code::InvalidRequiredAcks
        | Code::UnsupportedCompressionType
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::InvalidArgument
        | Code::NotImplemented => ErrorClass::Configuration,
        Code::PurgeQueue
        | Code::PurgeInflight
        | Code::InvalidDifferentRecord
        | Code::GaplessGuarantee
        | Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::Fenced => ErrorClass::Collateral,
        _ => ErrorClass::Transient,
    }
}

/// The code of what went wrong with a connection. With TLS 1.3 a broker refuses a client's certificate only after the
/// handshake, so that librdkafka takes the alert for a connection that broke.
pub fn of_connection(code: Code, reason: &str) -> Code {
    if code == Code::BrokerTransportFailure && reason.contains("SSL alert number") {
        Code::SSL
    } else {
        code
    }
}

/// Whether a message that failed with this error may be in the topic all the same, when librdkafka does not say.
/// Unknown unless the error is one that comes before anything is sent, or is the broker's refusal.
pub fn outcome(code: Code) -> Outcome {
    match code {
        Code::PurgeQueue
        | Code::QueueFull
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidRecord
        | Code::InvalidDifferentRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType => Outcome::NotWritten,
        _ => Outcome::Unknown,
    }
}

/// Which field to look at, and what would help; None if nobody can say.
fn fix(code: Code) -> Option<&'static str> {
    let fix = match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => {
            "sink.topic: create it, as with `outbox-relay setup --create-topic`"
        }
        Code::InvalidTopic => "sink.topic: letters, digits, '.', '_' and '-', at most 249",
        Code::TopicAuthorizationFailed => "sink.topic: allow the relay's user Describe and Write on it",
        Code::ClusterAuthorizationFailed => "allow the relay's user IdempotentWrite on the cluster",
        Code::TransactionalIdAuthorizationFailed => {
            "allow the relay's user Describe and Write on the transactional ids that docs/permissions.md names"
        }
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => "sink.sasl: the brokers take another mechanism, user or password",
        Code::SSL => {
            "sink.tls: the brokers' certificate and caFile, or verifyHostname, or the client certificate that they ask for"
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
            "sink.topic: raise its max.message.bytes, or write smaller payloads"
        }
        Code::UnsupportedCompressionType => "sink.properties: another compression.type",
        Code::Resolve | Code::AllBrokersDown => "sink.bootstrapServers: nobody is there under these names",
        _ => return None,
    };
    Some(fix)
}

/// An error with its verdict.
pub fn delivery_error(code: Code, detail: impl Into<String>, templated: bool) -> DeliveryError {
    let mut detail = detail.into();
    if let Some(fix) = fix(code) {
        detail = format!("{detail} ({fix})");
    }
    DeliveryError {
        class: class(code, templated),
        code: format!("{code:?}"),
        detail,
        outcome: outcome(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_error_has_its_verdict() {
        use ErrorClass::{Collateral, Configuration, Message, Transient};
        use Outcome::{NotWritten, Unknown};
        let check = |code: Code, expected: ErrorClass, written: Outcome| {
            assert_eq!(
                (class(code, false), outcome(code)),
                (expected, written),
                "{code:?}"
            );
        };
        check(Code::MessageSizeTooLarge, Message, NotWritten);
        check(Code::MessageBatchTooLarge, Message, NotWritten);
        check(Code::InvalidRecord, Message, NotWritten);
        check(Code::InvalidTimestamp, Message, NotWritten);
        check(Code::PolicyViolation, Message, NotWritten);
        check(Code::UnsupportedForMessageFormat, Message, NotWritten);
        check(Code::UnknownTopicOrPartition, Configuration, NotWritten);
        check(Code::UnknownTopic, Configuration, NotWritten);
        check(Code::TopicAuthorizationFailed, Configuration, NotWritten);
        check(Code::ClusterAuthorizationFailed, Configuration, NotWritten);
        check(Code::SaslAuthenticationFailed, Configuration, Unknown);
        check(Code::Authentication, Configuration, Unknown);
        check(Code::SSL, Configuration, Unknown);
        check(Code::UnsupportedCompressionType, Configuration, NotWritten);
        check(Code::BrokerTransportFailure, Transient, Unknown);
        check(Code::AllBrokersDown, Transient, Unknown);
        check(Code::MessageTimedOut, Transient, Unknown);
        check(Code::RequestTimedOut, Transient, Unknown);
        check(Code::NotEnoughReplicas, Transient, Unknown);
        check(Code::NotEnoughReplicasAfterAppend, Transient, Unknown);
        check(Code::ThrottlingQuotaExceeded, Transient, Unknown);
        check(Code::UnknownProducerId, Transient, Unknown);
        check(Code::Unknown, Transient, Unknown);
        check(Code::PurgeQueue, Collateral, NotWritten);
        check(Code::PurgeInflight, Collateral, Unknown);
        check(Code::InvalidDifferentRecord, Collateral, NotWritten);
        check(Code::GaplessGuarantee, Collateral, Unknown);
        check(Code::Fatal, Collateral, Unknown);
        check(Code::OutOfOrderSequenceNumber, Collateral, Unknown);
        check(Code::InvalidProducerEpoch, Collateral, Unknown);
        check(Code::Fenced, Collateral, Unknown);
    }

    #[test]
    fn a_missing_topic_is_the_events_fault_only_if_the_event_named_it() {
        for code in [
            Code::UnknownTopicOrPartition,
            Code::UnknownTopic,
            Code::InvalidTopic,
        ] {
            assert_eq!(class(code, true), ErrorClass::Message, "{code:?}");
            assert_eq!(class(code, false), ErrorClass::Configuration, "{code:?}");
        }
        assert_eq!(
            class(Code::TopicAuthorizationFailed, true),
            ErrorClass::Configuration
        );
    }

    #[test]
    fn an_alert_is_a_mistake_of_tls_whatever_librdkafka_calls_it() {
        let broken = Code::BrokerTransportFailure;
        let alert =
            "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42";
        assert_eq!(of_connection(broken, alert), Code::SSL);
        assert_eq!(
            of_connection(broken, "Connect to ipv4#127.0.0.1:1 failed"),
            broken
        );
        assert_eq!(of_connection(Code::Resolve, alert), Code::Resolve);
    }

    #[test]
    fn nothing_that_is_not_listed_is_ever_given_up() {
        // Group and offset errors have no business here; whatever sends them, the event is tried again.
        for code in [Code::OffsetOutOfRange, Code::RebalanceInProgress, Code::NoOffset] {
            assert_eq!(class(code, true), ErrorClass::Transient, "{code:?}");
        }
    }
}
