//! What becomes of what was sent: reports, failures, the end of a generation, what counts as an attempt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::isolation::{Finished, Isolation};
use super::ring::{Entry, Seq, State};
use super::{Event, Generation, Lane, Note, Now, Phase, Resolved};
use crate::deliver::breaker::Transition;
use crate::ports::{Delivered, DeliveryError, ErrorClass, Outcome, Reason, Report, Role, Signal};
use crate::spans::{Ended, Trace};

/// Waiting events among which a group after the suspects is chosen: enough that with many aggregates groups are large,
/// few enough to be looked at once per group, some 20 microseconds.
const GROUP_WINDOW: usize = 1_000;

impl Lane {
    /// A producer said something.
    pub fn on_signal(&mut self, generation: Generation, signal: Signal, now: Now) {
        match signal {
            Signal::Report(report) => self.reported(generation, report, now),
            Signal::Fatal(error) => self.producer_is_fatal(generation, error, now),
            Signal::AllBrokersDown(error) => self.all_brokers_down(generation, error, now),
            Signal::Trouble(error) => self.last_error = Some(error),
        }
    }

    fn reported(&mut self, generation: Generation, report: Report, now: Now) {
        let seq = report.token;
        if Self::is_record(seq) {
            if self.sends(generation) {
                self.record_reported(report, now);
            }
            return;
        }
        let sent = self
            .ring
            .get(seq)
            .is_some_and(|entry| matches!(entry.state, State::Sent(_)));
        if !sent || !self.sends(generation) {
            return;
        }
        self.full = false;
        self.heard_at = now.elapsed;
        match report.result {
            Ok(at) => self.delivered(seq, at, now),
            Err(error) => self.failed(seq, error, now),
        }
    }

    fn delivered(&mut self, seq: Seq, at: Delivered, now: Now) {
        self.progress(seq, now);
        self.brokers_down = false;
        self.outstanding -= 1;
        if let Some(trace) = self
            .ring
            .get_mut(seq)
            .and_then(|entry| entry.event.trace.as_mut())
        {
            trace.at = Some(at);
        }
        if self.transaction.is_some() {
            // Its commit is what counts.
            if let Some(entry) = self.ring.get_mut(seq) {
                entry.state = State::Written;
            }
            return self.transaction_reported(now);
        }
        if let Some(entry) = self.ring.remove(seq) {
            if entry.attempts > 0 {
                self.notes.push(Note::RetrySucceeded);
            }
            self.tell_resolved(&entry, true, now);
        }
        let transition = self.breaker.succeeded(now.elapsed);
        self.note_transition(transition);
        self.after_report(seq, true, now);
    }

    /// A message that a producer had taken, or refused, failed.
    pub(super) fn failed(&mut self, seq: Seq, error: DeliveryError, now: Now) {
        self.progress(seq, now);
        self.outstanding -= 1;
        let class = error.class;
        if let Some(entry) = self.ring.get_mut(seq) {
            entry.report_failed(error, now.wall);
            entry.state = State::Failed(class);
        }
        if matches!(self.phase, Phase::Flow) {
            self.phase = Phase::Drain;
        }
        let isolates = self.transaction.is_none() && self.isolator.is_missing();
        if class == ErrorClass::Message && matches!(self.phase, Phase::Drain) && isolates {
            // Warm by the time that the generation has ended.
            let open = self.open(Role::Isolation);
            self.actions.push_back(open);
        }
        self.after_report(seq, false, now);
    }

    fn after_report(&mut self, seq: Seq, delivered: bool, now: Now) {
        match &mut self.phase {
            Phase::Flow => {}
            Phase::Drain => self.end_generation(now),
            Phase::Isolate(isolation) => {
                isolation.reported(seq, delivered);
                self.finish_group(now);
            }
        }
    }

    /// Starts the next generation once every message of this one has its report.
    pub(super) fn end_generation(&mut self, now: Now) {
        if !matches!(self.phase, Phase::Drain) {
            return;
        }
        if self.transaction.is_some() {
            return self.give_up_transaction();
        }
        if self.outstanding > 0 {
            return;
        }
        let failed = self.ring.seqs(|entry| matches!(entry.state, State::Failed(_)));
        let suspects = self.settle(failed, Role::Flow, now);
        self.close(Role::Flow);
        self.cursor = self.ring.first();
        self.full = false;
        let suspects = self.with_elders(&suspects);
        self.phase = if suspects.is_empty() {
            Phase::Flow
        } else {
            Phase::Isolate(Isolation::new(suspects))
        };
    }

