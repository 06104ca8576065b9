//! TLS, SASL and authorisation: what works, and how mistakes show.

use crds::Sink;
use crds::relay_status::Health;
use crds::secrets::{Credentials, Tls};
use crds::sink::{Sasl, SaslMechanism};

use crate::cluster::Cluster;
use crate::fed::{Relay, wait_until};
use crate::{A_WHILE, rows};

struct Secure {
    cluster: Cluster,
    topic: String,
    secrets: tempfile::TempDir,
}

impl Secure {
    async fn start() -> Self {
        let cluster = Cluster::start_secure().await;
        let topic = cluster.topic("secured", 2, &[]).await;
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
    let secure = Secure::start().await;
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
