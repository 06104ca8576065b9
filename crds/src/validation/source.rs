//! The outbox table.

use super::{Form, addresses, cql_name, is_system_keyspace, secrets};
use crate::RelayConfig;
use crate::names::{CQL_NAME, CQL_PORT};
use crate::problems::Problems;
use crate::sink::Guarantee;
use crate::source::{Cleanup, Columns, Consistency, Mode, OnChange, Source, StartFrom};

/// What ScyllaDB appends to a table's name for its CDC log.
const LOG_SUFFIX: &str = "_scylla_cdc_log";

pub(super) fn check(source: &Source, form: Form, problems: &mut Problems) {
    let accepted = "host or host:port, as in scylla-0.example.org:9042";
    addresses(
        "source.contactPoints",
        &source.contact_points,
        Some(CQL_PORT),
        accepted,
        problems,
    );
    if source
        .local_datacenter
        .as_deref()
        .is_some_and(|name| name.trim().is_empty())
    {
        problems.refuse_text(
            "source.localDatacenter",
            "",
            "the name of a datacenter, as in nodetool status",
        );
    }
    keyspace_and_table(source, problems);
    columns(&source.columns, problems);
    let (secret, files) = (
        source.credentials_secret_ref.as_ref(),
        source.credentials.as_ref(),
    );
    secrets::credentials("source", secret, files, form, problems);
    if let Some(tls) = &source.tls {
        secrets::tls("source.tls", tls, form, problems);
    }
    reconcile(source, problems);
}

/// A poller takes what is in the table for undelivered, and knows nothing of it but what the table says.
pub(super) fn polling(config: &RelayConfig, problems: &mut Problems) {
    let source = &config.source;
    if source.mode != Mode::Polling {
        return;
    }
    let mut refuse = |path: &str, found: &str, accepted: &str| {
        if !problems.has(path) {
            problems.refuse_text(path, found, accepted);
        }
    };
    if source.cleanup != Cleanup::Delete {
        let accepted = "Delete with source.mode Polling: each row that is in the table is delivered, so those that were have to go";
        refuse("source.cleanup", "Keep", accepted);
    }
    if source.on_change != OnChange::Ignore {
        let accepted = "Ignore with source.mode Polling: only the CDC log tells of changes";
        refuse("source.onChange", "Forward", accepted);
    }
    let level = match source.consistency {
        Consistency::One => Some("One"),
        Consistency::LocalOne => Some("LocalOne"),
        Consistency::Quorum | Consistency::LocalQuorum | Consistency::All => None,
    };
    if let Some(level) = level {
        let accepted = "LocalQuorum, Quorum or All with source.mode Polling: else a row that was deleted may still be read, and is \
                        delivered again";
        refuse("source.consistency", level, accepted);
    }
    if config.sink.guarantee == Guarantee::ExactlyOnce {
        let accepted = "AtLeastOnce with source.mode Polling: a row and its message cannot be deleted and committed in one step, and \
                        nothing but the row tells whether it was delivered";
        refuse("sink.guarantee", "ExactlyOnce", accepted);
    }
    if source.reconcile.is_some() {
        let accepted = "no source.reconcile with source.mode Polling, which finds every row of the table";
        problems.refuse("source.reconcile", "a section", accepted);
    }
}

/// The rows of the table come before those of the log.
pub(super) fn snapshot(config: &RelayConfig, problems: &mut Problems) {
    let source = &config.source;
    if source.start_from != StartFrom::Snapshot || problems.has("source.startFrom") {
        return;
    }
    let accepted = if source.mode == Mode::Polling {
        "Oldest, Now or a time with source.mode Polling, which takes all rows of the table anyway"
    } else if config.sink.guarantee == Guarantee::ExactlyOnce {
        "Oldest, Now or a time with sink.guarantee ExactlyOnce; to have the rows of the table too, begin with AtLeastOnce and \
         change sink.guarantee when outbox_relay_snapshot_slots is 0"
    } else {
        return;
    };
    problems.refuse_text("source.startFrom", "Snapshot", accepted);
}

/// What is still in the table was never delivered only if what was delivered is deleted, and a row is one event.
fn reconcile(source: &Source, problems: &mut Problems) {
    if source.reconcile.is_none() {
        return;
    }
    if source.mode == Mode::Polling {
        return;
    }
    if source.cleanup != Cleanup::Delete && !problems.has("source.cleanup") {
        let accepted = "Delete with source.reconcile, which takes what is left in the table for undelivered; or no source.reconcile";
        problems.refuse_text("source.cleanup", "Keep", accepted);
    }
    if source.on_change != OnChange::Ignore && !problems.has("source.onChange") {
        let accepted = "Ignore with source.reconcile, which delivers rows and not changes of them; or no source.reconcile";
        problems.refuse_text("source.onChange", "Forward", accepted);
    }
}

fn keyspace_and_table(source: &Source, problems: &mut Problems) {
    match source.keyspace.as_str() {
        "" => problems.missing("source.keyspace", CQL_NAME),
        name if is_system_keyspace(name) => {
            problems.refuse_text("source.keyspace", name, "a keyspace of your own")
        }
        name => cql_name("source.keyspace", name, problems),
    }
    match source.table.as_str() {
        "" => problems.missing("source.table", CQL_NAME),
        name if name.ends_with(LOG_SUFFIX) => {
            let accepted = format!("the outbox table itself, {:?}", name.trim_end_matches(LOG_SUFFIX));
            problems.refuse_text("source.table", name, accepted);
        }
        name => cql_name("source.table", name, problems),
    }
}

fn columns(columns: &Columns, problems: &mut Problems) {
    let Columns {
        id,
        aggregate_id,
        aggregate_type,
        event_type,
        payload,
        created_at,
        sequence,
        headers,
        trace_context,
    } = columns;
    for (role, name) in [
        ("id", Some(id)),
        ("aggregateId", Some(aggregate_id)),
        ("aggregateType", aggregate_type.as_ref()),
        ("eventType", Some(event_type)),
        ("payload", Some(payload)),
        ("createdAt", created_at.as_ref()),
        ("sequence", sequence.as_ref()),
        ("headers", headers.as_ref()),
        ("traceContext", trace_context.as_ref()),
    ] {
        if let Some(name) = name {
            cql_name(format!("source.columns.{role}"), name, problems);
        }
    }
}
