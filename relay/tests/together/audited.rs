//! `outbox-relay audit` against real relays: what it calls clean was verified by somebody else, and what was lost, repeated
//! or reordered on purpose is found.

use std::io::Write;
use std::time::{Duration, Instant};

use orders::dead_letters::DeadLetters;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use scylla::client::session_builder::SessionBuilder;
use serde_json::Value;
use tokio::time::sleep;
use uuid::Uuid;

use crate::exactly;
use crate::process::{PATIENCE, Relay};
use crate::stack::{Flow, Guarantee, RATE, Stack};

/// Bounds follow some seven seconds behind the present.
const SHORT_HORIZON: &str = "horizonSeconds: 2, table";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_kept_is_called_clean_and_what_was_broken_is_found() {
    let stack = Stack::start().await;
    broken_on_purpose(&stack).await;
    delivered_in_transactions(&stack).await;
    reset(&stack).await;
}

/// Dead letters and a crash are no findings; a lost, a repeated and a reordered event are.
async fn broken_on_purpose(stack: &Stack) {
    let mut flow = stack.flow("audited").await;
    flow.with_source(Guarantee::AtLeastOnce, SHORT_HORIZON);
    exactly::alter(stack, "audited", "max.message.bytes", "50000").await;
    let relay = start(&flow);
    let load = flow.load_with(4, Some((100, 200_000))).await;
    sleep(Duration::from_millis(1_700)).await;
    relay.kill();
    let relay = start(&flow);
    load.await.unwrap();
    let session = SessionBuilder::new()
        .known_node(&stack.address)
        .build()
        .await
        .unwrap();
    let letters = DeadLetters {
        table: Some((session, "outbox_relay.dead_letters".to_owned())),
        topic: None,
    };
    let verified = flow.verify_with(u64::from(RATE), letters, 4..=10).await;

    // In many passes as in one.
    for more in [&[][..], &["--max-events", "200"]] {
        let (code, said) = audit(&flow, more).await;
        assert_eq!((code, &said["verdict"]), (0, &Value::from("Clean")), "{said:#}");
        let count = |name: &str| said[name].as_u64().unwrap();
        assert_eq!(count("events"), verified.committed, "{said:#}");
        assert_eq!(count("deadLettered"), verified.dead_lettered, "{said:#}");
        assert_eq!(count("delivered"), verified.delivered, "{said:#}");
        assert_eq!(
            said["repeated"]["atLeastOnce"].as_u64().unwrap(),
            verified.duplicated.count,
            "{said:#}"
        );
        assert_eq!(count("notYetDue"), 0, "{said:#}");
        assert_eq!(count("passes") > 1, !more.is_empty(), "{said:#}");
    }
    let (code, said) = audit(&flow, &["--source", "Table"]).await;
    assert_eq!(
        (code, said["events"].as_u64().unwrap()),
        (0, verified.committed),
        "{said:#}"
    );

    traced_when_done(stack, &flow).await;
    lost(&flow).await;
    recorded(&flow, &relay).await;
    relay.stop();
    repeated_and_reordered(stack, &flow).await;
    unanswerable(&flow).await;
}

/// An event that the log shows after everybody has looked: no relay will read it.
async fn lost(flow: &Flow<'_>) {
    let (code, said) = audit(flow, &[]).await;
    assert_eq!(code, 0, "{said:#}");
    let written = now_micros() - 1_000_000;
    let started = Instant::now();
    loop {
        let (_, said) = audit(flow, &[]).await;
        let resolved = said["resolvedBefore"]
            .as_str()
            .unwrap()
            .parse::<crds::Timestamp>();
        if resolved.unwrap().milliseconds() as i64 * 1000 > written + 1_000_000 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "bounds stand still: {said:#}");
        sleep(Duration::from_millis(500)).await;
    }
    let lost = Row::new(1);
    lost.write(flow, &format!(" USING TIMESTAMP {written}")).await;
    let (code, said) = audit(flow, &[]).await;
    assert_eq!((code, said["missing"].as_u64()), (1, Some(1)), "{said:#}");
    let example = &said["examples"][0];
    assert_eq!(
        (
            example["finding"].as_str(),
            example["eventId"].as_str(),
            example["aggregateId"].as_str()
        ),
        (
            Some("Missing"),
            Some(&*lost.event.to_string()),
            Some(&*lost.aggregate.to_string())
        )
    );
    // It was found, so the window behind it is clean.
    let later = audit_of(flow, &["--from", "-1s"]).await;
    assert_eq!(later.0, 0, "{}", later.1);
}

