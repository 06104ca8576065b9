//! The rows of one slot that were written before its log is read (`source.startFrom: Snapshot`). Pure.
//!
//! The table is read in the order of tokens, so what is resolved is told by one of them, and by the ids of the few rows that
//! were resolved beyond it. That is all that a checkpoint keeps: a table of any size is read on from where the owner before
//! had come to.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::RowId;

/// The reserved second under which a checkpoint keeps how far a slot's snapshot is: a token, then ids. There is none once
/// the slot's log is read.
pub const SNAPSHOT_SECOND: i64 = i64::MAX - 2;

/// What a checkpoint says of a slot whose snapshot begins at this token.
pub fn begins_at(token: i64) -> Vec<RowId> {
    vec![RowId(token as u64)]
}

#[derive(Debug)]
pub(super) struct Snapshot {
    /// Every row of a lower token was taken.
    read_to: i64,
    /// And so was every other row of the slot.
    ended: bool,
    /// Rows that were taken and whose events are on their way.
    open: BTreeSet<(i64, RowId)>,
    tokens: HashMap<RowId, i64>,
    /// Rows of resolved events that [`Self::resolved_to`] does not tell of.
    resolved: BTreeSet<(i64, RowId)>,
    /// The same of former owners; their tokens are known once they are read again.
    before: HashSet<RowId>,
    /// As the checkpoint holds it.
    saved: Vec<RowId>,
}

impl Snapshot {
    /// From what a checkpoint says; None if that is nothing.
    pub(super) fn open(saved: &[RowId]) -> Option<Self> {
        let (token, ids) = saved.split_first()?;
        Some(Self {
            read_to: token.0 as i64,
            ended: false,
            open: BTreeSet::new(),
            tokens: HashMap::new(),
            resolved: BTreeSet::new(),
            before: ids.iter().copied().collect(),
            saved: saved.to_vec(),
        })
    }

    /// Resolved by a former owner whose last checkpoint does not say so.
    pub(super) fn resolved_before(&mut self, id: RowId) {
        self.before.insert(id);
    }

    /// Where reading goes on.
    pub(super) fn read_to(&self) -> Option<i64> {
        (!self.ended).then_some(self.read_to)
    }

    /// Takes a row. False if somebody has done so before.
    pub(super) fn find(&mut self, id: RowId, token: i64) -> bool {
        if self.before.remove(&id) {
            self.resolved.insert((token, id));
            return false;
        }
        let is_new = !self.tokens.contains_key(&id) && !self.resolved.contains(&(token, id));
        if is_new {
            self.open.insert((token, id));
            self.tokens.insert(id, token);
        }
        is_new
    }

    /// Every row of a lower token was taken; with None, every row of the slot.
    pub(super) fn read(&mut self, below: Option<i64>) {
        self.ended = below.is_none();
        self.read_to = self.read_to.max(below.unwrap_or(i64::MAX));
        self.prune();
    }

    pub(super) fn resolve(&mut self, id: RowId) {
        if let Some(token) = self.tokens.remove(&id) {
            self.open.remove(&(token, id));
            self.resolved.insert((token, id));
            self.prune();
        }
    }

    /// A taken row has to be read again. False if it is none.
    pub(super) fn forget(&mut self, id: RowId) -> bool {
        let Some(token) = self.tokens.remove(&id) else {
            return false;
        };
        self.open.remove(&(token, id));
        self.read_to = self.read_to.min(token);
        self.ended = false;
        true
    }

    /// Whether the event of a row is on its way; None if the row is not known.
    pub(super) fn is_open(&self, id: RowId) -> Option<bool> {
        if self.tokens.contains_key(&id) {
            return Some(true);
        }
        let resolved = || self.resolved.iter().any(|(_, known)| *known == id);
        (self.before.contains(&id) || resolved()).then_some(false)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// Nothing is left of it.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.open.is_empty()
    }

    /// Of every lower token all rows are resolved.
    fn resolved_to(&self) -> i64 {
        let open = self.open.first().map_or(i64::MAX, |(token, _)| *token);
        self.read_to.min(open)
    }

    fn prune(&mut self) {
        let lowest = (self.resolved_to(), RowId(0));
        self.resolved = self.resolved.split_off(&lowest);
    }

    /// What a save has to say, if the checkpoint does not say it.
    pub(super) fn unsaved(&self) -> Option<Vec<RowId>> {
        let mut ids: Vec<_> = self.resolved.iter().map(|(_, id)| *id).collect();
        ids.extend(&self.before);
        ids.sort_unstable();
        let mut text = begins_at(self.resolved_to());
        text.extend(ids);
        (text != self.saved).then_some(text)
    }

    pub(super) fn saved(&mut self, ids: &[RowId]) {
        self.saved = ids.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<RowId> {
        ids.iter().map(|id| RowId(*id)).collect()
    }

    fn begun() -> Snapshot {
        Snapshot::open(&begins_at(10)).unwrap()
    }

    #[test]
    fn the_token_passes_no_row_that_is_not_resolved() {
        let mut snapshot = begun();
        for (id, token) in [(1, 10), (2, 20), (3, 30)] {
            assert!(snapshot.find(RowId(id), token));
        }
        snapshot.read(Some(30));
        snapshot.resolve(RowId(2));
        assert_eq!(snapshot.unsaved(), Some(ids(&[10, 2])));
        snapshot.resolve(RowId(1));
        assert_eq!(snapshot.unsaved(), Some(ids(&[30])), "the token tells of both");
        snapshot.read(None);
        assert!(!snapshot.is_done());
        snapshot.resolve(RowId(3));
        assert!(snapshot.is_done());
        assert_eq!(snapshot.read_to(), None);
    }

    #[test]
    fn who_opens_it_again_takes_what_is_not_resolved_and_nothing_else() {
        let mut snapshot = begun();
        for (id, token) in [(1, 10), (2, 20), (3, 20)] {
            snapshot.find(RowId(id), token);
        }
        snapshot.read(Some(20));
        snapshot.resolve(RowId(1));
        snapshot.resolve(RowId(3));
        let saved = snapshot.unsaved().unwrap();
        snapshot.saved(&saved);
        assert_eq!((saved.clone(), snapshot.unsaved()), (ids(&[20, 3]), None));
        let mut next = Snapshot::open(&saved).unwrap();
        next.resolved_before(RowId(4));
        assert_eq!(next.read_to(), Some(20));
        assert_eq!(next.is_open(RowId(3)), Some(false));
        let found = [2, 3, 4].map(|id| next.find(RowId(id), 20));
        assert_eq!(found, [true, false, false]);
        assert!(!next.find(RowId(3), 20), "also when it is read once more");
    }

    #[test]
    fn a_row_that_is_given_back_is_read_again() {
        let mut snapshot = begun();
        snapshot.find(RowId(1), 10);
        snapshot.find(RowId(2), 20);
        snapshot.read(None);
        snapshot.resolve(RowId(1));
        assert!(snapshot.forget(RowId(2)) && !snapshot.forget(RowId(2)));
        assert_eq!((snapshot.read_to(), snapshot.is_done()), (Some(20), false));
        assert!(snapshot.find(RowId(2), 20));
    }
}
