//! What the transactions of one lane write into the journal: their records, numbered, and what is known of them
//! afterwards. Pure.

use std::collections::BTreeMap;

use super::{Incarnation, Mark, Numbering, Record, Sequence};
use crate::ledger::second_of;
use crate::model::{Micros, RowId, SlotId};
use crate::ports::Epoch;

/// The slots of a lane, and its current transaction as far as the journal is concerned.
#[derive(Debug)]
pub struct Writer {
    incarnation: Incarnation,
    slots: BTreeMap<SlotId, Held>,
    /// Numbers of the records that the transaction was sealed with.
    sealed: BTreeMap<SlotId, Sequence>,
}

#[derive(Debug)]
struct Held {
    epoch: Epoch,
    numbering: Numbering,
    /// Has an event in the current transaction.
    moved: bool,
    /// No longer ours; forgotten when the current transaction has ended.
    closed: bool,
}

/// Why a transaction must not be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("slot {0} is not the lane's, so nobody would learn that its events are delivered")]
    Foreign(SlotId),
    #[error("slot {0} has no place left in the journal before its next checkpoint")]
    Full(SlotId),
}

impl Writer {
    pub fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            slots: BTreeMap::new(),
            sealed: BTreeMap::new(),
        }
    }

    /// The slot was taken: `saved` is the mark of its checkpoint, `replayed` where the journal ended. Only while
    /// [`Self::is_free`].
    pub fn open(&mut self, slot: SlotId, epoch: Epoch, saved: Mark, replayed: Mark) {
        let held = Held {
            epoch,
            numbering: Numbering::new(saved, replayed),
            moved: false,
            closed: false,
        };
        self.slots.insert(slot, held);
    }

    /// The slot is released, or lost. What the current transaction holds of it stays there, with its record.
    pub fn close(&mut self, slot: SlotId) {
        if let Some(held) = self.slots.get_mut(&slot) {
            held.closed = true;
            if !held.moved {
                self.slots.remove(&slot);
            }
        }
    }

    /// Under which the slot is owned, or was when the current transaction got something of it.
    pub fn epoch(&self, slot: SlotId) -> Option<Epoch> {
        self.slots.get(&slot).map(|held| held.epoch)
    }

    /// Whether the current transaction has nothing of the slot: only then may it be taken again, or released so that
    /// the next owner need not fence anybody.
    pub fn is_free(&self, slot: SlotId) -> bool {
        self.slots.get(&slot).is_none_or(|held| !held.moved)
    }

    /// Whether an event of the slot may be sent. If not though the slot is held, a save goes first.
    pub fn admits(&self, slot: SlotId) -> bool {
        let held = self.slots.get(&slot).filter(|held| !held.closed);
        held.is_some_and(|held| held.numbering.next().is_some())
    }

    /// An event of the slot is in the current transaction.
    pub fn sent(&mut self, slot: SlotId) {
        if let Some(held) = self.slots.get_mut(&slot) {
            held.moved = true;
        }
    }

    /// The records that go into the transaction before it is committed: one for each slot of `resolved`.
    ///
    /// # Errors
    /// They cannot be written, so the transaction has to be aborted.
    pub fn seal(
        &mut self,
        resolved: impl IntoIterator<Item = (SlotId, Micros, RowId)>,
    ) -> Result<Vec<Record>, SealError> {
        let mut by_slot: BTreeMap<SlotId, BTreeMap<i64, Vec<RowId>>> = BTreeMap::new();
        for (slot, time, id) in resolved {
            let seconds = by_slot.entry(slot).or_default();
            seconds.entry(second_of(time)).or_default().push(id);
        }
        self.sealed.clear();
        let mut records = Vec::with_capacity(by_slot.len());
        for (slot, seconds) in by_slot {
            let held = self.slots.get_mut(&slot).ok_or(SealError::Foreign(slot))?;
            let sequence = held.numbering.next().ok_or(SealError::Full(slot))?;
            held.moved = true;
            self.sealed.insert(slot, sequence);
            records.push(Record {
                incarnation: self.incarnation,
                slot,
                epoch: held.epoch,
                sequence,
                resolved: seconds.into_iter().collect(),
            });
        }
        Ok(records)
    }

    /// The sealed transaction is committed, and `offset` lies behind its records. Whatever the lane writes later stands
    /// there or behind, so these are the marks of all its slots once what is resolved so far is saved.
    pub fn committed(&mut self, offset: i64) -> Vec<(SlotId, Mark)> {
        for (slot, sequence) in std::mem::take(&mut self.sealed) {
            if let Some(held) = self.slots.get_mut(&slot) {
                held.numbering.committed(sequence);
            }
        }
        self.ended();
        let mark = |(slot, held): (&SlotId, &Held)| {
            let sequence = held.numbering.last();
            (*slot, Mark { offset, sequence })
        };
        self.slots.iter().map(mark).collect()
    }

    /// The transaction is aborted: its numbers are free again.
    pub fn aborted(&mut self) {
        self.sealed.clear();
        self.ended();
    }

    /// A checkpoint of the slot holds everything up to the mark.
    pub fn saved(&mut self, slot: SlotId, mark: Mark) {
        if let Some(held) = self.slots.get_mut(&slot) {
            held.numbering.saved(mark);
        }
    }

    fn ended(&mut self) {
        self.slots.retain(|_, held| !held.closed);
        self.slots.values_mut().for_each(|held| held.moved = false);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::journal::PLACES;
    use crate::model::SECOND;

    fn slot(index: u8) -> SlotId {
        SlotId::new(index).unwrap()
    }

    fn mark(offset: i64, sequence: Sequence) -> Mark {
        Mark { offset, sequence }
    }

    /// Holds slots 3 and 5, whose records so far are 10 and none.
    fn writer() -> Writer {
        let mut writer = Writer::new(Incarnation(Uuid::from_u128(1)));
        writer.open(slot(3), Epoch(7), mark(0, 8), mark(50, 10));
        writer.open(slot(5), Epoch(2), mark(0, 0), mark(50, 0));
        writer
    }

    fn sequences(records: &[Record]) -> Vec<(usize, Sequence)> {
        let number = |record: &Record| (record.slot.index(), record.sequence);
        records.iter().map(number).collect()
    }

    #[test]
    fn a_transaction_says_what_it_resolves_of_each_slot_that_moved() {
        let mut writer = writer();
        let resolved = [
            (slot(3), 2 * SECOND, RowId(1)),
            (slot(3), SECOND, RowId(2)),
            (slot(3), 2 * SECOND + 5, RowId(3)),
        ];
        let records = writer.seal(resolved).unwrap();
        assert_eq!(sequences(&records), [(3, 11)]);
        assert_eq!(records[0].epoch, Epoch(7));
        let seconds = [(1, vec![RowId(2)]), (2, vec![RowId(1), RowId(3)])];
        assert_eq!(records[0].resolved, seconds);
        let marks = writer.committed(60);
        assert_eq!(marks, [(slot(3), mark(60, 11)), (slot(5), mark(60, 0))]);
        assert_eq!(
            sequences(&writer.seal([(slot(3), 0, RowId(4))]).unwrap()),
            [(3, 12)]
        );
    }

    #[test]
    fn an_aborted_transaction_gives_its_numbers_back() {
        let mut writer = writer();
        let again = [(slot(3), 0, RowId(1)), (slot(5), 0, RowId(2))];
        let first = writer.seal(again).unwrap();
        writer.aborted();
        assert_eq!(writer.seal(again).unwrap(), first);
    }

    #[test]
    fn a_slot_that_is_lost_keeps_its_record_in_the_transaction_that_holds_it() {
        let mut writer = writer();
        writer.sent(slot(3));
        writer.close(slot(3));
        writer.close(slot(5));
        assert!(!writer.admits(slot(3)) && !writer.is_free(slot(3)) && writer.is_free(slot(5)));
        assert_eq!(
            sequences(&writer.seal([(slot(3), 0, RowId(1))]).unwrap()),
            [(3, 11)]
        );
        assert_eq!(writer.committed(60), [], "and no mark");
        assert!(writer.is_free(slot(3)));
        assert_eq!(
            writer.seal([(slot(3), 0, RowId(1))]),
            Err(SealError::Foreign(slot(3)))
        );
    }

    #[test]
    fn a_full_ring_admits_nothing_until_a_save() {
        let mut writer = writer();
        for offset in 0..PLACES as i64 {
            assert!(writer.admits(slot(5)));
            writer.seal([(slot(5), 0, RowId(1))]).unwrap();
            writer.committed(offset);
        }
        assert!(!writer.admits(slot(5)) && writer.admits(slot(3)));
        assert_eq!(
            writer.seal([(slot(5), 0, RowId(1))]),
            Err(SealError::Full(slot(5)))
        );
        writer.aborted();
        writer.saved(slot(5), mark(0, 1));
        assert!(writer.admits(slot(5)));
    }
}
