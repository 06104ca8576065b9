//! The Rust driver, as it is, against a sandbox or the node that `SCYLLA_CONTACT_POINT` names.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "driver/sandbox_only.rs"]
mod sandbox_only;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sandbox::Sandbox;
use scylla::client::Compression;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::statement::Statement;
use scylla::statement::batch::{Batch, BatchType};
use scylla::value::{CqlValue, Row};

const TABLE: &str = "CREATE TABLE t (pk int, ck int, v text, PRIMARY KEY (pk, ck))";

struct Node {
    address: String,
    session: Session,
    /// None: a real node.
    _sandbox: Option<Sandbox>,
}

/// A node with table `t` in an empty keyspace of that name, in use.
async fn with_table(keyspace: &str) -> Node {
    let (address, sandbox) = match std::env::var("SCYLLA_CONTACT_POINT") {
        Ok(address) => (address, None),
        Err(_) => {
            let sandbox = Sandbox::builder().start().await.unwrap();
            (sandbox.addr().to_string(), Some(sandbox))
        }
    };
    let session = connect(&address).build().await.unwrap();
    make_table(&session, keyspace).await;
    Node {
        address,
        session,
        _sandbox: sandbox,
    }
}

fn connect(address: &str) -> SessionBuilder {
    let builder = SessionBuilder::new().known_node(address);
    match std::env::var("SCYLLA_USER") {
        Ok(user) => builder.user(user, std::env::var("SCYLLA_PASSWORD").unwrap_or_default()),
        Err(_) => builder,
    }
}

async fn make_table(session: &Session, keyspace: &str) {
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";
    for text in [
        format!("DROP KEYSPACE IF EXISTS {keyspace}"),
        // Without tablets, for older ScyllaDB refuses conditional writes on them.
        format!(
            "CREATE KEYSPACE {keyspace} WITH replication = {replication} AND tablets = {{'enabled': false}}"
        ),
    ] {
        session.query_unpaged(text, ()).await.unwrap();
    }
    session.use_keyspace(keyspace, false).await.unwrap();
    session.query_unpaged(TABLE, ()).await.unwrap();
}

fn rows(result: QueryResult) -> Vec<Row> {
    let rows = result.into_rows_result().unwrap();
    rows.rows::<Row>().unwrap().map(Result::unwrap).collect()
}

fn db_error(error: ExecutionError) -> DbError {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => error,
        other => panic!("not an answer of the node: {other:?}"),
    }
}

#[tokio::test]
async fn tables_writes_and_reads() {
    let node = with_table("driver_tables").await;
    let session = &node.session;
    let insert = session
        .prepare("INSERT INTO t (pk, ck, v) VALUES (?, ?, ?)")
        .await
        .unwrap();
    assert!(insert.is_token_aware());
    session.execute_unpaged(&insert, (1, 2, "two")).await.unwrap();
    session
        .execute_unpaged(&insert, (1, 1, None::<&str>))
        .await
        .unwrap();
    let found = session
        .query_unpaged("SELECT ck, v FROM t WHERE pk = ?", (1,))
        .await
        .unwrap();
    let found = found.into_rows_result().unwrap();
    let found: Vec<(i32, Option<String>)> = found.rows().unwrap().map(Result::unwrap).collect();
    assert_eq!(found, [(1, None), (2, Some("two".to_owned()))]);
    assert_eq!(
        rows(session.query_unpaged("SELECT * FROM t", ()).await.unwrap()).len(),
        2
    );
    let state = session.get_cluster_state();
    assert!(
        state
            .get_keyspace("driver_tables")
            .unwrap()
            .tables
            .contains_key("t")
    );
}

#[tokio::test]
async fn errors_arrive_as_what_they_are() {
    let node = with_table("driver_errors").await;
    let session = &node.session;
    let error = async |text: &str| db_error(session.query_unpaged(text, ()).await.unwrap_err());
    assert_eq!(error("SELEC * FROM t").await, DbError::SyntaxError);
    assert_eq!(error("SELECT * FROM missing").await, DbError::Invalid);
    let exists = DbError::AlreadyExists {
        keyspace: "driver_errors".into(),
        table: "t".into(),
    };
    assert_eq!(error(TABLE).await, exists);
}

