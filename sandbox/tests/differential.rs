//! The same CQL, statement by statement, against the sandbox and a real Apache Cassandra 5: same rows, same error
//! codes. Cassandra is started through `scripts/cassandra.sh`; without it this fails.
//!
//! Statements stand in `differential/*.cql`, one a line. `-- @page n` reads the next one in pages of n rows and compares
//! each page; `-- @loose i` allows column i (from 0) to differ by a few units, for remaining TTLs. What may differ
//! stands in `differential/differences.txt` with its reason; an entry that no longer differs fails too.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use sandbox::query::engine::Dialect;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::Statement;
use scylla::value::{CqlValue, Row};

/// Intended differences that the contract allows at most.
const DIFFERENCES_MAX: usize = 20;

/// How far loose values may lie apart: seconds between the two reads of a TTL.
const LOOSE: i32 = 60;

const FILES: [&str; 7] = [
    "types",
    "collections",
    "ordering",
    "writes",
    "lwt",
    "functions",
    "errors",
];

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Void,
    /// Rows by page.
    Rows(Vec<Vec<Vec<Option<CqlValue>>>>),
    Error(i32, String),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_answers_as_cassandra_does() {
    let node = sandbox::Sandbox::builder()
        .dialect(Dialect::Cassandra)
        .start()
        .await
        .unwrap();
    let ours = SessionBuilder::new()
        .known_node_addr(node.addr())
        .build()
        .await
        .unwrap();
    let theirs = SessionBuilder::new()
        .known_node(cassandra())
        .build()
        .await
        .unwrap();
    let allowed = differences();
    let (mut statements, mut unexpected, mut seen) = (0, String::new(), Vec::new());
    for file in FILES {
        for session in [&ours, &theirs] {
            fresh_keyspace(session, &format!("diff_{file}")).await;
        }
        for case in cases(file) {
            statements += 1;
            let (a, b) = (ask(&ours, &case).await, ask(&theirs, &case).await);
            if same(&a, &b, case.loose) {
                continue;
            }
            let key = format!("{file}: {}", case.text);
            if allowed.contains_key(&key) {
                seen.push(key);
            } else {
                let _ = writeln!(unexpected, "{key}\n  sandbox:   {a:?}\n  Cassandra: {b:?}");
            }
        }
    }
    let stale: Vec<_> = allowed.keys().filter(|key| !seen.contains(key)).collect();
    println!("{statements} statements, {} intended differences", seen.len());
    assert!(unexpected.is_empty(), "different answers:\n{unexpected}");
    assert!(stale.is_empty(), "listed as different, but the same: {stale:#?}");
    assert!(statements >= 200, "only {statements} statements");
}

struct Case {
    text: String,
    page: Option<i32>,
    loose: Option<usize>,
}

fn cases(file: &str) -> Vec<Case> {
    let path = format!("{}/tests/differential/{file}.cql", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut cases, mut page, mut loose) = (Vec::new(), None, None);
    for line in text.lines() {
        if let Some(size) = line.strip_prefix("-- @page ") {
            page = Some(size.trim().parse().unwrap());
        } else if let Some(column) = line.strip_prefix("-- @loose ") {
            loose = Some(column.trim().parse().unwrap());
        } else if !line.starts_with("--") && !line.trim().is_empty() {
            cases.push(Case {
                text: line.to_owned(),
                page: page.take(),
                loose: loose.take(),
            });
        }
    }
    cases
}

/// `file: statement` to the reason why it may differ.
fn differences() -> BTreeMap<String, String> {
    let path = format!(
        "{}/tests/differential/differences.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let mut differences = BTreeMap::new();
    let mut reason = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.strip_prefix("# ") {
            Some(because) => because.clone_into(&mut reason),
            None => {
                assert!(!reason.is_empty(), "a difference needs its reason: {line}");
                differences.insert(line.to_owned(), reason.clone());
            }
        }
    }
    assert!(
        differences.len() <= DIFFERENCES_MAX,
        "{} intended differences",
        differences.len()
    );
    differences
}

