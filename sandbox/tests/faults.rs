//! Fault rules as a client meets them, by the Rust API and by the admin HTTP API.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use sandbox::Sandbox;
use sandbox::fault::rule::{ErrorName, Rule};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError, WriteType};
use scylla::policies::retry::FallthroughRetryPolicy;
use serde_json::{Value, json};
use std::sync::Arc;

const LOG: &str = "SELECT v, \"cdc$time\" FROM ks.t_scylla_cdc_log";

/// A cluster with a CDC table, and a session that takes every answer as it comes.
async fn with_cdc_table() -> (Sandbox, Session) {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let profile = ExecutionProfile::builder()
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .request_timeout(Some(Duration::from_millis(1_500)))
        .build();
    let session = SessionBuilder::new()
        .known_node_addr(sandbox.addr())
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await
        .unwrap();
    for statement in [
        "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE ks.t (pk int PRIMARY KEY, v text) WITH cdc = {'enabled': true}",
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    (sandbox, session)
}

async fn insert(session: &Session, pk: i32, v: &str) -> Result<(), ExecutionError> {
    let text = format!("INSERT INTO ks.t (pk, v) VALUES ({pk}, '{v}')");
    session.query_unpaged(text, ()).await.map(drop)
}

async fn count(session: &Session, text: &str) -> usize {
    let found = session.query_unpaged(text, ()).await.unwrap();
    found.into_rows_result().unwrap().rows_num()
}

fn db_error(error: ExecutionError) -> DbError {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => error,
        other => panic!("not an answer of the node: {other:?}"),
    }
}

