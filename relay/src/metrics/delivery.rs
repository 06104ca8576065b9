//! Metrics of delivering.

use std::time::Duration;

use crds::relay_status::{BreakerState, Health};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::labels::{EventLabel, EventLabels};
use crate::deliver::breaker::Transition;
use crate::model::Micros;
use crate::ports::{DeliveryError, ErrorClass, Reason};

/// The operation of `retry_attempts_total`; dashboards look for this very value.
const PUBLISH: &str = "redpanda_publish";

/// Attempts that get a label value of their own; further ones share the last.
const MAX_ATTEMPT_LABEL: u32 = 20;

/// What `retry.maxAttempts` is by default; a series for each of them is there from the start.
const USUAL_ATTEMPTS: u32 = 5;

/// What a breaker does.
const TRANSITIONS: [(BreakerState, BreakerState); 4] = [
    (BreakerState::Closed, BreakerState::Open),
    (BreakerState::Open, BreakerState::HalfOpen),
    (BreakerState::HalfOpen, BreakerState::Closed),
    (BreakerState::HalfOpen, BreakerState::Open),
];

/// From half a millisecond to half a minute: milliseconds are the promise, seconds an outage.
const LATENCY_SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// What became of a dead letter whose replay was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    Delivered,
    /// It is a dead letter again.
    Failed,
    /// It was not sent.
    Refused,
}

