//! Transactions of the commands: what is published and what says so in the dead-letter topic, both or neither.
//!
//! Whoever decides on the letters of a topic has the topic's transactional id. Opening it ends whoever had it before, and
//! what that one had not committed; so letters are read after it was opened, and nothing is decided twice.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::reading::LetterTopic;
use crate::deliver::kafka::KafkaTransactionalProducer;
use crate::encode::Message;
use crate::ports::{
    DeliveryError, ErrorClass, Producer as _, Refused, Report, Signal, Signals, TransactionError,
    TransactionalBroker as _, TransactionalProducer as _, Verdict,
};

/// How long reports may take: a message of a transaction fails by itself after 20 s.
const REPORT_LIMIT: Duration = Duration::from_secs(30);

/// How long an end without an answer is asked for again.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Until room in librdkafka's queue is looked for again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// The only one that decides on the letters of a topic.
pub struct Decider {
    producer: KafkaTransactionalProducer,
    id: String,
    reports: Arc<Reports>,
    /// Tokens are never used again, so a late report is nobody else's.
    next_token: u64,
}

/// Reports that nobody has looked at: at most one for each message of a transaction.
#[derive(Default)]
struct Reports {
    arrived: Mutex<Vec<Report>>,
    one_arrived: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecideError {
    #[error(
        "another replay or discard of this dead-letter topic has begun and goes on instead (transactional id {id}); what \
         was done before stays done"
    )]
    Fenced { id: String },
    #[error(
        "transactional id {id}: the last transaction has no answer ({error}); call the command again, which finds out"
    )]
    Unanswered { id: String, error: DeliveryError },
    #[error("transactional id {id}: {error}")]
    Failed { id: String, error: DeliveryError },
}

impl DecideError {
    /// Stable name for log fields.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "Fenced",
            Self::Unanswered { .. } => "Unanswered",
            Self::Failed { .. } => "Failed",
        }
    }
}

/// Names of errors that say that somebody else has the transactional id.
const FENCED: [&str; 3] = ["Fenced", "ProducerFenced", "InvalidProducerEpoch"];

impl Decider {
    /// Ends whoever decides on letters of the topic now.
    ///
    /// # Errors
    /// The cluster refuses or does not answer.
    pub async fn open(topic: &LetterTopic) -> Result<Self, DecideError> {
        let id = format!("{}-replay", topic.name());
        let reports = Arc::new(Reports::default());
        let heard = reports.clone();
        let signals = Signals::new(move |signal| {
            // Trouble that lasts ends in reports.
            if let Signal::Report(report) = signal {
                heard.arrived.lock().push(report);
                heard.one_arrived.notify_one();
            }
        });
        let opened = topic.broker().transactional(&id, signals).await;
        let producer = opened.map_err(|failure| failed(&id, failure.error))?;
        Ok(Self {
            producer,
            id,
            reports,
            next_token: 0,
        })
    }

    /// Sends these messages, in order, in one transaction. Nothing is returned if it is committed; else nothing of it is
    /// there, and the places of the messages that failed are returned, and why each did.
    ///
    /// # Errors
    /// The producer has ended, or does not answer.
    pub async fn attempt(
        &mut self,
        messages: &[Message],
    ) -> Result<Vec<(usize, DeliveryError)>, DecideError> {
        let first = self.next_token;
        self.next_token += messages.len() as u64;
        let until = Instant::now() + REPORT_LIMIT;
        let (mut refused, mut sent) = (Vec::new(), 0);
        for (place, message) in messages.iter().enumerate() {
            match self.send(first + place as u64, message, until).await {
                Ok(()) => sent += 1,
                Err(error) => {
                    refused.push((place, error));
                    break;
                }
            }
        }
        loop {
            for report in std::mem::take(&mut *self.reports.arrived.lock()) {
                let Some(place) = report.token.checked_sub(first) else {
                    continue;
                };
                sent -= 1;
                refused.extend(report.result.err().map(|error| (place as usize, error)));
            }
            if sent == 0 {
                break;
            }
            let arrived = self.reports.one_arrived.notified();
            if tokio::time::timeout_at(until, arrived).await.is_err() {
                return Err(failed(&self.id, no_reports()));
            }
        }
        if refused.is_empty() {
            self.commit().await?;
        } else {
            self.abort(&refused).await?;
        }
        Ok(refused)
    }

    /// Why nothing more is tried.
    pub fn gave_up(&self, error: DeliveryError) -> DecideError {
        failed(&self.id, error)
    }

    /// Leaves the topic to others.
    pub async fn close(self) {
        self.producer.close().await;
    }

    async fn send(&self, token: u64, message: &Message, until: Instant) -> Result<(), DeliveryError> {
        loop {
            match self.producer.send(token, message) {
                Ok(()) => return Ok(()),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::QueueFull) if Instant::now() >= until => return Err(no_reports()),
                Err(Refused::QueueFull) => tokio::time::sleep(FULL_PAUSE).await,
            }
        }
    }

    async fn commit(&self) -> Result<(), DecideError> {
        let until = Instant::now() + END_LIMIT;
        loop {
            let Err(failure) = self.producer.commit().await else {
                return Ok(());
            };
            match failure.verdict {
                Verdict::Again if Instant::now() < until => {}
                Verdict::Again => return Err(self.unanswered(failure.error)),
                Verdict::Abort => {
                    self.abort(&[]).await?;
                    return Err(self.gave_up(failure.error));
                }
                Verdict::Ended if is_fenced(&failure.error) => return Err(self.gave_up(failure.error)),
                Verdict::Ended => return Err(self.unanswered(failure.error)),
            }
        }
    }

    async fn abort(&self, refused: &[(usize, DeliveryError)]) -> Result<(), DecideError> {
        let until = Instant::now() + END_LIMIT;
        while let Err(TransactionError { verdict, error }) = self.producer.abort().await {
            if verdict != Verdict::Again || Instant::now() >= until {
                // What ended the producer may be known from its messages only.
                let why = refused
                    .iter()
                    .map(|(_, error)| error)
                    .find(|error| is_fenced(error));
                return Err(self.gave_up(why.cloned().unwrap_or(error)));
            }
        }
        Ok(())
    }

    fn unanswered(&self, error: DeliveryError) -> DecideError {
        DecideError::Unanswered {
            id: self.id.clone(),
            error,
        }
    }
}

fn failed(id: &str, error: DeliveryError) -> DecideError {
    let id = id.to_owned();
    if is_fenced(&error) {
        DecideError::Fenced { id }
    } else {
        DecideError::Failed { id, error }
    }
}

fn is_fenced(error: &DeliveryError) -> bool {
    FENCED.contains(&error.code.as_str())
}

fn no_reports() -> DeliveryError {
    DeliveryError {
        class: ErrorClass::Transient,
        code: "Stalled".to_owned(),
        detail: format!("no broker took it within {} s", REPORT_LIMIT.as_secs()),
        outcome: crate::ports::Outcome::Unknown,
    }
}
