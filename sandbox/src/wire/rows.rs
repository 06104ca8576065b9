//! RESULT Rows and the column descriptions of PREPARED.

use bytes::{BufMut, BytesMut};

use super::write;
use crate::query::api::{ColumnSpec, ResultMetadata, Rows};

/// Flags of column metadata.
mod flag {
    /// Keyspace and table stand once, in front.
    pub(super) const GLOBAL_TABLE: i32 = 0x1;
    pub(super) const MORE_PAGES: i32 = 0x2;
    pub(super) const NO_METADATA: i32 = 0x4;
}

/// Metadata, row count, rows. With `skip_metadata` the columns are counted but not described.
pub fn put(out: &mut BytesMut, rows: &Rows, skip_metadata: bool) {
    let columns = &rows.metadata.columns;
    let global = one_table(columns);
    let mut flags = match skip_metadata {
        true => flag::NO_METADATA,
        false => global_flag(global),
    };
    if rows.paging_state.is_some() {
        flags |= flag::MORE_PAGES;
    }
    out.put_i32(flags);
    out.put_i32(count(columns.len()));
    if let Some(state) = &rows.paging_state {
        write::bytes(out, Some(state));
    }
    if !skip_metadata {
        put_columns(out, columns, global);
    }
    out.put_i32(rows.row_count);
    out.extend_from_slice(&rows.data);
}

/// What PREPARED says of the bind markers.
pub fn put_bind_metadata(out: &mut BytesMut, binds: &[ColumnSpec], partition_key: &[u16]) {
    let global = one_table(binds);
    out.put_i32(global_flag(global));
    out.put_i32(count(binds.len()));
    out.put_i32(count(partition_key.len()));
    for position in partition_key {
        out.put_u16(*position);
    }
    put_columns(out, binds, global);
}

/// What PREPARED says of the result: no columns for anything but a SELECT.
pub fn put_result_metadata(out: &mut BytesMut, result: &ResultMetadata) {
    if result.columns.is_empty() {
        out.put_i32(flag::NO_METADATA);
        out.put_i32(0);
        return;
    }
    let global = one_table(&result.columns);
    out.put_i32(global_flag(global));
    out.put_i32(count(result.columns.len()));
    put_columns(out, &result.columns, global);
}

fn put_columns(out: &mut BytesMut, columns: &[ColumnSpec], global: Option<&ColumnSpec>) {
    if let Some(first) = global {
        write::string(out, &first.keyspace);
        write::string(out, &first.table);
    }
    for column in columns {
        if global.is_none() {
            write::string(out, &column.keyspace);
            write::string(out, &column.table);
        }
        write::string(out, &column.name);
        write::cql_type(out, &column.ty);
    }
}

/// The first column, if all are of its table.
fn one_table(columns: &[ColumnSpec]) -> Option<&ColumnSpec> {
    let first = columns.first()?;
    columns
        .iter()
        .all(|column| column.table == first.table && column.keyspace == first.keyspace)
        .then_some(first)
}

fn global_flag(global: Option<&ColumnSpec>) -> i32 {
    if global.is_some() { flag::GLOBAL_TABLE } else { 0 }
}

fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::types::CqlType;

    fn column(table: &str, name: &str) -> ColumnSpec {
        ColumnSpec {
            keyspace: Arc::from("k"),
            table: Arc::from(table),
            name: name.into(),
            ty: CqlType::Int,
        }
    }

    fn one_row(paging_state: Option<Bytes>) -> Rows {
        Rows {
            metadata: Arc::new(ResultMetadata {
                columns: vec![column("t", "a")],
            }),
            row_count: 1,
            data: vec![0, 0, 0, 4, 0, 0, 0, 5],
            paging_state,
        }
    }

    #[test]
    fn rows_follow_their_metadata() {
        let mut out = BytesMut::new();
        put(&mut out, &one_row(None), false);
        let expected: &[u8] = &[
            0, 0, 0, 1, 0, 0, 0, 1, 0, 1, b'k', 0, 1, b't', 0, 1, b'a', 0, 9, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0,
            0, 5,
        ];
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn skipped_metadata_still_pages() {
        let mut out = BytesMut::new();
        put(&mut out, &one_row(Some(Bytes::from_static(&[7]))), true);
        let expected: &[u8] = &[
            0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 1, 7, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 5,
        ];
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn binds_of_two_tables_name_them_each() {
        let mut out = BytesMut::new();
        put_bind_metadata(&mut out, &[column("t", "a"), column("u", "b")], &[1]);
        let expected: &[u8] = &[
            0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0, 1, b'k', 0, 1, b't', 0, 1, b'a', 0, 9, 0, 1, b'k',
            0, 1, b'u', 0, 1, b'b', 0, 9,
        ];
        assert_eq!(&out[..], expected);
    }
}