#[tokio::test]
async fn pages_give_every_row_once() {
    const ROWS: i32 = 2_345;
    let node = with_table("driver_pages").await;
    let session = Arc::new(node.session);
    let insert = session
        .prepare("INSERT INTO t (pk, ck, v) VALUES (?, ?, ?)")
        .await
        .unwrap();
    stream::iter(0..ROWS)
        .map(Ok)
        .try_for_each_concurrent(200, |i| {
            let (session, insert) = (session.clone(), insert.clone());
            async move { session.execute_unpaged(&insert, (i % 7, i, "x")).await.map(drop) }
        })
        .await
        .unwrap();
    let all = session.query_unpaged("SELECT pk, ck FROM t", ()).await.unwrap();
    assert_eq!(rows(all).len(), ROWS as usize);
    for page_size in [1_000, 100, 7] {
        let statement = Statement::new("SELECT ck FROM t").with_page_size(page_size);
        let pager = session.query_iter(statement, ()).await.unwrap();
        let mut found: Vec<i32> = pager
            .rows_stream::<(i32,)>()
            .unwrap()
            .map_ok(|(ck,)| ck)
            .try_collect()
            .await
            .unwrap();
        found.sort_unstable();
        assert_eq!(found, (0..ROWS).collect::<Vec<_>>(), "pages of {page_size}");
    }
}

#[tokio::test]
async fn batches_mix_text_and_prepared_statements() {
    let node = with_table("driver_batches").await;
    let session = &node.session;
    let insert = session
        .prepare("INSERT INTO t (pk, ck, v) VALUES (?, ?, ?)")
        .await
        .unwrap();
    for kind in [BatchType::Logged, BatchType::Unlogged] {
        let mut batch = Batch::new(kind);
        batch.append_statement(insert.clone());
        batch.append_statement("INSERT INTO t (pk, ck) VALUES (1, 11)");
        batch.append_statement(insert.clone());
        batch.append_statement("DELETE FROM t WHERE pk = ? AND ck = ?");
        let values = ((1, 10, "a"), (), (2, 20, "b"), (3, 30));
        session.batch(&batch, values).await.unwrap();
    }
    assert_eq!(
        rows(session.query_unpaged("SELECT * FROM t", ()).await.unwrap()).len(),
        3
    );
}

#[tokio::test]
async fn conditional_writes_say_whether_they_were_applied() {
    let node = with_table("driver_conditions").await;
    let session = &node.session;
    let insert = "INSERT INTO t (pk, ck, v) VALUES (1, 1, 'first') IF NOT EXISTS";
    let applied = rows(session.query_unpaged(insert, ()).await.unwrap());
    assert_eq!(applied[0].columns[0], Some(CqlValue::Boolean(true)));
    let refused = rows(session.query_unpaged(insert, ()).await.unwrap());
    assert_eq!(refused[0].columns[0], Some(CqlValue::Boolean(false)));
    assert_eq!(refused[0].columns[3], Some(CqlValue::Text("first".into())));
    let update = session
        .prepare("UPDATE t SET v = ? WHERE pk = 1 AND ck = 1 IF v = ?")
        .await
        .unwrap();
    let found = rows(
        session
            .execute_unpaged(&update, ("second", "first"))
            .await
            .unwrap(),
    );
    assert_eq!(found[0].columns[0], Some(CqlValue::Boolean(true)));
}

#[tokio::test]
async fn compressed_bodies_are_understood_both_ways() {
    let node = with_table("driver_compression").await;
    let builder = connect(&node.address).compression(Some(Compression::Lz4));
    let session = builder.build().await.unwrap();
    session.use_keyspace("driver_compression", false).await.unwrap();
    let long = "outbox ".repeat(20_000);
    let insert = session
        .prepare("INSERT INTO t (pk, ck, v) VALUES (1, 1, ?)")
        .await
        .unwrap();
    session.execute_unpaged(&insert, (&long,)).await.unwrap();
    for reader in [&session, &node.session] {
        let found = reader.query_unpaged("SELECT v FROM t", ()).await.unwrap();
        let found = found.into_rows_result().unwrap();
        assert_eq!(found.single_row::<(String,)>().unwrap().0, long);
    }
}
