//! What the parser makes of texts. Statements that drivers send are in `accepted`.

use super::parse;
use crate::cql::ast::Statement;
use crate::cql::ast::data::{
    Change, Condition, Operator, RelationValue, Select, SelectExpr, Selection, Subject,
};
use crate::cql::ast::definition::{DescribeTarget, PropertyValue};
use crate::cql::ast::term::{LiteralKind, Term, TypeExpr};

/// Statements that must parse; also the seeds of the fuzz tests.
pub(super) const ACCEPTED: &[&str] = &[
    "SELECT host_id, rpc_address, data_center, rack, tokens FROM system.peers",
    "SELECT * FROM system.local WHERE key='local' USING TIMEOUT 30000ms",
    "SELECT keyspace_name, table_name, column_name, kind, position, type FROM system_schema.columns where keyspace_name in ?",
    "SELECT * FROM system_schema.columns WHERE keyspace_name = 'ks' AND (table_name, column_name) > ('t', 'c') LIMIT 1000",
    "SELECT min(time) FROM system_distributed.cdc_generation_timestamps WHERE key='timestamps' AND time>?",
    "SELECT * FROM ks.t_scylla_cdc_log WHERE \"cdc$stream_id\" IN (?, ?) AND \"cdc$time\">minTimeuuid(?) AND \"cdc$time\"<=maxTimeuuid(:x) BYPASS CACHE",
    "SELECT DISTINCT a, b FROM t WHERE token(a, b) > ? AND token(a, b) <= -5 PER PARTITION LIMIT 1 LIMIT ? ALLOW FILTERING",
    "SELECT JSON * FROM t",
    "SELECT json, distinct, ttl, count, \"Q\", timestamp, key FROM t",
    "SELECT count(*), COUNT(1), max(v), writetime(v), ttl(m['k']), toJson(v), cast(a as text), u.f, l[0], ks.f(a) AS b, token(a), 3, (int) 4, 'x' FROM t GROUP BY a, b ORDER BY c DESC, d ASC, e",
    "INSERT INTO t (a, b, c) VALUES (1, 'x', {'a': 1, 'b': -2}) IF NOT EXISTS USING TTL 5 AND TIMESTAMP ?;",
    "INSERT INTO t (a) VALUES (now()) USING TIMEOUT 50ms;;",
    "INSERT INTO t JSON '{\"a\": 1}' DEFAULT UNSET",
    "insert into t json :doc default null",
    "UPDATE t USING TTL :ttl SET a = 1, b = b + 1, c = [1] + c, c = c - [2], m['k'] = ?, l[3] = 4, u.f = 5, n += 1, n -= 2 WHERE p = 1 AND c IN (1, 2) IF EXISTS",
    "UPDATE t SET a = ? WHERE p = ? IF a = 1 AND b != null AND c IN ? AND m['k'] > 3 AND u.f IN (1, 2)",
    "DELETE FROM t WHERE p = 1 AND c > 1 AND c <= 2",
    "DELETE a, m['k'], u.f FROM t USING TIMESTAMP 1 WHERE (a, b) IN ((1, 2), ?) IF a = 1",
    "BEGIN UNLOGGED BATCH USING TIMESTAMP 5 INSERT INTO t (a) VALUES (1); DELETE FROM t WHERE a = 2 APPLY BATCH;",
    "BEGIN COUNTER BATCH UPDATE t SET c = c + 1 WHERE p = 0; APPLY BATCH",
    "CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class':'NetworkTopologyStrategy', 'dc': 1} AND durable_writes = true AND tablets = {'enabled': false}",
    "ALTER KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': '1'}",
    "DROP KEYSPACE IF EXISTS \"Ks\"",
    "USE \"Ks\"",
    "CREATE TABLE IF NOT EXISTS ks.t (a int, b frozen<map<text, list<int>>>, s set<uuid> static, u ks.u, v vector<float, 3>, w varchar, x tuple<int, text>, PRIMARY KEY ((a, b), c)) WITH CLUSTERING ORDER BY (c DESC) AND cdc = {'enabled': true, 'preimage': 'full'} AND comment = 'it''s' AND gc_grace_seconds = 0",
    "CREATE TABLE t (k text PRIMARY KEY, v int)",
    "ALTER TABLE t ADD a int, b text static",
    "ALTER TABLE t ADD (a int, b text)",
    "ALTER TABLE t DROP a USING TIMESTAMP 5",
    "ALTER TABLE t DROP (a, b)",
    "ALTER TABLE t RENAME a TO b AND c TO d",
    "ALTER TABLE t ALTER a TYPE text",
    "ALTER TABLE t WITH cdc = {'enabled': 'false'} AND default_time_to_live = 60",
    "DROP TABLE IF EXISTS t",
    "CREATE TYPE ks.u (a int, b frozen<list<text>>)",
    "ALTER TYPE u ADD c int",
    "ALTER TYPE u RENAME a TO b",
    "DROP TYPE u",
    "CREATE INDEX i ON t (values(v))",
    "CREATE CUSTOM INDEX IF NOT EXISTS ON t ((p), c) USING 'x' WITH OPTIONS = {'a': 'b'}",
    "DROP INDEX i",
    "CREATE MATERIALIZED VIEW v AS SELECT a, b FROM t WHERE a IS NOT NULL AND b IS NOT NULL PRIMARY KEY (b, a);",
    "TRUNCATE TABLE t USING TIMEOUT 1m",
    "CREATE ROLE IF NOT EXISTS r WITH PASSWORD = 'p' AND LOGIN = true AND SUPERUSER = false",
    "CREATE USER 'u' WITH PASSWORD 'p' SUPERUSER",
    "ALTER ROLE r WITH PASSWORD = 'q'",
    "DROP ROLE IF EXISTS r",
    "GRANT SELECT ON TABLE ks.t TO r",
    "GRANT ALL PERMISSIONS ON ALL KEYSPACES TO r",
    "GRANT a TO b",
    "REVOKE MODIFY ON KEYSPACE ks FROM r",
    "LIST ROLES OF r NORECURSIVE",
    "LIST USERS",
    "LIST ALL PERMISSIONS OF r",
    "DESCRIBE FULL SCHEMA",
    "DESC KEYSPACE ks WITH INTERNALS",
    "SELECT * FROM t WHERE a CONTAINS 1 AND b CONTAINS KEY 'x' AND m['a'] = 1 AND d LIKE '%x' AND (e = 1)",
    "SELECT * FROM t WHERE a = $$it's$$ AND b = 0xcafe AND c = f81d4fae-7dec-11d0-a765-00a0c91e6bf6 AND d = 1e5 AND e = -NaN AND f = Infinity AND g = -1h30m AND h = (1, (2, [3], {4}), {}, {a: null, \"B\": true})",
];

