//! `cdc$time`: version 1 UUIDs made of write timestamps, in the server's order.

use crate::world::Micros;

/// 100 ns ticks from the start of the Gregorian calendar to the Unix epoch.
const GREGORIAN: i128 = 122_192_928_000_000_000;

/// Microseconds, then the low half with each byte compared as signed.
pub(crate) type Order = (Micros, u64);

/// A timeuuid as the server makes it: the timestamp, random bits, the variant.
pub(crate) fn uuid(micros: Micros, random: u64) -> uuid::Uuid {
    let ticks = (i128::from(micros) * 10 + GREGORIAN) as u64;
    let low = (random & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    uuid::Uuid::from_fields(
        ticks as u32,
        (ticks >> 32) as u16,
        (((ticks >> 48) as u16) & 0x0fff) | 0x1000,
        &low.to_be_bytes(),
    )
}

/// Where a timeuuid stands in the order of a log partition. Bounds of queries are compared in ticks of 100 ns, which
/// lie on whole microseconds.
pub(crate) fn order(uuid: &uuid::Uuid) -> Order {
    let (low, mid, high, rest) = uuid.as_fields();
    let ticks = u64::from(low) | u64::from(mid) << 32 | u64::from(high & 0x0fff) << 48;
    let micros = (i128::from(ticks) - GREGORIAN) / 10;
    (
        micros as Micros,
        u64::from_be_bytes(*rest) ^ 0x8080_8080_8080_8080,
    )
}
