//! The task that keeps ownership alive and checkpoints written: heartbeat, claims, saves, releases.
//!
//! `lease` says how long this process may act as an owner, `claims` takes slots, `slots` confirms them and gives them up,
//! `saves` writes checkpoints, `view` is what others see.

mod claims;
mod lease;
mod saves;
mod slots;
mod view;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::Health;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::journal::Mark;
use crate::ledger::Ledger;
use crate::model::{Micros, SlotId, SlotSet};
use crate::ports::{Clock, Epoch, Placement, ProcessRow, SlotRow, StateError, StateStore, Transactions};
use crate::state::checkpoint::Book;
use crate::state::ownership::{Look, Ownership, Plan, Share};

pub use lease::Deadline;
pub use view::{KeeperState, KeeperView};

/// Conditional statements in flight at once: enough to open or save 64 slots within a few round trips.
const CONCURRENCY: usize = 16;

/// How often an unowned part of the share is looked at: a released slot is taken within a second.
const PLAN_INTERVAL_WAITING: Duration = Duration::from_millis(500);

/// How often ownership is looked at when everything is owned.
const PLAN_INTERVAL_SETTLED: Duration = Duration::from_secs(2);

/// How often the heartbeats of the others are looked at, where slots may have to be taken over: one partition. Twice
/// this is what a takeover takes beyond the lease.
const PEERS_INTERVAL: Duration = Duration::from_millis(500);

/// How soon the first heartbeat's success, or the one after a break, is noticed.
const BEAT_POLL: Duration = Duration::from_millis(20);

/// How long what is under way when the stop comes may still take: a few lightweight transactions.
const ROUND_LIMIT: Duration = Duration::from_secs(1);

/// How long the last save and the release may take, with a store that does not answer. Beyond it the slots are free
/// after the lease, and what was not saved is delivered again.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// Those who work on slots: told when one is ours, and asked to let go.
pub trait Holder: Send + Sync + 'static {
    /// The slots are ours; their ledgers are open.
    fn opened(&self, openings: &[Opening]) -> impl Future<Output = ()> + Send;

    /// Slots that must not be claimed yet: a transaction may still hold something of them from before, or the producer
    /// whose id their rows are to name is not there.
    fn occupied(&self) -> SlotSet;

    /// Stop reading the slots and wait until nothing of them is in flight, at most some seconds.
    fn drain(&self, slots: SlotSet) -> impl Future<Output = ()> + Send;

    /// The slots are somebody else's: hand nothing more of them over. Their ledgers are closed.
    fn revoked(&self, slots: SlotSet) -> impl Future<Output = ()> + Send;

    /// How ownership and checkpoints do. Told when it changes.
    fn health(&self, health: Health, message: Option<&str>);
}

/// A slot that has become ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub slot: SlotId,
    /// From here on it is read.
    pub bound: Micros,
    /// It had a checkpoint.
    pub resumed: bool,
    /// The process that it was taken from, which had stopped renewing.
    pub from: Option<String>,
    pub epoch: Epoch,
    /// The mark of its checkpoint.
    pub saved: Mark,
    /// Up to where the ledger knows the journal.
    pub mark: Mark,
}

pub struct KeeperConfig {
    /// Unique per process start: a restarted process is another owner.
    pub process: String,
    pub share: Share,
    pub lease: Duration,
    pub checkpoint_interval: Duration,
    /// The bound of a slot that has no checkpoint yet, asked when it is claimed.
    pub start: Box<dyn Fn() -> Micros + Send + Sync>,
    /// Whether what its table holds from before comes first.
    pub snapshot: bool,
    /// Those of this process's lanes; none in AtLeastOnce. A slot belongs to the one with its index modulo their number.
    pub transactional_ids: Vec<String>,
    /// What former owners wrote in transactions is settled through this, whatever the guarantee now.
    pub transactions: Arc<dyn Transactions>,
}

struct Held {
    epoch: Epoch,
    book: Book,
    saved_at: Duration,
}

/// A slot whose checkpoint cannot be read.
struct RefusedSlot {
    detail: String,
    /// When it is tried again.
    until: Duration,
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
    /// Held, and not read any more: they go, whatever later plans say.
    leaving: SlotSet,
    refused: BTreeMap<SlotId, RefusedSlot>,
    told: Option<(Health, Option<String>)>,
}

