//! Reading the log.
//!
//! Reading order: `record` (rows to changes), `topology` (stream sets to groups), `tail` (which query comes next and
//! what its answer means: the heart), `reader` (the task that asks; the only one that does IO, through the port).

pub mod duplicates;
pub mod limiter;
pub mod reader;
pub mod record;
pub mod retention;
pub mod tail;
pub mod topology;
