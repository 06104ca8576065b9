//! Aggregates whose later events become dead letters too (`onAggregate: Hold`). Pure.

use std::collections::HashMap;

use super::ring::Seq;
use super::{Lane, Note, Now};
use crate::model::{SlotId, SlotSet};
use crate::ports::{DeliveryError, ErrorClass, Outcome};

/// Aggregates held at once, about 3 MiB. More of them is no matter of single bad events any more, and none can be let
/// go without delivering its events out of turn: nothing is sent until there are fewer.
pub const MAX_HELD: usize = 65_536;

/// The held aggregates of the owned slots.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// With the first place that is held: what comes before the dead letter is not.
    from: HashMap<u64, (Seq, SlotId)>,
}

impl Held {
    pub(super) fn holds(&self, aggregate: u64, seq: Seq) -> bool {
        // Nearly always empty, and asked once per event.
        !self.from.is_empty() && self.from.get(&aggregate).is_some_and(|(from, _)| seq >= *from)
    }

    pub(super) fn insert(&mut self, aggregate: u64, slot: SlotId, from: Seq) {
        let held = self.from.entry(aggregate).or_insert((from, slot));
        held.0 = from.min(held.0);
    }

    pub(super) fn remove(&mut self, aggregate: u64) {
        self.from.remove(&aggregate);
    }

    fn forget(&mut self, slots: SlotSet) {
        self.from.retain(|_, (_, slot)| !slots.contains(*slot));
    }

    pub(super) fn len(&self) -> usize {
        self.from.len()
    }

    /// What was in flight when the bound was reached may still be added.
    pub(super) fn is_full(&self) -> bool {
        self.from.len() > MAX_HELD
    }
}

impl Lane {
    /// A slot was taken whose dead letters are of these aggregates: what is offered of them from now on is held.
    pub fn hold(&mut self, slot: SlotId, aggregates: impl IntoIterator<Item = u64>) {
        for aggregate in aggregates {
            self.held.insert(aggregate, slot, self.ring.end());
        }
    }

    /// Stops holding an aggregate.
    pub fn let_go(&mut self, aggregate: u64) {
        self.held.remove(aggregate);
    }

    pub(super) fn forget_held(&mut self, slots: SlotSet) {
        self.held.forget(slots);
    }

    pub fn held_aggregates(&self) -> usize {
        self.held.len()
    }

    /// Keeps the circuit open while too many aggregates are held.
    pub(super) fn refuse_if_full(&mut self, now: Now) {
        if !self.held.is_full() {
            return;
        }
        if let Some(transition) = self.breaker.trip(now.elapsed) {
            self.last_error = Some(DeliveryError {
                class: ErrorClass::Configuration,
                code: "TooManyHeld".to_owned(),
                detail: format!(
                    "{} aggregates have dead letters, {MAX_HELD} can be held (deadLetter.onAggregate: Hold); resolve \
                     dead letters, or choose Continue, and restart the relay",
                    self.held.len()
                ),
                outcome: Outcome::NotWritten,
            });
            self.notes.push(Note::HeldFull);
            self.note_transition(Some(transition));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(index: u8) -> SlotId {
        SlotId::new(index).unwrap()
    }

    #[test]
    fn only_what_comes_after_the_first_dead_letter_is_held() {
        let mut held = Held::default();
        held.insert(1, slot(0), 5);
        held.insert(1, slot(0), 3);
        held.insert(1, slot(0), 9);
        assert!(!held.holds(1, 2) && held.holds(1, 3));
        held.remove(1);
        assert!(!held.holds(1, 9));
    }

    #[test]
    fn none_is_let_go_but_with_its_slot() {
        let mut held = Held::default();
        for aggregate in 0..=MAX_HELD as u64 {
            assert!(!held.is_full());
            held.insert(aggregate, slot((aggregate % 64) as u8), 0);
        }
        assert!(held.is_full() && held.holds(0, 0));
        held.forget([slot(0)].into_iter().collect());
        assert!(!held.is_full() && !held.holds(0, 0) && held.holds(1, 0));
    }
}
