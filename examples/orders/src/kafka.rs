//! Reading topics from beginning to end, as a `read_committed` consumer without a group sees them.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::Timestamp;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::verify::{Marks, Sighting};

/// For metadata and watermarks: long enough for a broker that restarts, short enough for a person who mistyped.
const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

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
    consumer: StreamConsumer,
    partitions: HashMap<i32, Partition>,
}

struct Partition {
    /// Messages from here on were appended after reading began.
    live_from: i64,
    at_end: bool,
}

impl TopicReader {
    /// Assigns all partitions of a topic from their beginnings.
    pub async fn open(cluster: &Cluster, topic: &str) -> Result<Self, ReadError> {
        let (cluster, topic) = (cluster.clone(), topic.to_owned());
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(&cluster, topic)).await;
        opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
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
        let ids: Vec<i32> = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic && found.error().is_none())
            .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
            .collect();
        if ids.is_empty() {
            return Err(ReadError::NoTopic {
                topic,
                bootstrap: cluster.bootstrap.clone(),
            });
        }
        let mut assignment = TopicPartitionList::new();
        let mut partitions = HashMap::new();
        for id in ids {
            let (_, live_from) = consumer
                .fetch_watermarks(&topic, id, METADATA_TIMEOUT)
                .map_err(|cause| cluster.error(cause))?;
            partitions.insert(
                id,
                Partition {
                    live_from,
                    at_end: false,
                },
            );
            assignment
                .add_partition_offset(&topic, id, Offset::Beginning)
                .map_err(|cause| cluster.error(cause))?;
        }
        consumer
            .assign(&assignment)
            .map_err(|cause| cluster.error(cause))?;
        Ok(Self {
            topic,
            consumer,
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
                    }
                    return Ok(Some(message));
                }
                Err(KafkaError::PartitionEOF(id)) => {
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.at_end = true;
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

    /// First offset of each partition that was not there when reading began.
    pub fn live_from(&self) -> HashMap<i32, i64> {
        self.partitions
            .iter()
            .map(|(id, partition)| (*id, partition.live_from))
            .collect()
    }
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
        marks: Marks {
            late: mark("late"),
            replayed: mark("replayed"),
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
        )
    )
}
