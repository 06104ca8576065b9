//! The secure broker that other tests stand on: who may write over which listener.

#![expect(clippy::unwrap_used, reason = "a test stops where something is missing")]

use std::time::Duration;

use orders::broker::Broker;
use orders::kafka::Cluster;
use rdkafka::producer::{FutureProducer, FutureRecord};

/// Ok, or the error of writing one message.
async fn write(cluster: &Cluster) -> Result<(), String> {
    let producer: FutureProducer = cluster
        .config()
        .set("message.timeout.ms", "4000")
        .create()
        .unwrap();
    let record = FutureRecord::<str, str>::to("secured").payload("{}");
    let written = producer.send(record, Duration::ZERO).await;
    written.map(drop).map_err(|(error, _)| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_lets_in_whom_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_secure(&folder.path().join("kafka")).unwrap();
    broker.create_topic("secured", 1, &[]).await.unwrap();

    let relay = |mechanism| Some((mechanism, "relay", "relay-secret"));
    for (protocol, login, expected) in [
        ("sasl_plaintext", relay("PLAIN"), None),
        ("sasl_plaintext", relay("SCRAM-SHA-256"), None),
        ("sasl_ssl", relay("SCRAM-SHA-512"), None),
        ("sasl_ssl", relay("PLAIN"), None),
        // Without a certificate of its own a client is ANONYMOUS, as on the plain listener.
        ("ssl", None, None),
        (
            "sasl_ssl",
            Some(("PLAIN", "stranger", "stranger-secret")),
            Some("TopicAuthorizationFailed"),
        ),
        (
            "sasl_ssl",
            Some(("SCRAM-SHA-256", "relay", "wrong")),
            Some("MessageTimedOut"),
        ),
    ] {
        let written = write(&broker.secured(protocol, login).unwrap()).await;
        match (&written, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) if error.contains(part) => {}
            _ => panic!("{protocol} {login:?}: {written:?}, expected {expected:?}"),
        }
    }
    let plain = Cluster {
        properties: vec![],
        ..broker.secured("ssl", None).unwrap()
    };
    assert!(write(&plain).await.is_err(), "a plain client on the TLS listener");
}
