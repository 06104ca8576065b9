//! Metrics of the process as a whole: ownership, checkpoints, what is kept in memory.

use prometheus::{Gauge, IntGauge, Opts, Registry};

use super::registered;

/// Set when metrics are asked for.
#[derive(Debug)]
pub struct ProcessMetrics {
    pub owned_slots: IntGauge,
    pub known_rows: IntGauge,
    pub checkpoint_age: Gauge,
    pub saves: IntGauge,
    pub save_failures: IntGauge,
    pub fenced: IntGauge,
    pub order_preserved: IntGauge,
    pub retention_gaps: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("outbox_relay_{name}"), help);
        let gauge = |name, help| registered(registry, Gauge::with_opts(opts(name, help))?);
        let count = |name, help| registered(registry, IntGauge::with_opts(opts(name, help))?);
        Ok(Self {
            owned_slots: count("owned_slots", "Slots that this process owns.")?,
            known_rows: count("known_rows", "Ids of log rows held in memory, 8 bytes each.")?,
            checkpoint_age: gauge(
                "checkpoint_age_seconds",
                "Time since nothing was left unsaved; alert when it exceeds some checkpoint intervals.",
            )?,
            saves: count(
                "checkpoint_saves",
                "Checkpoints of single slots written since the start.",
            )?,
            save_failures: count(
                "checkpoint_save_failures",
                "Checkpoint writes that failed since the start.",
            )?,
            fenced: count(
                "slots_lost",
                "Slots that other processes took from this one since the start.",
            )?,
            order_preserved: count(
                "order_preserved",
                "1 if events of one aggregate keep their order, else 0.",
            )?,
            retention_gaps: count(
                "retention_gaps",
                "Slots of which rows expired from the CDC log unread, counted once per gap since the start.",
            )?,
        })
    }
}
