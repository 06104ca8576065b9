//! Numbers of one slot's records, and the ring of keys that they share. Pure.

use super::{Mark, Sequence};

/// Records that a slot may have beyond its checkpoint. At 40 transactions a second they last for 25 s without a save;
/// an owner that cannot reach the state store stops sending sooner, by its lease. Part of the format: keys are made
/// with it.
pub const PLACES: u64 = 1024;

/// Where a record stands in the ring: the second half of its key.
pub(super) fn place(sequence: Sequence) -> u64 {
    sequence % PLACES
}

/// One slot's numbers, as its owner knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbering {
    /// The last record that is committed.
    last: Sequence,
    /// The last one that the checkpoint holds.
    covered: Sequence,
}

impl Numbering {
    /// `covered` is the checkpoint's mark, `replayed` where the journal ended when the slot was taken.
    pub fn new(covered: Mark, replayed: Mark) -> Self {
        Self {
            last: replayed.sequence.max(covered.sequence),
            covered: covered.sequence,
        }
    }

    /// The number of the next record; a transaction that is aborted gives it back. None: it would take the place of
    /// one that no checkpoint holds yet, so a save goes first.
    pub fn next(&self) -> Option<Sequence> {
        let next = self.last + 1;
        (next - self.covered <= PLACES).then_some(next)
    }

    /// The transaction with this record is committed.
    pub fn committed(&mut self, sequence: Sequence) {
        self.last = self.last.max(sequence);
    }

    /// A checkpoint holds everything up to this record.
    pub fn saved(&mut self, mark: Mark) {
        self.covered = self.covered.max(mark.sequence.min(self.last));
    }

    pub fn last(&self) -> Sequence {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn mark(sequence: Sequence) -> Mark {
        Mark { offset: 0, sequence }
    }

    #[test]
    fn numbers_go_on_from_what_the_journal_holds() {
        let mut numbering = Numbering::new(mark(5), mark(9));
        assert_eq!((numbering.last(), numbering.next()), (9, Some(10)));
        assert_eq!(
            numbering.next(),
            Some(10),
            "an aborted transaction gives its number back"
        );
        numbering.committed(10);
        assert_eq!(numbering.next(), Some(11));
    }

    #[test]
    fn a_full_ring_waits_for_a_save() {
        let mut numbering = Numbering::new(mark(0), mark(0));
        while let Some(next) = numbering.next() {
            numbering.committed(next);
        }
        assert_eq!(numbering.last(), PLACES);
        numbering.saved(mark(1));
        assert_eq!(numbering.next(), Some(PLACES + 1));
        numbering.committed(PLACES + 1);
        assert_eq!(numbering.next(), None);
        numbering.saved(mark(0));
        assert_eq!(numbering.next(), None, "what is saved stays saved");
    }

    proptest! {
        /// Whatever the interleaving of commits and saves: what compaction leaves is enough for the checkpoint.
        #[test]
        fn no_place_is_taken_from_a_record_that_no_checkpoint_holds(
            saves in prop::collection::vec((0..3_000_u64, 0..3_000_u64), 1..8),
        ) {
            let mut numbering = Numbering::new(mark(0), mark(0));
            let (mut ring, mut covered) = (BTreeMap::new(), 0);
            for (commits, save) in saves {
                for _ in 0..commits {
                    let Some(next) = numbering.next() else { break };
                    if let Some(lost) = ring.insert(place(next), next) {
                        prop_assert!(lost <= covered, "{lost} is lost, {covered} is saved");
                    }
                    numbering.committed(next);
                }
                covered = covered.max(save.min(numbering.last()));
                numbering.saved(mark(covered));
            }
        }
    }
}
