//! Finding the messages that a broker will never accept among those of an aborted transaction. Pure.
//!
//! An abort takes the whole transaction back, and a broker refuses a batch as a whole, so innocents stand before,
//! between and behind the guilty. Transactions over ever shorter *prefixes* of what waits find them without changing any
//! order: first what stands before the suspects, then the suspects by halves, until one message fails alone.

use super::lane::Seq;

/// How far the next transactions may reach.
#[derive(Debug, Default)]
pub struct Narrowing {
    /// No transaction reaches past the last of these before everything below it is resolved. They fall.
    ends: Vec<Seq>,
}

impl Narrowing {
    /// Whether the message may go into the current transaction.
    pub fn admits(&self, seq: Seq) -> bool {
        self.ends.last().is_none_or(|end| seq < *end)
    }

    /// Everything below `first` is resolved.
    pub fn resolved_below(&mut self, first: Seq) {
        while self.ends.last().is_some_and(|end| *end <= first) {
            self.ends.pop();
        }
    }

    /// A transaction was aborted: `sent` are its messages, `suspects` those of them that failed with a message error,
    /// both rising. Returns the message that failed alone, if it did: it will never be accepted.
    pub fn aborted(&mut self, sent: &[Seq], suspects: &[Seq]) -> Option<Seq> {
        let (Some(oldest), Some(first), Some(last)) = (sent.first(), suspects.first(), suspects.last())
        else {
            return None;
        };
        if sent.len() == 1 {
            return Some(*first);
        }
        // What is not suspected stays out of the search.
        self.reach(last + 1);
        if first > oldest {
            self.reach(*first);
        } else {
            let half = suspects.len().div_ceil(2);
            self.reach(suspects.get(half).map_or(first + 1, |second| *second));
        }
        None
    }

    fn reach(&mut self, end: Seq) {
        if self.admits(end) {
            self.ends.push(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Delivers `count` messages to a broker that takes them in batches of `batch` and refuses each batch with a guilty
    /// one as a whole. Returns what was committed and what was convicted, in order, and how many transactions it took.
    fn deliver(count: Seq, batch: usize, guilty: &BTreeSet<Seq>) -> (Vec<Seq>, Vec<Seq>, usize) {
        let mut narrowing = Narrowing::default();
        let (mut committed, mut convicted, mut transactions) = (Vec::new(), Vec::new(), 0);
        let mut first = 0;
        while first < count {
            transactions += 1;
            let sent: Vec<_> = (first..count).take_while(|seq| narrowing.admits(*seq)).collect();
            assert!(!sent.is_empty(), "it stops at {first}");
            let refused = |batch: &&[Seq]| batch.iter().any(|seq| guilty.contains(seq));
            let suspects: Vec<_> = sent.chunks(batch).filter(refused).flatten().copied().collect();
            if suspects.is_empty() {
                committed.extend(&sent);
                first += sent.len() as Seq;
            } else if let Some(seq) = narrowing.aborted(&sent, &suspects) {
                convicted.push(seq);
                first += 1;
            }
            narrowing.resolved_below(first);
        }
        (committed, convicted, transactions)
    }

    proptest! {
        #[test]
        fn the_guilty_are_convicted_the_others_committed_in_order(
            count in 1..200_u64,
            batch in 1..50_usize,
            guilty in prop::collection::btree_set(0..200_u64, 0..10),
        ) {
            let guilty: BTreeSet<_> = guilty.into_iter().filter(|seq| *seq < count).collect();
            let (committed, convicted, transactions) = deliver(count, batch, &guilty);
            prop_assert!(convicted.iter().eq(&guilty));
            prop_assert!(committed.iter().copied().eq((0..count).filter(|seq| !guilty.contains(seq))));
            // Per guilty message: before it, halves of at most 200 suspects, itself; and as many that succeed.
            prop_assert!(transactions <= 1 + guilty.len() * 2 * (2 + 8), "{transactions}");
        }
    }

    #[test]
    fn nothing_is_narrowed_without_suspects() {
        let mut narrowing = Narrowing::default();
        assert_eq!(narrowing.aborted(&[4, 5, 6], &[]), None);
        assert!(narrowing.admits(1_000));
        assert_eq!(deliver(1_000, 100, &BTreeSet::new()).2, 1);
    }

    #[test]
    fn innocents_before_and_behind_the_suspects_are_not_searched() {
        let mut narrowing = Narrowing::default();
        assert_eq!(narrowing.aborted(&[0, 1, 2, 3, 4, 5, 6, 7], &[3, 4, 5]), None);
        assert!(narrowing.admits(2) && !narrowing.admits(3));
        narrowing.resolved_below(3);
        assert!(narrowing.admits(5) && !narrowing.admits(6));
        assert_eq!(narrowing.aborted(&[3, 4, 5], &[3, 4, 5]), None);
        assert!(narrowing.admits(4) && !narrowing.admits(5));
        narrowing.resolved_below(6);
        assert!(narrowing.admits(1_000));
    }
}
