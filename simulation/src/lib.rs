//! Drives the relay's production pipeline through schedules of faults, one per seed, under virtual time, with models
//! of the CDC log, the broker, the state store and the dead letters behind its ports. An oracle checks the promises
//! all the while.
//!
//! The models and the oracle follow ScyllaDB's and Kafka's documentation and share no code with the relay beyond the
//! types of its ports.

mod broker;
mod chance;
mod letters;
mod log;
mod oracle;
mod plan;
mod process;
mod relay_process;
mod schedule;
mod store;
mod tally;
mod world;
mod writer;

pub use oracle::Violation;
pub use schedule::{Outcome, run, run_killing};
pub use tally::Tally;