    /// Suspects and their aggregates, oldest first, and what waits before them in these: an event that failed with
    /// the producer, and before a suspect of its aggregate, comes before it on the isolating producer too.
    fn with_elders(&self, suspects: &[Seq]) -> Vec<(Seq, u64)> {
        let aggregate = |seq: Seq| Some(self.ring.get(seq)?.event.aggregate);
        let newest: HashMap<u64, Seq> = suspects
            .iter()
            .filter_map(|seq| Some((aggregate(*seq)?, *seq)))
            .collect();
        let end = suspects.last().map_or(0, |last| last + 1);
        (self.ring.first()..end)
            .filter_map(|seq| Some((seq, aggregate(seq)?)))
            .filter(|(seq, aggregate)| {
                newest.get(aggregate).is_some_and(|newest| seq <= newest)
                    && self.waits(*seq)
                    && !self.is_held(*seq)
            })
            .collect()
    }

    /// Judges a group of suspects once all of it is reported. Returns whether the isolation has moved on.
    pub(super) fn finish_group(&mut self, now: Now) -> bool {
        let spent = self.isolator.is_spent();
        let Phase::Isolate(isolation) = &mut self.phase else {
            return false;
        };
        if spent {
            isolation.cut();
        }
        let finished = isolation.finished();
        let moved = finished.is_some();
        if let Some(Finished { size, failed }) = finished {
            let refused = self.settle(failed.clone(), Role::Isolation, now);
            let innocent = failed
                .into_iter()
                .filter(|seq| !refused.contains(seq) && self.waits(*seq))
                .collect();
            self.judge(size, refused, innocent);
        }
        if self.isolator.is_spent() && self.outstanding == 0 {
            self.close(Role::Isolation);
        }
        self.go_on() || moved
    }

    /// Once all suspects are judged: the flow goes on or, as long as more refusals are likely, the next group. False if
    /// nothing has changed.
    fn go_on(&mut self) -> bool {
        let over = match &self.phase {
            Phase::Isolate(isolation) if isolation.is_done() => isolation.is_over(),
            _ => return false,
        };
        if over {
            self.phase = Phase::Flow;
            self.cursor = self.ring.first();
            return true;
        }
        let group = self.next_group();
        let any = !group.is_empty();
        if let Phase::Isolate(isolation) = &mut self.phase {
            isolation.follow(group);
        }
        any
    }

    /// The oldest waiting event of each aggregate, among the oldest that wait.
    fn next_group(&mut self) -> Vec<(Seq, u64)> {
        let (mut group, mut held, mut aggregates) = (Vec::new(), Vec::new(), HashSet::new());
        let waiting = (self.ring.first()..self.ring.end())
            .filter_map(|seq| Some((seq, self.ring.get(seq)?)))
            .filter(|(_, entry)| entry.state == State::Waiting)
            .take(GROUP_WINDOW);
        for (seq, entry) in waiting {
            let aggregate = entry.event.aggregate;
            if self.is_held(seq) {
                held.push(seq);
            } else if aggregates.insert(aggregate) {
                group.push((seq, aggregate));
            }
        }
        for seq in held {
            self.condemn(seq, Reason::Held);
        }
        group
    }

    fn judge(&mut self, size: usize, refused: Vec<Seq>, again: Vec<Seq>) {
        if let ([seq], 1) = (refused.as_slice(), size) {
            return self.condemn(*seq, Reason::Rejected);
        }
        if let Phase::Isolate(isolation) = &mut self.phase {
            isolation.again(again);
            isolation.halve(refused);
        }
    }

    pub(super) fn waits(&self, seq: Seq) -> bool {
        self.ring
            .get(seq)
            .is_some_and(|entry| entry.state == State::Waiting)
    }

