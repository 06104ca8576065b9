//! What CQL statements mean: tables of statements and answers, asked for through the Rust driver.
//!
//! Rows are written `a | b`, one string each; errors as code and the beginning of Cassandra's or ScyllaDB's text. Of the
//! node that `SCYLLA_CONTACT_POINT` names only the code is asked: texts change from release to release.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of a test fail it

#[path = "cdc/node.rs"]
mod node;

use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::Statement;
use scylla::value::{CqlValue, Row};

enum Answer {
    /// No rows, no error.
    Done,
    Rows(&'static [&'static str]),
    Error(i32, &'static str),
}

use Answer::{Done, Error, Rows as Are};

struct Node(node::Node);

const INVALID: i32 = 0x2200;
const FILTERING: &str = "Cannot execute this query as it might involve data filtering";

impl Node {
    async fn new(keyspace: &str, setup: &[&str]) -> Self {
        let node = Self(node::Node::start().await);
        node.0.use_keyspace(keyspace, false).await;
        for text in setup {
            node.run(text)
                .await
                .unwrap_or_else(|(code, error)| panic!("{text}: {code:#06x} {error}"));
        }
        node
    }

    async fn run(&self, text: &str) -> Result<QueryResult, (i32, String)> {
        let answer = self.0.session.query_unpaged(text, ()).await;
        answer.map_err(|error| match error {
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, text)) => (code(&kind), text),
            other => panic!("{text}: not an answer of the node: {other}"),
        })
    }

    async fn check(&self, cases: &[(&str, Answer)]) {
        let texts_count = std::env::var_os("SCYLLA_CONTACT_POINT").is_none();
        for (text, expected) in cases {
            match (self.run(text).await, expected) {
                (Ok(rows), Are(expected)) => assert_eq!(lines(rows), *expected, "{text}"),
                (Ok(nothing), Done) => assert!(!nothing.is_rows(), "{text}"),
                (Err((code, error)), Error(expected, message)) => {
                    assert_eq!(code, *expected, "{text}: {error}");
                    assert!(
                        !texts_count || error.starts_with(message),
                        "{text}\n  {error}\n  {message}"
                    );
                }
                (answer, _) => panic!("{text}: {answer:?}"),
            }
        }
    }
}

fn code(error: &DbError) -> i32 {
    match error {
        DbError::Other(code) => *code,
        known => known.code(&Default::default()),
    }
}

fn lines(result: QueryResult) -> Vec<String> {
    let rows = result.into_rows_result().unwrap();
    let rows = rows.rows::<Row>().unwrap();
    let line = |row: Row| joined(row.columns.iter().map(|value| literal(value.as_ref())), " | ");
    rows.map(|row| line(row.unwrap())).collect()
}

/// A value as it is written in CQL.
fn literal(value: Option<&CqlValue>) -> String {
    let Some(value) = value else {
        return "null".to_owned();
    };
    let all = |items: &[CqlValue]| joined(items.iter().map(|item| literal(Some(item))), ", ");
    match value {
        CqlValue::Boolean(value) => value.to_string(),
        CqlValue::Int(value) => value.to_string(),
        CqlValue::BigInt(value) => value.to_string(),
        CqlValue::Counter(value) => value.0.to_string(),
        CqlValue::Text(text) => format!("'{}'", text.replace('\'', "''")),
        CqlValue::List(items) => format!("[{}]", all(items)),
        CqlValue::Set(items) => format!("{{{}}}", all(items)),
        CqlValue::Map(pairs) => {
            let pair = |(key, item): &(CqlValue, CqlValue)| {
                format!("{}: {}", literal(Some(key)), literal(Some(item)))
            };
            format!("{{{}}}", joined(pairs.iter().map(pair), ", "))
        }
        CqlValue::UserDefinedType { fields, .. } => {
            let field =
                |(name, item): &(String, Option<CqlValue>)| format!("{name}: {}", literal(item.as_ref()));
            format!("{{{}}}", joined(fields.iter().map(field), ", "))
        }
        other => panic!("no case uses values like {other:?}"),
    }
}

