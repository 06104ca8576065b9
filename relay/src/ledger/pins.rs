//! What the bound of a slot must not pass although it is no row: replays of dead letters in transactions, and letters that
//! nobody has decided on.
//!
//! A replay gets a time of its own, at or above the bound, and an id that follows from it ([`SourcePosition::replay_id`]). The journal and the checkpoint
//! tell of the id as they do of a row's; and as the bound stays at or below the time until the letter is gone, whoever takes
//! the slot can tell for every letter that is left whether its replay was committed.

use std::collections::BTreeMap;

use super::{Ledger, Micros, second_of};
use crate::model::{RowId, SlotId, SourcePosition};

/// Why a bound stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// A former owner may have left dead letters that nobody has decided on.
    Undecided,
    /// A dead letter that is replayed in a transaction.
    Replay(SourcePosition),
}

#[derive(Debug, Default)]
pub(super) struct Pins(BTreeMap<Pin, Micros>);

impl Pins {
    pub(super) fn oldest(&self) -> Option<Micros> {
        self.0.values().min().copied()
    }
}

impl Ledger {
    /// Holds a slot's bound until [`Self::unpin`]. Returns the time that it does not pass: `now`, or the bound itself if
    /// that is later. None if the slot is not ours.
    pub fn pin(&mut self, slot: SlotId, pin: Pin, now: Micros) -> Option<Micros> {
        let ledger = self.slot_mut(slot)?;
        let time = now.max(ledger.bound());
        ledger.pins.0.insert(pin, time);
        Some(time)
    }

    /// Of no effect if the slot was closed since.
    pub fn unpin(&mut self, slot: SlotId, pin: Pin) {
        if let Some(ledger) = self.slot_mut(slot) {
            ledger.pins.0.remove(&pin);
        }
    }

    /// The transaction of a replay is committed. Together with its mark, like what a transaction resolves.
    pub fn replay_committed(&mut self, slot: SlotId, time: Micros, id: RowId) {
        if let Some(ledger) = self.slot_mut(slot).filter(|ledger| time >= ledger.bound()) {
            ledger.resolved_before(second_of(time), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Known;
    use crate::model::{CdcTime, SECOND, StreamId};

    const BOUND: Micros = 100 * SECOND;

    fn position() -> SourcePosition {
        SourcePosition {
            stream: StreamId([1; 16]),
            time: CdcTime::min_of(0),
            batch_seq_no: 0,
        }
    }

    fn open(resolved: &[(i64, RowId)], bound: Micros) -> (Ledger, SlotId) {
        let (mut ledger, slot) = (Ledger::default(), SlotId::of_token(0));
        ledger.open(slot, bound, resolved.iter().copied());
        (ledger, slot)
    }

    #[test]
    fn what_is_pinned_holds_the_bound_until_it_is_not() {
        let (mut ledger, slot) = open(&[], BOUND);
        let pin = Pin::Replay(position());
        assert_eq!(
            ledger.pin(slot, Pin::Undecided, 0),
            Some(BOUND),
            "not below the bound"
        );
        assert_eq!(ledger.pin(slot, pin, BOUND + SECOND), Some(BOUND + SECOND));
        let bound = |ledger: &mut Ledger| {
            let slot = ledger.slot_mut(slot).unwrap();
            slot.sweep(BOUND + 90 * SECOND);
            slot.bound()
        };
        assert_eq!(bound(&mut ledger), BOUND);
        ledger.unpin(slot, Pin::Undecided);
        assert_eq!(bound(&mut ledger), BOUND + SECOND);
        ledger.unpin(slot, pin);
        assert_eq!(bound(&mut ledger), BOUND + 90 * SECOND);
        ledger.close(slot);
        assert_eq!(ledger.pin(slot, pin, BOUND), None);
    }

    #[test]
    fn a_committed_replay_is_in_the_checkpoint_and_told_from_one_that_is_not() {
        let (mut ledger, slot) = open(&[], BOUND);
        let time = ledger.pin(slot, Pin::Replay(position()), BOUND + SECOND).unwrap();
        let (id, other) = (position().replay_id(time), position().replay_id(time + 1));
        assert_ne!(id, other);
        assert_eq!(ledger.known(slot, time, id), Known::New);
        ledger.replay_committed(slot, time, id);
        let delta = ledger.slot_mut(slot).unwrap().delta().unwrap();
        let [(second, ids)] = delta.resolved.as_slice() else {
            panic!("{delta:?}")
        };
        let (ledger, slot) = open(&[(*second, ids[0])], delta.bound);
        assert_eq!(ledger.known(slot, time, id), Known::Resolved);
        assert_eq!(ledger.known(slot, time + 1, other), Known::New);
    }
}
