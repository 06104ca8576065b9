//! A cluster with a journal, and processes that own a slot as far as Kafka can tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crds::{Memory, Sink};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use relay::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings, KafkaTransactionalProducer};
use relay::encode::Message;
use relay::journal::{Head, Incarnation, Mark, Opening, Record, Replay, Replayed, Sequence, opening};
use relay::model::{RowId, SlotId};
use relay::ports::{
    Delivered, DeliveryError, Epoch, Journal, JournalError, Producer, Refused, Signal, Signals,
    TransactionError, TransactionalBroker, TransactionalProducer, Verdict,
};
use uuid::Uuid;

use crate::A_WHILE;
use crate::cluster::Cluster;
use crate::fed::wait_until;

pub(super) const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(1));
pub(super) const SLOT: u8 = 3;

pub(super) struct Ground {
    pub(super) cluster: Cluster,
    pub(super) identity: String,
    pub(super) broker: KafkaBroker,
    pub(super) journal: KafkaJournal,
    pub(super) topic: String,
    pub(super) journal_topic: String,
}

impl Ground {
    /// With a topic for events and a journal that has been begun, both named after the identity.
    pub(super) async fn start(cluster: Cluster, identity: &str) -> Self {
        let topic = cluster.topic(&format!("{identity}-events"), 1, &[]).await;
        let journal_topic = format!("{identity}-journal");
        let sink = Sink {
            bootstrap_servers: vec![cluster.bootstrap.clone()],
            topic: topic.clone(),
            ..Sink::default()
        };
        let settings = KafkaSettings::new(&sink, &Memory::default(), "test").unwrap();
        let broker = KafkaBroker::new(settings, false).unwrap();
        let journal = KafkaJournal::new(broker.clone(), identity, &journal_topic);
        journal.prepare().await.unwrap();
        let survey = journal.survey().await.unwrap();
        assert_eq!(opening(identity, None, &survey), Ok(Opening::Begin));
        journal.write_head(&head(identity, INCARNATION)).await.unwrap();
        let survey = journal.survey().await.unwrap();
        assert_eq!(opening(identity, None, &survey), Ok(Opening::Adopt(INCARNATION)));
        Self {
            cluster,
            identity: identity.to_owned(),
            broker,
            journal,
            topic,
            journal_topic,
        }
    }

    /// The transactional id of a process.
    pub(super) fn id(&self, process: u32) -> String {
        format!("{}/relay-{process}/0", self.identity)
    }

    pub(super) async fn owner(&self, process: u32) -> Owner {
        let id = self.id(process);
        let reports = Reports::default();
        let heard = reports.clone();
        let signals = Signals::new(move |signal| {
            if let Signal::Report(report) = signal {
                heard.0.lock().push(report.result);
            }
        });
        let producer = loop {
            match self.broker.transactional(&id, signals.clone()).await {
                Ok(producer) => break producer,
                Err(failure) => assert_eq!(failure.verdict, Verdict::Again, "{failure}"),
            }
        };
        Owner {
            producer,
            identity: self.identity.clone(),
            topic: self.topic.clone(),
            journal_topic: self.journal_topic.clone(),
            reports,
            sent: AtomicU64::new(0),
        }
    }

    /// What a taker of the slot with this epoch learns beyond a checkpoint.
    pub(super) async fn replay(&self, epoch: i64, mark: Mark) -> Result<Replayed, JournalError> {
        let replay = Replay::new(&self.identity, INCARNATION, [(slot(), Epoch(epoch), mark)]);
        Ok(self.journal.replay(replay).await?.remove(&slot()).unwrap())
    }

    /// The events that a `read_committed` consumer sees, in order.
    pub(super) async fn committed(&self) -> Vec<u64> {
        self.events("read_committed").await
    }

    pub(super) async fn events(&self, isolation: &'static str) -> Vec<u64> {
        let (bootstrap, topic) = (self.cluster.bootstrap.clone(), self.topic.clone());
        tokio::task::spawn_blocking(move || payloads(&bootstrap, &topic, isolation))
            .await
            .unwrap()
    }

