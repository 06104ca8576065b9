use super::{Fixture, show};
use crate::query::api::{QueryParams, QueryResult};
use crate::query::engine::{Dialect, EngineOptions};

/// All pages of a query, each as text.
fn pages(fixture: &mut Fixture, text: &str, size: i32) -> Vec<String> {
    let mut pages = Vec::new();
    let mut state = None;
    loop {
        let params = QueryParams {
            page_size: Some(size),
            paging_state: state.take(),
            ..QueryParams::default()
        };
        let Ok(QueryResult::Rows(rows)) = fixture.query(text, &params) else {
            panic!("{text}")
        };
        pages.push(show(&rows));
        state = rows.paging_state;
        if state.is_none() {
            return pages;
        }
        assert!(pages.len() < 100, "{text} does not end");
    }
}

fn rows() -> Fixture {
    rows_in(Dialect::Scylla)
}

fn rows_in(dialect: Dialect) -> Fixture {
    let mut fixture = Fixture::with(EngineOptions {
        dialect,
        ..EngineOptions::default()
    });
    fixture.ok("CREATE TABLE t (p int, c int, s int static, PRIMARY KEY (p, c))");
    for p in 1..=3 {
        for c in 1..=3 {
            fixture.ok(&format!("INSERT INTO t (p, c) VALUES ({p}, {c})"));
        }
    }
    fixture.ok("INSERT INTO t (p, s) VALUES (4, 4)");
    fixture
}

/// Partitions stand in token order: 1, 2, 4, 3.
#[test]
fn pages_are_the_whole_in_parts() {
    for (text, whole) in [
        (
            "SELECT p, c FROM t",
            "1, 1; 1, 2; 1, 3; 2, 1; 2, 2; 2, 3; 4, null; 3, 1; 3, 2; 3, 3",
        ),
        ("SELECT c FROM t WHERE p = 2", "1; 2; 3"),
        ("SELECT c FROM t WHERE p = 2 ORDER BY c DESC", "3; 2; 1"),
        (
            "SELECT p, c FROM t WHERE p IN (1, 3) AND c >= 2",
            "1, 2; 1, 3; 3, 2; 3, 3",
        ),
        (
            "SELECT p, c FROM t WHERE p IN (1, 3) AND c IN (1, 3)",
            "1, 1; 1, 3; 3, 1; 3, 3",
        ),
        ("SELECT p, c FROM t LIMIT 5", "1, 1; 1, 2; 1, 3; 2, 1; 2, 2"),
        (
            "SELECT p, c FROM t PER PARTITION LIMIT 2",
            "1, 1; 1, 2; 2, 1; 2, 2; 4, null; 3, 1; 3, 2",
        ),
        ("SELECT DISTINCT p FROM t", "1; 2; 4; 3"),
        ("SELECT count(*) FROM t", "10"),
        (
            "SELECT p, c FROM t WHERE c > 2 ALLOW FILTERING",
            "1, 3; 2, 3; 3, 3",
        ),
    ] {
        for size in 1..=11 {
            let cassandra = pages(&mut rows_in(Dialect::Cassandra), text, size);
            assert_eq!(cassandra.join("; "), whole, "{text} by {size}");
            let rows = whole.split("; ").count();
            assert_eq!(
                cassandra.len(),
                rows.div_ceil(size as usize),
                "{text} by {size}: no empty page"
            );
            let mut scylla = pages(&mut rows_in(Dialect::Scylla), text, size);
            scylla.retain(|page| !page.is_empty());
            assert_eq!(scylla.join("; "), whole, "{text} by {size}");
        }
    }
}

