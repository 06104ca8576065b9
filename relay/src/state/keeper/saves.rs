//! Writes checkpoints.

use std::time::Duration;

use futures::{StreamExt, stream};

use super::{CONCURRENCY, Holder, Keeper, view};
use crate::ledger::{CLEANUP_SECOND, Delta};
use crate::model::{SlotId, SlotSet};
use crate::ports::{Clock, Conditional, Epoch, Save, StateError, StateStore};
use crate::state::checkpoint::limited;

/// A slot whose bound alone has moved is saved this rarely: nothing would be repeated without it.
const IDLE_SAVE_INTERVAL: Duration = Duration::from_secs(30);

struct Due {
    slot: SlotId,
    epoch: Epoch,
    delta: Delta,
    save: Save,
}

impl<S: StateStore, C: Clock, H: Holder> Keeper<S, C, H> {
    /// Saves every slot that has something to save; with `all`, also those whose bound alone has moved. The slots that
    /// are ours and could not be saved.
    pub(super) async fn save(&mut self, all: bool) -> SlotSet {
        let saves = self.due(all);
        let store = &self.store;
        let results: Vec<_> = stream::iter(saves)
            .map(|due| async move {
                let result = store.save(due.slot, due.epoch, &due.save).await;
                (due, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let now = self.clock.elapsed();
        let (mut fenced, mut unsaved, mut saved) = (SlotSet::EMPTY, SlotSet::EMPTY, 0);
        for (due, result) in results {
            match result {
                Ok(Conditional::Applied(())) => {
                    saved += 1;
                    self.saved(&due, now);
                }
                Ok(Conditional::Fenced) => fenced.insert(due.slot),
                Err(error) => {
                    unsaved.insert(due.slot);
                    self.view.troubled(view::SAVE, &error);
                    if matches!(error, StateError::Superseded { .. }) {
                        self.reread(due.slot).await;
                    }
                }
            }
        }
        self.revoke(fenced).await;
        self.view.update(|view| {
            view.saves += saved;
            view.save_failures += unsaved.len() as u64;
            if unsaved.is_empty() {
                view.saved_at = Some(now);
            }
        });
        if unsaved.is_empty() {
            self.view.well(view::SAVE);
        }
        unsaved
    }

    fn due(&mut self, all: bool) -> Vec<Due> {
        let now = self.clock.elapsed();
        let interval = self.config.checkpoint_interval;
        let mut ledger = self.ledger.lock();
        let due = self.held.iter_mut().filter_map(|(slot, held)| {
            let age = now.saturating_sub(held.saved_at);
            if !all && age < interval {
                return None;
            }
            let ledger = ledger.slot_mut(*slot)?;
            let saved = ledger.saved_mark();
            let delta = limited(ledger.delta()?, saved);
            // Without what it says of deletes a few would be done again. A mark that moves frees places in the journal.
            let idle = delta.resolved.iter().all(|(second, _)| *second == CLEANUP_SECOND)
                && delta.mark.sequence == saved.sequence
                && !ledger.owes_its_bound();
            let rare = idle && !all && age < IDLE_SAVE_INTERVAL;
            (!rare).then(|| Due {
                slot: *slot,
                epoch: held.epoch,
                save: held.book.save(&delta),
                delta,
            })
        });
        due.collect()
    }

    fn saved(&mut self, due: &Due, now: Duration) {
        if let Some(ledger) = self.ledger.lock().slot_mut(due.slot) {
            ledger.saved(&due.delta);
        }
        if let Some(held) = self.held.get_mut(&due.slot) {
            held.book.saved(&due.save);
            held.saved_at = now;
        }
    }

    /// Goes on from what an earlier save of ours wrote after all. What it held stays unsaved to the ledger, and is
    /// written once more.
    async fn reread(&mut self, slot: SlotId) {
        match self.store.load(slot).await {
            Ok(loaded) => {
                let held = self.held.get_mut(&slot);
                if let (Some(checkpoint), Some(held)) = (loaded.checkpoint, held) {
                    held.book.reopen(&checkpoint);
                }
            }
            Err(error) => self.view.troubled(view::SAVE, &error),
        }
    }
}
