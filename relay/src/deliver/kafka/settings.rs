//! What librdkafka is told. Pure, but for secrets read from their files.

use std::time::Duration;

use crds::{Memory, Sink};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use thiserror::Error;

use super::tokens::{Authentication, Tokens, TokensError};
use crate::ports::Role;
use crate::secrets::{Login, SecretError, client_certificate, login};

/// How long a message waits for others of its partition. It adds to the latency of every event when little happens;
/// when much happens, batches grow by themselves while the one before is on its way.
const LINGER_MILLISECONDS: u32 = 2;

/// Uncompressed bytes of a batch, at most. An idempotent librdkafka producer has one batch per partition in flight
/// (librdkafka#4989), so throughput per partition is this per round trip.
const BATCH_BYTES: usize = 1 << 20;

/// No limit of its own for small messages: the bytes decide.
const BATCH_MESSAGES: usize = 100_000;

/// A broker that does not answer for this long is given another connection; librdkafka's default is a minute.
const SOCKET_TIMEOUT_MILLISECONDS: u32 = 15_000;

/// Longest wait between two attempts to connect, so that delivery resumes soon after an outage; librdkafka's default
/// is ten seconds.
const RECONNECT_MAX_MILLISECONDS: u32 = 1_000;

/// How long a topic may be unknown before its messages fail: longer than it takes a new topic to be known everywhere.
const TOPIC_PROPAGATION_MILLISECONDS: u32 = 5_000;

/// librdkafka's largest message: the most that it can be told. It measures before compression, and more than the record
/// needs; what a topic takes is for the broker to say.
const MESSAGE_BYTES: usize = 1_000_000_000;

/// How long a transaction may stay open. It bounds how long `read_committed` consumers wait behind a process that died,
/// if nobody takes over its slots, which ends it sooner (lease, 10 s). A broker that stalls for longer ends the
/// producer, so it is twice that.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the broker may hold a fetch at the end of the journal: what reading it to the end costs at most.
const FETCH_WAIT_MILLISECONDS: u32 = 10;

/// Kibibytes that are fetched of the journal ahead of being read; librdkafka's default is 64 MiB.
const FETCH_AHEAD_KIBIBYTES: u32 = 8_192;

/// The least that librdkafka's queue may hold: a message that is larger than the queue would wait for ever.
const QUEUE_KIBIBYTES: usize = 2 * MESSAGE_BYTES / 1024;

/// Two names of one property. Both at once would leave to chance which of them holds.
const COMPRESSION: [&str; 2] = ["compression.type", "compression.codec"];

/// Connection and limits, secrets included.
#[derive(Clone)]
pub struct KafkaSettings {
    client: ClientConfig,
    authentication: Authentication,
    properties: Vec<(String, String)>,
    queue_messages: usize,
    queue_kibibytes: usize,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error("sink: librdkafka refuses it: {0}")]
    Refused(KafkaError),
}

impl KafkaSettings {
    /// `client_id` names the share in the brokers' logs and quotas.
    ///
    /// # Errors
    /// A secret cannot be read.
    pub fn new(sink: &Sink, memory: &Memory, client_id: &str) -> Result<Self, SettingsError> {
        let login = match sink.sasl.as_ref().and_then(|sasl| sasl.credentials.as_ref()) {
            Some(credentials) => Some(login("sink.sasl.credentials", credentials)?),
            None => None,
        };
        if let Some(tls) = &sink.tls {
            // librdkafka reads the files itself, and says less of what is wrong with them.
            client_certificate("sink.tls", tls)?;
        }
        let token_server = sink.sasl.as_ref().and_then(|sasl| sasl.oauth_bearer.as_ref());
        let (login, tokens) = match (login, token_server) {
            (Some(login), Some(server)) => (None, Some(Tokens::new(server, login)?)),
            (login, _) => (login, None),
        };
        Ok(Self {
            client: client(sink, login, client_id),
            authentication: Authentication(tokens),
            properties: sink.properties.clone().into_iter().collect(),
            // Our own credits come first; librdkafka's bounds only have to be above them. Its bytes include what it
            // adds to each message.
            queue_messages: memory.in_flight_messages as usize + 1_000,
            queue_kibibytes: usize::try_from(memory.in_flight_bytes / 512)
                .unwrap_or(usize::MAX)
                .max(QUEUE_KIBIBYTES),
        })
    }

    pub(super) fn needs_tokens(&self) -> bool {
        self.authentication.0.is_some()
    }

    /// For the context of every client.
    pub fn authentication(&self) -> Authentication {
        self.authentication.clone()
    }

