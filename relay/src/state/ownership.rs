//! Which slots this process should claim or give up. Pure: time comes in, decisions go out.
//!
//! A slot may be taken when it was released, or when its owner's heartbeat has not moved for the lease, measured on
//! this process's own monotonic clock since it first saw that beat. No clocks are compared.

use std::collections::{HashMap, HashSet};
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
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Slots to claim, with the epoch that was seen.
    pub claim: Vec<(SlotId, Option<Epoch>)>,
    /// Slots of ours to drain and release.
    pub release: SlotSet,
    /// Ended processes that own nothing any more: their rows can go.
    pub retire: Vec<String>,
    /// A live process of the other placement: nothing may be claimed beside it.
    pub conflict: Option<String>,
    /// Slots that are ours by right and still owned by a live process.
    pub waiting: SlotSet,
}

impl Ownership {
    pub fn new(process: String, share: Share, lease: Duration) -> Self {
        Self {
            process,
            share,
            lease,
            beats: HashMap::new(),
            missing: HashMap::new(),
        }
    }

    /// Decides from what was read. `mine` are the slots that this process holds, `now` its monotonic clock.
    pub fn plan(
        &mut self,
        slots: &[SlotRow],
        processes: &[ProcessRow],
        mine: SlotSet,
        now: Duration,
    ) -> Plan {
        self.observe(slots, processes, now);
        let live = self.live(processes, now);
        let conflict = processes.iter().find(|p| {
            p.process != self.process
                && p.placement != self.share.placement()
                && live.contains(p.process.as_str())
        });
        if let Some(other) = conflict {
            return Plan {
                conflict: Some(other.process.clone()),
                ..Plan::default()
            };
        }
        let free = |row: &&SlotRow| match &row.owner {
            None => true,
            Some(owner) if *owner == self.process => !mine.contains(row.slot),
            Some(owner) => self.expired(owner, now),
        };
        let free: Vec<_> = slots
            .iter()
            .filter(free)
            .map(|row| (row.slot, row.epoch))
            .collect();
        let free_set: SlotSet = free.iter().map(|(slot, _)| *slot).collect();
        let (wanted, release) = match self.share {
            Share::Pinned { index, count } => {
                let share = SlotSet::of_share(index, count);
                (share.difference(mine), mine.difference(share))
            }
            Share::Auto => self.fair_part(&live, mine, free_set),
        };
        let claim = free
            .into_iter()
            .filter(|(slot, _)| wanted.contains(*slot))
            .collect();
        let owners: HashSet<_> = slots.iter().filter_map(|row| row.owner.as_deref()).collect();
        let retire = processes
            .iter()
            .map(|p| p.process.clone())
            .filter(|p| *p != self.process && !live.contains(p.as_str()) && !owners.contains(p.as_str()))
            .collect();
        Plan {
            claim,
            release,
            retire,
            conflict: None,
            waiting: wanted.difference(free_set),
        }
    }

