//! Processes: who is alive, whose lease runs, who may send what.

use std::collections::{BTreeMap, HashMap, HashSet};

use relay::ports::Placement;

use super::Oracle;
use crate::store::Done;
use crate::world::{Micros, SECOND};

/// A stream set is news for so long.
const NEWS: Micros = 2 * SECOND;

/// Whoever has owned slots for this long is seen by everybody who plans.
const SETTLED: Micros = 4 * SECOND;

#[derive(Debug, Default)]
pub(super) struct LifeFacts {
    pub(super) name: String,
    placement: Option<Placement>,
    /// Since when it has owned slots without a break.
    pub(super) owns_since: Option<Micros>,
    pub(super) held: BTreeMap<usize, Holding>,
    pub(super) died: Option<Micros>,
    pub(super) killed: bool,
    /// When heartbeats arrived.
    beats: Vec<Micros>,
    /// When it looked at the heartbeats of all.
    looks: Vec<Micros>,
    /// When the last one that it knows to have arrived was sent.
    beat_sent: Option<Micros>,
    /// It was frozen, or could not renew in time, at least once: it may have come back as an owner who had been given
    /// up, and whom the one who takes over cannot tell from a dead one.
    pub(super) lapsed: bool,
    /// A transactional producer of its was fenced, or failed for ever, or did not hear how a transaction ended: it gives up
    /// its slots without what was in flight.
    pub(super) broken: bool,
    /// The last time that the state store failed it, or that it did not run.
    pub(super) troubled: Micros,
    /// When it first read rows with their values, where there are several stream sets.
    pub(super) reads: HashMap<usize, Micros>,
    /// Stream sets that it knows of, and since when.
    pub(super) sets: BTreeMap<usize, Micros>,
    /// Saves on their way; when the round that they belong to began.
    pub(super) saving: usize,
    pub(super) round: Micros,
    /// What it knew when it took a slot under an epoch.
    pub(super) known: BTreeMap<(usize, i64), Known>,
}

/// How a process holds a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    /// Now.
    pub(super) epoch: i64,
    /// When it read the checkpoint.
    pub(super) since: i64,
    pub(super) at: Micros,
    /// The slot carried its name when it claimed it last.
    pub(super) own: bool,
}

impl Default for Holding {
    fn default() -> Self {
        Self {
            epoch: -1,
            since: -1,
            at: 0,
            own: false,
        }
    }
}

/// A checkpoint as it was read.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) at: Micros,
    pub(super) bound: Micros,
    pub(super) rows: HashSet<usize>,
}

impl Oracle {
    pub(crate) fn started(&mut self, placement: Placement) -> usize {
        self.lives.push(LifeFacts {
            placement: Some(placement),
            ..LifeFacts::default()
        });
        self.lives.len() - 1
    }

    pub(crate) fn named(&mut self, life: usize, name: &str) {
        self.lives[life].name = name.to_owned();
    }

    pub(crate) fn killed(&mut self, life: usize, now: Micros) {
        self.lives[life].killed = true;
        self.died(life, now);
    }

    pub(crate) fn last_kill(&self) -> Option<Micros> {
        let killed = self.lives.iter().filter(|life| life.killed);
        killed.filter_map(|life| life.died).max()
    }

    pub(crate) fn died(&mut self, life: usize, now: Micros) {
        self.lives[life].died.get_or_insert(now);
    }

    pub(crate) fn frozen(&mut self, life: usize, until: Micros) {
        let facts = &mut self.lives[life];
        facts.lapsed = true;
        facts.troubled = facts.troubled.max(until);
    }

    pub(crate) fn lost_transaction(&mut self, life: usize) {
        self.lives[life].broken = true;
    }

    /// A heartbeat arrives.
    pub(crate) fn beat(&mut self, life: usize, now: Micros) {
        self.lives[life].beats.push(now);
    }

    /// The process reads the heartbeats of all.
    pub(crate) fn looked(&mut self, life: usize, now: Micros) {
        self.lives[life].looks.push(now);
    }

    /// The process hears that the heartbeat that it sent then has arrived.
    pub(crate) fn beat_told(&mut self, life: usize, sent: Micros) {
        let lease = self.rules.lease;
        let facts = &mut self.lives[life];
        if facts.beat_sent.is_some_and(|before| sent - before > lease / 2) {
            facts.lapsed = true;
        }
        facts.beat_sent = Some(sent);
    }

    /// The process is told of the stream sets. Whether one of them is news to it, and was published late.
    pub(crate) fn learned(&mut self, life: usize, sets: &[usize], now: Micros) -> bool {
        let mut late = false;
        for set in sets {
            let (start, published) = self.rules.sets[*set];
            let known = self.lives[life].sets.contains_key(set);
            self.lives[life].sets.entry(*set).or_insert(now);
            late |= !known && published > start && now - published < NEWS;
        }
        late
    }

    /// A page holds these records, by their first and last change.
    pub(crate) fn read(&mut self, life: usize, records: &[(usize, usize)], now: Micros) {
        for row in records.iter().flat_map(|(first, last)| *first..=*last) {
            self.lives[life].reads.entry(row).or_insert(now);
        }
    }

