//! Dead letters in a Kafka topic: the message as it would have been sent, with headers that say what went wrong.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::table::outcome_name;
use crate::ports::{DeadLetter, DeadLetterError};

/// How long librdkafka may try. Then the lane opens its breaker and tries again later, so nothing is lost by ending.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of a dead letter, beside those of the message itself.
pub mod headers {
    /// What the last attempt said.
    pub const ERROR: &str = "dead-letter-error";
    /// `message`, `configuration`, `transient` or `held`.
    pub const CLASS: &str = "dead-letter-class";
    /// `not-written` or `unknown`: whether the event may be in its topic all the same.
    pub const OUTCOME: &str = "dead-letter-outcome";
    /// Failed attempts.
    pub const FAILURES: &str = "dead-letter-failures";
    /// The topic that it was meant for.
    pub const TOPIC: &str = "dead-letter-topic";
    /// Its slot.
    pub const SLOT: &str = "dead-letter-slot";
}

pub struct TopicDeadLetters {
    producer: FutureProducer,
    topic: String,
}

impl TopicDeadLetters {
    /// `config` is that of the relay's own producers: same brokers, same security, idempotent.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(mut config: ClientConfig, topic: &str) -> Result<Self, DeadLetterError> {
        // A letter that cannot be written now is offered again; it must not surface by itself much later.
        config.set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
        // The gapless guarantee would end the producer at the first time-out.
        config.set("enable.gapless.guarantee", "false");
        let producer = config.create().map_err(|error| failed(topic, &error))?;
        Ok(Self {
            producer,
            topic: topic.to_owned(),
        })
    }

    /// One after the other, so that letters of one aggregate keep their order.
    pub(super) async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        for letter in letters {
            let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic)
                .headers(headers_of(letter))
                .timestamp(letter.message.timestamp);
            record.key = letter.message.key.as_deref();
            record.payload = letter.message.payload.as_deref();
            let sent = self.producer.send(record, DELIVERY_TIMEOUT).await;
            sent.map_err(|(error, _)| failed(&self.topic, &error))?;
        }
        Ok(())
    }
}

fn headers_of(letter: &DeadLetter) -> OwnedHeaders {
    let failures = letter.failures.to_string();
    let slot = letter.slot.to_string();
    let own = [
        (headers::ERROR, letter.error.as_str()),
        (headers::CLASS, letter.reason.name()),
        (headers::OUTCOME, outcome_name(letter.outcome)),
        (headers::FAILURES, &failures),
        (headers::TOPIC, &letter.message.topic),
        (headers::SLOT, &slot),
    ];
    let message = letter
        .message
        .headers
        .iter()
        .map(|(name, value)| (name.as_ref(), value.as_ref()));
    let own = own.into_iter().map(|(name, value)| (name, value.as_bytes()));
    message
        .chain(own)
        .fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        })
}

fn failed(topic: &str, error: &dyn std::fmt::Display) -> DeadLetterError {
    DeadLetterError {
        target: format!("topic {topic}"),
        detail: error.to_string(),
    }
}
