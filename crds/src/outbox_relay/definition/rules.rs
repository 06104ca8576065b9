//! What the definition says beyond the types: required fields, forms of texts, rules across fields, and columns.

/// Fields without which there is nothing to do; they have no default.
pub(super) const REQUIRED: &[(&str, &[&str])] = &[
    ("", &["source", "sink"]),
    ("source", &["contactPoints", "keyspace", "table"]),
    ("source.credentialsSecretRef", &["name"]),
    ("source.tls.caSecretRef", &["name", "key"]),
    ("source.tls.certificateSecretRef", &["name"]),
    ("sink", &["bootstrapServers", "topic"]),
    ("sink.tls.caSecretRef", &["name", "key"]),
    ("sink.tls.certificateSecretRef", &["name"]),
    ("sink.sasl", &["credentialsSecretRef"]),
    ("sink.sasl.credentialsSecretRef", &["name"]),
    ("sink.sasl.oauthBearer", &["tokenEndpoint"]),
    ("sink.sasl.oauthBearer.caSecretRef", &["name", "key"]),
    ("sink.headers[]", &["name"]),
    ("deadLetter.replayRequest", &["id"]),
    ("tracing", &["endpoint"]),
    ("http.tls", &["certificateSecretRef", "caSecretRef"]),
    ("http.tls.certificateSecretRef", &["name"]),
    ("http.tls.caSecretRef", &["name", "key"]),
    ("http.tokenSecretRef", &["name", "key"]),
];

/// Texts and lists that must not be empty.
pub(super) const NOT_EMPTY: &[&str] = &[
    "source.contactPoints",
    "source.contactPoints[]",
    "source.localDatacenter",
    "source.credentialsSecretRef.name",
    "source.tls.caSecretRef.name",
    "source.tls.caSecretRef.key",
    "source.tls.certificateSecretRef.name",
    "source.tls.certificateSecretRef.certificateKey",
    "source.tls.certificateSecretRef.privateKeyKey",
    "sink.bootstrapServers",
    "sink.bootstrapServers[]",
    "sink.topic",
    "sink.tls.caSecretRef.name",
    "sink.tls.caSecretRef.key",
    "sink.tls.certificateSecretRef.name",
    "sink.tls.certificateSecretRef.certificateKey",
    "sink.tls.certificateSecretRef.privateKeyKey",
    "sink.sasl.credentialsSecretRef.name",
    "sink.sasl.oauthBearer.caSecretRef.name",
    "sink.sasl.oauthBearer.caSecretRef.key",
    "sink.headers[].name",
    "sink.cloudEvents.source",
    "sink.cloudEvents.dataContentType",
    "deadLetter.replayRequest.eventId",
    "deadLetter.replayRequest.eventType",
    "deadLetter.replayRequest.aggregateId",
    "http.tls.certificateSecretRef.name",
    "http.tls.certificateSecretRef.certificateKey",
    "http.tls.certificateSecretRef.privateKeyKey",
    "http.tls.caSecretRef.name",
    "http.tls.caSecretRef.key",
    "http.tokenSecretRef.name",
    "http.tokenSecretRef.key",
    "template.image",
    "template.imagePullSecrets[]",
];

/// A rule of the Common Expression Language. Messages are constant and the texts that rules compare are bounded, which
/// keeps the definition within the API server's cost budget. A section's rule is tried on the section's default too, which
/// is empty, so it asks first whether there is a field.
pub(super) struct Rule {
    pub(super) at: &'static str,
    pub(super) rule: &'static str,
    pub(super) message: &'static str,
}

