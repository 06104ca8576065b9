use std::time::Duration;

use super::*;
use crate::cdc_log::table::{CdcOptions, ClusteringColumn};

fn config() -> RelayConfig {
    let mut config = RelayConfig::default();
    config.source.keyspace = "app".into();
    config.source.table = "outbox".into();
    config.sink.topic = "events".into();
    config
}

fn table() -> OutboxTable {
    let column = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
    OutboxTable {
        keyspace: "app".into(),
        name: "outbox".into(),
        columns: [
            column("aggregate_id", "uuid"),
            column("sequence", "bigint"),
            column("id", "uuid"),
            column("event_type", "text"),
            column("payload", "text"),
        ]
        .into(),
        partition_key: vec!["aggregate_id".into()],
        clustering_key: vec![ClusteringColumn {
            name: "sequence".into(),
            descending: false,
        }],
        cdc: CdcOptions {
            enabled: true,
            ttl: Some(Duration::from_secs(7 * 86_400)),
            ..CdcOptions::default()
        },
        ttl: None,
        tombstones: Duration::from_secs(864_000),
        tablets: false,
    }
}

/// Findings worse than fine, as `severity field: text`.
fn check(config: &RelayConfig, table: Option<&OutboxTable>, expected: &[(Severity, &str)]) {
    let mut found = of_source(config, table);
    found.retain(|finding| finding.severity > Severity::Fine);
    let lines: Vec<_> = found
        .iter()
        .map(|finding| (finding.severity, finding.text.as_str()))
        .collect();
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for ((severity, text), (expected_severity, part)) in lines.iter().zip(expected) {
        assert!(
            severity == expected_severity && text.contains(part),
            "{lines:?} should say {part}"
        );
    }
    assert!(
        found.iter().all(|finding| !finding.fix.is_empty()),
        "each has its fix: {found:?}"
    );
}

#[test]
fn the_recommended_table_is_fit() {
    check(&config(), Some(&table()), &[]);
}

#[test]
fn what_would_deliver_nothing_is_an_error() {
    check(&config(), None, &[(Severity::Error, "no table app.outbox")]);
    let no_cdc = OutboxTable {
        cdc: CdcOptions::default(),
        ..table()
    };
    check(
        &config(),
        Some(&no_cdc),
        &[(Severity::Error, "CDC is not enabled")],
    );
    let mut hidden = table();
    hidden.cdc.delta_keys = true;
    check(
        &config(),
        Some(&hidden),
        &[(Severity::Error, "hides column payload")],
    );
    hidden.cdc.postimage = true;
    check(&config(), Some(&hidden), &[]);
    let mut unnamed = config();
    unnamed.source.columns.payload = "body".into();
    check(&unnamed, Some(&table()), &[(Severity::Error, "no column body")]);
}

#[test]
fn what_scatters_an_aggregate_is_said() {
    let plain = OutboxTable {
        partition_key: vec!["id".into()],
        clustering_key: vec![],
        ..table()
    };
    check(
        &config(),
        Some(&plain),
        &[(Severity::Warning, "the partition key (id) scatters")],
    );
    let mut by_event = config();
    by_event.sink.key = Key::EventId;
    check(
        &by_event,
        Some(&table()),
        &[(Severity::Warning, "message key (eventId) is no function")],
    );
    let random = OutboxTable {
        clustering_key: vec![ClusteringColumn {
            name: "id".into(),
            descending: false,
        }],
        ..table()
    };
    check(
        &config(),
        Some(&random),
        &[(Severity::Warning, "id is a random uuid")],
    );
    let falling = OutboxTable {
        clustering_key: vec![ClusteringColumn {
            name: "sequence".into(),
            descending: true,
        }],
        ..table()
    };
    check(
        &config(),
        Some(&falling),
        &[(Severity::Warning, "sequence is descending")],
    );
    let single = OutboxTable {
        clustering_key: vec![],
        ..table()
    };
    check(
        &config(),
        Some(&single),
        &[(Severity::Warning, "overwrites the first")],
    );
}

#[test]
fn changes_are_forwarded_whole_or_that_is_said() {
    let mut forwarding = config();
    forwarding.source.on_change = OnChange::Forward;
    let mut table = table();
    let partial = [(Severity::Warning, "Forward without a postimage on app.outbox")];
    check(&forwarding, Some(&table), &partial);
    check(&config(), Some(&table), &[]);
    table.cdc.postimage = true;
    check(&forwarding, Some(&table), &[]);
}

#[test]
fn reconciliation_needs_a_column_that_dates_its_row() {
    let mut reconciling = config();
    reconciling.source.reconcile = Some(crds::source::Reconcile::default());
    check(&reconciling, Some(&table()), &[]);
    let mut dateless = table();
    for name in ["id", "event_type"] {
        dateless.partition_key.push(name.to_owned());
    }
    let kinds = [("map<text, text>", false), ("frozen<map<text, text>>", true)];
    for (kind, dated) in kinds {
        dateless.columns.insert("payload".to_owned(), kind.to_owned());
        let found = of_source(&reconciling, Some(&dateless));
        let said = found
            .iter()
            .any(|finding| finding.severity == Severity::Error && finding.field == "source.reconcile");
        assert_eq!(said, !dated, "{kind}: {found:?}");
    }
}

#[test]
fn short_retention_is_said() {
    let keeping = |seconds| {
        let mut table = table();
        table.cdc.ttl = seconds;
        table
    };
    check(&config(), Some(&keeping(None)), &[]);
    let day = keeping(Some(Duration::from_secs(86_400)));
    check(
        &config(),
        Some(&day),
        &[(Severity::Warning, "keeps rows for 86400 s")],
    );
    let minute = keeping(Some(Duration::from_secs(60)));
    check(
        &config(),
        Some(&minute),
        &[(Severity::Error, "less than source.horizonSeconds")],
    );
}

#[test]
fn a_polled_table_needs_no_cdc_and_tombstones_that_go_soon() {
    let mut config = config();
    config.source.mode = Mode::Polling;
    let polled = OutboxTable {
        cdc: CdcOptions::default(),
        tombstones: Duration::from_secs(600),
        ..table()
    };
    check(&config, Some(&polled), &[]);
    let unfit = OutboxTable {
        ttl: Some(Duration::from_secs(3600)),
        ..table()
    };
    let expected = [
        (Severity::Warning, "rows of app.outbox expire after 3600 s"),
        (
            Severity::Warning,
            "tombstones of what was delivered in the last 864000 s",
        ),
        (Severity::Warning, "app.outbox has CDC"),
    ];
    check(&config, Some(&unfit), &expected);
    let keys_only = OutboxTable {
        clustering_key: ["sequence", "id", "event_type", "payload"]
            .map(|name| ClusteringColumn {
                name: name.into(),
                descending: false,
            })
            .into(),
        ..polled
    };
    check(
        &config,
        Some(&keys_only),
        &[(
            Severity::Error,
            "has no write time that tells when a row was written",
        )],
    );
}
