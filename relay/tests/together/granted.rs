//! What docs/permissions.md grants at Kafka is enough, and needed, and so is what it grants for polling Cassandra: its own
//! commands are run.

use std::io::Write;
use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use crate::acl::{allow, rules};
use crate::polled::cassandra;
use crate::process::Relay;
use crate::stack::{Flow, Guarantee, Stack};
use crate::tidy::value;

const DOCUMENTED: &str = include_str!("../../../docs/permissions.md");

/// The documented commands for the relay's user without their program and its broker, for user `stranger` and another topic
/// and identity.
fn commands(topic: &str) -> Vec<Vec<String>> {
    let joined = DOCUMENTED.replace("\\\n", " ");
    let commands = joined
        .lines()
        .filter_map(|line| line.strip_prefix("kafka-acls.sh --bootstrap-server broker:9092 "));
    let ours = |word: &str| {
        word.replace("User:relay", "User:stranger")
            .replace("order-events", topic)
            .replace("shop.orders", &format!("test.{topic}"))
    };
    commands
        .filter(|command| command.contains("User:relay"))
        .map(|command| command.split_whitespace().map(ours).collect())
        .collect()
}

fn as_stranger(stack: &Stack, topic: &str, guarantee: Guarantee) -> tempfile::NamedTempFile {
    let secured = stack.broker.secured("sasl_plaintext", None).unwrap();
    let sink = format!(
        "{{bootstrapServers: [\"{}\"], topic: {topic}, guarantee: {guarantee:?}, sasl: {{mechanism: Plain, credentials: \
         {{username: stranger, passwordEnv: KAFKA_PASSWORD}}}}}}",
        secured.bootstrap
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(stack.config(topic, &sink).as_bytes()).unwrap();
    file
}

async fn delivers(flow: &Flow<'_>, stack: &Stack, granted: &[Vec<String>]) {
    let relay = Relay::start_with(flow.config(), "1/1", &[("KAFKA_PASSWORD", "stranger-secret")]);
    tokio::task::block_in_place(|| {
        relay.readyz(503, "sink: ");
    });
    for command in granted {
        let admin = stack.broker.cluster().config().create().unwrap();
        allow(admin, rules(command)).await;
    }
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    flow.load(2).await.await.unwrap();
    flow.verify(0).await;
    relay.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_commands_are_enough() {
    let stack = Stack::start().await;
    for (topic, guarantee, count) in [
        ("granted", Guarantee::AtLeastOnce, 1),
        ("granted_once", Guarantee::ExactlyOnce, 3),
    ] {
        let mut flow = stack.flow_with(topic, guarantee).await;
        flow.configure(as_stranger(&stack, topic, guarantee));
        if count > 1 {
            // As `outbox-relay setup` makes it, run by somebody who may.
            let journal = format!("test.{topic}-journal");
            let compacted = [("cleanup.policy", "compact")];
            stack.broker.create_topic(&journal, 1, &compacted).await.unwrap();
        }
        let granted = commands(topic);
        assert_eq!(granted.len(), 3, "{granted:?}");
        delivers(&flow, &stack, &granted[..count]).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(90);

const PASSWORDS: [(&str, &str); 2] = [
    ("RELAY_PASSWORD", "relay-secret"),
    ("CASSANDRA_PASSWORD", "cassandra"),
];

/// What is documented for `source.mode: Polling`: neither a log nor its generations.
fn grants() -> Vec<&'static str> {
    let grants = DOCUMENTED.lines().filter(|line| line.starts_with("GRANT "));
    let of_the_log = |grant: &&str| grant.contains("_scylla_cdc_log") || grant.contains("system_distributed");
    grants
        .filter(|grant| !of_the_log(grant))
        .map(|grant| grant.trim_end_matches(';'))
        .collect()
}

/// Cassandra makes its first role some time after it answers.
async fn superuser(address: &str) -> Session {
    let started = Instant::now();
    loop {
        let builder = SessionBuilder::new()
            .known_node(address)
            .user("cassandra", "cassandra");
        match builder.build().await {
            Ok(session) => return session,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn as_role(stack: &Stack, address: &str, role: &str) -> tempfile::NamedTempFile {
    let (bootstrap, variable) = (
        stack.broker.cluster().bootstrap,
        format!("{}_PASSWORD", role.to_uppercase()),
    );
    let text = format!(
        "identity: test.roles\nsource: {{contactPoints: [\"{address}\"], keyspace: app, table: outbox, mode: Polling, \
         pollIntervalMilliseconds: 300, cleanup: Delete, credentials: {{username: {role}, passwordEnv: {variable}}}}}\n\
         sink: {{bootstrapServers: [\"{bootstrap}\"], topic: roles}}\nstate: {{leaseSeconds: 4}}\n"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn command(words: &[&str], config: &tempfile::NamedTempFile) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command
        .args(words)
        .args(["-f", config.path().to_str().unwrap()])
        .envs(PASSWORDS);
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_cassandra_the_documented_grants_are_enough_to_poll() {
    let address = tokio::task::spawn_blocking(|| cassandra(&["--roles", "yes"]));
    let (stack, address) = (Stack::start().await, address.await.unwrap());
    stack.broker.create_topic("roles", 2, &[]).await.unwrap();
    let admin = superuser(&address).await;
    let cql = async |text: &str| {
        let done = admin.query_unpaged(text, ()).await;
        done.unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    cql("CREATE KEYSPACE app WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
    cql(
        "CREATE TABLE app.outbox (aggregate_id text, id int, event_type text, payload text, \
         PRIMARY KEY (aggregate_id, id)) WITH gc_grace_seconds = 600",
    )
    .await;
    cql("CREATE ROLE relay WITH PASSWORD = 'relay-secret' AND LOGIN = true").await;
    let config = as_role(&stack, &address, "relay");
    let check = command(&["check"], &config);
    assert!(
        check.contains("error    source.table: ") && check.contains("SELECT"),
        "{check}"
    );
    let set_up = command(
        &["setup", "--replication-factor", "1"],
        &as_role(&stack, &address, "cassandra"),
    );
    let granted = grants();
    assert_eq!(granted.len(), 4, "{granted:?}");
    for grant in granted {
        cql(grant).await;
    }
    let passwords = &PASSWORDS[..1];
    let relay = Relay::start_with(config.path(), "1/1", passwords);
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    for id in 0..20 {
        let text = format!(
            "INSERT INTO app.outbox (aggregate_id, id, event_type, payload) VALUES ('a', {id}, 'T', '{{}}')"
        );
        cql(&text).await;
    }
    let started = Instant::now();
    loop {
        let said = relay.metrics();
        let done = [
            "cdc_events_processed_total",
            "outbox_relay_outbox_rows_deleted_total",
        ]
        .map(|name| value(&said, name));
        if done.iter().all(|count| *count >= 20) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{done:?}; {set_up}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = cql("SELECT id FROM app.outbox")
        .await
        .into_rows_result()
        .unwrap()
        .rows_num();
    assert_eq!(left, 0, "what is delivered is deleted");
    relay.stop();
}
