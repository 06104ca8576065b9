//! Reading topics from beginning to end, as a `read_committed` consumer without a group sees them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::Timestamp;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::journal::digest;
use crate::verify::{Marks, Sighting};

/// For metadata and watermarks: long enough for a broker that restarts, short enough for a person who mistyped.
const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two attempts to open a topic.
const OPEN_PAUSE: Duration = Duration::from_millis(300);
/// For the question whether everything was read, which is asked again.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub bootstrap: String,
    /// Any librdkafka properties, for TLS and SASL.
    pub properties: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("Kafka at {bootstrap}: {cause}")]
    Client { bootstrap: String, cause: KafkaError },
    #[error("topic {topic} does not exist at {bootstrap}")]
    NoTopic { topic: String, bootstrap: String },
    #[error("topic {topic}: {cause}")]
    Consume { topic: String, cause: KafkaError },
    #[error("topic {topic} had {before} partitions when reading began, and has {now}")]
    Partitions {
        topic: String,
        before: usize,
        now: usize,
    },
}

impl Cluster {
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    fn error(&self, cause: KafkaError) -> ReadError {
        ReadError::Client {
            bootstrap: self.bootstrap.clone(),
            cause,
        }
    }
}

/// Reads all partitions of one topic.
pub struct TopicReader {
    topic: String,
    consumer: Arc<StreamConsumer>,
    partitions: HashMap<i32, Partition>,
}

struct Partition {
    /// Messages from here on were appended after reading began.
    live_from: i64,
    /// Where the next message is expected.
    next: i64,
    /// Nothing below is unread: records of transactions take up offsets, and never come.
    read_to: i64,
    /// What the broker called the end when it was asked; read to it as soon as an end is reported.
    end: i64,
    at_end: bool,
}

impl TopicReader {
    /// Assigns all partitions of a topic from their beginnings. Waits out a broker that has just come back.
    pub async fn open(cluster: &Cluster, topic: &str) -> Result<Self, ReadError> {
        let deadline = Instant::now() + METADATA_TIMEOUT;
        loop {
            let (cluster, topic) = (cluster.clone(), topic.to_owned());
            let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&cluster, topic)).await;
            match opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Err(ReadError::Client { cause, .. }) if is_outage(&cause) && Instant::now() < deadline => {
                    tracing::debug!(%cause, "waiting for Kafka");
                    sleep(OPEN_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    fn open_blocking(cluster: &Cluster, topic: String) -> Result<Self, ReadError> {
        let consumer: StreamConsumer = cluster
            .config()
            // Never joined: librdkafka wants a name even where partitions are assigned by hand.
            .set("group.id", format!("orders-{}", Uuid::new_v4()))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // A log that was cut off below us must be noticed, not skipped.
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "50")
            .create()
            .map_err(|cause| cluster.error(cause))?;
        let metadata = consumer
            .fetch_metadata(Some(&topic), METADATA_TIMEOUT)
            .map_err(|cause| cluster.error(cause))?;
        let ids = partition_ids(&metadata, &topic);
        if ids.is_empty() {
            return Err(ReadError::NoTopic {
                topic,
                bootstrap: cluster.bootstrap.clone(),
            });
        }
        let mut assignment = TopicPartitionList::new();
        let mut partitions = HashMap::new();
        for id in ids {
            let (first, live_from) = consumer
                .fetch_watermarks(&topic, id, METADATA_TIMEOUT)
                .map_err(|cause| cluster.error(cause))?;
            let partition = Partition {
                live_from,
                next: first,
                read_to: first,
                end: first,
                at_end: false,
            };
            partitions.insert(id, partition);
            assignment
                .add_partition_offset(&topic, id, Offset::Beginning)
                .map_err(|cause| cluster.error(cause))?;
        }
        consumer
            .assign(&assignment)
            .map_err(|cause| cluster.error(cause))?;
        Ok(Self {
            topic,
            consumer: Arc::new(consumer),
            partitions,
        })
    }

    /// The next message; None when a partition was read to its end. Outages are waited out. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>, ReadError> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => {
                    if let Some(partition) = self.partitions.get_mut(&message.partition()) {
                        partition.at_end = false;
                        partition.next = message.offset() + 1;
                        partition.read_to = partition.read_to.max(partition.next);
                    }
                    return Ok(Some(message));
                }
                Err(KafkaError::PartitionEOF(id)) => {
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.at_end = true;
                        partition.read_to = partition.read_to.max(partition.end);
                    }
                    return Ok(None);
                }
                Err(error) if is_outage(&error) => {
                    tracing::debug!(topic = self.topic, %error, "waiting for Kafka");
                }
                Err(cause) => {
                    return Err(ReadError::Consume {
                        topic: self.topic.clone(),
                        cause,
                    });
                }
            }
        }
    }

    /// Whether every partition was read to the end that it had then.
    pub fn at_end(&self) -> bool {
        self.partitions.values().all(|partition| partition.at_end)
    }

    /// Asks the brokers whether everything was read. Where something may be left, it is read from there again, so that
    /// its messages, or an end, follow; false also while no broker answers.
    pub async fn complete(&mut self) -> Result<bool, ReadError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let asked = tokio::task::spawn_blocking(move || ends(&consumer, &topic)).await;
        let ends = match asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "the topic's end is not known");
                return Ok(false);
            }
        };
        if ends.len() != self.partitions.len() {
            return Err(ReadError::Partitions {
                topic: self.topic.clone(),
                before: self.partitions.len(),
                now: ends.len(),
            });
        }
        let mut complete = true;
        for (id, end) in ends {
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            if partition.read_to >= end {
                continue;
            }
            complete = false;
            if !std::mem::take(&mut partition.at_end) {
                continue;
            }
            partition.end = end;
            let again = Offset::Offset(partition.next);
            if let Err(error) = self.consumer.seek(&self.topic, id, again, Duration::ZERO) {
                tracing::debug!(topic = self.topic, partition = id, %error, "cannot be read again yet");
                partition.at_end = true;
            }
        }
        Ok(complete)
    }

    /// First offset of each partition that was not there when reading began.
    pub fn live_from(&self) -> HashMap<i32, i64> {
        self.partitions
            .iter()
            .map(|(id, partition)| (*id, partition.live_from))
            .collect()
    }
}

