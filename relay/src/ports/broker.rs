//! The Kafka broker.

use std::future::Future;
use std::time::Duration;

/// Makes producers and answers questions about topics.
pub trait Broker: Send + Sync + 'static {
    type Producer: Producer;

    /// A new producer generation, whose delivery reports go to `reports`. Each accepted message gets exactly one
    /// report, also after an error or a purge.
    fn producer(&self, reports: Reports) -> Result<Self::Producer, DeliveryError>;

    /// Asks the cluster, at most for `timeout`. A topic that metadata confirms missing is a
    /// [`ErrorClass::Configuration`] error whose code says so.
    fn topic(
        &self,
        name: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<TopicInfo, DeliveryError>> + Send;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicInfo {
    pub partitions: i32,
    /// The topic's `max.message.bytes`; None if it may not be read.
    pub max_message_bytes: Option<usize>,
}

/// One producer generation: idempotent and gapless, so after its first failed message nothing behind it is written.
pub trait Producer: Send + Sync + 'static {
    /// Hands a message over; never blocks. `token` comes back in its report.
    fn send(&self, token: u64, message: &crate::encode::Message) -> Result<(), Refused>;

    /// Messages without a report so far.
    fn in_flight(&self) -> usize;

    /// Gives up what is queued and in flight; each message still gets its report.
    fn purge(&self);
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

/// Where reports go: called from the client's own thread, must neither block nor log.
#[derive(Clone)]
pub struct Reports(std::sync::Arc<dyn Fn(Report) + Send + Sync>);

impl Reports {
    pub fn new(deliver: impl Fn(Report) + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(deliver))
    }

    pub fn report(&self, report: Report) {
        (self.0)(report);
    }
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reports")
    }
}