/// A delivered event, a dead letter, and one that never was.
async fn traced_when_done(stack: &Stack, flow: &Flow<'_>) {
    let rows = "SELECT id FROM audited.outbox_messages LIMIT 200";
    let rows = stack
        .session
        .query_unpaged(rows, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let ids: Vec<Uuid> = rows
        .rows::<(Uuid,)>()
        .unwrap()
        .map(|row| row.unwrap().0)
        .collect();
    let letters = "SELECT event_id FROM outbox_relay.dead_letters";
    let letters = stack
        .session
        .query_unpaged(letters, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let letters: Vec<String> = letters
        .rows::<(String,)>()
        .unwrap()
        .map(|row| row.unwrap().0)
        .collect();
    let delivered = ids
        .iter()
        .map(Uuid::to_string)
        .find(|id| !letters.contains(id))
        .unwrap();
    let (code, said) = trace(flow, &delivered, &[]).await;
    assert_eq!((code, said["state"].as_str()), (0, Some("Delivered")), "{said:#}");
    assert!(
        said["messages"][0]["offset"].is_u64() && said["rows"][0]["slot"].is_u64(),
        "{said:#}"
    );
    assert!(
        said["slot"]["owner"].is_string() && said["slot"]["bound"].is_string(),
        "{said:#}"
    );
    let (code, said) = trace(flow, &letters[0], &[]).await;
    assert_eq!(
        (code, said["state"].as_str()),
        (0, Some("DeadLettered")),
        "{said:#}"
    );
    assert_eq!(said["deadLetters"][0]["class"].as_str(), Some("message"));
    let (code, said) = trace(flow, "nobody's", &["--from", "-5m"]).await;
    assert_eq!((code, said["state"].as_str()), (1, Some("NotFound")), "{said:#}");
    assert!(
        said["because"][0]
            .as_str()
            .unwrap()
            .contains("widen it with --from"),
        "{said:#}"
    );
    let (code, _) = command(flow, &["trace", "e", "--from", "now", "--to", "-1h"]).await;
    assert_eq!(code, 2);
}

/// The relay that owns the first slot tells what was recorded last.
async fn recorded(flow: &Flow<'_>, relay: &Relay) {
    let (code, said) = audit(flow, &["--record"]).await;
    assert_eq!(code, 1, "{said:#}");
    let shown = || relay.status().and_then(|status| status.audit);
    let started = Instant::now();
    while shown().is_none() {
        assert!(started.elapsed() < PATIENCE, "it is never shown");
        sleep(Duration::from_millis(500)).await;
    }
    let audit = shown().unwrap();
    assert_eq!((audit.missing, audit.reordered, audit.repeated), (1, 0, 0));
    assert_eq!(Some(audit.events), said["events"].as_u64());
    assert_eq!(serde_json::to_value(audit.to).unwrap(), said["to"]);
}

/// Whoever else writes to the topic can break what the relay kept.
async fn repeated_and_reordered(stack: &Stack, flow: &Flow<'_>) {
    let (first, second) = (Row::new(1), Row::new(2));
    let second = Row {
        aggregate: first.aggregate,
        ..second
    };
    first.write(flow, "").await;
    sleep(Duration::from_millis(5)).await;
    second.write(flow, "").await;
    let (_, said) = audit(flow, &[]).await;
    assert_eq!(said["notYetDue"].as_u64(), Some(2), "no relay runs: {said:#}");
    let (code, said) = trace(flow, &first.event.to_string(), &[]).await;
    assert_eq!((code, said["state"].as_str()), (0, Some("Waiting")), "{said:#}");
    assert!(said["because"].to_string().contains("has no owner"), "{said:#}");
    publish(stack, "audited", &second).await;
    publish(stack, "audited", &second).await;
    let relay = start(flow);
    let started = Instant::now();
    let said = loop {
        let (code, said) = audit(flow, &[]).await;
        if said["notYetDue"].as_u64() == Some(0) {
            assert_eq!(code, 1, "{said:#}");
            break said;
        }
        assert!(started.elapsed() < PATIENCE, "{said:#}");
        sleep(Duration::from_millis(500)).await;
    };
    relay.stop();
    assert_eq!(said["reordered"].as_u64(), Some(1), "{said:#}");
    let examples = said["examples"].as_array().unwrap();
    let reordered = examples
        .iter()
        .find(|example| example["finding"] == "Reordered")
        .unwrap();
    assert_eq!(reordered["eventId"].as_str(), Some(&*first.event.to_string()));
    assert!(reordered["offset"].is_u64() && reordered["partition"].is_u64());
    // Made of no row, so with other bytes in its header: told apart from what the guarantee allows.
    assert_eq!(said["repeated"]["writtenAgain"].as_u64(), Some(1), "{said:#}");

    // The same repeats are findings to somebody who was promised none.
    let allowed = said["repeated"]["atLeastOnce"].as_u64().unwrap();
    assert!(allowed >= 1, "{said:#}");
    let text = flow.text(Guarantee::ExactlyOnce).replace("table", SHORT_HORIZON);
    let mut strict = tempfile::NamedTempFile::new().unwrap();
    strict.write_all(text.as_bytes()).unwrap();
    let (_, said) = run(
        strict.path().to_str().unwrap(),
        &["--from", "-15m", "--to", "now", "--json"],
    )
    .await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["repeated"]["notAllowed"].as_u64(), Some(allowed), "{said:#}");
}

async fn unanswerable(flow: &Flow<'_>) {
    for (arguments, expected) in [
        (["--from", "-30d"], "have expired; accepted: a later one"),
        (["--from", "now"], "is not before --to"),
        (["--from", "yesterday"], "\"yesterday\" is no time; accepted: "),
    ] {
        let (code, said) = audit_of(flow, &arguments).await;
        assert!(code == 2 && said.contains(expected), "{code}: {said}");
    }
    let (code, said) = audit_of(flow, &["--from", "-15m", "--max-events", "1"]).await;
    assert!(
        code == 2
            && said.contains("alone holds more than 1 events of the window; accepted: a shorter window"),
        "{said}"
    );
    let path = flow.config().to_str().unwrap();
    let (code, said) = run(path, &["--from", "-1h", "--to", "2999-01-01T00:00:00Z"]).await;
    assert!(code == 2 && said.contains("lies ahead"), "{said}");
}

/// Aborted copies are in the topic, and nobody who reads what is committed sees them.
async fn delivered_in_transactions(stack: &Stack) {
    let mut flow = stack.flow_with("committed", Guarantee::ExactlyOnce).await;
    flow.with_source(Guarantee::ExactlyOnce, SHORT_HORIZON);
    let relay = start(&flow);
    let load = flow.load(5).await;
    for _ in 0..2 {
        sleep(Duration::from_millis(1_100)).await;
        relay.signal("STOP");
        relay.signal("CONT");
    }
    relay.kill();
    let relay = start(&flow);
    load.await.unwrap();
    let verified = flow.verify(0).await;
    let (code, said) = audit(&flow, &[]).await;
    assert_eq!(code, 0, "{said:#}");
    assert_eq!(said["events"].as_u64(), Some(verified.committed));
    assert_eq!(said["delivered"].as_u64(), Some(verified.committed));
    assert_eq!(said["repeated"]["notAllowed"].as_u64(), Some(0));
    relay.stop();
}

/// To the oldest row everything comes again; to the present what waits never comes. Both were told before.
async fn reset(stack: &Stack) {
    let mut flow = stack.flow("resetted").await;
    flow.with_source(Guarantee::AtLeastOnce, SHORT_HORIZON);
    let relay = start(&flow);
    flow.load(2).await.await.unwrap();
    let written = flow.verify(0).await.committed;
    let (code, said) = checkpoint(&flow, &["--to", "Oldest", "--yes"]).await;
    assert!(code == 1 && said.contains("renews its heartbeat"), "{said}");
    relay.stop();
    for (arguments, expected) in [
        (&["--to", "Oldest"][..], "accepted: --dry-run or --yes"),
        (
            &["--to", "-30d", "--dry-run"][..],
            "have expired; accepted: Oldest",
        ),
        (&["--to", "2999-01-01T00:00:00Z", "--dry-run"][..], "lies ahead"),
        (&["--to", "soon", "--dry-run"][..], "accepted: Oldest, Now"),
    ] {
        let (code, said) = checkpoint(&flow, arguments).await;
        assert!(code != 0 && said.contains(expected), "{said}");
    }
    // Nothing is touched by a dry run, so the second says what the first did.
    for arguments in [
        ["--to", "Oldest", "--dry-run", "--json"],
        ["--to", "Oldest", "--yes", "--json"],
    ] {
        let (code, said) = checkpoint(&flow, &arguments).await;
        assert_eq!(code, 0, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (said["repeated"].as_u64(), said["skipped"].as_u64()),
            (Some(written), Some(0)),
            "{said:#}"
        );
    }
    let relay = start(&flow);
    let started = Instant::now();
    loop {
        let (code, said) = audit(&flow, &[]).await;
        assert_eq!(code, 0, "{said:#}");
        if said["repeated"]["atLeastOnce"].as_u64() == Some(written) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{said:#}");
        sleep(Duration::from_millis(300)).await;
    }
    relay.stop();

    let skipped = Row::new(1);
    skipped.write_to("resetted", &flow, "").await;
    sleep(Duration::from_secs(6)).await;
    let (code, said) = checkpoint(&flow, &["--to", "-1s", "--yes", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (said["repeated"].as_u64(), said["skipped"].as_u64()),
        (Some(0), Some(1)),
        "{said:#}"
    );
    let relay = start(&flow);
    let next = Row::new(1);
    next.write_to("resetted", &flow, "").await;
    let started = Instant::now();
    while trace(&flow, &next.event.to_string(), &[]).await.1["state"] != "Delivered" {
        assert!(
            started.elapsed() < PATIENCE,
            "what was written after the reset is delivered"
        );
    }
    let (code, said) = audit(&flow, &[]).await;
    assert_eq!((code, said["missing"].as_u64()), (1, Some(1)), "{said:#}");
    assert_eq!(
        said["examples"][0]["eventId"].as_str(),
        Some(&*skipped.event.to_string())
    );
    relay.stop();
}

fn start(flow: &Flow<'_>) -> Relay {
    let relay = Relay::start(flow.config(), "1/1");
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    relay
}

/// Of the last quarter of an hour, as JSON.
async fn audit(flow: &Flow<'_>, more: &[&str]) -> (i32, Value) {
    let arguments = [&["--from", "-15m", "--to", "now", "--json"], more].concat();
    let (code, said) = run(flow.config().to_str().unwrap(), &arguments).await;
    let document = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{code}: {said}"));
    (code, document)
}

async fn audit_of(flow: &Flow<'_>, from: &[&str]) -> (i32, String) {
    run(
        flow.config().to_str().unwrap(),
        &[from, &["--to", "now"]].concat(),
    )
    .await
}

async fn run(config: &str, arguments: &[&str]) -> (i32, String) {
    relay(&[&["audit", "-f", config], arguments].concat()).await
}

/// As JSON.
async fn trace(flow: &Flow<'_>, event_id: &str, more: &[&str]) -> (i32, Value) {
    let (code, said) = command(flow, &[&["trace", event_id, "--json"], more].concat()).await;
    let document = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{code}: {said}"));
    (code, document)
}

async fn checkpoint(flow: &Flow<'_>, arguments: &[&str]) -> (i32, String) {
    command(flow, &[&["checkpoint", "reset"], arguments].concat()).await
}

async fn command(flow: &Flow<'_>, arguments: &[&str]) -> (i32, String) {
    relay(&[arguments, &["-f", flow.config().to_str().unwrap()]].concat()).await
}

async fn relay(arguments: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments).env_remove("RUST_LOG");
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// A row of the order service's outbox.
struct Row {
    aggregate: Uuid,
    event: Uuid,
    sequence: i64,
}

impl Row {
    fn new(sequence: i64) -> Self {
        Self {
            aggregate: Uuid::new_v4(),
            event: Uuid::new_v4(),
            sequence,
        }
    }

    async fn write(&self, flow: &Flow<'_>, using: &str) {
        self.write_to("audited", flow, using).await;
    }

    async fn write_to(&self, keyspace: &str, flow: &Flow<'_>, using: &str) {
        let Self {
            aggregate,
            event,
            sequence,
        } = self;
        flow.cql(&format!(
            "INSERT INTO {keyspace}.outbox_messages (aggregate_id, sequence_number, id, aggregate_type, event_type, payload) \
             VALUES ({aggregate}, {sequence}, {event}, 'order', 'Written', '{{}}'){using}"
        ))
        .await;
    }
}

async fn publish(stack: &Stack, topic: &str, row: &Row) {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &stack.broker.cluster().bootstrap)
        .set("partitioner", "murmur2_random");
    let producer: FutureProducer = config.create().unwrap();
    let (event, key) = (row.event.to_string(), row.aggregate.to_string());
    let header = |key, value: &'static str| Header {
        key,
        value: Some(value),
    };
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "event-id",
            value: Some(&event),
        })
        .insert(header("source-position", "somebody else's"));
    let record = FutureRecord::to(topic).key(&key).payload("{}").headers(headers);
    producer.send(record, PATIENCE).await.unwrap();
}

fn now_micros() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_micros() as i64
}