    fn observe(&mut self, slots: &[SlotRow], processes: &[ProcessRow], now: Duration) {
        self.beats
            .retain(|process, _| processes.iter().any(|p| p.process == *process));
        for row in processes {
            let seen = self.beats.entry(row.process.clone()).or_insert((row.beat, now));
            if seen.0 != row.beat {
                *seen = (row.beat, now);
            }
        }
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
    /// 64 leave some standing by. A process above its part gives up its highest slots, one below claims free ones.
    fn fair_part(&self, live: &HashSet<&str>, mine: SlotSet, free: SlotSet) -> (SlotSet, SlotSet) {
        let rank = live
            .iter()
            .filter(|process| **process < self.process.as_str())
            .count();
        let part = SLOTS / live.len() + usize::from(rank < SLOTS % live.len());
        let missing = part.saturating_sub(mine.len());
        let surplus = mine.len().saturating_sub(part);
        let release: Vec<_> = mine.iter().collect();
        let release = release.into_iter().rev().take(surplus).collect();
        (free.iter().take(missing).collect(), release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn owned_by(owner: impl Fn(usize) -> Option<&'static str>) -> Vec<SlotRow> {
        let row = |slot: SlotId| {
            let owner = owner(slot.index()).map(str::to_owned);
            SlotRow {
                slot,
                epoch: owner.as_ref().map(|_| Epoch(1)),
                owner,
            }
        };
        SlotId::all().map(row).collect()
    }

    fn alive(process: &str, beat: i64, placement: Placement) -> ProcessRow {
        ProcessRow {
            process: process.into(),
            beat,
            placement,
        }
    }

    fn claimed(plan: &Plan) -> String {
        plan.claim
            .iter()
            .map(|(slot, _)| *slot)
            .collect::<SlotSet>()
            .to_string()
    }

    #[test]
    fn a_pinned_share_claims_its_own_free_slots_only() {
        let mut us = Ownership::new("us".into(), Share::Pinned { index: 2, count: 4 }, LEASE);
        let plan = us.plan(&owned_by(|_| None), &[], SlotSet::EMPTY, secs(0));
        assert_eq!(claimed(&plan), "16-31");
        let plan = us.plan(&owned_by(|_| Some("us")), &[], SlotSet::of_share(2, 4), secs(1));
        assert_eq!((claimed(&plan).as_str(), plan.release), ("", SlotSet::EMPTY));
    }

    #[test]
    fn a_live_owner_keeps_its_slots_and_a_silent_one_loses_them_after_the_lease() {
        let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
        let slots = owned_by(|_| Some("them"));
        let mut plan_at = |beat, at| {
            us.plan(
                &slots,
                &[alive("them", beat, Placement::Pinned)],
                SlotSet::EMPTY,
                secs(at),
            )
        };
        assert_eq!(plan_at(1, 0).waiting, SlotSet::ALL);
        assert_eq!(claimed(&plan_at(1, 9)), "");
        assert_eq!(claimed(&plan_at(2, 10)), "", "it moved");
        assert_eq!(claimed(&plan_at(2, 19)), "");
        assert_eq!(claimed(&plan_at(2, 20)), "0-63");
    }

    #[test]
    fn an_owner_without_heartbeat_row_loses_its_slots_after_the_lease_too() {
        let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
        let slots = owned_by(|_| Some("ghost"));
        assert_eq!(claimed(&us.plan(&slots, &[], SlotSet::EMPTY, secs(5))), "");
        assert_eq!(claimed(&us.plan(&slots, &[], SlotSet::EMPTY, secs(14))), "");
        assert_eq!(claimed(&us.plan(&slots, &[], SlotSet::EMPTY, secs(15))), "0-63");
    }

    #[test]
    fn auto_processes_share_evenly_and_give_up_what_is_too_much() {
        let mut a = Ownership::new("a".into(), Share::Auto, LEASE);
        let alone = a.plan(&owned_by(|_| None), &[], SlotSet::EMPTY, secs(0));
        assert_eq!(claimed(&alone), "0-63");
        let both = [alive("a", 1, Placement::Auto), alive("b", 1, Placement::Auto)];
        let crowded = a.plan(&owned_by(|_| Some("a")), &both, SlotSet::ALL, secs(1));
        assert_eq!(crowded.release.to_string(), "32-63");
        let mut b = Ownership::new("b".into(), Share::Auto, LEASE);
        let half = owned_by(|slot| (slot < 32).then_some("a"));
        assert_eq!(claimed(&b.plan(&half, &both, SlotSet::EMPTY, secs(1))), "32-63");
    }

    #[test]
    fn surplus_auto_processes_stand_by() {
        let names: Vec<String> = (0..SLOTS).map(|i| format!("p{i:02}")).collect();
        let rows: Vec<_> = names.iter().map(|name| alive(name, 1, Placement::Auto)).collect();
        let mut last = Ownership::new("z".into(), Share::Auto, LEASE);
        assert_eq!(
            claimed(&last.plan(&owned_by(|_| None), &rows, SlotSet::EMPTY, secs(0))),
            ""
        );
    }

    #[test]
    fn pinned_and_auto_are_never_mixed() {
        let mut us = Ownership::new("us".into(), Share::Auto, LEASE);
        let plan = us.plan(
            &owned_by(|_| None),
            &[alive("them", 1, Placement::Pinned)],
            SlotSet::EMPTY,
            secs(0),
        );
        assert_eq!((plan.conflict.as_deref(), plan.claim.len()), (Some("them"), 0));
    }

    #[test]
    fn ended_processes_are_retired_once_they_own_nothing() {
        let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 2 }, LEASE);
        let dead = [alive("dead", 1, Placement::Pinned)];
        let still_owns = owned_by(|slot| (slot == 63).then_some("dead"));
        assert!(
            us.plan(&still_owns, &dead, SlotSet::EMPTY, secs(0))
                .retire
                .is_empty()
        );
        assert!(
            us.plan(&still_owns, &dead, SlotSet::EMPTY, secs(11))
                .retire
                .is_empty()
        );
        assert_eq!(
            us.plan(&owned_by(|_| None), &dead, SlotSet::EMPTY, secs(12))
                .retire,
            ["dead"]
        );
    }

    #[test]
    fn a_slot_that_carries_our_name_but_is_not_held_is_claimed_again() {
        let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
        assert_eq!(
            claimed(&us.plan(&owned_by(|_| Some("us")), &[], SlotSet::EMPTY, secs(0))),
            "0-63"
        );
    }
}
