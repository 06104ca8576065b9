//! How others reach a lane that runs, and what they see of it.

use std::sync::Arc;

use crds::relay_status::{BreakerState, Totals};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::{Micros, SlotId, SlotSet};

/// Takes slots away from a lane, and looks at it.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: Mutex<Slots>,
    changed: Notify,
    view: View,
}

#[derive(Debug, Default)]
struct Slots {
    /// Taken away since the lane looked last.
    revoked: SlotSet,
    /// Taken away and not given since: what is still on its way to the lane is none of its business.
    refused: SlotSet,
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
        }
        self.0.changed.notify_one();
    }

    /// The slot is ours. Call it before events of it are handed on; a slot that was never revoked needs no call.
    pub fn admit(&self, slot: SlotId) {
        self.0.slots.lock().refused.remove(slot);
    }

    pub fn view(&self) -> ViewState {
        self.0.view.0.lock().clone()
    }

    pub(super) fn take_revoked(&self) -> SlotSet {
        std::mem::take(&mut self.0.slots.lock().revoked)
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
