//! Topics of a benchmark: one for each part and round, dropped afterwards.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::BenchError;
use crate::kafka::Cluster;

/// For answers to questions: the broker may be busy.
const TIMEOUT: Duration = Duration::from_secs(15);

/// # Errors
/// The topic is there already, or the cluster does not answer.
pub async fn create(cluster: &Cluster, name: &str, partitions: i32) -> Result<(), BenchError> {
    let failed = |detail: String| BenchError::new(format!("creating topic {name}"), detail);
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let created = admin(cluster)?.create_topics([&topic], &options()).await;
    match created.map_err(|error| failed(error.to_string()))?.pop() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(failed(code.to_string())),
        None => Err(failed("no answer".to_owned())),
    }
}

/// # Errors
/// The topic is not there, or the cluster does not answer.
pub async fn delete(cluster: &Cluster, name: &str) -> Result<(), BenchError> {
    let failed = |detail: String| BenchError::new(format!("dropping topic {name}"), detail);
    let dropped = admin(cluster)?.delete_topics(&[name], &options()).await;
    match dropped.map_err(|error| failed(error.to_string()))?.pop() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(failed(code.to_string())),
        None => Err(failed("no answer".to_owned())),
    }
}

/// Counts the messages of a topic. The ends of transactions count as such.
pub struct EndOffsets {
    consumer: BaseConsumer,
    topic: String,
    partitions: Vec<i32>,
}

impl EndOffsets {
    /// Blocks.
    ///
    /// # Errors
    /// The topic is not there, or the cluster does not answer.
    pub fn open(cluster: &Cluster, topic: &str) -> Result<Self, BenchError> {
        let failed = |detail: String| BenchError::new(format!("asking for topic {topic}"), detail);
        let consumer: BaseConsumer = cluster
            .config()
            .create()
            .map_err(|error| failed(error.to_string()))?;
        let metadata = consumer
            .fetch_metadata(Some(topic), TIMEOUT)
            .map_err(|error| failed(error.to_string()))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions: Vec<i32> = found
            .filter(|found| found.error().is_none())
            .map(|found| {
                found
                    .partitions()
                    .iter()
                    .map(|partition| partition.id())
                    .collect()
            })
            .unwrap_or_default();
        if partitions.is_empty() {
            return Err(failed("it does not exist".to_owned()));
        }
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            partitions,
        })
    }

    /// Blocks.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn messages(&self) -> Result<u64, BenchError> {
        let mut messages = 0;
        for partition in &self.partitions {
            let offsets = self.consumer.fetch_watermarks(&self.topic, *partition, TIMEOUT);
            let (low, high) = offsets
                .map_err(|error| BenchError::new(format!("end of {} {partition}", self.topic), error))?;
            messages += u64::try_from(high - low).unwrap_or(0);
        }
        Ok(messages)
    }
}

fn admin(cluster: &Cluster) -> Result<AdminClient<DefaultClientContext>, BenchError> {
    let created = cluster.config().create();
    created.map_err(|error| BenchError::new("connecting to Kafka", error))
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT))
}
