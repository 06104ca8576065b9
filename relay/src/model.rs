//! The words of the data plane: times, streams, positions, slots. Pure values.

mod position;
mod slot;

pub use position::{CdcTime, RowId, SourcePosition, StreamId};
pub use slot::{SLOTS, SlotId, SlotSet};

/// Microseconds since the Unix epoch: the resolution of ScyllaDB's write timestamps.
pub type Micros = i64;

/// Microseconds in a second.
pub const SECOND: Micros = 1_000_000;
