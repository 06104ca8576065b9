use super::Fixture;
use crate::query::engine::{Dialect, EngineOptions};

#[test]
fn writes_and_deletions() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, v text, w int, s int static, PRIMARY KEY (p, c))");
    fixture.check(&[
        ("INSERT INTO t (p, c) VALUES (1, 1)", "-"),
        ("SELECT * FROM t", "1, 1, null, null, null"),
        ("UPDATE t SET v = 'a', w = 2 WHERE p = 1 AND c IN (1, 2)", "-"),
        ("SELECT c, v, w FROM t", "1, 'a', 2; 2, 'a', 2"),
        ("DELETE v FROM t WHERE p = 1 AND c = 2", "-"),
        ("DELETE w FROM t WHERE p = 1 AND c = 2", "-"),
        // Row 2 had no INSERT: without cells it is gone.
        ("SELECT c, v, w FROM t", "1, 'a', 2"),
        ("UPDATE t SET v = null, w = null WHERE p = 1 AND c = 1", "-"),
        ("SELECT c, v FROM t", "1, null"),
        ("INSERT INTO t (p, s) VALUES (1, 5)", "-"),
        ("SELECT c, s FROM t", "1, 5"),
        ("DELETE FROM t WHERE p = 1 AND c >= 1 AND c < 2", "-"),
        ("SELECT c, s FROM t", "null, 5"),
        ("DELETE FROM t WHERE p = 1", "-"),
        ("SELECT * FROM t", ""),
        (
            "INSERT INTO t (p, v) VALUES (1, 'x')",
            "!2200 Some clustering keys are missing: c",
        ),
        (
            "INSERT INTO t (c, v) VALUES (1, 'x')",
            "!2200 Some partition key parts are missing: p",
        ),
        (
            "INSERT INTO t (p, c) VALUES (1)",
            "!2200 Unmatched column names/values",
        ),
        ("INSERT INTO t (p, c, p) VALUES (1, 2, 3)", "!2200"),
        ("INSERT INTO t (p, c) VALUES (null, 1)", "!2200"),
        (
            "UPDATE t SET v = 'x' WHERE p = 1",
            "!2200 Some clustering keys are missing: c",
        ),
        (
            "UPDATE t SET v = 'x' WHERE c = 1",
            "!2200 Some partition key parts are missing: p",
        ),
        (
            "UPDATE t SET v = 'x' WHERE p = 1 AND c > 1",
            "!2200 Slice restrictions",
        ),
        (
            "UPDATE t SET c = 2 WHERE p = 1 AND c = 1",
            "!2200 PRIMARY KEY part c found in SET part",
        ),
        (
            "UPDATE t SET v = 'x' WHERE p = 1 AND c = 1 AND w = 2",
            "!2200 Non PRIMARY KEY columns",
        ),
        (
            "UPDATE t SET w = w + 1 WHERE p = 1 AND c = 1",
            "!2200 Invalid operation",
        ),
        (
            "DELETE c FROM t WHERE p = 1 AND c = 1",
            "!2200 Invalid identifier c for deletion",
        ),
        (
            "DELETE v FROM t WHERE p = 1 AND c > 1",
            "!2200 Range deletions are not supported",
        ),
        ("DELETE FROM t WHERE p = 1 AND v = 'x'", "!2200"),
        (
            "INSERT INTO t (p, c) VALUES (1, 1) USING TTL -1",
            "!2200 A TTL must be greater or equal to 0",
        ),
        (
            "INSERT INTO t (p, c) VALUES (1, 1) USING TTL 630720001",
            "!2200 ttl is too large",
        ),
        (
            "INSERT INTO t (p, c) VALUES (1, 1) USING TIMESTAMP 99999999999999999",
            "!2200 Cannot provide a timestamp",
        ),
        ("TRUNCATE t", "-"),
        ("SELECT * FROM t", ""),
    ]);
}

