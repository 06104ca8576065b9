//! The Kafka topic that events go to, and their form.

use crate::envelope::{CloudEvents, Debezium, Envelope};
use crate::secrets::{Credentials, CredentialsSecretRef, SecretKeyRef, Tls};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Names of the headers that the relay itself writes. A configured header must not use them.
pub mod message_headers {
    /// The event's id, on every message.
    pub const EVENT_ID: &str = "event-id";
    /// The event's type, on every message.
    pub const EVENT_TYPE: &str = "event-type";
    /// The aggregate's id, on every message, whatever its key is made of.
    pub const AGGREGATE_ID: &str = "aggregate-id";
    /// Kind of aggregate, when the table has it.
    pub const AGGREGATE_TYPE: &str = "aggregate-type";
    /// Stream, time and row number in the CDC log, on every message.
    pub const SOURCE_POSITION: &str = "source-position";
    /// Creation time of the event (RFC 3339), when the table has it.
    pub const CREATED_AT: &str = "created-at";
    /// Position of the event within its aggregate, when a column for it is named.
    pub const SEQUENCE: &str = "sequence";
    /// W3C trace context, when a column carries it.
    pub const TRACEPARENT: &str = "traceparent";
    /// `true` on an event that follows a later one of its aggregate.
    pub const LATE: &str = "late";
    /// How often it was replayed, 1 the first time, on a dead letter that is.
    pub const REPLAYED: &str = "replayed";
    /// `true` on an event that reconciliation found.
    pub const RECONCILED: &str = "reconciled";

    /// All of them.
    pub const ALL: &[&str] = &[
        EVENT_ID,
        EVENT_TYPE,
        AGGREGATE_ID,
        AGGREGATE_TYPE,
        SOURCE_POSITION,
        CREATED_AT,
        SEQUENCE,
        TRACEPARENT,
        LATE,
        REPLAYED,
        RECONCILED,
    ];
}

/// The Kafka cluster, the topic, and the form of messages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sink {
    /// Kafka brokers to start from, each `host:port`.
    pub bootstrap_servers: Vec<String>,
    /// Topic for events, fixed as in `order-events` or a template over columns as in `${aggregate_type}-events`.
    pub topic: String,
    /// What becomes the message key. AggregateId keeps an aggregate in one partition, so in order. Column takes
    /// keyColumn.
    pub key: Key,
    /// Column for the key; required by key Column and refused otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_column: Option<String>,
    /// Raw: the payload column's bytes. Text: the same, checked to be UTF-8. Json: the same, checked to be JSON.
    pub payload_format: PayloadFormat,
    /// None: the body is the payload. CloudEventsBinary, CloudEventsStructured: CloudEvents 1.0, by its Kafka binding.
    /// Debezium: as Debezium's outbox event router makes messages. Headers and tombstones are the same in all of them.
    pub envelope: Envelope,
    /// Attributes of CloudEvents; only with such an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_events: Option<CloudEvents>,
    /// The form that Debezium's consumers expect; only with envelope Debezium.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debezium: Option<Debezium>,
    /// Headers beside those that every message carries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// AtLeastOnce: no event is lost; after a crash some are delivered again, each with its event id. ExactlyOnce: a
    /// consumer with isolation.level read_committed sees each event once; some 20 ms slower, needs transactions and the
    /// compacted topic `<identity>-journal`. It can be changed either way.
    pub guarantee: Guarantee,
    /// TLS to the brokers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Authentication at the brokers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Further librdkafka producer properties, as in `linger.ms: "20"`. Those that carry the relay's promises are
    /// refused.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// What becomes the message key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Key {
    /// The aggregate's id: an aggregate stays in one partition.
    #[default]
    AggregateId,
    /// The event's id: events spread evenly, and are not ordered.
    EventId,
    /// The column named by `keyColumn`.
    Column,
}

/// Form of the message body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum PayloadFormat {
    /// The column's bytes as they are.
    #[default]
    Raw,
    /// The same, checked to be UTF-8.
    Text,
    /// The same, checked to be JSON.
    Json,
}

/// One header: of exactly one of `column` and `value`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Header {
    /// Name of the header.
    pub name: String,
    /// Column whose value the header carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Value of the header, the same on every message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// How often an event may appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Guarantee {
    /// Once, and again after a crash, a takeover or an answer that never came.
    #[default]
    AtLeastOnce,
    /// Once, for consumers that read what is committed.
    ExactlyOnce,
}

/// The topic of an identity's journal, in which ExactlyOnce keeps what its transactions delivered.
pub fn journal_topic(identity: &str) -> String {
    format!("{identity}-journal")
}

/// SASL authentication.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sasl {
    /// Plain, ScramSha256, ScramSha512 or OAuthBearer, as the brokers offer it. Plain and OAuthBearer without TLS show
    /// password or token to the network.
    pub mechanism: SaslMechanism,
    /// Secret with user name and password; with OAuthBearer with the client's id and secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<CredentialsSecretRef>,
    /// User name and password; with OAuthBearer the client's id and secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Where tokens come from; with mechanism OAuthBearer, and only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_bearer: Option<OAuthBearer>,
}

/// Tokens of an OAuth 2.0 server (OIDC), by its client credentials grant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OAuthBearer {
    /// URL that tokens are asked of, as in https://login.example.org/oauth2/token.
    pub token_endpoint: String,
    /// Scope of the tokens, several with blanks between them; the server's default unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Certificates (PEM) of the authorities that may sign the server's certificate; the system's unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// File with the certificates (PEM) of the authorities that may sign the server's certificate; the system's
    /// unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum SaslMechanism {
    /// PLAIN.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    #[default]
    ScramSha512,
    /// OAUTHBEARER, with tokens of an OAuth 2.0 server.
    OAuthBearer,
}

impl SaslMechanism {
    /// The mechanism's registered name, as Kafka and librdkafka spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }
}
