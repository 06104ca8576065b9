//! Dead letters of the sandbox's table are sent again to a real broker: asked for by the command, carried out by the owner.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use relay::dead_letters::Targets;
use relay::dead_letters::stored::Stored;
use relay::dead_letters::table::TableDeadLetters;
use relay::model::{SlotId, SourcePosition};
use relay::ports::{DeadLetter, DeadLetterError, DeadLetters, ReplayRequest};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::A_WHILE;
use crate::cluster::Cluster;
use crate::fed::{Relay, Target, incompressible};
use crate::letters::{Tables, config, targets};
use crate::messages::Messages;

const AGGREGATES: u64 = 5;

struct Scene {
    cluster: Cluster,
    tables: Tables,
    topic: String,
    config: RelayConfig,
    targets: Arc<Targets>,
}

impl Scene {
    /// A topic that takes small messages only.
    async fn start(topic: &str, max_replays: u32) -> Self {
        let (cluster, tables) = (Cluster::shared().await, Tables::start().await);
        let topic = cluster.topic(topic, 2, &[("max.message.bytes", "3000")]).await;
        let mut config = config(&cluster, &topic, DeadLetterTarget::Table);
        config.source.contact_points = vec![tables.node()];
        config.source.keyspace = "app".to_owned();
        config.source.table = "outbox".to_owned();
        config.dead_letter.max_replays = max_replays;
        let Target::Real(targets) = targets(&config, Some(tables.session())).await else {
            unreachable!("there is a table")
        };
        Self {
            cluster,
            tables,
            topic,
            config,
            targets,
        }
    }

    fn relay(&self) -> Relay {
        Relay::start_into(self.config.clone(), Target::Real(self.targets.clone()))
    }

    /// Events of which some are too large; then they are dead letters.
    async fn poison(&self, relay: &Relay, count: u64, large: &[u64]) {
        let mut rows = crate::rows(0..count, AGGREGATES);
        for number in large {
            rows[*number as usize].payload = Some(incompressible(*number, 5_000));
        }
        relay.offer(rows).await;
        relay.resolved(count).await;
        self.tables.hold(large, "waiting").await;
    }

    async fn mend(&self) {
        self.cluster
            .alter(&self.topic, "max.message.bytes", "100000")
            .await;
    }

