//! The verifier on real topics: a clean one, and ones with a planted fault each. What it says is believed everywhere
//! else, so it is shown here that it sees what it has to see.

#![expect(clippy::unwrap_used, reason = "a test stops where something is missing")]

use std::path::Path;
use std::time::Duration;

use orders::broker::Broker;
use orders::clock::now_us;
use orders::dead_letters::DeadLetters;
use orders::journal::{Entry, JournalWriter, Outcome, Totals, digest};
use orders::kafka::{Cluster, TopicReader};
use orders::verify::follow::Follow;
use orders::verify::{Bounds, Report};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use uuid::Uuid;

const AGGREGATES: i64 = 10;
const EVENTS: i64 = 100;

/// Ten aggregates take turns.
fn entry(number: i64) -> Entry {
    Entry {
        event_id: Uuid::from_u128(1_000_000 + number as u128),
        aggregate_id: Uuid::from_u128((number % AGGREGATES) as u128),
        sequence: number / AGGREGATES,
        scheduled_us: now_us(),
        committed_us: Some(now_us()),
        outcome: Outcome::Committed,
        digest: Some(digest(b"OrderCreated", b"{}")),
    }
}

fn write_journal(path: &Path, numbers: std::ops::Range<i64>) {
    let mut journal = JournalWriter::open(path).unwrap();
    let totals = Totals {
        committed: (numbers.end - numbers.start) as u64,
        ..Totals::default()
    };
    for number in numbers {
        journal.write(entry(number)).unwrap();
    }
    journal.end(totals).unwrap();
}

struct Topic {
    producer: FutureProducer,
    name: String,
}

impl Topic {
    async fn create(broker: &Broker, name: &str) -> Self {
        broker
            .create_topic(name, 4, &[("message.timestamp.type", "LogAppendTime")])
            .await
            .unwrap();
        Self {
            producer: producer(&broker.cluster(), &[]),
            name: name.to_owned(),
        }
    }

    async fn send(&self, number: i64, headers: &[(&str, &str)]) {
        self.send_with(number, "OrderCreated", "{}", headers).await;
    }

    async fn send_with(&self, number: i64, event_type: &str, payload: &str, headers: &[(&str, &str)]) {
        let Entry {
            event_id,
            aggregate_id,
            ..
        } = entry(number);
        let id = event_id.to_string();
        let mut all = OwnedHeaders::new()
            .insert(Header {
                key: "event-id",
                value: Some(&id),
            })
            .insert(Header {
                key: "event-type",
                value: Some(event_type),
            });
        for &(key, value) in headers {
            all = all.insert(Header {
                key,
                value: Some(value),
            });
        }
        let key = aggregate_id.to_string();
        let record = FutureRecord::to(&self.name)
            .key(&key)
            .payload(payload)
            .headers(all);
        self.producer.send(record, Duration::from_secs(10)).await.unwrap();
    }
}

fn producer(cluster: &Cluster, properties: &[(&str, &str)]) -> FutureProducer {
    let mut config = cluster.config();
    config.set("enable.idempotence", "true").set("linger.ms", "0");
    for (name, value) in properties {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

struct Check<'a> {
    cluster: Cluster,
    folder: &'a Path,
}

impl Check<'_> {
    fn follow(&self, topic: &str, journal: &str, bounds: Bounds) -> Follow {
        Follow {
            cluster: self.cluster.clone(),
            topic: topic.to_owned(),
            journal: self.folder.join(journal),
            dead_letters: DeadLetters::default(),
            during_load: false,
            patience: Duration::from_secs(1),
            settle: Duration::from_millis(300),
            bounds,
        }
    }

    /// Verifies a topic against the journal of all events.
    async fn verify(&self, topic: &Topic, bounds: Bounds) -> Report {
        self.follow(&topic.name, "journal", bounds)
            .run(|_| ())
            .await
            .unwrap()
    }
}

struct Planted {
    clean: Topic,
    lossy: Topic,
    repeated: Topic,
    swapped: Topic,
    foreign: Topic,
}

