use std::collections::HashMap;

use super::*;
use crate::model::{RowId, SECOND};
use crate::ports::Checkpoint;

const LEASE: Duration = Duration::from_secs(10);

/// A store in memory with the conditional semantics of the real one.
#[derive(Default)]
struct Store(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    owners: HashMap<SlotId, (Option<String>, Epoch)>,
    processes: HashMap<String, ProcessRow>,
    checkpoints: HashMap<SlotId, Checkpoint>,
    unavailable: bool,
}

impl Store {
    fn up(&self) -> Result<parking_lot::MutexGuard<'_, Inner>, StateError> {
        let inner = self.0.lock();
        if inner.unavailable {
            return Err(StateError::Unavailable {
                action: "test",
                detail: "down".into(),
            });
        }
        Ok(inner)
    }
}

impl StateStore for Store {
    async fn slots(&self) -> Result<Vec<SlotRow>, StateError> {
        let inner = self.up()?;
        let row = |slot: SlotId| {
            let (owner, epoch) = inner
                .owners
                .get(&slot)
                .cloned()
                .map_or((None, None), |(o, e)| (o, Some(e)));
            SlotRow { slot, owner, epoch }
        };
        Ok(SlotId::all().map(row).collect())
    }

    async fn processes(&self) -> Result<Vec<ProcessRow>, StateError> {
        Ok(self.up()?.processes.values().cloned().collect())
    }

    async fn beat(&self, row: &ProcessRow) -> Result<(), StateError> {
        self.up()?.processes.insert(row.process.clone(), row.clone());
        Ok(())
    }

    async fn retire(&self, process: &str) -> Result<(), StateError> {
        self.up()?.processes.remove(process);
        Ok(())
    }

    async fn claim(
        &self,
        slot: SlotId,
        seen: Option<Epoch>,
        owner: &str,
    ) -> Result<Conditional<Epoch>, StateError> {
        let mut inner = self.up()?;
        if inner.owners.get(&slot).map(|(_, epoch)| *epoch) != seen {
            return Ok(Conditional::Fenced);
        }
        let epoch = Epoch(seen.map_or(1, |epoch| epoch.0 + 1));
        inner.owners.insert(slot, (Some(owner.to_owned()), epoch));
        Ok(Conditional::Applied(epoch))
    }

    async fn release(&self, slot: SlotId, epoch: Epoch) -> Result<Conditional<()>, StateError> {
        let mut inner = self.up()?;
        match inner.owners.get_mut(&slot) {
            Some((owner, held)) if *held == epoch => {
                *owner = None;
                Ok(Conditional::Applied(()))
            }
            _ => Ok(Conditional::Fenced),
        }
    }

    async fn load(&self, slot: SlotId) -> Result<Option<Checkpoint>, StateError> {
        Ok(self.up()?.checkpoints.get(&slot).cloned())
    }

    async fn save(&self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        let mut inner = self.up()?;
        if inner.owners.get(&slot).map(|(_, held)| *held) != Some(epoch) {
            return Ok(Conditional::Fenced);
        }
        let checkpoint = inner.checkpoints.entry(slot).or_default();
        (checkpoint.bound, checkpoint.revision) = (save.bound, save.revision);
        for (key, ids) in &save.add {
            checkpoint.segments.push(*key);
            checkpoint.resolved.extend(ids.iter().map(|id| (key.second, *id)));
        }
        checkpoint.segments.retain(|key| !save.remove.contains(key));
        let kept: Vec<_> = checkpoint.segments.iter().map(|key| key.second).collect();
        checkpoint.resolved.retain(|(second, _)| kept.contains(second));
        Ok(Conditional::Applied(()))
    }
}

