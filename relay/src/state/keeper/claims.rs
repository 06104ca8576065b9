//! Takes slots: claim, load, fence, record, replay, open, in this order (ARCHITECTURE.md, flow three). The last three but
//! one only where transactions play a part.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use tracing::info;

use super::{CONCURRENCY, Held, Holder, Keeper, Opening, view};
use crate::journal::{Incarnation, Mark, Refusal, Replayed};
use crate::ledger::{Delta, SNAPSHOT_SECOND, begins_at};
use crate::model::{Micros, RowId, SlotId, SlotSet};
use crate::ports::{
    Clock, Conditional, Epoch, JournalError, Loaded, StateError, StateStore, TransactionError,
};
use crate::state::checkpoint::Book;
use crate::state::ownership::Claim;

/// A slot that was claimed, and what its row says.
struct Claimed {
    claim: Claim,
    epoch: Epoch,
    loaded: Loaded,
}

/// A slot that is ours and can be opened.
struct Opened {
    claim: Claim,
    epoch: Epoch,
    book: Book,
    bound: Micros,
    resolved: Vec<(i64, RowId)>,
    /// What the journal says beyond the checkpoint.
    replayed: Vec<(i64, RowId)>,
    saved: Mark,
    mark: Mark,
    resumed: bool,
}

/// Why slots that were claimed are not opened now.
enum Obstacle {
    Store(StateError),
    Fence(TransactionError),
    Journal(JournalError),
}

impl<S: StateStore, C: Clock, H: Holder> Keeper<S, C, H> {
    pub(super) async fn claim(&mut self, mut claims: Vec<Claim>) {
        let now = self.clock.elapsed();
        let occupied = self.holder.occupied();
        claims.retain(|claim| {
            let refused = self.refused.get(&claim.slot);
            refused.is_none_or(|refused| now >= refused.until) && !occupied.contains(claim.slot)
        });
        if claims.is_empty() {
            return;
        }
        let mut failed = false;
        let claimed = self.raise(claims, &mut failed).await;
        let slots: SlotSet = claimed.iter().map(|claimed| claimed.claim.slot).collect();
        let mut openings = Vec::new();
        match self.settle(claimed).await {
            Ok(settled) => {
                for opened in self.begin(settled, &mut failed).await {
                    openings.push(self.open(opened));
                }
            }
            Err(obstacle) => {
                failed = true;
                self.hindered(slots, &obstacle);
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

    /// Raises the epochs, then reads the rows: in that order, or a save of the former owner, or the id that it records,
    /// could be missed. A row that is refused is released: another version may be able to read it.
    async fn raise(&mut self, claims: Vec<Claim>, failed: &mut bool) -> Vec<Claimed> {
        let (store, process) = (self.store.as_ref(), &self.config.process);
        let results: Vec<_> = stream::iter(claims)
            .map(|claim| async move { raise(store, claim, process).await })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut claimed = Vec::new();
        for result in results {
            match result {
                Ok(raised) => claimed.extend(raised),
                Err(StateError::Unreadable { slot, detail }) => self.refuse(slot, detail),
                Err(error) => {
                    *failed = true;
                    self.view.troubled(view::CLAIM, &error);
                }
            }
        }
        claimed
    }

    /// Ends whatever former owners may have open, puts our id in the place of theirs, and learns from the journal what
    /// they committed. The slots that are still ours, and what it says of them.
    async fn settle(&mut self, claimed: Vec<Claimed>) -> Result<Vec<(Claimed, Option<Replayed>)>, Obstacle> {
        let own = &self.config.transactional_ids;
        let theirs = |id: &&String| !own.contains(id);
        let named: BTreeSet<String> = claimed
            .iter()
            .filter_map(|claimed| claimed.loaded.transactional_id.as_ref())
            .filter(theirs)
            .cloned()
            .collect();
        if claimed.is_empty() || own.is_empty() && named.is_empty() {
            return Ok(claimed.into_iter().map(|claimed| (claimed, None)).collect());
        }
        let incarnation = self.store.incarnation().await.map_err(Obstacle::Store)?;
        let incarnation = incarnation.ok_or_else(|| {
            Obstacle::Journal(JournalError::Refused {
                topic: "of the slots' transactional ids".to_owned(),
                refusal: Refusal::UnknownIncarnation,
            })
        })?;
        self.fence(named).await.map_err(Obstacle::Fence)?;
        let claimed = self.record_ids(claimed).await.map_err(Obstacle::Store)?;
        let marks = claimed.iter().map(|claimed| {
            let mark = claimed.loaded.checkpoint.as_ref().map(|found| found.mark);
            (claimed.claim.slot, claimed.epoch, mark.unwrap_or_default())
        });
        let mut replayed = self
            .replay(incarnation, marks.collect())
            .await
            .map_err(Obstacle::Journal)?;
        let ours = claimed.into_iter().filter_map(|claimed| {
            let found = replayed.remove(&claimed.claim.slot)?;
            matches!(found, Replayed::Ours { .. }).then_some((claimed, Some(found)))
        });
        Ok(ours.collect())
    }

    async fn fence(&mut self, ids: BTreeSet<String>) -> Result<(), TransactionError> {
        if ids.is_empty() {
            return Ok(());
        }
        info!(?ids, "fencing the producers of former owners");
        let transactions = self.config.transactions.clone();
        let fence = async move {
            let fenced = ids.into_iter().map(|id| transactions.fence(id));
            let mut fenced = stream::iter(fenced).buffer_unordered(CONCURRENCY);
            while let Some(result) = fenced.next().await {
                result?;
            }
            Ok(())
        };
        self.saving_meanwhile(fence).await
    }

    async fn replay(
        &mut self,
        incarnation: Incarnation,
        marks: Vec<(SlotId, Epoch, Mark)>,
    ) -> Result<BTreeMap<SlotId, Replayed>, JournalError> {
        let replay = self.config.transactions.replay(incarnation, marks);
        self.saving_meanwhile(replay).await
    }

    /// What takes long must not hold up the slots that are held.
    async fn saving_meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(self.config.checkpoint_interval) => drop(self.save(false).await),
            }
        }
    }

