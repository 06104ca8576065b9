//! Generations of a keyspace with vnodes: which streams are in use when, for the whole ring at once
//! (ScyllaDB `cdc/generation.cc`, `cdc/metadata.cc`).

use std::sync::Arc;

use rand::Rng;

use crate::cdc::stream_id::StreamId;
use crate::cdc::timestamps::{LEEWAY_MICROS, from_the_future, from_the_past};
use crate::error::CqlError;
use crate::storage::mutation::Timestamp;

/// Most significant token bits that sharding ignores (ScyllaDB `murmur3_partitioner_ignore_msb_bits`, default 12).
pub const IGNORE_MSB: u32 = 12;

/// One token of the ring and the number of shards of the node that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingToken {
    pub token: i64,
    pub shards: u32,
}

/// The streams of the tokens that end at `range_end`, one per shard of the owning node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vnode {
    pub range_end: i64,
    pub streams: Vec<StreamId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Microseconds, whole milliseconds. Writes dated from here on go to this generation's streams.
    pub start: Timestamp,
    /// Coordinators use the generation from this moment of their clock on; later than `start` if they learn
    /// of it late.
    pub learned: Timestamp,
    /// Readers find the generation in system_distributed from this moment on.
    pub published: Timestamp,
    /// Ascending by `range_end`.
    pub vnodes: Vec<Vnode>,
}

/// When a new generation takes effect, in microseconds from now.
#[derive(Debug, Clone, Copy, Default)]
pub struct SwitchDelays {
    /// ScyllaDB: 2 * ring_delay + 5 s, so that all nodes know the generation before it starts.
    pub start: i64,
    /// ScyllaDB: near 0, so that readers know the generation before it starts. Larger than `start`: late.
    pub publish: i64,
    /// 0, unless coordinators are to learn of the generation late.
    pub learn: i64,
}

/// All generations of the cluster, oldest first. Entries are never removed, as in system_distributed.
#[derive(Debug, Clone, Default)]
pub struct Generations {
    list: Vec<Arc<Generation>>,
}

