//! The lane's two producers: which generation each is in, and how that ends.

use super::{Action, Generation, Lane, Note, Now, Phase};
use crate::ports::{DeliveryError, Role};

#[derive(Debug, Default)]
pub(super) struct Producer {
    pub(super) generation: Option<Generation>,
    opening: bool,
    /// It will never send again, because of this.
    pub(super) fatal: Option<DeliveryError>,
    /// We gave it up ourselves; what fails with it is nobody's fault.
    pub(super) purged: bool,
}

impl Lane {
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

    pub(super) fn producer_is_fatal(&mut self, generation: Generation, error: DeliveryError, now: Now) {
        let role = match Some(generation) {
            of if of == self.flow.generation => Role::Flow,
            of if of == self.isolator.generation => Role::Isolation,
            _ => return,
        };
        if self.producer(role).fatal.replace(error.clone()).is_none() {
            self.heard_at = now.elapsed;
        }
        if self.transaction.is_some() {
            return self.breaks(error);
        }
        match (&self.phase, role) {
            (Phase::Flow, Role::Flow) => {
                self.phase = Phase::Drain;
                self.end_generation(now);
            }
            // The group's own reports tell the rest.
            (Phase::Isolate(_), Role::Isolation) if self.outstanding > 0 => {}
            (Phase::Drain, Role::Flow) => {}
            // Nothing is with this producer.
            _ => {
                self.close(role);
                self.attempt_failed(None, error, now);
            }
        }
    }

    /// Gives up what is with the producer, because we want it back.
    pub(super) fn give_up_producer(&mut self) {
        if self.transaction.is_some() {
            // An abort is what gives back.
            self.flow.purged = true;
            self.phase = Phase::Drain;
            return self.give_up_transaction();
        }
        let producer = self.producer(self.sender());
        if let Some(generation) = producer.generation.filter(|_| !producer.purged) {
            producer.purged = true;
            self.actions.push_back(Action::Purge(generation));
        }
        if matches!(self.phase, Phase::Flow) {
            self.phase = Phase::Drain;
        }
    }

    /// Whose messages are outstanding, if any are: the other producer is idle.
    pub(super) fn sender(&self) -> Role {
        match self.phase {
            Phase::Flow | Phase::Drain => Role::Flow,
            Phase::Isolate(_) => Role::Isolation,
        }
    }

    /// Whether a signal of this generation is about what is outstanding.
    pub(super) fn sends(&self, generation: Generation) -> bool {
        let sender = match self.sender() {
            Role::Flow => &self.flow,
            Role::Isolation => &self.isolator,
        };
        sender.generation == Some(generation)
    }

    /// The producer of this role, if it can take messages.
    pub(super) fn usable(&self, role: Role) -> Option<Generation> {
        let producer = match role {
            Role::Flow => &self.flow,
            Role::Isolation => &self.isolator,
        };
        producer.generation.filter(|_| !producer.is_spent())
    }

    pub(super) fn producer(&mut self, role: Role) -> &mut Producer {
        match role {
            Role::Flow => &mut self.flow,
            Role::Isolation => &mut self.isolator,
        }
    }

    pub(super) fn open(&mut self, role: Role) -> Action {
        self.last_generation += 1;
        self.producer(role).opening = true;
        Action::Open(role, self.last_generation)
    }

    pub(super) fn close(&mut self, role: Role) {
        let producer = std::mem::take(self.producer(role));
        if let Some(generation) = producer.generation {
            self.actions.push_back(Action::Close(generation));
            self.notes.push(Note::GenerationEnded(generation));
        }
    }
}

impl Producer {
    pub(super) fn is_missing(&self) -> bool {
        self.generation.is_none() && !self.opening
    }

    /// It sends no more.
    pub(super) fn is_spent(&self) -> bool {
        self.fatal.is_some() || self.purged
    }
}
