//! Dead letters in a topic, in a table, in both: on a real broker and the sandbox's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::RelayConfig;
use crds::dead_letter::{DeadLetterTarget, OnAggregate};
use crds::relay_status::{BreakerState, Health};
use crds::sink::message_headers::REPLAYED;
use crds::sink::{Guarantee, PayloadFormat};
use relay::dead_letters::Targets;
use relay::dead_letters::message::headers;
use relay::dead_letters::table::{TableDeadLetters, create_table};
use relay::dead_letters::topic::TopicDeadLetters;
use relay::deliver::kafka::KafkaSettings;
use relay::encode::Message;
use relay::model::{CdcTime, SlotId, SourcePosition, StreamId};
use relay::ports::{DeadLetter, DeadLetters, Epoch, Lettered, Outcome, Reason};
use sandbox::Sandbox;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use crate::cluster::Cluster;
use crate::fed::{Relay, Target, incompressible, wait_until};
use crate::{A_WHILE, rows};

/// Where the dead letters of a topic go.
pub(crate) fn letters_of(topic: &str) -> String {
    format!("{topic}-letters")
}

pub(crate) fn config(cluster: &Cluster, topic: &str, target: DeadLetterTarget) -> RelayConfig {
    let mut config = RelayConfig {
        identity: "test".to_owned(),
        ..RelayConfig::default()
    };
    config.sink.bootstrap_servers = vec![cluster.bootstrap.clone()];
    config.sink.topic = topic.to_owned();
    config.dead_letter.target = target;
    config.dead_letter.topic = (target != DeadLetterTarget::Table).then(|| letters_of(topic));
    config
}

/// The targets that the configuration names, as the relay makes them.
pub(crate) async fn targets(config: &RelayConfig, session: Option<&Arc<Session>>) -> Target {
    let table = match session {
        Some(session) => Some(TableDeadLetters::open(session.clone(), config).await.unwrap()),
        None => None,
    };
    let settings = KafkaSettings::new(&config.sink, &config.memory, "test").unwrap();
    let topic = config.dead_letter.topic.as_deref();
    let topic = topic.map(|topic| TopicDeadLetters::new(&settings, topic).unwrap());
    Target::Real(Arc::new(Targets { table, topic }))
}

pub(crate) struct Tables {
    session: Arc<Session>,
    sandbox: Sandbox,
}

