//! A relay, seen from outside: its metrics, its topic, its process.

mod drain;
mod queries;
mod steady;

pub use drain::{Drain, RelayDrain, drain};
pub use queries::{QueryLoad, queries};
pub use steady::{Observation, Steady, steady};

/// Events that the broker has acknowledged.
const DELIVERED: &str = "cdc_events_processed_total";
