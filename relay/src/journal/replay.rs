//! Reading a journal after taking slots: what it holds beyond their checkpoints. Pure.

use std::collections::BTreeMap;

use super::{Entry, Incarnation, Mark, Record, Refusal, Sequence, Survey, decode};
use crate::model::{RowId, SlotId};
use crate::ports::Epoch;

/// Follows the records of some slots, in the order of the log.
#[derive(Debug)]
pub struct Replay {
    identity: String,
    incarnation: Incarnation,
    slots: BTreeMap<SlotId, Followed>,
}

#[derive(Debug)]
struct Followed {
    epoch: Epoch,
    mark: Mark,
    last: Sequence,
    resolved: Vec<(i64, RowId)>,
    superseded: bool,
    gap: Option<Refusal>,
}

/// What a journal holds of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The checkpoint and these ids, by second of `cdc$time`, are everything up to the mark.
    Ours { mark: Mark, resolved: Vec<(i64, RowId)> },
    /// Somebody with a higher epoch has written: the slot was taken from us already.
    Superseded,
}

impl Replay {
    /// `slots`: those that were taken, under which epoch, and the marks of their checkpoints.
    pub fn new(
        identity: &str,
        incarnation: Incarnation,
        slots: impl IntoIterator<Item = (SlotId, Epoch, Mark)>,
    ) -> Self {
        let follow = |(slot, epoch, mark): (SlotId, Epoch, Mark)| {
            let followed = Followed {
                epoch,
                mark,
                last: mark.sequence,
                resolved: Vec::new(),
                superseded: false,
                gap: None,
            };
            (slot, followed)
        };
        Self {
            identity: identity.to_owned(),
            incarnation,
            slots: slots.into_iter().map(follow).collect(),
        }
    }

    /// Where to start reading.
    pub fn from(&self) -> i64 {
        let offsets = self.slots.values().map(|followed| followed.mark.offset);
        offsets.min().unwrap_or(0)
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Checks the journal as a whole before its records are read: its beginning, and the `end` that it had after the
    /// former owners were fenced.
    ///
    /// # Errors
    /// It is not the journal that the checkpoints name, or has lost records.
    pub fn check(&self, survey: &Survey, end: i64) -> Result<(), Refusal> {
        super::opening(&self.identity, Some(self.incarnation), survey)?;
        match self.slots.iter().find(|(_, followed)| followed.mark.offset > end) {
            Some((slot, followed)) => Err(Refusal::TooShort {
                slot: *slot,
                end,
                mark: followed.mark.offset,
            }),
            None => Ok(()),
        }
    }

    /// Takes the record at `offset`.
    ///
    /// # Errors
    /// It cannot be read, or is of another incarnation.
    pub fn record(&mut self, offset: i64, value: Option<&[u8]>) -> Result<(), Refusal> {
        let entry = decode(&self.identity, value).map_err(|what| Refusal::Unreadable { offset, what })?;
        // Of several heads the first counts, and that was checked.
        let Entry::Record(record) = entry else {
            return Ok(());
        };
        if record.incarnation != self.incarnation {
            return Err(Refusal::AnotherIncarnation(offset));
        }
        if let Some(followed) = self.slots.get_mut(&record.slot) {
            followed.take(record, offset);
        }
        Ok(())
    }

    /// All up to `end` has been read.
    ///
    /// # Errors
    /// Records of a slot that is still ours are missing.
    pub fn finish(self, end: i64) -> Result<BTreeMap<SlotId, Replayed>, Refusal> {
        let finish = |(slot, followed): (SlotId, Followed)| Ok((slot, followed.finish(end)?));
        self.slots.into_iter().map(finish).collect()
    }
}

impl Followed {
    fn take(&mut self, record: Record, offset: i64) {
        if record.epoch > self.epoch {
            self.superseded = true;
        }
        if record.sequence <= self.mark.sequence || self.superseded {
            return;
        }
        let expected = self.last + 1;
        if record.sequence != expected {
            // No verdict yet: whoever took the slot meanwhile may have used the places of what is missing.
            self.gap.get_or_insert(Refusal::Gap {
                slot: record.slot,
                expected,
                found: record.sequence,
                offset,
            });
        }
        self.last = record.sequence;
        for (second, ids) in record.resolved {
            self.resolved.extend(ids.into_iter().map(|id| (second, id)));
        }
    }

