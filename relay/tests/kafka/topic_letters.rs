//! Dead letters of a topic: listed, sent again and discarded by the command itself, on a real broker.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use crds::sink::SaslMechanism;
use crds::sink::message_headers::REPLAYED;
use relay::dead_letters::message::headers;
use relay::dead_letters::topic::deciding::{DecideError, Decider};
use relay::dead_letters::topic::fold::Kept;
use relay::dead_letters::topic::reading::LetterTopic;
use relay::dead_letters::topic::record::{Decided, decision_headers};
use relay::dead_letters::topic::replaying::{Due, decisions};
use serde_json::Value;

use crate::A_WHILE;
use crate::acl::{allow, rules};
use crate::cluster::Cluster;
use crate::fed::{Relay, Row, incompressible};
use crate::letters::{config, letters_of, targets};
use crate::messages::{Message, Messages};
use crate::security::Secure;

const AGGREGATES: u64 = 5;

struct Scene {
    cluster: Cluster,
    topic: String,
    letters: String,
    config: RelayConfig,
}

impl Scene {
    /// A topic that takes small messages only, and one for letters that takes all of them.
    async fn start(topic: &str, max_replays: u32) -> Self {
        Self::on(Cluster::shared().await, topic, max_replays).await
    }

    async fn on(cluster: Cluster, topic: &str, max_replays: u32) -> Self {
        let topic = cluster.topic(topic, 2, &[("max.message.bytes", "3000")]).await;
        let letters = cluster.topic(&letters_of(&topic), 3, &[]).await;
        let mut config = config(&cluster, &topic, DeadLetterTarget::Topic);
        // Nobody is there, and nobody is asked.
        config.source.contact_points = vec!["127.0.0.1:9".to_owned()];
        config.source.keyspace = "app".to_owned();
        config.source.table = "outbox".to_owned();
        config.dead_letter.max_replays = max_replays;
        Self {
            cluster,
            topic,
            letters,
            config,
        }
    }

    /// So many events of which these are too large, by so many bytes, and so are letters.
    async fn poison(&self, count: u64, large: &[(u64, usize)]) {
        let mut rows = crate::rows(0..count, AGGREGATES);
        for (number, bytes) in large {
            rows[*number as usize].payload = Some(incompressible(*number, *bytes));
        }
        self.deliver(rows).await;
    }

    async fn deliver(&self, rows: Vec<Row>) {
        let count = rows.len() as u64;
        let relay = Relay::start_into(self.config.clone(), targets(&self.config, None).await);
        relay.offer(rows).await;
        relay.resolved(count).await;
        relay.stop().await;
    }

    async fn accept(&self, bytes: &str) {
        self.cluster.alter(&self.topic, "max.message.bytes", bytes).await;
    }

