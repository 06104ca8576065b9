//! The task that keeps ownership alive and checkpoints written: heartbeat, claims, saves, releases.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ledger::{Delta, Ledger};
use crate::model::{Micros, SlotId, SlotSet};
use crate::ports::{Clock, Conditional, Epoch, Placement, ProcessRow, Save, SlotRow, StateError, StateStore};
use crate::state::checkpoint::Book;
use crate::state::ownership::{Ownership, Plan, Share};

/// Conditional statements in flight at once: enough to open or save 64 slots within a few round trips.
const CONCURRENCY: usize = 16;

/// How often an unowned part of the share is looked at: a released slot is taken within a second.
const PLAN_INTERVAL_WAITING: Duration = Duration::from_millis(500);

/// How often ownership is looked at when everything is owned.
const PLAN_INTERVAL_SETTLED: Duration = Duration::from_secs(2);

/// A slot whose bound alone has moved is saved this rarely: nothing would be repeated without it.
const IDLE_SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// How soon the first heartbeat's success is noticed.
const FIRST_BEAT_POLL: Duration = Duration::from_millis(20);

/// Lease fraction between two heartbeats, and the margin within which an owner that could not renew stops sending.
const BEATS_PER_LEASE: u32 = 5;

/// Those who work on slots: told when one is ours, and asked to let go.
pub trait Holder: Send + Sync + 'static {
    /// The slot is ours; its ledger is open from `bound`.
    fn opened(&self, slot: SlotId, bound: Micros) -> impl Future<Output = ()> + Send;

    /// Stop reading the slots and wait until nothing of them is in flight, at most some seconds.
    fn drain(&self, slots: SlotSet) -> impl Future<Output = ()> + Send;

    /// The slots are somebody else's: hand nothing more of them over. Their ledgers are closed.
    fn revoked(&self, slots: SlotSet) -> impl Future<Output = ()> + Send;
}

/// Until when this process may hand events to the producer, on its monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Acquire))
    }

    fn set(&self, deadline: Duration) {
        self.0.store(deadline.as_millis() as u64, Ordering::Release);
    }
}

#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// Unique per process start: a restarted process is another owner.
    pub process: String,
    pub share: Share,
    pub lease: Duration,
    pub checkpoint_interval: Duration,
    /// The bound of a slot that has no checkpoint yet.
    pub start: Micros,
}

/// What others want to know of the keeper.
#[derive(Debug, Clone, Default)]
pub struct KeeperView(Arc<Mutex<KeeperState>>);

#[derive(Debug, Clone, Default)]
pub struct KeeperState {
    pub owned: SlotSet,
    /// By index of the owned slots.
    pub epochs: BTreeMap<usize, u64>,
    /// Slots of our share that a live process still owns.
    pub waiting: SlotSet,
    pub conflict: Option<String>,
    /// Monotonic time of the last time that nothing was left unsaved.
    pub saved_at: Option<Duration>,
    pub last_error: Option<(&'static str, String)>,
    pub saves: u64,
    pub save_failures: u64,
    pub fenced: u64,
}

impl KeeperView {
    pub fn get(&self) -> KeeperState {
        self.0.lock().clone()
    }

    fn update(&self, change: impl FnOnce(&mut KeeperState)) {
        change(&mut self.0.lock());
    }
}

struct Held {
    epoch: Epoch,
    book: Book,
    saved_at: Duration,
}

pub struct Keeper<S, C, H> {
    config: KeeperConfig,
    store: Arc<S>,
    clock: Arc<C>,
    holder: Arc<H>,
    ledger: Arc<Mutex<Ledger>>,
    deadline: Deadline,
    view: KeeperView,
    ownership: Ownership,
    held: BTreeMap<SlotId, Held>,
}

impl<S: StateStore, C: Clock, H: Holder> Keeper<S, C, H> {
    pub fn new(
        config: KeeperConfig,
        store: Arc<S>,
        clock: Arc<C>,
        holder: Arc<H>,
        ledger: Arc<Mutex<Ledger>>,
        deadline: Deadline,
    ) -> Self {
        let ownership = Ownership::new(config.process.clone(), config.share, config.lease);
        let view = KeeperView::default();
        Self {
            config,
            store,
            clock,
            holder,
            ledger,
            deadline,
            view,
            ownership,
            held: BTreeMap::new(),
        }
    }

    pub fn view(&self) -> KeeperView {
        self.view.clone()
    }