    async fn command(&self, arguments: &[&str]) -> Output {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_string(&self.config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command
            .args(["dead-letters", "replay", "-f", file.path().to_str().unwrap()])
            .args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    async fn read(&self) -> Messages {
        self.cluster.read(&self.topic).await
    }

    async fn open(&self) -> TableDeadLetters {
        TableDeadLetters::open(self.tables.session().clone(), &self.config)
            .await
            .unwrap()
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_letters_arrive_once_and_in_order_while_others_go_on() {
    let large = [1, 3, 8, 13, 18, 19];
    let scene = Scene::start("replayed", 5).await;
    let relay = scene.relay();
    scene.poison(&relay, 20, &large).await;
    let output = scene.command(&["--class", "message", "--dry-run"]).await;
    assert!(said(&output).contains("6 dead letters would be replayed, 0 would not"));
    scene.mend().await;
    let replays = relay.replays(scene.targets.clone(), 5);
    // Four, and a second later the others, which come after them all the same.
    let asked = scene.command(&["--class", "message", "--rate", "4/s", "--json"]);
    let live = relay.offer_in_batches(crate::rows(20..120, AGGREGATES), 10, Duration::from_millis(100));
    let (output, ()) = tokio::join!(asked, live);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["replayed"], &document["waiting"]),
        (&6.into(), &0.into())
    );
    // Those that are replayed are nobody's deliveries: they were resolved when they became dead letters.
    relay.resolved(120).await;
    let messages = scene.read().await;
    assert_eq!(
        (messages.len(), messages.numbers().len()),
        (120, 120),
        "none is there twice"
    );
    for aggregate in 0..AGGREGATES {
        let (again, first): (Vec<_>, Vec<_>) = messages
            .of_aggregate(aggregate)
            .into_iter()
            .partition(|message| message.header("replayed") == Some("1"));
        for numbers in [again, first] {
            let numbers: Vec<_> = numbers.iter().map(|message| message.number).collect();
            assert!(numbers.is_sorted(), "aggregate {aggregate}: {numbers:?}");
        }
    }
    let again = messages
        .all()
        .iter()
        .filter(|message| message.header("replayed").is_some());
    assert_eq!(again.count(), large.len());
    scene.tables.hold(&[], "").await;
    assert_eq!(
        relay.metric("outbox_relay_dead_letters_replayed_total"),
        Some(6.0)
    );
    relay.stop().await;
    replays.await.unwrap();
}

/// A relay that dies after a message was acknowledged, before its letter is removed.
struct Dying {
    targets: Arc<Targets>,
    delivered: Notify,
}

impl DeadLetters for Dying {
    async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        self.targets.write(letters).await
    }

    async fn requests(&self) -> Result<Vec<ReplayRequest>, DeadLetterError> {
        self.targets.requests().await
    }

    async fn asked(&self, slot: SlotId, limit: usize) -> Result<Vec<SourcePosition>, DeadLetterError> {
        self.targets.asked(slot, limit).await
    }

    async fn letter(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> Result<Option<Stored>, DeadLetterError> {
        self.targets.letter(slot, position).await
    }

    async fn remove(&self, _: SlotId, _: &SourcePosition) -> Result<(), DeadLetterError> {
        self.delivered.notify_one();
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_before_it_removes_a_letter_repeats_it_and_loses_nothing() {
    let large = [3, 8, 13];
    let scene = Scene::start("dying", 5).await;
    let relay = scene.relay();
    scene.poison(&relay, 15, &large).await;
    scene.mend().await;
    let table = scene.open().await;
    let letters = table.stored(|_| true).await.unwrap();
    let places: Vec<_> = letters.iter().filter_map(Stored::place).collect();
    table.ask(&places, Uuid::now_v1(&[0; 6])).await.unwrap();
    let dying = Arc::new(Dying {
        targets: scene.targets.clone(),
        delivered: Notify::new(),
    });
    let replays = relay.replays(dying.clone(), 5);
    tokio::time::timeout(A_WHILE, dying.delivered.notified())
        .await
        .unwrap();
    replays.abort();
    relay.stop().await;
    assert_eq!(
        scene.tables.statuses().await.len(),
        large.len() + 1,
        "and the request"
    );
    let before = scene.read().await;
    assert!(before.numbers().contains(&3));

    let relay = scene.relay();
    let replays = relay.replays(scene.targets.clone(), 5);
    scene.tables.hold(&[], "").await;
    let messages = scene.read().await;
    let again: Vec<_> = messages
        .of_aggregate(3)
        .into_iter()
        .filter(|message| message.header("replayed") == Some("1"))
        .map(|message| message.number)
        .collect();
    assert!(again.ends_with(&large), "{again:?}");
    assert!(again.len() > large.len(), "the first came twice: {again:?}");
    assert_eq!(messages.numbers().len(), 15, "and none is lost");
    relay.stop().await;
    replays.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_as_often_as_is_accepted_is_quarantined_until_more_is_accepted() {
    let mut scene = Scene::start("quarantined", 2).await;
    let relay = scene.relay();
    scene.poison(&relay, 5, &[2]).await;
    let replays = relay.replays(scene.targets.clone(), 2);
    for status in ["waiting", "quarantined"] {
        let output = scene.command(&["--event-id", "2"]).await;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("0 of 1 dead letters replayed, 1 failed again"),
            "{said}"
        );
        scene.tables.hold(&[2], status).await;
    }
    let output = scene.command(&["--event-id", "2"]).await;
    let said_of_it = said(&output);
    assert!(
        output.status.code() == Some(1) && said_of_it.contains("replayed 2 times; accepted: fewer than"),
        "{said_of_it}"
    );
    scene.mend().await;
    relay.stop().await;
    replays.await.unwrap();
    scene.config.dead_letter.max_replays = 3;
    let relay = scene.relay();
    let replays = relay.replays(scene.targets.clone(), 3);
    let output = scene.command(&["--event-id", "2"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let messages = scene.read().await;
    assert_eq!(messages.of_aggregate(2)[0].header("replayed"), Some("3"));
    scene.tables.hold(&[], "").await;
    relay.stop().await;
    replays.await.unwrap();
}