/// The rule about the resource as a whole: its Service and its pods' labels carry its name.
pub(super) const NAME_RULE: Rule = Rule {
    at: "",
    rule: "self.metadata.name.size() <= 57 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    message: "metadata.name must be at most 57 lower case letters, digits and dashes, from a letter to a letter or digit: its Service is named after it",
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "",
        rule: "has(self.identity) == has(oldSelf.identity) && (!has(self.identity) || self.identity == oldSelf.identity)",
        message: "identity is immutable: it is the key of all state. Create another OutboxRelay instead",
    },
    Rule {
        at: "",
        rule: "!has(self.deadLetter.topic) || self.deadLetter.topic != self.sink.topic",
        message: "deadLetter.topic must be a topic other than sink.topic",
    },
    Rule {
        at: "",
        rule: "self.placement != 'Sidecar' || self.shares == 1",
        message: "shares must be 1 with placement Sidecar: the application's pods divide the work among themselves",
    },
    Rule {
        at: "",
        rule: "self.placement != 'Sidecar' || !self.paused",
        message: "paused must be false with placement Sidecar: relays end with their application's pods",
    },
    Rule {
        at: "source.keyspace",
        rule: "self == oldSelf",
        message: "source.keyspace is immutable. Create another OutboxRelay instead",
    },
    Rule {
        at: "source.table",
        rule: "self == oldSelf",
        message: "source.table is immutable. Create another OutboxRelay instead",
    },
    Rule {
        at: "",
        rule: "self.state.checkpointIntervalMilliseconds <= self.source.horizonSeconds * 1000",
        message: "state.checkpointIntervalMilliseconds must be at most source.horizonSeconds",
    },
    Rule {
        at: "source.keyspace",
        rule: OWN_KEYSPACE,
        message: "source.keyspace must be a keyspace of your own, not one of ScyllaDB's",
    },
    Rule {
        at: "source.keyspace",
        rule: CQL_NAME,
        message: "source.keyspace must be letters, digits and underscores, as ScyllaDB stores the name, without quotes",
    },
    Rule {
        at: "source.table",
        rule: CQL_NAME,
        message: "source.table must be letters, digits and underscores, as ScyllaDB stores the name, without quotes",
    },
    Rule {
        at: "source.table",
        rule: "!self.endsWith('_scylla_cdc_log')",
        message: "source.table must be the outbox table itself, not its CDC log",
    },
    Rule {
        at: "source.startFrom",
        rule: "self == 'Oldest' || self == 'Now' || self == 'Snapshot' || self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}')",
        message: "source.startFrom must be Oldest, Now, Snapshot or a time as in 2026-01-31T12:00:00Z",
    },
    Rule {
        at: "source",
        rule: "!has(self.startFrom) || self.startFrom != 'Snapshot' || !has(self.mode) || self.mode != 'Polling'",
        message: "source.startFrom must not be Snapshot with source.mode Polling, which takes all rows of the table",
    },
    Rule {
        at: "",
        rule: "self.source.startFrom != 'Snapshot' || self.sink.guarantee == 'AtLeastOnce'",
        message: "source.startFrom must not be Snapshot with sink.guarantee ExactlyOnce: begin with AtLeastOnce, change it later",
    },
    Rule {
        at: "source",
        rule: "!has(self.reconcile) || has(self.cleanup) && self.cleanup == 'Delete'",
        message: "source.cleanup must be Delete with source.reconcile",
    },
    Rule {
        at: "source",
        rule: "!has(self.reconcile) || !has(self.onChange) || self.onChange == 'Ignore'",
        message: "source.onChange must be Ignore with source.reconcile",
    },
    Rule {
        at: "source",
        rule: "!has(self.mode) || self.mode != 'Polling' || has(self.cleanup) && self.cleanup == 'Delete'",
        message: "source.cleanup must be Delete with source.mode Polling",
    },
    Rule {
        at: "source",
        rule: "!has(self.mode) || self.mode != 'Polling' || !has(self.onChange) || self.onChange == 'Ignore'",
        message: "source.onChange must be Ignore with source.mode Polling",
    },
    Rule {
        at: "source",
        rule: "!has(self.mode) || self.mode != 'Polling' || !has(self.consistency) || !self.consistency.endsWith('One')",
        message: "source.consistency must be LocalQuorum, Quorum or All with source.mode Polling",
    },
    Rule {
        at: "source",
        rule: "!has(self.mode) || self.mode != 'Polling' || !has(self.reconcile)",
        message: "source.reconcile must not be given with source.mode Polling",
    },
    Rule {
        at: "",
        rule: "self.source.mode != 'Polling' || self.sink.guarantee == 'AtLeastOnce'",
        message: "sink.guarantee must be AtLeastOnce with source.mode Polling",
    },
    Rule {
        at: "sink",
        rule: "(self.key == 'Column') == has(self.keyColumn)",
        message: "sink.keyColumn must be given with sink.key Column, and only then",
    },
    Rule {
        at: "sink",
        rule: "!has(self.cloudEvents) || (has(self.envelope) && self.envelope.startsWith('CloudEvents'))",
        message: "sink.cloudEvents must be given with sink.envelope CloudEventsBinary or CloudEventsStructured only",
    },
    Rule {
        at: "sink",
        rule: "!has(self.debezium) || (has(self.envelope) && self.envelope == 'Debezium')",
        message: "sink.debezium must be given with sink.envelope Debezium only",
    },
    Rule {
        at: "sink",
        rule: "!has(self.debezium) || self.debezium.converter != 'JsonWithSchemas' || self.payloadFormat != 'Json'",
        message: "sink.debezium.converter JsonWithSchemas needs sink.payloadFormat Text or Raw",
    },
    Rule {
        at: "sink",
        rule: "!has(self.headers) || !has(self.envelope) || !self.envelope.startsWith('CloudEvents') || self.headers.all(header, !header.name.startsWith('ce_') && header.name != 'content-type')",
        message: "a header of CloudEvents must have a name other than content-type and those that begin with ce_",
    },
    Rule {
        at: "sink",
        rule: "!has(self.headers) || !has(self.envelope) || self.envelope != 'Debezium' || self.headers.all(header, header.name != 'id' && header.name != 'eventType')",
        message: "a header with sink.envelope Debezium must have a name other than id and eventType",
    },
    Rule {
        at: "sink.sasl",
        rule: "(has(self.mechanism) && self.mechanism == 'OAuthBearer') == has(self.oauthBearer)",
        message: "sink.sasl.oauthBearer must be given with sink.sasl.mechanism OAuthBearer, and only then",
    },
    Rule {
        at: "sink.debezium",
        rule: "self.eventType != 'Envelope' || self.converter == 'Json'",
        message: "sink.debezium.eventType Envelope needs sink.debezium.converter Json",
    },
    Rule {
        at: "sink.topic",
        rule: "self.matches('^([a-zA-Z0-9._-]|[$][{][a-zA-Z0-9_]+[}])+$') && self != '.' && self != '..'",
        message: "sink.topic must be letters, digits, dots, underscores and dashes, with columns as in ${aggregate_type}-events",
    },
    Rule {
        at: "sink.headers[]",
        rule: "has(self.column) != has(self.value)",
        message: "a header has either a column or a value",
    },
    Rule {
        at: "sink.headers[]",
        rule: "!(self.name in ['event-id', 'event-type', 'aggregate-id', 'aggregate-type', 'source-position', 'created-at', 'sequence', 'traceparent', 'late', 'replayed', 'reconciled'])",
        message: "a header must have a name other than those that the relay itself writes",
    },
    Rule {
        at: "retry",
        rule: "!has(self.maxBackoffMilliseconds) || !has(self.initialBackoffMilliseconds) || self.maxBackoffMilliseconds >= self.initialBackoffMilliseconds",
        message: "retry.maxBackoffMilliseconds must be at least retry.initialBackoffMilliseconds",
    },
    Rule {
        at: "deadLetter",
        rule: "!has(self.target) || (self.target == 'Table') == !has(self.topic)",
        message: "deadLetter.topic must be given with deadLetter.target Topic or Both, and only then",
    },
    Rule {
        at: "deadLetter",
        rule: "!has(self.target) || self.target != 'Topic' || !has(self.table)",
        message: "deadLetter.table must not be given with deadLetter.target Topic",
    },
    Rule {
        at: "deadLetter",
        rule: "!has(self.target) || self.target != 'Topic' || !has(self.onAggregate) || self.onAggregate != 'Hold'",
        message: "deadLetter.onAggregate Hold needs deadLetter.target Table or Both: after a restart the table tells what is held",
    },
    Rule {
        at: "deadLetter",
        rule: "!has(self.replay) || !has(self.target) || self.target != 'Topic'",
        message: "deadLetter.replay needs deadLetter.target Table or Both",
    },
    Rule {
        at: "deadLetter.replay",
        rule: "!has(self.maxBackoffSeconds) || !has(self.initialBackoffSeconds) || self.maxBackoffSeconds >= self.initialBackoffSeconds",
        message: "deadLetter.replay.maxBackoffSeconds must be at least deadLetter.replay.initialBackoffSeconds",
    },
    Rule {
        at: "deadLetter.replayRequest",
        rule: "has(self.eventId) || has(self.eventType) || has(self.aggregateId) || has(self.class) || has(self.olderThanSeconds)",
        message: "deadLetter.replayRequest needs a filter: eventId, eventType, aggregateId, class, or olderThanSeconds, of which 0 takes all letters",
    },
    Rule {
        at: "deadLetter.replayRequest",
        rule: "self == oldSelf || self.id != oldSelf.id",
        message: "deadLetter.replayRequest.id must be another one when the request changes: an id is carried out once",
    },
    Rule {
        at: "deadLetter.topic",
        rule: "self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'",
        message: "deadLetter.topic must be letters, digits, dots, underscores and dashes",
    },
    Rule {
        at: "state.keyspace",
        rule: OWN_KEYSPACE,
        message: "state.keyspace must be a keyspace of your own, not one of ScyllaDB's",
    },
    Rule {
        at: "state.keyspace",
        rule: CQL_NAME,
        message: "state.keyspace must be letters, digits and underscores, as ScyllaDB stores the name, without quotes",
    },
    Rule {
        at: "state.keyspace",
        rule: "self == oldSelf",
        message: "state.keyspace is immutable: checkpoints are kept there. Create another OutboxRelay instead",
    },
];

