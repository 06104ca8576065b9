//! The events of a lane, in the order in which they were handed over, until they are resolved. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::Event;
use crate::model::Micros;
use crate::ports::{DeliveryError, ErrorClass, Outcome, Reason};

/// Place of an event in the order of its lane. Never used twice.
pub type Seq = u64;

/// Events by place. Resolved ones leave a gap until everything before them has left too.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Place of `places[0]`.
    first: Seq,
    places: VecDeque<Option<Entry>>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Event,
    pub(super) state: State,
    /// When it was handed over, on the monotonic clock.
    pub(super) offered_at: Duration,
    pub(super) attempts: u32,
    pub(super) failure: Option<Box<Failure>>,
    /// Attempts are used up: a dead letter as soon as the producer has given it up.
    pub(super) exhausted: bool,
    /// As a dead letter it goes to the topic without its payload.
    pub(super) bare: bool,
    /// Its slot is no longer ours: nobody is told what becomes of it.
    pub(super) revoked: bool,
    weight: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// With the producer, since that time.
    Sent(Duration),
    /// Acknowledged, and not committed: the transaction may yet take it back.
    Written,
    /// Reported as failed, with this class; waits for the reports of the others.
    Failed(ErrorClass),
    /// To become a dead letter.
    Condemned(Reason),
    /// On its way to the dead letters.
    Writing(Reason),
    /// A durable dead letter whose transaction is not committed yet.
    Lettered(Reason),
}

/// What went wrong with an event so far.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) error: DeliveryError,
    pub(super) first_at: Micros,
    pub(super) last_at: Micros,
    /// Unknown if any attempt may have written it.
    pub(super) outcome: Outcome,
}

impl Entry {
    pub(super) fn new(event: Event, offered_at: Duration) -> Self {
        Self {
            weight: event.message.weight(),
            event,
            state: State::Waiting,
            offered_at,
            attempts: 0,
            failure: None,
            exhausted: false,
            bare: false,
            revoked: false,
        }
    }

    /// A report said that it failed.
    pub(super) fn report_failed(&mut self, error: DeliveryError, at: Micros) {
        let outcome = error.outcome;
        let failure = self.attempt_failed(error, at);
        if outcome == Outcome::Unknown {
            failure.outcome = Outcome::Unknown;
        }
    }

    /// An attempt failed, by report or by our own clock. What failed with its producer keeps the error that it had.
    pub(super) fn attempt_failed(&mut self, error: DeliveryError, at: Micros) -> &mut Failure {
        let failure = self.failure.get_or_insert_with(|| {
            Box::new(Failure {
                error: error.clone(),
                first_at: at,
                last_at: at,
                outcome: Outcome::NotWritten,
            })
        });
        if error.class != ErrorClass::Collateral {
            failure.error = error;
        }
        failure.last_at = at;
        failure
    }
}

impl Ring {
    pub(super) fn push(&mut self, entry: Entry) -> Seq {
        self.bytes += entry.weight;
        self.places.push_back(Some(entry));
        self.end() - 1
    }

    /// Place of the oldest unresolved event, or of the next one to come.
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    pub(super) fn end(&self) -> Seq {
        self.first + self.places.len() as u64
    }

    /// Places taken, gaps included: what the limit on messages counts.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.places.get(self.index(seq)?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, seq: Seq) -> Option<&mut Entry> {
        let index = self.index(seq)?;
        self.places.get_mut(index)?.as_mut()
    }

    /// Takes an event out for good.
    pub(super) fn remove(&mut self, seq: Seq) -> Option<Entry> {
        let index = self.index(seq)?;
        let entry = self.places.get_mut(index)?.take()?;
        self.bytes -= entry.weight;
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        Some(entry)
    }

    /// The oldest event at or after `from` that satisfies `wanted`.
    pub(super) fn find(&self, from: Seq, wanted: impl Fn(&Entry) -> bool) -> Option<Seq> {
        (from.max(self.first)..self.end()).find(|seq| self.get(*seq).is_some_and(&wanted))
    }

    pub(super) fn seqs(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Seq> {
        let places = (self.first..self.end()).zip(&self.places);
        places
            .filter(|(_, entry)| entry.as_ref().is_some_and(&wanted))
            .map(|(seq, _)| seq)
            .collect()
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first)?).ok()
    }
}
