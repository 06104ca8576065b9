//! Rows from before CDC was enabled are delivered from the table, and all later ones from the log, while writers write and
//! relays die.

use std::time::Duration;

use orders::store::polled_schema;
use tokio::time::sleep;

use crate::process::Relay;
use crate::stack::{Flow, Guarantee, RATE, Stack};
use crate::tidy::value;

/// What is written in the first five seconds takes three to read. With the skew of clocks, what is older than 6 s counts as
/// before.
const SNAPSHOT: &str =
    "startFrom: Snapshot, horizonSeconds: 1, load: {snapshotRowsPerSecond: 350, rampSeconds: 0}, table";

const NAME: &str = "snapshot";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_that_are_older_than_the_log_are_delivered_once_and_in_order_with_the_log() {
    let stack = Stack::start().await;
    let without_cdc = |_| polled_schema().replace("orders_ks", NAME);
    let mut flow = stack.flow_in(NAME, Guarantee::AtLeastOnce, without_cdc).await;
    flow.with_source(Guarantee::AtLeastOnce, SNAPSHOT);
    let load = flow.load(16).await;
    sleep(Duration::from_secs(3)).await;
    flow.cql(&format!(
        "ALTER TABLE {NAME}.outbox_messages WITH cdc = {{'enabled': true}}"
    ))
    .await;
    sleep(Duration::from_secs(8)).await;
    let relay = start(&flow, "1/1");
    let seen = until_some_are_read(&relay).await;
    relay.kill();
    let two = [start(&flow, "1/2"), start(&flow, "2/2")];
    load.await.unwrap();
    // The crash repeats what was delivered since the last save.
    let report = flow.verify(u64::from(2 * RATE)).await;
    let said = two.each_ref().map(Relay::metrics);
    let of = |name: &str| said.iter().map(|said| value(said, name)).sum::<u64>();
    assert_eq!(of("outbox_relay_snapshot_slots"), 0, "{}", two[0].said());
    let old = of("outbox_relay_snapshot_events_total");
    eprintln!(
        "{NAME}: {} events, {seen} read from the table before the crash, {old} after it",
        report.committed
    );
    assert!(old > u64::from(RATE), "the others go on with it: {old}");
    // Nothing of it is done again.
    let [first, second] = two;
    first.stop();
    second.stop();
    let again = start(&flow, "1/1");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(value(&again.metrics(), "outbox_relay_snapshot_rows_total"), 0);
    again.stop();
    flow.verify(u64::from(2 * RATE)).await;
}

/// Some slots are done then, and some are not. How many events were read.
async fn until_some_are_read(relay: &Relay) -> u64 {
    for _ in 0..3_000 {
        let said = relay.metrics();
        let (slots, events) = (
            value(&said, "outbox_relay_snapshot_slots"),
            value(&said, "outbox_relay_snapshot_events_total"),
        );
        if events > u64::from(RATE) && (1..60).contains(&slots) {
            return events;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the table is not read: {}", relay.said());
}

fn start(flow: &Flow<'_>, share: &str) -> Relay {
    let relay = Relay::start(flow.config(), share);
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    relay
}
