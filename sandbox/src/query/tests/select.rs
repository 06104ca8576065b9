use super::Fixture;

fn rows() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, d int, v text, s int static, PRIMARY KEY (p, c, d))");
    for p in 1..=2 {
        for c in 1..=3 {
            for d in 1..=2 {
                fixture.ok(&format!(
                    "INSERT INTO t (p, c, d, v) VALUES ({p}, {c}, {d}, 'v{p}{c}{d}')"
                ));
            }
        }
    }
    fixture.ok("UPDATE t SET s = 7 WHERE p = 1");
    fixture.ok("UPDATE t SET s = 9 WHERE p = 3");
    fixture
}

#[test]
fn where_clauses() {
    rows().check(&[
        (
            "SELECT c, d FROM t WHERE p = 1",
            "1, 1; 1, 2; 2, 1; 2, 2; 3, 1; 3, 2",
        ),
        ("SELECT c, d FROM t WHERE p = 1 AND c = 2", "2, 1; 2, 2"),
        ("SELECT c, d FROM t WHERE p = 1 AND c = 2 AND d = 2", "2, 2"),
        (
            "SELECT c, d FROM t WHERE p = 1 AND c > 1 AND c <= 3",
            "2, 1; 2, 2; 3, 1; 3, 2",
        ),
        (
            "SELECT c, d FROM t WHERE p = 1 AND c >= 1 AND c < 2",
            "1, 1; 1, 2",
        ),
        (
            "SELECT c, d FROM t WHERE p = 1 AND c IN (3, 1) AND d = 1",
            "1, 1; 3, 1",
        ),
        (
            "SELECT c, d FROM t WHERE p = 1 AND (c, d) > (1, 1) AND (c, d) <= (2, 1)",
            "1, 2; 2, 1",
        ),
        (
            "SELECT c, d FROM t WHERE p = 1 AND (c, d) IN ((2, 2), (1, 1), (9, 9))",
            "1, 1; 2, 2",
        ),
        ("SELECT c, d FROM t WHERE p = 1 AND (c, d) = (2, 2)", "2, 2"),
        (
            "SELECT c, d FROM t WHERE p = 1 AND c = 1 ORDER BY c DESC",
            "1, 2; 1, 1",
        ),
        (
            "SELECT c, d FROM t WHERE p = 1 ORDER BY c DESC, d DESC LIMIT 3",
            "3, 2; 3, 1; 2, 2",
        ),
        (
            "SELECT p, c FROM t WHERE p IN (2, 1) AND c = 1 AND d = 1",
            "1, 1; 2, 1",
        ),
        (
            "SELECT p, c FROM t WHERE p IN (1, 2) AND c < 3 AND d = 1",
            "!2200",
        ),
        (
            "SELECT v FROM t WHERE p = 1 AND v = 'v121' ALLOW FILTERING",
            "'v121'",
        ),
        (
            "SELECT v FROM t WHERE v = 'v121'",
            "!2200 Cannot execute this query as it might involve data filtering",
        ),
        ("SELECT v FROM t WHERE d = 2 AND p = 1", "!2200"),
        (
            "SELECT v FROM t WHERE d = 2 AND p = 1 AND c > 2 ALLOW FILTERING",
            "'v132'",
        ),
        ("SELECT v FROM t WHERE c = 2", "!2200"),
        (
            "SELECT v FROM t WHERE p = 1 LIMIT 0",
            "!2200 LIMIT must be strictly positive",
        ),
        (
            "SELECT p, c, d FROM t PER PARTITION LIMIT 1",
            "1, 1, 1; 2, 1, 1; 3, null, null",
        ),
        ("SELECT DISTINCT p, s FROM t", "1, 7; 2, null; 3, 9"),
        ("SELECT DISTINCT c FROM t", "!2200"),
        ("SELECT p, s, v FROM t WHERE p = 3", "3, 9, null"),
        ("SELECT p, s, v FROM t WHERE p = 3 AND c = 1", ""),
    ]);
}

#[test]
fn reads_that_are_refused() {
    let keys: Vec<String> = (0..101).map(|key| key.to_string()).collect();
    let too_many = format!("SELECT v FROM t WHERE p IN ({})", keys.join(", "));
    rows().check(&[
        ("SELECT nope FROM t", "!2200 Undefined column name nope"),
        ("SELECT v FROM nope", "!2200 unconfigured table nope"),
        ("SELECT v FROM nope.t", "!2200 Keyspace nope does not exist"),
        ("SELECT v FROM t WHERE p = 1 AND p = 2", "!2200"),
        ("SELECT v FROM t WHERE p = 'x'", "!2200"),
        ("SELECT v FROM t WHERE p = null", "!2200"),
        (&too_many, "!0000 size of partition-key IN list"),
        ("SELECT v FROM t WHERE p = 1 ORDER BY d", "!2200"),
        ("SELECT v FROM t ORDER BY c", "!2200 ORDER BY is only supported"),
        (
            "SELECT v FROM t WHERE p = 1 ORDER BY c ASC, d DESC",
            "!2200 Unsupported order by relation",
        ),
    ]);
}

#[test]
fn token_ranges_cover_the_ring_once() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int PRIMARY KEY)");
    for p in 0..50 {
        fixture.ok(&format!("INSERT INTO t (p) VALUES ({p})"));
    }
    fixture.check(&[
        ("SELECT count(*) FROM t", "50"),
        ("SELECT count(*) FROM t WHERE token(p) >= -9223372036854775808 AND token(p) <= 9223372036854775807", "50"),
        ("SELECT count(*) FROM t WHERE token(p) > 9223372036854775807", "0"),
        ("SELECT p FROM t WHERE token(p) = token(7)", "7"),
        ("SELECT token(p) FROM t WHERE p = 1", "-4069959284402364209"),
    ]);
    let below = fixture.run("SELECT count(*) FROM t WHERE token(p) <= 0");
    let above = fixture.run("SELECT count(*) FROM t WHERE token(p) > 0");
    assert_eq!(below.parse::<i32>().unwrap() + above.parse::<i32>().unwrap(), 50);
}

