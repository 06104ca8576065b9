//! What the operator counts. Names, labels and help texts stand here.

use crate::controller::PassError;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// All metrics of the operator.
pub struct Metrics {
    registry: Registry,
    /// Passes over a resource.
    pub reconcile_seconds: Histogram,
    /// Failed passes by category.
    pub reconcile_errors: IntCounterVec,
    /// Passes that run.
    pub reconciling: IntGauge,
    /// Resources that were triggered and wait for a pass, or have one.
    pub queue: IntGauge,
    /// Requests that made a child true, by kind.
    pub applies: IntCounterVec,
    /// Written statuses.
    pub status_writes: IntCounter,
    /// Published Events.
    pub events: IntCounter,
    /// Answers of relays: `answered`, `unknown`.
    pub observations: IntCounterVec,
    /// 1 on the leader.
    pub leader: IntGauge,
    /// Resources that exist.
    pub resources: IntGauge,
}

impl Metrics {
    /// Registered, at zero.
    ///
    /// # Errors
    /// When two metrics have one name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let name = |name: &str| format!("outbox_relay_operator_{name}");
        let gauge = |short: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name(short), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |short: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name(short), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |short: &str, help: &str, label: &str| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name(short), help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        // From a pass that finds nothing to do to one that waits for a slow API server.
        let buckets = vec![
            0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        let options = HistogramOpts::new(
            name("reconcile_duration_seconds"),
            "Duration of a pass over a resource",
        );
        let reconcile_seconds = Histogram::with_opts(options.buckets(buckets))?;
        registry.register(Box::new(reconcile_seconds.clone()))?;
        let reconcile_errors = counters("reconcile_errors_total", "Passes that failed", "category")?;
        // At zero, so that the first one is an increase.
        for category in PassError::CATEGORIES {
            reconcile_errors.with_label_values(&[category]);
        }
        Ok(Self {
            reconcile_seconds,
            reconcile_errors,
            reconciling: gauge("reconciling", "Passes that run now")?,
            queue: gauge("queue_length", "Triggers from watches that no pass has taken up")?,
            applies: counters("applies_total", "Requests that made a child true", "kind")?,
            status_writes: counter("status_writes_total", "Written statuses")?,
            events: counter("events_total", "Kubernetes Events that became due")?,
            observations: counters("observations_total", "Questions to relays", "result")?,
            leader: gauge("leader", "1 while this process leads")?,
            resources: gauge("resources", "OutboxRelays that exist")?,
            registry,
        })
    }

    /// Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory does not fail, and every name was checked when it was registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}
