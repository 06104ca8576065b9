//! The one file that the relay loads.

use crate::{CircuitBreaker, DeadLetter, Memory, Retry, Sink, Source, State};
use serde::{Deserialize, Serialize};

/// The relay's configuration. Every part but `identity`, `http` and `log` is the same as in the custom resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Version of this format: outboxrelay.dev/v1alpha1.
    pub api_version: String,
    /// Key of all state. Two relays with one identity share the work; give every outbox its own.
    pub identity: String,
    /// The outbox table.
    pub source: Source,
    /// The Kafka topic.
    pub sink: Sink,
    /// How many shares the work is cut into; with more than one, each process is told which is its own (`--share`).
    pub shares: u32,
    /// Retries of a failed publish.
    pub retry: Retry,
    /// When to stop trying for a while.
    pub circuit_breaker: CircuitBreaker,
    /// Where undeliverable events go.
    pub dead_letter: DeadLetter,
    /// Where progress is kept.
    pub state: State,
    /// How much a relay process may hold.
    pub memory: Memory,
    /// The port for metrics, status and health.
    pub http: Http,
    /// The log on standard error.
    pub log: Log,
}

/// The port for `/metrics`, `/status`, `/livez`, `/readyz` and `/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: String,
}

/// The log on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// Text for people, Json for collectors.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`; or directives as in `info,relay::source=debug`.
    pub level: String,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            api_version: crate::API_VERSION.to_owned(),
            identity: String::new(),
            source: Source::default(),
            sink: Sink::default(),
            shares: 1,
            retry: Retry::default(),
            circuit_breaker: CircuitBreaker::default(),
            dead_letter: DeadLetter::default(),
            state: State::default(),
            memory: Memory::default(),
            http: Http::default(),
            log: Log::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:9090".to_owned(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            level: "info".to_owned(),
        }
    }
}
