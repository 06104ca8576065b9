//! Where a reader of logs is watched: a keyspace with a table `t` that has CDC, and a session that uses it.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::query_result::QueryResult;
use scylla::value::Row;

use crate::reader::Reading;
use crate::row::{self, LogRow};

pub(crate) struct Scene {
    pub(crate) session: Arc<Session>,
    pub(crate) keyspace: &'static str,
}

impl Scene {
    /// Runs `schema` in an empty keyspace of the node at `address`; one of its statements makes the table.
    pub(crate) async fn new(address: &str, keyspace: &'static str, tablets: bool, schema: &[&str]) -> Self {
        let mut builder = SessionBuilder::new().known_node(address);
        if let Ok(user) = std::env::var("SCYLLA_USER") {
            builder = builder.user(user, std::env::var("SCYLLA_PASSWORD").unwrap_or_default());
        }
        let scene = Self {
            session: Arc::new(builder.build().await.expect("a session")),
            keyspace,
        };
        scene
            .execute(&format!("DROP KEYSPACE IF EXISTS {keyspace}"))
            .await;
        scene
            .execute(&format!(
                "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', \
                 'replication_factor': 1}} AND tablets = {{'enabled': {tablets}}}"
            ))
            .await;
        scene
            .session
            .use_keyspace(keyspace, false)
            .await
            .expect("the keyspace is used");
        for statement in schema {
            scene.execute(statement).await;
        }
        scene
    }

    pub(crate) async fn execute(&self, text: &str) {
        self.session
            .query_unpaged(text, ())
            .await
            .unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// `scylla_cdc`'s reader at work from `start` (since the Unix epoch).
    pub(crate) async fn read_from(&self, start: Duration) -> Reading {
        Reading::start(&self.session, self.keyspace, start)
            .await
            .expect("the reader starts")
    }

    /// What a scan of the log finds.
    pub(crate) async fn whole_log(&self) -> Vec<LogRow> {
        let result = self
            .session
            .query_unpaged("SELECT * FROM t_scylla_cdc_log", ())
            .await
            .expect("the log is read");
        rows_of(result)
    }
}

/// The rows of an answer by column.
pub(crate) fn rows_of(result: QueryResult) -> Vec<LogRow> {
    let result = result.into_rows_result().expect("rows");
    let columns: Vec<_> = result
        .column_specs()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    let rows = result.rows::<Row>().expect("untyped rows");
    row::rows(&columns, rows.map(|row| row.expect("a row")).collect())
}
