//! Dead letters that are replayed exactly once: whatever happens to the relays, a consumer that reads what is committed sees
//! each once, and an aggregate that was held in order.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sandbox::fault::rule::{ErrorName, Rule};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::exactly::alter;
use crate::process::{PATIENCE, Relay, wait};
use crate::stack::{Flow, Guarantee, Stack};
use crate::tidy::value;

const TABLE: &str = "outbox_relay.dead_letters";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_replayed_letter_twice_whatever_happens_to_the_relays() {
    let stack = Stack::start().await;
    killed_before_letters_are_removed(&stack).await;
    killed_again_and_again(&stack).await;
}

/// Under a load of so many seconds, a topic that takes all events from the third second on; those that it did not take are
/// dead letters.
async fn poisoned<'a>(
    stack: &'a Stack,
    name: &'static str,
    settings: &str,
    seconds: u64,
) -> (Flow<'a>, Relay, JoinHandle<()>) {
    let mut flow = stack.flow_with(name, Guarantee::ExactlyOnce).await;
    alter(stack, name, "max.message.bytes", "50000").await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = flow.text(Guarantee::ExactlyOnce) + settings;
    file.write_all(text.as_bytes()).unwrap();
    flow.configure(file);
    let relay = Relay::start(flow.config(), "1/1");
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    let load = flow.load_with(seconds, Some((40, 200_000))).await;
    sleep(Duration::from_secs(3)).await;
    wait_for(stack, name, |statuses| !statuses.is_empty()).await;
    alter(stack, name, "max.message.bytes", "1000000").await;
    (flow, relay, load)
}

/// The status of each letter of a flow.
async fn statuses(stack: &Stack, name: &str) -> Vec<String> {
    let all = format!("SELECT identity, event_id, status FROM {TABLE}");
    let rows = stack.session.query_unpaged(all, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    rows.rows::<(String, Option<String>, Option<String>)>()
        .unwrap()
        .map(Result::unwrap)
        .filter(|(identity, event_id, _)| *identity == format!("test.{name}") && event_id.is_some())
        .map(|(.., status)| status.unwrap_or_default())
        .collect()
}

async fn wait_for(stack: &Stack, name: &str, there: impl Fn(&[String]) -> bool) {
    let began = std::time::Instant::now();
    loop {
        let statuses = statuses(stack, name).await;
        if there(&statuses) {
            return;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "{name}: {statuses:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn replay(flow: &Flow<'_>, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
        .args(["dead-letters", "replay", "-f", flow.config().to_str().unwrap()])
        .args(["--class", "message"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ended(mut child: Child) -> Option<i32> {
    tokio::task::block_in_place(|| child.wait().unwrap()).code()
}

/// Committed, and still in the table when their relay dies.
async fn killed_before_letters_are_removed(stack: &Stack) {
    let (flow, relay, load) = poisoned(stack, "letters", "deadLetter: {maxReplays: 9}\n", 4).await;
    load.await.unwrap();
    wait_for(stack, "letters", |statuses| {
        statuses.iter().all(|status| status == "waiting")
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    let before = statuses(stack, "letters").await.len();
    // Held for a moment, so that the command has prepared its statements before they fail.
    relay.signal("STOP");
    let asked = replay(&flow, &[]);
    wait_for(stack, "letters", |statuses| {
        statuses.iter().any(|status| status == "replaying")
    })
    .await;
    let rule = Rule::error(ErrorName::Unavailable)
        .statement("DELETE FROM \"outbox_relay\".\"dead_letters\"*IF epoch");
    let rule = stack.sandbox().faults().add(rule).unwrap();
    relay.signal("CONT");
    let struck = || stack.sandbox().faults().get(rule).unwrap().hits;
    tokio::task::block_in_place(|| wait("committed replays", || struck() > 0));
    let left = statuses(stack, "letters").await;
    let sending = left.iter().filter(|status| *status == "sending").count();
    assert!(sending > 0 && left.len() == before, "{left:?}");
    relay.kill();
    stack.sandbox().faults().remove(rule);
    let relay = Relay::start(flow.config(), "1/1");
    wait_for(stack, "letters", <[String]>::is_empty).await;
    assert_eq!(ended(asked), Some(0));
    flow.verify_replayed(before as u64).await;
    relay.stop();
}

/// At whatever moment, with aggregates that are held.
async fn killed_again_and_again(stack: &Stack) {
    let settings = "deadLetter: {onAggregate: Hold, maxReplays: 100}\n";
    let (flow, mut relay, load) = poisoned(stack, "held", settings, 14).await;
    let asked = replay(&flow, &["--rate", "5/s"]);
    for pause in [1_300, 1_900, 900] {
        sleep(Duration::from_millis(pause)).await;
        relay.kill();
        relay = Relay::start(flow.config(), "1/1");
        tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    }
    load.await.unwrap();
    // Whatever it says: a letter may have failed again, before a relay heard of what the topic takes by now.
    ended(asked);
    assert_eq!(ended(replay(&flow, &[])), Some(0));
    wait_for(stack, "held", <[String]>::is_empty).await;
    tokio::task::block_in_place(|| {
        wait("the holds to end", || {
            value(&relay.metrics(), "outbox_relay_held_aggregates") == 0
        })
    });
    flow.verify_replayed(u64::MAX).await;
    relay.stop();
}
