//! Checkpoints on paper: a base (format, identity, bound, checksum) and append-only segments of resolved ids. Pure.

use crate::journal::Mark;
use crate::ledger::{CLEANUP_SECOND, Delta, SETS_SECOND, SNAPSHOT_SECOND};
use crate::model::{Micros, RowId, SlotId};
use crate::ports::{Checkpoint, Save, SegmentKey};

/// The layout that this version writes, and the newest that it reads.
pub const FORMAT: i32 = 2;

/// The layout without a mark.
const WITHOUT_MARK: i32 = 1;

/// Ids per save: 2 MiB, of which lightweight transactions write several copies, far from ScyllaDB's limit of 16 MiB for
/// one mutation. What is beyond waits for the next save.
const SAVE_IDS_MAX: usize = 32 * SEGMENT_IDS_MAX;

/// Ids per segment row: 64 KiB of blob, small beside ScyllaDB's advice of at most 1 MiB a cell.
const SEGMENT_IDS_MAX: usize = 8192;

/// As much of `delta` as one save may hold, from the oldest second on. What it leaves out stands in the journal behind
/// the mark that is `saved`, so that one stays.
pub fn limited(mut delta: Delta, saved: Mark) -> Delta {
    let mut left = SAVE_IDS_MAX;
    let ids: usize = delta.resolved.iter().map(|(_, ids)| ids.len()).sum();
    if ids > left {
        delta.mark = saved;
    }
    for (_, ids) in &mut delta.resolved {
        ids.truncate(left);
        left -= ids.len();
    }
    delta
        .resolved
        .retain(|(second, ids)| !ids.is_empty() || [CLEANUP_SECOND, SNAPSHOT_SECOND].contains(second));
    delta
}

impl Checkpoint {
    /// Whether rows of the table are still to be delivered before the log.
    pub fn in_snapshot(&self) -> bool {
        self.segments.iter().any(|key| key.second == SNAPSHOT_SECOND)
    }
}

/// Follows one slot's checkpoint: which segments exist, and the next revision.
#[derive(Debug, Clone, Default)]
pub struct Book {
    revision: i64,
    /// The highest revision that a save was made for. One whose answer was lost may yet take place, so no other save
    /// bears its number: the revision that is found tells which of them did.
    tried: i64,
    segments: Vec<SegmentKey>,
}

impl Book {
    pub fn open(checkpoint: &Checkpoint) -> Self {
        Self {
            revision: checkpoint.revision,
            tried: checkpoint.revision,
            segments: checkpoint.segments.clone(),
        }
    }

    /// Goes on from `checkpoint`, which an earlier save of this book wrote.
    pub fn reopen(&mut self, checkpoint: &Checkpoint) {
        let tried = self.tried.max(checkpoint.revision);
        *self = Self {
            tried,
            ..Self::open(checkpoint)
        };
    }

    /// The save that records `delta`. Call [`Self::saved`] once it is durable.
    pub fn save(&mut self, delta: &Delta) -> Save {
        self.tried += 1;
        let revision = self.tried;
        let mut add = Vec::new();
        for (second, ids) in &delta.resolved {
            for (part, chunk) in ids.chunks(SEGMENT_IDS_MAX).enumerate() {
                // A revision may need several rows for one second; the key leaves room for them.
                let key = SegmentKey {
                    second: *second,
                    revision: revision * PARTS_PER_REVISION + part as i64,
                };
                add.push((key, chunk.to_vec()));
            }
        }
        let replaced = |reserved: i64| delta.resolved.iter().any(|(second, _)| *second == reserved);
        let reserved = [SETS_SECOND, CLEANUP_SECOND, SNAPSHOT_SECOND];
        let replaced = reserved.map(|second| replaced(second).then_some(second));
        let obsolete =
            |key: &&SegmentKey| key.second < delta.obsolete_below || replaced.contains(&Some(key.second));
        let remove = self.segments.iter().filter(obsolete).copied().collect();
        Save {
            bound: delta.bound,
            mark: delta.mark,
            follows: self.revision,
            revision,
            add,
            remove,
        }
    }

    pub fn saved(&mut self, save: &Save) {
        self.revision = save.revision;
        self.segments.retain(|key| !save.remove.contains(key));
        self.segments.extend(save.add.iter().map(|(key, _)| *key));
    }
}

/// Segment rows that one revision may write for one second: 8 million ids.
const PARTS_PER_REVISION: i64 = 1024;

/// A base row without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub format: i32,
    pub bound: Micros,
    pub revision: i64,
    pub mark: Mark,
}

/// Guards a base row against corruption and against being another slot's or identity's.
pub fn base_checksum(identity: &str, slot: SlotId, base: &Base) -> i64 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(identity.as_bytes());
    hash.update(&[0xff, slot.index() as u8]);
    hash.update(&base.format.to_be_bytes());
    hash.update(&base.bound.to_be_bytes());
    hash.update(&base.revision.to_be_bytes());
    if base.format > WITHOUT_MARK {
        hash.update(&base.mark.offset.to_be_bytes());
        hash.update(&base.mark.sequence.to_be_bytes());
    }
    i64::from(hash.finalize())
}

/// Ids, eight bytes each, big-endian, then the checksum of where they belong and of themselves.
pub fn encode_segment(identity: &str, slot: SlotId, key: SegmentKey, ids: &[RowId]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(ids.len() * 8 + 4);
    ids.iter()
        .for_each(|id| blob.extend_from_slice(&id.0.to_be_bytes()));
    let checksum = segment_checksum(identity, slot, key, &blob);
    blob.extend_from_slice(&checksum.to_be_bytes());
    blob
}