    fn command(&self, name: &str, arguments: &[&str]) -> (Command, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_string(&self.config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command
            .args(["dead-letters", name, "-f", file.path().to_str().unwrap()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        (command, file)
    }

    fn begin(&self, name: &str, arguments: &[&str]) -> (Child, tempfile::NamedTempFile) {
        let (mut command, file) = self.command(name, arguments);
        (command.spawn().unwrap(), file)
    }

    /// Its exit code, what it says, and what it says of what it cannot do.
    async fn run(&self, name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let (mut command, _file) = self.command(name, arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        said(&output.await.unwrap())
    }

    async fn document(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let (code, out, err) = self.run("replay", &[arguments, &["--json"]].concat()).await;
        assert!(!err.contains('\u{1b}'), "no bar: {err}");
        (code, serde_json::from_str(&out).unwrap())
    }

    /// Events of the letters that are listed.
    async fn listed(&self, arguments: &[&str]) -> BTreeSet<u64> {
        let (code, out, err) = self.run("list", &[arguments, &["--json"]].concat()).await;
        assert_eq!(code, Some(0), "{err}");
        let event = |line: &str| -> u64 {
            let letter: Value = serde_json::from_str(line).unwrap();
            letter["eventId"].as_str().unwrap().parse().unwrap()
        };
        out.lines().map(event).collect()
    }

    async fn read(&self) -> Messages {
        self.cluster.read(&self.topic).await
    }

    /// Numbers of an aggregate's events that were sent again, in the order of the topic.
    async fn replayed(&self, aggregate: u64) -> Vec<u64> {
        let messages = self.read().await;
        let again = |message: &&Message| message.header(REPLAYED).is_some();
        let of_it = messages.of_aggregate(aggregate).into_iter().filter(again);
        of_it.map(|message| message.number).collect()
    }

    fn opened(&self) -> LetterTopic {
        LetterTopic::open(&self.config, &self.letters).unwrap()
    }

    /// The messages of a replay of this letter.
    async fn due(&self, topic: &LetterTopic, kept: &Kept) -> Vec<relay::encode::Message> {
        let name: Arc<str> = topic.name().clone();
        let whole = topic.whole(std::slice::from_ref(kept)).await.unwrap();
        let letter = whole.into_iter().next().unwrap().unwrap();
        let message = letter.judge(5).unwrap();
        assert!(Due::new(&name, kept, letter, 5, 0).is_ok());
        let mut messages = vec![message];
        messages.extend(decisions(
            &name,
            kept,
            Decided::Replayed(1),
            1_800_000_000_000_000,
        ));
        messages
    }
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    said(&output.await.unwrap())
}

fn numbers(numbers: &[u64]) -> BTreeSet<u64> {
    numbers.iter().copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_topic_are_listed_and_shown_as_asked() {
    let scene = Scene::start("listed", 5).await;
    let (code, out, _) = scene.run("list", &[]).await;
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "0 dead letters\n"),
        "an empty topic ends"
    );

    let large = [(1, 5_000), (3, 5_000), (6, 5_000), (8, 5_000)];
    scene.poison(10, &large).await;
    let mut shipped = Row::new(10, 0, incompressible(10, 5_000));
    shipped.event_type = "Shipped".to_owned();
    scene.deliver(vec![shipped]).await;
    // What a transaction took back stands at the end: a reader of what is committed sees nothing of it.
    let topic = scene.opened();
    let letters = topic.contents().await.unwrap().letters;
    let mut taken_back = scene.due(&topic, &letters[0]).await;
    taken_back[0].topic = "such.a.topic.is.not.there".into();
    let mut decider = Decider::open(&topic).await.unwrap();
    taken_back.reverse();
    assert!(!decider.attempt(&taken_back).await.unwrap().is_empty());
    decider.close().await;

    assert_eq!(scene.listed(&[]).await, numbers(&[1, 3, 6, 8, 10]));
    assert_eq!(scene.listed(&["--aggregate", "3"]).await, numbers(&[3, 8]));
    assert_eq!(scene.listed(&["--event-type", "Shipped"]).await, numbers(&[10]));
    assert_eq!(scene.listed(&["--event-id", "6"]).await, numbers(&[6]));
    assert_eq!(scene.listed(&["--newest", "1"]).await, numbers(&[10]));
    assert_eq!(scene.listed(&["--class", "transient"]).await, numbers(&[]));
    assert_eq!(scene.listed(&["--older-than", "1h"]).await, numbers(&[]));
    let (_, lines, _) = scene.run("list", &["--class", "message"]).await;
    assert!(
        lines.ends_with("5 dead letters\n") && lines.contains("MessageSizeTooLarge: "),
        "{lines}"
    );

    let (code, shown, _) = scene.run("show", &["8"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let of = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(code, Some(0));
    assert_eq!(
        [
            of("eventId"),
            of("aggregateId"),
            of("class"),
            of("status"),
            of("topic"),
            of("payload")
        ],
        [
            "8",
            "3",
            "message",
            "waiting",
            "listed",
            &incompressible(8, 5_000)
        ]
    );
    let place = &shown["place"];
    assert_eq!(place["topic"], scene.letters.as_str());
    assert!(place["partition"].is_i64() && place["offset"].is_i64(), "{place}");
    let (code, _, err) = scene.run("show", &["9"]).await;
    assert!(
        code == Some(1) && err.contains("no dead letter of event 9"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_topic_are_sent_once_in_order_and_a_dry_run_sends_none() {
    let scene = Scene::start("sent-again", 5).await;
    let large = [1, 3, 6, 8, 11, 16].map(|number| (number, 5_000));
    scene.poison(20, &large).await;
    scene
        .deliver(vec![Row::new(23, 3, incompressible(23, 5_000))])
        .await;
    let before = scene.cluster.read(&scene.letters).await.len();
    let (code, out, _) = scene.run("replay", &["--class", "message", "--dry-run"]).await;
    assert!(
        out.ends_with("7 dead letters would be replayed, 0 would not\n"),
        "{out}"
    );
    assert_eq!(code, Some(0));
    assert_eq!(
        scene.cluster.read(&scene.letters).await.len(),
        before,
        "nothing is written"
    );

    scene.accept("100000").await;
    let (code, document) = scene.document(&["--class", "message"]).await;
    assert_eq!(
        (code, &document["replayed"], &document["waiting"]),
        (Some(0), &7.into(), &0.into())
    );
    let messages = scene.read().await;
    assert_eq!(
        (messages.len(), messages.numbers().len()),
        (21, 21),
        "none is there twice"
    );
    assert_eq!(scene.replayed(1).await, [1, 6, 11, 16]);
    assert_eq!(scene.replayed(3).await, [3, 8, 23]);
    let first = messages.all().iter().find(|message| message.number == 6).unwrap();
    assert_eq!((first.header(REPLAYED), first.payload), (Some("1"), Some(5_000)));
    assert_eq!(
        (first.header("event-type"), first.header(headers::CLASS)),
        (Some("T"), None)
    );

    assert_eq!(scene.listed(&[]).await, numbers(&[]));
    let (code, document) = scene.document(&["--class", "message"]).await;
    assert_eq!((code, &document["letters"]), (Some(0), &0.into()));
    assert_eq!(scene.read().await.len(), 21, "and none is sent once more");
    let letters = scene.cluster.read(&scene.letters).await;
    let decision = |message: &&Message| message.header(decision_headers::DECISION) == Some("replayed");
    assert_eq!(letters.all().iter().filter(decision).count(), 7);
}

/// A command that is killed at any instant is called again: in a transaction, and between two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_was_killed_goes_on_where_it_was() {
    let scene = Scene::start("killed", 5).await;
    let large = [1, 6, 11, 16, 21, 26].map(|number| (number, 5_000));
    scene.poison(30, &large).await;
    scene.accept("100000").await;
    // What a dead command has written and not committed.
    let topic = scene.opened();
    let letters = topic.contents().await.unwrap().letters;
    let messages = scene.due(&topic, &letters[0]).await;
    scene
        .cluster
        .leave_open(&format!("{}-replay", scene.letters), &messages)
        .await;

    let (mut child, _file) = scene.begin("replay", &["--class", "message", "--rate", "2/s"]);
    let start = std::time::Instant::now();
    while scene.replayed(1).await.len() < 2 {
        assert!(start.elapsed() < A_WHILE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let sent = scene.replayed(1).await.len();
    assert!((2..6).contains(&sent), "{sent}");
    let (code, document) = scene.document(&["--class", "message"]).await;
    let rest = document["replayed"].as_u64().unwrap() as usize;
    // A transaction that was being committed may have been finished since.
    assert!(code == Some(0) && rest >= 1 && rest <= 6 - sent, "{document}");
    assert_eq!(scene.replayed(1).await, [1, 6, 11, 16, 21, 26]);
    assert_eq!(scene.listed(&[]).await, numbers(&[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replays_at_once_the_later_goes_on_alone() {
    let scene = Scene::start("two-replays", 5).await;
    let large = [1, 6, 11, 16, 21, 26].map(|number| (number, 5_000));
    scene.poison(30, &large).await;
    scene.accept("100000").await;
    let (first, _file) = scene.begin("replay", &["--class", "message", "--rate", "1/s"]);
    let start = std::time::Instant::now();
    while scene.replayed(1).await.is_empty() {
        assert!(start.elapsed() < A_WHILE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, out, err) = scene.run("replay", &["--class", "message"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let (code, out, err) = ended(first).await;
    assert!(
        code == Some(1) && err.contains("another replay or discard of this dead-letter topic has begun"),
        "{code:?} {out} {err}"
    );
    assert!(out.contains("left as they were"), "{out}");
    assert_eq!(
        scene.replayed(1).await,
        [1, 6, 11, 16, 21, 26],
        "each once, in order"
    );
    assert_eq!(scene.listed(&[]).await, numbers(&[]));

    // The same in one process, where nothing is left to chance.
    let topic = scene.opened();
    let mut former = Decider::open(&topic).await.unwrap();
    let mut present = Decider::open(&topic).await.unwrap();
    let record = |text: &str| relay::encode::Message {
        topic: scene.topic.as_str().into(),
        key: Some("1".into()),
        payload: Some(text.to_owned().into()),
        headers: vec![("event-id".into(), "99".into())],
        timestamp: 0,
    };
    let fenced = former.attempt(&[record("former")]).await;
    assert!(matches!(fenced, Err(DecideError::Fenced { .. })), "{fenced:?}");
    assert_eq!(present.attempt(&[record("present")]).await, Ok(Vec::new()));
    let lengths = scene
        .read()
        .await
        .of_aggregate(1)
        .last()
        .map(|message| message.payload);
    assert_eq!(lengths, Some(Some("present".len())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_refused_again_is_a_letter_anew_and_its_aggregate_waits() {
    let mut scene = Scene::start("refused-again", 1).await;
    let large = [
        (1, 5_000),
        (3, 5_000),
        (6, 20_000),
        (8, 5_000),
        (11, 5_000),
        (16, 5_000),
    ];
    scene.poison(20, &large).await;
    scene.accept("10000").await;
    let (code, document) = scene.document(&["--class", "message"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(
        (&document["replayed"], &document["failed"], &document["waiting"]),
        (&3.into(), &serde_json::json!(["6"]), &0.into())
    );
    let refused: Vec<_> = document["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["eventId"])
        .collect();
    assert_eq!(refused, ["11", "16"]);
    let reason = document["refused"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("that of event 6, failed again"), "{reason}");
    assert_eq!(scene.replayed(1).await, [1]);
    assert_eq!(scene.listed(&[]).await, numbers(&[6, 11, 16]));
    let (_, shown, _) = scene.run("show", &["6"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["status"], &shown["class"]),
        (&"quarantined".into(), &"message".into())
    );
    assert_eq!(shown["payload"].as_str().map(str::len), Some(20_000));

    scene.accept("100000").await;
    let (code, document) = scene.document(&["--aggregate", "1"]).await;
    assert_eq!(code, Some(1));
    let reason = document["refused"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("it was replayed 1 times; accepted: fewer than"),
        "{reason}"
    );
    assert_eq!(
        scene.replayed(1).await,
        [1, 11, 16],
        "nobody waits for what is quarantined"
    );
    scene.config.dead_letter.max_replays = 2;
    let (code, _) = scene.document(&["--aggregate", "1"]).await;
    assert_eq!((code, scene.replayed(1).await), (Some(0), vec![1, 11, 16, 6]));
    let messages = scene.read().await;
    let last = messages.of_aggregate(1).pop().unwrap();
    assert_eq!(last.header(REPLAYED), Some("2"));
    assert_eq!(scene.listed(&[]).await, numbers(&[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_discarded_is_gone_and_what_cannot_be_sent_says_why() {
    let scene = Scene::start("discarded", 5).await;
    scene.poison(10, &[(1, 5_000), (3, 5_000), (8, 5_000)]).await;
    let mut empty = Row::new(10, 0, String::new());
    empty.payload = None;
    scene.deliver(vec![empty]).await;
    scene.accept("100000").await;
    let (code, _, err) = scene.run("discard", &["--yes"]).await;
    assert!(code == Some(2) && err.contains("accepted: --event-id"), "{err}");
    let (code, _, err) = scene.run("replay", &[]).await;
    assert!(code == Some(2) && err.contains("accepted: --event-id"), "{err}");
    let (code, out, _) = scene.run("discard", &["--aggregate", "3"]).await;
    assert!(
        code == Some(0) && out.ends_with("2 dead letters would be discarded; do it with --yes\n"),
        "{out}"
    );
    assert_eq!(scene.listed(&[]).await, numbers(&[1, 3, 8, 10]));
    let (code, out, _) = scene.run("discard", &["--aggregate", "3", "--yes"]).await;
    assert!(
        code == Some(0) && out.ends_with("2 dead letters discarded\n"),
        "{out}"
    );
    assert_eq!(scene.listed(&[]).await, numbers(&[1, 10]));
    let (code, document) = scene.document(&["--class", "message"]).await;
    assert_eq!((code, &document["replayed"]), (Some(1), &1.into()));
    assert_eq!(document["refused"][0]["eventId"], "10");
    let reason = document["refused"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("no message could be made of its event"),
        "{reason}"
    );
    let expected: BTreeSet<u64> = (0..10).filter(|number| ![3, 8].contains(number)).collect();
    assert_eq!(scene.read().await.numbers(), expected);

    let mut nowhere = scene.config.clone();
    nowhere.dead_letter.topic = Some("no-such-letters".to_owned());
    let nowhere = Scene {
        config: nowhere,
        ..scene
    };
    let (code, _, err) = nowhere.run("list", &[]).await;
    assert!(
        code == Some(1) && err.contains("deadLetter.topic: there is no topic no-such-letters"),
        "{err}"
    );
}

/// Letters whose topic is not there, and a topic of letters that is compacted by aggregate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_tried_that_cannot_succeed_or_takes_letters_away() {
    let mut scene = Scene::start("compacted", 5).await;
    scene.poison(5, &[(1, 5_000), (3, 5_000)]).await;
    scene.cluster.delete(&scene.topic).await;
    let (code, document) = scene.document(&["--newest", "9"]).await;
    assert_eq!((code, &document["letters"]), (Some(1), &0.into()));
    let reason = document["refused"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("there is no topic compacted, for which it was meant"),
        "{reason}"
    );
    scene
        .cluster
        .alter(&scene.letters, "cleanup.policy", "compact")
        .await;
    for (command, arguments) in [
        ("replay", ["--newest", "9"]),
        ("discard", ["--class=message", "--yes"]),
    ] {
        let (code, _, err) = scene.run(command, &arguments).await;
        assert!(
            code == Some(1) && err.contains("accepted: cleanup.policy=delete"),
            "{err}"
        );
    }
    assert_eq!(scene.listed(&[]).await, numbers(&[1, 3]));
    scene.config.sink.key = crds::sink::Key::EventId;
    let (code, _, err) = scene.run("discard", &["--class", "message", "--yes"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(scene.listed(&[]).await, numbers(&[]));
}

const PERMISSIONS: &str = include_str!("../../../docs/permissions.md");

/// The documented commands for whoever decides on letters, without their program and its broker: for user `stranger` and these
/// topics.
fn granted(scene: &Scene) -> Vec<Vec<String>> {
    let joined = PERMISSIONS.replace("\\\n", " ");
    let commands = joined
        .lines()
        .filter_map(|line| line.strip_prefix("kafka-acls.sh --bootstrap-server broker:9092 "));
    let ours = |word: &str| {
        word.replace("User:on-call", "User:stranger")
            .replace("order-events-dead-letters", &scene.letters)
            .replace("order-events", &scene.topic)
    };
    commands
        .filter(|command| command.contains("User:on-call"))
        .map(|command| command.split_whitespace().map(ours).collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_grants_are_enough_to_decide_on_letters_and_each_is_needed() {
    let secure = Secure::start("decided").await;
    let mut scene = Scene::on(Cluster::shared_secure().await, "decided-events", 5).await;
    scene.poison(5, &[(1, 5_000), (3, 5_000)]).await;
    scene.accept("100000").await;
    let sasl = secure.sasl(SaslMechanism::Plain, "stranger", "stranger-secret");
    scene.config.sink = crds::Sink {
        topic: scene.topic.clone(),
        ..secure.sink("SASL_PLAINTEXT", None, sasl)
    };
    let commands = granted(&scene);
    let [letters, events, transactions] = &commands[..] else {
        panic!("{commands:?}")
    };
    let newest = ["--newest", "9"];
    let refused = async |command: &str, arguments: &[&str], expected: &str| {
        let (code, out, err) = scene.run(command, arguments).await;
        assert!(code == Some(1) && err.contains(expected), "{code:?} {out} {err}");
    };
    let topic_refused = "TopicAuthorizationFailed";
    refused("list", &newest, topic_refused).await;
    allow(scene.cluster.admin(), rules(letters)).await;
    assert_eq!(scene.listed(&newest).await, numbers(&[1, 3]));
    refused("replay", &newest, "TransactionalIdAuthorizationFailed").await;
    allow(scene.cluster.admin(), rules(transactions)).await;
    refused("replay", &newest, topic_refused).await;
    assert_eq!(scene.listed(&newest).await, numbers(&[1, 3]));
    allow(scene.cluster.admin(), rules(events)).await;
    let (code, out, err) = scene.run("replay", &newest).await;
    assert_eq!(code, Some(0), "{out} {err}");
    assert_eq!(scene.read().await.len(), 5);
}
