//! The delivery state machine: what is sent, tried again, isolated, given up, and when. Pure: the shell sends what
//! [`Lane::next_to_send`] says, does what [`Lane::next_action`] says, and tells what became of both.
//!
//! Events stand in a ring in the order in which they were handed over. The *flow* producer sends them in that order;
//! it is gapless, so behind a failed message nothing is written. After a failure the lane sends no more, waits until
//! every message of that generation has its report, and starts the next one from the oldest unresolved event. What
//! failed with a message error goes through `isolation` first, on a second producer.
//!
//! A stall ends nothing: messages stay with librdkafka, which keeps trying; only the attempt counts.

mod dead_lettering;
mod deadlines;
mod held;
mod isolation;
mod outcomes;
mod ring;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::BreakerState;
use crds::{dead_letter::DeadLetterWhen, dead_letter::OnAggregate};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::held::Held;
use self::isolation::Isolation;
use self::ring::{Entry, Ring, State};
use crate::deliver::breaker::{Breaker, Transition};
use crate::deliver::retry::Schedule;
use crate::encode::Message;
use crate::metrics::EventLabel;
use crate::model::{Micros, RowId, SlotId, SlotSet, SourcePosition};
use crate::ports::{DeadLetter, DeadLetterError, DeliveryError, ErrorClass, Reason, Refused, Role};

pub use held::MAX_HELD;
pub use ring::Seq;

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
/// [`Lane::checked`], `WriteDeadLetters` by [`Lane::dead_letters_written`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Open(Role, Generation),
    /// Every message of the producer has its report.
    Close(Generation),
    Purge(Generation),
    /// Ask a broker for metadata.
    Check,
    WriteDeadLetters(Vec<DeadLetter>),
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
}

/// What happened, for metrics, health and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
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
    /// Too many aggregates are held; the oldest was let go.
    HeldOverflow,
}

/// The events of one process on their way to the broker.
#[derive(Debug)]
pub struct Lane {
    policy: Policy,
    ring: Ring,
    breaker: Breaker,
    held: Held,
    random: StdRng,
    phase: Phase,
    flow: Producer,
    isolator: Producer,
    last_generation: Generation,
    /// Where the flow goes on.
    cursor: Seq,
    /// No event before this place is with a producer.
    oldest_sent: Seq,
    /// Events with a producer.
    outstanding: usize,
    /// Back-off: nothing is attempted before.
    not_before: Duration,
    /// The current attempt of the oldest event with a producer started no earlier.
    attempt_since: Duration,
    /// The producer's queue is full until a report comes.
    full: bool,
    /// No broker could be reached; nothing is sent before a check says otherwise.
    brokers_down: bool,
    checking: bool,
    /// To become dead letters, oldest first.
    condemned: VecDeque<Seq>,
    /// On their way to the dead letters.
    writing: Vec<Seq>,
    /// The dead letters could not be written; they are tried again then, as a probe of the circuit that this opened.
    letters_failed: bool,
    letters_after: Duration,
    last_error: Option<DeliveryError>,
    actions: VecDeque<Action>,
    resolved: Vec<Resolved>,
    notes: Vec<Note>,
}

#[derive(Debug)]
enum Phase {
    Flow,
    /// Waits for the reports of a generation that is to end.
    Drain,
    Isolate(Isolation),
}

#[derive(Debug, Default)]
struct Producer {
    generation: Option<Generation>,
    opening: bool,
    /// It will never send again, because of this.
    fatal: Option<DeliveryError>,
    /// We gave it up ourselves; what fails with it is nobody's fault.
    purged: bool,
}