/// None if the blob is not what [`encode_segment`] wrote for this place.
pub fn decode_segment(identity: &str, slot: SlotId, key: SegmentKey, blob: &[u8]) -> Option<Vec<RowId>> {
    let (ids, checksum) = blob.split_last_chunk::<4>()?;
    if u32::from_be_bytes(*checksum) != segment_checksum(identity, slot, key, ids) {
        return None;
    }
    let (ids, rest) = ids.as_chunks::<8>();
    rest.is_empty()
        .then(|| ids.iter().map(|id| RowId(u64::from_be_bytes(*id))).collect())
}

fn segment_checksum(identity: &str, slot: SlotId, key: SegmentKey, ids: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(identity.as_bytes());
    hash.update(&[0xff, slot.index() as u8]);
    hash.update(&key.second.to_be_bytes());
    hash.update(&key.revision.to_be_bytes());
    hash.update(ids);
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotId {
        SlotId::new(5).unwrap()
    }

    #[test]
    fn a_segment_comes_back_only_in_its_own_place() {
        let key = SegmentKey {
            second: 7,
            revision: 2,
        };
        let ids = [RowId(1), RowId(u64::MAX)];
        let blob = encode_segment("shop.orders", slot(), key, &ids);
        assert_eq!(
            decode_segment("shop.orders", slot(), key, &blob),
            Some(ids.to_vec())
        );
        assert_eq!(decode_segment("shop.other", slot(), key, &blob), None);
        assert_eq!(
            decode_segment("shop.orders", SlotId::new(6).unwrap(), key, &blob),
            None
        );
        assert_eq!(
            decode_segment("shop.orders", slot(), SegmentKey { second: 8, ..key }, &blob),
            None
        );
        for i in 0..blob.len() {
            let mut broken = blob.clone();
            broken[i] ^= 1;
            assert_eq!(
                decode_segment("shop.orders", slot(), key, &broken),
                None,
                "byte {i}"
            );
            assert_eq!(
                decode_segment("shop.orders", slot(), key, &blob[..i]),
                None,
                "cut at {i}"
            );
        }
    }

    #[test]
    fn the_book_adds_what_is_new_and_removes_what_the_bound_has_passed() {
        let mut book = Book::default();
        let delta = |bound, seconds: &[i64]| Delta {
            bound,
            resolved: seconds.iter().map(|s| (*s, vec![RowId(*s as u64)])).collect(),
            obsolete_below: bound / 1_000_000,
            mark: Mark::default(),
        };
        let first = book.save(&delta(1_000_000, &[1, 2]));
        assert_eq!((first.revision, first.add.len(), first.remove.len()), (1, 2, 0));
        book.saved(&first);
        let second = book.save(&delta(2_500_000, &[2]));
        assert_eq!(second.remove, [first.add[0].0]);
        book.saved(&second);
        let third = book.save(&delta(9_000_000, &[]));
        assert_eq!(third.remove, [first.add[1].0, second.add[0].0]);
    }

    #[test]
    fn no_two_saves_bear_one_revision_whatever_became_of_the_first() {
        let delta = Delta {
            bound: 1,
            resolved: Vec::new(),
            obsolete_below: 0,
            mark: Mark::default(),
        };
        let mut book = Book::default();
        let numbers = |save: &Save| (save.follows, save.revision);
        let lost = book.save(&delta);
        assert_eq!(numbers(&lost), (0, 1));
        assert_eq!(numbers(&book.save(&delta)), (0, 2));
        // The first took place after all.
        book.reopen(&Checkpoint {
            revision: lost.revision,
            ..Checkpoint::default()
        });
        let third = book.save(&delta);
        assert_eq!(numbers(&third), (1, 3));
        book.saved(&third);
        assert_eq!(numbers(&book.save(&delta)), (3, 4));
    }

    #[test]
    fn a_large_second_is_cut_into_rows() {
        let ids: Vec<_> = (0..SEGMENT_IDS_MAX as u64 + 1).map(RowId).collect();
        let save = Book::default().save(&Delta {
            bound: 0,
            resolved: vec![(1, ids)],
            obsolete_below: 0,
            mark: Mark::default(),
        });
        let sizes: Vec<_> = save.add.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [SEGMENT_IDS_MAX, 1]);
        assert!(save.add[0].0 < save.add[1].0);
    }

    #[test]
    fn what_is_too_much_for_one_save_waits_for_the_next() {
        let ids = |count: usize| (0..count as u64).map(RowId).collect::<Vec<_>>();
        let mark = |sequence| Mark { offset: 0, sequence };
        let delta = |second: usize| Delta {
            bound: 0,
            resolved: vec![(1, ids(SAVE_IDS_MAX - 1)), (2, ids(second))],
            obsolete_below: 0,
            mark: mark(9),
        };
        let check = |second: usize, expected: Mark| {
            let limited = limited(delta(second), mark(4));
            let sizes = limited.resolved.iter().map(|(_, ids)| ids.len());
            assert_eq!(sizes.collect::<Vec<_>>(), [SAVE_IDS_MAX - 1, 1]);
            assert_eq!(limited.mark, expected);
        };
        check(1, mark(9));
        // What is left out is nowhere but in the journal.
        check(2, mark(4));
    }
}
