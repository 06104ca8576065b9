//! The cases of `tests/cdc/*.yaml`: statements and the log rows that ScyllaDB makes of them; and in `streams` which
//! streams these rows go to.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "cdc/log.rs"]
mod log;
#[path = "cdc/node.rs"]
mod node;
#[path = "cdc/render.rs"]
mod render;
#[path = "cdc/row.rs"]
mod row;
#[path = "cdc/streams.rs"]
mod streams;

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use scylla::client::session::Session;
use scylla::errors::{ExecutionError, RequestAttemptError};
use scylla::value::Row;
use serde::Deserialize;

use node::Node;

const FILES: [(&str, &str); 10] = [
    (
        "inserts_and_updates",
        include_str!("cdc/inserts_and_updates.yaml"),
    ),
    ("deletes", include_str!("cdc/deletes.yaml")),
    ("ttl", include_str!("cdc/ttl.yaml")),
    ("collections", include_str!("cdc/collections.yaml")),
    ("batches", include_str!("cdc/batches.yaml")),
    ("images", include_str!("cdc/images.yaml")),
    ("conditional", include_str!("cdc/conditional.yaml")),
    ("options", include_str!("cdc/options.yaml")),
    ("schema", include_str!("cdc/schema.yaml")),
    ("timestamps", include_str!("cdc/timestamps.yaml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    source: String,
    run: Vec<Step>,
    log: Option<Vec<String>>,
    #[serde(default)]
    times: bool,
    only: Option<Mode>,
    #[serde(default = "base_table")]
    log_of: String,
}

fn base_table() -> String {
    "t".into()
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Vnodes,
    Tablets,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Statement(String),
    Refused {
        refused: String,
        with: String,
        saying: Option<String>,
    },
    Select {
        select: String,
        gives: Vec<String>,
        #[serde(default)]
        sorted: bool,
    },
    Columns {
        columns: String,
        gives: Vec<String>,
    },
    Keep {
        keep: String,
    },
    Same {
        same: String,
    },
}

#[tokio::test]
async fn on_vnodes() {
    run_all("cdc_cases_vnodes", Mode::Vnodes).await;
}

#[tokio::test]
async fn on_tablets() {
    run_all("cdc_cases_tablets", Mode::Tablets).await;
}

#[test]
fn every_case_names_its_source_and_is_unique() {
    let mut seen = HashMap::new();
    for (file, text) in FILES {
        for case in cases(text) {
            assert!(!case.source.trim().is_empty(), "{file}: {}", case.name);
            assert_eq!(
                seen.insert(case.name.clone(), file),
                None,
                "{file}: {}",
                case.name
            );
        }
    }
}

fn cases(text: &str) -> Vec<Case> {
    serde_yaml::from_str(text).expect("the file holds cases")
}

async fn run_all(keyspace: &str, mode: Mode) {
    let node = Node::start().await;
    node.use_keyspace(keyspace, mode == Mode::Tablets).await;
    let mut failures = Vec::new();
    let mut passed = 0;
    for (file, text) in FILES {
        for case in cases(text) {
            if case.only.is_some_and(|only| only != mode) {
                continue;
            }
            match run(&node.session, keyspace, &case).await {
                Ok(()) => passed += 1,
                Err(problem) => failures.push(format!("{file}: {} ({})\n{problem}", case.name, case.source)),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failed, {passed} passed\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

async fn run(session: &Session, keyspace: &str, case: &Case) -> Result<(), String> {
    for leftover in ["t", "t2", "t_scylla_cdc_log"] {
        query(session, &format!("DROP TABLE IF EXISTS {leftover}")).await?;
    }
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|error| error.to_string())?;
    let now = since_epoch.as_micros() as i64;
    let fill = |text: &str| filled(text, now, keyspace);
    let mut kept = None;
    for step in &case.run {
        take(session, step, &fill, &mut kept).await?;
    }
    let Some(expected) = &case.log else {
        return Ok(());
    };
    let (columns, rows) = query(session, &format!("SELECT * FROM {}_scylla_cdc_log", case.log_of)).await?;
    let found = log::render(row::rows(&columns, rows), case.times.then_some(now))?;
    let expected: Vec<_> = expected.iter().map(|row| normal(&fill(row))).collect();
    compare("the log", &found, &expected)
}

async fn take(
    session: &Session,
    step: &Step,
    fill: &impl Fn(&str) -> String,
    kept: &mut Option<Vec<String>>,
) -> Result<(), String> {
    match step {
        Step::Statement(text) => query(session, &fill(text)).await.map(drop),
        Step::Refused {
            refused,
            with,
            saying,
        } => refuse(session, &fill(refused), with, saying.as_deref()).await,
        Step::Select {
            select,
            gives,
            sorted,
        } => {
            let (_, rows) = query(session, &fill(select)).await?;
            let mut found = texts(&rows);
            let mut expected: Vec<_> = gives.iter().map(|row| fill(row)).collect();
            if *sorted {
                found.sort_unstable();
                expected.sort_unstable();
            }
            compare(select, &found, &expected)
        }
        Step::Columns { columns, gives } => {
            let (found, _) = query(session, &fill(columns)).await?;
            compare(columns, &found, gives)
        }
        Step::Keep { keep } => {
            *kept = Some(texts(&query(session, &fill(keep)).await?.1));
            Ok(())
        }
        Step::Same { same } => {
            let found = texts(&query(session, &fill(same)).await?.1);
            compare(same, &found, kept.as_deref().unwrap_or_default())
        }
    }
}

fn compare(what: &str, found: &[String], expected: &[String]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "{what}\n  expected\n    {}\n  found\n    {}",
        expected.join("\n    "),
        found.join("\n    ")
    ))
}

async fn refuse(session: &Session, text: &str, with: &str, saying: Option<&str>) -> Result<(), String> {
    let error = match session.query_unpaged(text, ()).await {
        Ok(_) => return Err(format!("{text}\n  was not refused")),
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, message))) => {
            format!("{kind:?}: {message}")
        }
        Err(other) => return Err(format!("{text}\n  failed otherwise: {other}")),
    };
    if error.starts_with(with)
        && saying.is_none_or(|saying| error.replace('"', "").contains(&saying.replace('"', "")))
    {
        return Ok(());
    }
    Err(format!(
        "{text}\n  expected {with} saying {saying:?}\n  found {error}"
    ))
}

