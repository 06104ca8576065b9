//! The Kafka topic and the form of messages.

use super::{Form, addresses, cql_name, secrets};
use crate::envelope::{CloudEvents, Debezium, DebeziumConverter, DebeziumEventType, Envelope};
use crate::names::CQL_NAME;
use crate::problems::{Found, Problems};
use crate::read::may_hold_a_secret;
use crate::sink::{Header, Key, OAuthBearer, PayloadFormat, SaslMechanism, Sink, message_headers};
use crate::topic_template::{self, TopicTemplate};
use std::collections::BTreeSet;

/// librdkafka properties that are not passed through, by name or by the beginning of the name (`...`), each with what
/// to use instead.
const REFUSED_PROPERTIES: &[(&str, &str)] = &[
    ("acks", REPLICAS),
    ("request.required.acks", REPLICAS),
    ("enable.idempotence", ORDER),
    ("enable.gapless.guarantee", ORDER),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    (
        "partitioner",
        "nothing: murmur2, as in Kafka's own clients, keeps a key in its partition",
    ),
    ("retries", RETRY),
    ("message.send.max.retries", RETRY),
    ("message.timeout.ms", RETRY),
    ("delivery.timeout.ms", RETRY),
    ("transactional.id", "sink.guarantee"),
    ("transaction.timeout.ms", "sink.guarantee"),
    (
        "queue.buffering...",
        "memory.inFlightMessages and memory.inFlightBytes",
    ),
    ("bootstrap.servers", "sink.bootstrapServers"),
    ("metadata.broker.list", "sink.bootstrapServers"),
    (
        "allow.auto.create.topics",
        "nothing: a topic is created on purpose, with its number of partitions",
    ),
    ("security.protocol", "sink.tls and sink.sasl"),
    ("sasl...", "sink.sasl"),
    ("enable.sasl...", "sink.sasl"),
    (
        "ssl.ca...",
        "sink.tls.caSecretRef, or sink.tls.caFile in a relay's own configuration",
    ),
    ("ssl.endpoint.identification.algorithm", "sink.tls.verifyHostname"),
    (
        "enable.ssl.certificate.verification",
        "sink.tls.caSecretRef, or sink.tls.caFile in a relay's own configuration",
    ),
    ("ssl.certificate...", CLIENT_CERTIFICATES),
    ("ssl.key...", CLIENT_CERTIFICATES),
    ("ssl.keystore...", CLIENT_CERTIFICATES),
    ("ssl_...", CLIENT_CERTIFICATES),
    ("ssl.engine...", CLIENT_CERTIFICATES),
    ("ssl.providers", CLIENT_CERTIFICATES),
    ("plugin.library.paths", "nothing: the relay loads no code"),
];

const REPLICAS: &str = "nothing: an event counts as delivered when all in-sync replicas have it";
const ORDER: &str = "nothing: the order of events rests on it";
const RETRY: &str = "retry.maxAttempts and retry.attemptTimeoutMilliseconds";
const CLIENT_CERTIFICATES: &str = "sink.tls.certificateSecretRef, or sink.tls.certificateFile and sink.tls.keyFile in a \
                                   relay's own configuration";

const HTTPS: &str = "https://";

/// A client's secret is sent there.
const TOKEN_ENDPOINT: &str =
    "an https URL without user and password, as in https://login.example.org/oauth2/token";

pub(super) fn check(sink: &Sink, form: Form, problems: &mut Problems) {
    let accepted = "host:port, as in broker-0.example.org:9092";
    addresses(
        "sink.bootstrapServers",
        &sink.bootstrap_servers,
        None,
        accepted,
        problems,
    );
    if sink.topic.is_empty() {
        problems.missing("sink.topic", topic_template::ACCEPTED);
    } else if let Err(error) = TopicTemplate::parse(&sink.topic) {
        problems.refuse_text("sink.topic", &sink.topic, error.to_string());
    }
    key(sink, problems);
    envelope(sink, problems);
    headers(&sink.headers, sink.envelope, problems);
    if let Some(tls) = &sink.tls {
        secrets::tls("sink.tls", tls, form, problems);
    }
    sasl(sink, form, problems);
    properties(sink, problems);
}

fn key(sink: &Sink, problems: &mut Problems) {
    match (&sink.key, &sink.key_column) {
        (Key::Column, None) => problems.missing("sink.keyColumn", format!("a column: {CQL_NAME}")),
        (Key::Column, Some(column)) => cql_name("sink.keyColumn", column, problems),
        (_, Some(column)) if !problems.has("sink.key") => {
            problems.refuse_text("sink.keyColumn", column, "no column unless sink.key is Column");
        }
        _ => {}
    }
}

fn envelope(sink: &Sink, problems: &mut Problems) {
    let known = !problems.has("sink.envelope");
    let misplaced = |section: bool, fits: bool| section && !fits && known;
    let section = || Found::Value("a section".to_owned());
    if misplaced(sink.cloud_events.is_some(), sink.envelope.is_cloud_events()) {
        let accepted = "nothing unless sink.envelope is CloudEventsBinary or CloudEventsStructured";
        problems.add("sink.cloudEvents", section(), accepted);
    }
    if misplaced(sink.debezium.is_some(), sink.envelope == Envelope::Debezium) {
        problems.add(
            "sink.debezium",
            section(),
            "nothing unless sink.envelope is Debezium",
        );
    }
    if let Some(attributes) = &sink.cloud_events {
        cloud_events(attributes, problems);
    }
    if let Some(form) = &sink.debezium {
        debezium(form, sink.payload_format, problems);
    }
}

