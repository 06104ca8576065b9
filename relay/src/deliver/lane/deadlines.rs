//! What happens because time passes: attempts that make no progress, brokers that are away, the breaker's probe.

use std::time::Duration;

use crds::dead_letter::DeadLetterWhen;
use crds::relay_status::BreakerState;

use super::ring::{Seq, State};
use super::{Generation, Lane, Note, Now, Phase};
use crate::ports::{DeliveryError, ErrorClass, Reason};

/// How long a producer that is dead may keep the rest to itself. Requests in flight behind a refused one fail with skipped
/// sequence numbers, and librdkafka puts what was in them back into a queue that nobody empties any more; what is still
/// on its way is answered well within this.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Lane {
    /// Lets time pass. Call it at [`Self::next_deadline`], or more often.
    pub fn on_tick(&mut self, now: Now) {
        if let Some(transition) = self.breaker.tick(now.elapsed) {
            self.note_transition(Some(transition));
            // What is still with a producer is the probe, from now on.
            self.not_before = now.elapsed;
            self.attempt_since = now.elapsed;
            self.refuse_if_full(now);
        }
        if self.attempt_ends().is_some_and(|end| end <= now.elapsed) {
            let oldest = self.oldest_with_producer();
            self.attempt_failed(oldest, self.stalled(), now);
            if matches!(self.phase, Phase::Drain) && self.transaction.is_none() {
                // The generation is over anyway; its last messages need not hold up the next one.
                self.give_up_producer();
            }
        }
        if self.last_words_end().is_some_and(|end| end <= now.elapsed) {
            self.give_up_producer();
        }
    }

    /// When [`Self::on_tick`] has to be called next, or something may be sent again.
    pub fn next_deadline(&self, now: Now) -> Option<Duration> {
        let backing_off = (self.not_before > now.elapsed && self.breaker.state() != BreakerState::Open)
            .then_some(self.not_before);
        let letters =
            (self.letters_after > now.elapsed && !self.condemned.is_empty()).then_some(self.letters_after);
        let deadlines = [
            self.attempt_ends(),
            self.last_words_end(),
            self.breaker.probes_at(),
            backing_off,
            letters,
            self.transaction_deadline(now),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// A check asked for by `Action::Check` has its answer.
    pub fn checked(&mut self, result: Result<(), DeliveryError>, now: Now) {
        self.checking = false;
        match result {
            Ok(()) => {
                self.brokers_down = false;
                self.attempt_since = self.attempt_since.max(now.elapsed);
            }
            Err(_) if !self.brokers_down => {}
            Err(error) => self.attempt_failed(self.oldest_to_attempt(), error, now),
        }
    }

    /// A producer with nothing to send hears of it when brokers close idle connections; that is no outage.
    pub(super) fn all_brokers_down(&mut self, generation: Generation, error: DeliveryError, now: Now) {
        if !self.sends(generation) {
            self.last_error = Some(error);
            return;
        }
        let known = std::mem::replace(&mut self.brokers_down, true);
        match self.oldest_with_producer() {
            Some(oldest) if !known => self.attempt_failed(Some(oldest), error, now),
            _ => self.last_error = Some(error),
        }
    }

    /// Whether an attempt may be under way.
    pub(super) fn attempting(&self, now: Now) -> bool {
        self.breaker.state() != BreakerState::Open && now.elapsed >= self.not_before
    }

    /// The oldest event with a producer has got its report: the attempt of the next one starts.
    pub(super) fn progress(&mut self, seq: Seq, now: Now) {
        if self.oldest_with_producer() == Some(seq) {
            self.attempt_since = self.attempt_since.max(now.elapsed);
        }
    }

    pub(super) fn oldest_with_producer(&mut self) -> Option<Seq> {
        if self.outstanding == 0 {
            self.oldest_sent = self.ring.end();
            return None;
        }
        let oldest = self
            .ring
            .find(self.oldest_sent, |entry| matches!(entry.state, State::Sent(_)));
        self.oldest_sent = oldest.unwrap_or(self.ring.end());
        oldest
    }

    /// The event whose attempt fails when no broker can be asked.
    pub(super) fn oldest_to_attempt(&self) -> Option<Seq> {
        self.ring.find(self.ring.first(), |entry| {
            matches!(entry.state, State::Sent(_) | State::Waiting)
        })
    }

    /// The oldest event has used up its attempts: kept, or given up.
    pub(super) fn attempts_are_used_up(&mut self, seq: Seq, attempts: u32, now: Now) {
        if attempts == self.policy.max_attempts {
            self.notes.push(Note::RetriesExhausted);
        }
        if self.policy.when == DeadLetterWhen::Rejected {
            let transition = self.breaker.trip(now.elapsed);
            return self.note_transition(transition);
        }
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        entry.exhausted = true;
        let class = entry
            .failure
            .as_ref()
            .map_or(ErrorClass::Transient, |failure| failure.error.class);
        match entry.state {
            // It must not be written later; so the producer has to let go of it first.
            State::Sent(_) => self.give_up_producer(),
            State::Waiting => self.condemn(seq, Reason::Exhausted(class)),
            // Taken back with its transaction first, if that fails.
            State::Written => {}
            State::Failed(_) | State::Condemned(_) | State::Writing(_) | State::Lettered(_) => {}
        }
    }

    /// When nothing more is expected of the flow's producer, which is dead.
    fn last_words_end(&self) -> Option<Duration> {
        let waits = matches!(self.phase, Phase::Drain)
            && self.outstanding > 0
            && self.transaction.is_none()
            && self.flow.fatal.is_some()
            && !self.flow.purged;
        waits.then(|| self.heard_at + LAST_WORDS)
    }

    /// When the current attempt of the oldest event with a producer has lasted too long.
    fn attempt_ends(&self) -> Option<Duration> {
        if self.outstanding == 0 || self.brokers_down || self.breaker.state() == BreakerState::Open {
            return None;
        }
        let oldest = self
            .ring
            .find(self.oldest_sent, |entry| matches!(entry.state, State::Sent(_)))?;
        let State::Sent(at) = self.ring.get(oldest)?.state else {
            return None;
        };
        Some(at.max(self.attempt_since) + self.policy.attempt_timeout)
    }
}