    /// AtLeastOnce records none: what stands there goes with the next clean release, when all is saved.
    async fn record_ids(&self, claimed: Vec<Claimed>) -> Result<Vec<Claimed>, StateError> {
        let (store, ids) = (self.store.as_ref(), &self.config.transactional_ids);
        if ids.is_empty() {
            return Ok(claimed);
        }
        let recorded = stream::iter(claimed).map(|claimed| async move {
            let slot = claimed.claim.slot;
            let id = &ids[slot.index() % ids.len()];
            let applied = store.record_id(slot, claimed.epoch, id).await?;
            Ok(matches!(applied, Conditional::Applied(())).then_some(claimed))
        });
        let recorded: Vec<Result<_, StateError>> = recorded.buffer_unordered(CONCURRENCY).collect().await;
        let recorded: Result<Vec<_>, _> = recorded.into_iter().collect();
        Ok(recorded?.into_iter().flatten().collect())
    }

    async fn begin(&mut self, settled: Vec<(Claimed, Option<Replayed>)>, failed: &mut bool) -> Vec<Opened> {
        let store = self.store.as_ref();
        let start = Start {
            bound: (self.config.start)(),
            snapshot: self.config.snapshot,
        };
        let results: Vec<_> = stream::iter(settled)
            .map(|(claimed, replayed)| begin(store, claimed, replayed, start))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut opened = Vec::new();
        for result in results {
            match result {
                Ok(begun) => opened.extend(begun),
                Err(error) => {
                    *failed = true;
                    self.view.troubled(view::CLAIM, &error);
                }
            }
        }
        opened
    }

