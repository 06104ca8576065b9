//! What is saved: bounds, ids, epochs.

use std::collections::BTreeMap;

use relay::ledger::SETS_SECOND;
use relay::ports::{Checkpoint, Save};

use super::deliveries::Told;
use super::lives::Known;
use super::{Kind, Oracle};
use crate::store::{Change, Done};
use crate::world::{MS, Micros, SECOND, START};

/// From a report to the ledger, generously.
const DIGESTION: Micros = 300 * MS;

/// From the time that a save is due until it is made: looking at owners and claiming come first.
const SAVE_SLACK: Micros = 2500 * MS;

/// From the time that a process is told of a stream set until its bounds show it.
const LEARNING: Micros = 300 * MS;

/// A bound is behind by the horizon and this, at most, when nothing is in flight: skew that is tolerated, a clock that is
/// behind as far, the pace of the oldest cursor, and what a small query budget adds.
const SWEPT_WITHIN: Micros = 25 * SECOND;

#[derive(Debug, Default)]
pub(super) struct SlotFacts {
    pub(super) owner: Option<String>,
    pub(super) epoch: Option<i64>,
    /// Who claimed each epoch, and when.
    claimed: BTreeMap<i64, (usize, Micros)>,
    /// Rows of events.
    pub(super) rows: Vec<usize>,
    bound: Option<Micros>,
    /// What bounds were taken back over: nobody knows any more what of it was delivered.
    pub(super) forgotten: Option<(Micros, Micros)>,
    /// When its first checkpoint was made: from there on it is known what was not read.
    pub(super) pinned: Option<Micros>,
}

impl Oracle {
    /// Whether a bound was taken back over the row.
    pub(super) fn is_forgotten(&self, row: usize) -> bool {
        let facts = &self.rows[row].0;
        let forgotten = self.slots[facts.slot].forgotten;
        forgotten.is_some_and(|(from, until)| (from..until).contains(&facts.order.0.0))
    }

    /// Whether the process took a bound back over the row, because it learned of a stream set that was published too late: its
    /// next save tells. Bounds are behind by the horizon at least.
    pub(super) fn took_back(&self, life: usize, row: usize) -> bool {
        let time = self.rows[row].0.order.0.0;
        let learned = self.lives[life].sets.iter();
        let late = learned.filter(|(set, _)| {
            let (start, published) = self.rules.sets[**set];
            published > start && start <= time
        });
        late.into_iter().any(|(_, at)| time < at - self.rules.horizon)
    }

    /// A process makes a save: everything that it says must be true now.
    pub(crate) fn saving(&mut self, life: usize, slot: usize, epoch: i64, save: &Save, now: Micros) {
        let facts = &mut self.lives[life];
        if facts.saving == 0 {
            facts.round = now;
        }
        facts.saving += 1;
        if self.slots[slot]
            .claimed
            .get(&epoch)
            .is_some_and(|(by, _)| *by != life)
        {
            let detail = format!(
                "{} saves slot {slot} under epoch {epoch}, which is another's",
                self.lives[life].name
            );
            self.fail("one-owner", detail);
        }
        self.check_bound(life, slot, save.bound, now);
        let of_rows = save.add.iter().filter(|(key, _)| key.second != SETS_SECOND);
        for id in of_rows.flat_map(|(_, ids)| ids) {
            let Some(row) = self.by_id.get(id).copied() else {
                self.fail("resolved-ids", format!("slot {slot}: {id:?} is no row"));
                continue;
            };
            let twins =
                matches!(self.rows[row].0.kind, Kind::Event(event) if self.events[event].rows.len() > 1);
            if !self.is_resolved(row) && !twins {
                let detail = format!("slot {slot}: {} counts as resolved", self.name(row));
                self.fail("resolved-ids", detail);
            }
        }
    }

    /// No bound passes an event that is in neither topic nor dead letters.
    fn check_bound(&mut self, life: usize, slot: usize, bound: Micros, now: Micros) {
        let passed = |row: &usize| {
            let (row, _) = &self.rows[*row];
            let learned = self.lives[life].sets.get(&row.set);
            row.order.0.0 < bound
                && row.order.0.0 >= self.rules.first_bound
                && learned.is_some_and(|at| *at + LEARNING < self.lives[life].round)
        };
        let unresolved = self.slots[slot]
            .rows
            .iter()
            .filter(|row| !self.is_resolved(**row));
        // A source duplicate stands for its event as well.
        let last = |row: &&usize| match self.rows[**row].0.kind {
            Kind::Event(event) | Kind::Poison(event) => {
                self.events[event].rows.iter().all(passed) && !self.is_given_up(event, now)
            }
            Kind::Noise => false,
        };
        if let Some(row) = unresolved.filter(|row| passed(row)).find(last).copied() {
            let detail = format!(
                "slot {slot}: the bound {} us passes {}",
                bound - START,
                self.name(row)
            );
            let expired = self.rows[row].0.expires <= now;
            self.fail(
                if expired {
                    "gap-told"
                } else {
                    "bound-passes-nothing"
                },
                detail,
            );
        }
    }