impl Tables {
    pub(crate) async fn start() -> Self {
        let sandbox = Sandbox::builder().start().await.unwrap();
        let node = sandbox.addr().to_string();
        let session = SessionBuilder::new().known_node(node).build().await.unwrap();
        let keyspace = "CREATE KEYSPACE outbox_relay WITH replication = {'class': 'NetworkTopologyStrategy', \
                        'replication_factor': 1} AND tablets = {'enabled': false}";
        session.query_unpaged(keyspace, ()).await.unwrap();
        let table = create_table("outbox_relay", "dead_letters");
        session.query_unpaged(table, ()).await.unwrap();
        Self {
            session: Arc::new(session),
            sandbox,
        }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn node(&self) -> String {
        self.sandbox.addr().to_string()
    }

    /// Number and status of each letter; a request for replays has the number `u64::MAX`.
    pub(crate) async fn statuses(&self) -> BTreeMap<u64, String> {
        let all = "SELECT event_id, status FROM outbox_relay.dead_letters";
        let result = self.session.query_unpaged(all, ()).await.unwrap();
        let rows = result.into_rows_result().unwrap();
        rows.rows::<(Option<String>, String)>()
            .unwrap()
            .map(Result::unwrap)
            .map(|(id, status)| (id.map_or(u64::MAX, |id| id.parse().unwrap()), status))
            .collect()
    }

    /// Waits until these letters are there and no others, nor a request.
    pub(crate) async fn hold(&self, numbers: &[u64], status: &str) {
        let expected: BTreeMap<_, _> = numbers
            .iter()
            .map(|number| (*number, status.to_owned()))
            .collect();
        let until = Instant::now() + A_WHILE;
        loop {
            let statuses = self.statuses().await;
            if statuses == expected {
                return;
            }
            assert!(Instant::now() < until, "{statuses:?}, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Number, error class and length of the payload of each letter.
    async fn letters(&self) -> BTreeSet<(u64, String, Option<usize>)> {
        let all = "SELECT event_id, error_class, payload FROM outbox_relay.dead_letters";
        let result = self.session.query_unpaged(all, ()).await.unwrap();
        let rows = result.into_rows_result().unwrap();
        rows.rows::<(String, String, Option<Vec<u8>>)>()
            .unwrap()
            .map(Result::unwrap)
            .map(|(id, class, payload)| (id.parse().unwrap(), class, payload.map(|bytes| bytes.len())))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_targets_have_every_letter_of_a_load_with_an_outage() {
    let (cluster, tables) = (Cluster::own().await, Tables::start().await);
    let topic = cluster.topic("poisoned", 3, &[]).await;
    cluster.topic(&letters_of(&topic), 1, &[]).await;
    let config = config(&cluster, &topic, DeadLetterTarget::Both);
    let target = targets(&config, Some(&tables.session)).await;
    let relay = Relay::start_into(config, target);
    relay.offer(rows(0..10, 30)).await;
    relay.delivered(10).await;
    cluster.alter(&topic, "max.message.bytes", "3000").await;
    let total = 6_000;
    let unacceptable = |number: u64| number >= 10 && number.is_multiple_of(211);
    let mut load = rows(10..total, 30);
    for row in load.iter_mut().filter(|row| unacceptable(row.number)) {
        row.payload = Some(incompressible(row.number, 5_000));
    }
    let load = relay.offer_in_batches(load, 100, Duration::from_millis(20));
    let outage = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.script("kill").await;
        wait_until("the breaker opens", A_WHILE, || {
            relay.view().breaker == BreakerState::Open
        })
        .await;
        cluster.script("start").await;
    };
    tokio::join!(load, outage);
    relay.resolved(total).await;
    let expected: BTreeSet<_> = (0..total).filter(|number| unacceptable(*number)).collect();
    let messages = cluster.read(&topic).await;
    messages.in_order_exactly(30, (0..total).filter(|number| !unacceptable(*number)));
    assert_eq!(cluster.read(&letters_of(&topic)).await.numbers(), expected);
    let in_table = tables.letters().await;
    assert!(
        in_table
            .iter()
            .all(|(_, class, payload)| class == "message" && *payload == Some(5_000))
    );
    assert_eq!(
        in_table
            .iter()
            .map(|(number, ..)| *number)
            .collect::<BTreeSet<_>>(),
        expected
    );
    wait_until("the circuit probes", A_WHILE, || {
        relay.view().breaker != BreakerState::Open
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_no_messages_go_to_the_topic_with_what_is_known_of_them() {
    let cluster = Cluster::shared().await;
    let topic = cluster.topic("json", 2, &[]).await;
    cluster.topic(&letters_of(&topic), 1, &[]).await;
    let mut config = config(&cluster, &topic, DeadLetterTarget::Topic);
    config.sink.payload_format = PayloadFormat::Json;
    let target = targets(&config, None).await;
    let relay = Relay::start_into(config, target);
    let mut rows = rows(0..12, 2);
    rows[3].payload = None;
    rows[6].payload = Some("{\"n\":".to_owned());
    relay.offer(rows).await;
    relay.resolved(12).await;
    let messages = cluster.read(&topic).await;
    messages.in_order_exactly(2, (0..12).filter(|number| ![3, 6].contains(number)));
    let letters = cluster.read(&letters_of(&topic)).await;
    let [null, broken] = letters.all() else {
        panic!("{letters:?}")
    };
    assert_eq!((null.number, null.aggregate, null.payload), (3, 1, None));
    assert_eq!(
        null.header(headers::ERROR),
        Some("Unencodable: the payload is null; an event needs one")
    );
    assert_eq!((broken.number, broken.payload), (6, Some(5)));
    let error = broken.header(headers::ERROR).unwrap();
    assert!(error.contains("the payload is not JSON"), "{error}");
    for letter in [null, broken] {
        assert_eq!(letter.header("event-type"), Some("T"));
        assert_eq!(letter.header(headers::CLASS), Some("message"));
        assert_eq!(letter.header(headers::TOPIC), Some("json"));
    }
    assert_eq!(relay.view().breaker, BreakerState::Closed);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_too_large_for_its_topic_is_whole_in_the_table_or_waits_until_the_topic_takes_it() {
    let (cluster, tables) = (Cluster::shared().await, Tables::start().await);
    let limit = [("max.message.bytes", "3000")];
    let topic = cluster.topic("narrow", 1, &limit).await;
    cluster.topic(&letters_of(&topic), 1, &limit).await;
    let mut rows = rows(0..3, 1);
    rows[1].payload = Some(incompressible(1, 5_000));

    let both = config(&cluster, &topic, DeadLetterTarget::Both);
    let target = targets(&both, Some(&tables.session)).await;
    let relay = Relay::start_into(both, target);
    relay.offer(rows.clone()).await;
    relay.resolved(3).await;
    let letters = cluster.read(&letters_of(&topic)).await;
    assert_eq!((letters.len(), letters.all()[0].payload), (1, None));
    assert_eq!(letters.all()[0].header(headers::PAYLOAD_OMITTED), Some("5000"));
    let whole = (1, "message".to_owned(), Some(5_000));
    assert_eq!(tables.letters().await, [whole].into());
    relay.stop().await;

    let only = config(&cluster, &topic, DeadLetterTarget::Topic);
    let target = targets(&only, None).await;
    let relay = Relay::start_into(only, target);
    relay.offer(rows).await;
    wait_until("the breaker opens", A_WHILE, || {
        relay.metric("outbox_relay_dead_letter_write_failures_total") >= Some(2.0)
    })
    .await;
    let said = relay.letters_health();
    assert_eq!(said.health, Health::Failed);
    let reason = said.message.unwrap();
    assert!(reason.contains("raise max.message.bytes"), "{reason}");
    cluster
        .alter(&letters_of(&topic), "max.message.bytes", "10000")
        .await;
    relay.resolved(3).await;
    assert_eq!(
        cluster.read(&letters_of(&topic)).await.all()[1].payload,
        Some(5_000)
    );
    wait_until("health", A_WHILE, || {
        relay.letters_health().health == Health::Healthy
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_stays_held_by_the_next_process() {
    let (cluster, tables) = (Cluster::shared().await, Tables::start().await);
    let topic = cluster.topic("held", 2, &[]).await;
    let mut config = config(&cluster, &topic, DeadLetterTarget::Table);
    config.dead_letter.on_aggregate = OnAggregate::Hold;
    let start = async || Relay::start_into(config.clone(), targets(&config, Some(&tables.session)).await);
    let relay = start().await;
    let mut load = rows(0..10, 5);
    load[3].payload = None;
    relay.offer(load).await;
    relay.resolved(10).await;
    relay.stop().await;

    let relay = start().await;
    relay.offer(rows(10..20, 5)).await;
    relay.resolved(10).await;
    assert_eq!(relay.metric("outbox_relay_held_aggregates"), Some(1.0));
    relay.stop().await;
    let held = |number: &u64| number % 5 == 3;
    let messages = cluster.read(&topic).await;
    messages.in_order_exactly(5, (0..20).filter(|number| !held(number)));
    let letters = tables.letters().await;
    let classes: Vec<_> = letters
        .iter()
        .map(|(number, class, _)| (*number, class.as_str()))
        .collect();
    assert_eq!(classes, [(3, "message"), (8, "held"), (13, "held"), (18, "held")]);
}

/// A process that was suspended wakes after its slots were taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_owner_neither_writes_nor_decides_on_letters() {
    let tables = Tables::start().await;
    let mut config = RelayConfig {
        identity: "test".to_owned(),
        ..RelayConfig::default()
    };
    config.sink.guarantee = Guarantee::ExactlyOnce;
    let table = TableDeadLetters::open(tables.session.clone(), &config)
        .await
        .unwrap();
    let letters = Targets {
        table: Some(table),
        topic: None,
    };
    let slot = SlotId::new(7).unwrap();
    let (first, second) = (Epoch(1), Epoch(2));
    let letter = |number: u64, epoch| letter(slot, number, Some(epoch));
    let at = |number: u64, epoch| Lettered {
        slot,
        position: position(number),
        epoch,
    };

    letters.recover(slot, first, |_| None).await.unwrap();
    assert_eq!(count(&letters).await, 0, "an epoch is no letter");
    letters
        .write(&[letter(1, first), letter(2, first), letter(3, first)])
        .await
        .unwrap();
    letters.settle(&[at(1, first)]).await.unwrap();
    let committed = [position(1), position(2)];
    let resolved = |position: &SourcePosition| Some(committed.contains(position));
    letters.recover(slot, second, resolved).await.unwrap();
    let both = |status: &str| [(1, "waiting".to_owned()), (2, status.to_owned())].into();
    assert_eq!(tables.statuses().await, both("waiting"), "3 is delivered again");

    let refused = letters.write(&[letter(1, first)]).await.unwrap_err();
    assert!(refused.fenced, "{refused}");
    assert_eq!(tables.statuses().await, both("waiting"), "it is not hidden");
    assert!(letters.write(&[letter(3, first)]).await.unwrap_err().fenced);
    assert_eq!(tables.statuses().await, both("waiting"), "it does not come back");
    letters.write(&[letter(2, second)]).await.unwrap();
    letters.settle(&[at(2, first)]).await.unwrap();
    assert_eq!(
        tables.statuses().await,
        both("pending"),
        "no commit of its owner resolved it"
    );
    letters.settle(&[at(2, second)]).await.unwrap();
    assert_eq!(tables.statuses().await, both("waiting"));
    assert_eq!(count(&letters).await, 2);

    // One that failed its last replay, in a transaction.
    let mut spent = letter(2, second);
    let replays = config.dead_letter.max_replays.to_string();
    spent.message.headers.push((REPLAYED.into(), replays.into()));
    letters.write(&[spent]).await.unwrap();
    assert_eq!(tables.statuses().await, both("pending"));
    letters.settle(&[at(2, second)]).await.unwrap();
    assert_eq!(tables.statuses().await, both("quarantined"));
}

async fn count(letters: &Targets) -> u64 {
    let slots = SlotId::all().collect();
    let table = letters.table.as_ref().unwrap();
    let listed = table.stored(|_| true).await.unwrap();
    let counted = table.pending(slots).await.unwrap();
    assert_eq!(listed.len() as u64, counted);
    counted
}

fn position(number: u64) -> SourcePosition {
    SourcePosition {
        stream: StreamId([1; 16]),
        time: CdcTime::min_of(1_800_000_000_000_000 + number as i64),
        batch_seq_no: 0,
    }
}

fn letter(slot: SlotId, number: u64, pending: Option<Epoch>) -> DeadLetter {
    DeadLetter {
        slot,
        position: position(number),
        event_id: number.to_string(),
        aggregate_id: Some("a".to_owned()),
        event_type: None,
        created_at: None,
        message: Message {
            topic: "orders".into(),
            key: None,
            payload: None,
            headers: Vec::new(),
            timestamp: 0,
        },
        reason: Reason::Rejected,
        pending,
        error: "refused".to_owned(),
        outcome: Outcome::NotWritten,
        failures: 1,
        first_failed_at: 0,
        last_failed_at: 0,
    }
}
