//! How a process meets the state keyspace: delays, and answers that do not come.

use relay::journal::Incarnation;
use relay::model::SlotId;
use relay::ports::{Conditional, Epoch, Loaded, ProcessRow, Save, SlotRow, StateError, StateStore};

use super::{Change, Done, Step};
use crate::plan::Fault;
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::{MS, Micros, SECOND};

/// What a client hears of its step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Told,
    /// It did not arrive.
    Lost,
    /// It took effect, and the answer was lost.
    Untold,
    /// Whether it took effect is decided by whoever comes next.
    Undecided,
}

impl StateStore for Port {
    async fn slots(&self) -> Result<Vec<SlotRow>, StateError> {
        self.0.pass(Point::OwnersAsked).await;
        self.wait(1).await;
        self.reachable("read slot owners")?;
        let world = &self.0.world;
        let stale = world.fault(Fault::OwnersStale, self.0.seat);
        let now = world.now();
        let (owners, old) = world.chance(|chance| world.store.lock().owners(now, stale, chance));
        if old > 0 {
            world.count("state: owners read stale");
        }
        self.0.pass(Point::OwnersAnswered).await;
        let row = |(slot, (owner, epoch)): (SlotId, (Option<String>, Option<i64>))| SlotRow {
            slot,
            owner,
            epoch: epoch.map(Epoch),
        };
        Ok(SlotId::all().zip(owners).map(row).collect())
    }