    pub(crate) fn save_told(&mut self, life: usize, _slot: usize, ok: bool, now: Micros) {
        let facts = &mut self.lives[life];
        facts.saving = facts.saving.saturating_sub(1);
        if !ok {
            facts.troubled = facts.troubled.max(now);
        }
    }

    /// A conditional statement was decided.
    pub(crate) fn stepped(&mut self, slot: usize, done: &Done, now: Micros) {
        let life = done.step.life;
        if !done.applied {
            return;
        }
        match &done.step.change {
            Change::Claim { seen, owner } => {
                let epoch = seen.unwrap_or(0) + 1;
                self.check_claim(slot, life, done, now);
                if self.slots[slot].epoch.is_some_and(|current| current >= epoch) {
                    self.fail("epochs-rise", format!("slot {slot}: epoch {epoch} again"));
                }
                self.slots[slot].claimed.insert(epoch, (life, now));
                (self.slots[slot].epoch, self.slots[slot].owner) = (Some(epoch), Some(owner.clone()));
                let own = done.before.0.as_ref() == Some(owner);
                let holding = self.lives[life].held.entry(slot).or_default();
                (holding.epoch, holding.own) = (epoch, own);
                self.count_owned(now);
            }
            Change::Release { .. } => {
                self.check_release(slot, done);
                self.slots[slot].owner = None;
                self.count_owned(now);
            }
            Change::RecordId { .. } => {}
            Change::Save { .. } => {
                if let Some(checkpoint) = &done.checkpoint {
                    self.saved(life, slot, checkpoint, done.step.sent, now);
                }
            }
        }
    }

    /// A checkpoint stands as it is: it holds everything that its owner had heard of when it was sent, and does not go
    /// back.
    fn saved(&mut self, life: usize, slot: usize, checkpoint: &Checkpoint, sent: Micros, now: Micros) {
        if let Some(before) = self.slots[slot].bound.filter(|before| checkpoint.bound < *before) {
            // The one way back: a stream set that was published after its start.
            let late = self
                .rules
                .sets
                .iter()
                .enumerate()
                .any(|(set, (start, published))| {
                    published > start
                        && *start <= checkpoint.bound
                        && self.lives[life].sets.contains_key(&set)
                });
            if !late {
                let detail = format!(
                    "slot {slot}: from {} us to {} us",
                    before - START,
                    checkpoint.bound - START
                );
                self.fail("bound-never-goes-back", detail);
            }
            // The owner may have been further than the last save: as far as the horizon allows.
            let until = before.max(now - self.rules.horizon);
            let forgotten = self.slots[slot]
                .forgotten
                .get_or_insert((checkpoint.bound, until));
            *forgotten = (forgotten.0.min(checkpoint.bound), forgotten.1.max(until));
        }
        self.slots[slot].bound = Some(checkpoint.bound);
        self.slots[slot].pinned.get_or_insert(now);
        let round = self.lives[life].round.min(sent);
        let since = self.lives[life].held.get(&slot).map_or(-1, |held| held.since);
        let missing = self.missing(slot, checkpoint, |send| {
            send.life == life
                && send.since == since
                && matches!(send.told, Told::Delivered(at) if at + DIGESTION < round)
        });
        if let Some(row) = missing {
            let detail = format!(
                "slot {slot}: {} was acknowledged before and is not in the checkpoint",
                self.name(row)
            );
            self.fail("checkpoint-complete", detail);
        }
    }

    /// A slot is given up in order: what was acknowledged is in the checkpoint, and nothing is on its way, unless it was
    /// held up, or lost with a transactional producer.
    fn check_release(&mut self, slot: usize, done: &Done) {
        let (life, sent) = (done.step.life, done.step.sent);
        let held = self.lives[life].held.get(&slot).copied();
        let Some(held) = held.filter(|_| self.rules.flows && !self.lives[life].broken) else {
            return;
        };
        let own = |send: &super::deliveries::Send| send.life == life && send.since == held.since;
        let nothing = Checkpoint::default();
        let checkpoint = done.checkpoint.as_ref().unwrap_or(&nothing);
        let missing = self.missing(slot, checkpoint, |send| {
            own(send) && matches!(send.told, Told::Delivered(at) if at + DIGESTION < sent)
        });
        if let Some(row) = missing {
            let detail = format!(
                "slot {slot}: {} was acknowledged, and is not in the checkpoint that is left behind",
                self.name(row)
            );
            self.fail("checkpoint-complete", detail);
        }
        let flying = self.slots[slot].rows.iter().copied().find(|row| {
            let mut sends = self.rows[*row].1.sends.iter().map(|send| &self.sends[*send]);
            sends.any(|send| own(send) && send.told == Told::Nothing)
        });
        if let Some(row) = flying {
            let detail = format!("slot {slot} is released while {} is in flight", self.name(row));
            self.fail("drained", detail);
        }
    }

