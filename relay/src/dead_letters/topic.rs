//! Dead letters in a Kafka topic, by a producer of their own.

pub mod deciding;
pub mod fold;
pub mod reading;
pub mod record;
pub mod replaying;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::message::message;
use crate::deliver::kafka::{Authentication, KafkaSettings, headers_of};
use crate::encode::Message;
use crate::ports::{DeadLetter, DeadLetterError};

/// How long librdkafka may try. Then the lane opens its breaker and tries again later, so nothing is lost by ending.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

type Producer = FutureProducer<Authentication>;

pub struct TopicDeadLetters {
    config: ClientConfig,
    authentication: Authentication,
    topic: Arc<str>,
    /// Until it fails: librdkafka remembers for minutes that a topic is missing or forbidden, and for ever a fatal
    /// error.
    producer: Mutex<Option<Producer>>,
}

impl TopicDeadLetters {
    /// Same brokers and same security as the relay's own producers, and idempotent.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self, DeadLetterError> {
        let (mut config, authentication) = (settings.dead_letters(), settings.authentication());
        // A letter that cannot be written now is offered again; it must not surface by itself much later.
        config.set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
        // The gapless guarantee would end the producer at the first time-out.
        config.set("enable.gapless.guarantee", "false");
        let producer = config.create_with_context(authentication.clone());
        let producer = producer.map_err(|error| failed(topic, &error))?;
        Ok(Self {
            config,
            authentication,
            topic: topic.into(),
            producer: Mutex::new(Some(producer)),
        })
    }

    /// One after the other, so that letters of one aggregate keep their order. `in_table`: the table has them already,
    /// so a payload that this topic does not take is left out, and a header says so.
    pub(super) async fn write(&self, letters: &[DeadLetter], in_table: bool) -> Result<(), DeadLetterError> {
        for letter in letters {
            let mut sent = self.send(&message(letter, &self.topic, false)).await;
            if sent.as_ref().is_err_and(|error| in_table && is_too_large(error)) {
                sent = self.send(&message(letter, &self.topic, true)).await;
            }
            if let Err(error) = sent {
                self.renew().await;
                return Err(self.failed(letter, &error));
            }
        }
        Ok(())
    }

    fn producer(&self) -> Result<Producer, KafkaError> {
        let mut current = self.producer.lock();
        let producer = match current.take() {
            Some(producer) => producer,
            None => self.config.create_with_context(self.authentication.clone())?,
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

    async fn send(&self, message: &Message) -> Result<(), KafkaError> {
        let mut record = FutureRecord::<[u8], [u8]>::to(&message.topic)
            .headers(headers_of(message))
            .timestamp(message.timestamp);
        record.key = message.key.as_deref();
        record.payload = message.payload.as_deref();
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

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::MessageSizeTooLarge)
}

fn failed(topic: &str, error: &dyn std::fmt::Display) -> DeadLetterError {
    DeadLetterError {
        target: format!("topic {topic}"),
        detail: error.to_string(),
        fenced: false,
    }
}