impl Replayed {
    fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// Counted by the lane's shell.
#[derive(Debug)]
pub struct DeliveryMetrics {
    events: EventLabels<EventHandles>,
    retry_attempts: IntCounterVec,
    retry_success: IntCounter,
    retry_failure: IntCounter,
    dead_letters: IntCounter,
    breaker_state: IntGauge,
    breaker_transitions: IntCounterVec,
    actor_health: IntGaugeVec,
    end_to_end: Histogram,
    failures: IntCounterVec,
    dead_letters_by_reason: IntCounterVec,
    dead_letter_failures: IntCounter,
    replayed: IntCounterVec,
    generations: IntCounter,
    late: IntCounter,
    queue_full: IntCounter,
    transactions: HistogramVec,
    pub in_flight_messages: IntGauge,
    pub in_flight_bytes: IntGauge,
    pub dead_letters_pending: IntGauge,
    pub held_aggregates: IntGauge,
    pub oldest_unresolved_seconds: Gauge,
}

#[derive(Debug)]
struct EventHandles {
    processed: IntCounter,
    failed: IntCounter,
    dead_lettered: IntCounter,
    duration: Histogram,
}

impl DeliveryMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Make { registry };
        let attempts = ["operation", "attempt"];
        let metrics = Self {
            events: event_labels(&make)?,
            retry_attempts: make.counters(
                "retry_attempts_total",
                "Failed attempts to publish an event",
                &attempts,
            )?,
            retry_success: make.counter("retry_success_total", "Events published after failed attempts")?,
            retry_failure: make.counter("retry_failure_total", "Events that used up their attempts")?,
            dead_letters: make.counter("dlq_messages_total", "Dead letters written")?,
            breaker_state: make.gauge("circuit_breaker_state", "0 closed, 1 open, 2 half-open")?,
            breaker_transitions: make.counters(
                "circuit_breaker_transitions_total",
                "Changes of the circuit breaker's state",
                &["from_state", "to_state"],
            )?,
            actor_health: make.gauges(
                "actor_health_status",
                "1 if the component works, else 0",
                &["actor"],
            )?,
            end_to_end: make.histogram(
                "outbox_relay_end_to_end_latency_seconds",
                "From the write of an outbox row to the broker's acknowledgement",
            )?,
            failures: make.counters(
                "outbox_relay_delivery_failures_total",
                "Failed attempts by class of error",
                &["class"],
            )?,
            dead_letters_by_reason: make.counters(
                "outbox_relay_dead_letters_total",
                "Dead letters written, by reason",
                &["reason"],
            )?,
            dead_letter_failures: make.counter(
                "outbox_relay_dead_letter_write_failures_total",
                "Batches of dead letters that could not be written",
            )?,
            replayed: replays(&make)?,
            generations: make.counter(
                "outbox_relay_producer_generations_total",
                "Producers that came to their end",
            )?,
            late: make.counter(
                "outbox_relay_late_events_total",
                "Events handed over after a later one of their aggregate",
            )?,
            queue_full: make.counter(
                "outbox_relay_producer_queue_full_total",
                "Messages the producer had no room for",
            )?,
            transactions: make.histograms(
                "outbox_relay_transaction_end_seconds",
                "How long ending a transaction took, by what became of it",
                &["result"],
            )?,
            in_flight_messages: make
                .gauge("outbox_relay_in_flight_messages", "Events read and not resolved")?,
            in_flight_bytes: make.gauge(
                "outbox_relay_in_flight_bytes",
                "Bytes of events read and not resolved",
            )?,
            dead_letters_pending: make.gauge(
                "outbox_relay_dead_letters_pending",
                "Dead letters of the owned slots that wait for a decision",
            )?,
            oldest_unresolved_seconds: make.float(
                "outbox_relay_oldest_unresolved_seconds",
                "Age of the oldest event that is read and not resolved",
            )?,
            held_aggregates: make.gauge(
                "outbox_relay_held_aggregates",
                "Aggregates whose later events become dead letters",
            )?,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// A series that comes into being with 1 has not risen for `rate()`: what can be known beforehand is there at 0.
    fn start_at_zero(&self) {
        for attempt in 1..=USUAL_ATTEMPTS {
            self.retry_attempts
                .with_label_values(&[PUBLISH, &attempt.to_string()]);
        }
        for (from, to) in TRANSITIONS {
            self.breaker_transitions
                .with_label_values(&[state_name(from), state_name(to)]);
        }
        for class in ErrorClass::ALL {
            self.failures.with_label_values(&[class.category()]);
        }
        let exhausted = ErrorClass::ALL.map(Reason::Exhausted);
        for reason in [Reason::Rejected, Reason::Held, Reason::Reconciled]
            .into_iter()
            .chain(exhausted)
        {
            self.dead_letters_by_reason.with_label_values(&[reason.name()]);
        }
    }

    /// The label of an event type; None could not be read.
    pub fn label(&self, event_type: Option<&str>) -> EventLabel {
        self.events.label(event_type)
    }

    /// An event was acknowledged at `now`; it had been with us for `took` and was written at `written`.
    pub fn delivered(&self, label: EventLabel, took: Duration, written: Micros, now: Micros) {
        let handles = self.events.handle(label);
        handles.processed.inc();
        handles.duration.observe(took.as_secs_f64());
        self.end_to_end
            .observe(now.saturating_sub(written).max(0) as f64 / 1e6);
    }

    pub fn dead_lettered(&self, label: EventLabel, reason: Reason) {
        let handles = self.events.handle(label);
        handles.failed.inc();
        handles.dead_lettered.inc();
        self.dead_letters.inc();
        self.dead_letters_by_reason
            .with_label_values(&[reason.name()])
            .inc();
    }

    pub fn replayed(&self, outcome: Replayed) {
        self.replayed.with_label_values(&[outcome.name()]).inc();
    }

    /// The `attempt`-th attempt of an event failed, counted from 1.
    pub fn attempt_failed(&self, attempt: u32, error: &DeliveryError) {
        let attempt = attempt.min(MAX_ATTEMPT_LABEL).to_string();
        self.retry_attempts.with_label_values(&[PUBLISH, &attempt]).inc();
        self.failures.with_label_values(&[error.class.category()]).inc();
    }

    pub fn retry_succeeded(&self) {
        self.retry_success.inc();
    }

    pub fn retries_exhausted(&self) {
        self.retry_failure.inc();
    }

    pub fn breaker_changed(&self, transition: Transition) {
        let (from, to) = (state_name(transition.from), state_name(transition.to));
        self.breaker_transitions.with_label_values(&[from, to]).inc();
        self.breaker_state.set(match transition.to {
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
        });
    }

    /// 1 for a component that works, even if not fully.
    pub fn component(&self, name: &str, health: Health) {
        let works = matches!(health, Health::Healthy | Health::Degraded);
        self.actor_health.with_label_values(&[name]).set(i64::from(works));
    }

    pub fn dead_letters_not_written(&self) {
        self.dead_letter_failures.inc();
    }

    pub fn generation_ended(&self) {
        self.generations.inc();
    }

    pub fn late(&self) {
        self.late.inc();
    }

    pub fn queue_full(&self) {
        self.queue_full.inc();
    }

    /// `result`: committed, aborted, or failed if the producer has to ask again or came to its end.
    pub fn transaction_ended(&self, result: &str, took: Duration) {
        self.transactions
            .with_label_values(&[result])
            .observe(took.as_secs_f64());
    }
}

fn replays(make: &Make<'_>) -> Result<IntCounterVec, prometheus::Error> {
    let replays = make.counters(
        "outbox_relay_dead_letters_replayed_total",
        "Dead letters whose replay was asked for, by what became of it: delivered, failed (again a dead letter) or refused",
        &["outcome"],
    )?;
    for outcome in [Replayed::Delivered, Replayed::Failed, Replayed::Refused] {
        replays.with_label_values(&[outcome.name()]);
    }
    Ok(replays)
}

fn event_labels(make: &Make<'_>) -> Result<EventLabels<EventHandles>, prometheus::Error> {
    let label = ["event_type"];
    let processed = make.counters(
        "cdc_events_processed_total",
        "Events acknowledged by the broker",
        &label,
    )?;
    let failed = make.counters("cdc_events_failed_total", "Events given up", &label)?;
    let dead = make.counters(
        "dlq_messages_by_event_type",
        "Dead letters written, by event type",
        &label,
    )?;
    let duration = make.histograms(
        "cdc_processing_duration_seconds",
        "From reading an event to its acknowledgement",
        &label,
    )?;
    Ok(EventLabels::new(move |event_type| EventHandles {
        processed: processed.with_label_values(&[event_type]),
        failed: failed.with_label_values(&[event_type]),
        dead_lettered: dead.with_label_values(&[event_type]),
        duration: duration.with_label_values(&[event_type]),
    }))
}

fn state_name(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half_open",
    }
}