/// Column names and rows; both empty for statements without a result.
async fn query(session: &Session, text: &str) -> Result<(Vec<String>, Vec<Row>), String> {
    let failed = |error: String| format!("{text}\n  failed: {error}");
    let result = session
        .query_unpaged(text, ())
        .await
        .map_err(|error| failed(error.to_string()))?;
    if !result.is_rows() {
        return Ok((Vec::new(), Vec::new()));
    }
    let result = result
        .into_rows_result()
        .map_err(|error| failed(error.to_string()))?;
    let columns = result
        .column_specs()
        .iter()
        .map(|column| column.name().to_string())
        .collect();
    let rows = result.rows::<Row>().map_err(|error| failed(error.to_string()))?;
    let rows = rows
        .collect::<Result<_, _>>()
        .map_err(|error| failed(error.to_string()))?;
    Ok((columns, rows))
}

fn texts(rows: &[Row]) -> Vec<String> {
    let text = |row: &Row| {
        let values: Vec<_> = row
            .columns
            .iter()
            .map(|value| render::value(value.as_ref()))
            .collect();
        values.join(" | ")
    };
    rows.iter().map(text).collect()
}

/// An expected row in the form of `log::render`: columns sorted.
fn normal(expected: &str) -> String {
    let words: Vec<_> = expected.split_whitespace().collect();
    let fixed = if expected.starts_with('@') { 3 } else { 2 };
    let (head, columns) = words.split_at(fixed.min(words.len()));
    let mut columns = columns.to_vec();
    columns.sort_unstable();
    [head, &columns].concat().join(" ")
}

/// Puts times and the keyspace's name in.
fn filled(text: &str, now: i64, keyspace: &str) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{now") {
        let end = start + rest[start..].find('}').expect("{now...} ends");
        let offset = rest[start + "{now".len()..end].trim_start_matches('+');
        let offset: i64 = if offset.is_empty() {
            0
        } else {
            offset.parse().expect("{now+micros}")
        };
        filled.push_str(&rest[..start]);
        filled.push_str(&(now + offset).to_string());
        rest = &rest[end + 1..];
    }
    filled.push_str(rest);
    filled.replace("{keyspace}", keyspace)
}