fn joined(texts: impl Iterator<Item = String>, between: &str) -> String {
    texts.collect::<Vec<_>>().join(between)
}

const TABLE: &str = "CREATE TABLE t (p int, a int, b int, v int, s int static, PRIMARY KEY (p, a, b))";

async fn filled(keyspace: &str) -> Node {
    Node::new(
        keyspace,
        &[
            TABLE,
            "INSERT INTO t (p, a, b, v, s) VALUES (1, 1, 1, 11, 7)",
            "INSERT INTO t (p, a, b, v) VALUES (1, 1, 2, 12)",
            "INSERT INTO t (p, a, b, v) VALUES (1, 2, 1, 21)",
            "INSERT INTO t (p, a, b) VALUES (1, 3, 1)",
            "INSERT INTO t (p, s) VALUES (2, 9)",
        ],
    )
    .await
}

#[tokio::test]
async fn restrictions() {
    filled("semantics_where")
        .await
        .check(&[
            (
                "SELECT a, b, v FROM t WHERE p = 1 AND a = 1",
                Are(&["1 | 1 | 11", "1 | 2 | 12"]),
            ),
            ("SELECT v FROM t WHERE p = 1 AND a = 1 AND b > 1", Are(&["12"])),
            (
                "SELECT a, b FROM t WHERE p = 1 AND (a, b) > (1, 1) AND (a, b) <= (2, 1)",
                Are(&["1 | 2", "2 | 1"]),
            ),
            (
                "SELECT a, b FROM t WHERE p = 1 AND (a, b) IN ((2, 1), (1, 1), (1, 1))",
                Are(&["1 | 1", "2 | 1"]),
            ),
            ("SELECT a FROM t WHERE p = 1 AND a IN (3, 2, 3)", Are(&["2", "3"])),
            ("SELECT a FROM t WHERE p IN ()", Are(&[])),
            ("SELECT a FROM t WHERE p = 1 AND a > 5 AND a < 2", Are(&[])),
            ("SELECT a FROM t WHERE a = 2", Error(INVALID, FILTERING)),
            ("SELECT a FROM t WHERE a = 2 ALLOW FILTERING", Are(&["2"])),
            ("SELECT a FROM t WHERE v = 21", Error(INVALID, FILTERING)),
            (
                "SELECT a FROM t WHERE p = 1 AND v >= 12 ALLOW FILTERING",
                Are(&["1", "2"]),
            ),
            ("SELECT a FROM t WHERE p = 1 AND b = 1", Error(INVALID, FILTERING)),
            (
                "SELECT a FROM t WHERE p = 1 AND b = 1 ALLOW FILTERING",
                Are(&["1", "2", "3"]),
            ),
            (
                "SELECT a FROM t WHERE p = 1 AND p = 1",
                Error(
                    INVALID,
                    "p cannot be restricted by more than one relation if it includes an Equal",
                ),
            ),
            (
                "SELECT a FROM t WHERE token(p) = token(1) AND p = 1",
                Error(INVALID, "Columns"),
            ),
            ("SELECT a FROM t WHERE p = 'x'", Error(INVALID, "Invalid")),
            ("SELECT a FROM t WHERE q = 1", Error(INVALID, "")),
        ])
        .await;
}

