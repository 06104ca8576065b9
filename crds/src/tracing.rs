//! Traces of delivered events.

use serde::{Deserialize, Serialize};

/// Spans for OpenTelemetry: one per traced event, from its commit to the broker's acknowledgement. A collector that is slow
/// or away costs spans, and never an event or its time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// Where a collector takes OTLP over HTTP (protobuf), the whole URL: usually `http://<collector>:4318/v1/traces`. With
    /// https its certificate is checked by the authorities of the image or system.
    pub endpoint: String,
    /// Percent of the events without a trace context that get a trace of their own. An event with one
    /// (`source.columns.traceContext`) is traced if its context says that it is sampled.
    pub sample_percent: u32,
}
