//! Stream ids: 16 bytes that carry a token, so that log rows lie on the replicas of their base rows
//! (ScyllaDB `cdc/generation.cc`, docs/dev/cdc.md).

use bytes::Bytes;
use rand::Rng;

use crate::storage::mutation::PartitionKey;

/// Big-endian token, then 38 random bits, 22 bits of vnode index and 4 bits of version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId([u8; 16]);

const VERSION: u64 = 1;
const INDEX_SHIFT: u32 = 4;
const INDEX_MASK: u64 = (1 << 22) - 1;
const RANDOM_SHIFT: u32 = 26;

impl StreamId {
    /// A new id for `token`; `index` is the position of its vnode on the ring (tablets: 0), below 2^22.
    pub fn new(token: i64, index: u32, rng: &mut impl Rng) -> Self {
        let random: u64 = rng.random::<u64>() >> RANDOM_SHIFT;
        let low = VERSION | (u64::from(index) & INDEX_MASK) << INDEX_SHIFT | random << RANDOM_SHIFT;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&token.to_be_bytes());
        id[8..].copy_from_slice(&low.to_be_bytes());
        Self(id)
    }

    pub fn token(&self) -> i64 {
        self.half(0) as i64
    }

    /// Position of the vnode in the generation that the id was made for.
    pub fn index(&self) -> u32 {
        // 22 bits fit.
        (self.half(8) >> INDEX_SHIFT & INDEX_MASK) as u32
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The log partition of this stream.
    pub fn partition_key(&self) -> PartitionKey {
        PartitionKey {
            token: self.token(),
            serialized: Bytes::copy_from_slice(&self.0),
        }
    }

    fn half(&self, from: usize) -> u64 {
        self.0[from..from + 8]
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::StreamId;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn an_id_carries_token_index_and_version() {
        let mut rng = StdRng::seed_from_u64(1);
        for (token, index) in [(0, 0), (-1, 1), (i64::MIN + 1, 7), (i64::MAX, (1 << 22) - 1)] {
            let id = StreamId::new(token, index, &mut rng);
            assert_eq!((id.token(), id.index()), (token, index));
            assert_eq!(id.as_bytes()[15] & 0x0f, 1, "version nibble");
            assert_eq!(id.partition_key().token, token);
        }
    }

    #[test]
    fn ids_of_one_token_differ() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_ne!(StreamId::new(5, 0, &mut rng), StreamId::new(5, 0, &mut rng));
    }
}
