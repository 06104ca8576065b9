//! The same CQL, statement by statement, against the sandbox and a real Apache Cassandra 5: same rows, same error
//! codes. Cassandra is started through `scripts/cassandra.sh`; without it this fails.
//!
//! The sandbox answers twice. In Cassandra's form every answer is the same, page by page. In ScyllaDB's, which is the
//! default and what `SCYLLA_CONTACT_POINT` is compared in, two forms differ, and they are derived from what Cassandra
//! says: a conditional write shows the rows as they were, also when it was applied, and a page may end early.
//!
//! Statements stand in `differential/*.cql`, one a line. `-- @page n` reads the next one in pages of n rows;
//! `-- @loose i` allows column i (from 0) to differ by a few units, for remaining TTLs; `-- @old SELECT ...` finds what
//! ScyllaDB answers to the next one if it is conditional, once for each statement of it. What may differ stands in
//! `differential/differences.txt` with its reason; an entry that no longer differs fails too.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "differential/answer.rs"]
mod answer;
#[path = "differential/nodes.rs"]
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sandbox::query::engine::Dialect;
use scylla::client::session::Session;

use answer::{Form, agrees, ask, same};

/// Intended differences, at most.
const DIFFERENCES_MAX: usize = 20;

const FILES: [&str; 7] = [
    "types",
    "collections",
    "ordering",
    "writes",
    "lwt",
    "functions",
    "errors",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_answers_as_cassandra_does() {
    let ours = nodes::ours().await;
    let theirs = nodes::cassandra().await;
    let allowed = differences();
    let (mut statements, mut unexpected) = (0, String::new());
    let (mut seen, mut forms) = (BTreeSet::new(), BTreeSet::new());
    for file in FILES {
        for session in ours.iter().map(|node| &node.session).chain([&theirs]) {
            fresh_keyspace(session, &format!("diff_{file}")).await;
        }
        for case in cases(file) {
            statements += 1;
            let mut old = Vec::new();
            for select in &case.old {
                old.push(ask(&theirs, select, None).await);
            }
            let expected = ask(&theirs, &case.text, case.page).await;
            for node in &ours {
                let found = ask(&node.session, &case.text, case.page).await;
                let form = match node.dialect {
                    Dialect::Cassandra => same(&found, &expected, case.loose).then_some(Form::Same),
                    Dialect::Scylla => agrees(&found, &expected, case.page, case.loose, &old),
                };
                forms.extend(form);
                if form.is_some() {
                    continue;
                }
                let key = format!("{file}: {}", case.text);
                if allowed.contains_key(&key) {
                    seen.insert(key);
                } else {
                    let _ = writeln!(
                        unexpected,
                        "{key}\n  {:?} form: {found:?}\n  Cassandra:    {expected:?}\n  before: {old:?}",
                        node.dialect
                    );
                }
            }
        }
    }
    let stale: Vec<_> = allowed.keys().filter(|key| !seen.contains(*key)).collect();
    println!("{statements} statements, {} intended differences", seen.len());
    assert!(unexpected.is_empty(), "different answers:\n{unexpected}");
    assert!(stale.is_empty(), "listed as different, but the same: {stale:#?}");
    assert!(statements >= 200, "only {statements} statements");
    let all_forms = BTreeSet::from([Form::Same, Form::OldRows, Form::EarlyPages]);
    assert_eq!(
        forms, all_forms,
        "a form that nothing needs is not allowed either"
    );
}

struct Case {
    text: String,
    page: Option<i32>,
    loose: Option<usize>,
    /// What finds the rows that it is about, if it is conditional.
    old: Vec<String>,
}

fn cases(file: &str) -> Vec<Case> {
    let path = format!("{}/tests/differential/{file}.cql", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut cases, mut page, mut loose, mut old) = (Vec::new(), None, None, Vec::new());
    for line in text.lines() {
        if let Some(size) = line.strip_prefix("-- @page ") {
            page = Some(size.trim().parse().unwrap());
        } else if let Some(column) = line.strip_prefix("-- @loose ") {
            loose = Some(column.trim().parse().unwrap());
        } else if let Some(select) = line.strip_prefix("-- @old ") {
            old.push(select.to_owned());
        } else if !line.starts_with("--") && !line.trim().is_empty() {
            cases.push(Case {
                text: line.to_owned(),
                page: page.take(),
                loose: loose.take(),
                old: std::mem::take(&mut old),
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
