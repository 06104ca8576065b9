//! Exactly once: whatever happens to relays, broker and journal, a consumer that reads what is committed sees each event
//! once, and in order.

use std::io::Write;
use std::time::Duration;

use orders::dead_letters::DeadLetters;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use scylla::client::session_builder::SessionBuilder;
use tokio::time::sleep;

use crate::process::{PATIENCE, Relay, wait};
use crate::stack::{Flow, Guarantee, LEASE, Stack};

/// The relay's own.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(20);

fn start(flow: &Flow<'_>, share: &str) -> Relay {
    Relay::start(flow.config(), share)
}

fn ready(relay: &Relay) {
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
}

/// Waits until these relays own all slots between them.
fn settled(relays: &[&Relay]) {
    tokio::task::block_in_place(|| {
        wait("all slots", || {
            relays.iter().map(|relay| relay.owned()).sum::<u16>() == 64
        })
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_an_event_twice_whatever_happens_to_the_relays() {
    let stack = Stack::start().await;
    killed(&stack).await;
    frozen(&stack).await;
    resharded(&stack).await;
    guarantee_changed(&stack).await;
    poisoned(&stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_an_event_twice_whatever_happens_to_the_broker() {
    let stack = Stack::start().await;
    broker_killed(&stack).await;
    broker_stalled(&stack).await;
    journal_emptied(&stack).await;
}

/// kill -9, again and again, in the middle of transactions.
async fn killed(stack: &Stack) {
    let flow = stack.flow_with("killed", Guarantee::ExactlyOnce).await;
    let (mut one, mut other) = (start(&flow, "auto"), start(&flow, "auto"));
    settled(&[&one, &other]);
    let load = flow.load(12).await;
    for _ in 0..2 {
        sleep(Duration::from_millis(1_700)).await;
        one.kill();
        one = std::mem::replace(&mut other, start(&flow, "auto"));
        settled(&[&one, &other]);
    }
    load.await.unwrap();
    flow.verify(0).await;
    one.stop();
    other.stop();
}

/// A zombie wakes with a transaction open and its slots taken.
async fn frozen(stack: &Stack) {
    let flow = stack.flow_with("frozen", Guarantee::ExactlyOnce).await;
    let zombie = start(&flow, "1/1");
    ready(&zombie);
    let load = flow.load(12).await;
    let heir = start(&flow, "1/1");
    sleep(Duration::from_secs(2)).await;
    zombie.signal("STOP");
    settled(&[&heir]);
    sleep(Duration::from_secs(1)).await;
    zombie.signal("CONT");
    load.await.unwrap();
    flow.verify(0).await;
    assert_eq!(heir.owned(), 64, "the zombie took nothing back");
    heir.stop();
    zombie.stop();
}

/// Orderly changes fence nobody.
async fn resharded(stack: &Stack) {
    let flow = stack.flow_with("resharded", Guarantee::ExactlyOnce).await;
    let one = start(&flow, "1/1");
    ready(&one);
    let load = flow.load(6).await;
    sleep(Duration::from_secs(2)).await;
    one.stop();
    let two = [start(&flow, "1/2"), start(&flow, "2/2")];
    two.iter().for_each(ready);
    load.await.unwrap();
    flow.verify(0).await;
    for relay in two {
        assert!(
            !relay.said().contains("fencing the producers"),
            "what was released cleanly needs no fence: {}",
            relay.said()
        );
        relay.stop();
    }
}

/// Under load, once by a crash and once in order, either way.
async fn guarantee_changed(stack: &Stack) {
    let mut flow = stack.flow_with("changed", Guarantee::ExactlyOnce).await;
    let exactly = start(&flow, "1/1");
    ready(&exactly);
    let load = flow.load(14).await;
    sleep(Duration::from_secs(2)).await;
    exactly.kill();
    flow.choose(Guarantee::AtLeastOnce);
    let at_least = start(&flow, "1/1");
    ready(&at_least);
    let said = at_least.said();
    assert!(
        said.contains("fencing the producers"),
        "it settles what was left: {said}"
    );
    sleep(Duration::from_secs(1)).await;
    at_least.stop();
    flow.choose(Guarantee::ExactlyOnce);
    let exactly = start(&flow, "1/1");
    ready(&exactly);
    sleep(Duration::from_secs(1)).await;
    exactly.stop();
    flow.choose(Guarantee::AtLeastOnce);
    let at_least = start(&flow, "1/1");
    ready(&at_least);
    load.await.unwrap();
    flow.verify(0).await;
    at_least.stop();
}

/// Some events are too large for the topic, and a relay dies while it looks for them: each is a dead letter or delivered,
/// never both. The topic for dead letters is no larger, so they are in it without their payload.
async fn poisoned(stack: &Stack) {
    let mut flow = stack.flow_with("poisoned", Guarantee::ExactlyOnce).await;
    stack
        .broker
        .create_topic("poisoned-letters", 1, &[])
        .await
        .unwrap();
    for topic in ["poisoned", "poisoned-letters"] {
        alter(stack, topic, "max.message.bytes", "50000").await;
    }
    let letters = "deadLetter: {target: Both, topic: poisoned-letters}\n";
    flow.configure(file(&(flow.text(Guarantee::ExactlyOnce) + letters)));
    let relay = start(&flow, "1/1");
    ready(&relay);
    let load = flow.load_with(8, Some((100, 200_000))).await;
    sleep(Duration::from_millis(2_300)).await;
    relay.kill();
    let relay = start(&flow, "1/1");
    load.await.unwrap();
    let session = SessionBuilder::new()
        .known_node_addr(stack.sandbox().addr())
        .build()
        .await
        .unwrap();
    let table = "outbox_relay.dead_letters";
    let letters = DeadLetters {
        table: Some((session, table.to_owned())),
        topic: Some((stack.broker.cluster(), "poisoned-letters".to_owned())),
    };
    flow.verify_with(0, letters, 10..=16).await;
    relay.stop();
    let status = format!("SELECT event_id, status FROM {table}");
    let rows = stack.session.query_unpaged(status, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    let states: Vec<_> = rows
        .rows::<(Option<String>, Option<String>)>()
        .unwrap()
        .map(Result::unwrap)
        .filter(|(letter, _)| letter.is_some())
        .collect();
    assert!(
        states
            .iter()
            .all(|(_, state)| state.as_deref() == Some("waiting")),
        "every event is decided: {states:?}"
    );
}

/// The coordinator dies with the broker, and comes back.
async fn broker_killed(stack: &Stack) {
    let flow = stack.flow_with("outage", Guarantee::ExactlyOnce).await;
    let relay = start(&flow, "1/1");
    ready(&relay);
    let load = flow.load(10).await;
    for _ in 0..2 {
        sleep(Duration::from_secs(2)).await;
        tokio::task::block_in_place(|| stack.broker.kill().unwrap());
        sleep(Duration::from_millis(700)).await;
        tokio::task::block_in_place(|| stack.broker.restart().unwrap());
    }
    load.await.unwrap();
    flow.verify(0).await;
    relay.stop();
}

/// Longer than a transaction may stay open: the broker takes it back, and its producer has ended.
async fn broker_stalled(stack: &Stack) {
    let flow = stack.flow_with("stalled", Guarantee::ExactlyOnce).await;
    let relay = start(&flow, "1/1");
    ready(&relay);
    let load = flow.load(4).await;
    sleep(Duration::from_secs(2)).await;
    tokio::task::block_in_place(|| stack.broker.pause().unwrap());
    sleep(TRANSACTION_TIMEOUT + Duration::from_secs(2)).await;
    tokio::task::block_in_place(|| stack.broker.resume().unwrap());
    load.await.unwrap();
    flow.verify(0).await;
    relay.stop();
}

/// Without it nobody knows what the last transactions delivered: nothing is guessed.
async fn journal_emptied(stack: &Stack) {
    let flow = stack.flow_with("emptied", Guarantee::ExactlyOnce).await;
    let relay = start(&flow, "1/1");
    ready(&relay);
    flow.load(1).await.await.unwrap();
    flow.verify(0).await;
    relay.kill();
    empty(stack, "test.emptied-journal").await;
    let relay = start(&flow, "1/1");
    let said = tokio::task::block_in_place(|| relay.readyz(503, "does not begin with its head"));
    assert!(said.contains("journal"), "{said}");
    tokio::task::block_in_place(|| std::thread::sleep(LEASE + Duration::from_secs(1)));
    assert_eq!(relay.owned(), 0, "no slot is read");
    relay.stop();
}

/// Deletes all records, as `kafka-delete-records` does.
async fn empty(stack: &Stack, topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stack.broker.cluster().bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    alter(stack, topic, "cleanup.policy", "compact,delete").await;
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::End).unwrap();
    admin.delete_records(&all, &options).await.unwrap();
    alter(stack, topic, "cleanup.policy", "compact").await;
}

pub(crate) async fn alter(stack: &Stack, topic: &str, setting: &str, value: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stack.broker.cluster().bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(setting, value);
    let altered = admin
        .alter_configs([&change], &AdminOptions::new())
        .await
        .unwrap();
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

impl Flow<'_> {
    /// For relays that start from now on.
    fn choose(&mut self, guarantee: Guarantee) {
        self.configure(file(&self.text(guarantee)));
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}