    /// Markers are written after a commit is answered.
    pub(super) async fn comes_to_hold(&self, expected: &[u64]) {
        let start = std::time::Instant::now();
        while self.committed().await != expected {
            assert!(start.elapsed() < A_WHILE, "{:?}", self.committed().await);
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Reports(Arc<Mutex<Vec<Result<Delivered, DeliveryError>>>>);

/// A process that holds the slot, as far as Kafka can tell.
pub(super) struct Owner {
    pub(super) producer: KafkaTransactionalProducer,
    identity: String,
    topic: String,
    journal_topic: String,
    reports: Reports,
    sent: AtomicU64,
}

impl Owner {
    pub(super) fn send(&self, message: &Message) {
        let token = self.sent.fetch_add(1, Ordering::Relaxed);
        match self.producer.send(token, message) {
            Ok(()) => {}
            // Its producer has failed already: that is the report.
            Err(Refused::Error(error)) => self.reports.0.lock().push(Err(error)),
            Err(Refused::QueueFull) => panic!("the queue is full"),
        }
    }

    pub(super) fn event(&self, payload: String) {
        self.send(&Message {
            topic: self.topic.as_str().into(),
            key: Some("aggregate".into()),
            payload: Some(payload.into()),
            headers: Vec::new(),
            timestamp: 0,
        });
    }

    /// Sends events and the record that says so.
    pub(super) fn transaction(&self, epoch: i64, sequence: Sequence, events: &[u64]) {
        events.iter().for_each(|number| self.event(number.to_string()));
        self.note(SLOT, epoch, sequence, events);
    }

    pub(super) fn note(&self, slot: u8, epoch: i64, sequence: Sequence, events: &[u64]) {
        let record = Record {
            incarnation: INCARNATION,
            slot: SlotId::new(slot).unwrap(),
            epoch: Epoch(epoch),
            sequence,
            resolved: vec![(7, events.iter().map(|number| RowId(*number)).collect())],
        };
        self.send(&Message {
            topic: self.journal_topic.as_str().into(),
            key: Some(record.key().into()),
            payload: Some(record.encode(&self.identity).into()),
            headers: Vec::new(),
            timestamp: 0,
        });
    }

    /// Waits for the reports of everything sent, and returns what failed.
    pub(super) async fn reported(&self) -> Vec<DeliveryError> {
        let sent = self.sent.load(Ordering::Relaxed) as usize;
        wait_until("reports", A_WHILE, || self.reports.0.lock().len() >= sent).await;
        let reports = self.reports.0.lock();
        reports.iter().filter_map(|report| report.clone().err()).collect()
    }

    pub(super) fn forget_reports(&self) {
        self.reports.0.lock().clear();
        self.sent.store(0, Ordering::Relaxed);
    }

    /// Asks until there is an answer.
    pub(super) async fn commit(&self) -> Result<(), TransactionError> {
        loop {
            match self.producer.commit().await {
                Err(failure) if failure.verdict == Verdict::Again => {}
                answer => return answer,
            }
        }
    }

    pub(super) async fn abort(&self) -> Result<(), TransactionError> {
        loop {
            match self.producer.abort().await {
                Err(failure) if failure.verdict == Verdict::Again => {}
                answer => return answer,
            }
        }
    }

    pub(super) async fn commits(&self, epoch: i64, sequence: Sequence, events: &[u64]) {
        self.transaction(epoch, sequence, events);
        assert_eq!(self.reported().await, []);
        self.commit().await.unwrap();
    }
}

pub(super) fn slot() -> SlotId {
    SlotId::new(SLOT).unwrap()
}

pub(super) fn head(identity: &str, incarnation: Incarnation) -> Head {
    Head {
        identity: identity.to_owned(),
        incarnation,
    }
}

/// Checks that a replay found these numbers and nothing else; returns its mark.
pub(super) fn found(replayed: Result<Replayed, JournalError>, sequence: Sequence, events: &[u64]) -> Mark {
    let Ok(Replayed::Ours { mark, resolved }) = replayed else {
        panic!("{replayed:?}");
    };
    let ids: Vec<_> = events.iter().map(|number| (7, RowId(*number))).collect();
    assert_eq!((mark.sequence, resolved), (sequence, ids));
    mark
}

fn payloads(bootstrap: &str, topic: &str, isolation: &str) -> Vec<u64> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "test")
        .set("isolation.level", isolation)
        .set("fetch.wait.max.ms", "10")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&assignment).unwrap();
    let mut found = Vec::new();
    loop {
        match consumer.poll(A_WHILE).expect("more messages, or the end") {
            Ok(message) => found.push(
                std::str::from_utf8(message.payload().unwrap())
                    .unwrap()
                    .parse()
                    .unwrap(),
            ),
            Err(KafkaError::PartitionEOF(_)) => return found,
            Err(error) => eprintln!("{error}"),
        }
    }
}
