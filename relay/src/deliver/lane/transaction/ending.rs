//! What becomes of a transaction when it is committed or aborted.

use super::{AGAIN_AFTER, Stage};
use crate::deliver::lane::ring::{Entry, Seq, State};
use crate::deliver::lane::{Action, Generation, Lane, Note, Now, Phase};
use crate::journal::SealError;
use crate::ports::{
    DeadLetterError, DeliveryError, ErrorClass, Lettered, Outcome, Reason, Role, TransactionError, Verdict,
};

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Commit,
    Abort,
}

impl Lane {
    /// What became of `Action::End`.
    pub fn ended(
        &mut self,
        generation: Generation,
        end: End,
        result: Result<(), TransactionError>,
        now: Now,
    ) {
        let is_current = self.flow.generation == Some(generation);
        let Some(transaction) = self.transaction.as_mut().filter(|_| is_current) else {
            return;
        };
        let failure = match (end, result) {
            (End::Commit, Ok(())) => return self.committed(now),
            (End::Abort, Ok(())) if self.outstanding == 0 => return self.aborted(now),
            (End::Abort, Ok(())) => return transaction.stage = Stage::Aborted,
            (_, Err(failure)) => failure,
        };
        match (end, failure.verdict) {
            (_, Verdict::Again) => {
                transaction.again = Some((end, now.elapsed + AGAIN_AFTER));
                let oldest = transaction.events.first().copied();
                self.attempt_failed(oldest, failure.error, now);
            }
            (End::Commit, Verdict::Abort) => {
                transaction.failure = Some(failure.error);
                self.end(End::Abort);
            }
            (_, Verdict::Abort | Verdict::Ended) => self.breaks(failure.error),
        }
    }

    /// A task of ours ended without an answer, and it may have been this lane's step.
    pub fn step_lost(&mut self, detail: &str) {
        self.breaks(ours("Panicked", detail.to_owned()));
    }

    pub(in crate::deliver::lane) fn breaks(&mut self, error: DeliveryError) {
        self.last_error = Some(error.clone());
        if let Some(transaction) = &mut self.transaction {
            transaction.broken.get_or_insert(error);
        }
    }

    /// A call that had no answer is due again.
    pub(in crate::deliver::lane) fn call_again(&mut self, now: Now) -> Option<Action> {
        let generation = self.flow.generation?;
        let again = &mut self.transaction.as_mut()?.again;
        let (end, _) = again.take_if(|(_, at)| *at <= now.elapsed)?;
        Some(Action::End(generation, end))
    }

    /// Takes the transaction back at once: after a failure the client sends nothing more of it, and what is still with
    /// it gets its report by the abort.
    pub(in crate::deliver::lane) fn give_up_transaction(&mut self) {
        let ending =
            |transaction: &super::Transaction| matches!(transaction.stage, Stage::Ending | Stage::Aborted);
        if !self.transaction.as_ref().is_some_and(ending) {
            self.end(End::Abort);
        }
    }

    fn committed(&mut self, now: Now) {
        let settled = self.settled();
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let marks = transaction.writer.committed(transaction.end);
        transaction.marks = marks;
        transaction.stage = Stage::Open;
        transaction.healing = false;
        transaction.bytes = 0;
        if !transaction.letters.is_empty() {
            self.letters_failed = false;
        }
        let (events, letters) = (
            std::mem::take(&mut transaction.events),
            std::mem::take(&mut transaction.letters),
        );
        transaction.records.clear();
        for seq in events {
            if let Some(entry) = self.ring.remove(seq) {
                self.resolve(entry, true, now);
            }
        }
        for seq in letters {
            if let Some(entry) = self.ring.remove(seq) {
                self.resolve(entry, false, now);
            }
        }
        if !settled.is_empty() {
            self.actions.push_back(Action::SettleDeadLetters(settled));
        }
        let first = self.ring.first();
        if let Some(transaction) = &mut self.transaction {
            transaction.narrowing.resolved_below(first);
            transaction.began = now.elapsed;
        }
        let transition = self.breaker.succeeded(now.elapsed);
        self.note_transition(transition);
    }

    /// The dead letters whose events the transaction resolves.
    fn settled(&self) -> Vec<Lettered> {
        let Some(transaction) = &self.transaction else {
            return Vec::new();
        };
        let letters = transaction.letters.iter();
        let entries = letters.filter_map(|seq| self.ring.get(*seq));
        let lettered = entries.map(|entry| Lettered {
            slot: entry.event.slot,
            position: entry.event.position,
            epoch: transaction.epoch(entry.event.slot),
        });
        lettered.collect()
    }

    /// A dead letter was refused: its slot was taken by somebody else.
    pub(in crate::deliver::lane) fn fenced(&mut self, error: &DeadLetterError) {
        self.breaks(ours("Fenced", error.to_string()));
    }