#[test]
fn the_last_write_wins() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, v int, w int, PRIMARY KEY (p, c))");
    fixture.check(&[
        (
            "INSERT INTO t (p, c, v) VALUES (1, 1, 10) USING TIMESTAMP 100",
            "-",
        ),
        ("INSERT INTO t (p, c, v) VALUES (1, 1, 9) USING TIMESTAMP 99", "-"),
        ("SELECT v FROM t", "10"),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 1, 11) USING TIMESTAMP 100",
            "-",
        ),
        ("SELECT v FROM t", "11"),
        (
            "UPDATE t USING TIMESTAMP 101 SET w = 5 WHERE p = 1 AND c = 1",
            "-",
        ),
        ("DELETE FROM t USING TIMESTAMP 100 WHERE p = 1 AND c = 1", "-"),
        ("SELECT v, w FROM t", "null, 5"),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 1, 12) USING TIMESTAMP 100",
            "-",
        ),
        ("SELECT v, w FROM t", "null, 5"),
        ("DELETE FROM t USING TIMESTAMP 200 WHERE p = 1 AND c > 0", "-"),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 2, 1) USING TIMESTAMP 200",
            "-",
        ),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 3, 1) USING TIMESTAMP 201",
            "-",
        ),
        ("SELECT c FROM t", "3"),
        ("DELETE FROM t USING TIMESTAMP 300 WHERE p = 1", "-"),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 4, 1) USING TIMESTAMP 300",
            "-",
        ),
        ("SELECT c FROM t", ""),
    ]);
}

#[test]
fn rows_expire() {
    let mut fixture = Fixture::new();
    fixture.ok(
        "CREATE TABLE t (p int, c int, v int, w int, PRIMARY KEY (p, c)) WITH default_time_to_live = 100",
    );
    fixture.ok("INSERT INTO t (p, c, v) VALUES (1, 1, 1)");
    fixture.ok("INSERT INTO t (p, c, v) VALUES (1, 2, 1) USING TTL 10");
    fixture.ok("INSERT INTO t (p, c, v) VALUES (1, 3, 1) USING TTL 0");
    fixture.ok("UPDATE t USING TTL 50 SET w = 1 WHERE p = 1 AND c = 2");
    fixture.check(&[("SELECT c, v, w FROM t", "1, 1, null; 2, 1, 1; 3, 1, null")]);
    fixture.clock.advance_seconds(10);
    fixture.check(&[("SELECT c, v, w FROM t", "1, 1, null; 2, null, 1; 3, 1, null")]);
    fixture.clock.advance_seconds(40);
    fixture.check(&[("SELECT c, ttl(v) FROM t", "1, 50; 3, null")]);
    fixture.clock.advance_seconds(50);
    fixture.check(&[("SELECT c FROM t", "3")]);
    fixture.engine.purge();
    fixture.check(&[("SELECT c FROM t", "3")]);
}

#[test]
fn collections() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TYPE addr (street text, zip int)");
    fixture.ok("CREATE TABLE t (p int PRIMARY KEY, l list<int>, s set<text>, m map<text, int>, u addr, f frozen<list<int>>, tu tuple<int, text>)");
    fixture.check(&[
        (
            "INSERT INTO t (p, l, s, m) VALUES (1, [1, 2], {'b', 'a', 'b'}, {'k': 1})",
            "-",
        ),
        ("SELECT l, s, m FROM t", "[1, 2], {'a', 'b'}, {'k': 1}"),
        (
            "UPDATE t SET l = l + [3], s = s + {'c'}, m = m + {'j': 0} WHERE p = 1",
            "-",
        ),
        (
            "UPDATE t SET l = [0] + l, s = s - {'a'}, m['k'] = 5 WHERE p = 1",
            "-",
        ),
        (
            "SELECT l, s, m FROM t",
            "[0, 1, 2, 3], {'b', 'c'}, {'j': 0, 'k': 5}",
        ),
        ("UPDATE t SET l[1] = 9, m = m - {'j'} WHERE p = 1", "-"),
        ("UPDATE t SET l = l - [2, 3] WHERE p = 1", "-"),
        ("SELECT l, m, m['k'] FROM t", "[0, 9], {'k': 5}, 5"),
        ("DELETE l[0], m['k'], s['b'] FROM t WHERE p = 1", "-"),
        ("SELECT l, s, m FROM t", "[9], {'c'}, null"),
        (
            "UPDATE t SET l[5] = 1 WHERE p = 1",
            "!2200 List index 5 out of bound, list has size 1",
        ),
        ("DELETE l FROM t WHERE p = 1", "-"),
        ("UPDATE t SET l[0] = 1 WHERE p = 1", "!2200"),
        ("UPDATE t SET u = {street: 'x', zip: 1} WHERE p = 1", "-"),
        ("UPDATE t SET u.zip = 2 WHERE p = 1", "-"),
        ("SELECT u, u.zip FROM t", "{street: 'x', zip: 2}, 2"),
        ("UPDATE t SET u.nope = 2 WHERE p = 1", "!2200"),
        ("UPDATE t SET f = [1, 2], tu = (1, 'x') WHERE p = 1", "-"),
        ("UPDATE t SET f = f + [3] WHERE p = 1", "!2200"),
        ("SELECT f, tu FROM t WHERE p = 1", "[1, 2], (1, 'x')"),
        ("SELECT p FROM t WHERE s CONTAINS 'c' ALLOW FILTERING", "1"),
        ("SELECT p FROM t WHERE s CONTAINS 'z' ALLOW FILTERING", ""),
        ("SELECT p FROM t WHERE f = [1, 2] ALLOW FILTERING", "1"),
        ("INSERT INTO t (p, l) VALUES (1, [null])", "!2200"),
        ("INSERT INTO t (p, s) VALUES (2, {})", "-"),
        ("SELECT s FROM t WHERE p = 2", "null"),
        (
            "INSERT INTO t JSON '{\"p\": 3, \"l\": [1], \"m\": {\"a\": 2}}'",
            "-",
        ),
        ("SELECT p, l, m FROM t WHERE p = 3", "3, [1], {'a': 2}"),
        ("INSERT INTO t JSON '{\"nope\": 3}'", "!2200"),
    ]);
}

