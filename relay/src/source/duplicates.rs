//! Suppresses a second log row of the same event: a client whose write timed out retried it.
//!
//! Bounded in time and in number, so beyond the window a repeat is delivered. An event is known by 120 bits of hash:
//! a collision would drop an event, and with a million in the window it has a probability of about 2⁻¹⁰⁰.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use scylla::value::CqlValue;

use crate::model::{Micros, RowId, SlotId};

/// Parts that the window is forgotten in: the more there are, the less is kept beyond it, and the more a look costs.
const GENERATIONS: usize = 4;

/// Events of one generation: as many as a hash table of 2^17 buckets takes before it doubles (7 of 8). At 25 bytes a
/// bucket all of them take at most 13 MiB; a faster source shortens the window.
const CAPACITY: usize = (1 << 17) / 8 * 7;

#[derive(Debug)]
pub struct Duplicates {
    window: Micros,
    hashers: [RandomState; 2],
    /// The youngest first.
    generations: VecDeque<Generation>,
    rotated_at: Micros,
}

type Generation = HashMap<Key, RowId, BuildHasherDefault<Hashed>>;

/// Two hashes of the event's id. The last byte of the second is its slot.
type Key = (u64, u64);

impl Duplicates {
    /// Remembers events for at least `window` (0: not at all), at most half as long again.
    pub fn new(window: Micros) -> Self {
        Self {
            window,
            hashers: [RandomState::new(), RandomState::new()],
            generations: VecDeque::from([Generation::default()]),
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
        let [a, b] = self.hashers.each_ref().map(|hasher| hasher.hash_one(event_id));
        let key = (a, b & !0xff | slot_byte(slot));
        let mut generations = self.generations.iter();
        match generations.find_map(|generation| generation.get(&key)) {
            Some(first) => *first != row,
            None => {
                self.generations[0].insert(key, row);
                false
            }
        }
    }

    /// The slot is given up, or read anew: whether what was seen of it was delivered is no longer known here.
    pub fn forget(&mut self, slot: SlotId) {
        for generation in &mut self.generations {
            generation.retain(|key, _| key.1 & 0xff != slot_byte(slot));
        }
    }

    fn rotate(&mut self, now: Micros) {
        // A clock that was set back must not keep events for ever.
        let age = now.saturating_sub(self.rotated_at).abs();
        // What was remembered just before a rotation is there for as many as there are generations beside its own.
        let length = self.window / (GENERATIONS as Micros - 1);
        let elapsed = age / length.max(1);
        let full = self.generations[0].len() >= CAPACITY;
        if elapsed == 0 && !full {
            return;
        }
        // The next will be about as full: it does not have to grow step by step, each time with a copy beside it.
        let expected = self.generations[0].len();
        for _ in 0..elapsed.clamp(1, GENERATIONS as Micros) {
            self.generations.push_front(Generation::default());
        }
        self.generations.truncate(GENERATIONS);
        self.generations[0].reserve(expected);
        self.rotated_at = now;
    }
}

fn slot_byte(slot: SlotId) -> u64 {
    slot.index() as u64
}

/// For keys that are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The bytes by which an event id is compared. None for types that no event id has.
pub(super) fn id_bytes(value: &CqlValue) -> Option<Cow<'_, [u8]>> {
    match value {
        CqlValue::Uuid(id) => Some(Cow::Owned(id.as_bytes().to_vec())),
        CqlValue::Timeuuid(id) => Some(Cow::Owned(id.as_bytes().to_vec())),
        CqlValue::Text(text) | CqlValue::Ascii(text) => Some(Cow::Borrowed(text.as_bytes())),
        CqlValue::Blob(bytes) => Some(Cow::Borrowed(bytes)),
        CqlValue::BigInt(number) => Some(Cow::Owned(number.to_be_bytes().to_vec())),
        CqlValue::Int(number) => Some(Cow::Owned(number.to_be_bytes().to_vec())),
        _ => None,
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
