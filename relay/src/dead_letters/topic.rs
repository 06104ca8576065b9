//! Dead letters in a Kafka topic: the message as it would have been sent, with headers that say what went wrong.

use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode as Code;

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
    /// Bytes of a payload that the topic does not take; the dead-letter table has it.
    pub const PAYLOAD_OMITTED: &str = "dead-letter-payload-omitted";
}

pub struct TopicDeadLetters {
    config: ClientConfig,
    topic: String,
    /// Until it fails: librdkafka remembers for minutes that a topic is missing or forbidden, and for ever a fatal
    /// error.
    producer: Mutex<Option<FutureProducer>>,
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
            config,
            topic: topic.to_owned(),
            producer: Mutex::new(Some(producer)),
        })
    }

    /// One after the other, so that letters of one aggregate keep their order. `in_table`: the table has them already,
    /// so a payload that this topic does not take is left out, and a header says so.
    pub(super) async fn write(&self, letters: &[DeadLetter], in_table: bool) -> Result<(), DeadLetterError> {
        for letter in letters {
            let payload = letter.message.payload.as_deref();
            let mut sent = self.send(letter, payload, headers_of(letter)).await;
            if let (Err(error), true, Some(payload)) = (&sent, in_table, payload)
                && is_too_large(error)
            {
                let length = payload.len().to_string();
                let headers = headers_of(letter).insert(Header {
                    key: headers::PAYLOAD_OMITTED,
                    value: Some(&length),
                });
                sent = self.send(letter, None, headers).await;
            }
            if let Err(error) = sent {
                self.renew().await;
                return Err(self.failed(letter, &error));
            }
        }
        Ok(())
    }

    fn producer(&self) -> Result<FutureProducer, KafkaError> {
        let mut current = self.producer.lock();
        let producer = match current.take() {
            Some(producer) => producer,
            None => self.config.create()?,
        };
        *current = Some(producer.clone());
        Ok(producer)
    }

    /// Lets the next letter have a new producer.
    async fn renew(&self) {
        let spent = self.producer.lock().take();
        // Dropping it joins its threads. A panic there has nothing to tell: the producer is gone either way.
        let _ = tokio::task::spawn_blocking(move || drop(spent)).await;
    }

    async fn send(
        &self,
        letter: &DeadLetter,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<(), KafkaError> {
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic)
            .headers(headers)
            .timestamp(letter.message.timestamp);
        record.key = letter.message.key.as_deref();
        record.payload = payload;
        let sent = self.producer()?.send(record, DELIVERY_TIMEOUT).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    fn failed(&self, letter: &DeadLetter, error: &KafkaError) -> DeadLetterError {
        if !is_too_large(error) {
            return failed(&self.topic, error);
        }
        let size = letter.message.batch_size();
        let event = &letter.event_id;
        let detail =
            format!("{error}; event {event} needs {size} bytes and headers (raise max.message.bytes)");
        failed(&self.topic, &detail)
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

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge)
}

fn failed(topic: &str, error: &dyn std::fmt::Display) -> DeadLetterError {
    DeadLetterError {
        target: format!("topic {topic}"),
        detail: error.to_string(),
    }
}