fn partition_ids(metadata: &Metadata, topic: &str) -> Vec<i32> {
    metadata
        .topics()
        .iter()
        .filter(|found| found.name() == topic && found.error().is_none())
        .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
        .collect()
}

/// The partitions that a topic has now, and where they end.
fn ends(consumer: &StreamConsumer, topic: &str) -> Result<Vec<(i32, i64)>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), END_TIMEOUT)?;
    let end = |id| {
        let (_, end) = consumer.fetch_watermarks(topic, id, END_TIMEOUT)?;
        Ok((id, end))
    };
    partition_ids(&metadata, topic).into_iter().map(end).collect()
}

/// What the verifier needs of a message.
pub fn sighting(message: &impl Message, consumed_us: Option<i64>) -> Sighting {
    let appended_us = match message.timestamp() {
        Timestamp::LogAppendTime(milliseconds) => Some(milliseconds * 1000),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
    };
    let mark = |name| header(message, name) == Some(b"true");
    Sighting {
        partition: message.partition(),
        offset: message.offset(),
        event_id: event_id(message),
        digest: digest(
            header(message, "event-type").unwrap_or_default(),
            message.payload().unwrap_or_default(),
        ),
        marks: Marks {
            late: mark("late"),
            // How often.
            replayed: header(message, "replayed").is_some(),
            reconciled: mark("reconciled"),
        },
        appended_us,
        consumed_us,
    }
}

/// The id in the header `event-id`, if it is a UUID.
pub fn event_id(message: &impl Message) -> Option<Uuid> {
    Uuid::try_parse_ascii(header(message, "event-id")?).ok()
}

/// Value of the first header with this name.
pub fn header<'a>(message: &'a impl Message, name: &str) -> Option<&'a [u8]> {
    message.headers()?.iter().find(|header| header.key == name)?.value
}

fn is_outage(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::BrokerNotAvailable
                | RDKafkaErrorCode::KafkaStorageError
                | RDKafkaErrorCode::OffsetNotAvailable
                // The partition has no leader yet.
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}