struct VirtualClock(tokio::time::Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Micros {
        self.elapsed().as_micros() as Micros
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Holder for Log {
    async fn opened(&self, slot: SlotId, bound: Micros) {
        self.0.lock().push(format!("opened {slot} at {bound}"));
    }

    async fn drain(&self, slots: SlotSet) {
        self.0.lock().push(format!("drain {slots}"));
    }

    async fn revoked(&self, slots: SlotSet) {
        self.0.lock().push(format!("revoked {slots}"));
    }
}

struct Process {
    ledger: Arc<Mutex<Ledger>>,
    view: KeeperView,
    deadline: Deadline,
    log: Arc<Log>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(store: &Arc<Store>, clock: &Arc<VirtualClock>, process: &str, share: Share) -> Process {
    let (ledger, deadline) = (Arc::new(Mutex::new(Ledger::default())), Deadline::default());
    let (log, stop) = (Arc::new(Log::default()), CancellationToken::new());
    let config = KeeperConfig {
        process: process.to_owned(),
        share,
        lease: LEASE,
        checkpoint_interval: Duration::from_secs(1),
        start: 7 * SECOND,
    };
    let keeper = Keeper::new(
        config,
        store.clone(),
        clock.clone(),
        log.clone(),
        ledger.clone(),
        deadline.clone(),
    );
    let (view, task) = (keeper.view(), tokio::spawn(keeper.run(stop.clone())));
    Process {
        ledger,
        view,
        deadline,
        log,
        stop,
        task,
    }
}

fn world() -> (Arc<Store>, Arc<VirtualClock>) {
    (
        Arc::default(),
        Arc::new(VirtualClock(tokio::time::Instant::now())),
    )
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

const ALL: Share = Share::Pinned { index: 1, count: 1 };

#[tokio::test(start_paused = true)]
async fn a_first_start_owns_its_share_and_pins_where_it_began() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", Share::Pinned { index: 1, count: 2 });
    pass(Duration::from_secs(2)).await;
    assert_eq!(us.view.get().owned.to_string(), "0-31");
    assert_eq!(store.0.lock().checkpoints.len(), 32);
    assert!(
        store
            .0
            .lock()
            .checkpoints
            .values()
            .all(|checkpoint| checkpoint.bound == 7 * SECOND)
    );
    assert!(us.deadline.get() > clock.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_resolved_survives_a_stop_and_a_takeover_is_quick() {
    let (store, clock) = world();
    let slot = SlotId::new(9).unwrap();
    let first = start(&store, &clock, "first", ALL);
    pass(Duration::from_secs(1)).await;
    first.ledger.lock().take(slot, 8 * SECOND, RowId(1));
    first.ledger.lock().take(slot, 8 * SECOND, RowId(2));
    first.ledger.lock().resolve(slot, 8 * SECOND, RowId(1));
    let second = start(&store, &clock, "second", ALL);
    pass(Duration::from_secs(5)).await;
    assert_eq!(second.view.get().owned, SlotSet::EMPTY, "the owner lives");
    first.stop.cancel();
    first.task.await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(second.view.get().owned, SlotSet::ALL);
    let mut ledger = second.ledger.lock();
    assert_eq!(
        ledger.take(slot, 8 * SECOND, RowId(1)),
        crate::ledger::Known::Resolved
    );
    assert_eq!(
        ledger.take(slot, 8 * SECOND, RowId(2)),
        crate::ledger::Known::New,
        "never acknowledged"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_owner_is_replaced_within_lease_plus_two_seconds_and_fenced_when_it_wakes() {
    let (store, clock) = world();
    let slot = SlotId::new(0).unwrap();
    let zombie = start(&store, &clock, "zombie", ALL);
    pass(Duration::from_secs(1)).await;
    zombie.task.abort();
    let heir = start(&store, &clock, "heir", ALL);
    pass(LEASE + Duration::from_secs(2)).await;
    assert_eq!(heir.view.get().owned, SlotSet::ALL);
    assert!(
        zombie.deadline.get() < clock.elapsed(),
        "the zombie may not send any more"
    );
    let save = Save {
        bound: i64::MAX,
        revision: 9,
        add: vec![],
        remove: vec![],
    };
    assert_eq!(store.save(slot, Epoch(1), &save).await, Ok(Conditional::Fenced));
    assert_eq!(store.0.lock().checkpoints[&slot].bound, 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_overtaken_lets_go() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(Duration::from_secs(1)).await;
    let slot = SlotId::new(5).unwrap();
    store
        .0
        .lock()
        .owners
        .insert(slot, (Some("thief".into()), Epoch(2)));
    pass(Duration::from_secs(3)).await;
    assert!(!us.view.get().owned.contains(slot));
    assert!(us.log.0.lock().contains(&"revoked 5".to_owned()));
    assert!(us.ledger.lock().slot(slot).is_none());
}

#[tokio::test(start_paused = true)]
async fn without_its_store_the_deadline_passes_and_afterwards_work_goes_on() {
    let (store, clock) = world();
    let us = start(&store, &clock, "us", ALL);
    pass(Duration::from_secs(1)).await;
    store.0.lock().unavailable = true;
    pass(LEASE).await;
    assert!(us.deadline.get() < clock.elapsed());
    assert_eq!(
        us.view.get().last_error.map(|(category, _)| category),
        Some("StateUnavailable")
    );
    store.0.lock().unavailable = false;
    pass(LEASE).await;
    assert!(us.deadline.get() > clock.elapsed());
    assert_eq!(
        (us.view.get().owned, us.view.get().last_error),
        (SlotSet::ALL, None)
    );
}

#[tokio::test(start_paused = true)]
async fn auto_processes_settle_on_equal_parts() {
    let (store, clock) = world();
    let a = start(&store, &clock, "a", Share::Auto);
    pass(Duration::from_secs(2)).await;
    let b = start(&store, &clock, "b", Share::Auto);
    pass(Duration::from_secs(10)).await;
    assert_eq!((a.view.get().owned.len(), b.view.get().owned.len()), (32, 32));
    assert!(
        a.log.0.lock().iter().any(|line| line.starts_with("drain")),
        "given up only after draining"
    );
    b.stop.cancel();
    b.task.await.unwrap();
    pass(Duration::from_secs(3)).await;
    assert_eq!(a.view.get().owned, SlotSet::ALL);
}
