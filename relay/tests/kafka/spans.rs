//! A trace goes on through the relay: what a collector gets of events that were traced by whoever wrote them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use crds::Tracing;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use parking_lot::Mutex;
use prost::Message as _;

use crate::A_WHILE;
use crate::cluster::Cluster;
use crate::fed::wait_until;
use crate::hazards::{Running, config, database};

/// Takes OTLP, as a collector does.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// What the last spans were of.
    resource: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let taker = collector.clone();
        let take = move |body: Bytes| async move { taker.take(body) };
        let served = axum::serve(listener, Router::new().route("/v1/traces", post(take)));
        tokio::spawn(served.into_future());
        (collector, endpoint)
    }

    fn take(&self, body: Bytes) {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for part in request.resource_spans {
            let resource = part.resource.unwrap().attributes;
            *self.resource.lock() = resource
                .iter()
                .map(|own| format!("{}={}", own.key, text(own.value.as_ref())))
                .collect();
            let spans = part.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().extend(spans);
        }
    }

    fn of_event(&self, id: &str) -> Span {
        let spans = self.spans.lock();
        let found = spans.iter().find(|span| said(span, "messaging.message.id") == id);
        found.unwrap().clone()
    }
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn said(span: &Span, name: &str) -> String {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name);
    attribute.map_or_else(String::new, |attribute| text(attribute.value.as_ref()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traced_event_has_a_span_from_its_commit_to_its_end() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("traced", 1, &[]).await;
    let (collector, endpoint) = Collector::start().await;
    let (sandbox, session) = database("'ttl': '600'").await;
    session
        .query_unpaged("ALTER TABLE shop.outbox ADD trace text", ())
        .await
        .unwrap();
    let mut config = config(&sandbox, &cluster, &topic);
    config.source.columns.trace_context = Some("trace".to_owned());
    config.tracing = Some(Tracing {
        endpoint,
        sample_percent: 0,
    });
    let relay = Running::start(config);

    let insert =
        "INSERT INTO shop.outbox (aggregate_id, id, event_type, payload, trace) VALUES ('a', ?, 'T', ?, ?)";
    let context = |number: i32, flags: &str| format!("00-{number:032x}-00000000000000{number:02x}-{flags}");
    for (id, payload, trace) in [
        (1, Some("{}"), Some(context(1, "01"))),
        (2, Some("{}"), Some(context(2, "00"))),
        (3, Some("{}"), None),
        // No message can be made of it.
        (4, None, Some(context(4, "01"))),
    ] {
        session.query_unpaged(insert, (id, payload, trace)).await.unwrap();
    }
    let taken = collector.clone();
    wait_until("two spans", A_WHILE, || taken.spans.lock().len() >= 2).await;
    // A stop sends what waits.
    relay.end().await;
    assert_eq!(
        collector.spans.lock().len(),
        2,
        "one that is not sampled and one without a context have none"
    );

    let span = collector.of_event("1");
    assert_eq!(span.name, format!("send {topic}"));
    assert_eq!(span.kind(), SpanKind::Producer);
    assert_eq!(u128::from_be_bytes(span.trace_id.clone().try_into().unwrap()), 1);
    assert_eq!(
        u64::from_be_bytes(span.parent_span_id.clone().try_into().unwrap()),
        1
    );
    for (name, expected) in [
        ("messaging.system", "kafka"),
        ("messaging.destination.name", topic.as_str()),
        ("messaging.destination.partition.id", "0"),
        ("messaging.kafka.offset", "0"),
        ("messaging.kafka.message.key", "a"),
        ("outbox.aggregate.id", "a"),
        ("outbox.event.type", "T"),
    ] {
        assert_eq!(said(&span, name), expected, "{name}");
    }
    assert_ne!(span.status.clone().unwrap_or_default().code(), StatusCode::Error);
    let took = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    assert!(Duration::ZERO < took && took < A_WHILE, "{took:?}");
    let read = &span.events[0];
    assert_eq!(read.name, "read");
    assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&read.time_unix_nano));

    let lettered = collector.of_event("4");
    assert_eq!(lettered.status.clone().unwrap().code(), StatusCode::Error);
    assert_eq!(said(&lettered, "error.type"), "dead_letter");
    let resource = collector.resource.lock().clone();
    assert!(
        resource.contains(&"service.name=outbox-relay".to_owned()),
        "{resource:?}"
    );
    assert!(
        resource.contains(&"service.namespace=shop.hazards".to_owned()),
        "{resource:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_delays_nothing() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("untraced", 1, &[]).await;
    let (sandbox, session) = database("'ttl': '600'").await;
    let mut config = config(&sandbox, &cluster, &topic);
    let endpoint = "http://127.0.0.1:1/v1/traces".to_owned();
    config.tracing = Some(Tracing {
        endpoint,
        sample_percent: 100,
    });
    let relay = Running::start(config);
    // More than the queue of spans holds.
    crate::hazards::write(&session, 0..3_000).await;
    relay
        .status(|status| status["totals"]["processed"] == 3_000)
        .await;
    let stopping = std::time::Instant::now();
    relay.end().await;
    assert!(
        stopping.elapsed() < Duration::from_secs(15),
        "{:?}",
        stopping.elapsed()
    );
}
