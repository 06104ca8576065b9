//! The tables in which readers find streams (ScyllaDB `db/system_distributed_keyspace.cc`,
//! `db/virtual_tables.cc`, `db/system_keyspace.cc`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::cdc::generations::Generation;
use crate::cdc::service::{CdcService, Streams};
use crate::cdc::stream_id::StreamId;
use crate::error::CqlError;
use crate::query::virtual_table::{VirtualContext, VirtualRow, VirtualTable};
use crate::schema::TableSchema;
use crate::schema::builder::TableBuilder;
use crate::storage::mutation::Timestamp;
use crate::types::CqlType;

/// All of them, for the engine's options.
pub fn virtual_tables(service: &Arc<CdcService>) -> Vec<Arc<dyn VirtualTable>> {
    let definitions: [(TableSchema, Fill); 5] = [
        (generation_timestamps(), generation_timestamp_rows),
        (streams_descriptions(), streams_description_rows),
        (cdc_timestamps(), cdc_timestamp_rows),
        (cdc_streams(), cdc_stream_rows),
        (cdc_local(), cdc_local_rows),
    ];
    let table = |(schema, fill)| {
        Arc::new(StreamTable {
            schema: Arc::new(schema),
            service: service.clone(),
            fill,
        }) as Arc<dyn VirtualTable>
    };
    definitions.into_iter().map(table).collect()
}

type Fill = fn(&Streams, Timestamp) -> Vec<VirtualRow>;

struct StreamTable {
    schema: Arc<TableSchema>,
    service: Arc<CdcService>,
    fill: Fill,
}

impl VirtualTable for StreamTable {
    fn schema(&self) -> Arc<TableSchema> {
        self.schema.clone()
    }

    fn rows(&self, context: &VirtualContext<'_>) -> Result<Vec<VirtualRow>, CqlError> {
        self.service.collect_garbage(context.catalog);
        Ok(self.service.with_streams(self.fill))
    }
}

fn generation_timestamps() -> TableSchema {
    TableBuilder::new("system_distributed", "cdc_generation_timestamps")
        .partition_key("key", CqlType::Text)
        .clustering_desc("time", CqlType::Timestamp)
        .regular("expired", CqlType::Timestamp)
        .build()
}

fn generation_timestamp_rows(streams: &Streams, now: Timestamp) -> Vec<VirtualRow> {
    let row =
        |generation: &Arc<Generation>| vec![text("timestamps"), bigint(generation.start_millis()), None];
    streams.generations.published(now).map(row).collect()
}

fn streams_descriptions() -> TableSchema {
    let blobs = CqlType::Set {
        element: Arc::new(CqlType::Blob),
        frozen: true,
    };
    TableBuilder::new("system_distributed", "cdc_streams_descriptions_v2")
        .partition_key("time", CqlType::Timestamp)
        .clustering("range_end", CqlType::Bigint)
        .regular("streams", blobs)
        .build()
}

fn streams_description_rows(streams: &Streams, now: Timestamp) -> Vec<VirtualRow> {
    let mut rows = Vec::new();
    for generation in streams.generations.published(now) {
        for vnode in &generation.vnodes {
            rows.push(vec![
                bigint(generation.start_millis()),
                bigint(vnode.range_end),
                blob_set(&vnode.streams),
            ]);
        }
    }
    rows
}

fn cdc_timestamps() -> TableSchema {
    TableBuilder::new("system", "cdc_timestamps")
        .partition_key("keyspace_name", CqlType::Text)
        .partition_key("table_name", CqlType::Text)
        .clustering_desc("timestamp", CqlType::Timestamp)
        .build()
}

fn cdc_timestamp_rows(streams: &Streams, now: Timestamp) -> Vec<VirtualRow> {
    let mut rows = Vec::new();
    for table in streams.tablets.tables() {
        for set in streams.tablets.published(table, now) {
            rows.push(vec![text(&table.0), text(&table.1), bigint(set.start / 1_000)]);
        }
    }
    rows
}

fn cdc_streams() -> TableSchema {
    TableBuilder::new("system", "cdc_streams")
        .partition_key("keyspace_name", CqlType::Text)
        .partition_key("table_name", CqlType::Text)
        .clustering("timestamp", CqlType::Timestamp)
        .clustering("stream_state", CqlType::Tinyint)
        .clustering("stream_id", CqlType::Blob)
        .build()
}

fn cdc_stream_rows(streams: &Streams, now: Timestamp) -> Vec<VirtualRow> {
    let mut rows = Vec::new();
    for table in streams.tablets.tables() {
        for (millis, state, id) in streams.tablets.stream_rows(table, now) {
            let state = Some(Bytes::copy_from_slice(&[state as u8]));
            rows.push(vec![
                text(&table.0),
                text(&table.1),
                bigint(millis),
                state,
                blob(&id),
            ]);
        }
    }
    rows
}

fn cdc_local() -> TableSchema {
    TableBuilder::new("system", "cdc_local")
        .partition_key("key", CqlType::Text)
        .regular("streams_timestamp", CqlType::Timestamp)
        .regular("uuid", CqlType::Uuid)
        .build()
}

/// The generation that this node knows last.
fn cdc_local_rows(streams: &Streams, now: Timestamp) -> Vec<VirtualRow> {
    let known = streams
        .generations
        .all()
        .iter()
        .rev()
        .find(|generation| generation.learned <= now);
    known
        .map(|generation| vec![text("cdc_local"), bigint(generation.start_millis()), None])
        .into_iter()
        .collect()
}

fn text(value: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

fn bigint(value: i64) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(&value.to_be_bytes()))
}

fn blob(id: &StreamId) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(id.as_bytes()))
}

/// Sorted by bytes, as a frozen set is: not the order of shards.
fn blob_set(ids: &[StreamId]) -> Option<Bytes> {
    let mut ids: Vec<_> = ids.iter().map(StreamId::as_bytes).collect();
    ids.sort_unstable();
    let mut set = BytesMut::new();
    // A node has at most a few hundred shards.
    set.put_i32(ids.len() as i32);
    for id in ids {
        set.put_i32(id.len() as i32);
        set.put_slice(id);
    }
    Some(set.freeze())
}
