//! Streams of tables in keyspaces with tablets: per table a set for each tablet layout it has had
//! (ScyllaDB `cdc/generation.cc`, `cdc/metadata.cc`; CDC with tablets exists since 2025.4).

use std::collections::BTreeMap;

use rand::Rng;

use crate::cdc::stream_id::StreamId;
use crate::cdc::timestamps::{LEEWAY_MICROS, from_the_future};
use crate::error::CqlError;
use crate::storage::mutation::Timestamp;

/// Tablets per table are a power of two up to this: far more than tests split to, and one set stays small.
pub const MAX_TABLETS: u32 = 1 << 12;

/// Keyspace and base table.
pub type TableName = (String, String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSet {
    /// Microseconds, whole milliseconds. Writes dated from here on go to this set.
    pub start: Timestamp,
    /// Readers find the set in system.cdc_timestamps from this moment on.
    pub published: Timestamp,
    /// One per tablet, ascending by token; a stream's token is the tablet's last one.
    pub streams: Vec<StreamId>,
}

/// What happens to the tablets of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TabletChange {
    Split,
    Merge,
}

/// `stream_state` of system.cdc_streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamState {
    Current = 0,
    Closed = 1,
    Opened = 2,
}

/// The stream sets of every table that has CDC and tablets, oldest first.
#[derive(Debug, Clone, Default)]
pub struct TabletStreams {
    tables: BTreeMap<TableName, Vec<StreamSet>>,
}

impl TabletStreams {
    /// The first set of a new log table. It starts 5 s ago, so that writes are accepted at once.
    pub fn create(&mut self, table: TableName, tablets: u32, now: Timestamp, rng: &mut impl Rng) {
        let start = (now - LEEWAY_MICROS).div_euclid(1_000) * 1_000;
        let streams = streams_of(tablets, rng);
        self.tables.entry(table).or_insert_with(|| {
            vec![StreamSet {
                start,
                published: now,
                streams,
            }]
        });
    }

    pub fn drop_table(&mut self, table: &TableName) {
        self.tables.remove(table);
    }

    /// Splits every tablet in two, or merges neighbours: a new set with all streams replaced, which starts
    /// `delay` microseconds from now (ScyllaDB: 65 s) and is published `publish_delay` from now (ScyllaDB: 0).
    ///
    /// # Errors
    /// Invalid for a table without streams, a single tablet that cannot merge, and too many to split.
    pub fn change(
        &mut self,
        table: &TableName,
        change: TabletChange,
        (delay, publish_delay): (i64, i64),
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Result<StreamSet, CqlError> {
        let (sets, last) = self
            .tables
            .get_mut(table)
            .and_then(|sets| sets.last().cloned().map(|last| (sets, last)))
            .ok_or_else(|| no_metadata(table))?;
        let count = last.streams.len() as u32;
        let tablets = match change {
            TabletChange::Split if count < MAX_TABLETS => count * 2,
            TabletChange::Merge if count > 1 => count / 2,
            _ => {
                return Err(CqlError::invalid(format!(
                    "{change:?} of the {count} tablets of {}.{}: accepted are 1 to {MAX_TABLETS} tablets",
                    table.0, table.1
                )));
            }
        };
        let start = ((now + delay).div_euclid(1_000) * 1_000).max(last.start + 1_000);
        let set = StreamSet {
            start,
            published: now + publish_delay,
            streams: streams_of(tablets, rng),
        };
        sets.push(set.clone());
        Ok(set)
    }

    /// The stream for a write to the partition at `token`, dated `write`, at coordinator clock `now`. Old
    /// timestamps are accepted into the set that was in use then.
    ///
    /// # Errors
    /// Invalid for a write dated more than 5 s ahead; Server if no set covers it.
    pub fn stream_for(
        &self,
        table: &TableName,
        token: i64,
        write: Timestamp,
        now: Timestamp,
    ) -> Result<StreamId, CqlError> {
        if write > now + LEEWAY_MICROS {
            return Err(from_the_future(write, now));
        }
        let sets = self.tables.get(table).ok_or_else(|| no_metadata(table))?;
        let set = sets.iter().rev().find(|set| set.start <= write).ok_or_else(|| {
            CqlError::server(format!(
                "cdc::metadata::get_stream: could not find any CDC streams for table {}.{} for timestamp {write}",
                table.0, table.1
            ))
        })?;
        let position = set.streams.partition_point(|id| id.token() < token);
        set.streams.get(position).copied().ok_or_else(|| {
            CqlError::server(format!("cdc::metadata::get_stream: no stream for token {token}"))
        })
    }

    /// Forgets the sets of `table` that were closed longer than `ttl_seconds` ago, as ScyllaDB's topology
    /// coordinator does every minute; 0 keeps them all.
    pub fn collect_garbage(&mut self, table: &TableName, ttl_seconds: i32, now: Timestamp) {
        let Some(sets) = self.tables.get_mut(table).filter(|_| ttl_seconds > 0) else {
            return;
        };
        let horizon = now - i64::from(ttl_seconds) * 1_000_000;
        // A set is closed when the next one starts.
        let closed = sets
            .windows(2)
            .take_while(|pair| pair[1].start <= horizon)
            .count();
        sets.drain(..closed);
    }

    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.keys()
    }

