//! What CQL statements mean, through parser and engine, without a network: tables of statements and answers.
//!
//! Rows are written `a | b`, one string each; errors as code and the beginning of Cassandra's or ScyllaDB's text.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of a test fail it

use std::sync::Arc;

use sandbox::query::api::{QueryParams, QueryResult, Rows, Session, Values};
use sandbox::query::engine::{Engine, EngineOptions};
use sandbox::types::display;

enum Answer {
    /// No rows, no error.
    Done,
    Rows(&'static [&'static str]),
    Error(i32, &'static str),
}

use Answer::{Done, Error, Rows as Are};

struct Node {
    engine: Arc<Engine>,
    session: Session,
}

const INVALID: i32 = 0x2200;
const FILTERING: &str = "Cannot execute this query as it might involve data filtering";

impl Node {
    fn new(setup: &[&str]) -> Self {
        let mut node = Self {
            engine: Engine::new(EngineOptions::default()),
            session: Session::default(),
        };
        node.run(
            "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        )
        .unwrap();
        node.run("USE ks").unwrap();
        for text in setup {
            node.run(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        node
    }

    fn run(&mut self, text: &str) -> Result<QueryResult, sandbox::error::CqlError> {
        self.engine.query(
            &mut self.session,
            text,
            &Values::default(),
            &QueryParams::default(),
        )
    }

    fn check(&mut self, cases: &[(&str, Answer)]) {
        for (text, expected) in cases {
            let answer = self.run(text);
            match (answer, expected) {
                (Ok(QueryResult::Rows(rows)), Are(expected)) => assert_eq!(lines(&rows), *expected, "{text}"),
                (Ok(QueryResult::Void | QueryResult::SchemaChange(_)), Done) => {}
                (Err(error), Error(code, message)) => {
                    assert_eq!(error.code(), *code, "{text}: {error}");
                    assert!(
                        error.message.starts_with(message),
                        "{text}\n  {error}\n  {message}"
                    );
                }
                (answer, _) => panic!("{text}: {answer:?}"),
            }
        }
    }
}

fn lines(rows: &Rows) -> Vec<String> {
    let print = |row: &Vec<Option<bytes::Bytes>>| {
        let values: Vec<_> = row
            .iter()
            .zip(&rows.metadata.columns)
            .map(|(value, column)| match value {
                Some(value) => display::literal(&column.ty, value).unwrap(),
                None => "null".to_owned(),
            })
            .collect();
        values.join(" | ")
    };
    rows.to_vec().iter().map(print).collect()
}

const TABLE: &str = "CREATE TABLE t (p int, a int, b int, v int, s int static, PRIMARY KEY (p, a, b))";

fn filled() -> Node {
    Node::new(&[
        TABLE,
        "INSERT INTO t (p, a, b, v, s) VALUES (1, 1, 1, 11, 7)",
        "INSERT INTO t (p, a, b, v) VALUES (1, 1, 2, 12)",
        "INSERT INTO t (p, a, b, v) VALUES (1, 2, 1, 21)",
        "INSERT INTO t (p, a, b) VALUES (1, 3, 1)",
        "INSERT INTO t (p, s) VALUES (2, 9)",
    ])
}

#[test]
fn restrictions() {
    filled().check(&[
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
        (
            "SELECT a FROM t WHERE p = null",
            Error(INVALID, "Invalid null value"),
        ),
    ]);
}

#[test]
fn order_limits_and_groups() {
    filled().check(&[
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
    ]);
}

/// The limit of a partition holds across pages, also where a page ends with the partition's last allowed row.
#[test]
fn pages_keep_the_limit_of_a_partition() {
    let mut node = filled();
    for text in [
        "SELECT a, b FROM t PER PARTITION LIMIT 2",
        "SELECT a, b FROM t PER PARTITION LIMIT 3",
    ] {
        let QueryResult::Rows(whole) = node.run(text).unwrap() else {
            panic!("{text}")
        };
        for page_size in 1..4 {
            let mut params = QueryParams {
                page_size: Some(page_size),
                ..QueryParams::default()
            };
            let mut found = Vec::new();
            loop {
                let answer = node
                    .engine
                    .query(&mut node.session, text, &Values::default(), &params);
                let Ok(QueryResult::Rows(page)) = answer else {
                    panic!("{text}")
                };
                found.extend(lines(&page));
                params.paging_state = page.paging_state;
                if params.paging_state.is_none() {
                    break;
                }
            }
            assert_eq!(found, lines(&whole), "{text} in pages of {page_size}");
        }
    }
}

#[test]
fn writes() {
    Node::new(&[TABLE, "CREATE TABLE c (p int PRIMARY KEY, n counter)"]).check(&[
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
    ]);
}

#[test]
fn conditional_writes_answer_as_scylladb_does() {
    Node::new(&["CREATE TABLE l (p int, c int, v int, PRIMARY KEY (p, c))"]).check(&[
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
            Are(&["false | 1 | 1 | 1"]),
        ),
        (
            "UPDATE l SET v = 3 WHERE p = 1 AND c = 1 IF v IN (1, 2)",
            Are(&["true | 1 | 1 | 1"]),
        ),
        (
            "UPDATE l SET v = 3 WHERE p = 1 AND c = 9 IF EXISTS",
            Are(&["false | null | null | null"]),
        ),
        (
            "DELETE FROM l WHERE p = 1 AND c = 1 IF v > 2",
            Are(&["true | 1 | 1 | 3"]),
        ),
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
    ]);
}

#[test]
fn batches() {
    Node::new(&[
        "CREATE TABLE l (p int, c int, v int, PRIMARY KEY (p, c))",
        "CREATE TABLE m (p int PRIMARY KEY, v int)",
        "CREATE TABLE n (p int PRIMARY KEY, n counter)",
    ])
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
    ]);
}

#[test]
fn collections_and_json() {
    Node::new(&[
        "CREATE TYPE u (x int, y text)",
        "CREATE TABLE k (p int PRIMARY KEY, l list<int>, s set<text>, m map<text, int>, u u, f frozen<list<int>>)",
        "INSERT INTO k (p, l, s, m, u, f) VALUES (1, [3, 1], {'b', 'a', 'b'}, {'y': 2, 'x': 1}, {x: 1, y: 'q'}, [1])",
    ])
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
    ]);
}

#[test]
fn schema_errors() {
    Node::new(&[TABLE]).check(&[
        ("CREATE TABLE t (p int PRIMARY KEY)", Error(0x2400, "")),
        ("CREATE TABLE IF NOT EXISTS t (p int PRIMARY KEY)", Done),
        (
            "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            Error(0x2400, ""),
        ),
        ("CREATE TABLE x (p int)", Error(INVALID, "")),
        (
            "CREATE TABLE x (p int, p text, PRIMARY KEY (p))",
            Error(INVALID, ""),
        ),
        (
            "CREATE TABLE x (p int PRIMARY KEY, v nosuch)",
            Error(INVALID, "Unknown type ks.nosuch"),
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
    ]);
}
