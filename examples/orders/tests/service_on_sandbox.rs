//! The service and the load generator against a node: what a caller is told is what is in the tables.

#![expect(clippy::unwrap_used, reason = "a test stops where something is missing")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use orders::commands::{Orders, order_created_by};
use orders::cql::{Nodes, connect};
use orders::dead_letters::DeadLetters;
use orders::journal::{Journal, JournalReader, Outcome, digest};
use orders::load::target::Target;
use orders::load::{self, Plan};
use orders::service::router;
use orders::store::{Store, statements};
use reqwest::{Method, StatusCode};
use sandbox::Sandbox;
use sandbox::fault::rule::{ErrorName, Rule};
use scylla::client::session::Session;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const OUTBOX: &str = "orders_ks.outbox_messages";
const INSERT_OUTBOX: &str = "INSERT INTO orders_ks.outbox_messages";

struct Running {
    sandbox: Sandbox,
    session: Session,
    url: String,
    client: reqwest::Client,
}

impl Running {
    async fn start(schema: &str) -> Self {
        let sandbox = Sandbox::builder().start().await.unwrap();
        let nodes = Nodes {
            contact_points: vec![sandbox.addr().to_string()],
            credentials: None,
        };
        let session = connect(&nodes).await.unwrap();
        for statement in statements(schema) {
            session.query_unpaged(statement, ()).await.unwrap();
        }
        let store = Store::new(connect(&nodes).await.unwrap(), "orders_ks")
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, router(Arc::new(Orders::new(store)))).into_future());
        Self {
            sandbox,
            session,
            url,
            client: reqwest::Client::new(),
        }
    }

    async fn ordered() -> Self {
        Self::start(include_str!("../schema.cql")).await
    }

    async fn connect(&self) -> Session {
        let nodes = Nodes {
            contact_points: vec![self.sandbox.addr().to_string()],
            credentials: None,
        };
        connect(&nodes).await.unwrap()
    }

    async fn call(&self, method: Method, path: &str, key: Option<Uuid>, body: Option<Value>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(key) = key {
            request = request.header("idempotency-key", key.to_string());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn post(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        self.call(Method::POST, path, None, body).await
    }

    async fn count(&self, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM orders_ks.{table}");
        let rows = self
            .session
            .query_unpaged(query, ())
            .await
            .unwrap()
            .into_rows_result()
            .unwrap();
        rows.single_row::<(i64,)>().unwrap().0
    }

    /// Rows of orders, event_store and outbox.
    async fn counts(&self) -> [i64; 3] {
        [
            self.count("orders").await,
            self.count("event_store").await,
            self.count("outbox_messages").await,
        ]
    }
}

fn order() -> Value {
    json!({"customer": "Ada", "items": [{"sku": "pen", "quantity": 2, "priceCents": 150}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_is_an_order_an_event_and_an_outbox_row() {
    let service = Running::ordered().await;
    let (status, created) = service.post("/orders", Some(order())).await;
    assert_eq!(
        (status, &created["order"]["totalCents"]),
        (201, &json!(300)),
        "{created}"
    );
    let path = format!("/orders/{}", created["orderId"].as_str().unwrap());

    let mut changed = order();
    changed["items"][0]["quantity"] = json!(3);
    let (status, updated) = service.call(Method::PUT, &path, None, Some(changed)).await;
    assert_eq!(
        (status, &updated["sequenceNumber"]),
        (200, &json!(2)),
        "{updated}"
    );
    for (action, expected) in [
        ("confirm", 200),
        ("update", 404),
        ("deliver", 409),
        ("ship", 200),
        ("cancel", 409),
    ] {
        let (status, answer) = service.post(&format!("{path}/{action}"), None).await;
        assert_eq!(status, expected, "{action}: {answer}");
    }
    let (_, read) = service.call(Method::GET, &path, None, None).await;
    assert_eq!(
        (&read["order"]["status"], &read["order"]["totalCents"]),
        (&json!("Shipped"), &json!(450))
    );
    assert_eq!(service.counts().await, [1, 4, 4]);

    let query = format!("SELECT sequence_number, event_type, aggregate_type, payload FROM {OUTBOX}");
    let rows = service
        .session
        .query_unpaged(query, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let rows: Vec<(i64, String, String, String)> = rows.rows().unwrap().map(Result::unwrap).collect();
    let types: Vec<_> = rows
        .iter()
        .map(|row| (row.0, row.1.as_str(), row.2.as_str()))
        .collect();
    let expected = ["OrderCreated", "OrderUpdated", "OrderConfirmed", "OrderShipped"];
    let expected: Vec<_> = (1..)
        .zip(expected)
        .map(|(sequence, name)| (sequence, name, "Order"))
        .collect();
    assert_eq!(types, expected);
    let payload: Value = serde_json::from_str(&rows[0].3).unwrap();
    assert_eq!(
        (&payload["orderId"], &payload["type"]),
        (&created["orderId"], &json!("OrderCreated"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_is_wrong_and_write_nothing() {
    let service = Running::ordered().await;
    let unknown = format!("/orders/{}/confirm", Uuid::from_u128(1));
    let mut no_items = order();
    no_items["items"] = json!([]);
    for (path, body, expected, message) in [
        (
            "/orders",
            Some(json!({"customer": "Ada"})),
            400,
            "missing field `items`",
        ),
        (
            "/orders",
            Some(json!({"customer": "Ada", "itmes": []})),
            400,
            "unknown field `itmes`",
        ),
        (
            "/orders",
            Some(no_items),
            400,
            "items: 0 positions is not accepted; 1 to 100 are",
        ),
        ("/orders/7/confirm", None, 400, "order id: \"7\" is not a UUID"),
        (unknown.as_str(), None, 404, "there is no such order"),
    ] {
        let (status, answer) = service.post(path, body).await;
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(
            status == expected && said.contains(message),
            "{path}: {status} {said}"
        );
    }
    assert_eq!(service.counts().await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_an_error_and_leaves_nothing() {
    let service = Running::ordered().await;
    let refusal = Rule::error(ErrorName::Unavailable).statement(INSERT_OUTBOX);
    let rule = service.sandbox.faults().add(refusal).unwrap();
    let (status, answer) = service.post("/orders", Some(order())).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("NotWritten")),
        "{answer}"
    );
    assert_eq!(service.counts().await, [0, 0, 0]);

    service.sandbox.faults().remove(rule);
    let (status, _) = service.post("/orders", Some(order())).await;
    assert_eq!((status, service.counts().await), (201, [1, 1, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_said_and_a_repeat_is_harmless() {
    let service = Running::ordered().await;
    let key = Uuid::from_u128(42);
    service
        .sandbox
        .faults()
        .add(Rule::write_timeout(true).table(OUTBOX).times(1))
        .unwrap();
    let (status, answer) = service
        .call(Method::POST, "/orders", Some(key), Some(order()))
        .await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("OutcomeUnknown")),
        "{answer}"
    );

    // It was applied; the repeat finds it.
    for _ in 0..2 {
        let (status, answer) = service
            .call(Method::POST, "/orders", Some(key), Some(order()))
            .await;
        assert_eq!((status, &answer["sequenceNumber"]), (201, &json!(1)), "{answer}");
        assert_eq!(answer["orderId"], json!(order_created_by(key)));
    }
    assert_eq!(service.counts().await, [1, 1, 1]);

    // One that was not applied may yet be: its place stays free.
    service
        .sandbox
        .faults()
        .add(Rule::write_timeout(false).table(OUTBOX).times(1))
        .unwrap();
    let path = format!("/orders/{}/confirm", order_created_by(key));
    let (status, _) = service.post(&path, None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let (status, answer) = service.post(&path, None).await;
    assert_eq!((status, &answer["sequenceNumber"]), (200, &json!(3)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_one_order_at_the_same_time_never_share_a_place() {
    let service = Running::ordered().await;
    let (_, created) = service.post("/orders", Some(order())).await;
    let path = format!("/orders/{}", created["orderId"].as_str().unwrap());
    // Slow writes overlap with every other request.
    let slow = Rule::slow(Duration::from_millis(20)).statement(INSERT_OUTBOX);
    service.sandbox.faults().add(slow).unwrap();
    let update = || service.call(Method::PUT, &path, None, Some(order()));
    let answers = futures::future::join_all((0..20).map(|_| update())).await;
    let mut places: Vec<i64> = answers
        .iter()
        .map(|(status, answer)| {
            assert_eq!(*status, 200, "{answer}");
            answer["sequenceNumber"].as_i64().unwrap()
        })
        .collect();
    places.sort_unstable();
    assert_eq!(places, (2..=21).collect::<Vec<_>>());
    assert_eq!(service.counts().await, [1, 21, 21]);

    // Of two that exclude each other one is refused.
    let (cancel, confirm) = (format!("{path}/cancel"), format!("{path}/confirm"));
    let both = tokio::join!(service.post(&cancel, None), service.post(&cancel, None));
    let mut statuses = [both.0.0, both.1.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    assert_eq!(service.post(&confirm, None).await.0, 409);
    assert_eq!(service.counts().await, [1, 22, 22]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_leaves_its_place_to_the_write_that_may_still_arrive() {
    let service = Running::ordered().await;
    let (_, created) = service.post("/orders", Some(order())).await;
    let path = format!("/orders/{}", created["orderId"].as_str().unwrap());
    // Each batch is held up before it is applied, far longer than its caller waits.
    let held = Rule::slow(Duration::from_millis(800))
        .statement(INSERT_OUTBOX)
        .times(1);
    service.sandbox.faults().add(held).unwrap();
    let impatient = reqwest::Client::builder()
        .timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let gone = impatient
        .put(format!("{}{path}", service.url))
        .json(&order())
        .send()
        .await;
    assert!(gone.unwrap_err().is_timeout());

    let (status, answer) = service.call(Method::PUT, &path, None, Some(order())).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["sequenceNumber"],
        json!(3),
        "2 may belong to the write whose caller is gone: {answer}"
    );
}

/// What the journal says that was written is what is there.
async fn check_contents(service: &Running, journal: Journal) {
    let query = format!("SELECT id, event_type, payload FROM {OUTBOX}");
    let rows = service
        .session
        .query_unpaged(query, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let written: HashMap<Uuid, u64> = rows
        .rows::<(Uuid, String, String)>()
        .unwrap()
        .map(Result::unwrap)
        .map(|(id, event_type, payload)| (id, digest(event_type.as_bytes(), payload.as_bytes())))
        .collect();
    assert_eq!(journal.gaps, [""; 0]);
    for entry in journal
        .entries
        .iter()
        .filter(|entry| entry.outcome == Outcome::Committed)
    {
        assert_eq!(entry.digest, written.get(&entry.event_id).copied(), "{entry:?}");
    }
}

/// Loads with every tenth write timed out, half of them applied; checks the journal against the table.
async fn check_journal_under_timeouts(service: &Running, target: Target) {
    for applied in [true, false] {
        let rule = Rule::write_timeout(applied)
            .table(OUTBOX)
            .share_percent(5)
            .seed(u64::from(applied));
        service.sandbox.faults().add(rule).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let plan = Plan {
        events: 400,
        rate: Some(400),
        writers: 8,
        orders: 16,
        events_per_order: 6,
        payload_bytes: 300,
        large: None,
        journal: journal.clone(),
    };
    let summary = load::run(plan, target, CancellationToken::new(), |_| ())
        .await
        .unwrap();
    service.sandbox.faults().clear();

    let mut reader = JournalReader::new(&journal);
    reader.poll().unwrap();
    assert_eq!(reader.ended(), Some(summary.totals));
    let count = |outcome| {
        reader
            .entries()
            .iter()
            .filter(|entry| entry.outcome == outcome)
            .count() as u64
    };
    assert_eq!(
        (count(Outcome::Committed), count(Outcome::Unknown)),
        (summary.totals.committed, summary.totals.unknown)
    );
    let looked_up = reader
        .entries()
        .iter()
        .filter(|entry| entry.outcome == Outcome::Committed && entry.committed_us.is_none());
    assert!(
        looked_up.count() > 0,
        "some applied writes were not answered: {summary:?}"
    );
    assert!(
        summary.totals.unknown > 0,
        "some writes were not applied: {summary:?}"
    );
    assert_eq!(
        service.count("outbox_messages").await as u64,
        summary.totals.committed,
        "{summary:?}"
    );
    assert_eq!(summary.totals.offered, 400, "{summary:?}");
    check_contents(service, reader.into_journal()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_load_through_the_service_is_what_is_in_the_outbox() {
    let service = Running::ordered().await;
    let target = Target::service(&service.url, Some((service.connect().await, "orders_ks")))
        .await
        .unwrap();
    check_journal_under_timeouts(&service, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_a_direct_load_is_what_is_in_the_plain_outbox() {
    let service = Running::start(include_str!("../schema-plain.cql")).await;
    let target = Target::direct(service.connect().await, "orders_ks")
        .await
        .unwrap();
    check_journal_under_timeouts(&service, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_neither_stretches_the_schedule_nor_hides_in_the_latencies() {
    let service = Running::ordered().await;
    let target = Target::direct(service.connect().await, "orders_ks")
        .await
        .unwrap();
    service
        .sandbox
        .faults()
        .add(Rule::slow(Duration::from_millis(500)).times(20))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        events: 200,
        rate: Some(100),
        writers: 10,
        orders: 10,
        events_per_order: 6,
        payload_bytes: 300,
        large: None,
        journal: folder.path().join("journal"),
    };
    let summary = load::run(plan, target, CancellationToken::new(), |_| ())
        .await
        .unwrap();
    assert_eq!(summary.totals.committed, 200, "{summary:?}");
    // Ten writers, each held up twice for half a second: what was due meanwhile counts from when it was due.
    let delayed = summary.latency.len() - summary.latency.count_between(0, 100_000);
    assert!(delayed >= 40, "{delayed} writes were late");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_from_their_table() {
    let service = Running::ordered().await;
    let table = "orders_ks.dead_letter_queue";
    for slot in [3, 3, 40] {
        let insert = format!(
            "INSERT INTO {table} (identity, slot, source_time, source_stream, source_seq, id) \
             VALUES ('demo.orders', {slot}, now(), 0x00, 0, {})",
            Uuid::from_u128(slot)
        );
        service.session.query_unpaged(insert, ()).await.unwrap();
    }
    let dead_letters = DeadLetters {
        table: Some((service.connect().await, table.to_owned())),
        topic: None,
    };
    let mut ids = dead_letters.event_ids().await.unwrap();
    ids.sort();
    assert_eq!(ids, [3, 3, 40].map(Uuid::from_u128));

    let missing = DeadLetters {
        table: Some((service.connect().await, "orders_ks.gone".to_owned())),
        topic: None,
    };
    let error = missing.event_ids().await.unwrap_err().to_string();
    assert!(error.contains("orders_ks.gone"), "{error}");
}