#[test]
fn counters() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int PRIMARY KEY, n counter)");
    fixture.ok("CREATE TABLE plain (p int PRIMARY KEY, n int)");
    fixture.check(&[
        ("UPDATE t SET n = n + 5 WHERE p = 1", "-"),
        ("UPDATE t SET n = n - 2 WHERE p = 1", "-"),
        ("SELECT n FROM t", "3"),
        ("BEGIN COUNTER BATCH UPDATE t SET n = n + 1 WHERE p = 1; UPDATE t SET n += 1 WHERE p = 1; APPLY BATCH", "-"),
        ("SELECT n FROM t", "5"),
        ("UPDATE t SET n = 5 WHERE p = 1", "!2200 Cannot set the value of counter column"),
        ("INSERT INTO t (p, n) VALUES (1, 1)", "!2200 INSERT statements are not allowed on counter tables"),
        ("UPDATE t USING TTL 5 SET n = n + 1 WHERE p = 1", "!2200 Cannot provide custom TTL"),
        ("UPDATE t USING TIMESTAMP 5 SET n = n + 1 WHERE p = 1", "!2200 Cannot provide custom timestamp"),
        ("BEGIN BATCH UPDATE t SET n = n + 1 WHERE p = 1; APPLY BATCH", "!2200 Cannot include a counter statement"),
        ("BEGIN COUNTER BATCH INSERT INTO plain (p) VALUES (1); APPLY BATCH", "!2200"),
        (
            "BEGIN UNLOGGED BATCH UPDATE t SET n = n + 1 WHERE p = 1; INSERT INTO plain (p) VALUES (1); APPLY BATCH",
            "!2200 Counter and non-counter mutations",
        ),
        ("UPDATE t SET n = n + 1 WHERE p = 1 IF n = 5", "!2200"),
        ("DELETE FROM t WHERE p = 1", "-"),
        ("SELECT n FROM t", ""),
    ]);
}

#[test]
fn batches() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, v int, PRIMARY KEY (p, c))");
    fixture.check(&[
        (
            "BEGIN BATCH INSERT INTO t (p, c, v) VALUES (1, 1, 1); UPDATE t SET v = 2 WHERE p = 1 AND c = 1; \
             INSERT INTO t (p, c, v) VALUES (2, 1, 1); APPLY BATCH",
            "-",
        ),
        // One timestamp: the larger value wins.
        ("SELECT p, v FROM t", "1, 2; 2, 1"),
        (
            "BEGIN BATCH USING TIMESTAMP 5 INSERT INTO t (p, c, v) VALUES (3, 1, 1); APPLY BATCH",
            "-",
        ),
        ("SELECT writetime(v) FROM t WHERE p = 3", "5"),
        (
            "BEGIN BATCH USING TIMESTAMP 5 INSERT INTO t (p, c) VALUES (1, 1) USING TIMESTAMP 6; APPLY BATCH",
            "!2200 Timestamp must be set either on BATCH or individual statements",
        ),
        (
            "BEGIN BATCH INSERT INTO t (p, c, v) VALUES (1, 1, 9) IF NOT EXISTS; \
             INSERT INTO t (p, c) VALUES (2, 2); APPLY BATCH",
            "!2200 Batch with conditions cannot span multiple partitions",
        ),
        (
            "BEGIN BATCH INSERT INTO t (p, c, v) VALUES (7, 1, 9) IF NOT EXISTS; \
             INSERT INTO t (p, c, v) VALUES (7, 2, 9); APPLY BATCH",
            // A row for each statement.
            "true, null, null, null; true, null, null, null",
        ),
        ("SELECT c FROM t WHERE p = 7", "1; 2"),
    ]);
}

