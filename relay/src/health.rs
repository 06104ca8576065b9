//! How the parts of the process do, and what happened to the data: the board that `/health`, `/readyz` and `/status`
//! read from. Times are passed in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crds::relay_status::{self, DataEvent, DataEventKind, MAX_DATA_EVENTS};
use parking_lot::Mutex;

use crate::model::Micros;

/// The supervised parts of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The session to ScyllaDB and the reading of the log.
    Source,
    /// The producers and the lanes in front of them.
    Sink,
    /// Ownership and checkpoints.
    State,
    /// The dead letters' target.
    DeadLetters,
    /// The deletes of outbox rows and reconciliation, where they are wanted.
    Cleanup,
    /// The reading of what the outbox table holds from before its log is read, where that is wanted.
    Snapshot,
}

impl Part {
    /// Those that every relay has.
    pub const ALL: [Self; 4] = [Self::Source, Self::Sink, Self::State, Self::DeadLetters];

    /// Stable name in `/health`, in `/status` and as a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
            Self::State => "state",
            Self::DeadLetters => "dead_letters",
            Self::Cleanup => "cleanup",
            Self::Snapshot => "snapshot",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHealth {
    pub health: relay_status::Health,
    /// Category of what is wrong.
    pub reason: Option<&'static str>,
    pub message: Option<String>,
    pub restarts: u64,
    pub since: Micros,
}

/// Shared by all parts.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    parts: BTreeMap<Part, PartHealth>,
    events: VecDeque<DataEvent>,
    sequence: u64,
}

impl Board {
    /// Every part is starting.
    pub fn new(now: Micros) -> Self {
        let parts = Part::ALL.into_iter().map(|part| (part, starting(now))).collect();
        Self(Arc::new(Mutex::new(Inner {
            parts,
            events: VecDeque::new(),
            sequence: 0,
        })))
    }

    /// A part that not every relay has.
    pub fn add(&self, part: Part, now: Micros) {
        self.0.lock().parts.entry(part).or_insert_with(|| starting(now));
    }

    pub fn healthy(&self, part: Part, now: Micros) {
        self.set(part, relay_status::Health::Healthy, None, now);
    }

    /// `message` must hold neither secret nor payload.
    pub fn degraded(&self, part: Part, message: impl Into<String>, now: Micros) {
        self.set(part, relay_status::Health::Degraded, Some(message.into()), now);
    }

    /// `message` must hold neither secret nor payload.
    pub fn failed(&self, part: Part, message: impl Into<String>, now: Micros) {
        self.set(part, relay_status::Health::Failed, Some(message.into()), now);
    }

    /// The same with a category that stays what it is: conditions carry it. `message` must hold neither secret nor payload.
    pub fn failed_because(&self, part: Part, reason: &'static str, message: impl Into<String>, now: Micros) {
        self.failed(part, message, now);
        if let Some(health) = self.0.lock().parts.get_mut(&part) {
            health.reason = Some(reason);
        }
    }

    pub fn restarted(&self, part: Part) {
        if let Some(health) = self.0.lock().parts.get_mut(&part) {
            health.restarts += 1;
        }
    }

    pub fn part(&self, part: Part) -> Option<PartHealth> {
        self.0.lock().parts.get(&part).cloned()
    }

    pub fn parts(&self) -> BTreeMap<Part, PartHealth> {
        self.0.lock().parts.clone()
    }

    /// Remembers what happened to the data, dropping the oldest beyond [`MAX_DATA_EVENTS`]. The sequence shows the gap.
    pub fn event(&self, kind: DataEventKind, message: impl Into<String>, now: Micros) {
        let mut inner = self.0.lock();
        inner.sequence += 1;
        let event = DataEvent {
            sequence: inner.sequence,
            time: timestamp(now),
            kind,
            message: message.into(),
        };
        if inner.events.len() == MAX_DATA_EVENTS {
            inner.events.pop_front();
        }
        inner.events.push_back(event);
    }

    pub fn events(&self) -> Vec<DataEvent> {
        self.0.lock().events.iter().cloned().collect()
    }

    fn set(&self, part: Part, health: relay_status::Health, message: Option<String>, now: Micros) {
        let mut inner = self.0.lock();
        let Some(current) = inner.parts.get_mut(&part) else {
            return;
        };
        if current.health != health {
            current.since = now;
        }
        (current.health, current.reason, current.message) = (health, None, message);
    }
}

fn starting(now: Micros) -> PartHealth {
    PartHealth {
        health: relay_status::Health::Starting,
        reason: None,
        message: None,
        restarts: 0,
        since: now,
    }
}

/// Milliseconds are enough for people.
pub fn timestamp(micros: Micros) -> crds::Timestamp {
    crds::Timestamp::from_milliseconds(micros.max(0) as u64 / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_moves_only_when_the_health_changes() {
        let board = Board::new(1);
        board.degraded(Part::Sink, "breaker open", 5);
        board.degraded(Part::Sink, "still open", 9);
        let sink = board.part(Part::Sink).unwrap();
        assert_eq!((sink.since, sink.message.as_deref()), (5, Some("still open")));
        board.healthy(Part::Sink, 11);
        assert_eq!(board.part(Part::Sink).unwrap().since, 11);
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_the_sequence_tells() {
        let board = Board::new(0);
        for _ in 0..MAX_DATA_EVENTS + 3 {
            board.event(DataEventKind::DeadLettered, "one", 0);
        }
        let sequences: Vec<_> = board.events().iter().map(|event| event.sequence).collect();
        assert_eq!((sequences.len(), sequences[0]), (MAX_DATA_EVENTS, 4));
    }
}