    /// After an orderly end every checkpoint knows everything that was delivered, and its bound has moved on. `now` is
    /// when all was delivered.
    pub(crate) fn concluded(&mut self, slot: usize, checkpoint: Option<&Checkpoint>, now: Micros) {
        let nothing = Checkpoint::default();
        let checkpoint = checkpoint.unwrap_or(&nothing);
        let expected = now - self.rules.horizon - SWEPT_WITHIN;
        let stopped = self.rules.gap_stops && self.gaps.contains(&slot);
        if checkpoint.bound < expected && !stopped && !self.rules.pages {
            let detail = format!(
                "slot {slot}: the bound {} us stands still; {} us is expected",
                checkpoint.bound - START,
                expected - START
            );
            self.fail("bound-moves-on", detail);
        }
        // What an owner that did not end in order had delivered is delivered again, or gone.
        let lives = &self.lives;
        let told = |send: &super::deliveries::Send| {
            let owner = &lives[send.life];
            matches!(send.told, Told::Delivered(_)) && !owner.killed && !owner.lapsed
        };
        let row = self.missing(slot, checkpoint, told);
        if let Some(row) = row.filter(|_| !self.rules.readers_restart && !stopped) {
            let detail = format!("slot {slot}: {} is not in the last checkpoint", self.name(row));
            self.fail("checkpoint-complete", detail);
        }
    }

    /// A row that was delivered by a send of this kind, and that the checkpoint does not know.
    fn missing(
        &self,
        slot: usize,
        checkpoint: &Checkpoint,
        of: impl Fn(&super::deliveries::Send) -> bool,
    ) -> Option<usize> {
        let known: std::collections::HashSet<_> = checkpoint.resolved.iter().map(|(_, id)| *id).collect();
        let rows = self.slots[slot].rows.iter().copied();
        // A set that is published late takes bounds back, and what lies above was forgotten once.
        let late = self
            .rules
            .sets
            .iter()
            .filter(|(start, published)| published > start);
        let forgotten = late.map(|(start, _)| *start).min().unwrap_or(Micros::MAX);
        let above = rows.filter(|row| (checkpoint.bound..forgotten).contains(&self.rows[*row].0.order.0.0));
        let mut unknown = above.filter(|row| !known.contains(&self.rows[*row].0.row_id));
        unknown.find(|row| self.rows[*row].1.sends.iter().any(|send| of(&self.sends[*send])))
    }

    /// A new owner reads the checkpoint: what the one before had heard of long ago is in it.
    pub(crate) fn loaded(&mut self, life: usize, slot: usize, checkpoint: Option<&Checkpoint>, now: Micros) {
        if !self.lives[life].held.contains_key(&slot) {
            let detail = format!(
                "{} reads the checkpoint of slot {slot}, which it does not own",
                self.lives[life].name
            );
            self.fail("claim-before-load", detail);
        }
        let holding = self.lives[life].held.entry(slot).or_default();
        if holding.since == holding.epoch {
            // An owner looks at its own checkpoint again.
            return;
        }
        let own = holding.own;
        (holding.since, holding.at) = (holding.epoch, now);
        let epoch = holding.epoch;
        let Some(checkpoint) = checkpoint else {
            return;
        };
        let rows = checkpoint
            .resolved
            .iter()
            .filter_map(|(_, id)| self.by_id.get(id).copied());
        let known = Known {
            at: now,
            bound: checkpoint.bound,
            rows: rows.collect(),
        };
        self.lives[life].known.insert((slot, epoch), known);
        let (lives, claimed) = (&self.lives, &self.slots[slot].claimed);
        let patience = self.rules.interval + SAVE_SLACK;
        let forgotten = self.missing(slot, checkpoint, |send| {
            let owner = &lives[send.life];
            // Whoever has lost the slot saves nothing of it any more.
            let lost = claimed.range(send.since + 1..).next().map_or(now, |(_, (_, at))| *at);
            let until = owner.died.unwrap_or(now).min(lost);
            send.since < epoch
                && !(own && send.life == life)
                && matches!(send.told, Told::Delivered(at) if at + patience < until && owner.troubled + patience < at)
        });
        // In exactly-once the journal tells what the checkpoint does not. And a set that is published late takes bounds back:
        // what lies below the old one is forgotten.
        let late_sets = self.rules.sets.iter().any(|(start, published)| published > start);
        if let Some(row) = forgotten.filter(|_| !late_sets && !self.rules.exactly_once) {
            let detail = format!(
                "slot {slot}: {} was acknowledged long before the takeover",
                self.name(row)
            );
            self.fail("duplicates-bounded", detail);
        }
    }
}
