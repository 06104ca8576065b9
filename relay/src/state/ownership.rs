//! Which slots this process should claim or give up. Pure: time comes in, decisions go out.
//!
//! A slot may be taken when it was released, or when its owner's heartbeat has not moved for the lease, measured on
//! this process's own monotonic clock since it first saw that beat. No clocks are compared.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::model::{SLOTS, SlotId, SlotSet};
use crate::ports::{Epoch, Placement, ProcessRow, SlotRow};

/// What share of the slots a process wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// `--share i/n`: share `index` (from 1) of `count`.
    Pinned { index: u32, count: u32 },
    /// `--share auto`: a fair part among the processes that live.
    Auto,
}

impl Share {
    pub fn placement(self) -> Placement {
        match self {
            Self::Pinned { .. } => Placement::Pinned,
            Self::Auto => Placement::Auto,
        }
    }
}

/// What this process has seen of the others.
#[derive(Debug)]
pub struct Ownership {
    process: String,
    share: Share,
    lease: Duration,
    /// Per process: the last beat seen, and when it was first seen.
    beats: HashMap<String, (i64, Duration)>,
    /// Owners without a heartbeat row: when that was first seen.
    missing: HashMap<String, Duration>,
    /// Who lived when the last plan was made.
    planned_for: BTreeSet<String>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// How many slots this process should own.
    pub wanted: usize,
    pub claim: Vec<Claim>,
    /// Slots of ours to drain and release.
    pub release: SlotSet,
    /// Slots that carry our name and are neither held nor wanted: a claim or a release whose answer was lost.
    pub disown: Vec<(SlotId, Epoch)>,
    /// Ended processes that own nothing any more: their rows can go.
    pub retire: Vec<ProcessRow>,
    /// A live process of the other placement that goes first: nothing may be claimed beside it.
    pub conflict: Option<String>,
    /// Slots that are ours by right and still owned by a live process.
    pub waiting: SlotSet,
}

/// A slot to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub slot: SlotId,
    /// The epoch that was seen.
    pub seen: Option<Epoch>,
    /// Another process, which has stopped renewing.
    pub from: Option<String>,
}

/// When rows were asked for and when the answer was there, on the monotonic clock. A process that was suspended in
/// between must not take its own pause for the silence of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub asked: Duration,
    pub answered: Duration,
}

impl From<Duration> for Look {
    /// An answer at once.
    fn from(at: Duration) -> Self {
        Self {
            asked: at,
            answered: at,
        }
    }
}

impl Ownership {
    pub fn new(process: String, share: Share, lease: Duration) -> Self {
        Self {
            process,
            share,
            lease,
            beats: HashMap::new(),
            missing: HashMap::new(),
            planned_for: BTreeSet::new(),
        }
    }

    /// Whether processes have come or gone since the last plan.
    pub fn has_changed(&mut self, processes: &[ProcessRow], look: impl Into<Look>) -> bool {
        let look = look.into();
        self.observe_beats(processes, look.answered);
        let live = self.live(processes, look.asked);
        live.len() != self.planned_for.len()
            || live.iter().any(|process| !self.planned_for.contains(*process))
    }

    /// Decides from what was read. `mine` are the slots that this process holds.
    pub fn plan(
        &mut self,
        slots: &[SlotRow],
        processes: &[ProcessRow],
        mine: SlotSet,
        look: impl Into<Look>,
    ) -> Plan {
        let look = look.into();
        self.observe_beats(processes, look.answered);
        self.observe_owners(slots, look.answered);
        let now = look.asked;
        self.planned_for = self.live(processes, now).into_iter().map(str::to_owned).collect();
        let live = self.live(processes, now);
        if let Some(other) = self.goes_first(slots, processes, &live, mine) {
            return Plan {
                conflict: Some(other),
                release: mine,
                ..Plan::default()
            };
        }
        let free: Vec<_> = slots
            .iter()
            .filter_map(|row| self.claim_of(row, mine, now))
            .collect();
        let free_set: SlotSet = free.iter().map(|claim| claim.slot).collect();
        let part = match self.share {
            Share::Pinned { index, count } => {
                let share = SlotSet::of_share(index, count);
                Part {
                    wanted: share.len(),
                    take: share.difference(mine),
                    release: mine.difference(share),
                }
            }
            Share::Auto => self.fair_part(slots, processes, &live, mine, free_set),
        };
        let ours = |row: &&SlotRow| {
            row.owner.as_ref() == Some(&self.process)
                && !mine.contains(row.slot)
                && !part.take.contains(row.slot)
        };
        let disown = slots
            .iter()
            .filter(ours)
            .filter_map(|row| Some((row.slot, row.epoch?)))
            .collect();
        Plan {
            wanted: part.wanted,
            claim: free
                .into_iter()
                .filter(|claim| part.take.contains(claim.slot))
                .collect(),
            release: part.release,
            disown,
            retire: self.ended(slots, processes, &live),
            conflict: None,
            waiting: part.take.difference(free_set),
        }
    }

