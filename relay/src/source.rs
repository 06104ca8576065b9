//! Reading the log.
//!
//! Reading order: `record` (rows to changes), `topology` (stream sets to groups), `tail` (which query comes next and
//! what its answer means: the heart), `reader` (the task that asks), `scylla` (the log behind the port). Only the last
//! two do IO.

pub mod duplicates;
pub mod limiter;
pub mod record;
pub mod retention;
pub mod tail;
pub mod topology;