fn select(text: &str) -> Select {
    match parse(text).unwrap().statement {
        Statement::Select(select) => *select,
        other => panic!("{text} is {other:?}"),
    }
}

#[test]
fn accepted() {
    for text in ACCEPTED {
        if let Err(error) = parse(text) {
            panic!("{text}: {error}");
        }
    }
}

#[test]
fn refused_with_place_and_word() {
    for (text, message) in [
        ("", "line 1:0 no viable alternative at input '<EOF>'"),
        (
            "SELEC * FROM t",
            "line 1:0 no viable alternative at input 'SELEC'",
        ),
        (
            "SELECT * FRM t",
            "line 1:9 mismatched input 'FRM' expecting K_FROM",
        ),
        (
            "SELECT * FROM t WHERE",
            "line 1:21 no viable alternative at input '<EOF>'",
        ),
        ("SELECT *\nFROM t foo", "line 2:7 missing EOF at 'foo'"),
        ("SELECT * FROM t; SELECT", "line 1:17 missing EOF at 'SELECT'"),
        (
            "INSERT INTO t (a) VALUES (x)",
            "line 1:27 mismatched input ')' expecting '('",
        ),
        (
            "CREATE TABLE table (a int)",
            "line 1:13 no viable alternative at input 'table'",
        ),
        (
            "UPDATE t SET a = b + 1 WHERE p = 1",
            "line 1:17 Only expressions of the form X = X + <value> are supported.",
        ),
        (
            "DELETE FROM t USING TTL 1 WHERE p = 1",
            "line 1:20 no viable alternative at input 'TTL'",
        ),
        (
            "SELECT a FROM t WHERE a = 12abc",
            "line 1:28 missing EOF at 'abc'",
        ),
        ("USE \"\"", "line 1:4 no viable alternative at input '\"\"'"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.code()),
            (message, 0x2000),
            "{text}"
        );
    }
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("(1, ", ")"), ("{", "}"), ("f(", ")")] {
        let value = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let text = |depth| format!("INSERT INTO t (a) VALUES ({})", value(depth));
        assert!(parse(&text(60)).is_ok(), "{open}");
        assert!(
            parse(&text(100_000))
                .unwrap_err()
                .message
                .contains("nested more than 64"),
            "{open}"
        );
    }
    let types = |depth: usize| {
        format!(
            "CREATE TYPE u (a {}int{})",
            "list<".repeat(depth),
            ">".repeat(depth)
        )
    };
    assert!(parse(&types(60)).is_ok());
    assert!(parse(&types(100_000)).is_err());
    let relation = format!("SELECT * FROM t WHERE {}a = 1", "(".repeat(100_000));
    assert!(parse(&relation).is_err());
}

#[test]
fn names_keep_case_only_in_quotes() {
    let select = select("SELECT Abc, \"Abc\", \"a\"\"b\", \"cdc$time\" FROM \"Ks\".T");
    assert_eq!(
        (select.table.keyspace.as_deref(), select.table.name.as_str()),
        (Some("Ks"), "t")
    );
    let Selection::Selectors(selectors) = select.selection else {
        panic!("not columns")
    };
    let names: Vec<_> = selectors
        .into_iter()
        .map(|selector| selector.expression)
        .collect();
    assert_eq!(
        names,
        ["abc", "Abc", "a\"b", "cdc$time"].map(|name| SelectExpr::Column(name.to_owned()))
    );
}