#[tokio::test]
async fn writes_that_time_out_may_be_applied_or_not() {
    let (sandbox, session) = with_cdc_table().await;
    for (pk, applied) in [(1, true), (2, false)] {
        let rule = sandbox
            .faults()
            .add(Rule::write_timeout(applied).table("ks.t").times(1))
            .unwrap();
        let error = db_error(insert(&session, pk, "x").await.unwrap_err());
        let DbError::WriteTimeout { write_type, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(write_type, WriteType::Simple);
        let row = format!("SELECT v FROM ks.t WHERE pk = {pk}");
        assert_eq!(count(&session, &row).await, usize::from(applied));
        insert(&session, 3, "the rule is used up").await.unwrap();
        assert_eq!(sandbox.faults().remove(rule).unwrap().hits, 1);
    }
}

#[tokio::test]
async fn log_rows_come_late() {
    const DELAY: Duration = Duration::from_millis(400);
    let (sandbox, session) = with_cdc_table().await;
    let rule = Rule::late_log_rows(DELAY).table("ks.t").contains("late one");
    sandbox.faults().add(rule).unwrap();
    let started = Instant::now();
    insert(&session, 1, "the late one").await.unwrap();
    insert(&session, 2, "another").await.unwrap();
    assert_eq!(count(&session, "SELECT * FROM ks.t").await, 2);
    assert_eq!(
        count(&session, LOG).await,
        1,
        "only the other log row is visible yet"
    );
    while count(&session, LOG).await < 2 {
        assert!(started.elapsed() < DELAY * 20, "the late row never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(started.elapsed() >= DELAY);
}

#[tokio::test]
async fn log_rows_land_at_an_old_time() {
    let (sandbox, session) = with_cdc_table().await;
    insert(&session, 1, "now").await.unwrap();
    sandbox
        .faults()
        .add(Rule::old_log_time(Duration::from_secs(60)))
        .unwrap();
    insert(&session, 2, "long ago").await.unwrap();
    let text = "SELECT v, toUnixTimestamp(\"cdc$time\") FROM ks.t_scylla_cdc_log";
    let found = session
        .query_unpaged(text, ())
        .await
        .unwrap()
        .into_rows_result()
        .unwrap();
    let mut found: Vec<(String, i64)> = found.rows().unwrap().map(Result::unwrap).collect();
    found.sort_by_key(|(_, time)| *time);
    assert_eq!((found[0].0.as_str(), found[1].0.as_str()), ("long ago", "now"));
    let apart = found[1].1 - found[0].1;
    assert!((55_000..=60_000).contains(&apart), "{apart} ms apart");
}

#[tokio::test]
async fn reads_miss_rows() {
    let (sandbox, session) = with_cdc_table().await;
    for pk in 0..200 {
        insert(&session, pk, "x").await.unwrap();
    }
    let rule = Rule::missing_rows()
        .table("ks.t_scylla_cdc_log")
        .share_percent(30)
        .seed(1);
    let id = sandbox.faults().add(rule).unwrap();
    let (first, second) = (count(&session, LOG).await, count(&session, LOG).await);
    assert!(
        (100..180).contains(&first) && (100..180).contains(&second),
        "{first}, {second} of 200"
    );
    assert_eq!(
        count(&session, "SELECT * FROM ks.t").await,
        200,
        "the base table is not meant"
    );
    let hits = sandbox.faults().remove(id).unwrap().hits;
    assert_eq!(hits as usize, 400 - first - second);
    assert_eq!(count(&session, LOG).await, 200);
}

#[tokio::test]
async fn requests_are_slow_refused_unanswered_or_cut_off() {
    let (sandbox, session) = with_cdc_table().await;
    let faults = sandbox.faults();
    faults
        .add(Rule::slow(Duration::from_millis(300)).statement("insert into ks.t*slow"))
        .unwrap();
    faults
        .add(Rule::error(ErrorName::Overloaded).statement("'refused'").times(1))
        .unwrap();
    faults.add(Rule::no_answer().statement("'unanswered'")).unwrap();
    faults.add(Rule::disconnect().statement("'cut off'")).unwrap();

    let started = Instant::now();
    let ((slow, slow_took), (quick, quick_took)) = tokio::join!(
        async { (insert(&session, 1, "slow").await, started.elapsed()) },
        async { (insert(&session, 2, "quick").await, started.elapsed()) },
    );
    slow.unwrap();
    quick.unwrap();
    assert!(slow_took >= Duration::from_millis(300), "{slow_took:?}");
    assert!(quick_took < slow_took, "a slow request holds up no other");

    let refused = insert(&session, 3, "refused").await.unwrap_err();
    assert_eq!(db_error(refused), DbError::Overloaded);
    insert(&session, 3, "refused").await.unwrap();
    let unanswered = insert(&session, 4, "unanswered").await.unwrap_err();
    assert!(
        matches!(unanswered, ExecutionError::RequestTimeout(_)),
        "{unanswered:?}"
    );
    let cut_off = insert(&session, 5, "cut off").await.unwrap_err();
    let broken = matches!(
        cut_off,
        ExecutionError::LastAttemptError(RequestAttemptError::BrokenConnectionError(_))
    );
    assert!(broken, "{cut_off:?}");
    let other = SessionBuilder::new()
        .known_node_addr(sandbox.addr())
        .build()
        .await
        .unwrap();
    assert_eq!(count(&other, "SELECT * FROM ks.t").await, 3);
}

#[tokio::test]
async fn rules_by_http() {
    let (sandbox, session) = with_cdc_table().await;
    let url = |path: &str| format!("http://{}{path}", sandbox.admin_addr());
    let http = reqwest::Client::new();
    let call = async |method: &str, path: &str, body: Value| -> (u16, Value) {
        let request = http.request(method.parse().unwrap(), url(path)).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    let rule = json!({ "kind": "error", "error": "Unavailable", "statement": "insert", "times": 1 });
    let (status, added) = call("POST", "/faults", rule).await;
    assert_eq!(
        (status, &added["id"], &added["hits"]),
        (201, &json!(1), &json!(0))
    );
    let error = db_error(insert(&session, 1, "x").await.unwrap_err());
    assert!(matches!(error, DbError::Unavailable { .. }), "{error:?}");
    let (_, listed) = call("GET", "/faults", json!({})).await;
    assert_eq!(listed["rules"][0]["hits"], 1);
    assert_eq!(call("DELETE", "/faults/1", json!({})).await.0, 200);
    assert_eq!(call("DELETE", "/faults/1", json!({})).await.0, 404);

    let (status, refused) = call("POST", "/faults", json!({ "kind": "slow", "node": 7 })).await;
    assert_eq!(status, 400);
    assert_eq!(refused["problems"][0]["field"], "delay_milliseconds");
    let (status, refused) = call("POST", "/faults", json!({ "kind": "no_answer", "node": 7 })).await;
    assert_eq!(
        (status, &refused["problems"][0]["accepted"]),
        (400, &json!("a node from 0 to 0"))
    );
    assert_eq!(call("POST", "/faults", json!("x")).await.0, 400);
    assert_eq!(call("GET", "/elsewhere", json!({})).await.0, 404);
    assert_eq!(call("POST", "/nodes/x/stop", json!({})).await.0, 400);
}

#[tokio::test]
async fn streams_switch_by_http() {
    let (sandbox, session) = with_cdc_table().await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", sandbox.admin_addr());
    let generations =
        "SELECT time FROM system_distributed.cdc_generation_timestamps WHERE key = 'timestamps'";
    assert_eq!(count(&session, generations).await, 1);
    let switch = json!({ "start_milliseconds": 200, "publish_milliseconds": 400 });
    let answer = http
        .post(url("/cdc/generations"))
        .json(&switch)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    assert_eq!(count(&session, generations).await, 1, "not published yet");
    let started = Instant::now();
    while count(&session, generations).await < 2 {
        assert!(started.elapsed() < Duration::from_secs(10), "never published");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    insert(&session, 1, "x").await.unwrap();
    assert_eq!(count(&session, LOG).await, 1);
}

#[tokio::test]
async fn tablets_split_and_merge_by_http() {
    let (sandbox, session) = with_cdc_table().await;
    for statement in [
        "CREATE KEYSPACE tab WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} \
         AND tablets = {'enabled': true}",
        "CREATE TABLE tab.t (pk int PRIMARY KEY) WITH cdc = {'enabled': true}",
    ] {
        session.query_unpaged(statement, ()).await.unwrap();
    }
    let http = reqwest::Client::new();
    let call = async |table: &str, body: Value| -> (u16, Value) {
        let url = format!("http://{}/cdc/tablets/{table}", sandbox.admin_addr());
        let answer = http.post(url).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    let current = async || {
        let text =
            "SELECT timestamp FROM system.cdc_timestamps WHERE keyspace_name = 'tab' AND table_name = 't'";
        count(&session, text).await
    };
    assert_eq!(current().await, 1);
    for (change, streams) in [("split", 4), ("split", 8), ("merge", 4)] {
        let (status, set) = call("tab/t", json!({ "change": change })).await;
        assert_eq!((status, &set["streams"]), (201, &json!(streams)), "{change}");
    }
    assert_eq!(current().await, 4);
    let later = json!({ "change": "merge", "publish_milliseconds": 60_000 });
    assert_eq!(call("tab/t", later).await.0, 201);
    assert_eq!(current().await, 4, "not published yet");

    let (status, refused) = call("tab/t", json!({ "change": "melt" })).await;
    assert_eq!(
        (status, &refused["problems"][0]["accepted"]),
        (400, &json!("split, merge"))
    );
    // Of a keyspace without tablets, and none at all.
    assert_eq!(call("ks/t", json!({ "change": "split" })).await.0, 409);
    assert_eq!(call("tab/missing", json!({ "change": "split" })).await.0, 409);
}
