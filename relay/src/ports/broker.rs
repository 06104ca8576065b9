//! The Kafka broker.

use std::future::Future;
use std::time::Duration;

/// Makes producers and answers questions about topics.
pub trait Broker: Send + Sync + 'static {
    type Producer: Producer;

    /// A new producer generation, whose signals go to `signals`. Each accepted message gets exactly one report, also
    /// after an error or a purge. Does not wait for the cluster.
    fn producer(&self, role: Role, signals: Signals) -> Result<Self::Producer, DeliveryError>;

    /// Asks the cluster about a topic; each of its questions takes at most `timeout`. A topic that metadata confirms
    /// missing is an error whose code says so.
    fn topic(
        &self,
        name: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<TopicInfo, DeliveryError>> + Send;

    /// Whether some broker answers a question about `topic` (None: about all topics), whatever the answer.
    fn check(
        &self,
        topic: Option<&str>,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), DeliveryError>> + Send;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInfo {
    pub partitions: i32,
    /// The topic takes no record batch that is larger, and messages are not compressed; None if only the broker can
    /// tell.
    pub max_uncompressed_bytes: Option<usize>,
}

/// What a producer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Idempotent and gapless: after its first failed message nothing behind it is written.
    Flow,
    /// Idempotent; survives failed messages, and gives no order across them. What it sends at a time must not need
    /// any.
    Isolation,
}

/// One producer generation.
pub trait Producer: Send + Sync + 'static {
    /// Hands a message over; never blocks. `token` comes back in its report.
    fn send(&self, token: u64, message: &crate::encode::Message) -> Result<(), Refused>;

    /// The partition that messages with this key go to, of a topic that has so many.
    fn partition(&self, key: &[u8], partitions: i32) -> i32;

    /// Messages without a report so far.
    fn in_flight(&self) -> usize;

    /// Gives up what is queued and in flight; each message still gets its report.
    fn purge(&self);

    /// Why it will never send again, known before anything that fails with it is reported; None if it is alive, or if
    /// its signals say everything.
    fn fatal(&self) -> Option<DeliveryError> {
        None
    }

    /// Ends the producer, which takes up to a second. No report is awaited.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Why a message was not taken. No report follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Back-pressure, not an error: try the same message again after some reports.
    QueueFull,
    Error(DeliveryError),
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub token: u64,
    pub result: Result<Delivered, DeliveryError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub partition: i32,
    pub offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct DeliveryError {
    pub class: ErrorClass,
    /// Kafka's or librdkafka's name of the error, for example `MessageSizeTooLarge`.
    pub code: String,
    pub detail: String,
    pub outcome: Outcome,
}

/// Error classes decide what happens (reference: the relay's error table in ARCHITECTURE.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// This record can never be accepted.
    Message,
    /// Somebody has to change something: topic missing, authorisation.
    Configuration,
    /// Broker or network.
    Transient,
    /// This producer is finished; its messages failed only with it, or with a batch-mate.
    Collateral,
}

impl ErrorClass {
    pub const ALL: [Self; 4] = [
        Self::Message,
        Self::Configuration,
        Self::Transient,
        Self::Collateral,
    ];

    /// Stable name for metric labels, condition reasons and log fields.
    pub fn category(self) -> &'static str {
        match self {
            Self::Message => "Message",
            Self::Configuration => "Configuration",
            Self::Transient => "Transient",
            Self::Collateral => "Collateral",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    NotWritten,
    /// It may or may not be in the topic.
    Unknown,
}

/// What a producer says of its own accord.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    Report(Report),
    /// No broker can be reached. Said once per outage, so whoever hears it has to find out when it is over.
    AllBrokersDown(DeliveryError),
    /// This producer will never send again.
    Fatal(DeliveryError),
    /// Something that librdkafka goes on from by itself, but only if somebody mends it: TLS, SASL, a name that does
    /// not resolve.
    Trouble(DeliveryError),
}

/// Where signals go: called from the client's own threads, must neither block nor log.
#[derive(Clone)]
pub struct Signals(std::sync::Arc<dyn Fn(Signal) + Send + Sync>);

impl Signals {
    pub fn new(deliver: impl Fn(Signal) + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(deliver))
    }

    pub fn send(&self, signal: Signal) {
        (self.0)(signal);
    }
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}
