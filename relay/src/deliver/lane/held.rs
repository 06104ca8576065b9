//! Aggregates whose later events become dead letters too (`onAggregate: Hold`). Pure.

use std::collections::{HashMap, HashSet};

use super::ring::{Seq, State};
use super::{Event, Lane, Note, Now};
use crate::model::{SlotId, SlotSet};
use crate::ports::{DeliveryError, ErrorClass, Outcome};

/// Aggregates held at once, about 3 MiB. More of them is no matter of single bad events any more, and none can be let
/// go without delivering its events out of turn: nothing is sent until there are fewer.
pub const MAX_HELD: usize = 65_536;

/// The held aggregates of the owned slots.
#[derive(Debug, Default)]
pub(super) struct Held {
    from: HashMap<u64, Hold>,
    /// Letters of held aggregates so far.
    letters: u64,
}

#[derive(Debug)]
struct Hold {
    /// The first place that is held: what comes before the dead letter is not.
    from: Seq,
    slot: SlotId,
    /// Which letter was the aggregate's last.
    last: u64,
}

/// An aggregate that was held at some moment, with all of its dead letters durable. Whoever finds none of them in the
/// table afterwards may let it go, unless there was another letter since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAggregate {
    pub aggregate: u64,
    last: u64,
}

/// The held aggregates of a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldAggregates {
    pub settled: Vec<HeldAggregate>,
    /// There are others, whose letters are on their way to the table.
    pub unsettled: bool,
}

impl Held {
    pub(super) fn holds(&self, aggregate: u64, seq: Seq) -> bool {
        // Nearly always empty, and asked once per event.
        !self.from.is_empty() && self.from.get(&aggregate).is_some_and(|hold| seq >= hold.from)
    }

    pub(super) fn insert(&mut self, aggregate: u64, slot: SlotId, from: Seq) {
        self.letters += 1;
        let last = self.letters;
        let hold = self.from.entry(aggregate).or_insert(Hold { from, slot, last });
        hold.from = from.min(hold.from);
        hold.last = last;
    }

    /// Another of its events becomes a dead letter.
    pub(super) fn follow(&mut self, aggregate: u64) {
        self.letters += 1;
        if let Some(hold) = self.from.get_mut(&aggregate) {
            hold.last = self.letters;
        }
    }

    fn of(&self, slot: SlotId) -> impl Iterator<Item = HeldAggregate> {
        let of_slot = self.from.iter().filter(move |(_, hold)| hold.slot == slot);
        of_slot.map(|(aggregate, hold)| HeldAggregate {
            aggregate: *aggregate,
            last: hold.last,
        })
    }

    fn remove(&mut self, held: HeldAggregate) {
        let has_no_more = |hold: &Hold| hold.last == held.last;
        if self.from.get(&held.aggregate).is_some_and(has_no_more) {
            self.from.remove(&held.aggregate);
        }
    }

    fn forget(&mut self, slots: SlotSet) {
        self.from.retain(|_, hold| !slots.contains(hold.slot));
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

    /// Whether an event has to follow a dead letter of its aggregate. One that is sent again does not: whoever has it sent
    /// sees to the order of an aggregate's letters.
    pub(super) fn is_held(&self, seq: Seq) -> bool {
        let holds = |event: &Event| event.replay.is_none() && self.held.holds(event.aggregate, seq);
        self.ring.get(seq).is_some_and(|entry| holds(&entry.event))
    }

    /// What is held of a slot.
    pub fn held(&self, slot: SlotId) -> HeldAggregates {
        let lettering = |state: &State| {
            matches!(
                state,
                State::Condemned(_) | State::Writing(_) | State::Lettered(_)
            )
        };
        let under_way = self.ring.seqs(|entry| lettering(&entry.state));
        let under_way: HashSet<_> = under_way
            .into_iter()
            .filter_map(|seq| Some(self.ring.get(seq)?.event.aggregate))
            .collect();
        let (unsettled, settled): (Vec<_>, _) = self
            .held
            .of(slot)
            .partition(|held| under_way.contains(&held.aggregate));
        HeldAggregates {
            settled,
            unsettled: !unsettled.is_empty(),
        }
    }

    /// Stops holding an aggregate that has no dead letter any more; of no effect if there was another one since.
    pub fn let_go(&mut self, held: HeldAggregate) {
        self.held.remove(held);
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
                    "{} aggregates have dead letters, {MAX_HELD} can be held (deadLetter.onAggregate: Hold); replay \
                     or discard dead letters, or choose Continue",
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
        let before = held.of(slot(0)).next().unwrap();
        held.follow(1);
        held.remove(before);
        assert!(held.holds(1, 9), "there was another letter since");
        let now = held.of(slot(0)).next().unwrap();
        held.remove(now);
        assert!(!held.holds(1, 9) && held.of(slot(0)).next().is_none());
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
