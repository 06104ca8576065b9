//! Repeats, and which crash explains each: an event that was in the topic before may come again if whoever had delivered
//! it died, or lost its slots, before it had saved that; or if it never heard that it had.

use std::collections::HashMap;
use std::time::Duration;

use orders::kafka::{Cluster, event_id};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::plan::{Action, Line};
use crate::troubles::Trouble;

/// From an acknowledgement until a checkpoint holds it, milliseconds: an interval (500), the pause between two rounds (500),
/// a round itself, and what a busy machine adds.
const UNSAVED: i64 = 2500;

/// After trouble with a line, until what waited has gone through.
const RECOVERY: i64 = 3000;

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Repeats {
    pub(crate) count: usize,
    /// How many each trouble explains, the worst first.
    pub(crate) by_trouble: Vec<(usize, Trouble)>,
    pub(crate) unexplained: Vec<String>,
}

/// Reads the topic and explains its repeats.
pub(crate) fn explain(cluster: &Cluster, topic: &str, troubles: &[Trouble]) -> Repeats {
    let mut first: HashMap<Uuid, i64> = HashMap::new();
    let mut by_trouble = vec![0; troubles.len()];
    let mut repeats = Repeats::default();
    for (id, appended) in read(cluster, topic) {
        let Some(before) = first.get(&id).copied() else {
            first.insert(id, appended);
            continue;
        };
        repeats.count += 1;
        // Of several the one that came next.
        let next = (0..troubles.len())
            .filter(|index| explains(&troubles[*index], before, troubles))
            .min_by_key(|index| (troubles[*index].from - before).unsigned_abs());
        match next {
            Some(trouble) => by_trouble[trouble] += 1,
            None => repeats
                .unexplained
                .push(format!("{id}, appended at {before} ms and at {appended} ms")),
        }
    }
    let explained = by_trouble.into_iter().zip(troubles.iter().copied());
    repeats.by_trouble = explained.filter(|(count, _)| *count > 0).collect();
    repeats
        .by_trouble
        .sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    repeats
}

/// Whether an event that arrived at `appended` may come again because of this.
fn explains(trouble: &Trouble, appended: i64, all: &[Trouble]) -> bool {
    // What holds up saves, or the answers that they wait for, lengthens the time in which nothing is saved.
    let held_up = all
        .iter()
        .filter(|other| holds_up(other) && other.until + RECOVERY >= appended && other.from <= trouble.from)
        .map(|other| other.until - other.from + RECOVERY)
        .sum::<i64>();
    let (before, after) = match trouble.action {
        Action::Kill(..) | Action::Freeze(..) => (UNSAVED + held_up, RECOVERY),
        // Slots may be lost while ScyllaDB cannot be reached, and producers may give up what is with a broker.
        Action::Silent(..) | Action::Slow(..) | Action::KillBroker(..) | Action::PauseBroker(..) => {
            (UNSAVED + held_up, RECOVERY)
        }
        Action::Stop(..) if held_up > 0 => (UNSAVED + held_up, RECOVERY),
        Action::Cut(Line::Kafka) => (RECOVERY, RECOVERY),
        Action::Stop(..) | Action::Cut(Line::Scylla) | Action::Hazard(..) | Action::Switch(..) => {
            return false;
        }
    };
    (trouble.from - before..=trouble.until + after).contains(&appended)
}

fn holds_up(trouble: &Trouble) -> bool {
    matches!(
        trouble.action,
        Action::Silent(..)
            | Action::Slow(..)
            | Action::Cut(..)
            | Action::Hazard(..)
            | Action::KillBroker(..)
            | Action::PauseBroker(..)
    )
}

/// Event ids and when the broker appended them, in the order of each partition.
fn read(cluster: &Cluster, topic: &str) -> Vec<(Uuid, i64)> {
    let consumer: BaseConsumer = cluster.config().set("group.id", "chaos").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let (mut assignment, mut expected) = (TopicPartitionList::new(), 0);
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT).unwrap();
        expected += high - low;
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut events = Vec::new();
    while (events.len() as i64) < expected {
        let message = consumer.poll(TIMEOUT).expect("more messages").unwrap();
        let appended = message.timestamp().to_millis().unwrap();
        events.push((event_id(&message).expect("an event id"), appended));
    }
    events
}
