//! Metrics of what the outbox table holds from before the log is read (`source.startFrom: Snapshot`).

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

#[derive(Debug)]
pub struct SnapshotMetrics {
    pub slots: IntGauge,
    pub rows: IntCounter,
    pub events: IntCounter,
    pub undated_rows: IntCounter,
    failed: IntCounterVec,
}

impl SnapshotMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("outbox_relay_{name}"), help);
        let counter = |name, help| registered(registry, IntCounter::with_opts(opts(name, help))?);
        Ok(Self {
            slots: registered(
                registry,
                IntGauge::with_opts(opts(
                    "snapshot_slots",
                    "Owned slots whose older rows are still to be read from the outbox table, before their log is.",
                ))?,
            )?,
            rows: counter(
                "snapshot_rows_total",
                "Rows of the outbox table that a snapshot looked at.",
            )?,
            events: counter(
                "snapshot_events_total",
                "Events of rows that were written before the log is read, handed over to be delivered.",
            )?,
            undated_rows: counter(
                "snapshot_undated_rows_total",
                "Rows without a value in the column that tells when they were written: what is left of them is no event.",
            )?,
            failed: registered(
                registry,
                IntCounterVec::new(
                    opts(
                        "snapshot_errors_total",
                        "Reads of the outbox table for a snapshot that failed and are tried again, by category.",
                    ),
                    &["category"],
                )?,
            )?,
        })
    }

    pub fn failed(&self, category: &str) {
        self.failed.with_label_values(&[category]).inc();
    }
}