const OWN_KEYSPACE: &str = "self != 'system' && !self.startsWith('system_')";

const CQL_NAME: &str = "self.matches('^[a-zA-Z0-9_]+$')";

/// Names within ScyllaDB and other texts of one form.
pub(super) const PATTERNS: &[(&str, &str)] = &[
    ("identity", "^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$"),
    ("source.columns.id", CQL_NAME_PATTERN),
    ("source.columns.aggregateId", CQL_NAME_PATTERN),
    ("source.columns.aggregateType", CQL_NAME_PATTERN),
    ("source.columns.eventType", CQL_NAME_PATTERN),
    ("source.columns.payload", CQL_NAME_PATTERN),
    ("source.columns.createdAt", CQL_NAME_PATTERN),
    ("source.columns.sequence", CQL_NAME_PATTERN),
    ("source.columns.headers", CQL_NAME_PATTERN),
    ("source.columns.traceContext", CQL_NAME_PATTERN),
    ("sink.keyColumn", CQL_NAME_PATTERN),
    ("sink.headers[].column", CQL_NAME_PATTERN),
    ("sink.cloudEvents.source", "^[!-~]+$"),
    ("sink.cloudEvents.dataContentType", "^[!-~]+/[ -~]+$"),
    ("sink.sasl.oauthBearer.tokenEndpoint", "^https://[!-?A-~]+$"),
    ("sink.sasl.oauthBearer.scope", "^[ !#-\\[\\]-~]+$"),
    ("deadLetter.replayRequest.id", "^[!-~]+$"),
    ("tracing.endpoint", "^https?://[!-?A-~]+$"),
    ("deadLetter.table", "^([a-zA-Z0-9_]+[.])?[a-zA-Z0-9_]+$"),
    ("template.resources.requests{}", QUANTITY_PATTERN),
    ("template.resources.limits{}", QUANTITY_PATTERN),
];

