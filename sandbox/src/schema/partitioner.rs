//! Partition keys to tokens: Cassandra's Murmur3Partitioner and ScyllaDB's CDCPartitioner.

use bytes::Bytes;

use super::{Partitioner, TableSchema};
use crate::storage::mutation::PartitionKey;

impl Partitioner {
    /// The token of a serialized (routing key form) partition key.
    pub fn token(self, serialized: &[u8]) -> i64 {
        match self {
            Partitioner::Murmur3 => murmur3_token(serialized),
            Partitioner::Cdc => match serialized.first_chunk::<8>() {
                Some(head) if serialized.len() == 16 => i64::from_be_bytes(*head),
                _ => i64::MIN,
            },
        }
    }
}

impl TableSchema {
    /// The partition key of these serialized values, one per partition key column, in key order.
    pub fn make_partition_key(&self, values: &[Bytes]) -> PartitionKey {
        let serialized = serialize_partition_key(values);
        PartitionKey {
            token: self.partitioner.token(&serialized),
            serialized,
        }
    }
}

/// Routing key form: one value as it is; several as (u16 length, value, 0) each.
pub fn serialize_partition_key(values: &[Bytes]) -> Bytes {
    if let [only] = values {
        // Copied, or the key would pin the request frame that it arrived in.
        return Bytes::copy_from_slice(only);
    }
    let mut out = Vec::with_capacity(values.iter().map(|value| value.len() + 3).sum());
    for value in values {
        // A key value is at most 65535 bytes, checked where values are bound.
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
        out.push(0);
    }
    out.into()
}

/// Murmur3 x64 128 as Cassandra has it (tail bytes are sign-extended), first half; `i64::MIN` is not a token
/// and becomes `i64::MAX`.
pub fn murmur3_token(key: &[u8]) -> i64 {
    let mut h1: u64 = 0;
    let mut h2: u64 = 0;
    let (blocks, tail) = key.as_chunks::<16>();
    for block in blocks {
        let (mut k1, mut k2) = (0u64, 0u64);
        for i in 0..8 {
            k1 |= u64::from(block[i]) << (8 * i);
            k2 |= u64::from(block[i + 8]) << (8 * i);
        }
        h1 ^= mix_k1(k1);
        h1 = h1
            .rotate_left(27)
            .wrapping_add(h2)
            .wrapping_mul(5)
            .wrapping_add(0x52dc_e729);
        h2 ^= mix_k2(k2);
        h2 = h2
            .rotate_left(31)
            .wrapping_add(h1)
            .wrapping_mul(5)
            .wrapping_add(0x3849_5ab5);
    }
    let (mut k1, mut k2) = (0u64, 0u64);
    for (i, &byte) in tail.iter().enumerate() {
        let extended = i64::from(byte as i8) as u64;
        if i < 8 {
            k1 ^= extended << (8 * i);
        } else {
            k2 ^= extended << (8 * (i - 8));
        }
    }
    h2 ^= mix_k2(k2);
    h1 ^= mix_k1(k1);
    h1 ^= key.len() as u64;
    h2 ^= key.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = final_mix(h1);
    h2 = final_mix(h2);
    match h1.wrapping_add(h2) as i64 {
        i64::MIN => i64::MAX,
        token => token,
    }
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

fn mix_k1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_k2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn final_mix(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens as `SELECT token(pk)` of Cassandra and the Rust driver's own partitioner tests have them.
    #[test]
    fn murmur3_tokens() {
        for (key, token) in [
            (&b"test"[..], -6_017_608_668_500_074_083),
            (b"xd", 4_507_812_186_440_344_727),
            (b"primary_key", -1_632_642_444_691_073_360),
            ("kremówki".as_bytes(), 4_354_931_215_268_080_151),
        ] {
            assert_eq!(murmur3_token(key), token, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn cdc_token_is_the_head_of_a_16_byte_key() {
        let mut id = [0u8; 16];
        id[..8].copy_from_slice(&(-5i64).to_be_bytes());
        assert_eq!(Partitioner::Cdc.token(&id), -5);
        assert_eq!(Partitioner::Cdc.token(&id[..15]), i64::MIN);
    }
}
