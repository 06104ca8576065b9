//! Suppresses a second log row of the same event: a client whose write timed out retried it.
//!
//! Bounded in time and in number, so beyond the window a repeat is delivered. An event is known by 128 bits of hash:
//! a collision would drop an event, and with a million in the window it has a probability of about 2⁻¹⁰⁸.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::model::{Micros, RowId, SlotId};

/// Events of one half window: as many as a hash table of 2^18 buckets takes before it doubles (7 of 8). At 33 bytes a
/// bucket the two halves take at most 17 MiB; a faster source shortens the window.
const HALF_CAPACITY: usize = (1 << 18) / 8 * 7;

#[derive(Debug)]
pub struct Duplicates {
    window: Micros,
    hashers: [RandomState; 2],
    young: HashMap<Key, RowId>,
    old: HashMap<Key, RowId>,
    rotated_at: Micros,
}

type Key = (SlotId, u64, u64);

impl Duplicates {
    /// Remembers events for at least `window` (0: not at all), at most twice as long.
    pub fn new(window: Micros) -> Self {
        Self {
            window,
            hashers: [RandomState::new(), RandomState::new()],
            young: HashMap::new(),
            old: HashMap::new(),
            rotated_at: 0,
        }
    }

    /// Whether the event was seen in another row. The first row of an event is remembered; that same row again is no
    /// duplicate of itself.
    pub fn is_repeat(&mut self, slot: SlotId, event_id: &[u8], row: RowId, now: Micros) -> bool {
        if self.window == 0 {
            return false;
        }
        self.rotate(now);
        let [a, b] = &self.hashers;
        let key = (slot, a.hash_one(event_id), b.hash_one(event_id));
        match self.young.get(&key).or_else(|| self.old.get(&key)) {
            Some(first) => *first != row,
            None => {
                self.young.insert(key, row);
                false
            }
        }
    }

    /// The slot is given up, or read anew: whether what was seen of it was delivered is no longer known here.
    pub fn forget(&mut self, slot: SlotId) {
        self.young.retain(|key, _| key.0 != slot);
        self.old.retain(|key, _| key.0 != slot);
    }

    fn rotate(&mut self, now: Micros) {
        // A clock that was set back must not keep events for ever.
        let age = now.saturating_sub(self.rotated_at).abs();
        if age >= self.window || self.young.len() >= HALF_CAPACITY {
            self.old = std::mem::take(&mut self.young);
            self.rotated_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SECOND;

    #[test]
    fn a_repeat_is_another_row_with_the_same_id_within_the_window() {
        let mut seen = Duplicates::new(60 * SECOND);
        let slots = [0, 1].map(|i| SlotId::new(i).unwrap());
        let mut check = |slot: usize, id: &[u8], row, at, expected| {
            let repeat = seen.is_repeat(slots[slot], id, RowId(row), at * SECOND);
            assert_eq!(repeat, expected, "{id:?} in row {row} at {at}");
        };
        check(0, b"a", 1, 100, false);
        check(0, b"a", 1, 101, false);
        check(0, b"a", 2, 101, true);
        check(1, b"a", 3, 101, false);
        check(0, b"b", 4, 101, false);
        check(0, b"b", 5, 160, true);
        check(0, b"a", 6, 300, false);
        check(0, b"a", 7, 361, true);
        check(0, b"a", 8, 421, false);
        check(1, b"a", 3, 421, false);
        seen.forget(slots[0]);
        assert!(!seen.is_repeat(slots[0], b"a", RowId(9), 421 * SECOND));
        assert!(seen.is_repeat(slots[1], b"a", RowId(9), 421 * SECOND));
    }

    #[test]
    fn a_window_of_zero_suppresses_nothing() {
        let mut seen = Duplicates::new(0);
        let slot = SlotId::new(0).unwrap();
        assert!(!seen.is_repeat(slot, b"a", RowId(1), 5));
        assert!(!seen.is_repeat(slot, b"a", RowId(2), 5));
    }
}
