//! The log table of a base table: its columns and options, and what ScyllaDB refuses
//! (`cdc/log.cc`, `create_log_schema`).

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::CqlError;
use crate::schema::builder::TableBuilder;
use crate::schema::{Catalog, ColumnKind, ColumnSchema, Partitioner, TableSchema};
use crate::storage::mutation::Timestamp;
use crate::types::CqlType;

pub const STREAM_ID: &str = "cdc$stream_id";
pub const TIME: &str = "cdc$time";
pub const BATCH_SEQ_NO: &str = "cdc$batch_seq_no";
pub const OPERATION: &str = "cdc$operation";
pub const TTL: &str = "cdc$ttl";
pub const END_OF_BATCH: &str = "cdc$end_of_batch";

/// A log column is dropped this many microseconds in the future, so that writes under way still find it;
/// until then no column of its name may be added (ScyllaDB `column_drop_leeway`).
const COLUMN_DROP_LEEWAY_MICROS: i64 = 5_000_000;

/// Compaction of the log is cut into this many windows per TTL.
const WINDOWS_PER_TTL: i32 = 24;

pub fn log_name(base: &str) -> String {
    format!("{base}_scylla_cdc_log")
}

pub fn deleted_name(column: &str) -> String {
    format!("cdc$deleted_{column}")
}

pub fn deleted_elements_name(column: &str) -> String {
    format!("cdc$deleted_elements_{column}")
}

/// The log table that `base` has from now on. `existing` is its log so far: it keeps its id, options and
/// columns' identities; while CDC is off it stays as it is.
///
/// # Errors
/// Invalid: a counter table, a log table as base, another table under the log's name, or a column added again
/// too soon after it was dropped.
pub fn log_table(
    catalog: &Catalog,
    base: &TableSchema,
    existing: Option<&TableSchema>,
    now: Timestamp,
) -> Result<TableSchema, CqlError> {
    if let Some(log) = existing.filter(|_| !base.cdc_enabled()) {
        return Ok(log.clone());
    }
    // A user's table may have the name; it is not taken over.
    let existing = existing.filter(|table| table.cdc_log_of.is_some());
    refuse_impossible_base(catalog, base)?;
    let mut log = with_columns(base);
    match existing {
        Some(old) => continue_from(&mut log, old, now)?,
        None => set_options(&mut log, base),
    }
    Ok(log)
}

fn refuse_impossible_base(catalog: &Catalog, base: &TableSchema) -> Result<(), CqlError> {
    let TableSchema { keyspace, name, .. } = base;
    let log = log_name(name);
    if base.cdc_log_of.is_some() {
        return Err(CqlError::invalid(format!(
            "Cannot create a CDC log for a table {keyspace}.{name}, because creating nested CDC logs is not allowed"
        )));
    }
    let taken = catalog
        .table(keyspace, &log)
        .is_some_and(|table| table.cdc_log_of.is_none());
    if taken {
        return Err(CqlError::invalid(format!(
            "Cannot create CDC log table for table {keyspace}.{name} because a table of name {keyspace}.{log} already exists"
        )));
    }
    if base.is_counter() {
        return Err(CqlError::invalid(format!(
            "Cannot create CDC log for table {keyspace}.{name}. Counter support not implemented"
        )));
    }
    Ok(())
}

fn with_columns(base: &TableSchema) -> TableSchema {
    let mut builder = TableBuilder::new(&base.keyspace, &log_name(&base.name))
        .partition_key(STREAM_ID, CqlType::Blob)
        .clustering(TIME, CqlType::Timeuuid)
        .clustering(BATCH_SEQ_NO, CqlType::Int)
        .regular(OPERATION, CqlType::Tinyint)
        .regular(TTL, CqlType::Bigint)
        .regular(END_OF_BATCH, CqlType::Boolean);
    for column in &base.columns {
        builder = builder.regular(&column.name, log_type(column));
        if column.kind.is_primary_key() {
            continue;
        }
        builder = builder.regular(&deleted_name(&column.name), CqlType::Boolean);
        if let Some(element) = element_key_type(&column.ty) {
            let set = CqlType::Set {
                element: Arc::new(element),
                frozen: true,
            };
            builder = builder.regular(&deleted_elements_name(&column.name), set);
        }
    }
    builder
        .with(|log| {
            log.id = Uuid::new_v4();
            log.version = Uuid::new_v4();
            log.partitioner = Partitioner::Cdc;
            log.cdc_log_of = Some(base.name.clone());
        })
        .build()
}

