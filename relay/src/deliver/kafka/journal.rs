//! The journal's topic: made, checked, and read to its end. What its records mean is decided in `crate::journal`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as Code;
use tracing::debug;

use super::settings::TRANSACTION_TIMEOUT;
use super::signals::Context;
use super::{KafkaBroker, blocking, internal};
use crate::deliver::classify::class;
use crate::encode::Message;
use crate::journal::{Entry, Head, Replay, Replayed, Survey, decode};
use crate::model::SlotId;
use crate::ports::{
    Broker, DeliveryError, ErrorClass, Journal, JournalError, Producer, Refused, Role, Signal, Signals,
};

/// Its only one.
const PARTITION: i32 = 0;

/// Longest answer awaited to one question, and to the journal's next record.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long committed records may stand behind an open transaction: the broker ends it after its time-out, which it
/// looks at every 10 s (`transaction.abort.timed.out.transaction.cleanup.interval.ms`).
const STABLE_LIMIT: Duration = TRANSACTION_TIMEOUT.saturating_add(Duration::from_secs(20));

/// How often the last stable offset is asked for. Transactions end within some tens of milliseconds.
const STABLE_POLL: Duration = Duration::from_millis(5);

/// How long a new topic may be unknown to a broker, and how often it is asked.
const PROPAGATION_LIMIT: Duration = Duration::from_secs(5);
const PROPAGATION_POLL: Duration = Duration::from_millis(100);

/// The topic setting that compaction rests on.
const CLEANUP_POLICY: &str = "cleanup.policy";
const COMPACT: &str = "compact";

/// Compaction leaves the newest segment alone, so this is what reading the whole journal costs beside what it must hold.
const SEGMENT_BYTES: &str = "16777216";

/// A journal is small and read to its end; it is worth being compacted early.
const DIRTY_RATIO: &str = "0.1";

/// Marks that the cluster chooses the number of replicas (`default.replication.factor`).
const CLUSTERS_CHOICE: i32 = -1;

/// The journal of one identity, in one topic.
#[derive(Clone)]
pub struct KafkaJournal {
    broker: KafkaBroker,
    identity: String,
    topic: String,
}

impl ConsumerContext for Context {}

impl KafkaJournal {
    pub fn new(broker: KafkaBroker, identity: &str, topic: &str) -> Self {
        Self {
            broker,
            identity: identity.to_owned(),
            topic: topic.to_owned(),
        }
    }

    /// Makes the topic if it is missing, and looks at it.
    ///
    /// # Errors
    /// It cannot be made, or records can be lost in it.
    pub async fn prepare(&self) -> Result<(), JournalError> {
        match self.partitions().await {
            Err(error) if error.code == format!("{:?}", Code::UnknownTopicOrPartition) => {
                self.create().await?;
                self.await_known().await;
            }
            _ => {}
        }
        self.look().await
    }

    /// A topic that was just made is not known everywhere at once.
    async fn await_known(&self) {
        let start = Instant::now();
        while self.partitions().await.is_err() && start.elapsed() < PROPAGATION_LIMIT {
            tokio::time::sleep(PROPAGATION_POLL).await;
        }
    }

    /// Finds out whether records can be lost in the topic.
    ///
    /// # Errors
    /// It is missing, has more than one partition, or is not compacted only.
    pub async fn look(&self) -> Result<(), JournalError> {
        let partitions = self.partitions().await;
        let partitions = partitions.map_err(|error| self.failed("look at its topic", &error))?;
        if partitions != 1 {
            return Err(self.unfit(format!("it has {partitions} partitions, it needs exactly one")));
        }
        // Batches have to fit it, as they have to fit the topics of events.
        self.broker.limit(&self.topic, ASK_TIMEOUT).await;
        match self.cleanup_policy().await {
            Some(policy) if policy != COMPACT => Err(self.unfit(format!(
                "its cleanup.policy is \"{policy}\", which would lose records; it has to be \"{COMPACT}\""
            ))),
            _ => Ok(()),
        }
    }

    async fn partitions(&self) -> Result<i32, DeliveryError> {
        let (broker, topic) = (self.broker.clone(), self.topic.clone());
        let asked = blocking(move || broker.0.partitions(&topic, ASK_TIMEOUT)).await;
        asked.map_err(|error| internal(&error))?
    }