    fn resolve(&mut self, entry: Entry, delivered: bool, now: Now) {
        match entry.state {
            State::Lettered(reason) => self.notes.push(Note::DeadLettered {
                label: entry.event.label,
                reason,
            }),
            _ if entry.attempts > 0 => self.notes.push(Note::RetrySucceeded),
            _ => {}
        }
        self.tell_resolved(&entry, delivered, now);
    }

    /// Everything that was sent waits again, in its order; those that failed are judged.
    pub(super) fn aborted(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.writer.aborted();
        transaction.stage = Stage::Open;
        transaction.bytes = 0;
        transaction.records.clear();
        let letters = std::mem::take(&mut transaction.letters);
        // They keep their order: those that had no place yet came after them.
        transaction.lettered.splice(0..0, letters);
        let letter_failure = transaction.letter_failure.take();
        let letter_failure = letter_failure.map(|error| transaction.letters_failed(&error));
        let failed_letters = std::mem::take(&mut transaction.failed_letters);
        let mut events = std::mem::take(&mut transaction.events);
        let failure = transaction.failure.take();
        let excused = std::mem::take(&mut transaction.healing);
        let failed: Vec<_> = events
            .iter()
            .copied()
            .filter(|seq| self.has_failed(*seq))
            .collect();
        let collateral = |seq: &Seq| self.failed_with(*seq) == Some(ErrorClass::Collateral);
        let only_collateral = failed.iter().all(collateral) && failure.as_ref().is_none_or(is_collateral);
        for seq in &events {
            self.wait_again(*seq);
        }
        self.remove_revoked_letters();
        // What fails because the broker has not seen the numbers of what it refused before is nobody's attempt.
        let given_up = std::mem::take(&mut self.flow.purged);
        self.flow.purged = given_up || excused && only_collateral;
        let nothing_failed = failed.is_empty();
        let suspects = self.settle(failed, Role::Flow, now);
        if let Some(error) = letter_failure {
            self.letters_not_written(error, now);
        }
        if nothing_failed && !self.flow.purged && !failed_letters {
            let oldest = events
                .first()
                .copied()
                .filter(|seq| self.ring.get(*seq).is_some());
            self.attempt_failed(oldest, failure.unwrap_or_else(uncommitted), now);
        }
        self.flow.purged = false;
        events.retain(|seq| self.waits(*seq));
        let convict = self.transaction.as_mut().and_then(|transaction| {
            transaction.healing = failed_letters || !suspects.is_empty();
            transaction.narrowing.aborted(&events, &suspects)
        });
        if let Some(seq) = convict {
            self.condemn(seq, Reason::Rejected);
        }
        self.full = false;
        self.phase = Phase::Flow;
        self.cursor = self.ring.first();
        let first = self.ring.first();
        if let Some(transaction) = &mut self.transaction {
            transaction.narrowing.resolved_below(first);
            transaction.began = now.elapsed;
        }
    }

    fn has_failed(&self, seq: Seq) -> bool {
        self.failed_with(seq).is_some()
    }

    fn failed_with(&self, seq: Seq) -> Option<ErrorClass> {
        match self.ring.get(seq)?.state {
            State::Failed(class) => Some(class),
            _ => None,
        }
    }

    /// What was written is not, after an abort.
    fn wait_again(&mut self, seq: Seq) {
        let Some(entry) = self.ring.get_mut(seq) else {
            return;
        };
        if matches!(entry.state, State::Failed(_)) {
            // Judged with the others that failed.
            return;
        }
        if entry.revoked {
            self.ring.remove(seq);
            return;
        }
        entry.state = State::Waiting;
        if entry.exhausted {
            let class = entry
                .failure
                .as_ref()
                .map_or(ErrorClass::Transient, |failure| failure.error.class);
            self.condemn(seq, Reason::Exhausted(class));
        }
    }

    /// Letters of slots that were lost while their transaction was under way.
    pub(in crate::deliver::lane) fn remove_revoked_letters(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let ring = &mut self.ring;
        transaction.lettered.retain(|seq| {
            let revoked = ring.get(*seq).is_none_or(|entry| entry.revoked);
            if revoked {
                ring.remove(*seq);
            }
            !revoked
        });
    }
}

fn is_collateral(error: &DeliveryError) -> bool {
    error.class == ErrorClass::Collateral
}

fn uncommitted() -> DeliveryError {
    ours(
        "NotCommitted",
        "the transaction could not be committed".to_owned(),
    )
}

pub(super) fn unsealed(error: SealError) -> DeliveryError {
    ours("NotSealed", error.to_string())
}

/// An error that we found ourselves.
fn ours(code: &str, detail: String) -> DeliveryError {
    DeliveryError {
        class: ErrorClass::Transient,
        code: code.to_owned(),
        detail,
        outcome: Outcome::NotWritten,
    }
}