    /// What readers can see of a table, oldest first.
    pub fn published(&self, table: &TableName, now: Timestamp) -> impl Iterator<Item = &StreamSet> {
        self.tables
            .get(table)
            .into_iter()
            .flatten()
            .filter(move |set| set.published <= now)
    }

    /// The rows of system.cdc_streams for a table: start in milliseconds, state and stream, in key order.
    pub fn stream_rows(&self, table: &TableName, now: Timestamp) -> Vec<(i64, StreamState, StreamId)> {
        let mut rows = Vec::new();
        let mut previous: Option<&StreamSet> = None;
        for set in self.published(table, now) {
            let millis = set.start / 1_000;
            rows.extend(set.streams.iter().map(|id| (millis, StreamState::Current, *id)));
            let before = previous.map_or(&[][..], |set| &set.streams);
            let gone = |from: &[StreamId], id: &StreamId| !from.contains(id);
            rows.extend(
                before
                    .iter()
                    .filter(|id| gone(&set.streams, id))
                    .map(|id| (millis, StreamState::Closed, *id)),
            );
            rows.extend(
                set.streams
                    .iter()
                    .filter(|id| gone(before, id))
                    .map(|id| (millis, StreamState::Opened, *id)),
            );
            previous = Some(set);
        }
        rows.sort_unstable();
        rows
    }
}

/// One stream per tablet; `tablets` is rounded up to a power of two.
fn streams_of(tablets: u32, rng: &mut impl Rng) -> Vec<StreamId> {
    let count = tablets.clamp(1, MAX_TABLETS).next_power_of_two();
    let bits = count.trailing_zeros();
    (0..count)
        .map(|tablet| {
            // The last position of the tablet in unsigned token order; a shift by 64 would be undefined.
            let last = if bits == 0 {
                u64::MAX
            } else {
                ((u64::from(tablet) + 1) << (64 - bits)).wrapping_sub(1)
            };
            StreamId::new((last ^ (1 << 63)) as i64, 0, rng)
        })
        .collect()
}

fn no_metadata(table: &TableName) -> CqlError {
    CqlError::server(format!(
        "cdc::metadata::get_stream: could not find stream metadata for table {}.{}",
        table.0, table.1
    ))
}

#[cfg(test)]
mod tests {
    use super::{StreamState, TableName, TabletChange, TabletStreams};
    use crate::error::ErrorKind;
    use rand::{SeedableRng, rngs::StdRng};

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_700_000_000 * SECOND;

    fn name() -> TableName {
        ("ks".into(), "t".into())
    }

    fn with_tablets(tablets: u32) -> (TabletStreams, StdRng) {
        let mut rng = StdRng::seed_from_u64(3);
        let mut streams = TabletStreams::default();
        streams.create(name(), tablets, NOW, &mut rng);
        (streams, rng)
    }

