//! Dead letters of the sandbox's table are sent again to a real broker: asked for by the command, carried out by the owner.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::{AutomaticReplay, DeadLetterTarget, DeadLetterWhen, OnAggregate};
use crds::relay_status::BreakerState;
use relay::dead_letters::Targets;
use relay::dead_letters::stored::Stored;
use relay::dead_letters::table::TableDeadLetters;
use relay::model::{SlotId, SourcePosition};
use relay::ports::{DeadLetter, DeadLetterError, DeadLetters, Epoch, ReplayRequest, Standing};
use tokio::sync::Notify;

use crate::A_WHILE;
use crate::cluster::Cluster;
use crate::fed::{Relay, Target, incompressible, wait_until};
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
        Self::start_with(topic, max_replays, OnAggregate::Continue).await
    }

    async fn start_with(topic: &str, max_replays: u32, on_aggregate: OnAggregate) -> Self {
        let (cluster, tables) = (Cluster::shared().await, Tables::start().await);
        let topic = cluster.topic(topic, 2, &[("max.message.bytes", "3000")]).await;
        let mut config = config(&cluster, &topic, DeadLetterTarget::Table);
        config.source.contact_points = vec![tables.node()];
        config.source.keyspace = "app".to_owned();
        config.source.table = "outbox".to_owned();
        config.dead_letter.max_replays = max_replays;
        config.dead_letter.on_aggregate = on_aggregate;
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
        self.dead_letters("replay", arguments).await
    }

    async fn dead_letters(&self, command_name: &str, arguments: &[&str]) -> Output {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_string(&self.config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command
            .args(["dead-letters", command_name, "-f", file.path().to_str().unwrap()])
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

    async fn standing(
        &self,
        slot: SlotId,
        see: impl FnMut(Standing<'_>) + Send,
    ) -> Result<(), DeadLetterError> {
        self.targets.standing(slot, see).await
    }

    async fn letter(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> Result<Option<Stored>, DeadLetterError> {
        self.targets.letter(slot, position).await
    }

    async fn remove(&self, _: SlotId, _: &SourcePosition, _: Option<Epoch>) -> Result<(), DeadLetterError> {
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
    table.ask(&places).await.unwrap();
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

/// Waits until no aggregate is held.
async fn none_is_held(relay: &Relay) {
    wait_until("the hold to end", A_WHILE, || {
        relay.metric("outbox_relay_held_aggregates") == Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_aggregate_gets_its_letters_in_order_under_load_and_goes_on_without_a_restart() {
    let scene = Scene::start_with("held-again", 5, OnAggregate::Hold).await;
    let relay = scene.relay();
    let mut rows = crate::rows(0..20, AGGREGATES);
    for number in [3, 13] {
        rows[number].payload = Some(incompressible(number as u64, 5_000));
    }
    relay.offer(rows).await;
    relay.resolved(20).await;
    scene.tables.hold(&[3, 8, 13, 18], "waiting").await;
    let replays = relay.replays_of(scene.targets.clone(), 5, true);

    let output = scene.command(&["--event-id", "8", "--json"]).await;
    let said_of_it = said(&output);
    assert!(
        output.status.code() == Some(1) && said_of_it.contains("that of event 3"),
        "it would overtake the first: {said_of_it}"
    );
    let output = scene.command(&["--event-id", "3"]).await;
    let said_of_it = said(&output);
    assert!(
        said_of_it.contains("0 of 1 dead letters replayed, 1 failed again"),
        "{said_of_it}"
    );
    scene.tables.hold(&[3, 8, 13, 18], "waiting").await;
    let held = scene.read().await.of_aggregate(3).len();
    assert_eq!(held, 0, "what fails again stops the rest");

    scene.mend().await;
    // The first takes those with it that it holds, and those that come meanwhile.
    let live = relay.offer_in_batches(crate::rows(20..220, AGGREGATES), 5, Duration::from_millis(20));
    let (output, ()) = tokio::join!(scene.command(&["--class", "message"]), live);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // The one that failed again counts once more.
    relay.resolved(221).await;
    none_is_held(&relay).await;
    scene.tables.hold(&[], "").await;
    relay.offer(crate::rows(220..230, AGGREGATES)).await;
    relay.resolved(231).await;
    let messages = scene.read().await;
    messages.in_order_exactly(AGGREGATES, 0..230);
    let letters = |message: &&crate::messages::Message| message.header("replayed").is_some();
    assert!(messages.all().iter().filter(letters).count() >= 4);
    let last = messages.of_aggregate(3);
    assert_eq!(
        last.last().unwrap().header("replayed"),
        None,
        "it goes on as before"
    );
    relay.stop().await;
    replays.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_when_the_letter_that_holds_is_discarded() {
    let scene = Scene::start_with("let-go", 5, OnAggregate::Hold).await;
    let relay = scene.relay();
    // A broker that knows nothing of a producer yet takes what comes after a batch that it refused.
    relay.offer(crate::rows(0..5, AGGREGATES)).await;
    relay.delivered(5).await;
    let mut rows = crate::rows(0..25, AGGREGATES);
    for number in [6, 12, 17] {
        rows[number].payload = Some(incompressible(number as u64, 5_000));
    }
    relay.offer(rows.split_off(5)).await;
    relay.resolved(25).await;
    scene.tables.hold(&[6, 11, 12, 16, 17, 21, 22], "waiting").await;
    let replays = relay.replays_of(scene.targets.clone(), 5, true);
    let all_of_one = ["--aggregate", "2", "--yes"];
    for filter in [["--event-id", "6", "--yes"], all_of_one] {
        let output = scene.dead_letters("discard", &filter).await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    none_is_held(&relay).await;
    scene.tables.hold(&[], "").await;
    relay.offer(crate::rows(25..35, AGGREGATES)).await;
    relay.resolved(35).await;
    let discarded = [6, 12, 17, 22];
    let messages = scene.read().await;
    messages.in_order_exactly(AGGREGATES, (0..35).filter(|number| !discarded.contains(number)));
    relay.stop().await;
    replays.await.unwrap();
}

/// The owner dies while it replays a chain; the next one goes on, asked or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_owner_of_a_held_aggregate_goes_on_where_the_former_one_died() {
    let scene = Scene::start_with("held-dying", 5, OnAggregate::Hold).await;
    let relay = scene.relay();
    let mut rows = crate::rows(0..20, AGGREGATES);
    rows[3].payload = Some(incompressible(3, 5_000));
    relay.offer(rows).await;
    relay.resolved(20).await;
    scene.tables.hold(&[3, 8, 13, 18], "waiting").await;
    scene.mend().await;
    let table = scene.open().await;
    let letters = table
        .stored(|letter| letter.event_id.as_deref() == Some("3"))
        .await
        .unwrap();
    let places: Vec<_> = letters.iter().filter_map(Stored::place).collect();
    table.ask(&places).await.unwrap();
    let dying = Arc::new(Dying {
        targets: scene.targets.clone(),
        delivered: Notify::new(),
    });
    let replays = relay.replays_of(dying.clone(), 5, true);
    tokio::time::timeout(A_WHILE, dying.delivered.notified())
        .await
        .unwrap();
    replays.abort();
    relay.stop().await;
    let relay = scene.relay();
    let replays = relay.replays_of(scene.targets.clone(), 5, true);
    relay.offer(crate::rows(20..30, AGGREGATES)).await;
    relay.resolved(10).await;
    none_is_held(&relay).await;
    scene.tables.hold(&[], "").await;
    let messages = scene.read().await;
    let of_it: Vec<_> = messages
        .of_aggregate(3)
        .iter()
        .map(|message| message.number)
        .collect();
    assert_eq!(of_it, [3, 3, 8, 13, 18, 23, 28], "the first came twice");
    relay.stop().await;
    replays.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_outage_gave_up_is_replayed_by_itself_once_the_circuit_is_closed() {
    let mut scene = Scene::start("recovered", 5).await;
    scene.config.dead_letter.when = DeadLetterWhen::Exhausted;
    let relay = scene.relay();
    relay.offer(crate::rows(0..5, AGGREGATES)).await;
    relay.delivered(5).await;
    scene.cluster.delete(&scene.topic).await;
    let automatic = AutomaticReplay {
        initial_backoff_seconds: 3,
        ..AutomaticReplay::default()
    };
    let replays = relay.replays_when_due(scene.targets.clone(), automatic);
    relay.offer(crate::rows(5..10, AGGREGATES)).await;
    wait_until("the circuit to open", A_WHILE, || {
        relay.view().breaker == BreakerState::Open
    })
    .await;
    let limit = [("max.message.bytes", "3000")];
    scene.cluster.topic(&scene.topic, 2, &limit).await;
    let mut rows = crate::rows(10..30, AGGREGATES);
    rows[5].payload = Some(incompressible(15, 5_000));
    relay.offer(rows).await;
    wait_until("the circuit to close", A_WHILE, || {
        relay.view().breaker == BreakerState::Closed
    })
    .await;
    scene.tables.hold(&[15], "waiting").await;
    let messages = scene.read().await;
    let expected: std::collections::BTreeSet<_> = (5..30).filter(|number| *number != 15).collect();
    assert_eq!(messages.numbers(), expected);
    let replayed = messages
        .all()
        .iter()
        .filter(|message| message.header("replayed") == Some("1"));
    assert!(replayed.count() > 0, "some were given up");
    assert_eq!(messages.len(), 24, "none is there twice");
    relay.stop().await;
    replays.await.unwrap();
}
