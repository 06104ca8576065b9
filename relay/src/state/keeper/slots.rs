//! Confirms slots, and gives them up.

use std::time::Duration;

use futures::{StreamExt, stream};
use tracing::{error, info, warn};

use super::{CONCURRENCY, Holder, Keeper, RefusedSlot, view};
use crate::model::{SlotId, SlotSet};
use crate::ports::{Clock, Conditional, Epoch, SlotRow, StateStore};

/// How often a checkpoint that was refused is looked at again: somebody has to act first.
const REFUSED_INTERVAL: Duration = Duration::from_secs(30);

impl<S: StateStore, C: Clock, H: Holder> Keeper<S, C, H> {
    /// After a gap in the heartbeats others may have decided to take our slots. Raising the epochs settles it: a slot
    /// that still had ours has been ours all along, and a claim that comes later finds another epoch.
    pub(super) async fn confirm(&mut self, gap: u64) {
        let (store, process) = (&self.store, &self.config.process);
        let held: Vec<_> = self.held.iter().map(|(slot, held)| (*slot, held.epoch)).collect();
        let results: Vec<_> = stream::iter(held)
            .map(|(slot, epoch)| async move { (slot, store.claim(slot, Some(epoch), process).await) })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let (mut lost, mut failed) = (SlotSet::EMPTY, false);
        for (slot, result) in results {
            match result {
                Ok(Conditional::Applied(epoch)) => {
                    if let Some(held) = self.held.get_mut(&slot) {
                        held.epoch = epoch;
                    }
                }
                Ok(Conditional::Fenced) => lost.insert(slot),
                Err(error) => {
                    failed = true;
                    self.view.troubled(view::CLAIM, &error);
                }
            }
        }
        self.revoke(lost).await;
        if failed {
            return;
        }
        self.view.well(view::CLAIM);
        self.show_owned();
        self.deadline.confirm(gap);
        if !self.held.is_empty() {
            info!(slots = %self.mine(), "still ours after a gap in the heartbeats");
        }
    }

    /// Slots whose row shows a higher epoch than ours were taken from us.
    pub(super) async fn drop_lost(&mut self, rows: &[SlotRow]) {
        let higher = |row: &&SlotRow| {
            let ours = self.held.get(&row.slot).map(|held| held.epoch);
            ours.is_some() && row.epoch > ours
        };
        let lost: SlotSet = rows.iter().filter(higher).map(|row| row.slot).collect();
        self.revoke(lost).await;
    }

    pub(super) async fn revoke(&mut self, lost: SlotSet) {
        if lost.is_empty() {
            return;
        }
        warn!(slots = %lost, "slots were taken by another process");
        for slot in lost.iter() {
            self.let_go(slot);
        }
        self.holder.revoked(lost).await;
        self.show_owned();
        self.view.update(|view| view.fenced += lost.len() as u64);
    }

    fn let_go(&mut self, slot: SlotId) {
        self.held.remove(&slot);
        self.leaving.remove(slot);
        self.ledger.lock().close(slot);
    }

    pub(super) fn refuse(&mut self, slot: SlotId, detail: String) {
        let until = self.clock.elapsed() + REFUSED_INTERVAL;
        if self
            .refused
            .get(&slot)
            .is_none_or(|before| before.detail != detail)
        {
            error!(%slot, detail, "checkpoint refused; the slot is not read");
        }
        self.refused.insert(slot, RefusedSlot { detail, until });
    }

    /// Drains, saves and releases slots that are ours no longer by right. What could not be saved stays until it is.
    pub(super) async fn give_up(&mut self, slots: SlotSet) {
        self.leaving = self.leaving.union(slots);
        let holder = self.holder.clone();
        let drained = holder.drain(slots);
        tokio::pin!(drained);
        loop {
            tokio::select! {
                biased;
                () = &mut drained => break,
                // The others are saved on time meanwhile.
                () = tokio::time::sleep(self.config.checkpoint_interval) => drop(self.save(false).await),
            }
        }
        let unsaved = self.save(true).await;
        self.release(slots.difference(unsaved)).await;
    }

    pub(super) async fn release(&mut self, slots: SlotSet) {
        let held: Vec<_> = {
            let ledger = self.ledger.lock();
            // What is taken may be in a transaction.
            let clean = |slot| {
                ledger
                    .slot(slot)
                    .is_some_and(|slot| slot.oldest_taken().is_none())
            };
            let held = |slot| Some((slot, self.held.get(&slot)?.epoch, clean(slot)));
            slots.iter().filter_map(held).collect()
        };
        // Released, fenced or unknown: in each case it is not ours from here on.
        for (slot, ..) in &held {
            self.let_go(*slot);
        }
        self.put_down(held).await;
    }

    /// Releases slots that are not held. A failure shows in the next plan: the slot still carries our name.
    pub(super) async fn disown(&mut self, slots: Vec<(SlotId, Epoch)>) {
        let unclean = |(slot, epoch)| (slot, epoch, false);
        self.put_down(slots.into_iter().map(unclean).collect()).await;
    }

    async fn put_down(&mut self, slots: Vec<(SlotId, Epoch, bool)>) {
        if slots.is_empty() {
            return;
        }
        let store = &self.store;
        let results: Vec<_> = stream::iter(slots)
            .map(|(slot, epoch, clean)| async move { (slot, store.release(slot, epoch, clean).await) })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut released = SlotSet::EMPTY;
        let mut failed = false;
        for (slot, result) in results {
            match result {
                Ok(_) => released.insert(slot),
                Err(error) => {
                    failed = true;
                    self.view.troubled(view::RELEASE, &error);
                }
            }
        }
        if !failed {
            self.view.well(view::RELEASE);
        }
        info!(slots = %released, "slots released");
    }
}
