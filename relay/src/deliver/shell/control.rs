//! How others reach a lane that runs, and what they see of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crds::relay_status::{BreakerState, Totals};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::deliver::lane::{Event, HeldAggregate, HeldAggregates};
use crate::journal::Mark;
use crate::model::{Micros, RowId, SlotId, SlotSet};
use crate::ports::Epoch;

/// Takes slots away from a lane, and looks at it.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: Mutex<Slots>,
    replays: Mutex<Replays>,
    holds: Mutex<Holds>,
    /// Slots that are ours and of whose letters none is undecided, where transactions play a part.
    decided: Mutex<BTreeMap<SlotId, Epoch>>,
    changed: Notify,
    view: View,
}

#[derive(Debug, Default)]
struct Slots {
    /// Taken away since the lane looked last.
    revoked: SlotSet,
    /// Taken away and not given since: what is still on its way to the lane is none of its business.
    refused: SlotSet,
    /// Given since the lane looked last.
    admitted: Vec<Admission>,
    /// In exactly-once: taken away, and not known to be out of the lane's transaction.
    leaving: SlotSet,
    /// In exactly-once: whether the producer is not there yet, in whose name slots are taken.
    unready: bool,
}

/// Dead letters on their way through the lane once more. Whoever hands them over bounds them.
#[derive(Debug, Default)]
struct Replays {
    /// The lane has not taken them yet.
    waiting: VecDeque<Event>,
    /// Who waits to hear whether it was delivered.
    told: BTreeMap<(SlotId, RowId), oneshot::Sender<bool>>,
}

/// Questions about held aggregates, and which of them are let go. Whoever asks waits for the answer.
#[derive(Debug, Default)]
pub(super) struct Holds {
    pub(super) asked: Vec<(SlotId, oneshot::Sender<HeldAggregates>)>,
    pub(super) let_go: Vec<HeldAggregate>,
}

/// A slot that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub slot: SlotId,
    pub epoch: Epoch,
    /// The mark of its checkpoint.
    pub saved: Mark,
    /// Up to where the ledger knows the journal.
    pub mark: Mark,
}

impl Admission {
    /// Whether transactions play a part for the slot, or did.
    pub fn is_transactional(&self, exactly_once: bool) -> bool {
        exactly_once || self.mark.sequence > 0
    }
}

/// What is to be seen of a lane.
#[derive(Debug, Default)]
pub struct View(Mutex<ViewState>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewState {
    /// The sink has been reached and the lane runs.
    pub started: bool,
    pub breaker: BreakerState,
    pub consecutive_failures: u32,
    /// When the breaker changed last.
    pub breaker_since: Option<Micros>,
    pub last_error: Option<String>,
    pub totals: Totals,
    /// Events read and not resolved.
    pub in_flight: u64,
    pub in_flight_bytes: u64,
}

impl Control {
    /// The slots are not ours any more. Returns at once; from the lane's next turn on nothing of them is handed over.
    pub fn revoke(&self, slots: SlotSet) {
        {
            let mut held = self.0.slots.lock();
            held.revoked = held.revoked.union(slots);
            held.refused = held.refused.union(slots);
            held.leaving = held.leaving.union(slots);
            held.admitted.retain(|admission| !slots.contains(admission.slot));
        }
        self.0.decided.lock().retain(|slot, _| !slots.contains(*slot));
        {
            let mut replays = self.0.replays.lock();
            replays.waiting.retain(|event| !slots.contains(event.slot));
            replays.told.retain(|(slot, _), _| !slots.contains(*slot));
        }
        self.0.changed.notify_one();
    }

    /// The slot is ours. Call it before events of it are handed on; a slot that was never revoked needs no call.
    pub fn admit(&self, admission: Admission) {
        let mut held = self.0.slots.lock();
        held.refused.remove(admission.slot);
        held.admitted.push(admission);
    }

    /// Has a dead letter sent again, after all that was handed over before. Tells whether it was delivered; otherwise its
    /// letter was written anew. Tells nothing if its slot is not ours any more.
    pub fn replay(&self, event: Event) -> oneshot::Receiver<bool> {
        let (teller, told) = oneshot::channel();
        {
            let mut replays = self.0.replays.lock();
            replays.told.insert((event.slot, event.row_id), teller);
            replays.waiting.push_back(event);
        }
        self.0.changed.notify_one();
        told
    }

    /// What former owners left undecided of the slot's letters is decided.
    pub(super) fn decided(&self, slot: SlotId, epoch: Epoch) {
        if !self.refused().contains(slot) {
            self.0.decided.lock().insert(slot, epoch);
        }
    }

    /// Under which the slot is owned whose letters may be replayed in transactions.
    pub fn replays_under(&self, slot: SlotId) -> Option<Epoch> {
        self.0.decided.lock().get(&slot).copied()
    }

    /// What the lane holds of a slot at its next turn.
    pub fn held(&self, slot: SlotId) -> oneshot::Receiver<HeldAggregates> {
        let (teller, told) = oneshot::channel();
        self.0.holds.lock().asked.push((slot, teller));
        self.0.changed.notify_one();
        told
    }

    /// These have no dead letters any more.
    pub fn let_go(&self, held: impl IntoIterator<Item = HeldAggregate>) {
        self.0.holds.lock().let_go.extend(held);
        self.0.changed.notify_one();
    }

    pub(super) fn take_holds(&self) -> Holds {
        std::mem::take(&mut self.0.holds.lock())
    }

    pub(super) fn next_replay(&self) -> Option<Event> {
        let refused = self.refused();
        let mut replays = self.0.replays.lock();
        loop {
            let event = replays.waiting.pop_front()?;
            if !refused.contains(event.slot) {
                return Some(event);
            }
            // Its slot was taken away before it came here.
            replays.told.remove(&(event.slot, event.row_id));
        }
    }

    pub(super) fn replayed(&self, slot: SlotId, row_id: RowId, delivered: bool) {
        let teller = self.0.replays.lock().told.remove(&(slot, row_id));
        // Whoever asked may have ended: then it is asked again.
        let _ = teller.map(|teller| teller.send(delivered));
    }

    /// The lane delivers exactly once: no slot may be taken before its producer is there.
    pub fn awaits_producer(&self) {
        self.0.slots.lock().unready = true;
    }

    /// Slots that must not be taken yet, because a transaction may hold something of them.
    pub fn occupied(&self) -> SlotSet {
        let held = self.0.slots.lock();
        if held.unready { SlotSet::ALL } else { held.leaving }
    }

    pub fn view(&self) -> ViewState {
        self.0.view.0.lock().clone()
    }

    pub(super) fn take_changes(&self) -> (SlotSet, Vec<Admission>) {
        let mut held = self.0.slots.lock();
        (
            std::mem::take(&mut held.revoked),
            std::mem::take(&mut held.admitted),
        )
    }

    /// What the lane has let go of since.
    pub(super) fn left(&self, is_ready: bool, is_free: impl Fn(SlotId) -> bool) {
        let mut held = self.0.slots.lock();
        held.unready &= !is_ready;
        // Those that it has not heard of yet stay.
        let gone: SlotSet = held
            .leaving
            .difference(held.revoked)
            .iter()
            .filter(|slot| is_free(*slot))
            .collect();
        held.leaving = held.leaving.difference(gone);
    }

    pub(super) fn refused(&self) -> SlotSet {
        self.0.slots.lock().refused
    }

    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut ViewState)) {
        change(&mut self.0.view.0.lock());
    }
}
