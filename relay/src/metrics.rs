//! Every metric of the relay: name, labels, help text. The first group carries the names, labels and values that
//! dashboards of such relays already use; all others start with `outbox_relay_` and have base units.

mod cleanup;
mod delivery;
mod labels;
mod process;
mod reading;
mod snapshot;

use prometheus::core::Collector;
use prometheus::{Encoder, Registry, TextEncoder};

pub use cleanup::{CleanupMetrics, Outcome as Reconciled};
pub use delivery::{DeliveryMetrics, Replayed};
pub use labels::EventLabel;
pub use process::ProcessMetrics;
pub use reading::ReadingMetrics;
pub use snapshot::SnapshotMetrics;

/// All metrics of a process. Cheap to share; handles are made once, so that hot paths only add.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub delivery: DeliveryMetrics,
    pub reading: ReadingMetrics,
    pub process: ProcessMetrics,
    pub cleanup: CleanupMetrics,
    pub snapshot: SnapshotMetrics,
}

impl Metrics {
    /// # Errors
    /// Two metrics have the same name: a mistake in this module.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        Ok(Self {
            delivery: DeliveryMetrics::register(&registry)?,
            reading: ReadingMetrics::register(&registry)?,
            process: ProcessMetrics::register(&registry)?,
            cleanup: CleanupMetrics::register(&registry)?,
            snapshot: SnapshotMetrics::register(&registry)?,
            registry,
        })
    }

    /// Where other parts register what is theirs.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# metrics could not be rendered: {error}\n"),
        }
    }
}

/// Registers a metric and gives it back.
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        let text = Metrics::new().unwrap().render();
        assert!(text.contains("circuit_breaker_state 0"), "{text}");
    }
}
