//! Streams and stream sets, by ScyllaDB's rules: which stream a token's writes go to. Nothing here is the relay's.

use crate::chance::Chance;
use crate::plan::SetPlan;
use crate::world::Micros;

/// Shifted out before a token's shard is computed (`murmur3_partitioner_ignore_msb_bits`).
const IGNORE_MSB: u32 = 12;

#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) start: Micros,
    pub(crate) published: Micros,
    /// By the last token of the range.
    parts: Vec<Part>,
}

/// A vnode with one stream per shard, or a tablet with one.
#[derive(Debug, Clone)]
struct Part {
    last: i64,
    streams: Vec<[u8; 16]>,
}

impl Set {
    pub(crate) fn new(plan: &SetPlan, tablets: bool, chance: &mut Chance) -> Self {
        let parts = if tablets {
            tablet_parts(plan.parts, chance)
        } else {
            vnode_parts(plan.parts, chance)
        };
        Self {
            start: plan.start,
            published: plan.published,
            parts,
        }
    }

    /// Where a token's writes go.
    pub(crate) fn stream(&self, token: i64) -> [u8; 16] {
        let part = self
            .parts
            .iter()
            .find(|part| part.last >= token)
            .unwrap_or(&self.parts[0]);
        let shards = part.streams.len() as u128;
        let biased = (token as u64) ^ (1 << 63);
        let shard = (u128::from(biased << IGNORE_MSB) * shards) >> 64;
        part.streams[shard as usize]
    }

    /// With the tokens `(after, until]` of each.
    pub(crate) fn streams(&self) -> Vec<([u8; 16], i64, i64)> {
        let before = |index: usize| match index {
            0 => self.parts[self.parts.len() - 1].last,
            _ => self.parts[index - 1].last,
        };
        let parts = self.parts.iter().enumerate();
        parts
            .flat_map(|(index, part)| part.streams.iter().map(move |id| (*id, before(index), part.last)))
            .collect()
    }
}

fn tablet_parts(count: i64, chance: &mut Chance) -> Vec<Part> {
    let last = |index: i64| {
        let share = (1_u128 << 64) * (index as u128 + 1) / count as u128;
        (i128::from(i64::MIN) + share as i128 - 1) as i64
    };
    (0..count)
        .map(|index| Part {
            last: last(index),
            streams: vec![stream_id(last(index), 0, chance)],
        })
        .collect()
}

fn vnode_parts(count: i64, chance: &mut Chance) -> Vec<Part> {
    let mut lasts: Vec<i64> = (0..count).map(|_| chance.bits() as i64).collect();
    lasts.sort_unstable();
    lasts.dedup();
    let shards = chance.within(1, 3);
    let lasts = lasts.iter().enumerate();
    lasts
        .map(|(index, last)| {
            // Any token will do that lies near the end of the range: what matters is that ids differ and sort.
            let streams = (0..shards).map(|shard| stream_id(last.wrapping_sub(shard), index as u64, chance));
            Part {
                last: *last,
                streams: streams.collect(),
            }
        })
        .collect()
}

/// Token, then random bits, the vnode's index and the version.
fn stream_id(token: i64, index: u64, chance: &mut Chance) -> [u8; 16] {
    let low = (chance.bits() << 26) | (index << 4) | 1;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&token.to_be_bytes());
    id[8..].copy_from_slice(&low.to_be_bytes());
    id
}

/// Streams lie in the order of their tokens, which are signed.
pub(crate) fn place(id: &[u8; 16]) -> (i64, [u8; 16]) {
    let [a, b, c, d, e, f, g, h, ..] = *id;
    (i64::from_be_bytes([a, b, c, d, e, f, g, h]), *id)
}
