//! The outbox rows of one slot that are still to be deleted (`source.cleanup: Delete`), and those that reconciliation has
//! found. Pure.
//!
//! A row is *kept* in mind from the moment its event is taken until the row is deleted. It may be deleted once its event
//! is resolved and a checkpoint says so: whoever takes the slot after a crash in between then knows that the event is done
//! with. Kept rows hold the slot's bound, so what is still in the table and was written before the bound was never
//! resolved. That is what reconciliation rests on.
//!
//! Which rows of resolved events may be left after a crash, a checkpoint tells by a time: no older one is. Rows of resolved
//! events at or after it are *suspects*. The log is read again from the bound on anyway, and with it come their keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::model::{Micros, RowId, SECOND};

use super::second_of;

/// An outbox row's primary key, as [`crate::ports::LogRow::key`] has it.
pub type RowKey = Arc<[u8]>;

/// The reserved second under which a checkpoint keeps what [`Tidy`] says.
pub const CLEANUP_SECOND: i64 = i64::MAX - 1;

/// What a checkpoint says of the deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tidy {
    /// Rows written from then on are deleted; what was written before stays in the table, delivered or not.
    pub since: Micros,
    /// No row of a resolved event that was written in `[since, left_from)` is left.
    pub left_from: Micros,
}

impl Tidy {
    /// As the ids of [`CLEANUP_SECOND`], in this order.
    pub(super) fn ids(self) -> Vec<RowId> {
        vec![RowId(self.since as u64), RowId(self.left_from as u64)]
    }

    /// None if these are not the ids of one.
    pub(super) fn of(ids: &[RowId]) -> Option<Self> {
        match ids {
            [since, left_from] => Some(Self {
                since: since.0 as Micros,
                left_from: left_from.0 as Micros,
            }),
            _ => None,
        }
    }
}

/// A row that may be deleted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub id: RowId,
    /// When it was written.
    pub time: Micros,
    pub key: RowKey,
}

#[derive(Debug)]
pub(super) struct Remains {
    since: Micros,
    rows: HashMap<RowId, Kept>,
    by_time: BTreeSet<(Micros, RowId)>,
    /// Kept rows whose events are resolved.
    resolved: usize,
    /// May be deleted, in the order in which that became so.
    due: VecDeque<RowId>,
    /// Of a former owner, by second.
    suspects: BTreeMap<i64, HashSet<RowId>>,
    /// Rows that reconciliation or polling has found in the table, until they are deleted. They do not hold the bound.
    found: HashMap<RowId, Found>,
    /// Those of them whose events are resolved.
    found_resolved: usize,
    /// Deleted since a page was asked for, on which they may still be; None while no page is read.
    gone: Option<HashSet<RowId>>,
    /// As the checkpoint holds it.
    saved: Option<Tidy>,
}

#[derive(Debug)]
struct Kept {
    time: Micros,
    key: RowKey,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its event is on its way.
    Taken,
    /// Its event is resolved, and no checkpoint says so yet.
    Resolved,
    /// It may be deleted.
    Due,
}

#[derive(Debug)]
struct Found {
    time: Micros,
    key: RowKey,
    resolved: bool,
}

impl Remains {
    /// `saved` is what the checkpoint says; without it rows are deleted from `bound` on. Among `resolved`, what the
    /// checkpoint holds, may be rows that are left.
    pub(super) fn open(
        saved: Option<Tidy>,
        bound: Micros,
        resolved: impl IntoIterator<Item = (i64, RowId)>,
    ) -> Self {
        let left_from = saved.map_or(bound, |tidy| tidy.left_from);
        let mut remains = Self {
            since: saved.map_or(bound, |tidy| tidy.since),
            rows: HashMap::new(),
            by_time: BTreeSet::new(),
            resolved: 0,
            due: VecDeque::new(),
            suspects: BTreeMap::new(),
            found: HashMap::new(),
            found_resolved: 0,
            gone: None,
            saved,
        };
        let left = second_of(left_from);
        remains.suspect(resolved.into_iter().filter(|(second, _)| *second >= left));
        remains
    }

    /// Resolved by a former owner, who may not have deleted their rows.
    pub(super) fn suspect(&mut self, ids: impl IntoIterator<Item = (i64, RowId)>) {
        for (second, id) in ids {
            self.suspects.entry(second).or_default().insert(id);
        }
    }

    pub(super) fn since(&self) -> Micros {
        self.since
    }

    /// The event of this row was taken.
    pub(super) fn keep(&mut self, id: RowId, time: Micros, key: &RowKey) {
        let kept = Kept {
            time,
            key: Arc::clone(key),
            stage: Stage::Taken,
        };
        if self.rows.insert(id, kept).is_none() {
            self.by_time.insert((time, id));
        }
    }

    /// A row whose event was resolved by a former owner was read again; `is_saved` is whether the checkpoint says so.
    pub(super) fn seen_again(&mut self, id: RowId, time: Micros, key: &RowKey, is_saved: bool) {
        let second = second_of(time);
        let Some(suspects) = self.suspects.get_mut(&second) else {
            return;
        };
        if !suspects.remove(&id) {
            return;
        }
        if suspects.is_empty() {
            self.suspects.remove(&second);
        }
        self.keep(id, time, key);
        self.resolve(id);
        if is_saved {
            self.saved(&[id]);
        }
    }

