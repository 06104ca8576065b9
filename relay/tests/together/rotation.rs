//! Secrets that change while a relay runs: it takes them without a restart, and loses and reorders nothing.

use std::io::Write;
use std::path::Path;

use sandbox::Sandbox;
use scylla::client::session_builder::SessionBuilder;

use crate::process::{Relay, free_address, wait};
use crate::stack::{Guarantee, Stack};

const CHANGED: &str = "connections are made anew";
const NOT_YET: &str = "are not accepted yet";

/// A relay's configuration with SCRAM by a file.
fn with_password(
    stack: &Stack,
    name: &str,
    guarantee: Guarantee,
    password: &Path,
) -> tempfile::NamedTempFile {
    let secured = stack.broker.secured("sasl_plaintext", None).unwrap();
    let sink = format!(
        "{{bootstrapServers: [\"{}\"], topic: {name}, guarantee: {guarantee:?}, sasl: {{mechanism: ScramSha512, \
         credentials: {{username: relay, passwordFile: {}}}}}}}",
        secured.bootstrap,
        password.display()
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(stack.config(name, &sink).as_bytes()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_password_at_kafka_is_taken_under_load() {
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    let mut former = "relay-secret".to_owned();
    for (name, guarantee) in [
        ("rotated", Guarantee::AtLeastOnce),
        ("rotated_once", Guarantee::ExactlyOnce),
    ] {
        std::fs::write(&password, &former).unwrap();
        let mut flow = stack.flow_with(name, guarantee).await;
        flow.configure(with_password(&stack, name, guarantee, &password));
        let relay = Relay::start(flow.config(), "1/1");
        tokio::task::block_in_place(|| relay.readyz(200, "ready"));
        let load = flow.load(25).await;
        // The file is first: the former password stays in use until the broker knows the new one.
        let next = format!("{name}-secret");
        std::fs::write(&password, &next).unwrap();
        tokio::task::block_in_place(|| wait("the wrong time", || relay.said().contains(NOT_YET)));
        assert!(!relay.said().contains(CHANGED), "{}", relay.said());
        tokio::task::block_in_place(|| stack.broker.change_password("relay", &next).unwrap());
        tokio::task::block_in_place(|| wait("the change", || relay.said().contains(CHANGED)));
        load.await.unwrap();
        flow.verify(0).await;
        tokio::task::block_in_place(|| relay.readyz(200, "ready"));
        let said = relay.said();
        assert!(!said.contains(&former) && !said.contains(&next), "{said}");
        relay.stop();
        former = next;
    }
}

/// The node forgets its connections, so that only the new password helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_password_at_scylladb_is_taken_without_a_restart() {
    let node = Sandbox::builder().user("admin", "secret").start().await.unwrap();
    let admin = SessionBuilder::new()
        .known_node_addr(node.addr())
        .user("admin", "secret")
        .build()
        .await
        .unwrap();
    for statement in [
        "CREATE KEYSPACE app WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
        "CREATE TABLE app.outbox (aggregate_id uuid, sequence bigint, id uuid, event_type text, payload text, PRIMARY KEY \
         (aggregate_id, sequence)) WITH cdc = {'enabled': true}",
        "CREATE ROLE relay WITH PASSWORD = 'first' AND LOGIN = true AND SUPERUSER = true",
    ] {
        admin.query_unpaged(statement, ()).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "not-yet").unwrap();
    let (kafka, file) = (free_address(), password.display());
    let text = format!(
        "identity: test.rotation\nsource: {{contactPoints: [\"{}\"], keyspace: app, table: outbox, credentials: {{username: \
         relay, passwordFile: {file}}}}}\nsink: {{bootstrapServers: [\"{kafka}\"], topic: events}}\nstate: {{leaseSeconds: 2}}\n",
        node.addr()
    );
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(text.as_bytes()).unwrap();
    let relay = Relay::start(config.path(), "1/1");
    let reads = |relay: &Relay| tokio::task::block_in_place(|| relay.readyz(503, "not ready: sink: "));
    tokio::task::block_in_place(|| relay.readyz(503, "source: "));
    std::fs::write(&password, "first").unwrap();
    reads(&relay);

    let second = "ALTER ROLE relay WITH PASSWORD = 'second'";
    admin.query_unpaged(second, ()).await.unwrap();
    node.stop_node(0).await.unwrap();
    node.start_node(0).await.unwrap();
    std::fs::write(&password, "second").unwrap();
    tokio::task::block_in_place(|| wait("the change", || relay.said().contains(CHANGED)));
    reads(&relay);
    relay.stop();
}
