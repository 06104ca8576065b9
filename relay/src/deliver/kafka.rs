//! The broker port on librdkafka.

mod journal;
mod partition;
pub mod reading;
mod settings;
mod signals;
mod status;
mod tokens;
mod transactional;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::OnceCell;
use tracing::debug;

use crate::deliver::classify::delivery_error;
use crate::encode::Message;
use crate::ports::{Broker, DeliveryError, ErrorClass, Outcome, Producer, Refused, Role, Signals, TopicInfo};

pub use journal::KafkaJournal;
pub use settings::{KafkaSettings, SettingsError};
use signals::Context;
pub use tokens::{Authentication, TokensError};
pub use transactional::KafkaTransactionalProducer;

/// The topic setting that limits a record batch.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// How long a new producer may take to connect before its first message does the rest.
const WARM_UP: Duration = Duration::from_secs(1);

/// Makes producers for one Kafka cluster. Clones share their connections for questions.
#[derive(Clone)]
pub struct KafkaBroker(Arc<Inner>);

struct Inner {
    settings: KafkaSettings,
    templated: bool,
    /// Asks for metadata only.
    inquirer: ThreadedProducer<Context>,
    /// Asks for what metadata does not tell; made for the first such question.
    admin: OnceCell<AdminClient<DefaultClientContext>>,
    /// The smallest `max.message.bytes` of the topics asked about, which bounds batches.
    smallest_limit: AtomicUsize,
    /// The topic that was found last: what a new producer connects for.
    found: Mutex<Option<String>>,
}

/// One librdkafka producer. Dropping it blocks for up to two seconds, so it is to be closed.
pub struct KafkaProducer {
    producer: ThreadedProducer<Context>,
    warming: Option<JoinHandle<()>>,
    templated: bool,
}

impl KafkaBroker {
    /// Reaches for no network. `templated`: topics are made of events.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn new(settings: KafkaSettings, templated: bool) -> Result<Self, SettingsError> {
        let context = Context::new(Signals::new(|_| ()), templated, settings.authentication());
        let inquirer = create(&settings.client(), context).map_err(SettingsError::Refused)?;
        // Also shows at once, and not at the first event, that librdkafka takes the producer's settings.
        let probe = settings.producer(Role::Flow, None);
        probe.create_native_config().map_err(SettingsError::Refused)?;
        Ok(Self(Arc::new(Inner {
            settings,
            templated,
            inquirer,
            admin: OnceCell::new(),
            smallest_limit: AtomicUsize::new(usize::MAX),
            found: Mutex::new(None),
        })))
    }

    /// Makes a topic; false if it is there already.
    ///
    /// # Errors
    /// The cluster refuses, or does not answer within `timeout`.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        replicas: i32,
        timeout: Duration,
    ) -> Result<bool, DeliveryError> {
        let admin = self.admin().await?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        let options = AdminOptions::new()
            .request_timeout(Some(timeout))
            .operation_timeout(Some(timeout));
        let created = admin.create_topics([&topic], &options).await;
        match created
            .map_err(|error| self.0.inquirer.client().context().explain(&error))?
            .pop()
        {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(false),
            Some(Err((name, code))) => Err(delivery_error(code, format!("topic {name}: {code}"), false)),
            Some(Ok(_)) | None => Ok(true),
        }
    }

    /// Not by tokens: rdkafka's client for questions of this kind asks its context for none.
    async fn admin(&self) -> Result<&AdminClient<DefaultClientContext>, DeliveryError> {
        if self.0.settings.needs_tokens() {
            return Err(no_admin());
        }
        let create = async || {
            let config = self.0.settings.client();
            let created = blocking(move || config.create())
                .await
                .map_err(|error| internal(&error))?;
            created.map_err(|error: KafkaError| not_created(&error))
        };
        self.0.admin.get_or_try_init(create).await
    }

    /// A client with these settings, and the connections that its first message needs.
    fn make(&self, config: &ClientConfig, signals: Signals) -> Result<KafkaProducer, DeliveryError> {
        let inner = &self.0;
        let context = Context::new(signals, inner.templated, inner.settings.authentication());
        let producer = create(config, context).map_err(|error| not_created(&error))?;
        Ok(KafkaProducer {
            warming: warm_up(&producer, inner.found.lock().clone()),
            producer,
            templated: inner.templated,
        })
    }

    /// A consumer that nothing is assigned to.
    fn consumer(&self, config: &ClientConfig) -> Result<BaseConsumer<Context>, KafkaError> {
        let context = Context::new(Signals::new(|_| ()), false, self.0.settings.authentication());
        let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
        // Only whoever polls gets a token, and every question needs one.
        if consumer.poll(Duration::ZERO).is_some() {
            debug!("a consumer had something to say before it was asked");
        }
        Ok(consumer)
    }

    /// The smallest `max.message.bytes` of the topics asked about.
    fn smallest_limit(&self) -> Option<usize> {
        let smallest = self.0.smallest_limit.load(Ordering::Relaxed);
        (1..usize::MAX).contains(&smallest).then_some(smallest)
    }

    /// `max.message.bytes` of a topic; None if it may not be read, or not in time.
    async fn limit(&self, topic: &str, timeout: Duration) -> Option<usize> {
        let admin = self.admin().await.ok()?;
        let options = AdminOptions::new().request_timeout(Some(timeout));
        let described = admin
            .describe_configs(&[ResourceSpecifier::Topic(topic)], &options)
            .await;
        let limit = match described.ok()?.pop()? {
            Ok(resource) => resource.get(MAX_MESSAGE_BYTES)?.value.as_deref()?.parse().ok()?,
            Err(code) => {
                debug!(topic, error = ?code, "max.message.bytes cannot be read");
                return None;
            }
        };
        self.0.smallest_limit.fetch_min(limit, Ordering::Relaxed);
        Some(limit)
    }
}

