//! The one source of choices of a schedule.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(crate) struct Chance(StdRng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// From 0 up to, not including, `end`; 0 if `end` is not positive.
    pub(crate) fn below(&mut self, end: i64) -> i64 {
        if end <= 0 { 0 } else { self.0.random_range(0..end) }
    }

    /// Both ends belong to it.
    pub(crate) fn within(&mut self, first: i64, last: i64) -> i64 {
        first + self.below(last - first + 1)
    }

    pub(crate) fn percent(&mut self, of: i64) -> bool {
        self.below(100) < of
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as i64) as usize]
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.random()
    }

    /// From 1 to `last`, each power of two as likely as any other.
    pub(crate) fn spread(&mut self, last: i64) -> i64 {
        let powers = i64::from(last.max(1).ilog2());
        let top = 1 << self.within(0, powers);
        self.within((top / 2).max(1), top.min(last))
    }
}