#[test]
fn a_page_goes_on_behind_rows_that_were_inserted_meanwhile() {
    let mut fixture = rows();
    let params = QueryParams {
        page_size: Some(2),
        ..QueryParams::default()
    };
    let Ok(QueryResult::Rows(first)) = fixture.query("SELECT c FROM t WHERE p = 1", &params) else {
        panic!()
    };
    fixture.ok("INSERT INTO t (p, c) VALUES (1, 0)");
    fixture.ok("INSERT INTO t (p, c) VALUES (1, 4)");
    fixture.ok("DELETE FROM t WHERE p = 1 AND c = 2");
    let params = QueryParams {
        paging_state: first.paging_state.clone(),
        page_size: Some(9),
        ..QueryParams::default()
    };
    let Ok(QueryResult::Rows(rest)) = fixture.query("SELECT c FROM t WHERE p = 1", &params) else {
        panic!()
    };
    assert_eq!(
        (show(&first), show(&rest)),
        ("1; 2".to_owned(), "3; 4".to_owned())
    );
}

#[test]
fn without_a_page_size_everything_comes_at_once() {
    let mut fixture = rows();
    let Ok(QueryResult::Rows(all)) = fixture.query("SELECT * FROM t", &QueryParams::default()) else {
        panic!()
    };
    assert_eq!((all.row_count, all.paging_state), (10, None));
    let params = QueryParams {
        paging_state: Some(bytes::Bytes::from_static(b"garbage")),
        ..QueryParams::default()
    };
    assert_eq!(
        fixture.query("SELECT * FROM t", &params).unwrap_err().code(),
        0x000A
    );
}

/// What a client that takes a short or an empty page for the last one would lose rows by.
#[test]
fn pages_end_as_in_scylladb() {
    for (text, size, expected) in [
        ("SELECT c FROM t WHERE p = 2", 3, &["1; 2; 3", ""][..]),
        ("SELECT c FROM t WHERE p = 2 LIMIT 3", 3, &["1; 2; 3"]),
        ("SELECT c FROM t WHERE p = 2", 2, &["1; 2", "3"]),
        ("SELECT c FROM t WHERE p = 2 AND c = 1", 1, &["1"]),
        ("SELECT c FROM t WHERE p = 2 PER PARTITION LIMIT 1", 1, &["1"]),
        ("SELECT DISTINCT p FROM t WHERE p = 2", 1, &["2"]),
        (
            "SELECT p, c FROM t WHERE p IN (2, 1) AND c = 3",
            1,
            &["1, 3", "2, 3", ""],
        ),
        (
            "SELECT p, c FROM t WHERE s = 4 ALLOW FILTERING",
            4,
            &["", "4, null", ""],
        ),
    ] {
        assert_eq!(pages(&mut rows(), text, size), expected, "{text} by {size}");
    }
}

#[test]
fn pages_end_at_a_mebibyte() {
    let mut fixture = Fixture::new();
    fixture.ok("CREATE TABLE t (p int, c int, v text, PRIMARY KEY (p, c))");
    let value = "x".repeat(300 * 1024);
    for c in 1..=5 {
        fixture.ok(&format!("INSERT INTO t (p, c, v) VALUES (1, {c}, '{value}')"));
    }
    let pages = pages(&mut fixture, "SELECT v FROM t WHERE p = 1", 5_000);
    let rows: Vec<usize> = pages.iter().map(|page| page.matches('\'').count() / 2).collect();
    assert_eq!(rows, [4, 1]);
}

#[test]
fn a_paging_state_of_another_query_reads_nothing_twice() {
    let mut fixture = rows();
    let params = |paging_state| QueryParams {
        page_size: Some(2),
        paging_state,
        ..QueryParams::default()
    };
    let Ok(QueryResult::Rows(first)) = fixture.query("SELECT c FROM t WHERE p = 1", &params(None)) else {
        panic!()
    };
    for (text, expected) in [
        ("SELECT p, c FROM t WHERE p IN (2, 3)", ""),
        ("SELECT p, c FROM t WHERE p = 2", ""),
        ("SELECT p, c FROM t WHERE p IN (1, 3)", "1, 3; 3, 1"),
    ] {
        let Ok(QueryResult::Rows(rest)) = fixture.query(text, &params(first.paging_state.clone())) else {
            panic!("{text}")
        };
        assert_eq!(show(&rest), expected, "{text}");
    }
}
