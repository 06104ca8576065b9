//! Stream sets cut into groups, and which groups of older sets come before a group.

use std::sync::Arc;

use crate::model::{SlotSet, StreamId};
use crate::ports::{Stream, StreamSet};

/// Streams that one query reads at most; ScyllaDB refuses more than 100 keys in an `IN` by default.
const GROUP_STREAMS: usize = 64;

/// Groups that a small set is cut into, so that its reads do not all wait for each other.
const FEW_GROUPS: usize = 4;

/// Streams of one set, adjacent in token order, that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// In token order of their ids. A server returns them in the order of the ids' bytes: negative tokens last.
    pub streams: Vec<Stream>,
    /// Slots that the streams overlap.
    pub slots: SlotSet,
    cover: Vec<(i64, i64)>,
}

/// Cuts a set's streams. Does not depend on which slots are owned, so that a group stays the same group.
pub fn cut(set: &StreamSet) -> Vec<Cut> {
    let mut streams = set.streams.clone();
    streams.sort_unstable_by_key(|stream| (stream.id.token(), stream.id));
    streams.dedup_by_key(|stream| stream.id);
    let size = streams.len().div_ceil(FEW_GROUPS).clamp(1, GROUP_STREAMS);
    streams.chunks(size).map(Cut::new).collect()
}

impl Cut {
    fn new(streams: &[Stream]) -> Self {
        let slots = streams
            .iter()
            .fold(SlotSet::EMPTY, |slots, stream| slots.union(slots_of(stream)));
        let mut cover: Vec<_> = streams.iter().flat_map(intervals).collect();
        cover.sort_unstable();
        cover.dedup();
        Self {
            streams: streams.to_vec(),
            slots,
            cover,
        }
    }

    /// Whether some token is served by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.cover
            .iter()
            .any(|a| other.cover.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
    }

    /// The streams that hold rows of any of the slots.
    pub fn streams_of(&self, slots: SlotSet) -> Arc<[StreamId]> {
        let needed = |stream: &&Stream| !slots_of(stream).intersection(slots).is_empty();
        self.streams
            .iter()
            .filter(needed)
            .map(|stream| stream.id)
            .collect()
    }
}

fn slots_of(stream: &Stream) -> SlotSet {
    SlotSet::overlapping(stream.after, stream.until)
}

/// `(after, until]` as inclusive intervals that do not wrap.
fn intervals(stream: &Stream) -> Vec<(i64, i64)> {
    let Stream { after, until, .. } = *stream;
    if after == until {
        return vec![(i64::MIN, i64::MAX)];
    }
    let Some(first) = after.checked_add(1) else {
        return vec![(i64::MIN, until)];
    };
    if first <= until {
        vec![(first, until)]
    } else {
        vec![(first, i64::MAX), (i64::MIN, until)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(after: i64, until: i64) -> Stream {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&until.to_be_bytes());
        id[8..16].copy_from_slice(&after.to_be_bytes());
        Stream {
            id: StreamId(id),
            after,
            until,
        }
    }

    /// `count` streams that cut the ring into equal parts.
    fn ring(count: u64) -> StreamSet {
        let edge = |i: u64| {
            ((u128::from(i) << 64) / u128::from(count)).wrapping_add(i64::MIN as u64 as u128) as u64 as i64
        };
        let streams = (0..count)
            .map(|i| stream(edge(i).wrapping_sub(1), edge((i + 1) % count).wrapping_sub(1)))
            .collect();
        StreamSet { start: 0, streams }
    }

    #[test]
    fn groups_hold_every_stream_once_and_no_more_than_a_query_takes() {
        for (count, groups) in [(1, 1), (3, 3), (16, 4), (256, 4), (257, 5), (6144, 96)] {
            let cuts = cut(&ring(count));
            assert_eq!(cuts.len(), groups, "{count} streams");
            assert!(cuts.iter().all(|cut| cut.streams.len() <= GROUP_STREAMS));
            let mut ids: Vec<_> = cuts
                .iter()
                .flat_map(|cut| cut.streams.iter().map(|s| s.id))
                .collect();
            ids.dedup();
            assert_eq!(ids.len() as u64, count);
            let slots = cuts
                .iter()
                .fold(SlotSet::EMPTY, |slots, cut| slots.union(cut.slots));
            assert_eq!(slots, SlotSet::ALL);
        }
    }

    #[test]
    fn a_share_reads_the_streams_that_its_slots_touch() {
        let cuts = cut(&ring(256));
        let mine = SlotSet::of_share(2, 4);
        let streams: usize = cuts.iter().map(|cut| cut.streams_of(mine).len()).sum();
        assert_eq!(streams, 64);
        let aligned = cuts.iter().filter(|cut| !cut.streams_of(mine).is_empty());
        assert_eq!(aligned.count(), 1);
    }

    #[test]
    fn groups_overlap_where_a_token_is_in_both() {
        let check = |a: (i64, i64), b: (i64, i64), expected| {
            let group = |(after, until)| Cut::new(&[stream(after, until)]);
            assert_eq!(group(a).overlaps(&group(b)), expected, "{a:?} {b:?}");
            assert_eq!(group(b).overlaps(&group(a)), expected, "{b:?} {a:?}");
        };
        check((0, 10), (10, 20), false);
        check((0, 11), (10, 20), true);
        check((20, 0), (10, 20), false);
        check((20, 0), (10, 21), true);
        check((20, 0), (-1, 5), true);
        check((7, 7), (10, 20), true);
        check((i64::MAX, 3), (2, 9), true);
        check((i64::MAX, 3), (3, 9), false);
    }
}
