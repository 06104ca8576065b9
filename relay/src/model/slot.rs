//! Slots: the ring cut into 64 fixed, equal parts by the token of the outbox row's partition key. An aggregate
//! stays in its slot for ever, whatever happens to streams, generations and tablets.

use std::fmt;

/// Number of slots. Fixed for ever: checkpoints and ownership are kept per slot.
pub const SLOTS: usize = 64;

/// A slot, 0 to 63: the top six bits of the token, counted from the start of the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u8);

impl SlotId {
    /// None if `index` is not below [`SLOTS`].
    pub fn new(index: u8) -> Option<Self> {
        (usize::from(index) < SLOTS).then_some(Self(index))
    }

    pub fn of_token(token: i64) -> Self {
        Self((((token as u64) ^ (1 << 63)) >> 58) as u8)
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// First and last token of the slot, both inclusive.
    pub fn tokens(self) -> (i64, i64) {
        let first = ((u64::from(self.0) << 58) ^ (1 << 63)) as i64;
        (first, first.wrapping_add((1 << 58) - 1))
    }

    pub fn all() -> impl Iterator<Item = Self> + Clone {
        (0..SLOTS as u8).map(Self)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SlotSet(u64);

impl SlotSet {
    pub const EMPTY: Self = Self(0);
    pub const ALL: Self = Self(u64::MAX);

    /// The slots of share `index` (from 1) of `count`: `[64·(index-1)/count, 64·index/count)`. Empty if the share
    /// does not exist, and for surplus shares when `count` exceeds [`SLOTS`].
    pub fn of_share(index: u32, count: u32) -> Self {
        if index == 0 || index > count {
            return Self::EMPTY;
        }
        let edge = |i: u32| (SLOTS as u64 * u64::from(i) / u64::from(count)) as u8;
        (edge(index - 1)..edge(index)).map(SlotId).collect()
    }

    /// The slots that hold at least one token of `(after, until]`; all of them if the range wraps onto itself.
    pub fn overlapping(after: i64, until: i64) -> Self {
        if after == until {
            return Self::ALL;
        }
        let first = SlotId::of_token(after.wrapping_add(1)).0;
        let last = SlotId::of_token(until).0;
        let wraps = after.wrapping_add(1) > until;
        if !wraps {
            return (first..=last).map(SlotId).collect();
        }
        (first..SLOTS as u8).chain(0..=last).map(SlotId).collect()
    }

    pub fn contains(self, slot: SlotId) -> bool {
        self.0 & (1 << slot.0) != 0
    }

    pub fn insert(&mut self, slot: SlotId) {
        self.0 |= 1 << slot.0;
    }

    pub fn remove(&mut self, slot: SlotId) {
        self.0 &= !(1 << slot.0);
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn iter(self) -> impl Iterator<Item = SlotId> {
        SlotId::all().filter(move |slot| self.contains(*slot))
    }
}

impl FromIterator<SlotId> for SlotSet {
    fn from_iter<I: IntoIterator<Item = SlotId>>(slots: I) -> Self {
        let mut set = Self::EMPTY;
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// Ranges, as people write them: `0-15,32`.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = self.iter().map(|slot| slot.0).peekable();
        let mut first_range = true;
        while let Some(start) = slots.next() {
            let mut end = start;
            while slots.peek() == Some(&(end + 1)) {
                end += 1;
                slots.next();
            }
            let comma = if first_range { "" } else { "," };
            first_range = false;
            if start == end {
                write!(f, "{comma}{start}")?
            } else {
                write!(f, "{comma}{start}-{end}")?
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_cut_the_ring_without_gap_or_overlap() {
        assert_eq!(SlotId::of_token(i64::MIN).index(), 0);
        assert_eq!(SlotId::of_token(i64::MAX).index(), 63);
        let mut next = i64::MIN;
        for slot in SlotId::all() {
            let (first, last) = slot.tokens();
            assert_eq!(first, next);
            assert_eq!((SlotId::of_token(first), SlotId::of_token(last)), (slot, slot));
            next = last.wrapping_add(1);
        }
        assert_eq!(next, i64::MIN);
    }

    #[test]
    fn shares_cover_every_slot_once() {
        for count in 1..=70 {
            let mut seen = SlotSet::EMPTY;
            for index in 1..=count {
                let share = SlotSet::of_share(index, count);
                assert!(seen.intersection(share).is_empty());
                seen = seen.union(share);
            }
            assert_eq!(seen, SlotSet::ALL, "{count} shares");
        }
        assert!(SlotSet::of_share(0, 2).is_empty());
        assert!(SlotSet::of_share(3, 2).is_empty());
    }

    #[test]
    fn ranges_overlap_the_slots_they_touch() {
        let (first, last) = SlotId::of_token(0).tokens();
        let check = |after, until, expected: &str| {
            assert_eq!(
                SlotSet::overlapping(after, until).to_string(),
                expected,
                "({after}, {until}]"
            );
        };
        check(first - 1, last, "32");
        check(first - 1, last + 1, "32-33");
        check(first - 2, last, "31-32");
        check(i64::MIN, i64::MAX, "0-63");
        check(i64::MAX - 1, i64::MIN, "0,63");
        check(i64::MAX, i64::MIN, "0");
        check(7, 7, "0-63");
    }

    #[test]
    fn sets_print_as_ranges() {
        let set: SlotSet = [0, 1, 2, 9, 63].iter().filter_map(|i| SlotId::new(*i)).collect();
        assert_eq!((set.to_string().as_str(), set.len()), ("0-2,9,63", 5));
        assert_eq!(SlotSet::EMPTY.to_string(), "");
    }
}
