//! Metrics of the deletes of outbox rows, and of reconciliation.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

/// What becomes of an event that reconciliation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Handed over to be delivered.
    Delivered,
    /// Became a dead letter.
    Parked,
}

#[derive(Debug)]
pub struct CleanupMetrics {
    pub deleted: IntCounter,
    pub undeleted: IntGauge,
    failed: IntCounterVec,
    pub scanned_rows: IntCounter,
    pub scanned_slots: IntCounter,
    pub undated_rows: IntCounter,
    scan_failed: IntCounterVec,
    reconciled: IntCounterVec,
}

impl CleanupMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("outbox_relay_{name}"), help);
        let counter = |name, help| registered(registry, IntCounter::with_opts(opts(name, help))?);
        let counters =
            |name, help, label| registered(registry, IntCounterVec::new(opts(name, help), &[label])?);
        let metrics = Self {
            deleted: counter(
                "outbox_rows_deleted_total",
                "Outbox rows that were deleted after their events were done with.",
            )?,
            undeleted: registered(
                registry,
                IntGauge::with_opts(opts(
                    "outbox_rows_undeleted",
                    "Outbox rows of events that are done with and that are still to be deleted.",
                ))?,
            )?,
            failed: counters(
                "outbox_delete_errors_total",
                "Deletes of outbox rows that failed and are tried again, by category.",
                "category",
            )?,
            scanned_rows: counter(
                "reconcile_rows_total",
                "Rows of the outbox table that reconciliation looked at.",
            )?,
            scanned_slots: counter(
                "reconcile_slots_total",
                "Slots of the outbox table that reconciliation looked through.",
            )?,
            undated_rows: counter(
                "reconcile_undated_rows_total",
                "Rows without a value in the column that tells when they were written: what is left of them is no event.",
            )?,
            scan_failed: counters(
                "reconcile_errors_total",
                "Reads of the outbox table that failed, by category.",
                "category",
            )?,
            reconciled: counters(
                "reconciled_total",
                "Events that were found in the outbox table because their log rows never came, or came too late.",
                "outcome",
            )?,
        };
        for outcome in [Outcome::Delivered, Outcome::Parked] {
            metrics.reconciled(outcome, 0);
        }
        Ok(metrics)
    }

    pub fn delete_failed(&self, category: &str) {
        self.failed.with_label_values(&[category]).inc();
    }

    pub fn scan_failed(&self, category: &str) {
        self.scan_failed.with_label_values(&[category]).inc();
    }

    pub fn reconciled(&self, outcome: Outcome, count: usize) {
        let outcome = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Parked => "parked",
        };
        self.reconciled.with_label_values(&[outcome]).inc_by(count as u64);
    }
}