#[tokio::test]
async fn order_limits_and_groups() {
    filled("semantics_order")
        .await
        .check(&[
            (
                "SELECT a, b FROM t WHERE p = 1 ORDER BY a DESC, b DESC LIMIT 2",
                Are(&["3 | 1", "2 | 1"]),
            ),
            (
                "SELECT b FROM t WHERE p = 1 AND a = 1 ORDER BY b DESC",
                Are(&["2", "1"]),
            ),
            (
                "SELECT a FROM t ORDER BY a",
                Error(
                    INVALID,
                    "ORDER BY is only supported when the partition key is restricted by an EQ or an IN.",
                ),
            ),
            (
                "SELECT a FROM t WHERE p = 1 ORDER BY v",
                Error(INVALID, "Order by"),
            ),
            (
                "SELECT a FROM t WHERE p = 1 ORDER BY a DESC, b ASC",
                Error(INVALID, "Unsupported order by relation"),
            ),
            (
                "SELECT a FROM t WHERE p = 1 LIMIT 0",
                Error(INVALID, "LIMIT must be strictly positive"),
            ),
            (
                "SELECT p, a FROM t PER PARTITION LIMIT 1",
                Are(&["1 | 1", "2 | null"]),
            ),
            ("SELECT DISTINCT p, s FROM t", Are(&["1 | 7", "2 | 9"])),
            (
                "SELECT DISTINCT a FROM t",
                Error(
                    INVALID,
                    "SELECT DISTINCT queries must only request partition key columns",
                ),
            ),
            (
                "SELECT a, count(*), max(v) FROM t WHERE p = 1 GROUP BY a",
                Are(&["1 | 2 | 12", "2 | 1 | 21", "3 | 1 | null"]),
            ),
            (
                "SELECT a FROM t WHERE p = 1 GROUP BY v",
                Error(INVALID, "Group by"),
            ),
            (
                "SELECT count(*), min(v), sum(v), avg(v), count(v) FROM t WHERE p = 1",
                Are(&["4 | 11 | 44 | 14 | 3"]),
            ),
            (
                "SELECT count(*), min(v), sum(v) FROM t WHERE p = 77",
                Are(&["0 | null | 0"]),
            ),
        ])
        .await;
}

/// The limit of a partition holds across pages, also where a page ends with the partition's last allowed row.
#[tokio::test]
async fn pages_keep_the_limit_of_a_partition() {
    let node = filled("semantics_pages").await;
    for text in [
        "SELECT a, b FROM t PER PARTITION LIMIT 2",
        "SELECT a, b FROM t PER PARTITION LIMIT 3",
    ] {
        let whole = lines(node.run(text).await.unwrap());
        for page_size in 1..4 {
            let statement = Statement::new(text).with_page_size(page_size);
            let (mut found, mut state) = (Vec::new(), PagingState::start());
            loop {
                let page = node
                    .0
                    .session
                    .query_single_page(statement.clone(), (), state)
                    .await;
                let (page, next) = page.unwrap();
                found.extend(lines(page));
                match next {
                    PagingStateResponse::HasMorePages { state: next } => state = next,
                    PagingStateResponse::NoMorePages => break,
                }
            }
            assert_eq!(found, whole, "{text} in pages of {page_size}");
        }
    }
}

