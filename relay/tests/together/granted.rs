//! What docs/permissions.md grants at Kafka is enough, and needed: its own commands are run.

use std::io::Write;

use crate::acl::{allow, rules};
use crate::process::Relay;
use crate::stack::{Flow, Guarantee, Stack};

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