/// One topic with all events of the journal as they were committed, and one per fault.
async fn plant(broker: &Broker) -> Planted {
    let clean = Topic::create(broker, "clean").await;
    let lossy = Topic::create(broker, "lossy").await;
    let repeated = Topic::create(broker, "repeated").await;
    let swapped = Topic::create(broker, "swapped").await;
    let foreign = Topic::create(broker, "foreign").await;
    for number in 0..EVENTS {
        clean.send(number, &[]).await;
        if number != 42 {
            lossy.send(number, &[]).await;
        }
        repeated.send(number, &[]).await;
        if number % 50 == 49 {
            repeated.send(number - 20, &[]).await;
        }
        // Each aggregate's events 2 and 3 change places: ten aggregates, the tenth marks it.
        let place = match number / AGGREGATES {
            2 => number + AGGREGATES,
            3 => number - AGGREGATES,
            _ => number,
        };
        let marks: &[_] = if place == 29 { &[("late", "true")] } else { &[] };
        swapped.send(place, marks).await;
        foreign.send(number, &[]).await;
    }
    foreign.send(EVENTS + 7, &[]).await;
    Planted {
        clean,
        lossy,
        repeated,
        swapped,
        foreign,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_faults_are_found_on_real_topics() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("kafka"), 1).unwrap();
    let check = Check {
        cluster: broker.cluster(),
        folder: folder.path(),
    };
    write_journal(&folder.path().join("journal"), 0..EVENTS);

    let Planted {
        clean,
        lossy,
        repeated,
        swapped,
        foreign,
    } = plant(&broker).await;

    let report = check.verify(&clean, Bounds::default()).await;
    assert!(report.is_clean() && report.delivered == EVENTS as u64, "{report}");
    assert_eq!(
        report.latency.summary().commit_to_append_ms.unwrap().count,
        EVENTS as u64
    );

    let report = check.verify(&lossy, Bounds::default()).await;
    assert_eq!(report.violations, ["1 lost, at most 0 allowed"], "{report}");
    assert!(
        report.lost.examples[0].contains(&entry(42).event_id.to_string()),
        "{report}"
    );

    let report = check
        .verify(
            &repeated,
            Bounds {
                duplicates: 2,
                ..Bounds::default()
            },
        )
        .await;
    assert!(report.is_clean() && report.duplicated.count == 2, "{report}");
    let report = check
        .verify(
            &repeated,
            Bounds {
                duplicates: 1,
                ..Bounds::default()
            },
        )
        .await;
    assert_eq!(report.violations, ["2 duplicated, at most 1 allowed"], "{report}");

    let report = check
        .verify(
            &swapped,
            Bounds {
                late: 1,
                ..Bounds::default()
            },
        )
        .await;
    assert_eq!(report.violations, ["9 reordered, at most 0 allowed"], "{report}");

    let report = check.verify(&foreign, Bounds::default()).await;
    assert_eq!(report.violations, ["1 foreign, at most 0 allowed"], "{report}");

    what_cannot_be_verified(&check).await;
    what_was_altered_or_not_noted(&broker, &check).await;
}

async fn what_was_altered_or_not_noted(broker: &Broker, check: &Check<'_>) {
    let altered = Topic::create(broker, "altered").await;
    for number in 0..EVENTS {
        altered
            .send_with(
                number,
                "OrderCreated",
                if number == 42 { "{ }" } else { "{}" },
                &[],
            )
            .await;
    }
    let report = check.verify(&altered, Bounds::default()).await;
    assert_eq!(report.violations, ["1 altered, at most 0 allowed"], "{report}");

    // A load that was killed: all that it noted is there, and what it did not note is anyone's guess.
    let mut journal = JournalWriter::open(&check.folder.join("killed")).unwrap();
    for number in 0..EVENTS {
        journal.write(entry(number)).unwrap();
    }
    journal.flush().unwrap();
    let report = check
        .follow("clean", "killed", Bounds::default())
        .run(|_| ())
        .await
        .unwrap();
    assert_eq!(
        report.violations,
        ["1 faults of the journal, at most 0 allowed"],
        "{report}"
    );
}