#[tokio::test]
async fn writes() {
    Node::new(
        "semantics_writes",
        &[TABLE, "CREATE TABLE c (p int PRIMARY KEY, n counter)"],
    )
    .await
    .check(&[
        (
            "INSERT INTO t (p, a) VALUES (1, 1)",
            Error(INVALID, "Some clustering keys are missing: b"),
        ),
        (
            "INSERT INTO t (a, b) VALUES (1, 1)",
            Error(INVALID, "Some partition key parts are missing: p"),
        ),
        (
            "INSERT INTO t (p, a, b) VALUES (1, 1)",
            Error(INVALID, "Unmatched column names/values"),
        ),
        (
            "INSERT INTO t (p, a, b, v) VALUES (1, 1, 1, 'x')",
            Error(INVALID, "Invalid STRING constant (x) for \"v\" of type int"),
        ),
        (
            "INSERT INTO t (p, a, b, v) VALUES (1, 1, 1, 99999999999)",
            Error(INVALID, "Unable to make int from '99999999999'"),
        ),
        (
            "UPDATE t SET v = 1 WHERE p = 1 AND a = 1",
            Error(INVALID, "Some clustering keys are missing: b"),
        ),
        (
            "UPDATE t SET a = 1 WHERE p = 1 AND a = 1 AND b = 1",
            Error(INVALID, "PRIMARY KEY part a found in SET part"),
        ),
        (
            "UPDATE t USING TTL -1 SET v = 1 WHERE p = 1 AND a = 1 AND b = 1",
            Error(INVALID, "A TTL must be greater or equal to 0, but was -1"),
        ),
        (
            "INSERT INTO t (p, a, b, v) VALUES (1, 1, 1, 5) USING TIMESTAMP 10",
            Done,
        ),
        (
            "INSERT INTO t (p, a, b, v) VALUES (1, 1, 1, 4) USING TIMESTAMP 9",
            Done,
        ),
        (
            "SELECT v, writetime(v), ttl(v) FROM t WHERE p = 1",
            Are(&["5 | 10 | null"]),
        ),
        (
            "DELETE FROM t USING TIMESTAMP 10 WHERE p = 1 AND a = 1 AND b = 1",
            Done,
        ),
        ("SELECT v FROM t WHERE p = 1", Are(&[])),
        ("UPDATE t SET v = 6 WHERE p = 1 AND a = 1 AND b = 1", Done),
        ("DELETE v FROM t WHERE p = 1 AND a = 1 AND b = 1", Done),
        ("SELECT a FROM t WHERE p = 1", Are(&[])),
        ("UPDATE c SET n = n + 2 WHERE p = 1", Done),
        ("UPDATE c SET n = n - 5 WHERE p = 1", Done),
        ("SELECT n FROM c", Are(&["-3"])),
        ("INSERT INTO c (p, n) VALUES (1, 1)", Error(INVALID, "")),
        ("UPDATE c SET n = 5 WHERE p = 1", Error(INVALID, "")),
    ])
    .await;
}

#[tokio::test]
async fn conditional_writes_answer_as_scylladb_does() {
    Node::new(
        "semantics_conditions",
        &["CREATE TABLE l (p int, c int, v int, PRIMARY KEY (p, c))"],
    )
    .await
    .check(&[
        (
            "INSERT INTO l (p, c, v) VALUES (1, 1, 1) IF NOT EXISTS",
            Are(&["true | null | null | null"]),
        ),
        (
            "INSERT INTO l (p, c, v) VALUES (1, 1, 2) IF NOT EXISTS",
            Are(&["false | 1 | 1 | 1"]),
        ),
        (
            "UPDATE l SET v = 3 WHERE p = 1 AND c = 1 IF v = 2",
            Are(&["false | 1"]),
        ),
        (
            "UPDATE l SET v = 3 WHERE p = 1 AND c = 1 IF v IN (1, 2)",
            Are(&["true | 1"]),
        ),
        (
            "UPDATE l SET v = 3 WHERE p = 1 AND c = 9 IF EXISTS",
            Are(&["false | null | null | null"]),
        ),
        ("DELETE FROM l WHERE p = 1 AND c = 1 IF v > 2", Are(&["true | 3"])),
        ("SELECT * FROM l", Are(&[])),
        (
            "UPDATE l USING TIMESTAMP 1 SET v = 3 WHERE p = 1 AND c = 1 IF EXISTS",
            Error(INVALID, "Cannot provide custom timestamp for conditional updates"),
        ),
        (
            "UPDATE l SET v = 3 WHERE p IN (1, 2) AND c = 1 IF EXISTS",
            Error(
                INVALID,
                "IN on the partition key is not supported with conditional updates",
            ),
        ),
        (
            "UPDATE l SET v = 3 WHERE p = 1 AND c = 1 IF c = 1",
            Error(INVALID, "PRIMARY KEY column 'c' cannot have IF conditions"),
        ),
    ])
    .await;
}

