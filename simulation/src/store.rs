//! The model of the state keyspace: per slot one partition with lightweight transactions, and the heartbeats.

mod port;

use std::collections::BTreeMap;

use relay::journal::{Incarnation, Mark};
use relay::model::RowId;
use relay::ports::{Checkpoint, Placement, Save, SegmentKey};

use crate::chance::Chance;
use crate::world::{Micros, SECOND};

const SLOTS: usize = 64;

/// What one replica shows of a slot's owner may be this old.
const STALE: Micros = SECOND;

pub(crate) struct Store {
    slots: Vec<Slot>,
    /// Beat, placement.
    processes: BTreeMap<String, (i64, Placement)>,
    /// Beats up to this one were removed.
    retired: BTreeMap<String, i64>,
    incarnation: Option<Incarnation>,
}

/// A statement whose coordinator stalls before it proposes arrives this late, at most; and how often of a hundred times one
/// that nobody has heard of is still to come.
const LATEST: Micros = 2 * SECOND;
const TO_COME: i64 = 30;

/// Owner and epoch of a slot.
pub(crate) type Owner = (Option<String>, Option<i64>);

#[derive(Default)]
struct Slot {
    owner: Option<String>,
    epoch: Option<i64>,
    /// Bound, revision, mark.
    base: Option<(i64, i64, Mark)>,
    transactional_id: Option<String>,
    segments: BTreeMap<SegmentKey, Vec<RowId>>,
    /// Proposed, perhaps accepted, told to nobody: the next step on the partition decides.
    undecided: Vec<Step>,
    changed: Micros,
    /// Owner and epoch before the last change.
    before: Owner,
}

/// A conditional statement, by the process that made it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) life: usize,
    /// When it was sent. It may take effect much later.
    pub(crate) sent: Micros,
    pub(crate) change: Change,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Claim { seen: Option<i64>, owner: String },
    Release { epoch: i64, clean: bool },
    RecordId { epoch: i64, id: String },
    Save { epoch: i64, save: Save },
}

/// What a step did.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) step: Step,
    pub(crate) applied: bool,
    /// Owner and epoch before it.
    pub(crate) before: Owner,
    /// Owner and epoch after it.
    pub(crate) after: Owner,
    /// After a save.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            processes: BTreeMap::new(),
            retired: BTreeMap::new(),
            incarnation: None,
        }
    }

    /// What was under way on the partition is decided first, as every serial operation does, or has not arrived yet.
    /// Also how many those are.
    pub(crate) fn settle(&mut self, slot: usize, now: Micros, chance: &mut Chance) -> (Vec<Done>, usize) {
        let undecided = std::mem::take(&mut self.slots[slot].undecided);
        let mut done = Vec::new();
        for step in undecided {
            if now - step.sent < LATEST && chance.percent(TO_COME) {
                self.leave_undecided(slot, step);
            } else if chance.percent(50) {
                done.push(self.slots[slot].apply(step, now));
            }
        }
        (done, self.slots[slot].undecided.len())
    }

    pub(crate) fn apply(&mut self, slot: usize, step: Step, now: Micros) -> Done {
        self.slots[slot].apply(step, now)
    }

    pub(crate) fn leave_undecided(&mut self, slot: usize, step: Step) {
        self.slots[slot].undecided.push(step);
    }

    pub(crate) fn checkpoint(&self, slot: usize) -> Option<Checkpoint> {
        self.slots[slot].checkpoint()
    }

    fn epoch(&self, slot: usize) -> Option<i64> {
        self.slots[slot].epoch
    }

    fn transactional_id(&self, slot: usize) -> Option<String> {
        self.slots[slot].transactional_id.clone()
    }

    /// Owner and epoch of each slot, some of them as they were a moment ago; and how many of those differ.
    fn owners(&self, now: Micros, stale: bool, chance: &mut Chance) -> (Vec<Owner>, usize) {
        let mut old = 0;
        let rows = self.slots.iter().map(|slot| {
            if stale && now - slot.changed < STALE && chance.percent(50) {
                old += 1;
                return slot.before.clone();
            }
            (slot.owner.clone(), slot.epoch)
        });
        (rows.collect(), old)
    }

    /// A heartbeat is its own write timestamp: the larger one wins, and a removal wins over what it saw.
    fn beat(&mut self, process: &str, beat: i64, placement: Placement) {
        let known = self.processes.get(process).map_or(0, |(beat, _)| *beat);
        let retired = self.retired.get(process).copied().unwrap_or_default();
        if beat > known.max(retired) {
            self.processes.insert(process.to_owned(), (beat, placement));
        }
    }

    fn retire(&mut self, process: &str, last_seen: i64) {
        let retired = self.retired.entry(process.to_owned()).or_default();
        *retired = last_seen.max(*retired);
        if self
            .processes
            .get(process)
            .is_some_and(|(beat, _)| beat <= retired)
        {
            self.processes.remove(process);
        }
    }

    /// Slots that somebody owns.
    pub(crate) fn owned(&self) -> usize {
        self.slots.iter().filter(|slot| slot.owner.is_some()).count()
    }
}

impl Slot {
    fn apply(&mut self, step: Step, now: Micros) -> Done {
        let before = (self.owner.clone(), self.epoch);
        let applied = match &step.change {
            Change::Claim { seen, .. } => self.epoch == *seen,
            Change::Release { epoch, .. } | Change::RecordId { epoch, .. } => self.epoch == Some(*epoch),
            Change::Save { epoch, save } => {
                self.epoch == Some(*epoch) && self.base.map_or(0, |(_, revision, _)| revision) == save.follows
            }
        };
        let mut checkpoint = None;
        if applied {
            match &step.change {
                Change::Claim { seen, owner } => {
                    self.owner = Some(owner.clone());
                    self.epoch = Some(seen.unwrap_or(0) + 1);
                }
                Change::Release { clean, .. } => {
                    self.owner = None;
                    self.transactional_id.take_if(|_| *clean);
                    checkpoint = self.checkpoint();
                }
                Change::RecordId { id, .. } => self.transactional_id = Some(id.clone()),
                Change::Save { save, .. } => {
                    self.base = Some((save.bound, save.revision, save.mark));
                    self.segments.extend(save.add.iter().cloned());
                    for key in &save.remove {
                        self.segments.remove(key);
                    }
                    checkpoint = self.checkpoint();
                }
            }
            if (self.owner.as_ref(), self.epoch) != (before.0.as_ref(), before.1) {
                (self.before, self.changed) = (before.clone(), now);
            }
        }
        Done {
            step,
            applied,
            before,
            after: (self.owner.clone(), self.epoch),
            checkpoint,
        }
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        let (bound, revision, mark) = self.base?;
        let ids = self.segments.iter();
        Some(Checkpoint {
            bound,
            mark,
            resolved: ids
                .flat_map(|(key, ids)| ids.iter().map(|id| (key.second, *id)))
                .collect(),
            segments: self.segments.keys().copied().collect(),
            revision,
        })
    }
}