    fn finish(self, end: i64) -> Result<Replayed, Refusal> {
        match self.gap {
            _ if self.superseded => Ok(Replayed::Superseded),
            Some(gap) => Err(gap),
            None => Ok(Replayed::Ours {
                mark: Mark {
                    offset: end,
                    sequence: self.last,
                },
                resolved: self.resolved,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::journal::{Head, Unreadable};

    const IDENTITY: &str = "shop.orders";
    const OURS: Incarnation = Incarnation(Uuid::from_u128(1));

    fn slot(index: u8) -> SlotId {
        SlotId::new(index).unwrap()
    }

    /// A record that resolves the id that is its number.
    fn record(index: u8, epoch: i64, sequence: Sequence) -> Record {
        Record {
            incarnation: OURS,
            slot: slot(index),
            epoch: Epoch(epoch),
            sequence,
            resolved: vec![(7, vec![RowId(sequence)])],
        }
    }

    /// Replays slot 3, taken under epoch 5, from `mark`.
    fn replay(mark: Mark, records: &[Record]) -> Result<Replayed, Refusal> {
        let mut replay = Replay::new(IDENTITY, OURS, [(slot(3), Epoch(5), mark)]);
        for (offset, record) in records.iter().enumerate() {
            replay.record(offset as i64, Some(&record.encode(IDENTITY)))?;
        }
        Ok(replay.finish(records.len() as i64)?.remove(&slot(3)).unwrap())
    }

    fn mark(sequence: Sequence) -> Mark {
        Mark { offset: 0, sequence }
    }

    fn ours(offset: i64, last: Sequence, ids: &[u64]) -> Result<Replayed, Refusal> {
        Ok(Replayed::Ours {
            mark: Mark {
                offset,
                sequence: last,
            },
            resolved: ids.iter().map(|id| (7, RowId(*id))).collect(),
        })
    }

    #[test]
    fn what_the_checkpoint_lacks_is_found_and_nothing_else() {
        let records = [
            record(3, 1, 1),
            record(3, 1, 2),
            record(9, 1, 77),
            record(3, 4, 3),
            record(3, 4, 4),
        ];
        assert_eq!(replay(mark(2), &records), ours(5, 4, &[3, 4]));
        assert_eq!(replay(mark(4), &records), ours(5, 4, &[]));
        assert_eq!(replay(mark(0), &records[..1]), ours(1, 1, &[1]));
        assert_eq!(replay(mark(0), &[]), ours(0, 0, &[]));
    }

    #[test]
    fn a_gap_is_refused() {
        let gap = |expected, found, offset| {
            Err(Refusal::Gap {
                slot: slot(3),
                expected,
                found,
                offset,
            })
        };
        assert_eq!(replay(mark(1), &[record(3, 1, 3)]), gap(2, 3, 0));
        let records = [record(3, 1, 1), record(3, 1, 2), record(3, 1, 4), record(3, 1, 5)];
        assert_eq!(replay(mark(1), &records), gap(3, 4, 2));
        assert_eq!(
            replay(mark(0), &[record(3, 1, 1), record(3, 1, 1)]),
            gap(2, 1, 1),
            "no number is committed twice"
        );
    }

    #[test]
    fn a_slot_that_was_taken_meanwhile_is_neither_ours_nor_a_reason_to_refuse() {
        assert_eq!(
            replay(mark(2), &[record(3, 5, 4), record(3, 6, 1026)]),
            Ok(Replayed::Superseded)
        );
        assert_eq!(
            replay(mark(2), &[record(3, 6, 2)]),
            Ok(Replayed::Superseded),
            "whatever its number"
        );
    }

    #[test]
    fn another_incarnation_and_damage_are_refused() {
        let other = Record {
            incarnation: Incarnation(Uuid::from_u128(2)),
            ..record(9, 1, 1)
        };
        assert_eq!(
            replay(mark(0), &[record(3, 1, 1), other]),
            Err(Refusal::AnotherIncarnation(1))
        );
        let mut replay = Replay::new(IDENTITY, OURS, [(slot(3), Epoch(5), mark(0))]);
        let unreadable = |what| Err(Refusal::Unreadable { offset: 4, what });
        assert_eq!(
            replay.record(4, Some(&[1, 1, 1])),
            unreadable(Unreadable::Corrupt)
        );
        assert_eq!(replay.record(4, Some(&[9])), unreadable(Unreadable::Newer(9)));
        assert_eq!(replay.record(4, None), unreadable(Unreadable::Tombstone));
    }

    #[test]
    fn a_journal_that_ends_before_a_mark_is_refused() {
        let marks = [
            (
                slot(3),
                Epoch(1),
                Mark {
                    offset: 8,
                    sequence: 1,
                },
            ),
            (
                slot(4),
                Epoch(1),
                Mark {
                    offset: 5,
                    sequence: 9,
                },
            ),
        ];
        let replay = Replay::new(IDENTITY, OURS, marks);
        assert_eq!(replay.from(), 5);
        let survey = Survey {
            head: Some(Head {
                identity: IDENTITY.to_owned(),
                incarnation: OURS,
            }),
            used: true,
        };
        assert_eq!(replay.check(&survey, 8), Ok(()));
        let short = Refusal::TooShort {
            slot: slot(3),
            end: 7,
            mark: 8,
        };
        assert_eq!(replay.check(&survey, 7), Err(short));
        assert_eq!(replay.check(&Survey::default(), 8), Err(Refusal::Headless));
    }
}
