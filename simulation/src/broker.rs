//! The model of a Kafka cluster and of librdkafka in front of it, from their documentation and from what was measured.

mod client;
mod cluster;
mod journal;
mod line;
mod request;
mod transactional;

use std::sync::Arc;
use std::time::Duration;

use relay::encode::Message;
use relay::journal::{Entry, decode};
use relay::ports::{Broker, DeliveryError, ErrorClass, Outcome, Producer, Refused, Role, Signals, TopicInfo};

use crate::plan::Fault;
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::{MS, Micros, SECOND, World};
use client::Client;
pub(crate) use cluster::Cluster;
use cluster::Effects;

const PARTITIONS: usize = 3;

/// What the topic takes; only one kind of poison is larger.
pub(crate) const MAX_MESSAGE_BYTES: usize = 100_000;

/// Messages that a queue takes while it is short.
const SHORT_QUEUE: usize = 3;

/// A request of the coordinator's arrives this late, at most: when leases have run out, and others own the slots.
const LATEST: Micros = 6 * SECOND;

/// A request that arrives when nobody waits for it any more.
pub(crate) struct Late {
    due: Micros,
    request: Request,
}

enum Request {
    Initialise(String),
    End {
        id: String,
        epoch: u32,
        number: usize,
        commit: bool,
    },
}

pub(crate) struct ModelProducer(Arc<Client>);

/// A message with a producer: the relay's token, the oracle's number, and what decides its fate.
#[derive(Debug, Clone)]
struct Item {
    token: u64,
    send: usize,
    partition: usize,
    poison: Option<Poison>,
}

/// Messages that a broker never accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poison {
    /// The row's payload is null: no message can be made of it.
    Unusable,
    /// The client refuses it when it is handed over.
    AtOnce,
    /// The broker refuses its whole batch as too large.
    Batch,
    /// The broker names it, and tells its batch-mates that they failed with another.
    Record,
}

impl Poison {
    pub(crate) const ALL: [Self; 4] = [Self::Unusable, Self::AtOnce, Self::Batch, Self::Record];

    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Unusable => "unusable",
            Self::AtOnce => "poison-at-once",
            Self::Batch => "poison-batch",
            Self::Record => "poison-record",
        }
    }

    fn of(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        Self::ALL.into_iter().find(|poison| text.contains(poison.mark()))
    }

    /// What a message of the batch is told that this one was in: of itself, or of its batch-mate.
    fn refusal(self, itself: bool) -> DeliveryError {
        let (class, code) = match (self, itself) {
            (Self::Record, true) => (ErrorClass::Message, "InvalidRecord"),
            (Self::Record, false) => (ErrorClass::Collateral, "InvalidDifferentRecord"),
            _ => (ErrorClass::Message, "MessageSizeTooLarge"),
        };
        error(class, code, Outcome::NotWritten)
    }
}

fn error(class: ErrorClass, code: &str, outcome: Outcome) -> DeliveryError {
    DeliveryError {
        class,
        code: code.to_owned(),
        detail: "planted".to_owned(),
        outcome,
    }
}

fn place_of(message: &Message) -> usize {
    partition_of(message.key.as_deref().unwrap_or_default(), PARTITIONS as i32) as usize
}

/// Any good hash of the key will do.
fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let hash = key
        .iter()
        .fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(*byte));
    (hash % partitions as u32) as i32
}

/// What a trace calls it.
fn named(message: &Message) -> String {
    let headers = message.headers.iter();
    let told = headers.filter(|(name, _)| matches!(&**name, "source-position" | "event-id" | "late"));
    told.map(|(name, value)| format!("{name} {}", String::from_utf8_lossy(value)))
        .collect::<Vec<_>>()
        .join(", ")
}

