//! A dead-letter topic as the commands read it: what is committed, up to the end that it has when they ask.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::sink::Key;
use thiserror::Error;

use super::fold::{Fold, Kept};
use super::record::{Letter, Place, Record, read};
use crate::deliver::kafka::reading::{Range, Span, TopicReader};
use crate::deliver::kafka::{KafkaBroker, KafkaSettings, SettingsError};
use crate::ports::{Broker as _, DeliveryError, ErrorClass};

/// Longest answer awaited to a question about a topic.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// A topic that was just made is not known everywhere, so nothing is said of one before it was asked about twice.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The dead-letter topic of a configuration. Needs no ScyllaDB.
pub struct LetterTopic {
    name: Arc<str>,
    broker: KafkaBroker,
    reader: TopicReader,
    max_replays: u32,
    /// Letters of different events have different keys.
    keyed_by_event: bool,
}

/// What is in the topic.
pub struct Contents {
    /// In the order of the log.
    pub letters: Vec<Kept>,
    /// Records that no relay wrote.
    pub foreign: u64,
}

#[derive(Debug, Error)]
pub enum TopicError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("deadLetter.topic: there is no topic {0}; accepted: one that is there")]
    Missing(Arc<str>),
    #[error(
        "deadLetter.topic: {0} is compacted (cleanup.policy), and its records have the key of their aggregate: one of them \
         takes the others away; accepted: cleanup.policy=delete, or sink.key: EventId"
    )]
    Compacted(Arc<str>),
    #[error("topic {topic}: {error}")]
    Kafka { topic: Arc<str>, error: DeliveryError },
}

impl TopicError {
    /// Stable name for log fields.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Settings(_) => "Settings",
            Self::Missing(_) => "Missing",
            Self::Compacted(_) => "Compacted",
            Self::Kafka { .. } => "Kafka",
        }
    }
}

impl LetterTopic {
    /// Reaches for no network.
    ///
    /// # Errors
    /// A secret cannot be read, or librdkafka refuses a property.
    pub fn open(config: &RelayConfig, topic: &str) -> Result<Self, TopicError> {
        let client_id = format!("outbox-relay-{}-dead-letters", config.identity);
        let settings = KafkaSettings::new(&config.sink, &config.memory, &client_id)?;
        // The topics of letters are those that they name, so one that is missing is a letter's matter.
        let broker = KafkaBroker::new(settings, true)?;
        Ok(Self {
            name: topic.into(),
            reader: TopicReader::new(broker.clone(), &config.identity),
            broker,
            max_replays: config.dead_letter.max_replays,
            keyed_by_event: config.sink.key == Key::EventId,
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn broker(&self) -> &KafkaBroker {
        &self.broker
    }

    /// The undecided letters.
    ///
    /// # Errors
    /// There is no such topic, or the brokers refuse or do not answer.
    pub async fn contents(&self) -> Result<Contents, TopicError> {
        let spans = match self.spans().await {
            Ok(spans) => spans,
            Err(_) => {
                tokio::time::sleep(AGAIN_AFTER).await;
                self.spans().await?
            }
        };
        let ranges = spans.iter().map(|span| (span.partition, span.low, span.end));
        let fold = self.visit(ranges.collect(), Fold::default(), |fold, place, record| {
            fold.see(place, record);
            ControlFlow::Continue(())
        });
        let fold = fold.await?;
        let foreign = fold.foreign;
        Ok(Contents {
            letters: fold.finish(self.max_replays),
            foreign,
        })
    }

    async fn spans(&self) -> Result<Vec<Span>, TopicError> {
        let spans = self.reader.spans(&self.name, 0, 0).await;
        let spans = spans.map_err(|error| self.failed(error))?;
        spans.ok_or_else(|| TopicError::Missing(self.name.clone()))
    }

    /// These letters with their payloads, in the same order; None for one that the topic does not have any more.
    ///
    /// # Errors
    /// The brokers refuse or do not answer.
    pub async fn whole(&self, letters: &[Kept]) -> Result<Vec<Option<Letter>>, TopicError> {
        let mut wanted = BTreeMap::<i32, BTreeSet<i64>>::new();
        for kept in letters {
            let offsets = wanted.entry(kept.place.partition).or_default();
            offsets.insert(kept.place.offset);
        }
        let range = |(partition, offsets): (&i32, &BTreeSet<i64>)| -> Option<Range> {
            Some((*partition, *offsets.first()?, *offsets.last()? + 1))
        };
        let ranges = wanted.iter().filter_map(range).collect();
        let found = self.visit(ranges, BTreeMap::new(), move |found, place, record| {
            let is_wanted = wanted
                .get(&place.partition)
                .is_some_and(|offsets| offsets.contains(&place.offset));
            if let (true, Record::Letter(letter)) = (is_wanted, record) {
                found.insert(place, letter);
            }
            ControlFlow::Continue(())
        });
        let mut found = found.await?;
        let whole = letters.iter().map(|kept| {
            let letter = found.remove(&kept.place)?;
            Some(kept.with(*letter))
        });
        Ok(whole.collect())
    }

    /// Nothing may be written that takes undecided letters away.
    ///
    /// # Errors
    /// Compaction would. Not if the cluster does not tell.
    pub async fn ensure_keeps_letters(&self) -> Result<(), TopicError> {
        if !self.keyed_by_event && self.reader.is_compacted(&self.name).await == Some(true) {
            return Err(TopicError::Compacted(self.name.clone()));
        }
        Ok(())
    }

    /// Which of these topics are not there.
    ///
    /// # Errors
    /// The brokers refuse or do not answer.
    pub async fn missing(&self, topics: BTreeSet<Arc<str>>) -> Result<BTreeSet<Arc<str>>, TopicError> {
        let mut missing = BTreeSet::new();
        for topic in topics {
            let mut answer = self.broker.topic(&topic, ASK_TIMEOUT).await;
            if answer.is_err() {
                tokio::time::sleep(AGAIN_AFTER).await;
                answer = self.broker.topic(&topic, ASK_TIMEOUT).await;
            }
            match answer {
                Ok(_) => {}
                // Known to be missing, or no name that a topic can have.
                Err(error) if error.class == ErrorClass::Message => drop(missing.insert(topic)),
                Err(error) => return Err(TopicError::Kafka { topic, error }),
            }
        }
        Ok(missing)
    }

    async fn visit<T: Send + 'static>(
        &self,
        ranges: Vec<Range>,
        state: T,
        mut visitor: impl FnMut(&mut T, Place, Record) -> ControlFlow<()> + Send + 'static,
    ) -> Result<T, TopicError> {
        let visited = self.reader.visit_messages(
            &self.name,
            ranges,
            state,
            move |state: &mut T, partition, offset, message| {
                visitor(state, Place { partition, offset }, read(message))
            },
        );
        visited.await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: DeliveryError) -> TopicError {
        TopicError::Kafka {
            topic: self.name.clone(),
            error,
        }
    }
}
