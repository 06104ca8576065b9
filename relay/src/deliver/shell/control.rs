//! How others reach a lane that runs, and what they see of it.

use std::sync::Arc;

use crds::relay_status::{BreakerState, Totals};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::{Micros, SlotSet};

/// Takes slots away from a lane, and looks at it.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    revoked: Mutex<SlotSet>,
    changed: Notify,
    view: View,
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
            let mut revoked = self.0.revoked.lock();
            *revoked = revoked.union(slots);
        }
        self.0.changed.notify_one();
    }

    pub fn view(&self) -> ViewState {
        self.0.view.0.lock().clone()
    }

    pub(super) fn take_revoked(&self) -> SlotSet {
        std::mem::take(&mut *self.0.revoked.lock())
    }

    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut ViewState)) {
        change(&mut self.0.view.0.lock());
    }
}
