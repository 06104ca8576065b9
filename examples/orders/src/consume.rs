//! A consumer as services should have one behind an at-least-once relay: it acts on every event once, by event id.

use std::collections::{HashSet, VecDeque};

use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use uuid::Uuid;

use crate::kafka::{Cluster, event_id, header};

/// Event ids that are remembered. A repeat comes at most one checkpoint interval of the relay and what was in flight
/// after the first; a million events are minutes of both, in about 50 MB.
const REMEMBERED: usize = 1_000_000;

/// Reads the topic as a member of `group`, and hands on what it has not seen. A real service keeps the ids in the
/// transaction of what it does with the event; this one prints, and starts anew with every process.
pub async fn run(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    mut act: impl FnMut(&str),
) -> Result<(), KafkaError> {
    let consumer: StreamConsumer = cluster
        .config()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .create()?;
    consumer.subscribe(&[topic])?;
    let mut seen = Seen::new(REMEMBERED);
    loop {
        let message = match consumer.recv().await {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "waiting for Kafka");
                continue;
            }
        };
        match event_id(&message) {
            Some(id) if !seen.first(id) => tracing::info!(%id, "repeat dropped"),
            id => act(&describe(&message, id)),
        }
        // Only what was acted upon: a crash before this line brings the event again, not never.
        consumer.commit_message(&message, CommitMode::Async)?;
    }
}

fn describe(message: &impl Message, id: Option<Uuid>) -> String {
    let text = |bytes: Option<&[u8]>| {
        bytes
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default()
    };
    format!(
        "{} {} key {} partition {} offset {} {}",
        id.map_or_else(|| "(no event id)".to_owned(), |id| id.to_string()),
        text(header(message, "event-type")),
        text(message.key()),
        message.partition(),
        message.offset(),
        text(message.payload()),
    )
}

/// The most recent event ids.
pub struct Seen {
    ids: HashSet<Uuid>,
    oldest_first: VecDeque<Uuid>,
    capacity: usize,
}

impl Seen {
    pub fn new(capacity: usize) -> Self {
        Self {
            ids: HashSet::new(),
            oldest_first: VecDeque::new(),
            capacity,
        }
    }

    /// Whether this id is not among the remembered ones; remembers it.
    pub fn first(&mut self, id: Uuid) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > self.capacity
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_dropped_as_long_as_they_are_remembered() {
        let mut seen = Seen::new(2);
        let first = [1, 1, 2, 1, 3, 2, 1].map(|number| seen.first(Uuid::from_u128(number)));
        assert_eq!(
            first,
            [true, false, true, false, true, false, true],
            "1 was forgotten when 3 came"
        );
    }
}
