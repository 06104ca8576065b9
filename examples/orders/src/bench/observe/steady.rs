//! A relay under a steady load.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::DELIVERED;
use crate::bench::BenchError;
use crate::bench::processes::{Meter, Usage, Watched, memory};
use crate::bench::prometheus::Metrics;

/// How often resident memory is read.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// What to observe.
pub struct Observation {
    pub metrics: String,
    pub relay_pid: u32,
    /// The relay among them.
    pub watched: Vec<Watched>,
    pub duration: Duration,
}

/// What a relay did while it was observed. Latencies in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    #[serde(flatten)]
    pub usage: Usage,
    pub events: f64,
    /// From cdc$time to the delivery report, by the relay's histogram: exact at its bounds, interpolated between.
    pub end_to_end_p50: f64,
    pub end_to_end_p99: f64,
    /// Upper bound of the bucket that holds the slowest; none if only infinity bounds it.
    pub end_to_end_at_most: Option<f64>,
    pub queries: f64,
    pub partitions: f64,
    pub log_rows: f64,
    pub known_rows: f64,
    pub late_events: f64,
    pub resident_median_bytes: u64,
    pub resident_max_bytes: u64,
}

/// Observes for its whole duration.
///
/// # Errors
/// The relay is not there, or delivered nothing.
pub async fn steady(plan: Observation) -> Result<Steady, BenchError> {
    let client = reqwest::Client::new();
    let before = Metrics::scrape(&client, &plan.metrics).await?;
    let meter = Meter::start(&plan.watched)?;
    let end = Instant::now() + plan.duration;
    let mut resident = Vec::new();
    let mut samples = interval(SAMPLE_EVERY);
    samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        samples.tick().await;
        resident.push(memory(plan.relay_pid)?.resident);
    }
    let usage = meter.read()?;
    let after = Metrics::scrape(&client, &plan.metrics).await?;
    resident.sort_unstable();

    let latency = "outbox_relay_end_to_end_latency_seconds";
    let latency = after.histogram(latency).since(&before.histogram(latency));
    let milliseconds = |quantile: f64| {
        let seconds = latency.quantile(quantile);
        seconds
            .map(|seconds| seconds * 1000.0)
            .ok_or_else(|| BenchError::new("observing the relay", "it delivered nothing"))
    };
    let added = |name: &str| after.sum(name) - before.sum(name);
    Ok(Steady {
        usage,
        events: added(DELIVERED),
        end_to_end_p50: milliseconds(0.5)?,
        end_to_end_p99: milliseconds(0.99)?,
        end_to_end_at_most: latency
            .at_most()
            .filter(|bound| bound.is_finite())
            .map(|bound| bound * 1000.0),
        queries: added("outbox_relay_cql_queries_total"),
        partitions: added("outbox_relay_partitions_touched_total"),
        log_rows: added("outbox_relay_log_rows_total"),
        known_rows: added("outbox_relay_known_rows_total"),
        late_events: added("outbox_relay_late_events_total"),
        resident_median_bytes: resident.get(resident.len() / 2).copied().unwrap_or_default(),
        resident_max_bytes: resident.last().copied().unwrap_or_default(),
    })
}
