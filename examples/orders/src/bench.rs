//! The benchmark: what a relay does, beside what the same machine does without one.
//!
//! Every measured part is a process of its own and prints one line of JSON; `report` turns the lines into a table.
//! The baselines are A, `produce`: bare librdkafka; B, `read`: the log through the bare driver; C, `pipe`: B feeding
//! A. They send the same bytes as the relay: same keys, payloads and headers, with the same producer settings.

pub mod baseline;
mod log;
pub mod observe;
pub mod processes;
mod producer;
pub mod prometheus;
pub mod report;
mod summary;
pub mod topic;

use serde::{Deserialize, Serialize};

use processes::Usage;

/// What could not be done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {detail}")]
pub struct BenchError {
    attempt: String,
    detail: String,
}

impl BenchError {
    fn new(attempt: impl Into<String>, detail: impl ToString) -> Self {
        Self {
            attempt: attempt.into(),
            detail: detail.to_string(),
        }
    }
}

/// What is timed in every round of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Produce,
    Read,
    Pipe,
    Relay,
    /// The relay with transactions.
    #[serde(rename = "exactly-once")]
    ExactlyOnce,
}

/// One line of the measurements.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "measured", rename_all = "lowercase")]
pub enum Line {
    Drain(Drained),
    Steady(observe::Steady),
    /// With transactions.
    #[serde(rename = "steady-exactly-once")]
    SteadyExactlyOnce(observe::Steady),
}

/// One part, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drained {
    pub part: Part,
    pub round: u32,
    pub events: u64,
    #[serde(flatten)]
    pub usage: Usage,
    /// The relay only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<observe::RelayDrain>,
}
