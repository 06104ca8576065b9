//! Between the keeper, which wins and loses slots, and the reader and the lane, which work on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::{DataEventKind, Health};
use crds::source::OnRetentionGap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::outlook::Outlook;
use crate::deliver::shell::Control;
use crate::health::Part;
use crate::ledger::Ledger;
use crate::model::{SECOND, SlotSet};
use crate::ports::Clock;
use crate::source::reader::Command;
use crate::source::retention::Retention;
use crate::state::keeper::{Holder, Opening};

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
    async fn opened(&self, openings: &[Opening]) {
        self.tell_of_taken(openings);
        let gaps = self.gaps(openings);
        let stopped = self.on_gap == OnRetentionGap::Stop;
        for opening in openings {
            if !(stopped && gaps.contains(opening.slot)) {
                self.control.admit(opening.slot);
                // The reader obeys each command at once; if it is gone, the whole work starts anew.
                let _ = self.commands.send(Command::Add(opening.slot)).await;
            }
        }
    }

    async fn drain(&self, slots: SlotSet) {
        let in_flight = || {
            let ledger = self.ledger.lock();
            slots
                .iter()
                .filter_map(|slot| ledger.slot(slot))
                .any(|slot| slot.oldest_taken().is_some())
        };
        let drained = async {
            self.stop_reading(slots).await;
            while in_flight() {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        // Past the limit what is left is revoked below, and stays unresolved. A reader that starts anew just now obeys
        // before it takes anything.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
        self.control.revoke(slots);
    }

    async fn revoked(&self, slots: SlotSet) {
        self.control.revoke(slots);
        let text = format!("slots {slots} were taken over by another process");
        self.outlook
            .board()
            .event(DataEventKind::OwnershipLost, text, self.outlook.clock().now());
        // Nothing waits for the reader: the ledgers are closed, so it takes nothing more.
        let (done, _) = oneshot::channel();
        let _ = self.commands.send(Command::Remove(slots, done)).await;
    }

    fn health(&self, health: Health, message: Option<&str>) {
        let (board, now) = (self.outlook.board(), self.outlook.clock().now());
        let message = message.unwrap_or_default();
        match health {
            Health::Healthy => board.healthy(Part::State, now),
            Health::Degraded | Health::Starting => board.degraded(Part::State, message, now),
            Health::Failed => board.failed(Part::State, message, now),
        }
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

    fn tell_of_taken(&self, openings: &[Opening]) {
        let mut taken: BTreeMap<&str, SlotSet> = BTreeMap::new();
        for opening in openings {
            if let Some(from) = &opening.from {
                taken.entry(from).or_default().insert(opening.slot);
            }
        }
        for (process, slots) in taken {
            let text = format!("slots {slots} were taken over from {process}, which had stopped renewing");
            info!(%slots, process, "slots taken over");
            self.outlook
                .board()
                .event(DataEventKind::SlotsTaken, text, self.outlook.clock().now());
        }
    }

    /// Slots of which rows expired after their checkpoint and before they were read; says what was lost. A slot without
    /// a checkpoint begins with what there is.
    fn gaps(&self, openings: &[Opening]) -> SlotSet {
        let now = self.outlook.clock().now();
        let found: Vec<_> = openings
            .iter()
            .filter(|opening| opening.resumed)
            .filter_map(|opening| Some((opening.slot, self.retention.gap(opening.bound, now)?)))
            .collect();
        let slots: SlotSet = found.iter().map(|(slot, _)| *slot).collect();
        let (Some(from), Some(until)) = (
            found.iter().map(|(_, gap)| gap.from).min(),
            found.iter().map(|(_, gap)| gap.until).max(),
        ) else {
            return slots;
        };
        let seconds = (until - from) / SECOND;
        let (from, until) = (crate::health::timestamp(from), crate::health::timestamp(until));
        let text = format!(
            "slots {slots}: rows written from {from} to {until} ({seconds} s) expired from the CDC log before they were \
             read; those that were not delivered are lost"
        );
        error!(%slots, %from, %until, "retention gap");
        self.outlook
            .board()
            .event(DataEventKind::RetentionGap, text.clone(), now);
        if self.on_gap == OnRetentionGap::Stop {
            let mut ledger = self.ledger.lock();
            slots.iter().for_each(|slot| ledger.stop(slot));
            drop(ledger);
            self.outlook.stopped(format!(
                "{text}; to go on with what is left: source.onRetentionGap: Continue"
            ));
        }
        slots
    }
}