    /// For clients that only ask.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = self.client.clone();
        // Which clients ask is known; what they send never is, so the producer's own properties do not matter here.
        for (name, value) in &self.properties {
            if name.starts_with("ssl.") || name.starts_with("socket.") || name.starts_with("broker.") {
                config.set(name, value);
            }
        }
        config
    }

    /// For dead letters: same brokers, same security, idempotent, and no producer that one failure ends.
    pub fn dead_letters(&self) -> ClientConfig {
        self.producer(Role::Isolation, None)
    }

    /// Whether a broker sees batches smaller than they were made: then their size says nothing of what it takes.
    pub(super) fn compresses(&self) -> bool {
        !self
            .compression()
            .is_some_and(|codec| codec.eq_ignore_ascii_case("none"))
    }

    /// As configured; None is our own choice.
    fn compression(&self) -> Option<&str> {
        let named = |(name, _): &&(String, String)| COMPRESSION.contains(&name.as_str());
        self.properties
            .iter()
            .find(named)
            .map(|(_, codec)| codec.as_str())
    }

    /// `smallest` is the smallest `max.message.bytes` of the topics, as far as known.
    pub(super) fn producer(&self, role: Role, smallest: Option<usize>) -> ClientConfig {
        let mut config = self.client.clone();
        let batch_bytes = smallest.unwrap_or(BATCH_BYTES).min(BATCH_BYTES);
        config
            .set("linger.ms", LINGER_MILLISECONDS.to_string())
            .set("batch.size", batch_bytes.to_string())
            .set("batch.num.messages", BATCH_MESSAGES.to_string())
            .set("message.max.bytes", MESSAGE_BYTES.to_string());
        if self.compression().is_none() {
            config.set("compression.type", "lz4");
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        // What carries the promises comes last; validation refuses to pass it through.
        config
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", (role == Role::Flow).to_string())
            .set("message.timeout.ms", "0")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", self.queue_messages.to_string())
            .set(
                "queue.buffering.max.kbytes",
                self.queue_kibibytes.min(i32::MAX as usize).to_string(),
            );
        config
    }

    /// As [`Self::producer`], inside transactions. An abort takes everything back, so it needs no gapless guarantee.
    pub(super) fn transactional(&self, id: &str, smallest: Option<usize>) -> ClientConfig {
        let mut config = self.producer(Role::Isolation, smallest);
        let timeout = TRANSACTION_TIMEOUT.as_millis();
        // librdkafka refuses a socket time-out that leaves no time for a second request.
        let socket = config
            .get("socket.timeout.ms")
            .and_then(|value| value.parse().ok());
        if socket.is_none_or(|socket: u128| socket > timeout) {
            config.set("socket.timeout.ms", SOCKET_TIMEOUT_MILLISECONDS.to_string());
        }
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", timeout.to_string())
            .set("message.timeout.ms", timeout.to_string());
        config
    }

    /// For reading one partition by its offsets. The group is a name that librdkafka asks for; nobody joins it.
    pub(super) fn reader(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", FETCH_WAIT_MILLISECONDS.to_string())
            .set("queued.max.messages.kbytes", FETCH_AHEAD_KIBIBYTES.to_string());
        config
    }

    /// For asking where a topic really ends, open transactions included.
    pub(super) fn end_finder(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        config
    }
}

fn client(sink: &Sink, login: Option<Login>, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", sink.bootstrap_servers.join(","))
        .set("client.id", client_id)
        .set("allow.auto.create.topics", "false")
        .set("socket.keepalive.enable", "true")
        .set("socket.timeout.ms", SOCKET_TIMEOUT_MILLISECONDS.to_string())
        .set("reconnect.backoff.max.ms", RECONNECT_MAX_MILLISECONDS.to_string())
        .set(
            "topic.metadata.propagation.max.ms",
            TOPIC_PROPAGATION_MILLISECONDS.to_string(),
        )
        .set("security.protocol", security_protocol(sink));
    if let Some(tls) = &sink.tls {
        if let Some(path) = &tls.ca_file {
            config.set("ssl.ca.location", path.display().to_string());
        }
        if let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) {
            config
                .set("ssl.certificate.location", certificate.display().to_string())
                .set("ssl.key.location", key.display().to_string());
        }
        let identification = if tls.verify_hostname { "https" } else { "none" };
        config.set("ssl.endpoint.identification.algorithm", identification);
    }
    if let Some(sasl) = &sink.sasl {
        config.set("sasl.mechanism", sasl.mechanism.name());
    }
    if let Some(login) = login {
        config
            .set("sasl.username", login.username)
            .set("sasl.password", login.password);
    }
    config
}

fn security_protocol(sink: &Sink) -> &'static str {
    match (&sink.tls, &sink.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    }
}

#[cfg(test)]
mod tests {
    use crds::secrets::{Credentials, Tls};
    use crds::sink::{Sasl, SaslMechanism};

    use super::*;

    fn settings(sink: &Sink) -> KafkaSettings {
        KafkaSettings::new(sink, &Memory::default(), "relay-1").unwrap()
    }

