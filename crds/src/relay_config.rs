//! The one file that the relay loads.

use crate::secrets::{CertificateSecretRef, SecretKeyRef};
use crate::{CircuitBreaker, DeadLetter, Memory, Retry, Sink, Source, State, Tracing};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The relay's configuration. Every part but `identity`, `http.listen` and `log` is the same as in the custom resource.
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
    /// Spans for OpenTelemetry; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
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
    /// Serve all of it by TLS; plain HTTP unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
    /// Bearer token that everything but `/livez` and `/readyz` asks for; at least 16 printable characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
    /// File with the bearer token that everything but `/livez` and `/readyz` asks for: at least 16 printable characters;
    /// white space around it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// The certificate that the relay's own port is served with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerTls {
    /// Certificate of `<name of the OutboxRelay>-relay.<namespace>.svc`, and its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_secret_ref: Option<CertificateSecretRef>,
    /// Certificates (PEM) of the authorities that signed it. The operator and Prometheus check the relays by them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// File with the certificate (PEM), followed by those of intermediate authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// File with the private key (PEM, without a passphrase) of certificateFile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
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
            tracing: None,
            log: Log::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:9090".to_owned(),
            tls: None,
            token_secret_ref: None,
            token_file: None,
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
