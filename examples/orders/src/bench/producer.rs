//! Bare librdkafka, with the settings of the relay's producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::time::{Instant, sleep};

use super::BenchError;
use super::log::{Row, uuid};
use crate::kafka::Cluster;

/// For metadata and the first message.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may be acknowledged before a measurement is given up.
const STALL: Duration = Duration::from_secs(60);
/// Pause when the queue is full: some hundred messages, of 100,000 that wait.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);
/// How often the end is looked for.
const POLL: Duration = Duration::from_millis(1);

/// One message as the relay would send it; the creation time is in milliseconds and not in words.
pub(super) struct Message {
    key: String,
    payload: Vec<u8>,
    headers: [(&'static str, Vec<u8>); 6],
}

impl Message {
    pub(super) fn of(row: &Row<'_>) -> Self {
        let key = uuid(row.aggregate_id).to_string();
        let stream = u128::from_be_bytes(*row.stream.as_array().unwrap_or(&[0; 16]));
        let batch_seq_no = i32::from_be_bytes(*row.batch_seq_no.as_array().unwrap_or(&[0; 4]));
        let created_at = i64::from_be_bytes(*row.created_at.as_array().unwrap_or(&[0; 8]));
        let position = format!("{stream:032x}:{}:{batch_seq_no}", uuid(row.time));
        Self {
            headers: [
                ("event-id", uuid(row.id).to_string().into()),
                ("event-type", row.event_type.into()),
                ("aggregate-id", key.clone().into()),
                ("aggregate-type", row.aggregate_type.into()),
                ("source-position", position.into()),
                ("created-at", created_at.to_string().into()),
            ],
            payload: row.payload.into(),
            key,
        }
    }
}

/// A producer that counts its acknowledgements. Clones share it.
#[derive(Clone)]
pub(super) struct Producer {
    producer: ThreadedProducer<Reports>,
    topic: Arc<str>,
    reports: Reports,
}

#[derive(Clone, Default)]
struct Reports(Arc<Counts>);

#[derive(Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = match result {
            Ok(_) => &self.0.delivered,
            Err(_) => &self.0.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Producer {
    /// Connects, and delivers one empty message to an existing topic: what follows finds everything ready.
    pub(super) async fn ready(cluster: &Cluster, topic: &str) -> Result<Self, BenchError> {
        let reports = Reports::default();
        let producer: ThreadedProducer<Reports> = cluster
            .config()
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", "0")
            .set("compression.type", "lz4")
            .set("linger.ms", "2")
            .set("batch.size", "1048576")
            .set("batch.num.messages", "100000")
            .set("partitioner", "murmur2_random")
            .create_with_context(reports.clone())
            .map_err(|error| BenchError::new("connecting to Kafka", error))?;
        producer
            .client()
            .fetch_metadata(Some(topic), START_TIMEOUT)
            .map_err(|error| BenchError::new(format!("asking for topic {topic}"), error))?;
        let ready = Self {
            producer,
            topic: topic.into(),
            reports,
        };
        let first: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).key("first").payload(&[]);
        let sent = ready.producer.send(first);
        sent.map_err(|(error, _)| BenchError::new("sending the first message", error))?;
        ready.delivered(1).await?;
        ready.reports.0.delivered.store(0, Ordering::Relaxed);
        Ok(ready)
    }

    /// Hands a message over; waits while the queue is full.
    pub(super) async fn send(&self, message: &Message) -> Result<(), BenchError> {
        while !self.try_send(message)? {
            sleep(QUEUE_FULL_PAUSE).await;
        }
        Ok(())
    }

    fn try_send(&self, message: &Message) -> Result<bool, BenchError> {
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in &message.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let record = BaseRecord::to(&self.topic)
            .key(&message.key)
            .payload(&message.payload)
            .headers(headers);
        match self.producer.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => Err(BenchError::new("sending a message", error)),
        }
    }

    /// Waits until so many messages are acknowledged.
    pub(super) async fn delivered(&self, messages: u64) -> Result<(), BenchError> {
        let mut last = (0, Instant::now());
        loop {
            let delivered = self.reports.0.delivered.load(Ordering::Relaxed);
            let failed = self.reports.0.failed.load(Ordering::Relaxed);
            let stalled = delivered == last.0 && last.1.elapsed() > STALL;
            if failed > 0 || stalled || delivered > messages {
                let detail = format!("{delivered} of {messages} acknowledged, {failed} failed");
                return Err(BenchError::new("delivering", detail));
            }
            if delivered == messages {
                return Ok(());
            }
            if delivered > last.0 {
                last = (delivered, Instant::now());
            }
            sleep(POLL).await;
        }
    }
}