/// `test/cql/lwt_batch_test.result`: a row for each statement, shown if a condition had it read; static columns of rows
/// that are not there.
#[tokio::test]
async fn conditional_batches_answer_as_scylladb_does() {
    Node::new(
        "semantics_conditional_batches",
        &[
            "CREATE TABLE l (p int, c int, v int, PRIMARY KEY (p, c))",
            "INSERT INTO l (p, c, v) VALUES (1, 1, 1)",
            "CREATE TABLE s (p int, c int, v int, s int static, PRIMARY KEY (p, c))",
            "INSERT INTO s (p, s) VALUES (1, 7)",
        ],
    )
    .await
    .check(&[
        (
            "BEGIN BATCH UPDATE l SET v = 2 WHERE p = 1 AND c = 1 IF v = 1; UPDATE l SET v = 2 WHERE p = 1 AND c = 2; APPLY BATCH",
            Are(&["true | 1 | 1 | 1", "true | null | null | null"]),
        ),
        (
            "BEGIN BATCH UPDATE l SET v = 3 WHERE p = 1 AND c = 1 IF v = 9; UPDATE l SET v = 3 WHERE p = 1 AND c = 1; APPLY BATCH",
            Are(&["false | 1 | 1 | 2", "false | 1 | 1 | 2"]),
        ),
        (
            "BEGIN BATCH INSERT INTO s (p, c) VALUES (1, 1) IF NOT EXISTS; UPDATE s SET s = 8 WHERE p = 1 IF s = 7; APPLY BATCH",
            Are(&["true | null | null | null | null", "true | 1 | null | 7 | null"]),
        ),
        (
            "UPDATE s SET v = 1 WHERE p = 1 AND c = 5 IF v = null AND s = 8",
            Are(&["true | 8 | null"]),
        ),
        (
            "DELETE FROM s WHERE p = 1 AND c = 9 IF EXISTS",
            Are(&["false | null | null | null | null"]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn batches() {
    Node::new("semantics_batches", &[
        "CREATE TABLE l (p int, c int, v int, PRIMARY KEY (p, c))",
        "CREATE TABLE m (p int PRIMARY KEY, v int)",
        "CREATE TABLE n (p int PRIMARY KEY, n counter)",
    ])
    .await
    .check(&[
        ("BEGIN BATCH INSERT INTO l (p, c, v) VALUES (1, 1, 1); INSERT INTO m (p, v) VALUES (1, 2); APPLY BATCH", Done),
        ("SELECT v FROM l", Are(&["1"])),
        ("SELECT v FROM m", Are(&["2"])),
        ("BEGIN BATCH USING TIMESTAMP 5 INSERT INTO m (p, v) VALUES (1, 2) USING TIMESTAMP 6; APPLY BATCH", Error(INVALID, "Timestamp must be set either on BATCH or individual statements")),
        ("BEGIN BATCH UPDATE n SET n = n + 1 WHERE p = 1; APPLY BATCH", Error(INVALID, "Cannot include")),
        ("BEGIN COUNTER BATCH UPDATE n SET n = n + 1 WHERE p = 1; UPDATE n SET n = n + 1 WHERE p = 1; APPLY BATCH", Done),
        ("SELECT n FROM n", Are(&["2"])),
        ("BEGIN BATCH UPDATE m SET v = 3 WHERE p = 1 IF v = 2; INSERT INTO l (p, c, v) VALUES (1, 1, 9); APPLY BATCH", Error(INVALID, "Batch with conditions cannot span multiple tables")),
        ("BEGIN BATCH UPDATE m SET v = 3 WHERE p = 1 IF v = 2; UPDATE m SET v = 3 WHERE p = 2; APPLY BATCH", Error(INVALID, "Batch with conditions cannot span multiple partitions")),
        ("SELECT v FROM m", Are(&["2"])),
    ])
    .await;
}

#[tokio::test]
async fn collections_and_json() {
    Node::new("semantics_collections", &[
        "CREATE TYPE u (x int, y text)",
        "CREATE TABLE k (p int PRIMARY KEY, l list<int>, s set<text>, m map<text, int>, u u, f frozen<list<int>>)",
        "INSERT INTO k (p, l, s, m, u, f) VALUES (1, [3, 1], {'b', 'a', 'b'}, {'y': 2, 'x': 1}, {x: 1, y: 'q'}, [1])",
    ])
    .await
    .check(&[
        ("SELECT l, s, m, u, f FROM k", Are(&["[3, 1] | {'a', 'b'} | {'x': 1, 'y': 2} | {x: 1, y: 'q'} | [1]"])),
        ("UPDATE k SET l = l + [5], s = s - {'a'}, m['z'] = 3, u.y = 'r' WHERE p = 1", Done),
        ("SELECT l, s, m, u FROM k", Are(&["[3, 1, 5] | {'b'} | {'x': 1, 'y': 2, 'z': 3} | {x: 1, y: 'r'}"])),
        ("UPDATE k SET l[1] = 9, f = f + [2] WHERE p = 1", Error(INVALID, "")),
        ("UPDATE k SET l[1] = 9 WHERE p = 1", Done),
        ("DELETE l[0], m['x'] FROM k WHERE p = 1", Done),
        ("SELECT l, m FROM k", Are(&["[9, 5] | {'y': 2, 'z': 3}"])),
        ("SELECT u.x, m['y'] FROM k", Are(&["1 | 2"])),
        ("SELECT JSON p, s, u FROM k", Are(&["'{\"p\": 1, \"s\": [\"b\"], \"u\": {\"x\": 1, \"y\": \"r\"}}'"])),
        ("INSERT INTO k JSON '{\"p\": 2, \"l\": [1], \"u\": {\"x\": 5}}'", Done),
        ("SELECT l, u FROM k WHERE p = 2", Are(&["[1] | {x: 5, y: null}"])),
        ("INSERT INTO k JSON '{\"p\": 2, \"zz\": 1}'", Error(INVALID, "JSON values map contains unrecognized column: zz")),
    ])
    .await;
}

#[tokio::test]
async fn schema_errors() {
    Node::new("semantics_schema", &[TABLE])
        .await
        .check(&[
            ("CREATE TABLE t (p int PRIMARY KEY)", Error(0x2400, "")),
            ("CREATE TABLE IF NOT EXISTS t (p int PRIMARY KEY)", Done),
            (
                "CREATE KEYSPACE semantics_schema WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
                Error(0x2400, ""),
            ),
            ("CREATE TABLE x (p int)", Error(INVALID, "")),
            (
                "CREATE TABLE x (p int, p text, PRIMARY KEY (p))",
                Error(INVALID, ""),
            ),
            (
                "CREATE TABLE x (p int PRIMARY KEY, v nosuch)",
                Error(INVALID, "Unknown type semantics_schema.nosuch"),
            ),
            (
                "CREATE MATERIALIZED VIEW v AS SELECT * FROM t WHERE p IS NOT NULL PRIMARY KEY (p)",
                Error(INVALID, ""),
            ),
            ("DROP TABLE nosuch", Error(INVALID, "")),
            ("SELECT * FROM nosuch", Error(INVALID, "")),
            ("SELECT * FROM nosuch.t", Error(INVALID, "")),
            ("USE nosuch", Error(INVALID, "")),
            ("ALTER TABLE t DROP p", Error(INVALID, "")),
            ("ALTER TABLE t ADD v text", Error(INVALID, "")),
            ("SELECT nosuch(p) FROM t", Error(INVALID, "Unknown function")),
            (
                "SELEC",
                Error(0x2000, "line 1:0 no viable alternative at input 'SELEC'"),
            ),
        ])
        .await;
}

/// What the sandbox answers otherwise than ScyllaDB; README.md says so.
mod sandbox_only {
    use super::{Error, INVALID, filled};

    #[tokio::test]
    async fn a_comparison_with_null_is_refused() {
        let node = filled("semantics_null").await;
        let refused = Error(INVALID, "Invalid null value");
        node.check(&[("SELECT a FROM t WHERE p = null", refused)]).await;
    }
}
