//! Reading the log.
//!
//! Reading order: `record` (rows to changes), `topology` (stream sets to groups), `tail` (which query comes next and
//! what its answer means: the heart), `pump` and `reader` (the task that asks; the only one that does
//! IO, through the port). `polling`
//! reads the table instead of its log, `snapshot` what the table holds from before.

pub mod duplicates;
pub mod limiter;
mod newest;
pub mod polling;
mod pump;
pub mod reader;
pub mod record;
pub mod retention;
pub mod snapshot;
pub mod tail;
pub mod topology;
