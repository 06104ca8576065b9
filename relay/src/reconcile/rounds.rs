//! When each slot of the table is looked through, and what a row that was read means. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Micros, SLOTS, SlotId, SlotSet};

/// Which slot is looked through next: each once per interval, spread evenly over it.
#[derive(Debug)]
pub struct Rounds {
    interval: Duration,
    /// Where the first interval begins: another slot with every start, so that a process that seldom lives for long looks
    /// through all of them in time.
    first: usize,
    due: BTreeMap<SlotId, Duration>,
}

impl Rounds {
    pub fn new(interval: Duration, seed: u64) -> Self {
        Self {
            interval,
            first: (seed % SLOTS as u64) as usize,
            due: BTreeMap::new(),
        }
    }

    /// The slot among `owned` that has waited longest, if one is due.
    pub fn next(&mut self, owned: SlotSet, now: Duration) -> Option<SlotId> {
        self.due.retain(|slot, _| owned.contains(*slot));
        for slot in owned.iter() {
            let turn = (slot.index() + SLOTS - self.first) % SLOTS + 1;
            let after = self.interval.mul_f64(turn as f64 / SLOTS as f64);
            self.due.entry(slot).or_insert(now + after);
        }
        let due = self.due.iter().filter(|(_, due)| **due <= now);
        due.min_by_key(|(_, due)| **due).map(|(slot, _)| *slot)
    }

    /// The slot was looked through, or could not be.
    pub fn done(&mut self, slot: SlotId, now: Duration) {
        self.due.insert(slot, now + self.interval);
    }
}

/// What was known of a slot before its rows were read: a row that was delivered and deleted meanwhile may still be in the
/// answer, and by then the bound may have passed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Rows written from then on are deleted.
    pub since: Micros,
    pub bound: Micros,
    /// Nothing written before can surface in the log any more: the horizon and the margin are over.
    pub settled: Micros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its log row was never read, and never will be.
    Found(Micros),
    /// The tail has read it, or still may; or it was read and is about to be deleted.
    InTime,
    /// Written before rows were deleted: nobody knows whether it was delivered.
    Before,
    /// A remainder of a row, for instance after an update of a deleted one.
    Undated,
}

pub fn judge(written: Option<Micros>, before: Before) -> Verdict {
    match written {
        None => Verdict::Undated,
        Some(written) if written >= before.bound.min(before.settled) => Verdict::InTime,
        Some(written) if written < before.since => Verdict::Before,
        Some(written) => Verdict::Found(written),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_bound_and_horizon_and_was_to_be_deleted_is_found() {
        let before = Before {
            since: 10,
            bound: 50,
            settled: 40,
        };
        let check = |written, expected| assert_eq!(judge(written, before), expected, "{written:?}");
        check(None, Verdict::Undated);
        check(Some(9), Verdict::Before);
        check(Some(10), Verdict::Found(10));
        check(Some(39), Verdict::Found(39));
        check(Some(40), Verdict::InTime);
        check(Some(50), Verdict::InTime);
        let behind = Before { bound: 20, ..before };
        assert_eq!(
            judge(Some(20), behind),
            Verdict::InTime,
            "the tail has not passed it"
        );
        assert_eq!(judge(Some(19), behind), Verdict::Found(19));
    }

    #[test]
    fn every_owned_slot_has_its_turn_once_per_interval() {
        let interval = Duration::from_secs(64);
        let owned = SlotSet::of_share(2, 4);
        let mut rounds = Rounds::new(interval, 20);
        let mut turns = Vec::new();
        for second in 0..192 {
            let now = Duration::from_secs(second);
            while let Some(slot) = rounds.next(owned, now) {
                rounds.done(slot, now);
                turns.push((second, slot.index()));
            }
        }
        let first: Vec<_> = turns.iter().take(16).copied().collect();
        let seen: SlotSet = first
            .iter()
            .filter_map(|(_, slot)| SlotId::new(*slot as u8))
            .collect();
        assert_eq!(seen, owned);
        assert_eq!(first[0], (1, 20), "it begins where the seed says");
        assert!(first.iter().all(|(second, _)| *second <= 64), "{first:?}");
        for (second, slot) in &first {
            let times: Vec<_> = turns
                .iter()
                .filter(|(_, other)| other == slot)
                .map(|turn| turn.0)
                .collect();
            assert!(
                times.windows(2).all(|pair| pair[1] - pair[0] == 64),
                "{slot} from {second}: {times:?}"
            );
        }
    }

    #[test]
    fn a_slot_that_was_lost_and_taken_again_begins_anew() {
        let mut rounds = Rounds::new(Duration::from_secs(64), 0);
        let one: SlotSet = SlotId::new(0).into_iter().collect();
        assert_eq!(rounds.next(one, Duration::ZERO), None);
        assert_eq!(rounds.next(SlotSet::EMPTY, Duration::from_secs(1)), None);
        assert_eq!(rounds.next(one, Duration::from_secs(1)), None);
        assert!(rounds.next(one, Duration::from_secs(2)).is_some());
    }
}