impl Broker for KafkaBroker {
    type Producer = KafkaProducer;

    fn producer(&self, role: Role, signals: Signals) -> Result<KafkaProducer, DeliveryError> {
        self.make(&self.0.settings.producer(role, self.smallest_limit()), signals)
    }

    async fn topic(&self, name: &str, timeout: Duration) -> Result<TopicInfo, DeliveryError> {
        let (inner, topic) = (Arc::clone(&self.0), name.to_owned());
        let partitions = blocking(move || inner.partitions(&topic, timeout))
            .await
            .map_err(|error| internal(&error))??;
        *self.0.found.lock() = Some(name.to_owned());
        let limit = self.limit(name, timeout).await;
        Ok(TopicInfo {
            partitions,
            max_uncompressed_bytes: limit.filter(|_| !self.0.settings.compresses()),
        })
    }

    async fn check(&self, topic: Option<&str>, timeout: Duration) -> Result<(), DeliveryError> {
        let (inner, topic) = (Arc::clone(&self.0), topic.map(str::to_owned));
        blocking(move || inner.metadata(topic.as_deref(), timeout).map(drop))
            .await
            .map_err(|error| internal(&error))?
    }
}

impl Inner {
    fn metadata(
        &self,
        topic: Option<&str>,
        timeout: Duration,
    ) -> Result<rdkafka::metadata::Metadata, DeliveryError> {
        let client = self.inquirer.client();
        let answer = client.fetch_metadata(topic, timeout);
        answer
            .inspect(|_| client.context().forget_trouble())
            .map_err(|error| client.context().explain(&error))
    }

    fn partitions(&self, topic: &str, timeout: Duration) -> Result<i32, DeliveryError> {
        let metadata = self.metadata(Some(topic), timeout)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let error = match found {
            Some(found) => found.error().map(Code::from),
            None => Some(Code::UnknownTopicOrPartition),
        };
        match (error, found) {
            (None, Some(found)) => Ok(found.partitions().len() as i32),
            (error, _) => {
                let code = error.unwrap_or(Code::UnknownTopicOrPartition);
                Err(delivery_error(
                    code,
                    format!("topic {topic}: {code}"),
                    self.templated,
                ))
            }
        }
    }
}

