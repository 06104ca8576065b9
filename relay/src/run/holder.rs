//! Between the keeper, which wins and loses slots, and the reader and the lane, which work on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::{DataEventKind, Health};
use crds::source::OnRetentionGap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::outlook::Outlook;
use crate::deliver::shell::{Admission, Control};
use crate::health::Part;
use crate::ledger::{Ledger, Pin};
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::Clock;
use crate::source::reader::Command;
use crate::source::retention::{Gap, Retention};
use crate::state::keeper::{Holder, Opening};

/// How long giving up a slot waits for what is in flight; beyond it the next owner delivers it again.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How often a drain looks.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How often it is looked whether rows expire unread.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Growth of a known gap that is worth another message when reading goes on.
const GROWN: Micros = 10 * SECOND;

pub(super) struct SlotHolder<C> {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) control: Control,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) outlook: Arc<Outlook<C>>,
    pub(super) retention: Retention,
    pub(super) on_gap: OnRetentionGap,
    pub(super) exactly_once: bool,
    /// A row that is left in the table is delivered again.
    pub(super) polls: bool,
    /// How far behind the oldest cursor stays when all is well.
    pub(super) sweep_lag: Micros,
    /// Of slots whose rows expire unread: what was said to be lost so far, and what is.
    pub(super) gaps: Mutex<BTreeMap<SlotId, Told>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    said: Gap,
    now: Gap,
}

impl<C: Clock> Holder for SlotHolder<C> {
    async fn opened(&self, openings: &[Opening]) {
        self.tell_of_taken(openings);
        let gaps = self.gaps_of(openings);
        self.tell_of_gaps(&gaps);
        let gaps: SlotSet = gaps.keys().copied().collect();
        let stopped = self.on_gap == OnRetentionGap::Stop;
        for opening in openings {
            if !(stopped && gaps.contains(opening.slot)) {
                let admission = Admission {
                    slot: opening.slot,
                    epoch: opening.epoch,
                    saved: opening.saved,
                    mark: opening.mark,
                };
                if admission.is_transactional(self.exactly_once) {
                    // Before anything is read, so that the bound tells of every replay that is undecided.
                    self.ledger.lock().pin(opening.slot, Pin::Undecided, Micros::MIN);
                }
                self.control.admit(admission);
                // The reader obeys each command at once; if it is gone, the whole work starts anew.
                let _ = self.commands.send(Command::Add(opening.slot)).await;
            }
        }
    }

    fn occupied(&self) -> SlotSet {
        if self.exactly_once {
            self.control.occupied()
        } else {
            SlotSet::EMPTY
        }
    }

    async fn drain(&self, slots: SlotSet) {
        let in_flight = || {
            let ledger = self.ledger.lock();
            slots
                .iter()
                .filter_map(|slot| ledger.slot(slot))
                .any(|slot| slot.in_flight() || self.polls && slot.undeleted() > 0)
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

    /// Slots of which rows expired after their checkpoint and before they were read. A slot without a checkpoint begins
    /// with what there is.
    fn gaps_of(&self, openings: &[Opening]) -> BTreeMap<SlotId, Gap> {
        let now = self.outlook.source_time();
        let resumed = openings.iter().filter(|opening| opening.resumed);
        resumed
            .filter_map(|opening| Some((opening.slot, self.retention.gap(opening.bound, now)?)))
            .collect()
    }

    /// Looks until `stop` whether rows expire while reading waits or fails.
    pub(super) async fn watch(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_INTERVAL) => self.look().await,
            }
        }
    }

    async fn look(&self) {
        let unread = self.expiring();
        let began = self.follow(&unread);
        if began.is_empty() {
            return;
        }
        self.tell_of_gaps(&began);
        if self.on_gap == OnRetentionGap::Stop {
            self.stop_reading(began.keys().copied().collect()).await;
        }
    }

    /// Slots of which rows expire right now before they were read.
    fn expiring(&self) -> BTreeMap<SlotId, Gap> {
        let now = self.outlook.source_time();
        let behind = self
            .outlook
            .shared_metrics()
            .reading
            .current_lag()
            .unwrap_or_default();
        let ledger = self.ledger.lock();
        let reading = ledger.reading();
        let swept = reading
            .iter()
            .filter_map(|slot| Some((slot, ledger.slot(slot)?.swept())));
        swept
            .filter_map(|(slot, swept)| Some((slot, self.retention.gap(swept, now)?)))
            // What younger cursors have read is not lost, however short the retention is.
            .filter(|(_, gap)| now - behind < gap.until || gap.until - gap.from > self.sweep_lag)
            .collect()
    }

    /// Keeps up with what is lost of each slot. Returns the gaps that are new; says what became of those that ended.
    fn follow(&self, unread: &BTreeMap<SlotId, Gap>) -> BTreeMap<SlotId, Gap> {
        let mut gaps = self.gaps.lock();
        let mut began = BTreeMap::new();
        for (slot, gap) in unread {
            match gaps.get_mut(slot) {
                Some(told) => told.now.until = gap.until,
                None => {
                    began.insert(*slot, *gap);
                }
            }
        }
        let ended: Vec<_> = gaps
            .extract_if(.., |slot, _| !unread.contains_key(slot))
            .collect();
        drop(gaps);
        let grown = ended
            .into_iter()
            .filter(|(_, told)| told.now.until - told.said.until > GROWN);
        self.say_lost(&grown.map(|(slot, told)| (slot, told.now)).collect());
        began
    }

    /// Says what was lost, and stops the slots if that is what is wanted.
    fn tell_of_gaps(&self, found: &BTreeMap<SlotId, Gap>) {
        let Some(text) = self.say_lost(found) else {
            return;
        };
        let slots: SlotSet = found.keys().copied().collect();
        self.outlook
            .shared_metrics()
            .process
            .retention_gaps
            .add(slots.len() as i64);
        if self.on_gap == OnRetentionGap::Stop {
            let mut ledger = self.ledger.lock();
            slots.iter().for_each(|slot| ledger.stop(slot));
            drop(ledger);
            self.outlook.stopped(format!(
                "{text}; to go on with what is left: source.onRetentionGap: Continue"
            ));
        } else {
            let told = found.iter().map(|(slot, gap)| {
                let (said, now) = (*gap, *gap);
                (*slot, Told { said, now })
            });
            self.gaps.lock().extend(told);
        }
    }

    fn say_lost(&self, found: &BTreeMap<SlotId, Gap>) -> Option<String> {
        let slots: SlotSet = found.keys().copied().collect();
        let from = found.values().map(|gap| gap.from).min()?;
        let until = found.values().map(|gap| gap.until).max()?;
        let seconds = (until - from) / SECOND;
        let (from, until) = (crate::health::timestamp(from), crate::health::timestamp(until));
        let text = format!(
            "slots {slots}: rows written from {from} to {until} ({seconds} s) expired from the CDC log before they were \
             read; those that were not delivered are lost"
        );
        error!(%slots, %from, %until, "retention gap");
        let now = self.outlook.clock().now();
        self.outlook
            .board()
            .event(DataEventKind::RetentionGap, text.clone(), now);
        Some(text)
    }
}

#[cfg(test)]
mod tests;
