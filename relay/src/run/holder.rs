//! Between the keeper, which wins and loses slots, and the reader and the lane, which work on them.

use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::DataEventKind;
use crds::source::OnRetentionGap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::outlook::Outlook;
use crate::deliver::shell::Control;
use crate::ledger::Ledger;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::Clock;
use crate::source::reader::Command;
use crate::source::retention::Retention;
use crate::state::keeper::Holder;

/// How long giving up a slot waits for what is in flight; beyond it the next owner delivers it again.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How often a drain looks.
const DRAIN_POLL: Duration = Duration::from_millis(10);

pub(super) struct SlotHolder<C> {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) control: Control,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) outlook: Arc<Outlook<C>>,
    pub(super) retention: Retention,
    pub(super) on_gap: OnRetentionGap,
}

impl<C: Clock> Holder for SlotHolder<C> {
    async fn opened(&self, slot: SlotId, bound: Micros) {
        if self.must_stop(slot, bound) {
            return;
        }
        // The reader obeys each command at once; if it is gone, the whole work starts anew.
        let _ = self.commands.send(Command::Add(slot)).await;
    }

    async fn drain(&self, slots: SlotSet) {
        self.stop_reading(slots).await;
        let in_flight = || {
            let ledger = self.ledger.lock();
            slots
                .iter()
                .filter_map(|slot| ledger.slot(slot))
                .any(|slot| slot.oldest_taken().is_some())
        };
        let drained = async {
            while in_flight() {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        // Past the limit what is left is revoked below, and stays unresolved.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
        self.control.revoke(slots);
    }

    async fn revoked(&self, slots: SlotSet) {
        self.control.revoke(slots);
        let text = format!("slots {slots} were taken over by another process");
        self.outlook
            .board()
            .event(DataEventKind::OwnershipLost, text, self.outlook.clock().now());
        self.stop_reading(slots).await;
    }
}

impl<C: Clock> SlotHolder<C> {
    async fn stop_reading(&self, slots: SlotSet) {
        let (done, obeyed) = oneshot::channel();
        if self.commands.send(Command::Remove(slots, done)).await.is_ok() {
            // An error means that the reader is gone, and reads nothing.
            let _ = obeyed.await;
        }
    }

    /// Whether rows that expired before they were read stop the relay; says what was lost either way.
    fn must_stop(&self, slot: SlotId, bound: Micros) -> bool {
        let now = self.outlook.clock().now();
        let Some(gap) = self.retention.gap(bound, now) else {
            return false;
        };
        let (from, until) = (
            crate::health::timestamp(gap.from),
            crate::health::timestamp(gap.until),
        );
        let minutes = (gap.until - gap.from) / (60 * SECOND);
        let text = format!(
            "slot {slot}: rows written from {from} to {until} ({minutes} min) expired from the CDC log before they were \
             read; those that were not delivered are lost"
        );
        error!(%slot, %from, %until, "retention gap");
        self.outlook
            .board()
            .event(DataEventKind::RetentionGap, text.clone(), now);
        let stop = self.on_gap == OnRetentionGap::Stop;
        if stop {
            self.outlook.stopped(format!(
                "{text}; to go on with what is left: source.onRetentionGap: Continue"
            ));
        }
        stop
    }
}