#[test]
fn markers_are_numbered_as_they_appear_and_share_names() {
    let parsed = parse("UPDATE t USING TTL :x SET a = ? WHERE p = :x AND c IN ?").unwrap();
    assert_eq!(parsed.markers, [Some("x".to_owned()), None, None]);
    let Statement::Update(update) = parsed.statement else {
        panic!("not an update")
    };
    let index = |term: &Term| match term {
        Term::Marker(marker) => marker.index,
        other => panic!("{other:?}"),
    };
    assert_eq!(update.using.ttl.as_ref().map(index), Some(0));
    let Change::Set(value) = &update.assignments[0].change else {
        panic!("not set")
    };
    assert_eq!(index(value), 1);
    let values: Vec<_> = update
        .filter
        .iter()
        .map(|relation| match &relation.value {
            RelationValue::One(term) => index(term),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [0, 2]);
}

#[test]
fn where_forms() {
    let filter = select("SELECT * FROM t WHERE token(a, b) >= 1 AND (c, d) IN (?, (1, 2)) AND (e) < (1) AND f IN () AND g[1] = 2 AND h IS NOT NULL").filter;
    let subjects: Vec<_> = filter
        .iter()
        .map(|relation| (&relation.subject, relation.operator))
        .collect();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        subjects[0],
        (&Subject::Token(names(&["a", "b"])), Operator::GreaterOrEq)
    );
    assert_eq!(subjects[1], (&Subject::Tuple(names(&["c", "d"])), Operator::In));
    assert_eq!(subjects[2], (&Subject::Tuple(names(&["e"])), Operator::Less));
    assert_eq!(filter[3].value, RelationValue::Many(Vec::new()));
    assert!(matches!(subjects[4].0, Subject::Element { .. }));
    assert_eq!(
        (subjects[5].1, &filter[5].value),
        (Operator::IsNotNull, &RelationValue::None)
    );
}

#[test]
fn literals_keep_kind_and_text() {
    for (text, kind, expected) in [
        ("'it''s'", LiteralKind::String, "it's"),
        ("- 5", LiteralKind::Integer, "-5"),
        ("-1.50", LiteralKind::Float, "-1.50"),
        ("-infinity", LiteralKind::Float, "-Infinity"),
        ("nan", LiteralKind::Float, "NaN"),
        ("TRUE", LiteralKind::Boolean, "true"),
        ("0xCAfe", LiteralKind::Hex, "CAfe"),
        ("-1y2mo", LiteralKind::Duration, "-1y2mo"),
    ] {
        let filter = select(&format!("SELECT * FROM t WHERE a = {text}")).filter;
        let RelationValue::One(Term::Literal(literal)) = &filter[0].value else {
            panic!("{text}")
        };
        assert_eq!((literal.kind, literal.text.as_str()), (kind, expected));
    }
}

#[test]
fn create_table_parts() {
    let text = "CREATE TABLE t (a int, b Varchar, c list<frozen<U>>, d int static, PRIMARY KEY ((a), b)) WITH CLUSTERING ORDER BY (b DESC) AND CDC = {'enabled': TRUE, 'ttl': 5} AND comment = 'x'";
    let Statement::CreateTable(table) = parse(text).unwrap().statement else {
        panic!("not a table")
    };
    assert_eq!(table.primary_keys[0].clustering, ["b"]);
    assert!(table.columns[3].is_static);
    assert!(matches!(&table.columns[1].ty, TypeExpr::Named(name) if name.name == "text"));
    let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        table.properties,
        [
            (
                "cdc".to_owned(),
                PropertyValue::Map(vec![entry("enabled", "true"), entry("ttl", "5")])
            ),
            ("comment".to_owned(), PropertyValue::Scalar("x".to_owned())),
        ]
    );
}

#[test]
fn describe_forms() {
    let what = |text: &str| match parse(text).unwrap().statement {
        Statement::Describe(describe) => describe.what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what("DESC KEYSPACES"), DescribeTarget::Keyspaces);
    assert_eq!(
        what("DESCRIBE KEYSPACE"),
        DescribeTarget::Keyspace {
            name: None,
            only: false
        }
    );
    assert!(matches!(what("DESCRIBE TABLE ks.t"), DescribeTarget::Table(name) if name.name == "t"));
    assert!(matches!(what("DESCRIBE type"), DescribeTarget::Any(name) if name.name == "type"));
    assert!(matches!(what("DESCRIBE \"Ks\".\"T\""), DescribeTarget::Any(name) if name.name == "T"));
}

#[test]
fn conditions() {
    let Statement::Insert(insert) = parse("INSERT INTO t (a) VALUES (1) IF NOT EXISTS")
        .unwrap()
        .statement
    else {
        panic!("not an insert")
    };
    assert_eq!(insert.condition, Condition::NotExists);
}
