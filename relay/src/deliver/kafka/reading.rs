//! Topics as a consumer sees them, from one time on: for the audit and for tracing an event. What is committed only.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::sink::message_headers as names;
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;
use tracing::debug;

use super::journal::may_go_on;
use super::settings::TRANSACTION_TIMEOUT;
use super::signals::Context;
use super::{KafkaBroker, blocking, internal, not_created};
use crate::audit::Seen;
use crate::dead_letters::topic::record::decision_headers::DECISION;
use crate::deliver::classify::delivery_error;
use crate::encode::Message;
use crate::model::Micros;
use crate::ports::{Broker, DeliveryError};

/// Longest answer awaited to one question, and to the next record.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long records may stand behind an open transaction: see the journal's limit.
const STABLE_LIMIT: Duration = TRANSACTION_TIMEOUT.saturating_add(Duration::from_secs(20));
const STABLE_POLL: Duration = Duration::from_millis(20);

/// Partition, first offset, and the one behind the last.
pub type Range = (i32, i64, i64);

/// How much of a topic's partition is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub partition: i32,
    /// The first record that is there.
    pub low: i64,
    /// The first record whose timestamp is not below the lower time.
    pub start: i64,
    /// The same for the upper time.
    pub middle: i64,
    /// Behind the last one.
    pub end: i64,
}

impl Span {
    /// Records were deleted, and it is not known whether those that are looked for were among them.
    pub fn is_cut(&self) -> bool {
        self.low > 0 && self.start <= self.low
    }
}

/// Reads topics on behalf of one identity. Its group is a name that nobody joins.
#[derive(Clone)]
pub struct TopicReader {
    broker: KafkaBroker,
    group: String,
}

type Reader = BaseConsumer<Context>;

impl TopicReader {
    pub fn new(broker: KafkaBroker, identity: &str) -> Self {
        Self {
            broker,
            group: format!("{identity}-audit"),
        }
    }

    /// Where records with timestamps from `from` to `to` may be found, per partition, up to the topic's present end. None
    /// if there is no such topic.
    ///
    /// # Errors
    /// The brokers refuse or do not answer, or a transaction stays open.
    pub async fn spans(
        &self,
        topic: &str,
        from: Micros,
        to: Micros,
    ) -> Result<Option<Vec<Span>>, DeliveryError> {
        let partitions = match self.broker.topic(topic, ASK_TIMEOUT).await {
            Ok(info) => info.partitions,
            Err(error) if error.code == format!("{:?}", Code::UnknownTopicOrPartition) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (reader, topic) = (self.clone(), topic.to_owned());
        let spans = blocking(move || reader.spans_now(&topic, partitions, from, to)).await;
        spans.map_err(|error| internal(&error))?.map(Some)
    }

    fn spans_now(
        &self,
        topic: &str,
        partitions: i32,
        from: Micros,
        to: Micros,
    ) -> Result<Vec<Span>, DeliveryError> {
        let reader = self.consumer(&self.broker.0.settings.reader(&self.group))?;
        let everything = self.consumer(&self.broker.0.settings.end_finder())?;
        let starts = at(&reader, topic, partitions, from)?;
        let middles = at(&reader, topic, partitions, to)?;
        let mut spans = Vec::new();
        for partition in 0..partitions {
            let (low, end) = ends(&everything, topic, partition)?;
            await_stable(&reader, topic, partition, end)?;
            let offset = |found: &[(i32, i64)]| {
                let found = found.iter().find(|(number, _)| *number == partition);
                found.map_or(end, |(_, offset)| *offset).clamp(low, end)
            };
            let (start, middle) = (offset(&starts), offset(&middles));
            spans.push(Span {
                partition,
                low,
                start,
                middle: middle.max(start),
                end,
            });
        }
        Ok(spans)
    }

    /// Visits what is committed of these ranges of offsets, each partition in order.
    ///
    /// # Errors
    /// The brokers refuse or do not answer.
    pub async fn visit<T: Send + 'static>(
        &self,
        topic: &str,
        ranges: Vec<Range>,
        state: T,
        mut visitor: impl FnMut(&mut T, Seen<'_>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<T, DeliveryError> {
        let visit = move |state: &mut T, record: &BorrowedMessage<'_>| visitor(state, seen(record));
        self.visit_records(topic, ranges, state, visit).await
    }

    /// The same, whole: partition, offset and message.
    ///
    /// # Errors
    /// As [`Self::visit`].
    pub async fn visit_messages<T: Send + 'static>(
        &self,
        topic: &str,
        ranges: Vec<Range>,
        state: T,
        mut visitor: impl FnMut(&mut T, i32, i64, Message) -> ControlFlow<()> + Send + 'static,
    ) -> Result<T, DeliveryError> {
        let visit = move |state: &mut T, record: &BorrowedMessage<'_>| {
            visitor(state, record.partition(), record.offset(), message(record))
        };
        self.visit_records(topic, ranges, state, visit).await
    }

    async fn visit_records<T: Send + 'static>(
        &self,
        topic: &str,
        ranges: Vec<Range>,
        mut state: T,
        mut visitor: impl FnMut(&mut T, &BorrowedMessage<'_>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<T, DeliveryError> {
        let (reader, topic) = (self.clone(), topic.to_owned());
        let visited = blocking(move || {
            let visit = |record: &BorrowedMessage<'_>| visitor(&mut state, record);
            reader.visit_now(&topic, &ranges, visit).map(|()| state)
        });
        visited.await.map_err(|error| internal(&error))?
    }

    fn visit_now(
        &self,
        topic: &str,
        ranges: &[Range],
        mut visitor: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
    ) -> Result<(), DeliveryError> {
        let mut open: Vec<_> = ranges
            .iter()
            .filter(|(_, from, until)| from < until)
            .copied()
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let reader = self.consumer(&self.broker.0.settings.reader(&self.group))?;
        let explain = |error: KafkaError| reader.client().context().explain(&error);
        let mut assignment = TopicPartitionList::new();
        for (partition, from, _) in &open {
            let added = assignment.add_partition_offset(topic, *partition, Offset::Offset(*from));
            added.map_err(explain)?;
        }
        reader.assign(&assignment).map_err(explain)?;
        let mut progress = Instant::now();
        while !open.is_empty() {
            if progress.elapsed() >= ASK_TIMEOUT {
                return Err(explain(KafkaError::Global(Code::OperationTimedOut)));
            }
            let read = match reader.poll(ASK_TIMEOUT) {
                Some(Ok(record)) => {
                    let until = open
                        .iter()
                        .find(|(partition, ..)| *partition == record.partition());
                    // What was fetched before its partition was paused.
                    let Some((_, _, until)) = until.copied() else {
                        continue;
                    };
                    if record.offset() < until && visitor(&record).is_break() {
                        return Ok(());
                    }
                    (record.offset() + 1 >= until).then(|| record.partition())
                }
                // Up to the last stable offset, which has passed every end.
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                Some(Err(error)) if may_go_on(&error) => {
                    debug!(%error, topic, "reading a topic");
                    continue;
                }
                Some(Err(error)) => return Err(explain(error)),
                None => continue,
            };
            progress = Instant::now();
            if let Some(done) = read {
                open.retain(|(partition, ..)| *partition != done);
                let mut paused = TopicPartitionList::new();
                paused.add_partition(topic, done);
                reader.pause(&paused).map_err(explain)?;
            }
        }
        Ok(())
    }

    /// Whether records of the topic go although their time has not come: by compaction. None if it may not be asked.
    pub async fn is_compacted(&self, topic: &str) -> Option<bool> {
        let admin = self.broker.admin().await.ok()?;
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        let described = admin
            .describe_configs(&[ResourceSpecifier::Topic(topic)], &options)
            .await;
        let policy = described.ok()?.pop()?.ok()?;
        let policy = policy.get("cleanup.policy")?.value.clone()?;
        Some(policy.contains("compact"))
    }

    fn consumer(&self, config: &rdkafka::ClientConfig) -> Result<Reader, DeliveryError> {
        self.broker.consumer(config).map_err(|error| not_created(&error))
    }
}

