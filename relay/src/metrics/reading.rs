//! Metrics of reading.

use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;
use crate::model::{Micros, SECOND};
use crate::source::tail::Counts;

/// From a quarter millisecond, a memtable read, to the ten seconds after which a request is given up.
const CQL_SECONDS: [f64; 14] = [
    0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];

/// Counted by the reader.
#[derive(Debug)]
pub struct ReadingMetrics {
    lag: Gauge,
    headroom: Gauge,
    suppressed: IntCounter,
    ignored: IntCounterVec,
    repeated: IntCounter,
    broken: IntCounter,
    latency: Histogram,
    pub queries_in_flight: IntGauge,
    pub queries_allowed: IntGauge,
    queries: IntCounterVec,
    errors: IntCounterVec,
    partitions: IntCounterVec,
    rows: IntCounter,
}

impl ReadingMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("outbox_relay_{name}"), help);
        let counter = |name, help| registered(registry, IntCounter::with_opts(opts(name, help))?);
        let counters =
            |name, help, label| registered(registry, IntCounterVec::new(opts(name, help), &[label])?);
        let gauge = |name, help| registered(registry, Gauge::with_opts(opts(name, help))?);
        let int_gauge = |name, help| registered(registry, IntGauge::with_opts(opts(name, help))?);
        let latency = HistogramOpts::new(
            "outbox_relay_cql_duration_seconds",
            "Duration of reads of the CDC log.",
        );
        Ok(Self {
            lag: gauge(
                "source_lag_seconds",
                "Age of the oldest part of the CDC log that has not been read yet.",
            )?,
            headroom: gauge(
                "retention_headroom_seconds",
                "Time until rows that are not delivered yet expire from the CDC log; negative once some have.",
            )?,
            suppressed: counter(
                "duplicates_suppressed_total",
                "Second log rows of an event that were not delivered again.",
            )?,
            ignored: counters(
                "ignored_changes_total",
                "Changes of outbox rows that are no events, by operation.",
                "operation",
            )?,
            repeated: counter("known_rows_total", "Log rows that were read again and known.")?,
            broken: counter(
                "broken_records_events_total",
                "Events of log records whose end did not become readable within the horizon; delivered as they were.",
            )?,
            latency: registered(
                registry,
                Histogram::with_opts(latency.buckets(CQL_SECONDS.to_vec()))?,
            )?,
            queries_in_flight: int_gauge("cql_queries_in_flight", "Reads of the CDC log under way.")?,
            queries_allowed: int_gauge(
                "cql_queries_allowed",
                "Reads of the CDC log that may be under way; falls as errors or latency rise.",
            )?,
            queries: counters(
                "cql_queries_total",
                "Reads of the CDC log, by what asked.",
                "cursor",
            )?,
            errors: counters(
                "cql_errors_total",
                "Failed reads of the CDC log, by category.",
                "category",
            )?,
            partitions: counters(
                "partitions_touched_total",
                "Stream partitions that reads asked for, by what asked.",
                "cursor",
            )?,
            rows: counter("log_rows_total", "Rows of the CDC log that were read.")?,
        })
    }

    /// The lag as it was last set.
    pub fn current_lag(&self) -> Option<Micros> {
        Some((self.lag.get() * SECOND as f64) as Micros)
    }

    pub fn suppressed(&self) -> u64 {
        self.suppressed.get()
    }

    /// Ignored changes of all operations.
    pub fn ignored(&self) -> u64 {
        let families = self.ignored.collect();
        let counts = families.iter().flat_map(|family| family.get_metric());
        counts.map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    pub fn asked(&self, cursor: &str, partitions: usize) {
        self.queries.with_label_values(&[cursor]).inc();
        self.partitions
            .with_label_values(&[cursor])
            .inc_by(partitions as u64);
    }

    pub fn answered(&self, latency: Duration, rows: usize) {
        self.latency.observe(latency.as_secs_f64());
        self.rows.inc_by(rows as u64);
    }

    pub fn failed(&self, category: &str) {
        self.errors.with_label_values(&[category]).inc();
    }

    /// None: nothing to read.
    pub fn lag(&self, lag: Option<Micros>) {
        self.lag.set(seconds(lag.unwrap_or_default()));
    }

    /// None: nothing expires.
    pub fn headroom(&self, headroom: Option<Micros>) {
        self.headroom.set(headroom.map_or(f64::INFINITY, seconds));
    }

    /// What happened between two states of the counts.
    pub fn counted(&self, before: &Counts, now: &Counts) {
        self.suppressed.inc_by(now.suppressed - before.suppressed);
        self.repeated.inc_by(now.known - before.known);
        self.broken.inc_by(now.broken - before.broken);
        for (operation, count) in &now.ignored {
            let before = before.ignored.get(operation).copied().unwrap_or_default();
            self.ignored
                .with_label_values(&[operation])
                .inc_by(count - before);
        }
    }
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / SECOND as f64
}
