//! The baselines: the same machine, the same data, and no relay.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use scylla::client::session::Session;
use scylla::response::query_result::QueryRowsResult;

use super::log::{Log, Row};
use super::processes::{Meter, Usage, Watched};
use super::producer::{Message, Producer};
use super::topic::{self, EndOffsets};
use super::{BenchError, Drained, Part};
use crate::kafka::Cluster;

/// What every baseline needs to know.
pub struct Plan {
    pub round: u32,
    pub keyspace: String,
    /// Log rows that must be there.
    pub events: u64,
    /// This process among them.
    pub watched: Vec<Watched>,
}

/// Where to produce to: a topic that is made for this and dropped afterwards.
pub struct Destination {
    pub cluster: Cluster,
    pub topic: String,
    pub partitions: i32,
}

/// A: the log's events, ready in memory, through bare librdkafka. Memory: about 1 KiB an event.
///
/// # Errors
/// Not everything was acknowledged and found in the topic.
pub async fn produce(plan: Plan, session: Session, to: Destination) -> Result<Drained, BenchError> {
    let log = Arc::new(Log::open(session, &plan.keyspace).await?);
    let (loaded, mut pages) = tokio::sync::mpsc::channel(1);
    let scan = tokio::spawn(log.scan(move |page| {
        let loaded = loaded.clone();
        async move {
            let closed = |error| BenchError::new("loading the log", error);
            loaded.send(messages(&page)?).await.map_err(closed)
        }
    }));
    let mut all = Vec::new();
    while let Some(page) = pages.recv().await {
        all.extend(page);
    }
    ended(scan.await)?;
    plan.check("log rows read", all.len() as u64)?;

    topic::create(&to.cluster, &to.topic, to.partitions).await?;
    let producer = Producer::ready(&to.cluster, &to.topic).await?;
    let meter = Meter::start(&plan.watched)?;
    for message in &all {
        producer.send(message).await?;
    }
    producer.delivered(plan.events).await?;
    let usage = meter.read()?;
    plan.finish_topic(to).await?;
    Ok(plan.drained(Part::Produce, usage))
}

/// B: the log through the bare driver, values as bytes.
///
/// # Errors
/// Not every event was read.
pub async fn read(plan: Plan, session: Session) -> Result<Drained, BenchError> {
    let log = Arc::new(Log::open(session, &plan.keyspace).await?);
    let events = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&events);
    let meter = Meter::start(&plan.watched)?;
    log.scan(move |page| {
        let read = each(&page, |row| {
            black_box(row.bytes());
            counted.fetch_add(1, Ordering::Relaxed);
        });
        async move { read }
    })
    .await?;
    let usage = meter.read()?;
    plan.check("log rows read", events.load(Ordering::Relaxed))?;
    Ok(plan.drained(Part::Read, usage))
}

/// C: B feeding A.
///
/// # Errors
/// Not everything was read, acknowledged and found in the topic.
pub async fn pipe(plan: Plan, session: Session, to: Destination) -> Result<Drained, BenchError> {
    let log = Arc::new(Log::open(session, &plan.keyspace).await?);
    topic::create(&to.cluster, &to.topic, to.partitions).await?;
    let producer = Producer::ready(&to.cluster, &to.topic).await?;
    let sender = producer.clone();
    let meter = Meter::start(&plan.watched)?;
    log.scan(move |page| {
        let sender = sender.clone();
        async move {
            for message in messages(&page)? {
                sender.send(&message).await?;
            }
            Ok(())
        }
    })
    .await?;
    producer.delivered(plan.events).await?;
    let usage = meter.read()?;
    plan.finish_topic(to).await?;
    Ok(plan.drained(Part::Pipe, usage))
}

impl Plan {
    fn check(&self, what: &str, found: u64) -> Result<(), BenchError> {
        if found == self.events {
            return Ok(());
        }
        Err(BenchError::new(
            what,
            format!("{found} instead of {}", self.events),
        ))
    }

    /// Counts the topic, which holds the producer's first message too, and drops it.
    async fn finish_topic(&self, to: Destination) -> Result<(), BenchError> {
        let (cluster, name) = (to.cluster.clone(), to.topic.clone());
        let counted =
            tokio::task::spawn_blocking(move || EndOffsets::open(&cluster, &name)?.messages()).await;
        let messages = counted.map_err(|error| BenchError::new("counting a topic", error))??;
        self.check("messages in the topic", messages - 1)?;
        topic::delete(&to.cluster, &to.topic).await
    }

    fn drained(&self, part: Part, usage: Usage) -> Drained {
        Drained {
            part,
            round: self.round,
            events: self.events,
            usage,
            relay: None,
        }
    }
}

fn messages(page: &QueryRowsResult) -> Result<Vec<Message>, BenchError> {
    let mut messages = Vec::with_capacity(page.rows_num());
    each(page, |row| messages.push(Message::of(&row)))?;
    Ok(messages)
}

fn each(page: &QueryRowsResult, mut take: impl FnMut(Row<'_>)) -> Result<(), BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::new("reading a page", error);
    for row in page.rows::<Row<'_>>().map_err(|error| failed(&error))? {
        let row = row.map_err(|error| failed(&error))?;
        if row.is_event() {
            take(row);
        }
    }
    Ok(())
}

fn ended(task: Result<Result<(), BenchError>, tokio::task::JoinError>) -> Result<(), BenchError> {
    task.map_err(|error| BenchError::new("reading the log", error))?
}