/// Partition and offset of the first records that are not older. Partitions without one are left out.
fn at(reader: &Reader, topic: &str, partitions: i32, time: Micros) -> Result<Vec<(i32, i64)>, DeliveryError> {
    let explain = |error: KafkaError| reader.client().context().explain(&error);
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        let milliseconds = Offset::Offset(time.max(0).div_euclid(1000));
        asked
            .add_partition_offset(topic, partition, milliseconds)
            .map_err(explain)?;
    }
    let found = reader.offsets_for_times(asked, ASK_TIMEOUT).map_err(explain)?;
    let mut offsets = Vec::new();
    for found in found.elements() {
        if let Err(error) = found.error() {
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            let text = format!("topic {topic}: {error}");
            return Err(delivery_error(code, text, false));
        }
        if let Offset::Offset(offset) = found.offset() {
            offsets.push((found.partition(), offset));
        }
    }
    Ok(offsets)
}

fn ends(reader: &Reader, topic: &str, partition: i32) -> Result<(i64, i64), DeliveryError> {
    let ends = reader.fetch_watermarks(topic, partition, ASK_TIMEOUT);
    ends.map_err(|error| reader.client().context().explain(&error))
}

/// Nothing behind an open transaction is shown, whoever's it is: waits until all that stood before `end` is decided.
fn await_stable(reader: &Reader, topic: &str, partition: i32, end: i64) -> Result<(), DeliveryError> {
    let start = Instant::now();
    loop {
        let (_, stable) = ends(reader, topic, partition)?;
        if stable >= end {
            return Ok(());
        }
        if start.elapsed() >= STABLE_LIMIT {
            let text =
                format!("topic {topic}, partition {partition}: a transaction at offset {stable} stays open");
            return Err(delivery_error(Code::OperationTimedOut, text, false));
        }
        std::thread::sleep(STABLE_POLL);
    }
}

fn message(record: &BorrowedMessage<'_>) -> Message {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    Message {
        topic: record.topic().into(),
        key: record.key().map(owned),
        payload: record.payload().map(owned),
        headers: headers
            .map(|header| (header.key.into(), header.value.map(owned).unwrap_or_default()))
            .collect(),
        timestamp: record.timestamp().to_millis().unwrap_or(0),
    }
}

fn seen<'a>(record: &'a BorrowedMessage<'_>) -> Seen<'a> {
    let mut decision = false;
    let mut seen = Seen {
        partition: record.partition(),
        offset: record.offset(),
        ..Seen::default()
    };
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    for header in headers {
        let text = header.value.and_then(|value| std::str::from_utf8(value).ok());
        match header.key {
            names::EVENT_ID => seen.event_id = text,
            names::SOURCE_POSITION => seen.position = text,
            names::LATE => seen.late = true,
            names::REPLAYED => seen.replayed = true,
            names::RECONCILED => seen.reconciled = true,
            DECISION => decision = true,
            _ => {}
        }
    }
    if decision {
        // It is about a letter, and is none.
        seen.event_id = None;
    }
    seen
}