/// Address of a running Cassandra: of one that is there already, or of one that is started for this test.
fn cassandra() -> String {
    if let Ok(address) = std::env::var("CASSANDRA_CONTACT_POINT") {
        return address;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/cassandra.sh");
    let directory = std::env::temp_dir().join(format!("outbox-differential-{}", std::process::id()));
    let output = Command::new(script)
        .args([
            "start",
            directory.to_str().unwrap(),
            "--owner",
            &std::process::id().to_string(),
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "Cassandra did not start: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn fresh_keyspace(session: &Session, name: &str) {
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    for text in [
        format!("DROP KEYSPACE IF EXISTS {name}"),
        format!("CREATE KEYSPACE {name} WITH replication = {replication}"),
    ] {
        session.query_unpaged(text, ()).await.unwrap();
    }
    session.use_keyspace(name, false).await.unwrap();
}

async fn ask(session: &Session, case: &Case) -> Answer {
    let mut statement = Statement::new(case.text.as_str());
    let Some(size) = case.page else {
        return match session.query_unpaged(statement, ()).await {
            Ok(result) => rows(result).map_or(Answer::Void, |page| Answer::Rows(vec![page])),
            Err(error) => failure(&error),
        };
    };
    statement.set_page_size(size);
    let (mut pages, mut state) = (Vec::new(), PagingState::start());
    loop {
        match session.query_single_page(statement.clone(), (), state).await {
            Ok((result, next)) => {
                pages.extend(rows(result));
                match next {
                    PagingStateResponse::HasMorePages { state: next } => state = next,
                    PagingStateResponse::NoMorePages => return Answer::Rows(pages),
                }
            }
            Err(error) => return failure(&error),
        }
    }
}

fn rows(result: QueryResult) -> Option<Vec<Vec<Option<CqlValue>>>> {
    let rows = result.into_rows_result().ok()?;
    Some(
        rows.rows::<Row>()
            .unwrap()
            .map(|row| row.unwrap().columns)
            .collect(),
    )
}

fn failure(error: &ExecutionError) -> Answer {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, text)) = error else {
        panic!("not an answer of the database: {error}");
    };
    let code = match code {
        DbError::Other(code) => *code,
        known => known.code(&Default::default()),
    };
    Answer::Error(code, text.clone())
}

/// Texts of errors are people's business; codes are the contract. A trailing empty page is the server's choice.
fn same(a: &Answer, b: &Answer, loose: Option<usize>) -> bool {
    match (a, b) {
        (Answer::Void, Answer::Void) => true,
        (Answer::Error(a, _), Answer::Error(b, _)) => a == b,
        (Answer::Rows(a), Answer::Rows(b)) => {
            let full =
                |pages: &[Vec<Vec<_>>]| pages.iter().filter(|page| !page.is_empty()).cloned().collect();
            let (a, b): (Vec<_>, Vec<_>) = (full(a), full(b));
            format!("{:?}", blur(&a, &b, loose)) == format!("{b:?}")
        }
        _ => false,
    }
}

/// `a` with the loose column taken from `b` where the two are close.
fn blur(
    a: &[Vec<Vec<Option<CqlValue>>>],
    b: &[Vec<Vec<Option<CqlValue>>>],
    loose: Option<usize>,
) -> Vec<Vec<Vec<Option<CqlValue>>>> {
    let mut a = a.to_vec();
    let Some(column) = loose else { return a };
    for (a, b) in a.iter_mut().flatten().zip(b.iter().flatten()) {
        if let (Some(Some(CqlValue::Int(ours))), Some(Some(CqlValue::Int(theirs)))) =
            (a.get(column), b.get(column))
            && (ours - theirs).abs() <= LOOSE
        {
            a[column] = b[column].clone();
        }
    }
    a
}