const CQL_NAME_PATTERN: &str = "^[a-zA-Z0-9_]+$";

const QUANTITY_PATTERN: &str = "^[0-9]+([.][0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?$";

/// Columns of `kubectl get`: name, type, path, description, and whether only `-o wide` shows them.
pub(super) const COLUMNS: &[(&str, &str, &str, &str, bool)] = &[
    (
        "Ready",
        "string",
        ".status.conditions[?(@.type==\"Ready\")].status",
        "Whether every slot is owned, read and able to be delivered",
        false,
    ),
    ("Phase", "string", ".status.phase", "What the relays do", false),
    ("Shares", "integer", ".status.shares", "Shares that exist", false),
    (
        "Lag",
        "integer",
        ".status.lagSeconds",
        "Seconds that delivery is behind",
        false,
    ),
    (
        "Breaker",
        "string",
        ".status.breaker",
        "State of the circuit breaker",
        false,
    ),
    (
        "DeadLetters",
        "integer",
        ".status.deadLettersPending",
        "Dead letters that wait for a decision",
        false,
    ),
    (
        "Age",
        "date",
        ".metadata.creationTimestamp",
        "Age of the resource",
        false,
    ),
    (
        "Keyspace",
        "string",
        ".spec.source.keyspace",
        "Keyspace of the outbox table",
        true,
    ),
    ("Table", "string", ".spec.source.table", "The outbox table", true),
    ("Topic", "string", ".spec.sink.topic", "The topic", true),
    (
        "Reason",
        "string",
        ".status.conditions[?(@.type==\"Ready\")].reason",
        "Why it is ready or not",
        true,
    ),
];

/// Bounds of what the operator writes.
pub(super) const STATUS_SIZES: &[(&str, u64)] = &[
    ("conditions", 16),
    ("shareStatuses", 64),
    ("shareStatuses[].message", 1000),
    ("replay.id", 100),
    ("replay.message", 1000),
];

#[cfg(test)]
mod tests {
    use super::RULES;
    use crate::sink::message_headers;

    #[test]
    fn the_rule_on_headers_names_all_that_the_relay_writes() {
        let rule = RULES
            .iter()
            .find(|rule| rule.rule.contains(" in ["))
            .map(|rule| rule.rule);
        let quoted: Vec<&str> = rule.unwrap_or_default().split('\'').skip(1).step_by(2).collect();
        assert_eq!(quoted, message_headers::ALL);
    }
}
