//! A store in memory with the conditional semantics of the real one, and its failures.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::journal::Incarnation;
use crate::model::{Micros, SlotId};
use crate::ports::{
    Checkpoint, Clock, Conditional, Epoch, Loaded, ProcessRow, Save, SlotRow, StateError, StateStore,
};

#[derive(Default)]
pub(super) struct Store(Mutex<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) owners: HashMap<SlotId, (Option<String>, Epoch)>,
    pub(super) processes: HashMap<String, ProcessRow>,
    retired: HashMap<String, i64>,
    pub(super) checkpoints: HashMap<SlotId, Checkpoint>,
    /// Transactional ids that the slots' rows name.
    pub(super) ids: HashMap<SlotId, String>,
    pub(super) incarnation: Option<Incarnation>,
    /// Everything fails.
    pub(super) unavailable: bool,
    /// Nothing is answered.
    pub(super) hanging: bool,
    /// So many beats get no answer.
    pub(super) swallow_beats: u32,
    pub(super) fail_saves: u32,
    pub(super) fail_releases: u32,
    /// Saves fail, and wait to take place after all.
    pub(super) delay_saves: bool,
    delayed: Vec<(SlotId, Epoch, Save)>,
    pub(super) unreadable: Option<SlotId>,
}

impl Store {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    pub(super) fn apply_delayed(&self) {
        let mut inner = self.inner();
        for (slot, epoch, save) in std::mem::take(&mut inner.delayed) {
            // As the real condition would have it.
            let _ = inner.save(slot, epoch, &save);
        }
    }

    fn up(&self) -> Result<MutexGuard<'_, Inner>, StateError> {
        let inner = self.0.lock();
        if inner.unavailable {
            return Err(unavailable());
        }
        Ok(inner)
    }

    async fn answers(&self) {
        let hanging = self.inner().hanging;
        if hanging {
            pending::<()>().await;
        }
    }
}

fn unavailable() -> StateError {
    StateError::Unavailable {
        action: "test",
        detail: "down".into(),
    }
}

impl Inner {
    fn save(&mut self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        if self.owners.get(&slot).map(|(_, held)| *held) != Some(epoch) {
            return Ok(Conditional::Fenced);
        }
        let checkpoint = self.checkpoints.entry(slot).or_default();
        if checkpoint.revision != save.follows {
            return Err(StateError::Superseded { slot });
        }
        assert!(checkpoint.bound <= save.bound, "a bound never goes back");
        (checkpoint.bound, checkpoint.revision) = (save.bound, save.revision);
        checkpoint.mark = save.mark;
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

impl StateStore for Store {
    async fn slots(&self) -> Result<Vec<SlotRow>, StateError> {
        self.answers().await;
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
        self.answers().await;
        Ok(self.up()?.processes.values().cloned().collect())
    }

    async fn beat(&self, row: &ProcessRow) -> Result<(), StateError> {
        self.answers().await;
        let swallowed = {
            let mut inner = self.inner();
            let swallowed = inner.swallow_beats > 0;
            inner.swallow_beats = inner.swallow_beats.saturating_sub(1);
            swallowed
        };
        if swallowed {
            pending::<()>().await;
        }
        let mut inner = self.up()?;
        let retired = inner.retired.get(&row.process).copied().unwrap_or_default();
        let known = inner.processes.get(&row.process).map_or(0, |known| known.beat);
        if row.beat > known.max(retired) {
            inner.processes.insert(row.process.clone(), row.clone());
        }
        Ok(())
    }

    async fn retire(&self, last_seen: &ProcessRow) -> Result<(), StateError> {
        self.answers().await;
        let mut inner = self.up()?;
        let known = inner.processes.get(&last_seen.process).map(|known| known.beat);
        if known.is_some_and(|beat| beat <= last_seen.beat) {
            inner.processes.remove(&last_seen.process);
        }
        inner.retired.insert(last_seen.process.clone(), last_seen.beat);
        Ok(())
    }

    async fn claim(
        &self,
        slot: SlotId,
        seen: Option<Epoch>,
        owner: &str,
    ) -> Result<Conditional<Epoch>, StateError> {
        self.answers().await;
        let mut inner = self.up()?;
        if inner.owners.get(&slot).map(|(_, epoch)| *epoch) != seen {
            return Ok(Conditional::Fenced);
        }
        let epoch = Epoch(seen.map_or(1, |epoch| epoch.0 + 1));
        inner.owners.insert(slot, (Some(owner.to_owned()), epoch));
        Ok(Conditional::Applied(epoch))
    }

    async fn release(&self, slot: SlotId, epoch: Epoch, clean: bool) -> Result<Conditional<()>, StateError> {
        self.answers().await;
        let mut inner = self.up()?;
        if inner.fail_releases > 0 {
            inner.fail_releases -= 1;
            return Err(unavailable());
        }
        match inner.owners.get_mut(&slot) {
            Some((owner, held)) if *held == epoch => {
                *owner = None;
                if clean {
                    inner.ids.remove(&slot);
                }
                Ok(Conditional::Applied(()))
            }
            _ => Ok(Conditional::Fenced),
        }
    }

    async fn load(&self, slot: SlotId) -> Result<Loaded, StateError> {
        self.answers().await;
        let inner = self.up()?;
        if inner.unreadable == Some(slot) {
            return Err(StateError::Unreadable {
                slot,
                detail: "it is of a newer version".into(),
            });
        }
        Ok(Loaded {
            checkpoint: inner.checkpoints.get(&slot).cloned(),
            transactional_id: inner.ids.get(&slot).cloned(),
        })
    }

    async fn record_id(&self, slot: SlotId, epoch: Epoch, id: &str) -> Result<Conditional<()>, StateError> {
        self.answers().await;
        let mut inner = self.up()?;
        if inner.owners.get(&slot).map(|(_, held)| *held) != Some(epoch) {
            return Ok(Conditional::Fenced);
        }
        inner.ids.insert(slot, id.to_owned());
        Ok(Conditional::Applied(()))
    }

    async fn incarnation(&self) -> Result<Option<Incarnation>, StateError> {
        self.answers().await;
        Ok(self.up()?.incarnation)
    }

    async fn record_incarnation(&self, incarnation: Incarnation) -> Result<Incarnation, StateError> {
        self.answers().await;
        Ok(*self.up()?.incarnation.get_or_insert(incarnation))
    }

    async fn save(&self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        self.answers().await;
        let mut inner = self.up()?;
        if inner.delay_saves {
            inner.delayed.push((slot, epoch, save.clone()));
            return Err(unavailable());
        }
        if inner.fail_saves > 0 {
            inner.fail_saves -= 1;
            return Err(unavailable());
        }
        inner.save(slot, epoch, save)
    }
}

pub(super) struct VirtualClock(tokio::time::Instant);

impl VirtualClock {
    pub(super) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Micros {
        self.elapsed().as_micros() as Micros
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