    async fn processes(&self) -> Result<Vec<ProcessRow>, StateError> {
        self.0.pass(Point::OwnersAsked).await;
        self.wait(1).await;
        self.reachable("read heartbeats")?;
        let world = &self.0.world;
        let rows = world.store.lock().processes.clone();
        let now = world.now();
        world.judge(|oracle| oracle.looked(self.0.life, now));
        self.0.pass(Point::OwnersAnswered).await;
        let row = |(process, (beat, placement))| ProcessRow {
            process,
            beat,
            placement,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn beat(&self, row: &ProcessRow) -> Result<(), StateError> {
        let action = "renew the heartbeat";
        self.0.pass(Point::BeatAsked).await;
        let world = &self.0.world;
        let sent = world.now();
        let fate = self.fate();
        let (fate, pause) = self.fading(fate);
        self.wait(1).await;
        if fate != Fate::Lost {
            world.store.lock().beat(&row.process, row.beat, row.placement);
            let now = world.now();
            world.judge(|oracle| oracle.beat(self.0.life, now));
        }
        self.0.pass(Point::BeatApplied).await;
        world.sleep(pause).await;
        self.wait(1).await;
        self.0.thawed().await;
        if fate != Fate::Told {
            return Err(unavailable(action));
        }
        world.judge(|oracle| oracle.beat_told(self.0.life, sent));
        Ok(())
    }

    async fn retire(&self, last_seen: &ProcessRow) -> Result<(), StateError> {
        self.0.pass(Point::RetireAsked).await;
        let fate = self.fate();
        self.wait(1).await;
        if fate != Fate::Lost {
            self.0
                .world
                .store
                .lock()
                .retire(&last_seen.process, last_seen.beat);
        }
        self.0.thawed().await;
        if fate == Fate::Told {
            Ok(())
        } else {
            Err(unavailable("remove an ended process"))
        }
    }

    async fn claim(
        &self,
        slot: SlotId,
        seen: Option<Epoch>,
        owner: &str,
    ) -> Result<Conditional<Epoch>, StateError> {
        let change = Change::Claim {
            seen: seen.map(|epoch| epoch.0),
            owner: owner.to_owned(),
        };
        self.0.pass(Point::ClaimAsked).await;
        let done = self
            .step(slot, change, Point::ClaimApplied, "claim a slot")
            .await?;
        let next = seen.map_or(0, |epoch| epoch.0) + 1;
        // Also if an earlier attempt of ours took place after all.
        let ours = done.applied || done.after == (Some(owner.to_owned()), Some(next));
        Ok(if ours {
            Conditional::Applied(Epoch(next))
        } else {
            Conditional::Fenced
        })
    }

    async fn release(&self, slot: SlotId, epoch: Epoch, clean: bool) -> Result<Conditional<()>, StateError> {
        self.0.pass(Point::ReleaseAsked).await;
        let change = Change::Release {
            epoch: epoch.0,
            clean,
        };
        let done = self
            .step(slot, change, Point::ReleaseApplied, "release a slot")
            .await?;
        Ok(if done.applied {
            Conditional::Applied(())
        } else {
            Conditional::Fenced
        })
    }

    async fn load(&self, slot: SlotId) -> Result<Loaded, StateError> {
        self.0.pass(Point::LoadAsked).await;
        self.wait(1).await;
        self.reachable("load a checkpoint")?;
        let world = &self.0.world;
        self.settle(slot);
        let (checkpoint, transactional_id) = {
            let store = world.store.lock();
            (
                store.checkpoint(slot.index()),
                store.transactional_id(slot.index()),
            )
        };
        self.0.pass(Point::LoadAnswered).await;
        let now = world.now();
        world.judge(|oracle| oracle.loaded(self.0.life, slot.index(), checkpoint.as_ref(), now));
        Ok(Loaded {
            checkpoint,
            transactional_id,
        })
    }

    async fn record_id(&self, slot: SlotId, epoch: Epoch, id: &str) -> Result<Conditional<()>, StateError> {
        self.0.pass(Point::ClaimAsked).await;
        let change = Change::RecordId {
            epoch: epoch.0,
            id: id.to_owned(),
        };
        let action = "record a transactional id";
        let done = self.step(slot, change, Point::ClaimApplied, action).await?;
        Ok(if done.applied {
            Conditional::Applied(())
        } else {
            Conditional::Fenced
        })
    }

    async fn incarnation(&self) -> Result<Option<Incarnation>, StateError> {
        self.wait(1).await;
        self.reachable("read the journal's incarnation")?;
        Ok(self.0.world.store.lock().incarnation)
    }

    async fn record_incarnation(&self, incarnation: Incarnation) -> Result<Incarnation, StateError> {
        self.wait(2).await;
        self.reachable("record the journal's incarnation")?;
        Ok(*self.0.world.store.lock().incarnation.get_or_insert(incarnation))
    }

    async fn save(&self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        let (process, world) = (&self.0, &self.0.world);
        let now = world.now();
        world.hear_of_gaps();
        world.judge(|oracle| oracle.saving(process.life, slot.index(), epoch.0, save, now));
        process.pass(Point::SaveAsked).await;
        let change = Change::Save {
            epoch: epoch.0,
            save: save.clone(),
        };
        let result = match self.attempt(slot, change, Point::SaveApplied).await {
            Some(done) if done.applied => Ok(Conditional::Applied(())),
            _ => self.found(slot, epoch, save).await,
        };
        process.pass(Point::SaveAnswered).await;
        let now = world.now();
        let told = !matches!(result, Err(StateError::Unavailable { .. }));
        world.judge(|oracle| oracle.save_told(process.life, slot.index(), told, now));
        result
    }
}

impl Port {
    /// One conditional statement, and what it did.
    async fn step(
        &self,
        slot: SlotId,
        change: Change,
        applied: Point,
        action: &'static str,
    ) -> Result<Done, StateError> {
        let told = self.attempt(slot, change, applied).await;
        told.ok_or_else(|| unavailable(action))
    }

    /// Without an answer, or refused, only a serial read tells what became of a save: by its number, as in the relay's
    /// own store.
    async fn found(&self, slot: SlotId, epoch: Epoch, save: &Save) -> Result<Conditional<()>, StateError> {
        let action = "save a checkpoint";
        self.wait(1).await;
        self.0.thawed().await;
        self.reachable(action)?;
        self.settle(slot);
        let (current, checkpoint) = {
            let store = self.0.world.store.lock();
            (store.epoch(slot.index()), store.checkpoint(slot.index()))
        };
        if current != Some(epoch.0) {
            return Ok(Conditional::Fenced);
        }
        let revision = checkpoint.map_or(0, |found| found.revision);
        if revision == save.revision {
            Ok(Conditional::Applied(()))
        } else if revision == save.follows {
            Err(unavailable(action))
        } else {
            Err(StateError::Superseded { slot })
        }
    }

    /// None: without an answer.
    async fn attempt(&self, slot: SlotId, change: Change, applied: Point) -> Option<Done> {
        let (process, world) = (&self.0, &self.0.world);
        let fate = self.fate();
        let mut sent = Sent {
            port: self,
            slot: slot.index(),
            step: Some(Step {
                life: process.life,
                sent: world.now(),
                change,
            }),
        };
        self.wait(2).await;
        let step = sent.step.take().filter(|_| fate != Fate::Lost);
        let mut answer = None;
        if let Some(step) = step {
            if fate == Fate::Undecided {
                world.store.lock().leave_undecided(slot.index(), step);
            } else {
                self.settle(slot);
                let done = world.store.lock().apply(slot.index(), step, world.now());
                self.tell(slot.index(), &done);
                answer = Some(done);
            }
        }
        process.pass(applied).await;
        self.wait(1).await;
        process.thawed().await;
        answer.filter(|_| fate == Fate::Told)
    }

    fn settle(&self, slot: SlotId) {
        let world = &self.0.world;
        let now = world.now();
        let (decided, to_come) = world.chance(|chance| world.store.lock().settle(slot.index(), now, chance));
        if to_come > 0 {
            world.count("state: arrives after the next step");
        }
        for done in decided {
            world.count("state: decided by the next step");
            self.tell(slot.index(), &done);
        }
    }

    fn tell(&self, slot: usize, done: &Done) {
        let world = &self.0.world;
        world.tell(|| {
            format!(
                "slot {slot}: {:?} by life {} applied: {}",
                done.step.change, done.step.life, done.applied
            )
        });
        let now = world.now();
        if done.applied
            && let (Change::Claim { owner, .. }, Some(before)) = (&done.step.change, &done.before.0)
            && owner != before
        {
            world.count("process: slot taken over");
        }
        if !done.applied
            && let Change::Save { epoch, .. } = &done.step.change
            && done.after.1 != Some(*epoch)
        {
            world.count("process: slots fenced");
        }
        world.judge(|oracle| oracle.stepped(slot, done, now));
    }

    /// Heartbeats that are answered late, or not at all; how late.
    fn fading(&self, fate: Fate) -> (Fate, Micros) {
        let world = &self.0.world;
        if fate != Fate::Told || !world.fault(Fault::BeatsFade, self.0.seat) {
            return (fate, 0);
        }
        if world.percent(65) {
            world.count("state: heartbeat lost");
            return (Fate::Lost, 0);
        }
        world.count("state: heartbeat answered late");
        let lease = Micros::from(world.plan.config.state.lease_seconds) * SECOND;
        (
            fate,
            world.chance(|chance| chance.within(lease / 5, lease * 2 / 5)),
        )
    }

    /// What will become of a statement.
    fn fate(&self) -> Fate {
        let world = &self.0.world;
        let seat = self.0.seat;
        if world.fault(Fault::StateDown, seat) {
            world.count("state: unavailable");
            return Fate::Lost;
        }
        if world.fault(Fault::StateUntold, seat) && world.percent(40) {
            return if world.percent(50) {
                world.count("state: applied, but not told");
                Fate::Untold
            } else {
                Fate::Undecided
            };
        }
        Fate::Told
    }

    fn reachable(&self, action: &'static str) -> Result<(), StateError> {
        if self.0.world.fault(Fault::StateDown, self.0.seat) {
            self.0.world.count("state: unavailable");
            return Err(unavailable(action));
        }
        Ok(())
    }

    /// Some round trips.
    async fn wait(&self, trips: Micros) {
        let world = &self.0.world;
        if world.fault(Fault::StateSlow, self.0.seat) && world.percent(20) {
            world.count("state: slow");
            world
                .sleep(world.chance(|chance| chance.within(100 * MS, 1500 * MS)))
                .await;
        }
        world
            .sleep(world.chance(|chance| chance.within(trips * MS / 3, trips * MS)))
            .await;
    }
}

/// A statement on its way. If whoever sent it is gone before it arrives, it may arrive all the same.
struct Sent<'a> {
    port: &'a Port,
    slot: usize,
    step: Option<Step>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let world = &self.port.0.world;
        if let Some(step) = self.step.take()
            && world.percent(50)
        {
            world.store.lock().leave_undecided(self.slot, step);
        }
    }
}

fn unavailable(action: &'static str) -> StateError {
    StateError::Unavailable {
        action,
        detail: "planted".into(),
    }
}