/// Lists become maps by timeuuid, or a change of one element could not be told; all else is frozen as it is.
fn log_type(column: &ColumnSchema) -> CqlType {
    match &column.ty {
        CqlType::List {
            element,
            frozen: false,
        } => CqlType::Map {
            key: Arc::new(CqlType::Timeuuid),
            value: element.clone(),
            frozen: true,
        },
        CqlType::Set {
            element,
            frozen: false,
        } => CqlType::Set {
            element: element.clone(),
            frozen: true,
        },
        CqlType::Map {
            key,
            value,
            frozen: false,
        } => CqlType::Map {
            key: key.clone(),
            value: value.clone(),
            frozen: true,
        },
        CqlType::Udt {
            definition,
            frozen: false,
        } => CqlType::Udt {
            definition: definition.clone(),
            frozen: true,
        },
        other => other.clone(),
    }
}

/// What names one element of a column of several cells.
fn element_key_type(ty: &CqlType) -> Option<CqlType> {
    match ty {
        CqlType::List { frozen: false, .. } => Some(CqlType::Timeuuid),
        CqlType::Set {
            element,
            frozen: false,
        } => Some((**element).clone()),
        CqlType::Map {
            key, frozen: false, ..
        } => Some((**key).clone()),
        CqlType::Udt { frozen: false, .. } => Some(CqlType::Smallint),
        _ => None,
    }
}

fn set_options(log: &mut TableSchema, base: &TableSchema) {
    let ttl = base.cdc.as_ref().map_or(0, |options| options.ttl);
    log.comment = format!("CDC log for {}.{}", base.keyspace, base.name);
    let mut compaction = "{'class': 'TimeWindowCompactionStrategy'".to_string();
    if ttl > 0 {
        log.gc_grace_seconds = 0;
        let window = (ttl - 1) / WINDOWS_PER_TTL + 1;
        let minutes = (window - 1) / 60 + 1;
        let check = (window / 2).max(1);
        compaction.push_str(&format!(
            ", 'compaction_window_size': '{minutes}', 'compaction_window_unit': 'MINUTES', \
             'expired_sstable_check_frequency_seconds': '{check}'"
        ));
    }
    compaction.push('}');
    log.options = BTreeMap::from([
        ("compaction".into(), compaction),
        (
            "caching".into(),
            "{'enabled': 'false', 'keys': 'NONE', 'rows_per_partition': 'NONE'}".into(),
        ),
        ("tombstone_gc".into(), "{'mode': 'timeout'}".into()),
    ]);
}

/// Makes `log` the next version of `old`.
fn continue_from(log: &mut TableSchema, old: &TableSchema, now: Timestamp) -> Result<(), CqlError> {
    log.id = old.id;
    log.gc_grace_seconds = old.gc_grace_seconds;
    log.default_time_to_live = old.default_time_to_live;
    log.comment.clone_from(&old.comment);
    log.options.clone_from(&old.options);
    log.dropped_columns.clone_from(&old.dropped_columns);
    let mut next = old.next_storage_id;
    for column in &mut log.columns {
        match old.column(&column.name).filter(|before| before.ty == column.ty) {
            Some(before) => column.storage_id = before.storage_id,
            None => {
                refuse_recent_drop(&column.name, old, now)?;
                log.dropped_columns.remove(&column.name);
                column.storage_id = next;
                next += 1;
            }
        }
    }
    log.next_storage_id = next;
    for column in &old.columns {
        if log.column_id(&column.name).is_none() && column.kind == ColumnKind::Regular {
            let dropped = (column.ty.clone(), now + COLUMN_DROP_LEEWAY_MICROS);
            log.dropped_columns.insert(column.name.clone(), dropped);
        }
    }
    Ok(())
}

fn refuse_recent_drop(name: &str, old: &TableSchema, now: Timestamp) -> Result<(), CqlError> {
    match old.dropped_columns.get(name) {
        Some((_, dropped)) if *dropped > now => Err(CqlError::invalid(format!(
            "Cannot add column {name} because a column with the same name was dropped too recently. Please retry \
             after {} seconds",
            (dropped - now) / 1_000_000 + 1
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
