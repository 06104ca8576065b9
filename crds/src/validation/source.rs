//! The outbox table.

use super::{Form, addresses, cql_name, is_system_keyspace, secrets};
use crate::names::{CQL_NAME, CQL_PORT};
use crate::problems::Problems;
use crate::source::{Cleanup, Columns, OnChange, Source};

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

/// What is still in the table was never delivered only if what was delivered is deleted, and a row is one event.
fn reconcile(source: &Source, problems: &mut Problems) {
    if source.reconcile.is_none() {
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