impl World {
    /// Tells everybody what the cluster has done.
    fn took_effect(&self, effects: Effects) {
        let now = self.now();
        if let Some((sends, records)) = effects.committed {
            self.count("transactions: committed");
            let identity = &self.plan.config.identity;
            let records = records
                .iter()
                .filter_map(|record| match decode(identity, Some(record)) {
                    Ok(Entry::Record(record)) => Some(record),
                    _ => None,
                });
            let records: Vec<_> = records.collect();
            self.judge(|oracle| oracle.committed(&sends, &records, now));
        }
        if effects.aborted {
            self.count("transactions: aborted");
        }
        for send in effects.shown {
            self.tell(|| format!("consumers see message {send}"));
            let appended = self.judge(|oracle| oracle.appended(send, now));
            if appended.late {
                self.count("outcome: late event");
            }
            if appended.duplicate {
                self.count("outcome: duplicate");
            }
        }
    }

    fn cluster_later(&self, late: Late) {
        self.late.lock().push(late);
    }

    /// What is due in the cluster, though nobody waits for it.
    pub(crate) fn pump(self: &Arc<Self>) {
        let now = self.now();
        let due: Vec<Late> = self.late.lock().extract_if(.., |late| late.due <= now).collect();
        for late in due {
            match late.request {
                Request::Initialise(id) => {
                    let (_, effects) = self.cluster.lock().initialise(&id);
                    self.took_effect(effects);
                }
                Request::End {
                    id,
                    epoch,
                    number,
                    commit,
                } => {
                    if transactional::apply(self, (&id, epoch), number, commit).is_err() {
                        self.count("transactions: end asked for by a fenced producer refused");
                    }
                }
            }
        }
        let expired = self.cluster.lock().expire(now - self.plan.transaction_timeout);
        for effects in expired {
            self.count("transactions: open for too long");
            self.took_effect(effects);
        }
    }
}

impl Broker for Port {
    type Producer = ModelProducer;

    fn producer(&self, role: Role, signals: Signals) -> Result<ModelProducer, DeliveryError> {
        let (process, world) = (&self.0, &self.0.world);
        process.point(Point::ProducerMade);
        if world.fault(Fault::ProducerNotMade, process.seat) && world.percent(70) {
            world.count("broker: producer not made");
            return Err(error(
                ErrorClass::Configuration,
                "ClientCreation",
                Outcome::NotWritten,
            ));
        }
        world.tell(|| format!("{} makes a producer: {role:?}", process.name));
        Ok(ModelProducer(Client::start(process, role, signals)))
    }

    async fn topic(&self, _: &str, timeout: Duration) -> Result<TopicInfo, DeliveryError> {
        self.0.pass(Point::TopicAsked).await;
        self.ask(timeout).await?;
        Ok(TopicInfo {
            partitions: PARTITIONS as i32,
            max_uncompressed_bytes: Some(MAX_MESSAGE_BYTES),
        })
    }

    async fn check(&self, _: Option<&str>, timeout: Duration) -> Result<(), DeliveryError> {
        self.0.pass(Point::TopicAsked).await;
        self.ask(timeout).await
    }
}

impl Port {
    async fn ask(&self, timeout: Duration) -> Result<(), DeliveryError> {
        let (process, world) = (&self.0, &self.0.world);
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 5 * MS)))
            .await;
        let silent = [Fault::TopicUnasked, Fault::BrokersDown, Fault::BrokerStall];
        let until = silent
            .into_iter()
            .filter_map(|fault| world.fault_until(fault, process.seat))
            .max();
        if let Some(until) = until {
            let patience = (timeout.as_micros() as Micros).min(until - world.now());
            let timed_out = patience == timeout.as_micros() as Micros || world.percent(50);
            world.sleep(patience).await;
            process.thawed().await;
            if timed_out {
                world.count("broker: question about the topic failed");
                return Err(error(
                    ErrorClass::Transient,
                    "OperationTimedOut",
                    Outcome::NotWritten,
                ));
            }
        }
        process.thawed().await;
        Ok(())
    }
}

impl Producer for ModelProducer {
    fn send(&self, token: u64, message: &relay::encode::Message) -> Result<(), Refused> {
        self.0.send(token, message)
    }

    fn partition(&self, key: &[u8], partitions: i32) -> i32 {
        partition_of(key, partitions)
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn purge(&self) {
        self.0.process.point(Point::Purging);
        self.0.purge();
    }

    async fn close(self) {
        self.0.process.thawed().await;
        self.0.end();
    }
}

impl Drop for ModelProducer {
    fn drop(&mut self) {
        self.0.end();
    }
}