impl Generations {
    /// Adds a generation for the ring as it is. Its start is rounded up to a millisecond and lies after that of
    /// the generation before.
    pub fn switch(
        &mut self,
        ring: &[RingToken],
        delays: SwitchDelays,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Arc<Generation> {
        let earliest = self.list.last().map_or(i64::MIN, |last| last.start + 1_000);
        let start = whole_millisecond(now + delays.start).max(earliest);
        let generation = Arc::new(Generation {
            start,
            learned: now + delays.learn,
            published: now + delays.publish,
            vnodes: vnodes_of(ring, rng),
        });
        self.list.push(generation.clone());
        generation
    }

    /// The stream for a write to the partition at `token`, dated `write`, at coordinator clock `now`.
    ///
    /// # Errors
    /// Invalid for a write dated more than 5 s ahead, or into a closed generation; Server if none covers it.
    pub fn stream_for(&self, token: i64, write: Timestamp, now: Timestamp) -> Result<StreamId, CqlError> {
        if write > now + LEEWAY_MICROS {
            return Err(from_the_future(write, now));
        }
        let used_at = |at: Timestamp| {
            self.list
                .iter()
                .rev()
                .find(|generation| generation.learned <= now && generation.start <= at)
        };
        let covering = used_at(write);
        if write <= now - LEEWAY_MICROS {
            let current = used_at(now).map(|generation| generation.start);
            if covering.map(|generation| generation.start) != current || current.is_none() {
                return Err(from_the_past(write, now));
            }
        }
        let generation = covering.ok_or_else(|| {
            CqlError::server(format!(
                "cdc::metadata::get_stream: could not find any CDC stream for timestamp {write}"
            ))
        })?;
        generation
            .stream_of(token)
            .ok_or_else(|| CqlError::server("cdc: the generation has no streams"))
    }

    /// What readers can see, oldest first.
    pub fn published(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Generation>> {
        self.list
            .iter()
            .filter(move |generation| generation.published <= now)
    }

    pub fn all(&self) -> &[Arc<Generation>] {
        &self.list
    }
}

impl Generation {
    fn stream_of(&self, token: i64) -> Option<StreamId> {
        let position = self.vnodes.partition_point(|vnode| vnode.range_end < token);
        // Tokens past the last one belong to the first: the ring wraps.
        let vnode = self.vnodes.get(position).or_else(|| self.vnodes.first())?;
        let shard = shard_of(token, vnode.streams.len() as u32);
        vnode.streams.get(shard as usize).copied()
    }

    pub fn start_millis(&self) -> i64 {
        self.start / 1_000
    }
}

/// The shard that owns `token` on a node with `shards` shards.
pub fn shard_of(token: i64, shards: u32) -> u32 {
    let fraction = biased(token) << IGNORE_MSB;
    // The product is below shards * 2^64, so the result is below `shards`.
    ((u128::from(fraction) * u128::from(shards)) >> 64) as u32
}

fn vnodes_of(ring: &[RingToken], rng: &mut impl Rng) -> Vec<Vnode> {
    let mut ring = ring.to_vec();
    ring.sort_unstable();
    ring.dedup_by_key(|entry| entry.token);
    let mut previous = ring.last().map_or(i64::MAX, |entry| entry.token);
    let mut vnodes = Vec::with_capacity(ring.len());
    for (index, entry) in ring.iter().enumerate() {
        let streams = (0..entry.shards.max(1))
            .map(|shard| {
                let token = first_token_of_shard(previous, entry.token, shard, entry.shards.max(1));
                StreamId::new(token, index as u32, rng)
            })
            .collect();
        vnodes.push(Vnode {
            range_end: entry.token,
            streams,
        });
        previous = entry.token;
    }
    vnodes
}

/// The first token after `previous`, going round the ring to `end`, that belongs to `shard`; `end` if the
/// range holds none.
fn first_token_of_shard(previous: i64, end: i64, shard: u32, shards: u32) -> i64 {
    let start = biased(previous).wrapping_add(1);
    let length = biased(end).wrapping_sub(start);
    if shard_of(unbiased(start), shards) == shard {
        return unbiased(start);
    }
    let slice_bits = 64 - IGNORE_MSB;
    let in_slice = first_in_slice(shard, shards);
    let slice = start >> slice_bits << slice_bits;
    let here = slice | in_slice;
    let candidate = if here >= start {
        here
    } else {
        slice.wrapping_add(1 << slice_bits) | in_slice
    };
    if candidate.wrapping_sub(start) <= length {
        unbiased(candidate)
    } else {
        end
    }
}

/// The smallest position within a slice (the tokens that share their ignored bits) that belongs to `shard`.
fn first_in_slice(shard: u32, shards: u32) -> u64 {
    let exact = (u128::from(shard) << 64).div_ceil(u128::from(shards));
    // shard < shards: below 2^64 before the shift; rounded up, so that the shift does not fall short.
    exact.div_ceil(1 << IGNORE_MSB) as u64
}

/// Tokens in unsigned order.
fn biased(token: i64) -> u64 {
    (token as u64) ^ (1 << 63)
}

fn unbiased(position: u64) -> i64 {
    (position ^ (1 << 63)) as i64
}

fn whole_millisecond(micros: Timestamp) -> Timestamp {
    micros.div_euclid(1_000) * 1_000 + if micros.rem_euclid(1_000) == 0 { 0 } else { 1_000 }
}

#[cfg(test)]
mod tests {
    use super::{Generations, RingToken, SwitchDelays, shard_of};
    use crate::error::ErrorKind;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const SECOND: i64 = 1_000_000;
    const NOW: i64 = 1_700_000_000 * SECOND;

    fn ring(tokens: &[i64], shards: u32) -> Vec<RingToken> {
        tokens
            .iter()
            .map(|token| RingToken {
                token: *token,
                shards,
            })
            .collect()
    }

    /// Known to everyone long before it starts.
    fn after(seconds: i64) -> SwitchDelays {
        SwitchDelays {
            start: seconds * SECOND,
            learn: -2_000 * SECOND,
            ..SwitchDelays::default()
        }
    }

    #[test]
    fn stream_tokens_lie_in_their_vnode_and_shard() {
        let mut rng = StdRng::seed_from_u64(7);
        for shards in [1, 2, 3, 8] {
            let tokens: Vec<i64> = (0..16).map(|_| rng.random()).collect();
            let mut generations = Generations::default();
            let generation = generations.switch(&ring(&tokens, shards), after(0), NOW, &mut rng);
            let mut previous = generation.vnodes.last().unwrap().range_end;
            for (index, vnode) in generation.vnodes.iter().enumerate() {
                for (shard, id) in vnode.streams.iter().enumerate() {
                    let length = vnode.range_end.wrapping_sub(previous) as u64;
                    let offset = id.token().wrapping_sub(previous) as u64;
                    assert!((1..=length).contains(&offset), "vnode {index}");
                    assert_eq!(id.index() as usize, index);
                    assert_eq!(shard_of(id.token(), shards) as usize, shard);
                }
                previous = vnode.range_end;
            }
        }
    }

    #[test]
    fn writes_go_to_the_vnode_and_shard_of_their_token() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut generations = Generations::default();
        let generation = generations.switch(&ring(&[-100, 0, 100], 2), after(0), NOW, &mut rng);
        for (token, vnode) in [
            (i64::MIN, 0),
            (-100, 0),
            (-99, 1),
            (0, 1),
            (1, 2),
            (100, 2),
            (101, 0),
            (i64::MAX, 0),
        ] {
            let stream = generations.stream_for(token, NOW, NOW).unwrap();
            assert_eq!(
                stream,
                generation.vnodes[vnode].streams[shard_of(token, 2) as usize],
                "token {token}"
            );
        }
    }

    /// The current generation takes every write up to 5 s ahead of the clock, however old; a former one only those of the
    /// last 5 s. Times in seconds relative to the switch.
    #[test]
    fn acceptance_follows_leeway_and_generation() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut generations = Generations::default();
        generations.switch(&ring(&[0], 1), after(-1_000), NOW, &mut rng);
        generations.switch(&ring(&[0], 1), after(0), NOW, &mut rng);
        let check = |write: i64, clock: i64| -> Result<usize, ErrorKind> {
            let found = generations.stream_for(5, NOW + write * SECOND, NOW + clock * SECOND);
            found
                .map(|id| {
                    generations
                        .all()
                        .iter()
                        .position(|g| g.vnodes[0].streams[0] == id)
                        .unwrap()
                })
                .map_err(|error| error.kind)
        };
        let cases = [
            (106, 100, Err(ErrorKind::Invalid)), // the future
            (105, 100, Ok(1)),
            (100, 100, Ok(1)),
            (1, 100, Ok(1)),                    // old, but of the current generation
            (-1, 100, Err(ErrorKind::Invalid)), // the past
            (-1, 2, Ok(0)),                     // within the leeway after the switch
            (-4, 2, Err(ErrorKind::Invalid)),   // outside of it, although the old one was in use 5 s ago
            (2, -2, Ok(1)),                     // the next generation, ahead of the clock
            (-2, -2, Ok(0)),
            (-900, -2, Ok(0)),
            (-1_001, -998, Err(ErrorKind::Server)), // before the first
            (-2_000, -998, Err(ErrorKind::Invalid)),
        ];
        for (write, clock, expected) in cases {
            assert_eq!(check(write, clock), expected, "write {write} s, clock {clock} s");
        }
    }

