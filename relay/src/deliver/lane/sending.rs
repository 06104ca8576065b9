//! What is handed to a producer next.

use std::time::Duration;

use crds::relay_status::BreakerState;

use super::ring::{Seq, State};
use super::transaction::Transaction;
use super::{Generation, Lane, Now, Phase};
use crate::encode::Message;
use crate::ports::{ErrorClass, Reason, Refused, Role};

/// How long a producer is left alone that takes nothing although nothing is with it.
const QUEUE_PAUSE: Duration = Duration::from_millis(10);

impl Lane {
    /// The next message to hand to a producer, if there is one and `lease_until` has not come. Answer with
    /// [`Self::sent`] or [`Self::refused`].
    pub fn next_to_send(
        &mut self,
        now: Now,
        lease_until: Duration,
    ) -> Option<(Role, Generation, Seq, &Message)> {
        if self.next_record().is_some() {
            return self.next_record();
        }
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
        if Self::is_record(seq) {
            return self.record_sent();
        }
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        entry.state = State::Sent(now.elapsed);
        if let Some(transaction) = &mut self.transaction {
            transaction.sent(seq, &entry.event, now);
        }
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
                if self.outstanding == 0 {
                    // No report will say that there is room again.
                    self.not_before = self.not_before.max(now.elapsed + QUEUE_PAUSE);
                }
                return;
            }
            Refused::Error(error) => error,
        };
        if Self::is_record(seq) {
            return self.record_refused(seq, error, now);
        }
        // Refused by the client before it met any other message: that is the confirming attempt.
        let alone = error.class == ErrorClass::Message;
        match &mut self.phase {
            Phase::Flow if alone => {
                self.cursor = seq + 1;
                self.reject(seq, error, now);
            }
            Phase::Isolate(isolation) if alone => {
                isolation.sent(seq);
                isolation.reported(seq, true);
                self.reject(seq, error, now);
                self.finish_group(now);
            }
            Phase::Flow | Phase::Isolate(_) | Phase::Drain => {
                self.sent(seq, now);
                self.failed(seq, error, now);
            }
        }
    }

    fn may_send(&self, now: Now) -> bool {
        let probe = match self.breaker.state() {
            BreakerState::Open => return false,
            BreakerState::HalfOpen => true,
            BreakerState::Closed => false,
        };
        let room = !self.full || self.outstanding == 0;
        let waits = now.elapsed < self.not_before || self.brokers_down || self.held.is_full();
        !waits && room && (!probe || self.is_alone() && !self.letter_is_probe())
    }

    /// Whether a probe would be the only message under way.
    fn is_alone(&self) -> bool {
        self.outstanding == 0 && self.transaction.as_ref().is_none_or(Transaction::is_empty)
    }

    fn next_in_flow(&mut self) -> Option<Seq> {
        loop {
            let seq = self
                .ring
                .find(self.cursor, |entry| entry.state == State::Waiting)?;
            self.cursor = seq;
            let slot = self.ring.get(seq)?.event.slot;
            if !self.is_held(seq) {
                let admits = |transaction: &Transaction| transaction.admits(seq, slot);
                return self.transaction.as_ref().is_none_or(admits).then_some(seq);
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
}
