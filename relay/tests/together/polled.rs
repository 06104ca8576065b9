//! A table without CDC is polled, on the sandbox and on a real Apache Cassandra: relays stop, die and change places, the broker
//! goes away, and events are refused.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orders::dead_letters::DeadLetters;
use orders::store::polled_schema;
use scylla::client::session_builder::SessionBuilder;
use tokio::time::sleep;

use crate::exactly;
use crate::process::Relay;
use crate::stack::{Flow, Guarantee, RATE, Stack};
use crate::tidy::{emptied, value};

/// Looks often, so that the test is short.
const POLLED: &str = "mode: Polling, pollIntervalMilliseconds: 500, cleanup: Delete, table";

/// As long as rows pile up.
const OUTAGE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_polled_table_loses_and_reorders_nothing_on_the_sandbox_and_on_cassandra() {
    let cassandra = tokio::task::spawn_blocking(|| cassandra(&[]));
    let sandbox = Arc::new(Stack::start().await);
    let folder = tempfile::tempdir().unwrap();
    let address = cassandra.await.unwrap();
    let cassandra = Stack::on(address, sandbox.broker.clone(), folder).await;
    let cassandra = Arc::new(cassandra);
    let started = Instant::now();
    let on_sandbox = tokio::spawn(relays(sandbox.clone(), ["polled_ended", "polled_died"]));
    relays(cassandra.clone(), ["cassandra_ended", "cassandra_died"]).await;
    on_sandbox.await.unwrap();
    outage([(&sandbox, "polled_late"), (&cassandra, "cassandra_late")]).await;
    eprintln!(
        "polled: {:?} beside the starts of the databases",
        started.elapsed()
    );
}

/// Each has a table of its own, and both run side by side.
async fn relays(stack: Arc<Stack>, [ended, crashed]: [&'static str; 2]) {
    let beside = stack.clone();
    let ended = tokio::spawn(async move { ended_well(&beside, ended).await });
    died(&stack, crashed).await;
    ended.await.unwrap();
}

async fn polled<'a>(stack: &'a Stack, name: &'static str) -> Flow<'a> {
    let without_cdc = |_| polled_schema().replace("orders_ks", name);
    let mut flow = stack.flow_in(name, Guarantee::AtLeastOnce, without_cdc).await;
    flow.with_source(Guarantee::AtLeastOnce, POLLED);
    flow
}

fn start(flow: &Flow<'_>, share: &str) -> Relay {
    let relay = Relay::start(flow.config(), share);
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    relay
}

/// Relays that are told to end delete first what they delivered: nothing is repeated.
async fn ended_well(stack: &Stack, name: &'static str) {
    let flow = polled(stack, name).await;
    let relay = start(&flow, "1/1");
    let load = flow.load(5).await;
    sleep(Duration::from_millis(1_700)).await;
    tokio::task::block_in_place(|| relay.stop());
    let relay = start(&flow, "1/1");
    sleep(Duration::from_millis(1_300)).await;
    tokio::task::block_in_place(|| relay.stop());
    let two = [start(&flow, "1/2"), start(&flow, "2/2")];
    load.await.unwrap();
    flow.verify(0).await;
    emptied(stack, name, &two[0]).await;
    two.into_iter().for_each(Relay::stop);
}

/// One of two relays dies between delivery and delete, and some events are too large for the topic.
async fn died(stack: &Stack, name: &'static str) {
    let flow = polled(stack, name).await;
    exactly::alter(stack, name, "max.message.bytes", "50000").await;
    let (dies, stays) = (start(&flow, "1/2"), start(&flow, "2/2"));
    let load = flow.load_with(6, Some((100, 200_000))).await;
    sleep(Duration::from_millis(2_300)).await;
    dies.kill();
    let again = start(&flow, "1/2");
    load.await.unwrap();
    let session = SessionBuilder::new()
        .known_node(&stack.address)
        .build()
        .await
        .unwrap();
    let letters = DeadLetters {
        table: Some((session, "outbox_relay.dead_letters".to_owned())),
        topic: None,
    };
    // A crash repeats what was in flight, and what was waiting for its delete.
    let report = flow.verify_with(u64::from(RATE), letters, 8..=12).await;
    emptied(stack, name, &stays).await;
    for relay in [&again, &stays] {
        let said = relay.metrics();
        let deleted = value(&said, "outbox_relay_outbox_rows_deleted_total");
        let polls = value(&said, "outbox_relay_cql_queries_total{cursor=\"poll\"}");
        eprintln!(
            "{name}: {} events, {deleted} rows deleted by one relay after {polls} queries",
            report.committed
        );
        assert!(deleted > 0 && polls > 0);
    }
    again.stop();
    stays.stop();
}

/// Nothing listens at Kafka while rows pile up.
async fn outage(stacks: [(&Stack, &'static str); 2]) {
    let mut flows = Vec::new();
    for (stack, name) in stacks {
        let flow = polled(stack, name).await;
        let relay = start(&flow, "1/1");
        flows.push((flow, relay, stack, name));
    }
    let broker = &stacks[0].0.broker;
    let mut loads = Vec::new();
    for (flow, ..) in &flows {
        loads.push(flow.load(OUTAGE.as_secs()).await);
    }
    sleep(Duration::from_secs(1)).await;
    tokio::task::block_in_place(|| broker.kill().unwrap());
    for load in loads {
        load.await.unwrap();
    }
    tokio::task::block_in_place(|| broker.restart().unwrap());
    for (flow, relay, stack, name) in flows {
        // Whatever was under way as the broker went may be there twice.
        flow.verify(u64::from(RATE)).await;
        emptied(stack, name, &relay).await;
        relay.stop();
    }
}

/// The address of one that is there already, or of one that is started for this test; always a new one with `options`.
pub(crate) fn cassandra(options: &[&str]) -> String {
    if let (Ok(address), true) = (std::env::var("CASSANDRA_CONTACT_POINT"), options.is_empty()) {
        return address;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/cassandra.sh");
    let owner = std::process::id().to_string();
    let directory = std::env::temp_dir().join(format!("outbox-polled-{owner}-{}", options.len()));
    let output = Command::new(script)
        .args([
            "start",
            directory.to_str().unwrap(),
            "--heap",
            "700m",
            "--owner",
            &owner,
        ])
        .args(options)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Cassandra did not start: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