    #[test]
    fn tablets_cut_the_ring_into_equal_parts() {
        for (tablets, tokens) in [
            (1, vec![i64::MAX]),
            (2, vec![-1, i64::MAX]),
            (3, vec![i64::MIN / 2 - 1, -1, i64::MAX / 2, i64::MAX]),
        ] {
            let (streams, _) = with_tablets(tablets);
            let set = streams.published(&name(), NOW).next().unwrap();
            assert_eq!(
                set.streams.iter().map(|id| id.token()).collect::<Vec<_>>(),
                tokens
            );
            assert!(set.streams.iter().all(|id| id.index() == 0));
        }
    }

    /// Unlike generations, stream sets take writes however old. Times in seconds relative to now.
    #[test]
    fn old_timestamps_go_to_the_set_that_was_in_use() {
        let (mut streams, mut rng) = with_tablets(1);
        let second = streams
            .change(&name(), TabletChange::Split, (10 * SECOND, 0), NOW, &mut rng)
            .unwrap();
        let check = |write: i64, clock: i64| {
            let id = streams.stream_for(&name(), 5, NOW + write * SECOND, NOW + clock * SECOND);
            id.map(|id| second.streams.contains(&id))
                .map_err(|error| error.kind)
        };
        assert_eq!(check(0, 0), Ok(false));
        assert_eq!(check(-5, 0), Ok(false));
        assert_eq!(check(-6, 0), Err(ErrorKind::Server));
        assert_eq!(check(10, 6), Ok(true));
        assert_eq!(check(12, 6), Err(ErrorKind::Invalid));
        assert_eq!(check(9, 3_600), Ok(false));
        assert_eq!(check(3_600, 3_600), Ok(true));
    }

    #[test]
    fn split_and_merge_replace_all_streams() {
        let (mut streams, mut rng) = with_tablets(2);
        streams
            .change(&name(), TabletChange::Split, (0, 0), NOW, &mut rng)
            .unwrap();
        let merged = streams
            .change(&name(), TabletChange::Merge, (0, 7 * SECOND), NOW, &mut rng)
            .unwrap();
        assert_eq!(merged.streams.len(), 2);
        let states = |now| {
            let rows = streams.stream_rows(&name(), now);
            let count = |state| rows.iter().filter(|row| row.1 == state).count();
            (
                count(StreamState::Current),
                count(StreamState::Closed),
                count(StreamState::Opened),
            )
        };
        assert_eq!(states(NOW), (2 + 4, 2, 2 + 4), "the merge is not published yet");
        assert_eq!(states(NOW + 7 * SECOND), (2 + 4 + 2, 2 + 4, 2 + 4 + 2));
    }

    #[test]
    fn impossible_changes_are_refused() {
        let (mut streams, mut rng) = with_tablets(1);
        let merge = streams
            .change(&name(), TabletChange::Merge, (0, 0), NOW, &mut rng)
            .unwrap_err();
        assert_eq!(merge.kind, ErrorKind::Invalid);
        let other = ("ks".into(), "other".into());
        let unknown = streams
            .change(&other, TabletChange::Split, (0, 0), NOW, &mut rng)
            .unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::Server);
    }

    #[test]
    fn closed_sets_are_collected_after_the_ttl() {
        let (mut streams, mut rng) = with_tablets(1);
        streams
            .change(&name(), TabletChange::Split, (0, 0), NOW, &mut rng)
            .unwrap();
        streams.collect_garbage(&name(), 60, NOW + 59 * SECOND);
        assert_eq!(streams.published(&name(), NOW).count(), 2);
        streams.collect_garbage(&name(), 0, NOW + 61 * SECOND);
        assert_eq!(
            streams.published(&name(), NOW).count(),
            2,
            "ttl 0 keeps everything"
        );
        streams.collect_garbage(&name(), 60, NOW + 61 * SECOND);
        let left: Vec<_> = streams.published(&name(), NOW).collect();
        assert_eq!((left.len(), left[0].streams.len()), (1, 2));
        let rows = streams.stream_rows(&name(), NOW);
        assert!(
            rows.iter().all(|row| row.1 != StreamState::Closed),
            "the first known set closes nothing"
        );
    }
}