/// Over several partitions or tables, as an outbox is written; one partition has no such limit.
#[test]
fn a_batch_over_a_mebibyte_is_refused() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, v text, PRIMARY KEY (p, c))");
    let batch = |partition: i32, size: usize| {
        let value = "x".repeat(size);
        format!(
            "BEGIN BATCH INSERT INTO t (p, c, v) VALUES (1, 1, '{value}'); \
             INSERT INTO t (p, c, v) VALUES ({partition}, 2, '{value}'); APPLY BATCH"
        )
    };
    fixture.check(&[
        (&batch(2, 500 * 1024), "-"),
        (&batch(2, 600 * 1024), "!2200 Batch too large"),
        (&batch(1, 600 * 1024), "-"),
    ]);
}

#[test]
fn conditional_writes() {
    let mut scylla = Fixture::new();
    scylla.ok("CREATE TABLE t (p int, c int, v int, s int static, PRIMARY KEY (p, c))");
    scylla.check(&[
        (
            "INSERT INTO t (p, c, v) VALUES (1, 1, 5) IF NOT EXISTS",
            "true, null, null, null, null",
        ),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 1, 6) IF NOT EXISTS",
            "false, 1, 1, null, 5",
        ),
        ("UPDATE t SET v = 7 WHERE p = 1 AND c = 1 IF v = 5", "true, 5"),
        (
            "UPDATE t SET v = 8 WHERE p = 1 AND c = 1 IF v IN (1, 2)",
            "false, 7",
        ),
        (
            "UPDATE t SET v = 8 WHERE p = 1 AND c = 1 IF v > 6 AND v != 9",
            "true, 7",
        ),
        (
            "UPDATE t SET v = 8 WHERE p = 1 AND c = 2 IF EXISTS",
            "false, null, null, null, null",
        ),
        (
            "UPDATE t SET v = 8 WHERE p = 1 AND c = 2 IF v = null",
            "true, null",
        ),
        (
            "DELETE FROM t WHERE p = 1 AND c = 2 IF EXISTS",
            "true, 1, 2, null, 8",
        ),
        ("UPDATE t SET s = 1 WHERE p = 1 IF s = null", "true, null"),
        (
            "UPDATE t SET v = 1 WHERE p = 1 AND c = 1 IF p = 1",
            "!2200 PRIMARY KEY column 'p' cannot have IF",
        ),
        (
            "UPDATE t USING TIMESTAMP 5 SET v = 1 WHERE p = 1 AND c = 1 IF v = 1",
            "!2200",
        ),
        ("UPDATE t SET v = 1 WHERE p IN (1, 2) AND c = 1 IF v = 1", "!2200"),
    ]);
    let mut cassandra = Fixture::with(EngineOptions {
        dialect: Dialect::Cassandra,
        ..EngineOptions::default()
    });
    cassandra.ok("CREATE TABLE t (p int, c int, v int, s int static, PRIMARY KEY (p, c))");
    cassandra.check(&[
        ("INSERT INTO t (p, c, v) VALUES (1, 1, 5) IF NOT EXISTS", "true"),
        (
            "INSERT INTO t (p, c, v) VALUES (1, 1, 6) IF NOT EXISTS",
            "false, 1, 1, null, 5",
        ),
        ("UPDATE t SET v = 7 WHERE p = 1 AND c = 1 IF v = 6", "false, 5"),
        ("UPDATE t SET v = 7 WHERE p = 1 AND c = 9 IF EXISTS", "false"),
        ("UPDATE t SET v = 7 WHERE p = 1 AND c = 1 IF v = 5", "true"),
    ]);
}

#[test]
fn tablets_may_refuse_conditional_writes() {
    let mut fixture = Fixture::with(EngineOptions {
        lwt_with_tablets: false,
        ..EngineOptions::default()
    });
    fixture.ok(
        "CREATE KEYSPACE tab WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} \
         AND tablets = {'enabled': true}",
    );
    fixture.ok("CREATE TABLE tab.t (p int PRIMARY KEY)");
    fixture.check(&[
        ("INSERT INTO tab.t (p) VALUES (1)", "-"),
        (
            "INSERT INTO tab.t (p) VALUES (1) IF NOT EXISTS",
            "!2200 LWT is not yet supported with tablets",
        ),
    ]);
}
