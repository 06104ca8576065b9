//! TLS, SASL and authorisation: what works, and how mistakes show.

use crds::Sink;
use crds::dead_letter::DeadLetterTarget;
use crds::relay_status::{BreakerState, Health};
use crds::secrets::{Credentials, Tls};
use crds::sink::{Sasl, SaslMechanism};

use crate::acl::{May, allow};
use crate::cluster::Cluster;
use crate::fed::{Relay, wait_until};
use crate::{A_WHILE, letters, rows};

struct Secure {
    cluster: Cluster,
    topic: String,
    secrets: tempfile::TempDir,
}

impl Secure {
    async fn start(topic: &str) -> Self {
        let cluster = Cluster::shared_secure().await;
        let topic = cluster.topic(topic, 2, &[]).await;
        Self {
            cluster,
            topic,
            secrets: tempfile::tempdir().unwrap(),
        }
    }

    fn sink(&self, listener: &str, tls: Option<Tls>, sasl: Option<Sasl>) -> Sink {
        Sink {
            bootstrap_servers: vec![self.cluster.listener(listener)],
            topic: self.topic.clone(),
            tls,
            sasl,
            ..Sink::default()
        }
    }

    fn tls(&self) -> Option<Tls> {
        Some(Tls {
            ca_file: Some(self.cluster.listener("CA").into()),
            ..Tls::default()
        })
    }

    fn sasl(&self, mechanism: SaslMechanism, user: &str, password: &str) -> Option<Sasl> {
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

    async fn waits_because(&self, sink: Sink, reasons: &[&str]) {
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

/// A user that may look at topics, and write to none until it is allowed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_written_waits_until_it_may() {
    let secure = Secure::start("forbidden").await;
    let cluster = &secure.cluster;
    let letters = cluster.topic(&letters::letters_of(&secure.topic), 1, &[]).await;
    for topic in [&secure.topic, &letters] {
        allow(cluster, "stranger", May::Describe, topic).await;
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
    allow(cluster, "stranger", May::Write, &secure.topic).await;
    relay.delivered(10).await;

    relay.offer(rest.to_vec()).await;
    let failures = "outbox_relay_dead_letter_write_failures_total";
    wait_until("a letter that cannot be written", A_WHILE, || {
        relay.metric(failures) >= Some(2.0)
    })
    .await;
    assert_eq!(relay.view().totals.dead_lettered, 0);
    allow(cluster, "stranger", May::Write, &letters).await;
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
