//! Who owns which slot, and how far each slot is delivered.
//!
//! `ownership` and `checkpoint` decide (pure); `scylla` keeps; `keeper` is the task that does both on time.

pub mod checkpoint;
pub mod keeper;
pub mod ownership;
pub mod schema;
pub mod scylla;
