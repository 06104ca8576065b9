//! Giving events up: they are resolved once their dead letter is durable, never before.

use std::collections::HashSet;

use crds::dead_letter::OnAggregate;
use crds::relay_status::BreakerState;

use super::ring::{Entry, Seq, State};
use super::transaction::Transaction;
use super::{Action, Lane, Note, Now, Phase};
use crate::ports::{DeadLetter, DeadLetterError, Epoch, Reason};

/// Dead letters written at once: enough that a burst of them does not stall, few enough that a failure repeats little.
const BATCH: usize = 64;

impl Lane {
    pub(super) fn condemn(&mut self, seq: Seq, reason: Reason) {
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        entry.state = State::Condemned(reason);
        let (aggregate, slot) = (entry.event.aggregate, entry.event.slot);
        self.queue_letter(seq);
        if reason == Reason::Held {
            self.held.follow(aggregate);
        } else if self.policy.on_aggregate == OnAggregate::Hold {
            self.held.insert(aggregate, slot, seq + 1);
            if let Phase::Isolate(isolation) = &mut self.phase {
                isolation.forget(aggregate);
            }
        }
    }

    /// The circuit was opened by dead letters that could not be written, and writing them will close it. Once their
    /// slots are somebody else's there may be none left.
    pub(super) fn letter_is_probe(&self) -> bool {
        let transaction = self.transaction.as_ref();
        let lettered = transaction.is_some_and(Transaction::has_letters);
        self.letters_failed && (lettered || !(self.writing.is_empty() && self.next_letters().is_empty()))
    }

    /// Also while the circuit is open: it is the broker's, and dead letters may go elsewhere.
    pub(super) fn write_dead_letters(&mut self, now: Now) -> Option<Action> {
        if !self.writing.is_empty() || self.condemned.is_empty() || now.elapsed < self.letters_after {
            return None;
        }
        let batch = self.next_letters();
        if batch.is_empty() {
            return None;
        }
        self.condemned.retain(|seq| batch.binary_search(seq).is_err());
        let letters = batch.iter().filter_map(|seq| self.start_writing(*seq)).collect();
        self.writing = batch;
        Some(Action::WriteDeadLetters(letters))
    }

    /// What became of `Action::WriteDeadLetters`. If they are not durable, nothing goes on until they are.
    pub fn dead_letters_written(&mut self, result: Result<(), DeadLetterError>, now: Now) {
        let batch = std::mem::take(&mut self.writing);
        match result {
            Ok(()) => {
                for seq in batch {
                    if self.transaction.is_some() {
                        self.awaits_commit(seq, now);
                    } else {
                        self.dead_lettered(seq, now);
                    }
                }
                if std::mem::take(&mut self.letters_failed) && self.breaker.state() == BreakerState::HalfOpen
                {
                    let transition = self.breaker.succeeded(now.elapsed);
                    self.note_transition(transition);
                }
            }
            Err(error) => {
                for seq in batch {
                    self.not_dead_lettered(seq);
                }
                if error.fenced {
                    self.fenced(&error);
                }
                self.letters_not_written(error, now);
            }
        }
    }

    pub(super) fn letters_not_written(&mut self, error: DeadLetterError, now: Now) {
        self.letters_failed = true;
        self.notes.push(Note::DeadLettersNotWritten(error));
        let transition = self.breaker.trip(now.elapsed);
        self.note_transition(transition);
        self.letters_after = self.breaker.probes_at().unwrap_or(now.elapsed);
    }

    /// The oldest ones. Under `Hold` an aggregate's dead letters are written in order, so one that stands behind an
    /// event whose fate is open waits for it.
    fn next_letters(&self) -> Vec<Seq> {
        if self.policy.on_aggregate == OnAggregate::Continue {
            return self.condemned.iter().take(BATCH).copied().collect();
        }
        let (mut batch, mut open) = (Vec::new(), HashSet::new());
        let end = self.condemned.back().map_or(0, |last| last + 1);
        for seq in self.ring.first()..end {
            let Some(entry) = self.ring.get(seq) else {
                continue;
            };
            let aggregate = entry.event.aggregate;
            if !matches!(entry.state, State::Condemned(_)) {
                open.insert(aggregate);
            } else if batch.len() < BATCH && !open.contains(&aggregate) {
                batch.push(seq);
            }
        }
        batch
    }

    /// Dead letters are written in the order of their events.
    fn queue_letter(&mut self, seq: Seq) {
        let at = self.condemned.partition_point(|other| *other < seq);
        self.condemned.insert(at, seq);
    }

    fn start_writing(&mut self, seq: Seq) -> Option<DeadLetter> {
        let entry = self.ring.get_mut(seq)?;
        let State::Condemned(reason) = entry.state else {
            return None;
        };
        entry.state = State::Writing(reason);
        let entry = self.ring.get(seq)?;
        let transaction = self.transaction.as_ref();
        let pending = transaction.map(|transaction| transaction.epoch(entry.event.slot));
        Some(letter(entry, reason, pending))
    }

    fn dead_lettered(&mut self, seq: Seq, now: Now) {
        let Some(entry) = self.ring.remove(seq) else {
            return;
        };
        let State::Writing(reason) = entry.state else {
            return;
        };
        let label = entry.event.label;
        self.notes.push(Note::DeadLettered { label, reason });
        self.tell_resolved(&entry, false, now);
    }

    /// Exactly-once: the event is resolved by the commit that says so in the journal.
    fn awaits_commit(&mut self, seq: Seq, now: Now) {
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        if entry.revoked {
            self.ring.remove(seq);
        } else if let State::Writing(reason) = entry.state {
            entry.state = State::Lettered(reason);
            self.lettered(seq, now);
        }
    }

    fn not_dead_lettered(&mut self, seq: Seq) {
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        if entry.revoked {
            self.ring.remove(seq);
        } else if let State::Writing(reason) = entry.state {
            entry.state = State::Condemned(reason);
            self.queue_letter(seq);
        }
    }
}

/// What is kept of an event that is given up.
pub(super) fn letter(entry: &Entry, reason: Reason, pending: Option<Epoch>) -> DeadLetter {
    let event = &entry.event;
    let failure = entry.failure.as_deref();
    let error = match (failure, reason) {
        (Some(failure), Reason::Rejected | Reason::Exhausted(_)) => failure.error.to_string(),
        _ => "an earlier event of its aggregate is a dead letter (deadLetter.onAggregate is Hold)".to_owned(),
    };
    let letter = event.letter(reason, error, event.position.time.micros());
    let letter = DeadLetter { pending, ..letter };
    match failure {
        None => DeadLetter {
            failures: entry.attempts,
            ..letter
        },
        Some(failure) => DeadLetter {
            outcome: failure.outcome,
            failures: entry.attempts.max(1),
            first_failed_at: failure.first_at,
            last_failed_at: failure.last_at,
            ..letter
        },
    }
}
