//! Whether table, topic and configuration are fit for the promise: a finding each, with its fix. Pure; `check` prints
//! them, `run` puts the order findings into status and metrics.

use crds::RelayConfig;
use crds::sink::Key;
use crds::source::{Mode, OnChange, StartFrom};
use crds::topic_template::TopicTemplate;

use crate::cdc_log::table::OutboxTable;
use crate::outbox::dated_by;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Works, with less than the whole promise.
    Warning,
    /// Nothing would be delivered, or data would be lost.
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// What it is about, as the configuration names it.
    pub field: &'static str,
    pub text: String,
    /// What to do about it; empty if nothing is to be done.
    pub fix: String,
}

impl Finding {
    pub fn fine(field: &'static str, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fine,
            field,
            text: text.into(),
            fix: String::new(),
        }
    }

    pub fn warning(field: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            field,
            text: text.into(),
            fix: fix.into(),
        }
    }

    pub fn error(field: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            field,
            text: text.into(),
            fix: fix.into(),
        }
    }
}

/// Everything that the schema tells about the source.
pub fn of_source(config: &RelayConfig, table: Option<&OutboxTable>) -> Vec<Finding> {
    let name = format!("{}.{}", config.source.keyspace, config.source.table);
    let Some(table) = table else {
        let keyspace = &config.source.keyspace;
        return vec![Finding::error(
            "source.table",
            format!("there is no table {name}; is source.keyspace {keyspace} the right one?"),
            "create it; `outbox-relay schema` prints the recommended one",
        )];
    };
    let mut findings = vec![Finding::fine("source.table", format!("table {name} is there"))];
    findings.extend(columns(config, table));
    match config.source.mode {
        Mode::Streaming => {
            findings.push(cdc(config, table, &name));
            findings.extend(changes(config, table, &name));
            findings.extend(reconcile(config, table, &name));
            findings.extend(retention(config, table, &name));
        }
        Mode::Polling => findings.extend(polling(config, table, &name)),
    }
    match order(config, table) {
        Ok(()) => findings.push(Finding::fine(
            "source.table",
            "events of one aggregate keep their order",
        )),
        Err(finding) => findings.push(finding),
    }
    findings
}

/// Whether the events of one aggregate keep their order, or why that cannot be promised.
///
/// # Errors
/// The finding that says why, with its fix.
pub fn order(config: &RelayConfig, table: &OutboxTable) -> Result<(), Finding> {
    let columns = &config.source.columns;
    if table.partition_key != [columns.aggregate_id.as_str()] {
        return Err(Finding::warning(
            "source.table",
            format!(
                "order is not promised: the partition key ({}) scatters the events of one aggregate",
                table.partition_key.join(", ")
            ),
            format!(
                "use PRIMARY KEY ({}, <timeuuid or sequence>); `outbox-relay schema` prints such a table",
                columns.aggregate_id
            ),
        ));
    }
    key_follows_aggregate(config)?;
    rises(table)
}

fn key_follows_aggregate(config: &RelayConfig) -> Result<(), Finding> {
    let aggregate = &config.source.columns.aggregate_id;
    let key = match config.sink.key {
        Key::AggregateId => return Ok(()),
        Key::Column if config.sink.key_column.as_ref() == Some(aggregate) => return Ok(()),
        Key::EventId => "eventId".to_owned(),
        Key::Column => format!("column {}", config.sink.key_column.as_deref().unwrap_or_default()),
    };
    Err(Finding::warning(
        "sink.key",
        format!("order is not promised: the message key ({key}) is no function of the partition key"),
        "use key: AggregateId",
    ))
}

/// Rows of one batch stand in the log in clustering order, so that order must be the order of events.
fn rises(table: &OutboxTable) -> Result<(), Finding> {
    let Some(first) = table.clustering_key.first() else {
        return Err(Finding::warning(
            "source.table",
            "one row per aggregate: a second event of it overwrites the first",
            "add a clustering column that rises: a timeuuid or a sequence number",
        ));
    };
    let kind = table.columns.get(&first.name).map_or("", String::as_str);
    if kind == "uuid" {
        return Err(Finding::warning(
            "source.table",
            format!(
                "order within one batch is not promised: clustering column {} is a random uuid",
                first.name
            ),
            "use a timeuuid or a sequence number",
        ));
    }
    if first.descending {
        return Err(Finding::warning(
            "source.table",
            format!(
                "events of one batch come in reverse: clustering column {} is descending",
                first.name
            ),
            "use CLUSTERING ORDER BY (... ASC)",
        ));
    }
    Ok(())
}

fn columns(config: &RelayConfig, table: &OutboxTable) -> Vec<Finding> {
    let mut there: Vec<_> = table.columns.keys().map(String::as_str).collect();
    there.sort_unstable();
    let missing = |(field, name): (&'static str, String)| {
        let fix = format!("name one of the table's columns: {}", there.join(", "));
        (!there.contains(&name.as_str()))
            .then(|| Finding::error(field, format!("there is no column {name}"), fix))
    };
    named_columns(config).into_iter().filter_map(missing).collect()
}

/// Every column that the configuration names, and where.
fn named_columns(config: &RelayConfig) -> Vec<(&'static str, String)> {
    let columns = &config.source.columns;
    let mut named = vec![
        ("source.columns.id", columns.id.clone()),
        ("source.columns.aggregateId", columns.aggregate_id.clone()),
        ("source.columns.eventType", columns.event_type.clone()),
        ("source.columns.payload", columns.payload.clone()),
    ];
    let optional = [
        ("source.columns.aggregateType", &columns.aggregate_type),
        ("source.columns.createdAt", &columns.created_at),
        ("source.columns.sequence", &columns.sequence),
        ("source.columns.headers", &columns.headers),
        ("source.columns.traceContext", &columns.trace_context),
        ("sink.keyColumn", &config.sink.key_column),
    ];
    named.extend(
        optional
            .into_iter()
            .filter_map(|(field, name)| Some((field, name.clone()?))),
    );
    named.extend(
        config
            .sink
            .headers
            .iter()
            .filter_map(|header| Some(("sink.headers", header.column.clone()?))),
    );
    // A template that cannot be parsed was refused by validation.
    if let Ok(topic) = TopicTemplate::parse(&config.sink.topic) {
        named.extend(topic.columns().map(|name| ("sink.topic", name.to_owned())));
    }
    named
}