/// When to look next.
#[derive(Default)]
struct Agenda {
    plan: Duration,
    peers: Duration,
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
        Self {
            config,
            store,
            clock,
            holder,
            ledger,
            view: KeeperView::new(deadline.clone()),
            deadline,
            ownership,
            held: BTreeMap::new(),
            leaving: SlotSet::EMPTY,
            refused: BTreeMap::new(),
            told: None,
        }
    }

    pub fn view(&self) -> KeeperView {
        self.view.clone()
    }

    /// Works until `stop`, then saves and releases everything that it holds. Call it after reading has stopped and
    /// nothing is in flight any more; what is still unresolved then will be delivered again by the next owner.
    pub async fn run(mut self, stop: CancellationToken) {
        let heartbeat = lease::Heartbeat {
            store: self.store.clone(),
            clock: self.clock.clone(),
            deadline: self.deadline.clone(),
            view: self.view.clone(),
            lease: self.config.lease,
        };
        let process = self.config.process.clone();
        let placement = self.config.share.placement();
        // Side by side: a slow save must not hold up the heartbeat.
        tokio::select! {
            biased;
            () = heartbeat.run(process, placement) => {}
            () = self.work(&stop) => {}
        }
        self.finish().await;
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let too_long = async {
            stop.cancelled().await;
            tokio::time::sleep(ROUND_LIMIT).await;
        };
        tokio::pin!(too_long);
        let mut agenda = Agenda::default();
        while !stop.is_cancelled() {
            // What is dropped here may yet take place: conditions on epoch and revision keep it harmless.
            tokio::select! {
                biased;
                () = &mut too_long => return,
                () = self.round(&mut agenda) => {}
            }
            let pause = if self.may_act() {
                self.config.checkpoint_interval.min(PLAN_INTERVAL_WAITING)
            } else {
                BEAT_POLL
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn round(&mut self, agenda: &mut Agenda) {
        if let Some(gap) = self.deadline.unconfirmed(self.clock.elapsed()) {
            self.confirm(gap).await;
        }
        if self.may_act() && self.plan_is_due(agenda).await {
            let now = self.clock.elapsed();
            self.plan().await;
            let view = self.view.get();
            let settled = view.waiting.is_empty() && !self.held.is_empty() && self.held.len() >= view.wanted;
            let interval = if settled {
                PLAN_INTERVAL_SETTLED
            } else {
                PLAN_INTERVAL_WAITING
            };
            (agenda.plan, agenda.peers) = (now + interval, now + PEERS_INTERVAL);
        }
        if self.deadline.is_confirmed() {
            self.save(false).await;
        }
        self.tell_health();
    }

    /// A process whose heartbeat is not known to be fresh claims nothing.
    fn may_act(&self) -> bool {
        self.clock.elapsed() < self.deadline.get()
    }

    async fn plan_is_due(&mut self, agenda: &mut Agenda) -> bool {
        let now = self.clock.elapsed();
        if now >= agenda.plan {
            return true;
        }
        if self.config.share != Share::Auto || now < agenda.peers {
            return false;
        }
        agenda.peers = now + PEERS_INTERVAL;
        match self.store.processes().await {
            Ok(processes) => {
                let answered = self.clock.elapsed();
                let look = Look { asked: now, answered };
                self.ownership.has_changed(&processes, look)
            }
            Err(error) => {
                self.view.troubled(view::OBSERVE, &error);
                false
            }
        }
    }

    fn mine(&self) -> SlotSet {
        self.held.keys().copied().collect()
    }

    async fn plan(&mut self) {
        let asked = self.clock.elapsed();
        let (slots, processes) = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => return self.view.troubled(view::OBSERVE, &error),
        };
        self.view.well(view::OBSERVE);
        let answered = self.clock.elapsed();
        self.drop_lost(&slots).await;
        let look = Look { asked, answered };
        let plan = self.ownership.plan(&slots, &processes, self.mine(), look);
        self.show_plan(&plan);
        let leave = plan.release.union(self.leaving).intersection(self.mine());
        if !leave.is_empty() {
            self.give_up(leave).await;
        }
        self.disown(plan.disown).await;
        self.claim(plan.claim).await;
        for process in plan.retire {
            match self.store.retire(&process).await {
                Ok(()) => self.view.well(view::RETIRE),
                Err(error) => self.view.troubled(view::RETIRE, &error),
            }
        }
        self.show_owned();
    }

    async fn observe(&self) -> Result<(Vec<SlotRow>, Vec<ProcessRow>), StateError> {
        Ok((self.store.slots().await?, self.store.processes().await?))
    }

    fn show_plan(&self, plan: &Plan) {
        let known = self.view.get().conflict.is_some();
        match &plan.conflict {
            Some(other) if !known => {
                let theirs = match self.config.share.placement() {
                    Placement::Pinned => Placement::Auto,
                    Placement::Auto => Placement::Pinned,
                };
                error!(process = %other, ours = ?self.config.share.placement(), ?theirs,
                    "refused: another process of this identity takes its slots the other way; use --share i/n for all of \
                     them, or --share auto for all");
            }
            None if known => info!("no process takes its slots the other way any more"),
            _ => {}
        }
        self.view.update(|view| {
            view.conflict.clone_from(&plan.conflict);
            (view.waiting, view.wanted, view.planned) = (plan.waiting, plan.wanted, true);
        });
    }

    fn show_owned(&self) {
        let owned = self.mine();
        let epochs = self
            .held
            .iter()
            .map(|(slot, held)| (slot.index(), held.epoch.0 as u64))
            .collect();
        let refused = self
            .refused
            .iter()
            .map(|(slot, refused)| (*slot, refused.detail.clone()))
            .collect();
        self.view
            .update(|view| (view.owned, view.epochs, view.refused) = (owned, epochs, refused));
    }

    fn tell_health(&mut self) {
        let (health, message) = self.view.get().health(self.clock.elapsed());
        let now = (health, message);
        if self.told.as_ref() != Some(&now) {
            self.holder.health(now.0, now.1.as_deref());
            self.told = Some(now);
        }
    }

    async fn finish(mut self) {
        self.deadline.end();
        let orderly = async {
            while !self.save(true).await.is_empty() {
                tokio::time::sleep(PLAN_INTERVAL_WAITING).await;
            }
            self.release(self.mine()).await;
            self.retire_myself().await;
        };
        if tokio::time::timeout(FINISH_LIMIT, orderly).await.is_err() {
            warn!(slots = %self.mine(), "the state store does not answer; the slots are free when the lease is over");
        }
        self.show_owned();
    }

    async fn retire_myself(&self) {
        // Above every beat of this process, so that one that is still on its way does not bring it back.
        let last = ProcessRow {
            process: self.config.process.clone(),
            beat: lease::beat_at(self.clock.elapsed()),
            placement: self.config.share.placement(),
        };
        if let Err(error) = self.store.retire(&last).await {
            self.view.troubled(view::RETIRE, &error);
        }
    }
}

#[cfg(test)]
mod tests;
