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
    refuse_impossible_base(catalog, base, existing.is_some())?;
    let mut log = with_columns(base);
    match existing {
        Some(old) => continue_from(&mut log, old, now)?,
        None => set_options(&mut log, base),
    }
    Ok(log)
}

fn refuse_impossible_base(catalog: &Catalog, base: &TableSchema, has_log: bool) -> Result<(), CqlError> {
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
    if !has_log && taken {
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
mod tests {
    use super::log_table;
    use crate::error::ErrorKind;
    use crate::schema::builder::TableBuilder;
    use crate::schema::{Catalog, CdcOptions, KeyspaceSchema, Partitioner, TableSchema};
    use crate::types::{CqlType, UdtDefinition};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    const NOW: i64 = 1_700_000_000_000_000;

    fn enabled() -> CdcOptions {
        CdcOptions {
            enabled: true,
            ..CdcOptions::default()
        }
    }

    fn base(columns: &[(&str, CqlType)]) -> TableSchema {
        let mut builder = TableBuilder::new("ks", "t")
            .partition_key("pk", CqlType::Int)
            .clustering("ck", CqlType::Text)
            .static_column("s", CqlType::Int);
        for (name, ty) in columns {
            builder = builder.regular(name, ty.clone());
        }
        builder.with(|table| table.cdc = Some(enabled())).build()
    }

    fn log_of(base: &TableSchema, existing: Option<&TableSchema>, now: i64) -> TableSchema {
        log_table(&Catalog::default(), base, existing, now).unwrap()
    }

    #[test]
    fn columns_are_those_of_the_documentation_in_select_order() {
        let log = log_of(&base(&[("v", CqlType::Int)]), None, NOW);
        let names: Vec<_> = log.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "cdc$stream_id",
                "cdc$time",
                "cdc$batch_seq_no",
                "cdc$deleted_s",
                "cdc$deleted_v",
                "cdc$end_of_batch",
                "cdc$operation",
                "cdc$ttl",
                "ck",
                "pk",
                "s",
                "v",
            ]
        );
        assert_eq!(log.partitioner, Partitioner::Cdc);
        assert_eq!(
            (log.gc_grace_seconds, log.comment.as_str()),
            (0, "CDC log for ks.t")
        );
        assert_eq!(
            log.options["compaction"],
            "{'class': 'TimeWindowCompactionStrategy', 'compaction_window_size': '60', \
             'compaction_window_unit': 'MINUTES', 'expired_sstable_check_frequency_seconds': '1800'}"
        );
    }

    #[test]
    fn columns_of_several_cells_are_frozen_and_get_deleted_elements() {
        let int = Arc::new(CqlType::Int);
        let text = Arc::new(CqlType::Text);
        let udt = Arc::new(UdtDefinition {
            keyspace: "ks".into(),
            name: "u".into(),
            fields: vec![],
        });
        let set = |element: &CqlType| CqlType::Set {
            element: Arc::new(element.clone()),
            frozen: true,
        };
        let map = |key: &CqlType, frozen| CqlType::Map {
            key: Arc::new(key.clone()),
            value: text.clone(),
            frozen,
        };
        let cases = [
            (
                map(&CqlType::Int, false),
                map(&CqlType::Int, true),
                Some(set(&CqlType::Int)),
            ),
            (map(&CqlType::Int, true), map(&CqlType::Int, true), None),
            (
                CqlType::Set {
                    element: int.clone(),
                    frozen: false,
                },
                set(&CqlType::Int),
                Some(set(&CqlType::Int)),
            ),
            (
                CqlType::List {
                    element: text.clone(),
                    frozen: false,
                },
                map(&CqlType::Timeuuid, true),
                Some(set(&CqlType::Timeuuid)),
            ),
            (
                CqlType::Udt {
                    definition: udt.clone(),
                    frozen: false,
                },
                CqlType::Udt {
                    definition: udt.clone(),
                    frozen: true,
                },
                Some(set(&CqlType::Smallint)),
            ),
            (CqlType::Text, CqlType::Text, None),
        ];
        for (given, logged, deleted_elements) in cases {
            let log = log_of(&base(&[("c", given.clone())]), None, NOW);
            assert_eq!(log.column("c").unwrap().ty, logged, "{given:?}");
            let elements = log
                .column("cdc$deleted_elements_c")
                .map(|column| column.ty.clone());
            assert_eq!(elements, deleted_elements, "{given:?}");
        }
    }

    #[test]
    fn the_log_follows_its_base_and_keeps_what_it_was() {
        let first = log_of(&base(&[("a", CqlType::Int), ("b", CqlType::Int)]), None, NOW);
        let altered = TableSchema {
            gc_grace_seconds: 86_400,
            ..first.clone()
        };
        let second = log_of(
            &base(&[("b", CqlType::Int), ("c", CqlType::Int)]),
            Some(&altered),
            NOW,
        );
        assert_eq!((second.id, second.gc_grace_seconds), (first.id, 86_400));
        assert_ne!(second.version, first.version);
        assert!(second.column("a").is_none() && second.column("cdc$deleted_c").is_some());
        assert_eq!(
            second.column("b").unwrap().storage_id,
            first.column("b").unwrap().storage_id
        );
        let mut ids: Vec<_> = second.columns.iter().map(|column| column.storage_id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), second.columns.len(), "storage ids are unique");

        let again = base(&[("a", CqlType::Int), ("b", CqlType::Int)]);
        let error = log_table(&Catalog::default(), &again, Some(&second), NOW + 4_999_999).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let third = log_of(&again, Some(&second), NOW + 5_000_000);
        assert_ne!(
            third.column("a").unwrap().storage_id,
            first.column("a").unwrap().storage_id
        );
    }

    #[test]
    fn while_cdc_is_off_the_log_stays_as_it_is() {
        let log = log_of(&base(&[("a", CqlType::Int)]), None, NOW);
        let mut off = base(&[("b", CqlType::Int)]);
        off.cdc = Some(CdcOptions::default());
        assert_eq!(log_of(&off, Some(&log), NOW).version, log.version);
    }

    #[test]
    fn ttl_0_keeps_gc_grace() {
        let mut forever = base(&[]);
        forever.cdc = Some(CdcOptions { ttl: 0, ..enabled() });
        let log = log_of(&forever, None, NOW);
        assert_eq!(log.gc_grace_seconds, 864_000);
        assert_eq!(
            log.options["compaction"],
            "{'class': 'TimeWindowCompactionStrategy'}"
        );
    }

    #[test]
    fn impossible_bases_are_refused() {
        let users = TableBuilder::new("ks", "t_scylla_cdc_log")
            .partition_key("a", CqlType::Int)
            .build();
        let keyspace = KeyspaceSchema {
            name: "ks".into(),
            replication: BTreeMap::new(),
            durable_writes: true,
            initial_tablets: None,
            tables: BTreeMap::from([("t_scylla_cdc_log".to_string(), Arc::new(users))]),
            types: BTreeMap::new(),
        };
        let occupied = Catalog {
            keyspaces: BTreeMap::from([("ks".to_string(), Arc::new(keyspace))]),
            ..Catalog::default()
        };
        let log = log_of(&base(&[]), None, NOW);
        let nested = TableSchema {
            cdc: Some(enabled()),
            ..log
        };
        let empty = Catalog::default();
        let cases = [
            (
                &occupied,
                base(&[]),
                "because a table of name ks.t_scylla_cdc_log already exists",
            ),
            (
                &empty,
                base(&[("n", CqlType::Counter)]),
                "Counter support not implemented",
            ),
            (&empty, nested, "creating nested CDC logs is not allowed"),
        ];
        for (catalog, base, reason) in cases {
            let error = log_table(catalog, &base, None, NOW).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.ends_with(reason), "{}", error.message);
        }
    }
}