    fn check(config: &ClientConfig, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            assert_eq!(config.get(name), Some(*value), "{name}");
        }
    }

    #[test]
    fn the_promises_cannot_be_passed_away() {
        let mut sink = Sink {
            bootstrap_servers: vec!["a:1".into(), "b:2".into()],
            ..Sink::default()
        };
        for (name, value) in [
            ("enable.idempotence", "false"),
            ("enable.gapless.guarantee", "false"),
            ("message.timeout.ms", "5"),
            ("linger.ms", "20"),
        ] {
            sink.properties.insert(name.into(), value.into());
        }
        let flow = settings(&sink).producer(Role::Flow, None);
        check(
            &flow,
            &[
                ("bootstrap.servers", "a:1,b:2"),
                ("client.id", "relay-1"),
                ("security.protocol", "plaintext"),
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "true"),
                ("message.timeout.ms", "0"),
                ("partitioner", "murmur2_random"),
                ("allow.auto.create.topics", "false"),
                ("linger.ms", "20"),
            ],
        );
        let isolation = settings(&sink).producer(Role::Isolation, None);
        check(
            &isolation,
            &[
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "false"),
            ],
        );
    }

    #[test]
    fn batches_fit_the_smallest_topic_and_messages_are_the_brokers_matter() {
        let settings = settings(&Sink::default());
        let sizes = |smallest| {
            let config = settings.producer(Role::Flow, smallest);
            let get = |name| config.get(name).and_then(|value| value.parse::<usize>().ok());
            assert!(get("queue.buffering.max.kbytes").unwrap() * 1024 > get("message.max.bytes").unwrap());
            (get("batch.size").unwrap(), get("message.max.bytes").unwrap())
        };
        assert_eq!(sizes(None), (1 << 20, 1_000_000_000));
        assert_eq!(sizes(Some(2_000)), (2_000, 1_000_000_000));
        assert_eq!(sizes(Some(9 << 20)), (1 << 20, 1_000_000_000));
    }

    #[test]
    fn compression_is_one_property_of_two_names() {
        let with = |property: Option<(&str, &str)>| {
            let mut sink = Sink::default();
            sink.properties
                .extend(property.map(|(name, value)| (name.to_owned(), value.to_owned())));
            let settings = settings(&sink);
            let config = settings.producer(Role::Flow, None);
            let set: Vec<_> = COMPRESSION.iter().filter_map(|name| config.get(name)).collect();
            (settings.compresses(), set.join(","))
        };
        assert_eq!(with(None), (true, "lz4".to_owned()));
        assert_eq!(
            with(Some(("compression.type", "zstd"))),
            (true, "zstd".to_owned())
        );
        assert_eq!(
            with(Some(("compression.type", "None"))),
            (false, "None".to_owned())
        );
        assert_eq!(
            with(Some(("compression.codec", "none"))),
            (false, "none".to_owned())
        );
    }

    #[test]
    fn a_transaction_outlives_its_requests_and_no_message_outlives_it() {
        let mut sink = Sink::default();
        let transactional = |sink: &Sink| settings(sink).transactional("shop/relay-1/0", None);
        check(
            &transactional(&sink),
            &[
                ("transactional.id", "shop/relay-1/0"),
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "false"),
                ("transaction.timeout.ms", "20000"),
                ("message.timeout.ms", "20000"),
                ("socket.timeout.ms", "15000"),
            ],
        );
        for (configured, expected) in [("60000", "15000"), ("4000", "4000")] {
            sink.properties
                .insert("socket.timeout.ms".to_owned(), configured.to_owned());
            let config = transactional(&sink);
            check(&config, &[("socket.timeout.ms", expected)]);
            assert!(config.create_native_config().is_ok());
        }
    }

    #[test]
    fn tls_and_sasl_choose_the_protocol() {
        let tls = Some(Tls {
            verify_hostname: false,
            ..Tls::default()
        });
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        let sasl = Some(Sasl {
            mechanism: SaslMechanism::ScramSha256,
            credentials: Some(Credentials {
                username: Some("relay".into()),
                password_file: Some(password),
                ..Credentials::default()
            }),
            ..Sasl::default()
        });
        let protocol = |tls, sasl| {
            let sink = Sink {
                tls,
                sasl,
                ..Sink::default()
            };
            settings(&sink).client()
        };
        check(&protocol(tls.clone(), None), &[("security.protocol", "ssl")]);
        check(
            &protocol(None, sasl.clone()),
            &[("security.protocol", "sasl_plaintext")],
        );
        check(
            &protocol(tls, sasl),
            &[
                ("security.protocol", "sasl_ssl"),
                ("ssl.endpoint.identification.algorithm", "none"),
                ("sasl.mechanism", "SCRAM-SHA-256"),
                ("sasl.username", "relay"),
                ("sasl.password", "secret"),
            ],
        );
    }
}
