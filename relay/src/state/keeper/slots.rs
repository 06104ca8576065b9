//! Wins slots, confirms them, and gives them up.

use std::time::Duration;

use futures::{StreamExt, stream};
use tracing::{error, info, warn};

use super::{CONCURRENCY, Held, Holder, Keeper, Opening, RefusedSlot, view};
use crate::ledger::Delta;
use crate::model::{Micros, RowId, SlotId, SlotSet};
use crate::ports::{Clock, Conditional, Epoch, SlotRow, StateError, StateStore};
use crate::state::checkpoint::Book;
use crate::state::ownership::Claim;

/// How often a checkpoint that was refused is looked at again: somebody has to act first.
const REFUSED_INTERVAL: Duration = Duration::from_secs(30);

struct Opened {
    epoch: Epoch,
    book: Book,
    bound: Micros,
    resolved: Vec<(i64, RowId)>,
    resumed: bool,
}

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

    pub(super) async fn claim(&mut self, mut claims: Vec<Claim>) {
        let now = self.clock.elapsed();
        claims.retain(|claim| {
            self.refused
                .get(&claim.slot)
                .is_none_or(|refused| now >= refused.until)
        });
        if claims.is_empty() {
            return;
        }
        let (store, process) = (self.store.as_ref(), &self.config.process);
        let start = (self.config.start)();
        let results: Vec<_> = stream::iter(claims)
            .map(|claim| async move {
                let opened = open(store, claim.slot, claim.seen, process, start).await;
                (claim, opened)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut openings = Vec::new();
        let mut failed = false;
        for (claim, result) in results {
            match result {
                Ok(Some(opened)) => openings.push(self.open(claim, opened)),
                Ok(None) => {}
                Err(StateError::Unreadable { slot, detail }) => self.refuse(slot, detail),
                Err(error) => {
                    failed = true;
                    self.view.troubled(view::CLAIM, &error);
                }
            }
        }
        if !failed {
            self.view.well(view::CLAIM);
        }
        if !openings.is_empty() {
            let taken: SlotSet = openings.iter().map(|opening| opening.slot).collect();
            info!(slots = %taken, "slots claimed");
            self.holder.opened(&openings).await;
        }
    }

    fn open(&mut self, claim: Claim, opened: Opened) -> Opening {
        let Claim { slot, from, .. } = claim;
        let Opened {
            epoch,
            book,
            bound,
            resolved,
            resumed,
        } = opened;
        self.ledger.lock().open(slot, bound, resolved);
        let saved_at = self.clock.elapsed();
        self.held.insert(
            slot,
            Held {
                epoch,
                book,
                saved_at,
            },
        );
        self.refused.remove(&slot);
        Opening {
            slot,
            bound,
            resumed,
            from,
        }
    }

    fn refuse(&mut self, slot: SlotId, detail: String) {
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
        let held: Vec<_> = slots
            .iter()
            .filter_map(|slot| self.held.get(&slot).map(|held| (slot, held.epoch)))
            .collect();
        // Released, fenced or unknown: in each case it is not ours from here on.
        for (slot, _) in &held {
            self.let_go(*slot);
        }
        self.disown(held).await;
    }

    /// Releases slots that are not held. A failure shows in the next plan: the slot still carries our name.
    pub(super) async fn disown(&mut self, slots: Vec<(SlotId, Epoch)>) {
        if slots.is_empty() {
            return;
        }
        let store = &self.store;
        let results: Vec<_> = stream::iter(slots)
            .map(|(slot, epoch)| async move { (slot, store.release(slot, epoch).await) })
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

/// Claims a slot, then reads its checkpoint: in that order, or a save of the former owner could be missed. A slot
/// without a checkpoint gets one at once, so that a restart does not start from a later "now". One that is refused is
/// released: another version may be able to read it.
async fn open<S: StateStore>(
    store: &S,
    slot: SlotId,
    seen: Option<Epoch>,
    process: &str,
    start: Micros,
) -> Result<Option<Opened>, StateError> {
    let Conditional::Applied(epoch) = store.claim(slot, seen, process).await? else {
        return Ok(None);
    };
    let checkpoint = match store.load(slot).await {
        Err(error @ StateError::Unreadable { .. }) => {
            store.release(slot, epoch).await?;
            return Err(error);
        }
        checkpoint => checkpoint?,
    };
    if let Some(checkpoint) = checkpoint {
        return Ok(Some(Opened {
            epoch,
            book: Book::open(&checkpoint),
            bound: checkpoint.bound,
            resolved: checkpoint.resolved,
            resumed: true,
        }));
    }
    let mut book = Book::default();
    let save = book.save(&Delta {
        bound: start,
        resolved: Vec::new(),
        obsolete_below: i64::MIN,
    });
    let Conditional::Applied(()) = store.save(slot, epoch, &save).await? else {
        return Ok(None);
    };
    book.saved(&save);
    Ok(Some(Opened {
        epoch,
        book,
        bound: start,
        resolved: Vec::new(),
        resumed: false,
    }))
}