    fn open(&mut self, opened: Opened) -> Opening {
        let Claim { slot, from, .. } = opened.claim;
        {
            let mut ledger = self.ledger.lock();
            ledger.open(slot, opened.bound, opened.resolved);
            if let Some(ledger) = ledger.slot_mut(slot) {
                ledger.replayed(opened.saved, opened.mark, opened.replayed);
            }
        }
        let held = Held {
            epoch: opened.epoch,
            book: opened.book,
            saved_at: self.clock.elapsed(),
        };
        self.held.insert(slot, held);
        self.refused.remove(&slot);
        Opening {
            slot,
            bound: opened.bound,
            resumed: opened.resumed,
            from,
            epoch: opened.epoch,
            saved: opened.saved,
            mark: opened.mark,
        }
    }

    /// The slots still carry our name, so they are claimed again.
    fn hindered(&mut self, slots: SlotSet, obstacle: &Obstacle) {
        match obstacle {
            Obstacle::Store(error) => self.view.troubled(view::CLAIM, error),
            Obstacle::Fence(error) => {
                let text = format!("a former owner's producer cannot be fenced: {error}");
                self.view.troubled_by(view::CLAIM, "NotFenced", text);
            }
            Obstacle::Journal(error @ JournalError::Refused { .. }) => {
                for slot in slots.iter() {
                    self.refuse(slot, error.to_string());
                }
            }
            Obstacle::Journal(error) => {
                self.view
                    .troubled_by(view::CLAIM, error.category(), error.to_string());
            }
        }
    }
}

async fn raise<S: StateStore>(store: &S, claim: Claim, process: &str) -> Result<Option<Claimed>, StateError> {
    let Conditional::Applied(epoch) = store.claim(claim.slot, claim.seen, process).await? else {
        return Ok(None);
    };
    match store.load(claim.slot).await {
        Err(error @ StateError::Unreadable { .. }) => {
            store.release(claim.slot, epoch, false).await?;
            Err(error)
        }
        loaded => Ok(Some(Claimed {
            claim,
            epoch,
            loaded: loaded?,
        })),
    }
}

/// Of a slot without a checkpoint.
#[derive(Debug, Clone, Copy)]
struct Start {
    bound: Micros,
    /// What the table holds from before the bound comes first.
    snapshot: bool,
}

/// A slot without a checkpoint gets one at once, so that a restart does not start from a later "now".
async fn begin<S: StateStore>(
    store: &S,
    claimed: Claimed,
    replayed: Option<Replayed>,
    start: Start,
) -> Result<Option<Opened>, StateError> {
    let Claimed { claim, epoch, loaded } = claimed;
    let resumed = loaded.checkpoint.is_some();
    let (mark, replayed) = match replayed {
        Some(Replayed::Ours { mark, resolved }) => (Some(mark), resolved),
        Some(Replayed::Superseded) | None => (None, Vec::new()),
    };
    if let Some(checkpoint) = loaded.checkpoint {
        return Ok(Some(Opened {
            claim,
            epoch,
            book: Book::open(&checkpoint),
            bound: checkpoint.bound,
            resolved: checkpoint.resolved,
            replayed,
            saved: checkpoint.mark,
            mark: mark.unwrap_or(checkpoint.mark),
            resumed,
        }));
    }
    let mut book = Book::default();
    let snapshot = start
        .snapshot
        .then(|| (SNAPSHOT_SECOND, begins_at(claim.slot.tokens().0)));
    let save = book.save(&Delta {
        bound: start.bound,
        resolved: snapshot.iter().cloned().collect(),
        obsolete_below: i64::MIN,
        mark: Mark::default(),
    });
    let Conditional::Applied(()) = store.save(claim.slot, epoch, &save).await? else {
        return Ok(None);
    };
    book.saved(&save);
    Ok(Some(Opened {
        claim,
        epoch,
        book,
        bound: start.bound,
        resolved: snapshot
            .into_iter()
            .flat_map(|(second, ids)| ids.into_iter().map(move |id| (second, id)))
            .collect(),
        replayed,
        saved: Mark::default(),
        mark: mark.unwrap_or_default(),
        resumed,
    }))
}
