//! The delivery state machine: what is sent, tried again, isolated, given up, and when. Pure: the shell sends what
//! [`Lane::next_to_send`] says, does what [`Lane::next_action`] says, and tells what became of both.
//!
//! Events stand in a ring in the order in which they were handed over. The *flow* producer sends them in that order;
//! it is gapless, so behind a failed message nothing is written. After a failure the lane sends no more, waits until
//! every message of that generation has its report, and starts the next one from the oldest unresolved event. What
//! failed with a message error goes through `isolation` first, on a second producer, and what comes after it follows
//! there until it seems that no more is refused; meanwhile the next generation of the flow connects.
//!
//! With a `transaction` (exactly-once) there is one producer and no isolation: a failure takes the whole transaction
//! back, and suspects are found by shorter transactions.
//!
//! A stall ends nothing: messages stay with librdkafka, which keeps trying; only the attempt counts.

mod dead_lettering;
mod deadlines;
mod exchange;
mod held;
mod isolation;
mod outcomes;
mod producers;
mod ring;
mod sending;
mod transaction;

use std::collections::VecDeque;
use std::time::Duration;

use crds::relay_status::BreakerState;
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::held::Held;
use self::isolation::Isolation;
use self::producers::Producer;
use self::ring::{Entry, Ring, State};
use self::transaction::Transaction;
use crate::deliver::breaker::Breaker;
use crate::model::SlotSet;
use crate::ports::{DeliveryError, Reason, Role};

pub use exchange::{Action, Event, Generation, Note, Now, Policy, Replay, Resolved};
pub use held::{HeldAggregate, HeldAggregates, MAX_HELD};
pub use ring::Seq;
pub use transaction::{End, JournalOf, LettersTo};

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
    /// In exactly-once.
    transaction: Option<Transaction>,
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
    /// When a producer reported something last, or died.
    heard_at: Duration,
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
            transaction: None,
            last_generation: 0,
            cursor: 0,
            oldest_sent: 0,
            outstanding: 0,
            not_before: Duration::ZERO,
            attempt_since: Duration::ZERO,
            heard_at: Duration::ZERO,
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

    /// A lane that delivers exactly once.
    pub fn transactional(policy: Policy, breaker: Breaker, seed: u64, journal: JournalOf) -> Self {
        Self {
            transaction: Some(Transaction::new(journal)),
            ..Self::new(policy, breaker, seed)
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

    /// What to do next, if anything. Call until None.
    pub fn next_action(&mut self, now: Now) -> Option<Action> {
        self.seal_if_due(now);
        if let Some(action) = self.actions.pop_front().or_else(|| self.call_again(now)) {
            return Some(action);
        }
        if let Some(letters) = self.write_dead_letters(now) {
            return Some(letters);
        }
        self.refuse_if_full(now);
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

    /// The slots are not ours any more: nothing of them is handed over, and nobody hears of them again.
    pub fn revoke(&mut self, slots: SlotSet, now: Now) {
        let mut with_producer = false;
        for seq in self.ring.seqs(|entry| slots.contains(entry.event.slot)) {
            let Some(entry) = self.ring.get_mut(seq) else {
                continue;
            };
            match entry.state {
                // A transaction keeps what it has, and tells nobody.
                State::Sent(_) => with_producer = self.transaction.is_none(),
                State::Failed(_) if self.transaction.is_some() => {}
                State::Writing(_) | State::Written | State::Lettered(_) => {}
                State::Waiting | State::Failed(_) | State::Condemned(_) => {
                    self.ring.remove(seq);
                    continue;
                }
            }
            entry.revoked = true;
        }
        let ring = &self.ring;
        self.condemned.retain(|seq| ring.get(*seq).is_some());
        self.forget_held(slots);
        self.close_slots(slots);
        if with_producer {
            self.give_up_producer();
        }
        self.finish_group(now);
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

    fn reject(&mut self, seq: Seq, error: DeliveryError, now: Now) {
        if let Some(entry) = self.ring.get_mut(seq) {
            entry.report_failed(error, now.wall);
        }
        self.condemn(seq, Reason::Rejected);
    }
}

#[cfg(test)]
mod tests;
