//! Aggregates whose later events become dead letters too (`onAggregate: Hold`). Pure.

use std::collections::{HashMap, VecDeque};

use super::ring::Seq;

/// Aggregates held at once, about 2 MiB. More of them is no matter of single bad events any more; then the oldest
/// are let go, which is counted and told.
pub const MAX_HELD: usize = 65_536;

/// A bounded set of aggregates, oldest first out.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// With the place of the first dead letter: only what comes after it is held.
    since: HashMap<u64, Seq>,
    order: VecDeque<u64>,
}

impl Held {
    pub(super) fn holds(&self, aggregate: u64, seq: Seq) -> bool {
        // Nearly always empty, and asked once per event.
        !self.since.is_empty() && self.since.get(&aggregate).is_some_and(|since| seq > *since)
    }

    /// Returns whether another aggregate had to be let go.
    pub(super) fn insert(&mut self, aggregate: u64, seq: Seq) -> bool {
        if let Some(since) = self.since.get_mut(&aggregate) {
            *since = seq.min(*since);
            return false;
        }
        self.since.insert(aggregate, seq);
        self.order.push_back(aggregate);
        if self.order.len() <= MAX_HELD {
            return false;
        }
        if let Some(oldest) = self.order.pop_front() {
            self.since.remove(&oldest);
        }
        true
    }

    pub(super) fn remove(&mut self, aggregate: u64) {
        if self.since.remove(&aggregate).is_some() {
            self.order.retain(|held| *held != aggregate);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_let_go_when_there_are_too_many() {
        let mut held = Held::default();
        let overflows = (0..=MAX_HELD as u64)
            .filter(|aggregate| held.insert(*aggregate, 5))
            .count();
        assert_eq!((overflows, held.len()), (1, MAX_HELD));
        assert!(!held.holds(0, 6) && held.holds(1, 6));
        assert!(!held.insert(1, 6), "known already");
        held.remove(1);
        assert!(!held.holds(1, 6));
        assert_eq!(held.order.len(), held.len());
    }

    #[test]
    fn only_what_comes_after_the_first_dead_letter_is_held() {
        let mut held = Held::default();
        held.insert(1, 5);
        held.insert(1, 3);
        held.insert(1, 9);
        assert!(!held.holds(1, 3) && held.holds(1, 4));
    }
}
