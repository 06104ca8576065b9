//! Transactions, fencing and the journal: what exactly-once rests on, on a real broker.

mod ground;

use std::collections::BTreeMap;
use std::time::Duration;

use crds::{Memory, Sink};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use relay::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings};
use relay::journal::{Incarnation, Mark, Refusal, Replay, Replayed, Sequence};
use relay::ports::{DeliveryError, Epoch, ErrorClass, Journal, JournalError, TransactionalBroker, Verdict};
use uuid::Uuid;

use crate::A_WHILE;
use crate::cluster::Cluster;
use crate::fed::incompressible;
use ground::{Ground, INCARNATION, found, slot};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_fenced_commits_nothing_and_its_taker_knows_what_it_did() {
    let ground = Ground::start(Cluster::shared().await, "fenced").await;
    let zombie = ground.owner(1).await;
    zombie.commits(1, 1, &[1, 2]).await;
    zombie.transaction(1, 2, &[3, 4]);
    assert_eq!(zombie.reported().await, [], "written, not committed");

    ground.broker.fence(&ground.id(1)).await.unwrap();
    let mark = found(ground.replay(2, Mark::default()).await, 1, &[1, 2]);
    assert_eq!(zombie.commit().await.unwrap_err().verdict, Verdict::Ended);
    assert_eq!(zombie.abort().await.unwrap_err().verdict, Verdict::Ended);

    let taker = ground.owner(2).await;
    taker.commits(2, 2, &[3, 4]).await;
    ground.comes_to_hold(&[1, 2, 3, 4]).await;
    found(ground.replay(3, mark).await, 2, &[3, 4]);
    assert_eq!(
        ground.replay(1, Mark::default()).await,
        Ok(Replayed::Superseded),
        "what the zombie would learn if it claimed to hold the slot"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_fenced_while_idle_writes_nothing_that_is_seen() {
    let ground = Ground::start(Cluster::shared().await, "idle").await;
    let zombie = ground.owner(1).await;
    zombie.commits(1, 1, &[1]).await;
    ground.broker.fence(&ground.id(1)).await.unwrap();
    zombie.transaction(1, 2, &[2]);
    let failures = zombie.reported().await;
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(
        failures
            .iter()
            .all(|failure| failure.class == ErrorClass::Collateral),
        "nobody's fault: {failures:?}"
    );
    assert_eq!(zombie.commit().await.unwrap_err().verdict, Verdict::Ended);
    found(ground.replay(2, Mark::default()).await, 1, &[1]);
    ground.comes_to_hold(&[1]).await;

    let again = ground.owner(1).await;
    again.commits(1, 2, &[2]).await;
    ground.comes_to_hold(&[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_aborted_is_seen_by_nobody_and_may_be_sent_again() {
    let ground = Ground::start(Cluster::shared().await, "aborted").await;
    let owner = ground.owner(1).await;
    owner.commit().await.unwrap();
    owner.transaction(1, 1, &[1, 2]);
    assert_eq!(owner.reported().await, []);
    owner.abort().await.unwrap();
    found(ground.replay(2, Mark::default()).await, 0, &[]);
    // Not awaited: what is still with the producer gets its report, whatever it says.
    owner.transaction(1, 1, &[1, 2]);
    owner.abort().await.unwrap();
    owner.reported().await;
    owner.transaction(1, 1, &[1, 2, 3]);
    owner.commit().await.unwrap();
    ground.comes_to_hold(&[1, 2, 3]).await;
    found(ground.replay(2, Mark::default()).await, 1, &[1, 2, 3]);
    let written = ground.events("read_uncommitted").await;
    assert!(
        written.len() >= 5,
        "the topic holds what was aborted: {written:?}"
    );
}

/// The limit shrinks after the client has learnt it, so that the broker itself refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_refused_ends_its_transaction_and_no_more() {
    let ground = Ground::start(Cluster::shared().await, "refused").await;
    let owner = ground.owner(1).await;
    owner.commits(1, 1, &[1]).await;
    ground
        .cluster
        .alter(&ground.topic, "max.message.bytes", "3000")
        .await;
    owner.transaction(1, 2, &[2]);
    owner.event(incompressible(1, 5_000));
    let failures = owner.reported().await;
    assert!(
        failures
            .iter()
            .any(|failure| failure.class == ErrorClass::Message),
        "{failures:?}"
    );
    assert_eq!(owner.commit().await.unwrap_err().verdict, Verdict::Abort);
    owner.abort().await.unwrap();

    // The broker did not see the numbers of the messages that it refused, so it refuses those that follow; librdkafka
    // starts to count anew with the next abort.
    owner.forget_reports();
    owner.transaction(1, 2, &[2]);
    let failures = owner.reported().await;
    let collateral = |failure: &DeliveryError| failure.class == ErrorClass::Collateral;
    assert!(failures.iter().all(collateral), "nobody's fault: {failures:?}");
    if !failures.is_empty() {
        assert_eq!(owner.commit().await.unwrap_err().verdict, Verdict::Abort);
        owner.abort().await.unwrap();
        owner.forget_reports();
        owner.transaction(1, 2, &[2]);
        assert_eq!(owner.reported().await, []);
    }
    owner.commit().await.unwrap();
    ground.comes_to_hold(&[1, 2]).await;
    found(ground.replay(2, Mark::default()).await, 2, &[1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_behind_somebody_elses_open_transaction_are_waited_for() {
    let ground = Ground::start(Cluster::shared().await, "behind").await;
    let other = ground.owner(9).await;
    other.note(9, 1, 1, &[100]);
    assert_eq!(other.reported().await, []);
    let owner = ground.owner(1).await;
    owner.commits(1, 1, &[1]).await;
    ground.broker.fence(&ground.id(1)).await.unwrap();
    let replay = ground.replay(2, Mark::default());
    tokio::pin!(replay);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut replay).await;
    assert!(
        early.is_err(),
        "the other transaction hides the record: {early:?}"
    );
    other.abort().await.unwrap();
    found(replay.await, 1, &[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_lost_its_records_or_is_not_ours_is_refused() {
    let ground = Ground::start(Cluster::shared().await, "lost").await;
    let refused = |replayed: Result<Replayed, JournalError>| match replayed {
        Err(JournalError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    let owner = ground.owner(1).await;
    owner.commits(1, 1, &[1]).await;
    owner.commits(1, 2, &[2]).await;
    let mark = found(ground.replay(2, Mark::default()).await, 2, &[1, 2]);

    let missing = Mark {
        offset: mark.offset + 1,
        ..mark
    };
    let too_short = refused(ground.replay(2, missing).await);
    assert!(matches!(too_short, Refusal::TooShort { .. }), "{too_short:?}");
    owner.commits(1, 4, &[4]).await;
    let gap = refused(ground.replay(2, mark).await);
    assert!(
        matches!(
            gap,
            Refusal::Gap {
                expected: 3,
                found: 4,
                ..
            }
        ),
        "{gap:?}"
    );

    let another = Replay::new(
        &ground.identity,
        Incarnation(Uuid::from_u128(2)),
        [(slot(), Epoch(2), mark)],
    );
    let another = ground.journal.replay(another).await.unwrap_err();
    assert_eq!(another.category(), "JournalRefused");
    let others = KafkaJournal::new(ground.broker.clone(), "another", &ground.journal_topic);
    let replay = Replay::new("another", INCARNATION, [(slot(), Epoch(2), mark)]);
    let foreign = refused(others.replay(replay).await.map(|_| Replayed::Superseded));
    assert_eq!(foreign, Refusal::AnotherIdentity(ground.identity.clone()));

    empty(&ground).await;
    assert_eq!(
        refused(ground.replay(2, mark).await),
        Refusal::Headless,
        "emptied"
    );
    ground.cluster.delete(&ground.journal_topic).await;
    ground.journal.prepare().await.unwrap();
    assert_eq!(
        refused(ground.replay(2, mark).await),
        Refusal::Headless,
        "made again"
    );
    assert_eq!(
        refused(ground.replay(2, Mark::default()).await),
        Refusal::Headless,
        "whatever the mark"
    );
}

/// Deletes all records of the journal, as `kafka-delete-records` does.
async fn empty(ground: &Ground) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &ground.cluster.bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    ground
        .cluster
        .alter(&ground.journal_topic, "cleanup.policy", "compact,delete")
        .await;
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(&ground.journal_topic, 0, Offset::End)
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(A_WHILE));
    admin.delete_records(&all, &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_could_lose_records_is_no_journal() {
    let cluster = Cluster::shared().await;
    let sink = Sink {
        bootstrap_servers: vec![cluster.bootstrap.clone()],
        ..Sink::default()
    };
    let settings = KafkaSettings::new(&sink, &Memory::default(), "test").unwrap();
    let broker = KafkaBroker::new(settings, false).unwrap();
    for (name, partitions, policy, said) in [
        ("parted", 2, "compact", "it has 2 partitions"),
        ("expiring", 1, "delete", "its cleanup.policy is \"delete\""),
        (
            "both",
            1,
            "compact,delete",
            "its cleanup.policy is \"compact,delete\"",
        ),
    ] {
        cluster
            .topic(name, partitions, &[("cleanup.policy", policy)])
            .await;
        let error = KafkaJournal::new(broker.clone(), "any", name)
            .prepare()
            .await
            .unwrap_err();
        assert_eq!(error.category(), "JournalConfiguration");
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// Delivers batches one after the other as a lane would, whatever the coordinator does meanwhile.
async fn deliver_all(ground: &Ground, batches: &[Vec<u64>]) -> BTreeMap<Verdict, usize> {
    let mut verdicts = BTreeMap::new();
    let mut owner = ground.owner(1).await;
    for (number, batch) in batches.iter().enumerate() {
        let sequence = number as Sequence + 1;
        loop {
            owner.transaction(1, sequence, batch);
            owner.reported().await;
            let Err(failure) = owner.commit().await else { break };
            *verdicts.entry(failure.verdict).or_default() += 1;
            let aborted = match failure.verdict {
                Verdict::Abort => owner.abort().await.is_ok(),
                Verdict::Again | Verdict::Ended => false,
            };
            if aborted {
                continue;
            }
            owner = ground.owner(1).await;
            let replayed = loop {
                match ground.replay(1, Mark::default()).await {
                    Err(JournalError::Unavailable { .. }) => {}
                    replayed => break replayed.unwrap(),
                }
            };
            let Replayed::Ours { mark, .. } = replayed else {
                panic!("nobody else holds the slot");
            };
            if mark.sequence == sequence {
                break;
            }
        }
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_dies_and_comes_back_loses_and_repeats_nothing() {
    let ground = Ground::start(Cluster::own().await, "dying").await;
    let batches: Vec<Vec<u64>> = (0..150).map(|n| (n * 20..n * 20 + 20).collect()).collect();
    let faults = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            ground.cluster.script("kill").await;
            ground.cluster.script("start").await;
        }
    };
    let (verdicts, ()) = tokio::join!(deliver_all(&ground, &batches), faults);
    println!("verdicts: {verdicts:?}");
    let all: Vec<_> = batches.concat();
    ground.comes_to_hold(&all).await;
    found(
        ground.replay(2, Mark::default()).await,
        batches.len() as Sequence,
        &all,
    );
}
