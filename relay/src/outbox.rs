//! The outbox table on a real cluster: the `Outbox` port over the `scylla` driver.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use scylla::client::session::Session;
use scylla::cluster::metadata::ColumnType;
use scylla::deserialize::row::ColumnIterator;
use scylla::errors::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

use crate::cdc_log::read::{fetch, next, primary_key};
use crate::cdc_log::table::OutboxTable;
use crate::cdc_log::{errors, prepare};
use crate::ledger::RowKey;
use crate::model::Micros;
use crate::ports::{LogError, Outbox, OutboxPage, OutboxRow, PageState};

/// One outbox table.
pub struct ScyllaOutbox {
    session: Arc<Session>,
    delete: PreparedStatement,
    scan: Option<PreparedStatement>,
    partition_key: usize,
    clustering_key: usize,
    mapped: usize,
    /// Columns whose write times are read.
    dated: usize,
}

/// How a table is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Seldom, or once: nothing of it is worth a place in the cache.
    Seldom,
    /// Again and again.
    Poll,
}

impl ScyllaOutbox {
    /// `mapped` are the columns that events are made of.
    ///
    /// # Errors
    /// [`LogError::Configuration`] if the table or one of the columns is missing.
    pub async fn open(
        session: Arc<Session>,
        table: &OutboxTable,
        mapped: &[String],
        scan: Scan,
        consistency: Consistency,
    ) -> Result<Self, LogError> {
        let name = format!("\"{}\".\"{}\"", table.keyspace, table.name);
        let quoted = |name: &String| format!("\"{name}\"");
        let partition_key: Vec<_> = table.partition_key.iter().map(quoted).collect();
        let clustering_key = table.clustering_key.iter().map(|key| quoted(&key.name));
        let key: Vec<_> = partition_key.iter().cloned().chain(clustering_key).collect();
        let is = key.iter().map(|column| format!("{column} = ?"));
        let row = is.collect::<Vec<_>>().join(" AND ");
        let delete = format!("DELETE FROM {name} USING TIMESTAMP ? WHERE {row}");
        let delete = prepare(&session, delete, consistency).await?;
        let mut dated = dated_by(table, mapped);
        if scan == Scan::Seldom {
            dated.truncate(1);
        }
        // Others than ScyllaDB do not know it.
        let bypass = if scan == Scan::Seldom { " BYPASS CACHE" } else { "" };
        let scan = if dated.is_empty() {
            None
        } else {
            let mut columns = key.clone();
            columns.extend(mapped.iter().map(quoted));
            columns.extend(dated.iter().map(|name| format!("writetime(\"{name}\")")));
            let token = format!("token({})", partition_key.join(", "));
            let text = format!(
                "SELECT {} FROM {name} WHERE {token} >= ? AND {token} <= ?{bypass}",
                columns.join(", ")
            );
            Some(prepare(&session, text, consistency).await?)
        };
        Ok(Self {
            session,
            delete,
            scan,
            partition_key: table.partition_key.len(),
            clustering_key: table.clustering_key.len(),
            mapped: mapped.len(),
            dated: dated.len(),
        })
    }
}

/// The columns of `mapped` whose write times tell when a row was written. Keys have none, and those of collections are
/// many.
pub fn dated_by<'a>(table: &OutboxTable, mapped: &'a [String]) -> Vec<&'a str> {
    let dated = |name: &&String| {
        let cql_type = table.columns.get(*name).map_or("", String::as_str);
        let is_collection = ["list<", "set<", "map<"]
            .iter()
            .any(|kind| cql_type.starts_with(kind));
        !table.is_key(name) && !cql_type.is_empty() && !is_collection
    };
    mapped.iter().filter(dated).map(String::as_str).collect()
}

impl Outbox for ScyllaOutbox {
    fn delete(&self, key: RowKey, at: Micros) -> BoxFuture<'_, Result<(), LogError>> {
        async move {
            // What names no row cannot be deleted: a change of static columns, for one.
            let Some(parts) = parts(&key) else {
                return Ok(());
            };
            let mut values = vec![Bound::Timestamp(at)];
            values.extend(parts.into_iter().map(Bound::Raw));
            let done = self.session.execute_unpaged(&self.delete, values).await;
            done.map(drop).map_err(|error| errors::executing(&error))
        }
        .boxed()
    }

    fn scan(
        &self,
        tokens: (i64, i64),
        page: Option<PageState>,
        rows: i32,
    ) -> BoxFuture<'_, Result<OutboxPage, LogError>> {
        async move {
            let Some(scan) = &self.scan else {
                let text = "no mapped column of the outbox table tells when a row was written";
                return Err(LogError::Configuration(text.into()));
            };
            let mut scan = scan.clone();
            scan.set_page_size(rows);
            let decode = |columns: ColumnIterator<'_, '_>| self.row(columns);
            let (rows, next) = fetch(&self.session, &scan, tokens, page, "outbox", decode).await?;
            Ok(OutboxPage { rows, next })
        }
        .boxed()
    }
}

impl ScyllaOutbox {
    fn row(
        &self,
        mut columns: scylla::deserialize::row::ColumnIterator<'_, '_>,
    ) -> Result<OutboxRow, scylla::deserialize::DeserializationError> {
        let (key, token) = primary_key(&mut columns, self.partition_key, self.clustering_key)?;
        let mut values = Vec::with_capacity(self.mapped);
        for _ in 0..self.mapped {
            values.push(next(&mut columns)?);
        }
        let mut written: Option<Micros> = None;
        for _ in 0..self.dated {
            written = written.max(next(&mut columns)?);
        }
        Ok(OutboxRow {
            key,
            token,
            values,
            written,
        })
    }
}

/// The serialized parts of a key; None if one of them is null.
fn parts(key: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut rest, mut parts) = (key, Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
        let (part, tail) = tail.split_at_checked(length)?;
        parts.push(part);
        rest = tail;
    }
    rest.is_empty().then_some(parts)
}

/// Keys come from the database serialized, and go back as they are.
enum Bound<'a> {
    Timestamp(Micros),
    Raw(&'a [u8]),
}

impl SerializeValue for Bound<'_> {
    fn serialize<'b>(
        &self,
        typ: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Self::Timestamp(micros) => micros.serialize(typ, writer),
            Self::Raw(bytes) => writer.set_value(bytes).map_err(SerializationError::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_cut_into_its_parts_unless_one_is_missing() {
        let check = |key: &[u8], expected: Option<Vec<&[u8]>>| assert_eq!(parts(key), expected, "{key:?}");
        check(&[0, 0, 0, 2, 7, 8, 0, 0, 0, 0], Some(vec![&[7, 8], &[]]));
        check(&[0, 0, 0, 1, 7, 0xff, 0xff, 0xff, 0xff], None);
        check(&[0, 0, 0, 3, 7], None);
        check(&[0, 0, 0, 1, 7, 9], None);
    }
}
