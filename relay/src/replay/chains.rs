//! `onAggregate: Hold`: which letters may be sent now, and which aggregates need not be held any more. Pure.
//!
//! The letters of an aggregate go one after the other, from its first on: those that are asked for, and those that are
//! letters only because an earlier one was. A letter that is neither stops its aggregate.

use std::collections::HashMap;

use crate::dead_letters::table::{REPLAYING, WAITING};
use crate::deliver::lane::{HeldAggregate, MAX_HELD};
use crate::deliver::prepare::fingerprint;
use crate::model::SourcePosition;
use crate::ports::{Reason, Standing};

/// What a look at all letters of a slot, in the order of the log, has shown.
#[derive(Debug)]
pub struct Chains {
    limit: usize,
    /// Of each aggregate that has letters.
    aggregates: HashMap<u64, Aggregate>,
    /// Letters that may be sent, as far as the limit goes.
    next: Vec<(u64, SourcePosition)>,
    behind: Vec<Behind>,
    /// There are more aggregates than are kept in mind.
    overflows: bool,
}

#[derive(Debug)]
enum Aggregate {
    Goes,
    /// By the letter of this event.
    Stopped(String),
}

/// A letter that is asked for and must not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub position: SourcePosition,
    /// Whose letter stands before it.
    pub event_id: String,
}

impl Chains {
    /// Of at most `limit` letters.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            aggregates: HashMap::new(),
            next: Vec::new(),
            behind: Vec::new(),
            overflows: false,
        }
    }

    /// The next letter of the slot.
    pub fn see(&mut self, letter: Standing<'_>) {
        let aggregate = fingerprint(letter.aggregate_id, letter.event_id);
        if self.aggregates.len() > MAX_HELD && !self.aggregates.contains_key(&aggregate) {
            // Nothing is delivered before there are fewer of them.
            self.overflows = true;
            return;
        }
        let asked = letter.status == Some(REPLAYING);
        let waits = letter.status.is_none_or(|status| status == WAITING);
        let follows = waits && letter.class == Some(Reason::Held.name());
        let state = self.aggregates.entry(aggregate).or_insert(Aggregate::Goes);
        match state {
            Aggregate::Goes if !asked && !follows => {
                *state = Aggregate::Stopped(letter.event_id.to_owned());
            }
            Aggregate::Goes if self.next.len() < self.limit => self.next.push((aggregate, letter.position)),
            Aggregate::Stopped(event_id) if asked && self.behind.len() < self.limit => {
                self.behind.push(Behind {
                    position: letter.position,
                    event_id: event_id.clone(),
                });
            }
            Aggregate::Goes | Aggregate::Stopped(_) => {}
        }
    }

    /// Those that are asked for in vain.
    pub fn behind(&self) -> &[Behind] {
        &self.behind
    }

    /// Of these, the aggregates that have no letter.
    pub fn free(&self, held: &[HeldAggregate]) -> Vec<HeldAggregate> {
        if self.overflows {
            return Vec::new();
        }
        let has_none = |held: &&HeldAggregate| !self.aggregates.contains_key(&held.aggregate);
        held.iter().filter(has_none).copied().collect()
    }

    /// What may be sent, by aggregate, each from its first letter on.
    pub fn into_chains(self) -> Vec<Vec<SourcePosition>> {
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut chains: Vec<Vec<SourcePosition>> = Vec::new();
        for (aggregate, position) in self.next {
            let place = *places.entry(aggregate).or_insert(chains.len());
            match chains.get_mut(place) {
                Some(chain) => chain.push(position),
                None => chains.push(vec![position]),
            }
        }
        chains
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::table::{PENDING, QUARANTINED};
    use crate::model::{CdcTime, StreamId};

    fn position(number: u64) -> SourcePosition {
        SourcePosition {
            stream: StreamId([0; 16]),
            time: CdcTime::min_of(number as i64),
            batch_seq_no: 0,
        }
    }

    /// Aggregate, class and status of letters, which are numbered in this order; the numbers that go, by aggregate, and those
    /// that are asked for in vain.
    fn chains(limit: usize, letters: &[(&str, &str, &str)]) -> (Vec<Vec<u64>>, Vec<(u64, String)>) {
        let mut chains = Chains::new(limit);
        for (number, (aggregate, class, status)) in letters.iter().enumerate() {
            chains.see(Standing {
                position: position(number as u64),
                event_id: &number.to_string(),
                aggregate_id: Some(aggregate),
                class: Some(class),
                status: Some(status),
                last_failed_at: None,
            });
        }
        let number = |position: &SourcePosition| position.time.micros() as u64;
        let behind = chains.behind().iter();
        let behind = behind.map(|behind| (number(&behind.position), behind.event_id.clone()));
        let behind = behind.collect();
        let numbers = |chain: &Vec<SourcePosition>| chain.iter().map(number).collect();
        (chains.into_chains().iter().map(numbers).collect(), behind)
    }

    #[test]
    fn what_was_held_follows_what_is_asked_for() {
        let letters = [
            ("a", "message", REPLAYING),
            ("b", "message", WAITING),
            ("a", "held", WAITING),
            ("b", "held", WAITING),
            ("a", "held", WAITING),
            ("c", "transient", REPLAYING),
        ];
        assert_eq!(chains(9, &letters), (vec![vec![0, 2, 4], vec![5]], vec![]));
    }

    #[test]
    fn what_stands_first_stops_its_aggregate_until_it_is_gone() {
        for stop in [WAITING, QUARANTINED, PENDING, "of a later version"] {
            let letters = [
                ("a", "held", WAITING),
                ("a", "message", stop),
                ("a", "held", WAITING),
                ("a", "message", REPLAYING),
                ("a", "held", REPLAYING),
            ];
            let behind = vec![(3, "1".to_owned()), (4, "1".to_owned())];
            assert_eq!(chains(9, &letters), (vec![vec![0]], behind));
        }
        let discarded = [("a", "held", WAITING), ("a", "held", WAITING)];
        assert_eq!(chains(9, &discarded), (vec![vec![0, 1]], vec![]));
        let quarantined = [("a", "held", QUARANTINED), ("a", "held", WAITING)];
        assert_eq!(chains(9, &quarantined), (vec![], vec![]));
    }

    #[test]
    fn beyond_the_limit_none_is_sent_and_none_is_given_up() {
        let letters = [("a", "message", REPLAYING); 3];
        assert_eq!(chains(2, &letters), (vec![vec![0, 1]], vec![]));
    }
}
