//! Two relays under load while the topology changes beneath them: generations, one of them published late, tablets that
//! split and merge, a node that is down, a table that is altered and truncated; and one of the relays suspended or killed in
//! the middle of it.

use std::sync::Arc;
use std::time::Duration;

use sandbox::cdc::generations::SwitchDelays;
use sandbox::cdc::tablets::TabletChange;
use tokio::time::sleep;

use crate::process::{Relay, wait};
use crate::stack::{Flow, LEASE, RATE, Stack};

const SECOND: i64 = 1_000_000;

/// What one process delivers within a checkpoint interval and its save, and had in flight, had it all slots.
const REPEATS: u64 = RATE as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_relays_lose_and_reorder_nothing_as_the_topology_changes() {
    let stack = Arc::new(Stack::of_nodes(3).await);
    let beside = stack.clone();
    let tablets = tokio::spawn(async move { tablets(&beside).await });
    generations(&stack).await;
    tablets.await.unwrap();
}

fn owned(relays: &[Relay], expected: &[u16]) -> Duration {
    tokio::task::block_in_place(|| {
        wait(&format!("slots {expected:?}"), || {
            let mut owned: Vec<_> = relays.iter().map(Relay::owned).collect();
            owned.sort_unstable_by(|a, b| b.cmp(a));
            owned == expected
        })
    })
}

fn two(flow: &Flow<'_>) -> Vec<Relay> {
    let relays: Vec<_> = (0..2).map(|_| Relay::start(flow.config(), "auto")).collect();
    owned(&relays, &[32, 32]);
    relays
}

/// A generation begins while one of the relays is suspended, its slots are taken, and it wakes; the next one is published
/// three seconds after it began, while a node is down. Columns come and go, and the table is truncated.
async fn generations(stack: &Stack) {
    let flow = stack.flow("generations").await;
    let mut relays = two(&flow);
    let load = flow.load(20).await;
    sleep(Duration::from_secs(1)).await;
    let switch = |start, publish| {
        let delays = SwitchDelays {
            start,
            publish,
            learn: 0,
        };
        stack.sandbox().cdc().switch_generation(None, delays);
    };
    switch(SECOND, 0);
    let suspended = relays.pop().unwrap();
    suspended.signal("STOP");
    let taken = owned(&relays, &[64]);
    eprintln!("generations: SIGSTOP across a switch: taken over after {taken:?}");
    assert!(taken <= LEASE + Duration::from_secs(3), "{taken:?}");
    suspended.signal("CONT");
    relays.push(suspended);
    flow.cql("ALTER TABLE generations.outbox_messages ADD note text")
        .await;
    owned(&relays, &[32, 32]);
    switch(0, 3 * SECOND);
    stack.sandbox().stop_node(2).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    stack.sandbox().start_node(2).await.unwrap();
    flow.cql("ALTER TABLE generations.outbox_messages DROP note")
        .await;
    flow.cql("TRUNCATE generations.outbox_messages").await;
    load.await.unwrap();
    flow.verify(REPEATS).await;
    relays.into_iter().for_each(Relay::stop);
}

/// A split while both relays run, and a merge while one of them is dead.
async fn tablets(stack: &Stack) {
    let flow = stack.flow_on_tablets("tablets").await;
    let mut relays = two(&flow);
    let load = flow.load(16).await;
    let change = |change| {
        let delays = SwitchDelays {
            start: SECOND,
            publish: 0,
            learn: 0,
        };
        let changed = stack
            .sandbox()
            .cdc()
            .change_tablets("tablets", "outbox_messages", change, delays);
        changed.unwrap();
    };
    sleep(Duration::from_secs(1)).await;
    change(TabletChange::Split);
    sleep(Duration::from_secs(2)).await;
    relays.pop().unwrap().kill();
    change(TabletChange::Merge);
    let taken = owned(&relays, &[64]);
    eprintln!("tablets: kill -9 before a merge: taken over after {taken:?}");
    relays.push(Relay::start(flow.config(), "auto"));
    owned(&relays, &[32, 32]);
    load.await.unwrap();
    flow.verify(REPEATS).await;
    relays.into_iter().for_each(Relay::stop);
}
