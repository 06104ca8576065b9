//! TLS, SASL and authorisation: what works, and how mistakes show.

use crds::dead_letter::DeadLetterTarget;
use crds::relay_status::{BreakerState, Health};
use crds::secrets::{Credentials, Tls};
use crds::sink::{Sasl, SaslMechanism};
use crds::{Memory, Sink};

use relay::deliver::kafka::KafkaSettings;

use crate::acl::{allow, rules};
use crate::cluster::Cluster;
use crate::fed::{Relay, wait_until};
use crate::{A_WHILE, letters, rows};

pub(crate) struct Secure {
    pub(crate) cluster: Cluster,
    pub(crate) topic: String,
    pub(crate) secrets: tempfile::TempDir,
}

impl Secure {
    pub(crate) async fn start(topic: &str) -> Self {
        let cluster = Cluster::shared_secure().await;
        let topic = cluster.topic(topic, 2, &[]).await;
        Self {
            cluster,
            topic,
            secrets: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn sink(&self, listener: &str, tls: Option<Tls>, sasl: Option<Sasl>) -> Sink {
        Sink {
            bootstrap_servers: vec![self.cluster.listener(listener)],
            topic: self.topic.clone(),
            tls,
            sasl,
            ..Sink::default()
        }
    }

    pub(crate) fn tls(&self) -> Option<Tls> {
        Some(Tls {
            ca_file: Some(self.cluster.listener("CA").into()),
            ..Tls::default()
        })
    }

    pub(crate) fn sasl(&self, mechanism: SaslMechanism, user: &str, password: &str) -> Option<Sasl> {
        let file = self.secrets.path().join(password);
        std::fs::write(&file, password).unwrap();
        Some(Sasl {
            mechanism,
            credentials: Some(Credentials {
                username: Some(user.to_owned()),
                password_file: Some(file),
                ..Credentials::default()
            }),
            ..Sasl::default()
        })
    }

    async fn delivers(&self, sink: Sink) {
        let relay = Relay::start_with(sink);
        relay.offer(rows(0..20, 3)).await;
        relay.delivered(20).await;
        relay.stop().await;
    }

    pub(crate) async fn waits_because(&self, sink: Sink, reasons: &[&str]) {
        let relay = Relay::start_with(sink);
        let said = || relay.sink_health().message.unwrap_or_default();
        wait_until("a reason", A_WHILE, || {
            reasons.iter().all(|reason| said().contains(reason))
        })
        .await;
        assert_eq!(relay.sink_health().health, Health::Failed);
        assert!(!relay.view().started, "{}", said());
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_configured_right_delivers_and_what_is_wrong_says_so() {
    use SaslMechanism::{Plain, ScramSha256, ScramSha512};
    let secure = Secure::start("secured").await;
    let relay = |mechanism| secure.sasl(mechanism, "relay", "relay-secret");
    secure
        .delivers(secure.sink("SASL_SSL", secure.tls(), relay(ScramSha256)))
        .await;
    secure
        .delivers(secure.sink("SASL_SSL", secure.tls(), relay(ScramSha512)))
        .await;
    secure
        .delivers(secure.sink("SASL_PLAINTEXT", None, relay(Plain)))
        .await;

    let wrong_password = secure.sasl(ScramSha256, "relay", "wrong");
    let sink = secure.sink("SASL_SSL", secure.tls(), wrong_password);
    secure.waits_because(sink, &["Authentication: "]).await;
    let sink = secure.sink("SASL_SSL", Some(Tls::default()), relay(ScramSha256));
    secure
        .waits_because(sink, &["SSL: ", "certificate verify failed"])
        .await;
    let stranger = secure.sasl(ScramSha256, "stranger", "stranger-secret");
    let sink = secure.sink("SASL_SSL", secure.tls(), stranger);
    secure
        .waits_because(sink, &["TopicAuthorizationFailed: topic secured"])
        .await;
    let missing = Sink {
        topic: "nowhere".to_owned(),
        ..secure.sink("SASL_PLAINTEXT", None, relay(Plain))
    };
    secure
        .waits_because(missing, &["UnknownTopicOrPartition: topic nowhere"])
        .await;
}

/// The broker knows the relay by its certificate alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_to_brokers_that_ask_for_one() {
    let secure = Secure::start("certified").await;
    let folder = std::path::PathBuf::from(secure.cluster.listener("CA"));
    let shown = |name: &str| {
        secure.tls().map(|tls| Tls {
            certificate_file: Some(folder.with_file_name(format!("{name}.crt"))),
            key_file: Some(folder.with_file_name(format!("{name}.key"))),
            ..tls
        })
    };
    secure.delivers(secure.sink("MTLS", shown("relay"), None)).await;
    for tls in [secure.tls(), shown("foreign")] {
        let sink = secure.sink("MTLS", tls, None);
        secure
            .waits_because(sink, &["SSL: ", "certificate", "sink.tls: "])
            .await;
    }
    let unread = Tls {
        key_file: Some(folder.with_file_name("broker.key")),
        ..shown("relay").unwrap()
    };
    let error = KafkaSettings::new(
        &secure.sink("MTLS", Some(unread), None),
        &Memory::default(),
        "test",
    );
    let error = error.err().unwrap().to_string();
    assert!(
        error.starts_with("sink.tls.keyFile: the private key in"),
        "{error}"
    );
}

/// A user that may look at topics, and write to none until it is allowed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_written_waits_until_it_may() {
    let secure = Secure::start("forbidden").await;
    let cluster = &secure.cluster;
    let letters = cluster.topic(&letters::letters_of(&secure.topic), 1, &[]).await;
    let may = async |operation: &str, topic: &str| {
        let command =
            format!("--add --allow-principal User:stranger --operation {operation} --topic {topic}");
        let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
        allow(cluster.admin(), rules(&words)).await;
    };
    for topic in [&secure.topic, &letters] {
        may("Describe", topic).await;
    }
    let stranger = secure.sasl(SaslMechanism::Plain, "stranger", "stranger-secret");
    let mut config = letters::config(cluster, &secure.topic, DeadLetterTarget::Topic);
    config.sink = secure.sink("SASL_PLAINTEXT", None, stranger);
    let target = letters::targets(&config, None).await;
    let relay = Relay::start_into(config, target);
    let mut rows = rows(0..20, 3);
    rows[11].payload = None;
    let (usable, rest) = rows.split_at(10);
    relay.offer(usable.to_vec()).await;
    let opened = || relay.view().breaker == BreakerState::Open;
    wait_until("the breaker opens", A_WHILE, opened).await;
    assert_eq!(relay.view().totals.processed, 0);
    let said = [relay.sink_health().message, relay.view().last_error];
    for said in said.map(Option::unwrap_or_default) {
        assert!(said.contains("ClusterAuthorizationFailed: "), "{said}");
    }
    may("Write", &secure.topic).await;
    relay.delivered(10).await;

    relay.offer(rest.to_vec()).await;
    let failures = "outbox_relay_dead_letter_write_failures_total";
    wait_until("a letter that cannot be written", A_WHILE, || {
        relay.metric(failures) >= Some(2.0)
    })
    .await;
    assert_eq!(relay.view().totals.dead_lettered, 0);
    may("Write", &letters).await;
    relay.resolved(20).await;
    let closed = || relay.view().breaker == BreakerState::Closed;
    relay.offer(crate::rows(20..30, 3)).await;
    wait_until("the breaker closes", A_WHILE, closed).await;
    relay.resolved(30).await;
    let messages = cluster.read(&secure.topic).await;
    messages.in_order_exactly(3, (0..30).filter(|number| *number != 11));
    assert_eq!(cluster.read(&letters).await.numbers(), [11].into());
    relay.stop().await;
}