    /// How a slot can be claimed, if it is free. One that is held is not, whatever the row says: a replica may show it as
    /// it was before our claim, and claiming it once more would take that claim for this one, and forget what was
    /// delivered since.
    fn claim_of(&self, row: &SlotRow, mine: SlotSet, now: Duration) -> Option<Claim> {
        if mine.contains(row.slot) {
            return None;
        }
        let from = match &row.owner {
            None => None,
            Some(owner) if *owner == self.process => None,
            Some(owner) if self.expired(owner, now) => Some(owner.clone()),
            Some(_) => return None,
        };
        Some(Claim {
            slot: row.slot,
            seen: row.epoch,
            from,
        })
    }

    /// Pinned and automatic shares cannot divide the slots between them. Whoever owns some already goes first; if both
    /// do, or neither, the pinned ones. A process of the other placement that goes first, if there is one.
    fn goes_first(
        &self,
        slots: &[SlotRow],
        processes: &[ProcessRow],
        live: &HashSet<&str>,
        mine: SlotSet,
    ) -> Option<String> {
        let owners: HashSet<_> = slots.iter().filter_map(|row| row.owner.as_deref()).collect();
        let others = || {
            processes
                .iter()
                .filter(|p| p.process != self.process && live.contains(p.process.as_str()))
        };
        let owns = |p: &&ProcessRow| owners.contains(p.process.as_str());
        let theirs = |p: &&ProcessRow| p.placement != self.share.placement();
        let ours_own = !mine.is_empty() || others().filter(|p| !theirs(p)).any(|p| owns(&p));
        let owner = others().filter(theirs).find(owns);
        let first = match (owner, ours_own) {
            (Some(owner), false) => Some(owner),
            (None, true) => None,
            _ if self.share == Share::Auto => owner.or_else(|| others().find(theirs)),
            _ => None,
        };
        first.map(|p| p.process.clone())
    }

    fn ended(&self, slots: &[SlotRow], processes: &[ProcessRow], live: &HashSet<&str>) -> Vec<ProcessRow> {
        let owners: HashSet<_> = slots.iter().filter_map(|row| row.owner.as_deref()).collect();
        processes
            .iter()
            .filter(|p| !live.contains(p.process.as_str()) && !owners.contains(p.process.as_str()))
            .cloned()
            .collect()
    }

    fn observe_beats(&mut self, processes: &[ProcessRow], now: Duration) {
        self.beats
            .retain(|process, _| processes.iter().any(|p| p.process == *process));
        for row in processes {
            let seen = self.beats.entry(row.process.clone()).or_insert((row.beat, now));
            if seen.0 != row.beat {
                *seen = (row.beat, now);
            }
        }
    }

    fn observe_owners(&mut self, slots: &[SlotRow], now: Duration) {
        let owners: HashSet<_> = slots.iter().filter_map(|row| row.owner.as_deref()).collect();
        self.missing
            .retain(|owner, _| owners.contains(owner.as_str()) && !self.beats.contains_key(owner));
        for owner in owners
            .into_iter()
            .filter(|owner| !self.beats.contains_key(*owner))
        {
            self.missing.entry(owner.to_owned()).or_insert(now);
        }
    }

    fn expired(&self, owner: &str, now: Duration) -> bool {
        let since = self
            .beats
            .get(owner)
            .map(|(_, since)| since)
            .or_else(|| self.missing.get(owner));
        since.is_some_and(|since| now.saturating_sub(*since) >= self.lease)
    }

    fn live<'a>(&'a self, processes: &'a [ProcessRow], now: Duration) -> HashSet<&'a str> {
        let others = processes
            .iter()
            .map(|p| p.process.as_str())
            .filter(|p| !self.expired(p, now));
        others.chain([self.process.as_str()]).collect()
    }

    /// Of n live processes, in order of their names, the first 64 mod n get one slot more than the others; more than
    /// 64 leave some standing by. A process above its part gives up its highest slots. Those below theirs are dealt the
    /// free ones in order of their names, so that processes that see the same claim different ones.
    fn fair_part(
        &self,
        slots: &[SlotRow],
        processes: &[ProcessRow],
        live: &HashSet<&str>,
        mine: SlotSet,
        free: SlotSet,
    ) -> Part {
        let mut names: BTreeSet<&str> = processes
            .iter()
            .filter(|p| p.placement == Placement::Auto && live.contains(p.process.as_str()))
            .map(|p| p.process.as_str())
            .collect();
        names.insert(&self.process);
        let owned = |name: &str| {
            slots
                .iter()
                .filter(|row| row.owner.as_deref() == Some(name))
                .count()
        };
        let part = |rank: usize| SLOTS / names.len() + usize::from(rank < SLOTS % names.len());
        let before = names.iter().take_while(|name| **name != self.process);
        let (mut rank, mut dealt) = (0, 0);
        for name in before {
            dealt += part(rank).saturating_sub(owned(name));
            rank += 1;
        }
        let wanted = part(rank);
        let missing = wanted.saturating_sub(mine.len());
        let surplus = mine.len().saturating_sub(wanted);
        let mine: Vec<_> = mine.iter().collect();
        let mut free: Vec<_> = free.iter().collect();
        let dealt = dealt % free.len().max(1);
        free.rotate_left(dealt);
        Part {
            wanted,
            take: free.into_iter().take(missing).collect(),
            release: mine.into_iter().rev().take(surplus).collect(),
        }
    }
}

/// What a process should own: how many, which of those that it lacks, and what it has too much.
struct Part {
    wanted: usize,
    take: SlotSet,
    release: SlotSet,
}

#[cfg(test)]
mod tests;
