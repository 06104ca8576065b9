//! Write timestamps: which ones CDC accepts, and the timeuuids made of them.

use crate::error::CqlError;
use crate::storage::mutation::Timestamp;

/// A write may be dated this far from the coordinator's clock, in microseconds
/// (ScyllaDB `cdc/generation.cc`, `get_generation_leeway`: 5 s).
pub const LEEWAY_MICROS: i64 = 5_000_000;

/// 100 ns intervals between 1582-10-15 and 1970-01-01 (RFC 4122, 4.1.4).
const GREGORIAN_OFFSET: u64 = 0x01b2_1dd2_1381_4000;

/// A version 1 uuid whose time is exactly `micros` and whose other 64 bits are `random`, but for the IETF
/// variant (ScyllaDB `utils/UUID_gen.hh`): writes of one microsecond get distinct uuids in no particular order.
pub fn timeuuid_from_micros(micros: Timestamp, random: u64) -> [u8; 16] {
    // Times before 1582 wrap; no clock produces them and a client's timestamp is bounded by the generations.
    let ticks = (micros.wrapping_mul(10) as u64).wrapping_add(GREGORIAN_OFFSET);
    let high = (ticks << 32) | ((ticks >> 16) & 0xffff_0000) | 0x1000 | ((ticks >> 48) & 0x0fff);
    let low = (random & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&high.to_be_bytes());
    uuid[8..].copy_from_slice(&low.to_be_bytes());
    uuid
}

/// The microseconds in a version 1 uuid.
pub fn micros_of_timeuuid(uuid: &[u8; 16]) -> Timestamp {
    let part =
        |range: std::ops::Range<usize>| uuid[range].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let ticks = (part(6..8) & 0x0fff) << 48 | part(4..6) << 32 | part(0..4);
    ticks.wrapping_sub(GREGORIAN_OFFSET) as i64 / 10
}

/// The error for a write dated later than any stream is known for.
pub fn from_the_future(write: Timestamp, now: Timestamp) -> CqlError {
    CqlError::invalid(format!(
        "cdc: attempted to get a stream \"from the future\" ({write} us; current server time: {now} us). \
         Writes to a table with CDC may be dated at most {} s ahead: which streams will be in use later is \
         not known yet. Are the clocks of clients that set timestamps synchronized?",
        LEEWAY_MICROS / 1_000_000
    ))
}

/// The error for a write dated into a generation that has ended.
pub fn from_the_past(write: Timestamp, now: Timestamp) -> CqlError {
    CqlError::invalid(format!(
        "cdc: attempted to get a stream \"from the past\" ({write} us; current server time: {now} us). \
         The streams that were in use then are closed: a write to them would not be seen by readers. \
         Are the clocks of clients that set timestamps synchronized?"
    ))
}

#[cfg(test)]
mod tests {
    use super::{micros_of_timeuuid, timeuuid_from_micros};

    #[test]
    fn a_timeuuid_keeps_every_microsecond() {
        for micros in [0, 1, 1_700_000_000_123_456, 1_700_000_000_123_457] {
            for random in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
                let uuid = timeuuid_from_micros(micros, random);
                assert_eq!(micros_of_timeuuid(&uuid), micros);
                let parsed = uuid::Uuid::from_bytes(uuid);
                assert_eq!(parsed.get_version_num(), 1);
                assert_eq!(parsed.get_variant(), uuid::Variant::RFC4122);
            }
        }
    }

    #[test]
    fn the_random_part_tells_writes_of_one_microsecond_apart() {
        assert_ne!(timeuuid_from_micros(5, 1), timeuuid_from_micros(5, 2));
    }
}
