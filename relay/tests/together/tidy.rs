//! Rows are deleted once their events are done with, and those that the log never showed are found.

use std::io::Write;
use std::time::Duration;

use orders::dead_letters::DeadLetters;
use sandbox::fault::rule::Rule;
use scylla::client::session_builder::SessionBuilder;
use tokio::time::sleep;

use crate::process::Relay;
use crate::stack::{Flow, Guarantee, RATE, Stack};

/// Writes whose log rows never come.
const LOST: u64 = 7;

/// With the 5 s by which clocks may differ, lost rows are found some ten seconds after they were written.
const TIDY: &str =
    "cleanup: Delete, horizonSeconds: 2, reconcile: {intervalSeconds: 2, marginSeconds: 1}, table";

/// A relay dies between delivery and delete, log rows are lost, and the table is empty in the end.
pub(crate) async fn deleted_and_found(stack: &Stack) {
    let mut flow = stack.flow("tidied").await;
    flow.tidy(Guarantee::AtLeastOnce);
    let relay = start(&flow);
    lose(stack, "tidied");
    let load = flow.load(6).await;
    sleep(Duration::from_secs(3)).await;
    relay.kill();
    let relay = start(&flow);
    load.await.unwrap();
    // A crash repeats what one process delivered since its last save.
    let report = flow
        .verify_found(u64::from(RATE), DeadLetters::default(), 0..=0, LOST)
        .await;
    assert_eq!(
        report.reconciled, LOST,
        "each lost row is delivered, once, and no other"
    );
    let said = emptied(stack, "tidied", &relay).await;
    let value = |name: &str| value(&said, name);
    assert_eq!(
        value("outbox_relay_reconciled_total{outcome=\"delivered\"}"),
        LOST
    );
    let deleted = value("outbox_relay_outbox_rows_deleted_total");
    assert!(deleted > u64::from(RATE), "{deleted}");
    let ignored = value("outbox_relay_ignored_changes_total{operation=\"row_delete\"}");
    let logged = operations(stack, "tidied").await;
    eprintln!(
        "tidied: {} events, {deleted} rows deleted since the crash, {ignored} deletes read, {logged:?} log rows",
        report.committed
    );
    assert!(
        ignored >= deleted,
        "each delete is a log row, and no event: {ignored}"
    );
    relay.stop();
}

/// Nobody can say that they were never delivered, so they wait for a person.
pub(crate) async fn parked(stack: &Stack) {
    let mut flow = stack.flow("parked").await;
    flow.tidy(Guarantee::ExactlyOnce);
    let relay = start(&flow);
    lose(stack, "parked");
    flow.load(2).await.await.unwrap();
    let session = SessionBuilder::new()
        .known_node_addr(stack.sandbox().addr())
        .build()
        .await
        .unwrap();
    let letters = DeadLetters {
        table: Some((session, "outbox_relay.dead_letters".to_owned())),
        topic: None,
    };
    let report = flow.verify_found(0, letters, LOST..=LOST, 0).await;
    assert_eq!(report.dead_lettered, LOST);
    let said = emptied(stack, "parked", &relay).await;
    assert_eq!(
        value(&said, "outbox_relay_reconciled_total{outcome=\"parked\"}"),
        LOST
    );
    let classes = "SELECT error_class, status FROM outbox_relay.dead_letters";
    let rows = stack.session.query_unpaged(classes, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    let rows = rows.rows::<(Option<String>, Option<String>)>().unwrap();
    // A slot without letters has a row with an epoch alone.
    let letters = rows.map(Result::unwrap).filter(|(class, _)| class.is_some());
    for (class, status) in letters {
        assert_eq!(
            (class.as_deref(), status.as_deref()),
            (Some("reconciled"), Some("waiting"))
        );
    }
    relay.stop();
}

fn start(flow: &Flow<'_>) -> Relay {
    let relay = Relay::start(flow.config(), "1/1");
    tokio::task::block_in_place(|| relay.readyz(200, "ready"));
    relay
}

fn lose(stack: &Stack, keyspace: &str) {
    let rule = Rule::lost_log_rows()
        .table(&format!("{keyspace}.outbox_messages"))
        .times(LOST);
    stack.sandbox().faults().add(rule).unwrap();
}

/// Waits until no row is left; what the metrics say then.
pub(crate) async fn emptied(stack: &Stack, keyspace: &str, relay: &Relay) -> String {
    let left = format!("SELECT count(*) FROM {keyspace}.outbox_messages");
    for _ in 0..300 {
        let rows = stack.session.query_unpaged(left.as_str(), ()).await.unwrap();
        let (count,): (i64,) = rows.into_rows_result().unwrap().first_row().unwrap();
        let said = relay.metrics();
        if count == 0 && value(&said, "outbox_relay_outbox_rows_undeleted") == 0 {
            return said;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("rows of {keyspace} are left:\n{}", relay.metrics());
}

/// Log rows, by operation: 2 is an insert, 3 the delete of a row.
async fn operations(stack: &Stack, keyspace: &str) -> Vec<(i8, usize)> {
    let log = format!("SELECT \"cdc$operation\" FROM {keyspace}.outbox_messages_scylla_cdc_log");
    let rows = stack.session.query_unpaged(log.as_str(), ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for row in rows.rows::<(i8,)>().unwrap() {
        *counts.entry(row.unwrap().0).or_default() += 1;
    }
    counts.into_iter().collect()
}

pub(crate) fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

impl Flow<'_> {
    fn tidy(&mut self, guarantee: Guarantee) {
        self.with_source(guarantee, TIDY);
    }

    /// `source` are fields of the section, and the word `table` at the end.
    pub(crate) fn with_source(&mut self, guarantee: Guarantee, source: &str) {
        let text = self.text(guarantee).replace("table", source);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        self.configure(file);
    }
}