impl Lane {
    pub fn new(policy: Policy, breaker: Breaker, seed: u64) -> Self {
        Self {
            policy,
            ring: Ring::default(),
            breaker,
            held: Held::default(),
            random: StdRng::seed_from_u64(seed),
            phase: Phase::Flow,
            flow: Producer::default(),
            isolator: Producer::default(),
            last_generation: 0,
            cursor: 0,
            oldest_sent: 0,
            outstanding: 0,
            not_before: Duration::ZERO,
            attempt_since: Duration::ZERO,
            full: false,
            brokers_down: false,
            checking: false,
            condemned: VecDeque::new(),
            writing: Vec::new(),
            letters_failed: false,
            letters_after: Duration::ZERO,
            last_error: None,
            actions: VecDeque::new(),
            resolved: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Whether another event may be offered. While the circuit is open none may; while it probes, one at a time.
    pub fn accepts(&self) -> bool {
        match self.breaker.state() {
            BreakerState::Open => false,
            BreakerState::HalfOpen => self.ring.len() == 0,
            BreakerState::Closed => {
                self.ring.len() < self.policy.max_messages && self.ring.bytes() < self.policy.max_bytes
            }
        }
    }

    /// Takes an event over. Call it only while [`Self::accepts`].
    pub fn offer(&mut self, mut event: Event, now: Now) {
        let problem = event.problem.take();
        let seq = self.ring.push(Entry::new(event, now.elapsed));
        if let Some(error) = problem {
            self.reject(seq, error, now);
        }
    }

    /// The next message to hand to a producer, if there is one and `lease_until` has not come. Answer with
    /// [`Self::sent`] or [`Self::refused`].
    pub fn next_to_send(
        &mut self,
        now: Now,
        lease_until: Duration,
    ) -> Option<(Role, Generation, Seq, &Message)> {
        let (role, generation, seq) = loop {
            if now.elapsed >= lease_until || !self.may_send(now) {
                return None;
            }
            let (role, next) = match self.phase {
                Phase::Drain => return None,
                Phase::Flow => (Role::Flow, self.next_in_flow()),
                Phase::Isolate(_) => (Role::Isolation, self.next_in_isolation()),
            };
            match (next, self.usable(role)) {
                (Some(seq), Some(generation)) => break (role, generation, seq),
                (None, _) if self.finish_group(now) => {}
                _ => return None,
            }
        };
        self.ring
            .get(seq)
            .map(|entry| (role, generation, seq, &entry.event.message))
    }

    /// The producer took the message.
    pub fn sent(&mut self, seq: Seq, now: Now) {
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        entry.state = State::Sent(now.elapsed);
        self.outstanding += 1;
        self.oldest_sent = self.oldest_sent.min(seq);
        match &mut self.phase {
            Phase::Isolate(isolation) => isolation.sent(seq),
            Phase::Flow | Phase::Drain => self.cursor = seq + 1,
        }
    }

    /// The producer did not take the message; no report follows.
    pub fn refused(&mut self, seq: Seq, refused: Refused, now: Now) {
        let error = match refused {
            Refused::QueueFull => {
                self.full = true;
                return;
            }
            Refused::Error(error) => error,
        };
        let alone = matches!(self.phase, Phase::Flow) && error.class == ErrorClass::Message;
        self.sent(seq, now);
        if alone {
            // Refused by the client before it met any other message: that is the confirming attempt.
            self.outstanding -= 1;
            self.reject(seq, error, now);
        } else {
            self.failed(seq, error, now);
        }
    }

    /// What to do next, if anything. Call until None.
    pub fn next_action(&mut self, now: Now) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(letters) = self.write_dead_letters(now) {
            return Some(letters);
        }
        if self.breaker.state() == BreakerState::Open || now.elapsed < self.not_before {
            return None;
        }
        if self.brokers_down && !self.checking {
            self.checking = true;
            return Some(Action::Check);
        }
        if !matches!(self.phase, Phase::Drain) && self.flow.is_missing() {
            return Some(self.open(Role::Flow));
        }
        if matches!(self.phase, Phase::Isolate(_)) && self.isolator.is_missing() {
            return Some(self.open(Role::Isolation));
        }
        None
    }

    pub fn opened(&mut self, role: Role, generation: Generation) {
        *self.producer(role) = Producer {
            generation: Some(generation),
            ..Producer::default()
        };
    }

    /// A producer could not even be made: the configuration is wrong, or resources are short.
    pub fn not_opened(&mut self, role: Role, error: DeliveryError, now: Now) {
        *self.producer(role) = Producer::default();
        self.attempt_failed(self.oldest_to_attempt(), error, now);
    }

    /// The slots are not ours any more: nothing of them is handed over, and nobody hears of them again.
    pub fn revoke(&mut self, slots: SlotSet, now: Now) {
        let mut with_producer = false;
        for seq in self.ring.seqs(|entry| slots.contains(entry.event.slot)) {
            let Some(entry) = self.ring.get_mut(seq) else {
                continue;
            };
            match entry.state {
                State::Sent(_) => with_producer = true,
                State::Writing(_) => {}
                State::Waiting | State::Failed(_) | State::Condemned(_) => {
                    self.ring.remove(seq);
                    continue;
                }
            }
            entry.revoked = true;
        }
        let ring = &self.ring;
        self.condemned.retain(|seq| ring.get(*seq).is_some());
        if with_producer {
            self.give_up_producer();
        }
        self.finish_group(now);
    }

    /// Stops holding an aggregate.
    pub fn let_go(&mut self, aggregate: u64) {
        self.held.remove(aggregate);
    }

    /// Moves out what was resolved since the last call.
    pub fn take_resolved(&mut self, into: &mut Vec<Resolved>) {
        into.append(&mut self.resolved);
    }

    /// Moves out what happened since the last call.
    pub fn take_notes(&mut self, into: &mut Vec<Note>) {
        into.append(&mut self.notes);
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Why the last attempt failed.
    pub fn last_error(&self) -> Option<&DeliveryError> {
        self.last_error.as_ref()
    }

    /// Nothing is unresolved.
    pub fn is_empty(&self) -> bool {
        self.ring.len() == 0
    }

    /// Places taken by unresolved events.
    pub fn messages(&self) -> usize {
        self.ring.len()
    }

    pub fn bytes(&self) -> usize {
        self.ring.bytes()
    }

    pub fn held_aggregates(&self) -> usize {
        self.held.len()
    }

    fn may_send(&self, now: Now) -> bool {
        let probe = match self.breaker.state() {
            BreakerState::Open => return false,
            BreakerState::HalfOpen => true,
            BreakerState::Closed => false,
        };
        let alone = self.outstanding == 0 && !self.letters_failed;
        let room = !self.full || self.outstanding == 0;
        now.elapsed >= self.not_before && !self.brokers_down && room && (alone || !probe)
    }

    fn next_in_flow(&mut self) -> Option<Seq> {
        loop {
            let seq = self
                .ring
                .find(self.cursor, |entry| entry.state == State::Waiting)?;
            self.cursor = seq;
            let aggregate = self.ring.get(seq)?.event.aggregate;
            if !self.held.holds(aggregate, seq) {
                return Some(seq);
            }
            self.condemn(seq, Reason::Held);
        }
    }

    fn next_in_isolation(&mut self) -> Option<Seq> {
        let ring = &self.ring;
        let waits = |seq| ring.get(seq).is_some_and(|entry| entry.state == State::Waiting);
        match &mut self.phase {
            Phase::Isolate(isolation) => isolation.next(waits),
            Phase::Flow | Phase::Drain => None,
        }
    }

    fn reject(&mut self, seq: Seq, error: DeliveryError, now: Now) {
        if let Some(entry) = self.ring.get_mut(seq) {
            entry.report_failed(error, now.wall);
        }
        self.condemn(seq, Reason::Rejected);
    }

    /// The producer of this role, if it can take messages.
    fn usable(&self, role: Role) -> Option<Generation> {
        let producer = match role {
            Role::Flow => &self.flow,
            Role::Isolation => &self.isolator,
        };
        let spent = producer.fatal.is_some() || producer.purged;
        producer.generation.filter(|_| !spent)
    }

    fn producer(&mut self, role: Role) -> &mut Producer {
        match role {
            Role::Flow => &mut self.flow,
            Role::Isolation => &mut self.isolator,
        }
    }

    fn open(&mut self, role: Role) -> Action {
        self.last_generation += 1;
        self.producer(role).opening = true;
        Action::Open(role, self.last_generation)
    }

    fn close(&mut self, role: Role) {
        let producer = std::mem::take(self.producer(role));
        if let Some(generation) = producer.generation {
            self.actions.push_back(Action::Close(generation));
            self.notes.push(Note::GenerationEnded(generation));
        }
    }
}

impl Producer {
    fn is_missing(&self) -> bool {
        self.generation.is_none() && !self.opening
    }
}

#[cfg(test)]
mod tests;
