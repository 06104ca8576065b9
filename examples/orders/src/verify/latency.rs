//! Latencies of delivered events, on the machine's one wall clock.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::Sighting;
use crate::journal::Entry;

/// One microsecond to one hour; an event that took longer counts as one hour.
const HIGHEST_US: u64 = 3_600_000_000;

/// Distributions of what a live consumer saw and of what the broker noted.
#[derive(Debug, Clone)]
pub struct Latency {
    commit_to_consumption: Histogram<u64>,
    schedule_to_consumption: Histogram<u64>,
    commit_to_append: Histogram<u64>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Every distribution that has values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// From the answer to the writer until a live consumer had the event. An event that arrived before that answer
    /// counts as 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_to_consumption_ms: Option<Percentiles>,
    /// From the time that the load's schedule asked for the write: includes every wait of the writer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_to_consumption_ms: Option<Percentiles>,
    /// Until the broker appended it, where the topic keeps that time (`message.timestamp.type=LogAppendTime`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_to_append_ms: Option<Percentiles>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            commit_to_consumption: histogram(),
            schedule_to_consumption: histogram(),
            commit_to_append: histogram(),
        }
    }
}

impl Latency {
    /// Counts the first appearance of an event.
    pub fn record(&mut self, entry: &Entry, sighting: &Sighting) {
        let record = |histogram: &mut Histogram<u64>, from: Option<i64>, to: Option<i64>| {
            if let (Some(from), Some(to)) = (from, to) {
                histogram.saturating_record(u64::try_from(to - from).unwrap_or(0));
            }
        };
        record(
            &mut self.commit_to_consumption,
            entry.committed_us,
            sighting.consumed_us,
        );
        record(
            &mut self.schedule_to_consumption,
            Some(entry.scheduled_us),
            sighting.consumed_us,
        );
        record(
            &mut self.commit_to_append,
            entry.committed_us,
            sighting.appended_us,
        );
    }

    pub fn summary(&self) -> LatencySummary {
        LatencySummary {
            commit_to_consumption_ms: percentiles(&self.commit_to_consumption),
            schedule_to_consumption_ms: percentiles(&self.schedule_to_consumption),
            commit_to_append_ms: percentiles(&self.commit_to_append),
        }
    }
}

/// An empty distribution of microseconds.
pub fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "constant bounds: 1 < HIGHEST_US, three digits")]
    Histogram::new_with_bounds(1, HIGHEST_US, 3).expect("bounds are valid")
}

/// Milliseconds of a distribution of microseconds, if it has values.
pub fn percentiles(histogram: &Histogram<u64>) -> Option<Percentiles> {
    let milliseconds = |micros: u64| micros as f64 / 1000.0;
    (!histogram.is_empty()).then(|| Percentiles {
        count: histogram.len(),
        p50: milliseconds(histogram.value_at_quantile(0.50)),
        p99: milliseconds(histogram.value_at_quantile(0.99)),
        max: milliseconds(histogram.max()),
    })
}
