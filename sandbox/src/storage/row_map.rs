//! The rows of a partition in clustering order: a vector while they are few, a tree when they are many.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::mutation::ClusteringKey;
use super::row::StoredRow;

/// A tree's first leaf has room for 11 entries; below that a vector is smaller and no slower.
const MAX_IN_VECTOR: usize = 8;

#[derive(Debug)]
pub enum RowMap {
    Few(Vec<(ClusteringKey, StoredRow)>),
    Many(BTreeMap<ClusteringKey, StoredRow>),
}

/// A half-open range of ordered clustering bytes; `end` None: to the last row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ByteRange {
    pub start: Vec<u8>,
    pub end: Option<Vec<u8>>,
}

type ByteBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl RowMap {
    pub fn len(&self) -> usize {
        match self {
            RowMap::Few(rows) => rows.len(),
            RowMap::Many(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, key: &ClusteringKey) -> Option<&StoredRow> {
        match self {
            RowMap::Few(rows) => rows
                .binary_search_by(|(have, _)| have.cmp(key))
                .ok()
                .map(|found| &rows[found].1),
            RowMap::Many(rows) => rows.get(key),
        }
    }

    /// Replaces a row (or none) by what `change` makes of it.
    pub fn update(
        &mut self,
        key: &ClusteringKey,
        change: impl FnOnce(Option<StoredRow>) -> Option<StoredRow>,
    ) {
        match self {
            RowMap::Few(rows) => match rows.binary_search_by(|(have, _)| have.cmp(key)) {
                Ok(found) => {
                    let (key, row) = rows.remove(found);
                    if let Some(row) = change(Some(row)) {
                        rows.insert(found, (key, row));
                    }
                }
                Err(free) => {
                    if let Some(row) = change(None) {
                        rows.insert(free, (key.clone(), row));
                    }
                }
            },
            RowMap::Many(rows) => match rows.entry(key.clone()) {
                std::collections::btree_map::Entry::Vacant(free) => {
                    if let Some(row) = change(None) {
                        free.insert(row);
                    }
                }
                std::collections::btree_map::Entry::Occupied(found) => {
                    let (key, row) = found.remove_entry();
                    if let Some(row) = change(Some(row)) {
                        rows.insert(key, row);
                    }
                }
            },
        }
        if let RowMap::Few(rows) = self
            && rows.len() > MAX_IN_VECTOR
        {
            *self = RowMap::Many(std::mem::take(rows).into_iter().collect());
        }
    }

    /// Passes every row of a range through `change`, which keeps it or not.
    pub fn update_range(
        &mut self,
        range: &ByteRange,
        mut change: impl FnMut(StoredRow) -> Option<StoredRow>,
    ) {
        match self {
            RowMap::Few(rows) => {
                *rows = std::mem::take(rows)
                    .into_iter()
                    .filter_map(|(key, row)| {
                        let row = if range.contains(key.ordered()) {
                            change(row)
                        } else {
                            Some(row)
                        };
                        Some((key, row?))
                    })
                    .collect();
            }
            RowMap::Many(rows) => {
                if *range == ByteRange::default() {
                    let all = std::mem::take(rows).into_iter();
                    *rows = all.filter_map(|(key, row)| Some((key, change(row)?))).collect();
                    return;
                }
                let Some(bounds) = range.bounds() else { return };
                let keys: Vec<_> = rows
                    .range::<[u8], _>(bounds)
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in keys {
                    if let Some(row) = rows.remove(&key).and_then(&mut change) {
                        rows.insert(key, row);
                    }
                }
            }
        }
    }

    pub fn range(
        &self,
        range: &ByteRange,
    ) -> Box<dyn DoubleEndedIterator<Item = (&ClusteringKey, &StoredRow)> + '_> {
        match self {
            RowMap::Few(rows) => {
                let from = rows.partition_point(|(key, _)| key.ordered() < &range.start[..]);
                let to = range.end.as_ref().map_or(rows.len(), |end| {
                    rows.partition_point(|(key, _)| key.ordered() < &end[..])
                });
                Box::new(rows[from..to.max(from)].iter().map(|(key, row)| (key, row)))
            }
            RowMap::Many(rows) => match range.bounds() {
                Some(bounds) => Box::new(rows.range::<[u8], _>(bounds)),
                None => Box::new(std::iter::empty()),
            },
        }
    }
}

impl Default for RowMap {
    fn default() -> Self {
        RowMap::Few(Vec::new())
    }
}

impl ByteRange {
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    pub fn covers(&self, other: &ByteRange) -> bool {
        let end = match (&self.end, &other.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine >= theirs,
        };
        end && self.start <= other.start
    }

    /// True for a range that no key can be in.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    #[must_use]
    pub fn intersect(mut self, other: &ByteRange) -> Self {
        if other.start > self.start {
            self.start.clone_from(&other.start);
        }
        if let Some(end) = &other.end
            && self.end.as_ref().is_none_or(|mine| end < mine)
        {
            self.end = Some(end.clone());
        }
        self
    }

    /// None if no key is in it; a BTreeMap panics on such bounds.
    fn bounds(&self) -> Option<ByteBounds<'_>> {
        if self.is_empty() {
            return None;
        }
        let end = self
            .end
            .as_ref()
            .map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        Some((Bound::Included(&self.start[..]), end))
    }
}

/// The first bytes behind all that begin with `prefix`; None if there are none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}