/// Makes and registers at once.
struct Make<'a> {
    registry: &'a Registry,
}

impl Make<'_> {
    fn add<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: M,
    ) -> Result<M, prometheus::Error> {
        super::registered(self.registry, metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn float(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::new(name, help)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(latency(name, help))?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(latency(name, help), labels)?)
    }
}

fn latency(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(LATENCY_SECONDS.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::ports::Outcome;

    #[test]
    fn dashboards_find_the_names_labels_and_values_that_they_know() {
        let metrics = Metrics::new().unwrap();
        let delivery = &metrics.delivery;
        let label = delivery.label(Some("OrderCreated"));
        delivery.delivered(label, Duration::from_millis(3), 0, 4_000);
        delivery.dead_lettered(label, Reason::Rejected);
        let error = DeliveryError {
            class: ErrorClass::Transient,
            code: String::new(),
            detail: String::new(),
            outcome: Outcome::Unknown,
        };
        delivery.attempt_failed(1, &error);
        delivery.attempt_failed(u32::MAX, &error);
        delivery.retry_succeeded();
        delivery.retries_exhausted();
        delivery.transaction_ended("committed", Duration::from_millis(8));
        delivery.component("sink", Health::Degraded);
        delivery.breaker_changed(Transition {
            from: BreakerState::Open,
            to: BreakerState::HalfOpen,
        });
        let text = metrics.render();
        for line in [
            "cdc_events_processed_total{event_type=\"OrderCreated\"} 1",
            "cdc_events_failed_total{event_type=\"OrderCreated\"} 1",
            "cdc_processing_duration_seconds_bucket{event_type=\"OrderCreated\",le=\"0.005\"} 1",
            "retry_attempts_total{attempt=\"1\",operation=\"redpanda_publish\"} 1",
            "retry_attempts_total{attempt=\"20\",operation=\"redpanda_publish\"} 1",
            "retry_success_total 1",
            "outbox_relay_transaction_end_seconds_bucket{result=\"committed\",le=\"0.01\"} 1",
            "retry_failure_total 1",
            "dlq_messages_total 1",
            "dlq_messages_by_event_type{event_type=\"OrderCreated\"} 1",
            "circuit_breaker_state 2",
            "circuit_breaker_transitions_total{from_state=\"open\",to_state=\"half_open\"} 1",
            "actor_health_status{actor=\"sink\"} 1",
            "outbox_relay_end_to_end_latency_seconds_bucket{le=\"0.005\"} 1",
            "outbox_relay_delivery_failures_total{class=\"Transient\"} 2",
            "outbox_relay_dead_letters_total{reason=\"message\"} 1",
            // From the start: what rises from nothing to 1 has not risen for a query.
            "retry_attempts_total{attempt=\"5\",operation=\"redpanda_publish\"} 0",
            "circuit_breaker_transitions_total{from_state=\"closed\",to_state=\"open\"} 0",
            "outbox_relay_delivery_failures_total{class=\"Message\"} 0",
            "outbox_relay_dead_letters_total{reason=\"held\"} 0",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} is missing in\n{text}"
            );
        }
    }
}