    /// Works until `stop`, then saves and releases everything that it holds. Call it after reading has stopped and
    /// nothing is in flight any more; what is still unresolved then will be delivered again by the next owner.
    pub async fn run(mut self, stop: CancellationToken) {
        // Side by side: a slow save must not hold up the heartbeat.
        tokio::select! {
            biased;
            () = self.beats() => {}
            () = self.work(&stop) => {}
        }
        self.finish().await;
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let mut next_plan = Duration::ZERO;
        while !stop.is_cancelled() {
            let now = self.clock.elapsed();
            let mut pause = self.config.checkpoint_interval.min(PLAN_INTERVAL_WAITING);
            if !self.may_claim() {
                pause = FIRST_BEAT_POLL;
            } else if now >= next_plan {
                self.plan().await;
                let settled = self.view.get().waiting.is_empty() && !self.held.is_empty();
                next_plan = now
                    + if settled {
                        PLAN_INTERVAL_SETTLED
                    } else {
                        PLAN_INTERVAL_WAITING
                    };
            }
            self.save(false).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Renews the heartbeat for ever. The deadline counts from when a successful renewal was sent.
    fn beats(&self) -> impl Future<Output = ()> + Send + use<S, C, H> {
        let (store, clock, deadline, view) = (
            self.store.clone(),
            self.clock.clone(),
            self.deadline.clone(),
            self.view.clone(),
        );
        let (lease, placement) = (self.config.lease, self.config.share.placement());
        let mut row = ProcessRow {
            process: self.config.process.clone(),
            beat: 0,
            placement,
        };
        async move {
            loop {
                let sent = clock.elapsed();
                row.beat += 1;
                match store.beat(&row).await {
                    Ok(()) => deadline.set(sent + lease - lease / BEATS_PER_LEASE),
                    Err(error) => note(&view, &error),
                }
                tokio::time::sleep(lease / BEATS_PER_LEASE).await;
            }
        }
    }

    /// A process whose heartbeat is not known to be fresh claims nothing.
    fn may_claim(&self) -> bool {
        self.clock.elapsed() < self.deadline.get()
    }

    fn mine(&self) -> SlotSet {
        self.held.keys().copied().collect()
    }

    async fn plan(&mut self) {
        let (slots, processes) = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => return note(&self.view, &error),
        };
        self.drop_lost(&slots).await;
        let now = self.clock.elapsed();
        let Plan {
            claim,
            release,
            retire,
            conflict,
            waiting,
        } = self.ownership.plan(&slots, &processes, self.mine(), now);
        if let Some(other) = &conflict
            && self.view.get().conflict.is_none()
        {
            warn!(process = %other, ours = ?self.config.share.placement(), theirs = ?opposite(self.config.share.placement()),
                "another process of this identity takes its slots the other way; use --share i/n everywhere or auto everywhere");
        }
        self.view.update(|view| {
            (view.conflict, view.waiting) = (conflict, waiting);
            view.last_error = None;
        });
        if !release.is_empty() {
            self.give_up(release).await;
        }
        self.claim(claim).await;
        for process in retire {
            if let Err(error) = self.store.retire(&process).await {
                note(&self.view, &error);
            }
        }
        self.show_owned();
    }

    fn show_owned(&self) {
        let owned = self.mine();
        let epochs = self
            .held
            .iter()
            .map(|(slot, held)| (slot.index(), held.epoch.0 as u64))
            .collect();
        self.view
            .update(|view| (view.owned, view.epochs) = (owned, epochs));
    }

    async fn observe(&self) -> Result<(Vec<SlotRow>, Vec<ProcessRow>), StateError> {
        Ok((self.store.slots().await?, self.store.processes().await?))
    }

    /// Slots whose row shows a higher epoch than ours were taken from us.
    async fn drop_lost(&mut self, rows: &[SlotRow]) {
        let higher = |row: &&SlotRow| {
            let ours = self.held.get(&row.slot).map(|held| held.epoch);
            ours.is_some() && row.epoch > ours
        };
        let lost: SlotSet = rows.iter().filter(higher).map(|row| row.slot).collect();
        self.revoke(lost).await;
    }

    async fn revoke(&mut self, lost: SlotSet) {
        if lost.is_empty() {
            return;
        }
        warn!(slots = %lost, "slots were taken by another process");
        for slot in lost.iter() {
            self.held.remove(&slot);
            self.ledger.lock().close(slot);
        }
        self.holder.revoked(lost).await;
        self.show_owned();
        self.view.update(|view| view.fenced += lost.len() as u64);
    }

    async fn claim(&mut self, claims: Vec<(SlotId, Option<Epoch>)>) {
        let (store, process) = (&self.store, &self.config.process);
        let start = self.config.start;
        let opened: Vec<_> = stream::iter(claims)
            .map(|(slot, seen)| async move { (slot, open(store.as_ref(), slot, seen, process, start).await) })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let now = self.clock.elapsed();
        let mut taken = SlotSet::EMPTY;
        for (slot, result) in opened {
            match result {
                Ok(Some(opened)) => {
                    let Opened {
                        epoch,
                        book,
                        bound,
                        resolved,
                    } = opened;
                    self.ledger.lock().open(slot, bound, resolved);
                    self.held.insert(
                        slot,
                        Held {
                            epoch,
                            book,
                            saved_at: now,
                        },
                    );
                    self.holder.opened(slot, bound).await;
                    taken.insert(slot);
                }
                Ok(None) => {}
                Err(error) => note(&self.view, &error),
            }
        }
        if !taken.is_empty() {
            info!(slots = %taken, "slots claimed");
        }
    }

    /// Drains, saves and releases slots that are ours no longer by right.
    async fn give_up(&mut self, slots: SlotSet) {
        self.holder.drain(slots).await;
        self.save(true).await;
        self.release(slots).await;
    }

    async fn release(&mut self, slots: SlotSet) {
        let store = &self.store;
        let held = slots
            .iter()
            .filter_map(|slot| self.held.get(&slot).map(|held| (slot, held.epoch)));
        let results: Vec<_> = stream::iter(held.collect::<Vec<_>>())
            .map(|(slot, epoch)| async move { (slot, store.release(slot, epoch).await) })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (slot, result) in results {
            // Released, fenced or unknown: in each case it is not ours from here on; after the lease it is free.
            if let Err(error) = result {
                note(&self.view, &error);
            }
            self.held.remove(&slot);
            self.ledger.lock().close(slot);
        }
        info!(slots = %slots, "slots released");
    }

    /// Saves every slot that has something to save; with `all`, also those whose bound alone has moved.
    async fn save(&mut self, all: bool) {
        let saves = self.due(all);
        let store = &self.store;
        let results: Vec<_> = stream::iter(saves)
            .map(|(slot, epoch, delta, save)| async move {
                let result = store.save(slot, epoch, &save).await;
                (slot, delta, save, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let now = self.clock.elapsed();
        let (mut fenced, mut failures, mut saved) = (SlotSet::EMPTY, 0, 0);
        for (slot, delta, save, result) in results {
            match result {
                Ok(Conditional::Applied(())) => {
                    saved += 1;
                    self.saved(slot, &delta, &save, now);
                }
                Ok(Conditional::Fenced) => fenced.insert(slot),
                Err(error) => {
                    failures += 1;
                    note(&self.view, &error);
                }
            }
        }
        self.revoke(fenced).await;
        self.view.update(|view| {
            view.saves += saved;
            view.save_failures += failures;
            if failures == 0 {
                view.saved_at = Some(now);
            }
        });
    }

    fn due(&self, all: bool) -> Vec<(SlotId, Epoch, Delta, Save)> {
        let now = self.clock.elapsed();
        let mut ledger = self.ledger.lock();
        let due = self.held.iter().filter_map(|(slot, held)| {
            let age = now.saturating_sub(held.saved_at);
            if !all && age < self.config.checkpoint_interval {
                return None;
            }
            let delta = ledger.slot_mut(*slot)?.delta()?;
            let rare = delta.resolved.is_empty() && !all && age < IDLE_SAVE_INTERVAL;
            (!rare).then(|| {
                let save = held.book.save(&delta);
                (*slot, held.epoch, delta, save)
            })
        });
        due.collect()
    }

    fn saved(&mut self, slot: SlotId, delta: &Delta, save: &Save, now: Duration) {
        if let Some(ledger) = self.ledger.lock().slot_mut(slot) {
            ledger.saved(delta);
        }
        if let Some(held) = self.held.get_mut(&slot) {
            held.book.saved(save);
            held.saved_at = now;
        }
    }

    async fn finish(mut self) {
        self.save(true).await;
        self.release(self.mine()).await;
        self.deadline.set(Duration::ZERO);
        if let Err(error) = self.store.retire(&self.config.process).await {
            note(&self.view, &error);
        }
        self.show_owned();
    }
}

struct Opened {
    epoch: Epoch,
    book: Book,
    bound: Micros,
    resolved: Vec<(i64, crate::model::RowId)>,
}

/// Claims a slot, then reads its checkpoint: in that order, or a save of the former owner could be missed. A slot
/// without a checkpoint gets one at once, so that a restart does not start from a later "now".
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
    if let Some(checkpoint) = store.load(slot).await? {
        let book = Book::open(&checkpoint);
        return Ok(Some(Opened {
            epoch,
            book,
            bound: checkpoint.bound,
            resolved: checkpoint.resolved,
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
    }))
}

/// Errors of the store are handled by trying again; said once per change of kind.
fn note(view: &KeeperView, error: &StateError) {
    let category = error.category();
    let known = view.get().last_error.is_some_and(|(last, _)| last == category);
    if !known {
        warn!(category, %error, "state store");
    }
    view.update(|view| view.last_error = Some((category, error.to_string())));
}

fn opposite(placement: Placement) -> Placement {
    match placement {
        Placement::Pinned => Placement::Auto,
        Placement::Auto => Placement::Pinned,
    }
}

#[cfg(test)]
mod tests;