    /// The event of a kept or found row is resolved.
    pub(super) fn resolve(&mut self, id: RowId) {
        if let Some(kept) = self.rows.get_mut(&id) {
            if kept.stage == Stage::Taken {
                kept.stage = Stage::Resolved;
                self.resolved += 1;
            }
        } else if let Some(found) = self.found.get_mut(&id).filter(|found| !found.resolved) {
            // No checkpoint will tell of it: the row itself does, until it is gone.
            found.resolved = true;
            self.found_resolved += 1;
            self.due.push_back(id);
        }
    }

    /// The event went back to New, and will be taken again; a found row will be found again.
    pub(super) fn forget(&mut self, id: RowId) {
        self.remove(id);
        if self.found.remove(&id).is_some_and(|found| found.resolved) {
            self.found_resolved -= 1;
        }
    }

    /// A checkpoint says that these are resolved.
    pub(super) fn saved(&mut self, ids: &[RowId]) {
        for id in ids {
            if let Some(kept) = self.rows.get_mut(id).filter(|kept| kept.stage == Stage::Resolved) {
                kept.stage = Stage::Due;
                self.due.push_back(*id);
            }
        }
    }

    pub(super) fn next_due(&mut self) -> Option<Due> {
        loop {
            let id = self.due.pop_front()?;
            let row = self.rows.get(&id).map(|kept| (kept.time, &kept.key));
            let row = row.or_else(|| self.found.get(&id).map(|found| (found.time, &found.key)));
            if let Some((time, key)) = row {
                let key = Arc::clone(key);
                return Some(Due { id, time, key });
            }
        }
    }

    /// What [`Self::next_due`] gave was not deleted: it is due again, before the others.
    pub(super) fn not_deleted(&mut self, id: RowId) {
        if self.rows.contains_key(&id) || self.found.contains_key(&id) {
            self.due.push_front(id);
        }
    }

    /// Whoever deleted has ended: what it was given and did not answer for is due again.
    pub(super) fn begin_anew(&mut self) {
        let kept = self.by_time.iter().map(|(_, id)| *id);
        let due = kept.filter(|id| self.rows.get(id).is_some_and(|kept| kept.stage == Stage::Due));
        let found = self
            .found
            .iter()
            .filter(|(_, found)| found.resolved)
            .map(|(id, _)| *id);
        self.due = due.chain(found).collect();
    }

    pub(super) fn deleted(&mut self, id: RowId) {
        self.forget(id);
        if let Some(gone) = &mut self.gone {
            gone.insert(id);
        }
    }

    pub(super) fn page_begins(&mut self) {
        self.gone = Some(HashSet::new());
    }

    pub(super) fn page_ends(&mut self) {
        self.gone = None;
    }

    fn remove(&mut self, id: RowId) {
        if let Some(kept) = self.rows.remove(&id) {
            self.by_time.remove(&(kept.time, id));
            self.resolved -= usize::from(kept.stage != Stage::Taken);
        }
    }

    /// Whether a row was found and is not gone yet, or was not when its page was asked for.
    pub(super) fn is_known(&self, id: RowId) -> bool {
        self.found.contains_key(&id) || self.gone.as_ref().is_some_and(|gone| gone.contains(&id))
    }

    /// A row was found in the table. False if it was before and is not gone yet, or was not when its page was asked for.
    pub(super) fn find(&mut self, id: RowId, time: Micros, key: &RowKey) -> bool {
        if self.is_known(id) {
            return false;
        }
        let found = Found {
            time,
            key: Arc::clone(key),
            resolved: false,
        };
        self.found.insert(id, found);
        true
    }

    /// Whether the event of a found row is on its way; None if the row is not one.
    pub(super) fn is_found(&self, id: RowId) -> Option<bool> {
        self.found.get(&id).map(|found| !found.resolved)
    }

    /// Found rows whose events are on their way.
    pub(super) fn found_in_flight(&self) -> usize {
        self.found.len() - self.found_resolved
    }

    /// When the oldest found row was written; among those whose events are on their way if only these count.
    pub(super) fn oldest_found(&self, in_flight: bool) -> Option<Micros> {
        let found = self.found.values().filter(|found| !(in_flight && found.resolved));
        found.map(|found| found.time).min()
    }

    /// Rows of resolved events that are not deleted yet.
    pub(super) fn undeleted(&self) -> usize {
        self.resolved + self.found_resolved
    }

    /// The oldest kept row.
    pub(super) fn oldest(&self) -> Option<Micros> {
        self.by_time.first().map(|(time, _)| *time)
    }

    /// Everything below is resolved, and its rows are gone.
    pub(super) fn passed(&mut self, bound: Micros) {
        let second = second_of(bound);
        self.suspects = self.suspects.split_off(&second);
    }

    fn tidy(&self) -> Tidy {
        let suspects = self.suspects.keys().next().map(|second| second * SECOND);
        let left = self.oldest().into_iter().chain(suspects).min();
        Tidy {
            since: self.since,
            left_from: left.unwrap_or(Micros::MAX),
        }
    }

    /// What a save has to say, if the checkpoint does not say it.
    pub(super) fn unsaved(&self) -> Option<Tidy> {
        Some(self.tidy()).filter(|tidy| self.saved != Some(*tidy))
    }

    pub(super) fn saved_tidy(&mut self, tidy: Option<Tidy>) {
        self.saved = tidy;
    }
}

#[cfg(test)]
mod tests;