impl Producer for KafkaProducer {
    fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        let record = BaseRecord::<[u8], [u8], usize> {
            topic: &message.topic,
            partition: None,
            payload: message.payload.as_deref(),
            key: message.key.as_deref(),
            timestamp: Some(message.timestamp),
            headers: Some(headers_of(message)),
            delivery_opaque: token as usize,
        };
        self.producer
            .send(record)
            .map_err(|(error, _)| match error.rdkafka_error_code() {
                Some(Code::QueueFull) => Refused::QueueFull,
                Some(code) => Refused::Error(DeliveryError {
                    outcome: Outcome::NotWritten,
                    ..delivery_error(code, format!("refused by the client: {code}"), self.templated)
                }),
                // A topic name with a NUL byte, which routing refuses before.
                None => Refused::Error(DeliveryError {
                    class: ErrorClass::Message,
                    code: "InvalidMessage".to_owned(),
                    detail: error.to_string(),
                    outcome: Outcome::NotWritten,
                }),
            })
    }

    fn partition(&self, key: &[u8], partitions: i32) -> i32 {
        partition::partition(key, partitions)
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    fn purge(&self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }

    fn fatal(&self) -> Option<DeliveryError> {
        let (code, text) = self.producer.client().fatal_error()?;
        Some(delivery_error(code, text, self.templated))
    }

    async fn close(self) {
        drop_blocking(self).await;
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        if self.warming.take().is_some_and(|thread| thread.join().is_err()) {
            debug!("a warm-up panicked");
        }
    }
}

/// Lets a producer connect and get its id now, as the first message would: librdkafka asks for an id half a second
/// after its start, or with the first metadata.
fn warm_up(producer: &ThreadedProducer<Context>, topic: Option<String>) -> Option<JoinHandle<()>> {
    let (producer, topic) = (producer.clone(), topic?);
    let connect = move || {
        if let Err(error) = producer.client().fetch_metadata(Some(&topic), WARM_UP) {
            debug!(%error, "a new producer is not connected yet");
        }
    };
    std::thread::Builder::new()
        .name("producer-warm-up".to_owned())
        .spawn(connect)
        .inspect_err(|error| debug!(%error, "no thread for a warm-up"))
        .ok()
}

/// A message's headers as librdkafka takes them.
pub(crate) fn headers_of(message: &Message) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(message.headers.len());
    message.headers.iter().fold(headers, |headers, (name, value)| {
        headers.insert(Header {
            key: name,
            value: Some(&value[..]),
        })
    })
}

fn create(config: &ClientConfig, context: Context) -> Result<ThreadedProducer<Context>, KafkaError> {
    config.create_with_context(context)
}

fn not_created(error: &KafkaError) -> DeliveryError {
    DeliveryError {
        class: ErrorClass::Configuration,
        code: "ClientCreation".to_owned(),
        detail: error.to_string(),
        outcome: Outcome::NotWritten,
    }
}

fn no_admin() -> DeliveryError {
    DeliveryError {
        class: ErrorClass::Configuration,
        code: "UnsupportedFeature".to_owned(),
        detail: "sink.sasl.mechanism: topics can neither be made nor their settings read with OAuthBearer; accepted: a topic \
                 that was made before, as with kafka-topics.sh"
            .to_owned(),
        outcome: Outcome::NotWritten,
    }
}

/// Dropping a client joins its threads.
async fn drop_blocking(client: impl Send + 'static) {
    if let Err(error) = blocking(move || drop(client)).await {
        debug!(%error, "a client's thread panicked");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}

fn internal(error: &tokio::task::JoinError) -> DeliveryError {
    DeliveryError {
        class: ErrorClass::Transient,
        code: "Interrupted".to_owned(),
        detail: error.to_string(),
        outcome: Outcome::NotWritten,
    }
}