    /// Only an owner whose lease runs hands anything to its producer.
    pub(super) fn may_send(
        &mut self,
        life: usize,
        slot: usize,
        epoch: i64,
        row: usize,
        frozen: bool,
        now: Micros,
    ) {
        let facts = &self.lives[life];
        if frozen {
            return;
        }
        let lease = self.rules.lease;
        if facts.beat_sent.is_none_or(|sent| now > sent + lease) {
            let since = facts.beat_sent.map(|sent| now - sent);
            let detail = format!(
                "{} sends {} {since:?} us after its last heartbeat",
                facts.name,
                self.name(row)
            );
            return self.fail("lease", detail);
        }
        let current = self.slots[slot].epoch;
        if current != Some(epoch) {
            let detail = format!(
                "{} sends {} under epoch {epoch}; the slot is at {current:?}, owned by {:?}",
                facts.name,
                self.name(row),
                self.slots[slot].owner
            );
            return self.fail("one-owner", detail);
        }
        if self.slots[slot].owner.is_none() {
            let detail = format!(
                "{} sends {} after it released the slot",
                facts.name,
                self.name(row)
            );
            self.fail("one-owner", detail);
        }
    }

    /// Whoever owns slots goes first: beside it nobody takes any the other way.
    fn check_placement(&mut self, slot: usize, life: usize, now: Micros) {
        if !self.rules.flows || self.lives[life].owns_since.is_some() {
            return;
        }
        let claimer = &self.lives[life];
        let goes_first = |other: &&LifeFacts| {
            other.placement != claimer.placement
                && other.died.is_none()
                && !other.lapsed
                && other.owns_since.is_some_and(|since| now - since > SETTLED)
        };
        if let Some(other) = self.lives.iter().find(goes_first) {
            let detail = format!(
                "{} takes slot {slot}, {:?} beside {}, which owns slots",
                claimer.name, claimer.placement, other.name
            );
            self.fail("placements-apart", detail);
        }
    }

    /// Who owns slots, and since when.
    pub(super) fn count_owned(&mut self, now: Micros) {
        let slots = &self.slots;
        for facts in &mut self.lives {
            let owns = slots
                .iter()
                .any(|slot| slot.owner.as_deref() == Some(&facts.name));
            facts.owns_since = facts.owns_since.or(Some(now)).filter(|_| owns);
        }
    }

    /// A slot is taken from somebody who lives, and whose heartbeat had moved within the lease when the taker looked, before
    /// it sent the claim. What arrives after that look comes too late: its sender was silent for the lease, and has to
    /// raise its epochs first.
    pub(super) fn check_claim(&mut self, slot: usize, life: usize, done: &Done, now: Micros) {
        self.check_placement(slot, life, now);
        let before = done.before.0.as_deref();
        let Some(owner) = before.filter(|name| *name != self.lives[life].name) else {
            return;
        };
        let owner = self.lives.iter().find(|facts| facts.name == owner);
        let Some(owner) = owner.filter(|facts| facts.died.is_none() && !facts.lapsed) else {
            return;
        };
        let looks = self.lives[life].looks.iter().rev();
        let looked = looks.copied().find(|look| *look <= done.step.sent);
        let looked = looked.unwrap_or(now);
        let seen = owner.beats.iter().rev().find(|beat| **beat <= looked);
        if let Some(beat) = seen
            && looked - beat < self.rules.lease
        {
            let detail = format!(
                "{} takes slot {slot} from {}, whose heartbeat had moved {} us before it looked",
                self.lives[life].name,
                owner.name,
                looked - beat
            );
            self.fail("lease", detail);
        }
    }

    /// Whether an owner knew from its checkpoint that the row is done with, and can have seen at any time since what it
    /// is: a checkpoint holds ids.
    pub(super) fn could_tell(&self, life: usize, epoch: i64, row: usize, now: Micros) -> bool {
        let facts = &self.rows[row].0;
        let known = self.lives[life].known.get(&(facts.slot, epoch));
        let readable =
            |at| facts.surely < at && now < facts.vanishes.unwrap_or(Micros::MAX).min(facts.expires);
        self.knew(life, epoch, row) && known.is_some_and(|known| readable(known.at))
    }

    /// Whether the row lay below the bound when its owner took the slot.
    pub(super) fn beneath(&self, life: usize, epoch: i64, row: usize) -> bool {
        let facts = &self.rows[row].0;
        let known = self.lives[life].known.get(&(facts.slot, epoch));
        known.is_some_and(|known| facts.order.0.0 < known.bound)
    }

    /// Whether an owner knew from its checkpoint that the row is done with.
    pub(super) fn knew(&self, life: usize, epoch: i64, row: usize) -> bool {
        let facts = &self.rows[row].0;
        let known = self.lives[life].known.get(&(facts.slot, epoch));
        self.beneath(life, epoch, row) || known.is_some_and(|known| known.rows.contains(&row))
    }
}
