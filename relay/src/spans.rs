//! Spans for OpenTelemetry (`tracing`): one per traced event, from its commit to the broker's acknowledgement or to its dead
//! letter, sent to a collector by OTLP over HTTP.
//!
//! Messages are the same with and without. The span belongs to the trace of whoever wrote the row, beside the consumers'
//! spans, which go by the message's own `traceparent`. A collector that is slow or away costs spans: the queue is bounded,
//! and what does not fit is dropped.

mod context;

use std::fmt;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crds::{RelayConfig, Tracing};
use opentelemetry::trace::{
    Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use tokio::runtime::Handle;

use crate::model::Micros;

pub use context::{Ended, Trace};

/// Spans that wait for the collector, some 2 MiB; and how many it gets at once, and when.
const QUEUE: usize = 2048;
const BATCH: usize = 512;
const EVERY: Duration = Duration::from_secs(2);

/// One request to the collector. Also how long a stop waits for the last one.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why there are no spans.
#[derive(Debug, thiserror::Error)]
#[error("tracing.endpoint: {0}")]
pub struct SpansError(String);

/// Makes spans and sends them. Clones share what waits.
#[derive(Clone)]
pub struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Spans {
    /// Reaches for no network. To be called on the runtime that the requests are made on.
    ///
    /// # Errors
    /// The endpoint is no URL, or there is no HTTP client.
    pub fn open(tracing: &Tracing, config: &RelayConfig, process: &str) -> Result<Self, SpansError> {
        let failed = |error: &dyn fmt::Display| SpansError(error.to_string());
        let http = reqwest::Client::builder().timeout(TIMEOUT).build();
        let sender = Sender {
            http: http.map_err(|error| failed(&error))?,
            runtime: Handle::try_current().map_err(|error| failed(&error))?,
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_endpoint(&tracing.endpoint)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| failed(&error))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EVERY);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build());
        let resource = Resource::builder_empty()
            .with_service_name("outbox-relay")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.namespace", config.identity.clone()),
                KeyValue::new("service.instance.id", process.to_owned()),
            ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor.build())
            .with_resource(resource.build())
            // What is to be traced was decided when the event was read.
            .with_sampler(Sampler::AlwaysOn)
            .build();
        let scope = InstrumentationScope::builder("outbox-relay").build();
        Ok(Self {
            tracer: provider.tracer_with_scope(scope),
            provider,
        })
    }

    /// An event is done with, now. Never waits.
    pub fn ended(&self, event: &Ended, now: Micros) {
        let parent = event.trace.parent.clone();
        let parent = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent)
        });
        let handed = now.saturating_sub_unsigned(event.took.as_micros() as u64);
        // A dead letter that is sent again was committed long ago.
        let begun = if event.replayed { handed } else { event.committed };
        let builder = self
            .tracer
            .span_builder(format!("send {}", event.topic))
            .with_kind(SpanKind::Producer)
            .with_start_time(time(begun.min(handed)))
            .with_attributes(attributes(event));
        let mut span = self.tracer.build_with_context(builder, &parent);
        span.add_event_with_timestamp("read", time(handed), Vec::new());
        if !event.delivered {
            span.set_attribute(KeyValue::new("error.type", "dead_letter"));
            span.set_status(Status::error("became a dead letter"));
        }
        span.end_with_timestamp(time(now));
    }

    /// Sends what waits, for [`TIMEOUT`] at most.
    pub async fn flush(&self) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.force_flush());
        if let Ok(Ok(Err(error))) = tokio::time::timeout(TIMEOUT, flushed).await {
            tracing::debug!(%error, "the last spans are not sent");
        }
    }
}

/// By the names of OpenTelemetry's conventions for messaging.
fn attributes(event: &Ended) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.operation.name", "send"),
        KeyValue::new("messaging.destination.name", event.topic.to_string()),
        KeyValue::new("messaging.message.id", event.event_id.clone()),
        KeyValue::new("messaging.message.body.size", event.body_bytes as i64),
    ];
    if let Some(at) = event.trace.at {
        attributes.push(KeyValue::new(
            "messaging.destination.partition.id",
            at.partition.to_string(),
        ));
        attributes.push(KeyValue::new("messaging.kafka.offset", at.offset));
    }
    let text = [
        ("messaging.kafka.message.key", event.key.as_deref()),
        ("outbox.aggregate.id", event.aggregate_id.as_deref()),
        ("outbox.event.type", event.event_type.as_deref()),
    ];
    let text = text
        .into_iter()
        .filter_map(|(name, text)| Some(KeyValue::new(name, text?.to_owned())));
    attributes.extend(text);
    if event.attempts > 0 {
        attributes.push(KeyValue::new("outbox.failed_attempts", i64::from(event.attempts)));
    }
    if event.replayed {
        attributes.push(KeyValue::new("outbox.replayed", true));
    }
    attributes
}

fn time(at: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at.try_into().unwrap_or(0))
}

/// Sends requests on the relay's runtime: whoever exports has a thread of its own, without one.
#[derive(Debug)]
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
}

impl HttpClient for Sender {
    fn send_bytes<'a: 'b, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        Self: 'b,
    {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let answer = http.execute(request.try_into()?).await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            let body = answer.bytes().await?;
            Ok::<_, HttpError>(response.body(body)?)
        });
        Box::pin(async move { sent.await? })
    }
}