    #[test]
    fn a_generation_learned_late_leaves_its_first_writes_in_the_old_streams() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut generations = Generations::default();
        let old = generations.switch(&ring(&[0], 1), after(-10), NOW, &mut rng);
        let delays = SwitchDelays {
            start: SECOND,
            publish: 4 * SECOND,
            learn: 3 * SECOND,
        };
        let new = generations.switch(&ring(&[0], 1), delays, NOW, &mut rng);
        let stream = |clock: i64| {
            generations
                .stream_for(5, NOW + 2 * SECOND, NOW + clock * SECOND)
                .unwrap()
        };
        assert_eq!(stream(2), old.vnodes[0].streams[0]);
        assert_eq!(stream(3), new.vnodes[0].streams[0]);
        assert_eq!(generations.published(NOW + 3 * SECOND).count(), 1);
        assert_eq!(generations.published(NOW + 4 * SECOND).count(), 2);
    }

    #[test]
    fn starts_are_whole_milliseconds_and_rise() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut generations = Generations::default();
        let first = generations.switch(&ring(&[0], 1), after(0), NOW + 1, &mut rng);
        let second = generations.switch(&ring(&[0], 1), after(0), NOW + 1, &mut rng);
        assert_eq!((first.start, second.start), (NOW + 1_000, NOW + 2_000));
    }
}