fn cloud_events(attributes: &CloudEvents, problems: &mut Problems) {
    if let Some(source) = &attributes.source
        && (source.is_empty() || !source.bytes().all(|b| b.is_ascii_graphic()))
    {
        let accepted = "a URI reference without blanks, as in /shop/orders";
        problems.refuse_text("sink.cloudEvents.source", source, accepted);
    }
    if let Some(kind) = &attributes.data_content_type
        && !is_media_type(kind)
    {
        let accepted = "a media type, as in application/json";
        problems.refuse_text("sink.cloudEvents.dataContentType", kind, accepted);
    }
}

fn debezium(form: &Debezium, format: PayloadFormat, problems: &mut Problems) {
    if form.converter == DebeziumConverter::JsonWithSchemas && format == PayloadFormat::Json {
        let accepted = "Plain or Json with sink.payloadFormat Json; JsonWithSchemas takes Text and Raw";
        problems.refuse_text("sink.debezium.converter", "JsonWithSchemas", accepted);
    }
    if form.event_type == DebeziumEventType::Envelope && form.converter != DebeziumConverter::Json {
        let accepted = "Header, or sink.debezium.converter Json";
        problems.refuse_text("sink.debezium.eventType", "Envelope", accepted);
    }
}

fn is_media_type(text: &str) -> bool {
    let printable = |part: &str| !part.is_empty() && part.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    text.split_once('/')
        .is_some_and(|(kind, rest)| !kind.contains(' ') && printable(kind) && printable(rest))
}

fn headers(headers: &[Header], envelope: Envelope, problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for (index, header) in headers.iter().enumerate() {
        let path = format!("sink.headers[{index}]");
        let name = header.name.as_str();
        if name.is_empty() {
            problems.missing(format!("{path}.name"), "the name of the header");
        } else if message_headers::ALL.contains(&name) {
            let accepted = format!(
                "a name other than those that the relay writes: {}",
                message_headers::ALL.join(", ")
            );
            problems.refuse_text(format!("{path}.name"), name, accepted);
        } else if envelope.writes(name) {
            let accepted = "a name other than those that sink.envelope writes";
            problems.refuse_text(format!("{path}.name"), name, accepted);
        } else if !names.insert(name) {
            problems.refuse_text(format!("{path}.name"), name, "a name that no other header has");
        }
        match (&header.column, &header.value) {
            (None, None) => problems.missing(format!("{path}.column"), "either column or value"),
            (Some(_), Some(_)) => {
                let found = Found::Value("both column and value".to_owned());
                problems.add(format!("{path}.value"), found, "either column or value");
            }
            (Some(column), None) => cql_name(format!("{path}.column"), column, problems),
            (None, Some(_)) => {}
        }
    }
}

fn sasl(sink: &Sink, form: Form, problems: &mut Problems) {
    let Some(sasl) = &sink.sasl else { return };
    let (secret, files) = (sasl.credentials_secret_ref.as_ref(), sasl.credentials.as_ref());
    if secret.is_none() && files.is_none() {
        let field = if form == Form::File {
            "credentials"
        } else {
            "credentialsSecretRef"
        };
        problems.missing(format!("sink.sasl.{field}"), "user name and password");
    }
    secrets::credentials("sink.sasl", secret, files, form, problems);
    let path = "sink.sasl.oauthBearer";
    match (&sasl.oauth_bearer, sasl.mechanism) {
        (Some(server), SaslMechanism::OAuthBearer) => token_server(path, server, form, problems),
        (None, SaslMechanism::OAuthBearer) => {
            problems.missing(format!("{path}.tokenEndpoint"), TOKEN_ENDPOINT);
        }
        (Some(_), _) if !problems.has("sink.sasl.mechanism") => problems.add(
            path,
            Found::Value("a section".to_owned()),
            "nothing unless sink.sasl.mechanism is OAuthBearer",
        ),
        _ => {}
    }
}

fn token_server(path: &str, server: &OAuthBearer, form: Form, problems: &mut Problems) {
    let endpoint = format!("{path}.tokenEndpoint");
    let url = &server.token_endpoint;
    if url.is_empty() {
        problems.missing(endpoint, TOKEN_ENDPOINT);
    } else if url.len() <= HTTPS.len()
        || !url.starts_with(HTTPS)
        || url.contains('@')
        || !url.bytes().all(|b| b.is_ascii_graphic())
    {
        problems.add(endpoint, Found::Hidden, TOKEN_ENDPOINT);
    }
    // RFC 6749, section 3.3.
    let is_scope = |b: u8| b == b' ' || (b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    if let Some(scope) = &server.scope
        && (scope.is_empty() || !scope.bytes().all(is_scope))
    {
        let accepted = "printable characters without quotes, several scopes with blanks between them";
        problems.refuse_text(format!("{path}.scope"), scope, accepted);
    }
    let (secret, file) = (server.ca_secret_ref.as_ref(), server.ca_file.as_deref());
    secrets::one_file(&format!("{path}.ca"), secret, file, form, problems);
}

fn properties(sink: &Sink, problems: &mut Problems) {
    for (name, value) in &sink.properties {
        let path = format!("sink.properties[{}]", name.escape_debug());
        let refused = REFUSED_PROPERTIES
            .iter()
            .find(|(pattern, _)| match pattern.strip_suffix("...") {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            });
        let found = if may_hold_a_secret(name) {
            Found::Hidden
        } else {
            Found::shown(&value.as_str().into())
        };
        if let Some((_, instead)) = refused {
            problems.add(path, found, *instead);
        } else if name.is_empty()
            || !name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_'))
        {
            problems.add(
                path,
                found,
                "names of librdkafka properties: lower case letters, dots and underscores",
            );
        }
    }
}