    async fn create(&self) -> Result<(), JournalError> {
        let action = "create its topic";
        let admin = self
            .broker
            .admin()
            .await
            .map_err(|error| self.failed(action, &error))?;
        let topic = NewTopic::new(&self.topic, 1, TopicReplication::Fixed(CLUSTERS_CHOICE))
            .set(CLEANUP_POLICY, COMPACT)
            .set("segment.bytes", SEGMENT_BYTES)
            .set("min.cleanable.dirty.ratio", DIRTY_RATIO);
        let options = AdminOptions::new()
            .request_timeout(Some(ASK_TIMEOUT))
            .operation_timeout(Some(ASK_TIMEOUT));
        let created = admin.create_topics([&topic], &options).await;
        let created = created.map_err(|error| JournalError::Unavailable {
            topic: self.topic.clone(),
            action,
            detail: error.to_string(),
        })?;
        match created.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
            Some(Err((_, code))) => Err(self.unfit(format!(
                "it is missing and cannot be made ({code}); make it with one partition and cleanup.policy={COMPACT}"
            ))),
        }
    }

    /// None if it may not be read. Without its head a journal is refused, so a wrong policy is noticed later then.
    async fn cleanup_policy(&self) -> Option<String> {
        let admin = self.broker.admin().await.ok()?;
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        let described = admin
            .describe_configs(&[ResourceSpecifier::Topic(&self.topic)], &options)
            .await;
        match described.ok()?.pop()? {
            Ok(resource) => resource.get(CLEANUP_POLICY)?.value.clone(),
            Err(code) => {
                debug!(topic = self.topic, error = ?code, "cleanup.policy cannot be read");
                None
            }
        }
    }

    /// Runs a reading on a thread that may block.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = self.clone();
        let read = blocking(move || read(&journal)).await;
        read.map_err(|error| self.unavailable("read it", error.to_string()))?
    }

    fn reader(&self) -> Result<BaseConsumer<Context>, JournalError> {
        let group = format!("{}-journal", self.identity);
        self.consumer(&self.broker.0.settings.reader(&group))
    }

    fn consumer(&self, config: &rdkafka::ClientConfig) -> Result<BaseConsumer<Context>, JournalError> {
        let created = self.broker.consumer(config);
        created.map_err(|error| self.unfit(error.to_string()))
    }

    /// Start and end as the consumer's isolation level sees them.
    fn ends(&self, consumer: &BaseConsumer<Context>) -> Result<(i64, i64), JournalError> {
        let ends = consumer.fetch_watermarks(&self.topic, PARTITION, ASK_TIMEOUT);
        ends.map_err(|error| self.explained("find its end", consumer, &error))
    }

    fn real_ends(&self) -> Result<(i64, i64), JournalError> {
        self.ends(&self.consumer(&self.broker.0.settings.end_finder())?)
    }

    /// Nothing behind an open transaction is shown, whoever's it is: waits until all that stood before `end` is decided.
    fn await_stable(&self, reader: &BaseConsumer<Context>, end: i64) -> Result<(), JournalError> {
        let start = Instant::now();
        loop {
            let (_, stable) = self.ends(reader)?;
            if stable >= end {
                return Ok(());
            }
            if start.elapsed() >= STABLE_LIMIT {
                let detail = format!("a transaction at offset {stable} stays open; the end is {end}");
                return Err(self.unavailable("read what is committed", detail));
            }
            std::thread::sleep(STABLE_POLL);
        }
    }

    /// Visits what is committed from `from` on, until the visitor breaks, or nothing is left that stands before `end`.
    fn visit(
        &self,
        reader: &BaseConsumer<Context>,
        from: i64,
        end: i64,
        mut visitor: impl FnMut(i64, Option<&[u8]>) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let action = "read it";
        if from >= end {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::new();
        let assigned = assignment
            .add_partition_offset(&self.topic, PARTITION, Offset::Offset(from))
            .and_then(|()| reader.assign(&assignment));
        assigned.map_err(|error| self.explained(action, reader, &error))?;
        let mut progress = Instant::now();
        while progress.elapsed() < ASK_TIMEOUT {
            match reader.poll(ASK_TIMEOUT) {
                Some(Ok(record)) => {
                    progress = Instant::now();
                    if record.offset() >= end || visitor(record.offset(), record.payload()).is_break() {
                        return Ok(());
                    }
                }
                // Up to the last stable offset, which has passed `end`.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if may_go_on(&error) => debug!(%error, "reading the journal"),
                Some(Err(error)) => return Err(self.explained(action, reader, &error)),
                None => {}
            }
        }
        let silence = KafkaError::Global(Code::OperationTimedOut);
        Err(self.explained(action, reader, &silence))
    }

    /// Looks at the beginning, up to the first record that is no head.
    fn survey_with(
        &self,
        reader: &BaseConsumer<Context>,
        (start, end): (i64, i64),
    ) -> Result<Survey, JournalError> {
        let mut survey = Survey::default();
        self.visit(reader, start, end, |_, value| {
            match decode(&self.identity, value) {
                Ok(Entry::Head(head)) => {
                    survey.head.get_or_insert(head);
                    ControlFlow::Continue(())
                }
                // Whatever it is, replaying says it in full.
                Ok(Entry::Record(_)) | Err(_) => {
                    survey.used = true;
                    ControlFlow::Break(())
                }
            }
        })?;
        Ok(survey)
    }

    fn replay_now(&self, mut replay: Replay) -> Result<BTreeMap<SlotId, Replayed>, JournalError> {
        let (start, end) = self.real_ends()?;
        let reader = self.reader()?;
        self.await_stable(&reader, end)?;
        let survey = self.survey_with(&reader, (start, end))?;
        let refused = |refusal| JournalError::Refused {
            topic: self.topic.clone(),
            refusal,
        };
        replay.check(&survey, end).map_err(refused)?;
        let mut verdict = Ok(());
        self.visit(&reader, replay.from().max(start), end, |offset, value| {
            verdict = replay.record(offset, value);
            if verdict.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        verdict.and_then(|()| replay.finish(end)).map_err(refused)
    }

    fn unfit(&self, detail: String) -> JournalError {
        JournalError::Configuration {
            topic: self.topic.clone(),
            detail,
        }
    }

    fn unavailable(&self, action: &'static str, detail: String) -> JournalError {
        JournalError::Unavailable {
            topic: self.topic.clone(),
            action,
            detail,
        }
    }

    fn failed(&self, action: &'static str, error: &DeliveryError) -> JournalError {
        match error.class {
            ErrorClass::Configuration => self.unfit(format!("cannot {action}: {error}")),
            _ => self.unavailable(action, error.to_string()),
        }
    }

    fn explained(
        &self,
        action: &'static str,
        consumer: &BaseConsumer<Context>,
        error: &KafkaError,
    ) -> JournalError {
        self.failed(action, &consumer.client().context().explain(error))
    }
}

/// Errors of connections and of the group that nobody joins. Whether records come is what counts.
pub(super) fn may_go_on(error: &KafkaError) -> bool {
    match error.rdkafka_error_code() {
        Some(Code::GroupAuthorizationFailed) => true,
        Some(Code::AutoOffsetReset) | None => false,
        Some(code) => class(code, false) == ErrorClass::Transient,
    }
}

impl Journal for KafkaJournal {
    async fn survey(&self) -> Result<Survey, JournalError> {
        let survey = |journal: &Self| {
            let reader = journal.reader()?;
            let (start, stable) = journal.ends(&reader)?;
            let (_, end) = journal.real_ends()?;
            let mut survey = journal.survey_with(&reader, (start, stable))?;
            // Somebody is writing.
            survey.used |= stable < end;
            Ok(survey)
        };
        self.reading(survey).await
    }

    async fn write_head(&self, head: &Head) -> Result<(), JournalError> {
        let action = "write its head";
        let (reports, reported) = mpsc::sync_channel(1);
        let signals = Signals::new(move |signal| {
            if let Signal::Report(report) = signal {
                // There is one message, so one report.
                let _ = reports.try_send(report.result);
            }
        });
        let opened = self.broker.producer(Role::Isolation, signals);
        let producer = opened.map_err(|error| self.failed(action, &error))?;
        let message = Message {
            topic: self.topic.as_str().into(),
            key: Some(head.key().into()),
            payload: Some(head.encode().into()),
            headers: Vec::new(),
            // librdkafka takes the present.
            timestamp: 0,
        };
        match producer.send(0, &message) {
            Ok(()) => {}
            Err(Refused::Error(error)) => return Err(self.failed(action, &error)),
            Err(Refused::QueueFull) => return Err(self.unavailable(action, "its queue is full".into())),
        }
        let written = blocking(move || reported.recv_timeout(ASK_TIMEOUT)).await;
        producer.close().await;
        match written {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(self.failed(action, &error)),
            Ok(Err(_)) => Err(self.unavailable(action, "no answer".into())),
            Err(panic) => Err(self.unavailable(action, panic.to_string())),
        }
    }

    async fn replay(&self, replay: Replay) -> Result<BTreeMap<SlotId, Replayed>, JournalError> {
        self.reading(move |journal| journal.replay_now(replay)).await
    }
}
