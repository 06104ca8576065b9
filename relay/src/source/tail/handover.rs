//! Decides for each change that was read: known, ignored, a repeat, or an event to hand over; and whether it is late.

use std::collections::BTreeMap;

use crate::event::SourceEvent;
use crate::ledger::{Known, Ledger};
use crate::model::{CdcTime, Micros, SLOTS, SlotId, SlotSet};
use crate::ports::Operation;
use crate::source::duplicates::{Duplicates, id_bytes};
use crate::source::newest::Newest;
use crate::source::record::{Change, Verdict};

#[derive(Debug)]
pub(super) struct Handover {
    id_column: Option<usize>,
    newest: Vec<Newest>,
    duplicates: Duplicates,
    pub(super) counts: Counts,
}

/// What became of what was read, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    /// Handed over after a later event of their aggregate.
    pub late: u64,
    /// Second rows of an event within the window.
    pub suppressed: u64,
    pub ignored: BTreeMap<&'static str, u64>,
    /// Changes that were read again.
    pub known: u64,
    /// Events of records whose end did not become readable within the horizon.
    pub broken: u64,
}

impl Handover {
    pub(super) fn new(id_column: Option<usize>, duplicate_window: Micros) -> Self {
        Self {
            id_column,
            newest: (0..SLOTS).map(|_| Newest::default()).collect(),
            duplicates: Duplicates::new(duplicate_window),
            counts: Counts::default(),
        }
    }

    /// Hands over what is new, in the given order. Known changes older than `note_below` are remembered as handed
    /// over: a former owner did that.
    pub(super) fn judge(
        &mut self,
        changes: Vec<Change>,
        slots: SlotSet,
        note_below: Micros,
        now: Micros,
        ledger: &mut Ledger,
        events: &mut Vec<SourceEvent>,
    ) {
        for change in changes {
            let slot = SlotId::of_token(change.token);
            if !slots.contains(slot) {
                continue;
            }
            match ledger.take(slot, change.time(), change.row_id) {
                Known::New => {
                    if let Some(event) = self.admit(change, slot, now, ledger) {
                        events.push(event);
                    }
                }
                Known::Taken | Known::Resolved => {
                    self.counts.known += 1;
                    if matches!(change.verdict, Verdict::Event(_)) {
                        ledger.seen_again(slot, change.time(), change.row_id, &change.key);
                    }
                    if change.time() < note_below {
                        self.note_known(slot, &change);
                    }
                }
                Known::BelowBound | Known::Foreign => {}
            }
        }
    }

    /// A change that is already taken becomes an event, or is settled at once.
    fn admit(
        &mut self,
        change: Change,
        slot: SlotId,
        now: Micros,
        ledger: &mut Ledger,
    ) -> Option<SourceEvent> {
        let operation = match change.verdict {
            Verdict::Event(operation) => operation,
            Verdict::Ignored(operation) => {
                *self.counts.ignored.entry(operation_name(operation)).or_default() += 1;
                ledger.resolve(slot, change.time(), change.row_id);
                return None;
            }
        };
        ledger.keep(slot, change.time(), change.row_id, &change.key);
        if self.is_repeat(slot, &change, now) {
            self.counts.suppressed += 1;
            ledger.resolve(slot, change.time(), change.row_id);
            return None;
        }
        let late = self.note(slot, &change);
        self.counts.events += 1;
        self.counts.late += u64::from(late);
        self.counts.broken += u64::from(change.broken);
        Some(SourceEvent {
            position: change.position,
            row_id: change.row_id,
            slot,
            ownership: ledger.ownership(slot),
            token: change.token,
            values: change.values,
            operation,
            late,
            reconciled: false,
        })
    }

    /// Remembers what a former owner has handed over. What is no event by rule was settled, and never handed over.
    pub(super) fn note_known(&mut self, slot: SlotId, change: &Change) {
        if matches!(change.verdict, Verdict::Event(_)) {
            self.note(slot, change);
        }
    }

    /// Remembers the change as handed over; says whether a later one of its aggregate was before.
    fn note(&mut self, slot: SlotId, change: &Change) -> bool {
        self.newest[slot.index()].note(change.token, order_of(change.position.time))
    }

    fn is_repeat(&mut self, slot: SlotId, change: &Change, now: Micros) -> bool {
        // Updates and deletes carry the id of the insert that they change.
        if change.verdict != Verdict::Event(crate::event::EventOperation::Insert) {
            return false;
        }
        let id = self
            .id_column
            .and_then(|column| change.values.get(column)?.as_ref());
        id.and_then(id_bytes)
            .is_some_and(|id| self.duplicates.is_repeat(slot, &id, change.row_id, now))
    }

    /// Nothing below the bound can surface any more, so nothing has to be compared with it.
    pub(super) fn prune(&mut self, slot: SlotId, bound: Micros) {
        self.newest[slot.index()].prune(order_of(CdcTime::min_of(bound)));
    }

    pub(super) fn forget(&mut self, slot: SlotId) {
        self.newest[slot.index()] = Newest::default();
        self.duplicates.forget(slot);
    }
}

/// The order of positions in one number: microseconds (51 bits until the year 2041), then the first 12 bits of the
/// uuid's low half, in the server's order. Rows that agree in all of them count as simultaneous.
fn order_of(time: CdcTime) -> i64 {
    let low = time.0.as_u128() as u64 ^ 0x8080_8080_8080_8080;
    (time.micros() << 12) | (low >> 52) as i64
}

/// Stable name for metric labels.
fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::RowDelete => "row_delete",
        Operation::PartitionDelete => "partition_delete",
        Operation::RangeDelete => "range_delete",
        Operation::PreImage | Operation::PostImage => "image",
        Operation::Expiration => "expiration",
        Operation::Unknown(_) => "unknown",
    }
}