fn cdc(config: &RelayConfig, table: &OutboxTable, name: &str) -> Finding {
    let payload = &config.source.columns.payload;
    if !table.cdc.enabled {
        return Finding::error(
            "source.table",
            format!("CDC is not enabled on {name}: its events leave no trace in the log"),
            format!(
                "ALTER TABLE {name} WITH cdc = {{'enabled': true}}; for a database without CDC: source.mode Polling"
            ),
        );
    }
    if table.cdc.delta_keys && !table.cdc.postimage && !table.is_key(payload) {
        return Finding::error(
            "source.table",
            format!("the log of {name} hides column {payload}: its delta holds keys only"),
            format!(
                "ALTER TABLE {name} WITH cdc = {{'enabled': true, 'delta': 'full'}}, or 'postimage': true"
            ),
        );
    }
    Finding::fine("source.table", "CDC is enabled and shows the payload")
}

/// A change that is forwarded needs the whole row, which only the postimage has.
fn changes(config: &RelayConfig, table: &OutboxTable, name: &str) -> Option<Finding> {
    let partial = config.source.on_change == OnChange::Forward && !table.cdc.postimage;
    partial.then(|| {
        Finding::warning(
            "source.onChange",
            format!(
                "Forward without a postimage on {name}: an update shows only the columns that it set, so its event lacks \
                 the others, and becomes a dead letter if it cannot do without them"
            ),
            format!("ALTER TABLE {name} WITH cdc = {{'enabled': true, 'postimage': true}}, or onChange: Ignore"),
        )
    })
}

/// What is found in the table is dated by the write time of a column.
fn reconcile(config: &RelayConfig, table: &OutboxTable, name: &str) -> Option<Finding> {
    if config.source.start_from == StartFrom::Snapshot {
        undated(config, table, name, "source.startFrom: Snapshot")
    } else {
        config.source.reconcile.as_ref()?;
        undated(config, table, name, "source.reconcile")
    }
}

fn undated(config: &RelayConfig, table: &OutboxTable, name: &str, field: &'static str) -> Option<Finding> {
    let columns = &config.source.columns;
    let mapped = [
        &columns.id,
        &columns.aggregate_id,
        &columns.event_type,
        &columns.payload,
    ]
    .map(Clone::clone);
    dated_by(table, &mapped).is_empty().then(|| {
        Finding::error(
            field,
            format!(
                "every mapped column of {name} is a part of its key or a collection, and has no write time that tells when a \
                 row was written"
            ),
            format!("a payload column of type text or blob, or no {field}"),
        )
    })
}

/// A poll passes over the tombstones of what was delivered: more than those of an hour cost more than the rows.
const TOMBSTONES_ADVISED_SECONDS: u64 = 3600;

/// What is in the table is not delivered, and how long it stays there is all that is known of it.
fn polling(config: &RelayConfig, table: &OutboxTable, name: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(undated(config, table, name, "source.mode"));
    if let Some(ttl) = table.ttl.map(|ttl| ttl.as_secs()) {
        let text =
            format!("rows of {name} expire after {ttl} s: a longer outage of relay or broker loses events");
        let fix =
            format!("ALTER TABLE {name} WITH default_time_to_live = 0: the relay deletes what is delivered");
        findings.push(Finding::warning("source.table", text, fix));
    }
    let tombstones = table.tombstones.as_secs();
    if tombstones > TOMBSTONES_ADVISED_SECONDS {
        let text = format!(
            "each look at {name} passes over the tombstones of what was delivered in the last {tombstones} s \
             (gc_grace_seconds)"
        );
        let fix = format!(
            "ALTER TABLE {name} WITH gc_grace_seconds = {TOMBSTONES_ADVISED_SECONDS}: a deleted row that comes back later is \
             delivered again, not lost"
        );
        findings.push(Finding::warning("source.table", text, fix));
    }
    if table.cdc.enabled {
        let text =
            format!("{name} has CDC: polling adds a row to its log for each delete, and takes seconds");
        findings.push(Finding::warning(
            "source.mode",
            text,
            "source.mode Streaming, or switch CDC off",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("source.mode", "the table can be polled"));
    }
    findings
}

/// An outage shorter than this should lose nothing: a weekend.
const RETENTION_ADVISED_SECONDS: u64 = 2 * 86_400;

fn retention(config: &RelayConfig, table: &OutboxTable, name: &str) -> Option<Finding> {
    let ttl = table.cdc.ttl?.as_secs();
    let horizon = u64::from(config.source.horizon_seconds);
    let fix =
        format!("ALTER TABLE {name} WITH cdc = {{'enabled': true, 'ttl': '604800'}} keeps it for a week");
    if ttl <= horizon {
        let text = format!("the log keeps rows for {ttl} s, less than source.horizonSeconds ({horizon} s)");
        return Some(Finding::error("source.horizonSeconds", text, fix));
    }
    let text = format!("the log keeps rows for {ttl} s: a longer outage of relay or broker loses events");
    (ttl < RETENTION_ADVISED_SECONDS).then(|| Finding::warning("source.table", text, fix))
}

#[cfg(test)]
mod tests;
