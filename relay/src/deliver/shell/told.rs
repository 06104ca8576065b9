//! What a turn of the lane brought about, told to ledger, metrics, health and log.

use crds::relay_status::{BreakerState, DataEventKind, Health};
use tracing::{error, info, warn};

use super::running::Running;
use crate::deliver::breaker::Transition;
use crate::deliver::lane::{Note, Now, Replay};
use crate::health::Part;
use crate::journal::Mark;
use crate::model::SlotId;
use crate::ports::{Broker, Clock, DeadLetters};

impl<B: Broker + Clone, D: DeadLetters, C: Clock> Running<B, D, C> {
    pub(super) fn publish(&mut self, now: Now) {
        self.lane.take_resolved(&mut self.resolved);
        self.lane.take_notes(&mut self.notes);
        let marks = self.lane.take_marks();
        if !self.resolved.is_empty() || !marks.is_empty() {
            self.resolve(&marks, now);
        }
        if !self.notes.is_empty() {
            let mut dead_letters = 0;
            for note in std::mem::take(&mut self.notes) {
                dead_letters += u64::from(matches!(note, Note::DeadLettered { .. }));
                self.tell(note, now);
            }
            self.tell_dead_letters(dead_letters, now);
        }
        let metrics = &self.delivery.metrics.delivery;
        let (messages, bytes) = (self.lane.messages(), self.lane.bytes());
        metrics.in_flight_messages.set(messages as i64);
        metrics.in_flight_bytes.set(bytes as i64);
        metrics.held_aggregates.set(self.lane.held_aggregates() as i64);
        let breaker = self.lane.breaker();
        let (state, failures) = (breaker.state(), breaker.consecutive_failures());
        self.delivery.control.update(|view| {
            view.in_flight = messages as u64;
            view.in_flight_bytes = bytes as u64;
            view.breaker = state;
            view.consecutive_failures = failures;
        });
    }

    /// At once, so that no checkpoint has a mark and lacks what it covers.
    fn resolve(&mut self, marks: &[(SlotId, Mark)], now: Now) {
        {
            let mut ledger = self.delivery.ledger.lock();
            for event in &self.resolved {
                match event.replay {
                    None => ledger.resolve(event.slot, event.time, event.row_id),
                    Some(Replay {
                        journaled: Some((time, id)),
                    }) => ledger.replay_committed(event.slot, time, id),
                    Some(Replay { journaled: None }) => {}
                }
            }
            for (slot, mark) in marks {
                if let Some(ledger) = ledger.slot_mut(*slot) {
                    ledger.marked(*mark);
                    self.lane.saved(*slot, ledger.saved_mark());
                }
            }
        }
        let metrics = &self.delivery.metrics.delivery;
        let control = &self.delivery.control;
        let (mut delivered, mut sink_works) = (0, false);
        for event in self.resolved.drain(..) {
            sink_works |= event.delivered;
            if event.replay.is_some() {
                // Its latency says how long it lay.
                control.replayed(event.slot, event.row_id, event.delivered);
            } else if event.delivered {
                delivered += 1;
                metrics.delivered(event.label, event.took, event.time, now.wall);
            }
        }
        control.update(|view| view.totals.processed += delivered);
        if sink_works && self.sink_is_degraded && self.lane.breaker().state() == BreakerState::Closed {
            self.sink_health(Health::Healthy, None, now);
        }
    }

    fn tell(&mut self, note: Note, now: Now) {
        let metrics = &self.delivery.metrics.delivery;
        match note {
            Note::AttemptFailed { attempt, error } => {
                metrics.attempt_failed(attempt, &error);
                warn!(attempt, class = error.class.category(), %error, "attempt failed");
                self.sink_health(Health::Degraded, Some(error.to_string()), now);
                self.delivery.control.update(|view| {
                    view.totals.retries += 1;
                    view.last_error = Some(error.to_string());
                });
            }
            Note::RetrySucceeded => metrics.retry_succeeded(),
            Note::RetriesExhausted => metrics.retries_exhausted(),
            Note::Breaker(transition) => self.tell_breaker(transition, now),
            Note::DeadLettered { label, reason } => metrics.dead_lettered(label, reason),
            Note::DeadLettersNotWritten(error) => {
                metrics.dead_letters_not_written();
                warn!(%error, "dead letters not written");
                self.delivery
                    .board
                    .failed(Part::DeadLetters, error.to_string(), now.wall);
                metrics.component(Part::DeadLetters.name(), Health::Failed);
            }
            Note::GenerationEnded(generation) => {
                metrics.generation_ended();
                info!(generation, "producer generation ended");
            }
            Note::Traced(event) => {
                if let Some(spans) = &self.delivery.spans {
                    spans.ended(&event, now.wall);
                }
            }
            Note::HeldFull => error!(
                aggregates = self.lane.held_aggregates(),
                "too many aggregates are held; nothing is sent until there are fewer"
            ),
        }
    }

    fn tell_breaker(&mut self, transition: Transition, now: Now) {
        self.delivery.metrics.delivery.breaker_changed(transition);
        self.delivery
            .control
            .update(|view| view.breaker_since = Some(now.wall));
        let error = self.lane.last_error().map(ToString::to_string);
        let error = error.unwrap_or_else(|| "dead letters cannot be written".to_owned());
        match transition.to {
            BreakerState::Open => {
                warn!(from = ?transition.from, %error, "circuit opened");
                self.sink_health(Health::Failed, Some(format!("circuit open: {error}")), now);
                if transition.from == BreakerState::Closed {
                    self.delivery
                        .board
                        .event(DataEventKind::CircuitOpened, error, now.wall);
                }
            }
            BreakerState::HalfOpen => {
                info!("circuit half-open: probing");
                self.sink_health(Health::Degraded, Some(format!("circuit half-open: {error}")), now);
            }
            BreakerState::Closed => {
                info!("circuit closed");
                self.sink_health(Health::Healthy, None, now);
                self.delivery
                    .board
                    .event(DataEventKind::CircuitClosed, "delivery resumed", now.wall);
            }
        }
    }

    fn tell_dead_letters(&mut self, count: u64, now: Now) {
        if count == 0 {
            return;
        }
        warn!(count, "events became dead letters");
        self.delivery.board.healthy(Part::DeadLetters, now.wall);
        self.delivery
            .metrics
            .delivery
            .component(Part::DeadLetters.name(), Health::Healthy);
        let message = format!("{count} events became dead letters");
        self.delivery
            .board
            .event(DataEventKind::DeadLettered, message, now.wall);
        self.delivery.control.update(|view| {
            view.totals.dead_lettered += count;
            view.totals.failed += count;
        });
    }

    fn sink_health(&mut self, health: Health, message: Option<String>, now: Now) {
        self.sink_is_degraded = health == Health::Degraded;
        let board = &self.delivery.board;
        let message = message.unwrap_or_default();
        match health {
            Health::Failed => board.failed(Part::Sink, message, now.wall),
            Health::Degraded => board.degraded(Part::Sink, message, now.wall),
            Health::Healthy | Health::Starting => board.healthy(Part::Sink, now.wall),
        }
        self.delivery
            .metrics
            .delivery
            .component(Part::Sink.name(), health);
    }
}
