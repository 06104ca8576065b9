//! What goes into a lane and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use crds::dead_letter::{DeadLetterWhen, OnAggregate};

use crate::deliver::breaker::Transition;
use crate::deliver::retry::Schedule;
use crate::encode::Message;
use crate::metrics::EventLabel;
use crate::model::{Micros, RowId, SlotId, SourcePosition};
use crate::ports::{DeadLetter, DeadLetterError, DeliveryError, Lettered, Outcome, Reason, Role};
use crate::spans::{Ended, Trace};

use super::End;

/// An event that is ready to be sent, or is known not to be.
#[derive(Debug, Clone)]
pub struct Event {
    pub slot: SlotId,
    pub position: SourcePosition,
    pub row_id: RowId,
    /// Fingerprint of the aggregate: the unit of order. An event without one has its own.
    pub aggregate: u64,
    pub label: EventLabel,
    pub event_id: String,
    pub aggregate_id: Option<String>,
    pub event_type: Option<Arc<str>>,
    pub created_at: Option<Micros>,
    pub message: Message,
    /// Why it cannot be sent at all.
    pub problem: Option<DeliveryError>,
    /// That it is traced.
    pub trace: Option<Box<Trace>>,
    /// A dead letter that is sent again: its event was resolved when it became one.
    pub replay: Option<Replay>,
}

/// How a dead letter is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replay {
    /// In exactly-once: the time and the id under which the journal tells of it.
    pub journaled: Option<(Micros, RowId)>,
}

impl Event {
    /// What the journal says is resolved with it, and when that was written.
    pub fn resolves(&self) -> (Micros, RowId) {
        let own = (self.position.time.micros(), self.row_id);
        self.replay.and_then(|replay| replay.journaled).unwrap_or(own)
    }

    /// Its dead letter, as if it had never been attempted and was given up at this time.
    pub fn letter(&self, reason: Reason, error: String, at: Micros) -> DeadLetter {
        DeadLetter {
            slot: self.slot,
            position: self.position,
            event_id: self.event_id.clone(),
            aggregate_id: self.aggregate_id.clone(),
            event_type: self.event_type.clone(),
            created_at: self.created_at,
            message: self.message.clone(),
            reason,
            pending: None,
            error,
            outcome: Outcome::NotWritten,
            failures: 0,
            first_failed_at: at,
            last_failed_at: at,
        }
    }
}

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct Policy {
    pub schedule: Schedule,
    pub max_attempts: u32,
    pub attempt_timeout: Duration,
    pub when: DeadLetterWhen,
    pub on_aggregate: OnAggregate,
    /// Events unresolved at once.
    pub max_messages: usize,
    /// Their bytes. One event may exceed it, or the largest could never be sent.
    pub max_bytes: usize,
}

/// The present, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub elapsed: Duration,
    pub wall: Micros,
}

/// A producer's number. Rises.
pub type Generation = u64;

/// What the shell has to do. Each is answered: `Open` by [`Lane::opened`] or [`Lane::not_opened`], `Check` by
/// [`Lane::checked`], `WriteDeadLetters` by [`Lane::dead_letters_written`], `End` by [`Lane::ended`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Open(Role, Generation),
    /// Every message of the producer has its report.
    Close(Generation),
    Purge(Generation),
    /// Ask a broker for metadata.
    Check,
    WriteDeadLetters(Vec<DeadLetter>),
    /// Commit the producer's transaction, or abort it.
    End(Generation, End),
    /// The transaction that resolved the events of these dead letters is committed.
    SettleDeadLetters(Vec<Lettered>),
}

/// An event that is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    pub slot: SlotId,
    pub time: Micros,
    pub row_id: RowId,
    pub label: EventLabel,
    /// Since it was handed over.
    pub took: Duration,
    /// Acknowledged by the broker; otherwise a durable dead letter.
    pub delivered: bool,
    /// See [`Event::replay`].
    pub replay: Option<Replay>,
}

/// What happened, for metrics, health and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A traced event is done with.
    Traced(Box<Ended>),
    /// The attempt of that number failed.
    AttemptFailed {
        attempt: u32,
        error: DeliveryError,
    },
    /// An event was acknowledged after failed attempts.
    RetrySucceeded,
    /// An event has used up its attempts.
    RetriesExhausted,
    Breaker(Transition),
    DeadLettered {
        label: EventLabel,
        reason: Reason,
    },
    DeadLettersNotWritten(DeadLetterError),
    GenerationEnded(Generation),
    /// More than [`super::MAX_HELD`] aggregates are held: nothing is sent until there are fewer.
    HeldFull,
}
