//! Which of two writes wins.

use bytes::Bytes;

use super::mutation::{Cell, Expiry, Liveness, Timestamp, Tombstone};
use super::ordered;
use crate::types::CqlType;

impl Expiry {
    pub fn has_passed(self, now_seconds: i64) -> bool {
        self.at <= now_seconds
    }
}

impl Cell {
    pub fn is_live(&self, now_seconds: i64) -> bool {
        self.value.is_some() && !self.expiry.is_some_and(|expiry| expiry.has_passed(now_seconds))
    }

    /// True if this cell replaces `other`. ScyllaDB's `compare_atomic_cell_for_merge`: the later timestamp; a
    /// deletion over a value; an expiring value over a lasting one; the later expiry; the shorter TTL; the
    /// larger value.
    pub fn wins_over(&self, other: &Cell) -> bool {
        let by_timestamp = self.timestamp.cmp(&other.timestamp);
        by_timestamp
            .then_with(|| match (&self.value, &other.value) {
                (Some(mine), Some(theirs)) => {
                    compare_expiry(self.expiry, other.expiry).then_with(|| mine.cmp(theirs))
                }
                (mine, theirs) => mine.is_none().cmp(&theirs.is_none()),
            })
            .is_gt()
    }

    /// The same cell on memory of its own, so that it does not pin the request it came in.
    pub fn detached(&self) -> Self {
        Self {
            timestamp: self.timestamp,
            value: self.value.as_deref().map(Bytes::copy_from_slice),
            expiry: self.expiry,
        }
    }
}

impl Liveness {
    pub fn is_live(&self, now_seconds: i64) -> bool {
        !self.expiry.is_some_and(|expiry| expiry.has_passed(now_seconds))
    }

    pub fn wins_over(&self, other: &Liveness) -> bool {
        let by_timestamp = self.timestamp.cmp(&other.timestamp);
        by_timestamp
            .then_with(|| compare_expiry(self.expiry, other.expiry))
            .is_gt()
    }
}

/// The newer of two deletions.
pub fn newer_tombstone(a: Option<Tombstone>, b: Option<Tombstone>) -> Option<Tombstone> {
    match (a, b) {
        (Some(a), Some(b)) => Some(
            if (b.timestamp, b.deletion_time) > (a.timestamp, a.deletion_time) {
                b
            } else {
                a
            },
        ),
        (a, b) => a.or(b),
    }
}

/// A non-frozen collection or UDT: elements in the order of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MultiCell {
    pub tombstone: Option<Tombstone>,
    pub elements: Vec<(Bytes, Cell)>,
}

impl MultiCell {
    /// Merges elements that no deletion up to `floor` covers.
    pub fn merge(
        &mut self,
        ty: &CqlType,
        tombstone: Option<Tombstone>,
        elements: &[(Bytes, Cell)],
        floor: Timestamp,
    ) {
        let before = self.tombstone;
        self.tombstone = newer_tombstone(before, tombstone.filter(|new| new.timestamp > floor));
        let floor = self
            .tombstone
            .map_or(floor, |deleted| deleted.timestamp.max(floor));
        if self.tombstone != before {
            self.elements.retain(|(_, cell)| cell.timestamp > floor);
        }
        let path_type = path_type(ty);
        for (path, cell) in elements.iter().filter(|(_, cell)| cell.timestamp > floor) {
            match self
                .elements
                .binary_search_by(|(have, _)| ordered::compare(&path_type, have, path))
            {
                Ok(found) if cell.wins_over(&self.elements[found].1) => {
                    self.elements[found].1 = cell.detached();
                }
                Ok(_) => {}
                Err(free) => self
                    .elements
                    .insert(free, (Bytes::copy_from_slice(path), cell.detached())),
            }
        }
    }

    /// Drops elements that a deletion at `timestamp` covers.
    pub fn shadow(&mut self, timestamp: Timestamp) {
        self.elements.retain(|(_, cell)| cell.timestamp > timestamp);
        self.tombstone = self.tombstone.filter(|deleted| deleted.timestamp > timestamp);
    }

    pub fn live(&self, now_seconds: i64) -> impl Iterator<Item = (&Bytes, &Cell, &Bytes)> {
        self.elements.iter().filter_map(move |(path, cell)| {
            let value = cell.value.as_ref().filter(|_| cell.is_live(now_seconds))?;
            Some((path, cell, value))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.tombstone.is_none() && self.elements.is_empty()
    }
}

/// The type of an element's path.
pub fn path_type(ty: &CqlType) -> CqlType {
    match ty {
        CqlType::Set { element, .. } => CqlType::clone(element),
        CqlType::Map { key, .. } => CqlType::clone(key),
        CqlType::List { .. } => CqlType::Timeuuid,
        // UDT: the field's index.
        _ => CqlType::Smallint,
    }
}

fn compare_expiry(mine: Option<Expiry>, theirs: Option<Expiry>) -> std::cmp::Ordering {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => mine.at.cmp(&theirs.at).then(theirs.ttl.cmp(&mine.ttl)),
        (mine, theirs) => mine.is_some().cmp(&theirs.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(timestamp: i64, value: Option<&'static str>, expiry: Option<(i32, i64)>) -> Cell {
        Cell {
            timestamp,
            value: value.map(|text| Bytes::from_static(text.as_bytes())),
            expiry: expiry.map(|(ttl, at)| Expiry { ttl, at }),
        }
    }

    #[test]
    fn the_winner_of_two_writes() {
        for (winner, loser, why) in [
            (
                cell(2, Some("a"), None),
                cell(1, Some("b"), None),
                "later timestamp",
            ),
            (cell(1, None, None), cell(1, Some("b"), None), "deletion"),
            (
                cell(1, Some("a"), Some((9, 99))),
                cell(1, Some("b"), None),
                "expiring",
            ),
            (
                cell(1, Some("a"), Some((9, 99))),
                cell(1, Some("b"), Some((9, 98))),
                "later expiry",
            ),
            (
                cell(1, Some("a"), Some((5, 99))),
                cell(1, Some("b"), Some((9, 99))),
                "shorter TTL",
            ),
            (cell(1, Some("b"), None), cell(1, Some("a"), None), "larger value"),
        ] {
            assert!(winner.wins_over(&loser), "{why}");
            assert!(!loser.wins_over(&winner), "{why}");
            assert!(!winner.wins_over(&winner.clone()), "{why}");
        }
    }

    /// `SET m = {}`, then `m + {1: 2}` of the same time, as a batch merges them; then an element from before.
    #[test]
    fn a_replaced_collection_stays_replaced() {
        let int = || std::sync::Arc::new(CqlType::Int);
        let ty = CqlType::Map {
            key: int(),
            value: int(),
            frozen: false,
        };
        let deleted = Tombstone {
            timestamp: 9,
            deletion_time: 0,
        };
        let element = |key: &'static str, timestamp| {
            (
                Bytes::from_static(key.as_bytes()),
                cell(timestamp, Some("x"), None),
            )
        };
        let mut merged = MultiCell::default();
        merged.merge(&ty, Some(deleted), &[], Timestamp::MIN);
        merged.merge(&ty, None, &[element("1234", 10)], Timestamp::MIN);
        merged.merge(&ty, None, &[element("5678", 8)], Timestamp::MIN);
        assert_eq!(merged.tombstone, Some(deleted));
        assert_eq!(merged.elements, [element("1234", 10)]);
    }
}
