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
