//! Where reading starts, and how far it is from losing rows to the log's TTL.

use crate::model::Micros;

/// Where to begin without a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Oldest,
    Now,
    At(Micros),
}

/// Rows that expired before they were read: everything written in `[from, until)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Micros,
    pub until: Micros,
}

/// Retention of the log; None if its rows never expire (`ttl` 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub ttl: Option<Micros>,
}

impl Retention {
    /// The oldest time of which the log still has every row.
    pub fn oldest(&self, now: Micros) -> Option<Micros> {
        self.ttl.map(|ttl| now - ttl)
    }

    /// The bound of a slot without a checkpoint. `first_set` is the start of the oldest stream set.
    pub fn start(&self, from: Start, first_set: Option<Micros>, now: Micros) -> Micros {
        let retained = self.oldest(now).unwrap_or(0).max(first_set.unwrap_or(0));
        match from {
            Start::Oldest => retained,
            Start::Now => now,
            Start::At(time) => time.max(retained),
        }
    }

    /// Time left until rows that are not yet delivered expire; negative once some have. None if they never do.
    pub fn headroom(&self, bound: Micros, now: Micros) -> Option<Micros> {
        self.oldest(now).map(|oldest| bound - oldest)
    }

    /// What a checkpoint with this bound has lost. None if it was complete, or nothing expires.
    pub fn gap(&self, bound: Micros, now: Micros) -> Option<Gap> {
        let until = self.oldest(now)?;
        (bound < until).then_some(Gap { from: bound, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_with_the_oldest_row_that_is_retained() {
        let check = |ttl, from, first_set, expected| {
            let start = Retention { ttl }.start(from, first_set, 1000);
            assert_eq!(start, expected, "{ttl:?} {from:?} {first_set:?}");
        };
        check(Some(300), Start::Oldest, Some(10), 700);
        check(Some(300), Start::Oldest, Some(900), 900);
        check(None, Start::Oldest, Some(10), 10);
        check(None, Start::Oldest, None, 0);
        check(Some(300), Start::Now, Some(10), 1000);
        check(Some(300), Start::At(800), Some(10), 800);
        check(Some(300), Start::At(5), Some(10), 700);
    }

    #[test]
    fn a_gap_is_what_expired_above_the_bound() {
        let retention = Retention { ttl: Some(300) };
        assert_eq!(retention.headroom(750, 1000), Some(50));
        assert_eq!(retention.gap(750, 1000), None);
        assert_eq!(retention.headroom(600, 1000), Some(-100));
        assert_eq!(
            retention.gap(600, 1000),
            Some(Gap {
                from: 600,
                until: 700
            })
        );
        let forever = Retention { ttl: None };
        assert_eq!((forever.headroom(0, 1000), forever.gap(0, 1000)), (None, None));
    }
}
