//! Where a row stands in the CDC log.

use std::cmp::Ordering;
use std::fmt;

use super::Micros;

/// 100 ns ticks between the start of the Gregorian calendar, which version 1 UUIDs count from, and the Unix epoch.
const GREGORIAN_OFFSET: u64 = 0x01b2_1dd2_1381_4000;

/// The 16 bytes of `cdc$stream_id`. `scylla_cdc::cdc_types::StreamID` names the same thing but keeps its bytes to
/// itself, and routing needs the token in the first eight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl StreamId {
    /// The token at which the stream's log partition lives (ScyllaDB's CDCPartitioner: the first eight bytes,
    /// big-endian).
    pub fn token(&self) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Position of the stream's vnode in the sorted ring (bits 4-25 of the low half); 0 for tablets.
    pub fn vnode_index(&self) -> u32 {
        let [.., a, b, c, d] = self.0;
        (u32::from_be_bytes([a, b, c, d]) >> 4) & 0x003f_ffff
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `cdc$time` timeuuid, ordered as the server orders it: by timestamp, then by the low eight bytes compared as
/// signed bytes (ScyllaDB `utils/UUID.hh`). `uuid::Uuid`'s own order is another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CdcTime(pub uuid::Uuid);

impl CdcTime {
    /// The smallest timeuuid of this microsecond: a lower or exclusive upper bound for queries that, unlike CQL's
    /// `minTimeuuid`, is exact to the microsecond.
    pub fn min_of(micros: Micros) -> Self {
        Self::from_parts(micros, 0x8080_8080_8080_8080)
    }

    /// A timeuuid of this microsecond with the given low half (clock sequence and node).
    pub fn from_parts(micros: Micros, low: u64) -> Self {
        let ticks = (micros.max(0) as u64).saturating_mul(10) + GREGORIAN_OFFSET;
        let time_low = ticks as u32 as u128;
        let time_mid = (ticks >> 32) as u16 as u128;
        let time_high = ((ticks >> 48) as u16 & 0x0fff | 0x1000) as u128;
        Self(uuid::Uuid::from_u128(
            time_low << 96 | time_mid << 80 | time_high << 64 | low as u128,
        ))
    }

    /// The write timestamp that the uuid was made from.
    pub fn micros(&self) -> Micros {
        ((self.ticks() - GREGORIAN_OFFSET.min(self.ticks())) / 10) as Micros
    }

    fn ticks(&self) -> u64 {
        let bits = self.0.as_u128();
        let low = (bits >> 96) as u32 as u64;
        let mid = (bits >> 80) as u16 as u64;
        let high = (bits >> 64) as u16 as u64 & 0x0fff;
        high << 48 | mid << 32 | low
    }
}

impl Ord for CdcTime {
    fn cmp(&self, other: &Self) -> Ordering {
        // Flipping each sign bit turns signed byte order into unsigned order.
        let low = |t: &Self| t.0.as_u128() as u64 ^ 0x8080_8080_8080_8080;
        self.ticks()
            .cmp(&other.ticks())
            .then_with(|| low(self).cmp(&low(other)))
    }
}

impl PartialOrd for CdcTime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for CdcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The primary key of a log row. Ordered by stream, then as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePosition {
    pub stream: StreamId,
    pub time: CdcTime,
    pub batch_seq_no: i32,
}

/// 64-bit fingerprint of a [`SourcePosition`], by which the ledger knows a row. Two rows of one second of one slot
/// collide with a probability of about n²/2⁶⁵: for 10,000 rows a second, once in 11,000 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u64);

impl SourcePosition {
    /// What [`Self`]'s Display writes, as in the header `source-position`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (stream, time, number) = (parts.next()?, parts.next()?, parts.next()?);
        let mut bytes = [0; 16];
        hex::decode_to_slice(stream, &mut bytes).ok()?;
        let position = Self {
            stream: StreamId(bytes),
            time: CdcTime(time.parse().ok()?),
            batch_seq_no: number.parse().ok()?,
        };
        parts.next().is_none().then_some(position)
    }

    /// Stable across versions and platforms: checkpoints persist it.
    pub fn row_id(&self) -> RowId {
        let stream = u128::from_be_bytes(self.stream.0);
        let time = self.time.0.as_u128();
        let mut hash = 0x9e37_79b9_7f4a_7c15;
        for word in [
            stream >> 64,
            stream,
            time >> 64,
            time,
            self.batch_seq_no as u32 as u128,
        ] {
            hash = mix(hash ^ word as u64);
        }
        RowId(hash)
    }

    /// What the journal calls a replay of the row's dead letter that was begun at this time. Stable likewise.
    pub fn replay_id(&self, begun: Micros) -> RowId {
        RowId(mix(self.row_id().0 ^ mix(begun as u64)))
    }
}

impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.stream, self.time.0, self.batch_seq_no)
    }
}

/// The 64-bit finaliser of MurmurHash3: every input bit reaches every output bit, and it is a bijection.
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_round_trips_to_the_microsecond() {
        for micros in [0, 1, 1_700_000_000_123_456, 4_102_444_800_000_001] {
            assert_eq!(CdcTime::min_of(micros).micros(), micros);
            assert_eq!(CdcTime::min_of(micros).0.get_version_num(), 1);
        }
    }

    #[test]
    fn order_is_the_servers_order() {
        let t = 1_700_000_000_000_000;
        let ascending = [
            CdcTime::from_parts(t, 0x8000_0000_0000_0000),
            CdcTime::from_parts(t, 0xff00_0000_0000_0000),
            CdcTime::from_parts(t, 0x0000_0000_0000_0000),
            CdcTime::from_parts(t, 0x7f7f_7f7f_7f7f_7f7f),
            CdcTime::min_of(t + 1),
        ];
        assert!(
            ascending.windows(2).all(|pair| pair[0] < pair[1]),
            "{ascending:?}"
        );
    }

    #[test]
    fn row_ids_tell_neighbours_apart() {
        let at = |stream: u8, micros, seq| {
            SourcePosition {
                stream: StreamId([stream; 16]),
                time: CdcTime::min_of(micros),
                batch_seq_no: seq,
            }
            .row_id()
        };
        let ids = [at(1, 1, 0), at(2, 1, 0), at(1, 2, 0), at(1, 1, 1)];
        for (i, a) in ids.iter().enumerate() {
            assert!(ids[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(at(1, 1, 0), at(1, 1, 0));
    }

    #[test]
    fn stream_ids_tell_their_token_and_vnode() {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(-7_i64).to_be_bytes());
        bytes[8..].copy_from_slice(&((0xabc_u64 << 26) | (513 << 4) | 1).to_be_bytes());
        assert_eq!(
            (StreamId(bytes).token(), StreamId(bytes).vnode_index()),
            (-7, 513)
        );
    }
}