async fn what_cannot_be_verified(check: &Check<'_>) {
    let nothing = check.follow(
        "clean",
        "no-such-journal",
        Bounds {
            foreign: u64::MAX,
            ..Bounds::default()
        },
    );
    let report = nothing.run(|_| ()).await.unwrap();
    assert_eq!(
        report.violations,
        ["nothing was committed, so nothing was tested"],
        "{report}"
    );

    let error = check
        .follow("no-such-topic", "journal", Bounds::default())
        .run(|_| ())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no-such-topic does not exist"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_verifier_waits_for_the_load_and_counts_only_what_was_committed_in_kafka() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("kafka"), 1).unwrap();
    let check = Check {
        cluster: broker.cluster(),
        folder: folder.path(),
    };
    let topic = Topic::create(&broker, "live").await;
    let dead = Topic::create(&broker, "dead").await;
    topic.send(0, &[]).await;

    let follow = Follow {
        during_load: true,
        patience: Duration::from_secs(30),
        dead_letters: DeadLetters {
            table: None,
            topic: Some((broker.cluster(), "dead".to_owned())),
        },
        ..check.follow(
            "live",
            "journal",
            Bounds {
                dead_letters: 1..=1,
                ..Bounds::default()
            },
        )
    };
    let verifier = tokio::spawn(follow.run(|_| ()));

    // An aborted transaction holds events that no `read_committed` consumer may count.
    let transactional = producer(&broker.cluster(), &[("transactional.id", "aborted")]);
    transactional.init_transactions(Duration::from_secs(30)).unwrap();
    transactional.begin_transaction().unwrap();
    let aborted = Topic {
        producer: transactional,
        name: "live".to_owned(),
    };
    aborted.send(1, &[]).await;
    aborted
        .producer
        .abort_transaction(Duration::from_secs(30))
        .unwrap();

    write_journal(&folder.path().join("journal"), 0..EVENTS);
    for number in 1..EVENTS - 1 {
        topic.send(number, &[]).await;
    }
    dead.send(EVENTS - 1, &[]).await;

    let report = verifier.await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (report.delivered, report.dead_lettered),
        (EVENTS as u64 - 1, 1),
        "{report}"
    );
    let live = report.latency.summary().commit_to_consumption_ms.unwrap();
    assert_eq!(
        live.count,
        EVENTS as u64 - 2,
        "event 0 was there before the verifier: {report}"
    );
}

/// Reads until the reader has seen an end; what it saw.
async fn read_on(reader: &mut TopicReader) -> usize {
    let mut messages = 0;
    while !reader.at_end() {
        messages += usize::from(reader.next().await.unwrap().is_some());
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_complete_only_when_its_brokers_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("kafka"), 1).unwrap();
    let topic = Topic::create(&broker, "growing").await;
    let mut reader = TopicReader::open(&broker.cluster(), "growing").await.unwrap();
    assert_eq!(read_on(&mut reader).await, 0);
    assert!(reader.complete().await.unwrap());

    // Nothing tells the reader; it has to ask.
    topic.send(1, &[]).await;
    assert!(reader.at_end(), "the end that it saw is an old one");
    assert!(!reader.complete().await.unwrap());
    assert_eq!(read_on(&mut reader).await, 1);
    assert!(reader.complete().await.unwrap());

    // The records of an aborted transaction never come, and are not waited for.
    let transactional = producer(&broker.cluster(), &[("transactional.id", "aborted")]);
    transactional.init_transactions(Duration::from_secs(30)).unwrap();
    transactional.begin_transaction().unwrap();
    let aborted = Topic {
        producer: transactional,
        name: "growing".to_owned(),
    };
    aborted.send(2, &[]).await;
    aborted
        .producer
        .abort_transaction(Duration::from_secs(30))
        .unwrap();
    while !reader.complete().await.unwrap() {
        assert_eq!(read_on(&mut reader).await, 0);
    }

    broker.kill().unwrap();
    assert!(!reader.complete().await.unwrap(), "nobody is there to say so");
}
