use super::Fixture;
use crate::query::engine::{Dialect, EngineOptions};

#[test]
fn keyspaces_and_tables() {
    Fixture::new().check(&[
        ("CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", "!2400"),
        (
            "CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "-",
        ),
        ("CREATE KEYSPACE a WITH replication = {'class': 'Nope'}", "!2300"),
        ("CREATE KEYSPACE a WITH replication = {'replication_factor': 1}", "!2300"),
        ("CREATE KEYSPACE a WITH replication = {'class': 'SimpleStrategy'}", "!2300"),
        ("CREATE KEYSPACE a WITH nope = 1", "!2000"),
        ("DROP KEYSPACE a", "!2"),
        ("DROP KEYSPACE IF EXISTS a", "-"),
        ("USE a", "!2200"),
        ("CREATE TABLE t (a int, b int)", "!2"),
        ("CREATE TABLE t (a int, b int, PRIMARY KEY (c))", "!2200"),
        ("CREATE TABLE t (a list<int> PRIMARY KEY)", "!2200"),
        ("CREATE TABLE t (a frozen<list<int>> PRIMARY KEY)", "-"),
        ("CREATE TABLE t (a int PRIMARY KEY)", "!2400"),
        ("CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)", "-"),
        ("CREATE TABLE u (a int PRIMARY KEY, b counter, c int)", "!2200"),
        ("CREATE TABLE u (a int PRIMARY KEY, b duration, c int static)", "!2200"),
        ("CREATE TABLE u (a duration PRIMARY KEY)", "!2200"),
        ("CREATE TABLE u (a int PRIMARY KEY, b list<list<int>>)", "!2200"),
        ("CREATE TABLE u (a int PRIMARY KEY, b nope)", "!2200"),
        ("CREATE TABLE u (a int PRIMARY KEY) WITH nope = 1", "!2000"),
        ("CREATE TABLE u (a int PRIMARY KEY) WITH default_time_to_live = -1", "!2"),
        ("CREATE TABLE u (a int PRIMARY KEY) WITH compaction = {'class': 'Nope'}", "!2300"),
        ("DROP TABLE u", "!2"),
        ("DROP TABLE IF EXISTS u", "-"),
        ("DROP TABLE t", "-"),
        ("SELECT * FROM t", "!2200"),
        ("CREATE TABLE nope.t (a int PRIMARY KEY)", "!2"),
    ]);
}

#[test]
fn altering_tables_keeps_their_rows() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, v int, PRIMARY KEY (p, c))");
    fixture.ok("INSERT INTO t (p, c, v) VALUES (1, 2, 3)");
    fixture.check(&[
        ("ALTER TABLE t ADD w text", "-"),
        ("SELECT * FROM t", "1, 2, 3, null"),
        ("ALTER TABLE t ADD w text", "!2200"),
        ("INSERT INTO t (p, c, v, w) VALUES (1, 2, 4, 'x')", "-"),
        ("ALTER TABLE t DROP v", "-"),
        ("SELECT * FROM t", "1, 2, 'x'"),
        ("ALTER TABLE t ADD v text", "!2200"),
        ("ALTER TABLE t ADD v int", "-"),
        // What was stored in the dropped column does not come back.
        ("SELECT * FROM t", "1, 2, null, 'x'"),
        ("ALTER TABLE t RENAME c TO k", "-"),
        ("SELECT k FROM t WHERE p = 1 AND k = 2", "2"),
        ("ALTER TABLE t RENAME w TO x", "!2200"),
        ("ALTER TABLE t DROP k", "!2200"),
        ("ALTER TABLE t DROP nope", "!2200"),
        ("ALTER TABLE t ADD n counter", "!2200"),
        (
            "ALTER TABLE t WITH comment = 'hello' AND gc_grace_seconds = 5",
            "-",
        ),
        ("ALTER TABLE nope ADD w int", "!2200"),
    ]);
}

#[test]
fn user_types() {
    let mut fixture = Fixture::new();
    fixture.check(&[
        ("CREATE TYPE a (x int, y text)", "-"),
        ("CREATE TYPE a (x int)", "!2200"),
        ("CREATE TYPE IF NOT EXISTS a (x int)", "-"),
        ("CREATE TYPE b (x int, x int)", "!2200"),
        ("CREATE TYPE b (inner frozen<a>)", "-"),
        ("CREATE TABLE t (p int PRIMARY KEY, v frozen<b>)", "-"),
        ("INSERT INTO t (p, v) VALUES (1, {inner: {x: 1, y: 'q'}})", "-"),
        ("ALTER TYPE a ADD z int", "-"),
        ("SELECT v FROM t", "{inner: {x: 1, y: 'q'}}"),
        ("DROP TYPE a", "!2200"),
        ("DROP TABLE t", "-"),
        ("DROP TYPE b", "-"),
        ("DROP TYPE a", "-"),
        ("DROP TYPE a", "!2200"),
    ]);
}

#[test]
fn prepared_statements_are_void_after_a_change_of_their_table() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int PRIMARY KEY, v int)");
    let prepared = fixture
        .engine
        .prepare(&fixture.session, "SELECT * FROM t WHERE p = ?")
        .unwrap();
    assert_eq!(prepared.partition_key_binds, [0]);
    assert_eq!(prepared.binds.columns[0].name, "p");
    fixture.ok("ALTER TABLE t ADD w int");
    let values = super::Values::Positional(vec![]);
    let result = fixture.engine.execute(
        &mut fixture.session,
        &prepared.id,
        &values,
        &super::QueryParams::default(),
    );
    assert_eq!(result.unwrap_err().code(), 0x2500);
    let again = fixture
        .engine
        .prepare(&fixture.session, "SELECT * FROM t WHERE p = ?")
        .unwrap();
    assert_eq!(again.id, prepared.id);
    assert_eq!(again.result.as_ref().unwrap().columns.len(), 3);
}

#[test]
fn bind_markers_are_named_as_in_scylladb() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c timeuuid, v list<int>, PRIMARY KEY (p, c))");
    for (text, names) in [
        (
            "SELECT * FROM t WHERE p IN ? AND c >= minTimeuuid(?) LIMIT ?",
            vec!["in(p)", "arg0(system.mintimeuuid)", "[limit]"],
        ),
        (
            "INSERT INTO t (p, c) VALUES (?, :mine) USING TTL ? AND TIMESTAMP ?",
            vec!["p", "mine", "[ttl]", "[timestamp]"],
        ),
        (
            "UPDATE t SET v[?] = ? WHERE p = ? AND c = ?",
            vec!["idx(v)", "value(v)", "p", "c"],
        ),
    ] {
        let prepared = fixture.engine.prepare(&fixture.session, text).unwrap();
        let found: Vec<_> = prepared
            .binds
            .columns
            .iter()
            .map(|bind| bind.name.as_str())
            .collect();
        assert_eq!(found, names, "{text}");
    }
}

#[test]
fn a_conditional_write_announces_scylladbs_columns_when_prepared() {
    for (shape, columns) in [(Dialect::Scylla, Some(3)), (Dialect::Cassandra, None)] {
        let mut fixture = Fixture::with(EngineOptions {
            dialect: shape,
            ..EngineOptions::default()
        });
        fixture.ok("CREATE TABLE t (p int PRIMARY KEY, v int)");
        let text = "INSERT INTO t (p, v) VALUES (?, ?) IF NOT EXISTS";
        let prepared = fixture.engine.prepare(&fixture.session, text).unwrap();
        assert!(prepared.conditional);
        assert_eq!(
            prepared.result.as_ref().map(|result| result.columns.len()),
            columns,
            "{shape:?}"
        );
    }
}