    /// Decides on failed messages whose producer, or group, has no more to say: those that are exhausted become dead
    /// letters, the rest waits again. The oldest that failed for a reason of its own has failed an attempt. Returns
    /// those with message errors.
    pub(super) fn settle(&mut self, failed: Vec<Seq>, role: Role, now: Now) -> Vec<Seq> {
        let mut suspects = Vec::new();
        let mut culprit = None;
        for seq in &failed {
            let Some(entry) = self.ring.get_mut(*seq) else {
                continue;
            };
            if entry.revoked {
                self.ring.remove(*seq);
                continue;
            }
            let State::Failed(class) = entry.state else {
                continue;
            };
            entry.state = State::Waiting;
            if entry.exhausted {
                let class = entry
                    .failure
                    .as_ref()
                    .map_or(class, |failure| failure.error.class);
                self.condemn(*seq, Reason::Exhausted(class));
                continue;
            }
            match class {
                ErrorClass::Message => suspects.push(*seq),
                ErrorClass::Configuration | ErrorClass::Transient => culprit = culprit.or(Some(*seq)),
                ErrorClass::Collateral => {}
            }
        }
        let producer = self.producer(role);
        let (fatal, purged) = (producer.fatal.clone(), producer.purged);
        let nothing_failed = failed.is_empty() && fatal.is_none();
        if nothing_failed || purged {
            return suspects;
        }
        if culprit.is_none() && suspects.is_empty() {
            // The producer died of itself: that is a failed attempt of the oldest event.
            let waiting = failed.into_iter().find(|seq| self.waits(*seq));
            let oldest = waiting.or_else(|| self.oldest_to_attempt());
            if let Some(error) = fatal.or_else(|| self.error_of(oldest?)) {
                self.attempt_failed(oldest, error, now);
            }
        } else if let Some(error) = culprit.and_then(|seq| self.error_of(seq)) {
            self.attempt_failed(culprit, error, now);
        }
        suspects
    }

    fn error_of(&self, seq: Seq) -> Option<DeliveryError> {
        let failure = self.ring.get(seq)?.failure.as_ref()?;
        Some(failure.error.clone())
    }

    /// Counts a failed attempt of an event (None: there is none, and only the back-off counts). While the circuit is
    /// open and during a back-off nothing is attempted: this is the last word on an attempt that has been counted.
    pub(super) fn attempt_failed(&mut self, seq: Option<Seq>, error: DeliveryError, now: Now) {
        self.last_error = Some(error.clone());
        if !self.attempting(now) {
            if let Some(entry) = seq.and_then(|seq| self.ring.get_mut(seq)) {
                entry.attempt_failed(error, now.wall);
            }
            return;
        }
        let Some(entry) = seq.and_then(|seq| self.ring.get_mut(seq)) else {
            self.back_off(u32::MAX, now);
            return;
        };
        entry.attempts += 1;
        let attempts = entry.attempts;
        entry.attempt_failed(error.clone(), now.wall);
        self.back_off(attempts, now);
        self.notes.push(Note::AttemptFailed {
            attempt: attempts,
            error,
        });
        let transition = self.breaker.failed(now.elapsed);
        self.note_transition(transition);
        if let Some(seq) = seq.filter(|_| attempts >= self.policy.max_attempts) {
            self.attempts_are_used_up(seq, attempts, now);
        }
    }

    fn back_off(&mut self, failures: u32, now: Now) {
        self.not_before = now.elapsed + self.policy.schedule.delay(failures, &mut self.random);
        self.attempt_since = self.not_before;
    }

    pub(super) fn note_transition(&mut self, transition: Option<Transition>) {
        self.notes.extend(transition.map(Note::Breaker));
    }

    /// The event is done with; told to nobody if its slot was lost meanwhile.
    pub(super) fn tell_resolved(&mut self, entry: &Entry, delivered: bool, now: Now) {
        if !entry.revoked {
            let took = now.elapsed.saturating_sub(entry.offered_at);
            if let Some(trace) = &entry.event.trace {
                let ended = ended(trace, &entry.event, (took, entry.attempts, delivered));
                self.notes.push(Note::Traced(Box::new(ended)));
            }
            self.resolved.push(Resolved {
                slot: entry.event.slot,
                time: entry.event.position.time.micros(),
                row_id: entry.event.row_id,
                label: entry.event.label,
                took,
                delivered,
                replay: entry.event.replay,
            });
        }
    }

    /// An error that we found ourselves.
    pub(super) fn stalled(&self) -> DeliveryError {
        DeliveryError {
            class: ErrorClass::Transient,
            code: "Stalled".to_owned(),
            detail: format!(
                "no acknowledgement within {} ms (retry.attemptTimeoutMilliseconds)",
                self.policy.attempt_timeout.as_millis()
            ),
            outcome: Outcome::Unknown,
        }
    }
}

fn ended(trace: &Trace, event: &Event, (took, attempts, delivered): (Duration, u32, bool)) -> Ended {
    let key = event.message.key.as_deref();
    Ended {
        trace: Box::new(trace.clone()),
        topic: Arc::clone(&event.message.topic),
        key: key.and_then(|key| String::from_utf8(key.to_vec()).ok()),
        event_id: event.event_id.clone(),
        aggregate_id: event.aggregate_id.clone(),
        event_type: event.event_type.clone(),
        body_bytes: event.message.payload.as_ref().map_or(0, Bytes::len),
        committed: event.position.time.micros(),
        took,
        attempts,
        delivered,
        replayed: event.replay.is_some(),
    }
}