#[test]
fn functions_aggregates_and_groups() {
    let mut fixture = rows();
    fixture.check(&[
        ("SELECT count(*) FROM t WHERE p = 1", "6"),
        (
            "SELECT count(*), min(c), max(d), sum(c), avg(c) FROM t WHERE p = 1",
            "6, 1, 2, 12, 2",
        ),
        ("SELECT min(c) FROM t WHERE p = 99", "null"),
        (
            "SELECT c, count(*) FROM t WHERE p = 1 GROUP BY c",
            "1, 2; 2, 2; 3, 2",
        ),
        ("SELECT p, max(c) FROM t GROUP BY p", "1, 3; 2, 3; 3, null"),
        ("SELECT p, count(*) FROM t GROUP BY p LIMIT 1", "1, 6"),
        (
            "SELECT p, c, count(*) FROM t GROUP BY p, c PER PARTITION LIMIT 2",
            "1, 1, 2; 1, 2, 2; 2, 1, 2; 2, 2, 2; 3, null, 1",
        ),
        (
            "SELECT p, c, count(*) FROM t GROUP BY p, c PER PARTITION LIMIT 1 LIMIT 2",
            "1, 1, 2; 2, 1, 2",
        ),
        (
            "SELECT p, c, count(*) FROM t WHERE p IN (2, 1) AND c = 3 GROUP BY c",
            "1, 3, 2; 2, 3, 2",
        ),
        ("SELECT c FROM t WHERE p = 1 GROUP BY v", "!2200"),
        ("SELECT count(*) AS n FROM t WHERE p = 1 LIMIT 1", "6"),
        (
            "SELECT cast(c AS text) FROM t WHERE p = 1 AND c = 2 AND d = 1",
            "'2'",
        ),
        (
            "SELECT blobAsInt(intAsBlob(c)) FROM t WHERE p = 1 AND c = 2 AND d = 1",
            "2",
        ),
        (
            "SELECT JSON p, v FROM t WHERE p = 1 AND c = 1 AND d = 1",
            "'{\"p\": 1, \"v\": \"v111\"}'",
        ),
        ("SELECT nope(c) FROM t", "!2200"),
        ("SELECT writetime(p) FROM t", "!2200"),
    ]);
    fixture.ok("INSERT INTO t (p, c, d, v) VALUES (5, 1, 1, 'x') USING TIMESTAMP 42 AND TTL 100");
    fixture.clock.advance_seconds(40);
    fixture.check(&[("SELECT writetime(v), ttl(v) FROM t WHERE p = 5", "42, 60")]);
}

#[test]
fn descending_and_mixed_clustering() {
    let mut fixture = Fixture::new();
    fixture.ok(
        "CREATE TABLE t (p int, a int, b int, PRIMARY KEY (p, a, b)) WITH CLUSTERING ORDER BY (a DESC, b ASC)",
    );
    for a in 1..=3 {
        for b in 1..=2 {
            fixture.ok(&format!("INSERT INTO t (p, a, b) VALUES (1, {a}, {b})"));
        }
    }
    fixture.check(&[
        (
            "SELECT a, b FROM t WHERE p = 1",
            "3, 1; 3, 2; 2, 1; 2, 2; 1, 1; 1, 2",
        ),
        (
            "SELECT a, b FROM t WHERE p = 1 AND a > 1",
            "3, 1; 3, 2; 2, 1; 2, 2",
        ),
        (
            "SELECT a, b FROM t WHERE p = 1 AND a <= 2 AND a > 1",
            "2, 1; 2, 2",
        ),
        (
            "SELECT a, b FROM t WHERE p = 1 ORDER BY a ASC, b DESC",
            "1, 2; 1, 1; 2, 2; 2, 1; 3, 2; 3, 1",
        ),
        (
            "SELECT a, b FROM t WHERE p = 1 AND (a, b) > (2, 1)",
            "3, 1; 3, 2; 2, 2",
        ),
        (
            "SELECT a, b FROM t WHERE p = 1 AND (a, b) <= (2, 1) AND (a, b) > (1, 1)",
            "2, 1; 1, 2",
        ),
    ]);
}

#[test]
fn order_by_over_partitions_sorts_and_is_not_paged() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, PRIMARY KEY (p, c))");
    for (p, c) in [(1, 5), (2, 3), (1, 1), (2, 4)] {
        fixture.ok(&format!("INSERT INTO t (p, c) VALUES ({p}, {c})"));
    }
    fixture.check(&[
        ("SELECT c FROM t WHERE p IN (1, 2) ORDER BY c DESC", "5; 4; 3; 1"),
        ("SELECT c FROM t WHERE p IN (1, 2) ORDER BY c LIMIT 2", "1; 3"),
        ("SELECT p FROM t WHERE p IN (2, -1, 1, 2)", "1; 1; 2; 2"),
    ]);
    let paged = super::QueryParams {
        page_size: Some(10),
        ..Default::default()
    };
    let result = fixture.query("SELECT c FROM t WHERE p IN (1, 2) ORDER BY c", &paged);
    assert_eq!(result.unwrap_err().code(), 0x2200);
    assert!(
        fixture
            .query("SELECT c FROM t WHERE p IN (1, 2) ORDER BY c LIMIT 1", &paged)
            .is_ok(),
        "one row needs no paging"
    );
}
