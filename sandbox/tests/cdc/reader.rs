//! The reader of `scylla_cdc` as it is, collecting what it delivers.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_cdc::consumer::{CDCRow, Consumer, ConsumerFactory};
use scylla_cdc::log_reader::{CDCLogReader, CDCLogReaderBuilder};

use crate::row::LogRow;

/// Rows younger than this are not read yet; the library's default is 30 s.
pub(crate) const SAFETY: Duration = Duration::from_millis(500);
/// The library's default is 60 s.
const WINDOW: Duration = Duration::from_millis(200);
/// The library's default is 10 s.
const SLEEP: Duration = Duration::from_millis(50);

/// Far longer than anything takes; every wait ends as soon as it can.
const PATIENCE: Duration = Duration::from_secs(20);

/// A reader at work on one table.
pub(crate) struct Reading {
    reader: CDCLogReader,
    finished: BoxFuture<'static, anyhow::Result<()>>,
    rows: Arc<Mutex<Vec<LogRow>>>,
}

impl Reading {
    /// Starts to read the log of `keyspace.t` from `start` (since the Unix epoch).
    pub(crate) async fn start(
        session: &Arc<Session>,
        keyspace: &str,
        start: Duration,
    ) -> anyhow::Result<Self> {
        let rows = Arc::new(Mutex::new(Vec::new()));
        let (reader, finished) = CDCLogReaderBuilder::new()
            .session(session.clone())
            .keyspace(keyspace)
            .table_name("t")
            .start_timestamp(start)
            .window_size(WINDOW)
            .safety_interval(SAFETY)
            .sleep_interval(SLEEP)
            .consumer_factory(Arc::new(Collector(rows.clone())))
            .build()
            .await?;
        Ok(Self {
            reader,
            finished: Box::pin(finished),
            rows,
        })
    }

    /// Rows delivered up to now.
    pub(crate) fn delivered(&self) -> usize {
        self.rows.lock().len()
    }

    /// Waits until so many rows were delivered.
    pub(crate) async fn until(&self, rows: usize) -> anyhow::Result<()> {
        let delivered = async {
            while self.delivered() < rows {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, delivered)
            .await
            .with_context(|| format!("{} rows of {rows} were delivered", self.delivered()))
    }

    /// Reads up to now, then gives all rows in the order of their delivery.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<LogRow>> {
        self.reader.stop_at(now());
        tokio::time::timeout(PATIENCE, self.finished)
            .await
            .context("the reader does not come to its end")??;
        Ok(self.rows.lock().drain(..).collect())
    }
}

pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

struct Collector(Arc<Mutex<Vec<LogRow>>>);

// The traits are made by `async_trait`; these are the signatures that it writes.
impl ConsumerFactory for Collector {
    fn new_consumer<'s, 'f>(&'s self) -> BoxFuture<'f, Box<dyn Consumer>>
    where
        's: 'f,
        Self: 'f,
    {
        let collector: Box<dyn Consumer> = Box::new(Collector(self.0.clone()));
        Box::pin(async move { collector })
    }
}

impl Consumer for Collector {
    fn consume_cdc<'s, 'r, 'f>(&'s mut self, row: CDCRow<'r>) -> BoxFuture<'f, anyhow::Result<()>>
    where
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            self.0.lock().push(as_selected(&row)?);
            Ok(())
        })
    }
}

/// What `SELECT *` would have given for the row.
fn as_selected(row: &CDCRow<'_>) -> anyhow::Result<LogRow> {
    let mut columns = LogRow::new();
    let mut put = |name: &str, value: CqlValue| columns.insert(name.to_owned(), value);
    put(
        "cdc$stream_id",
        CqlValue::Blob(hex::decode(row.stream_id.to_string().trim_start_matches("0x"))?),
    );
    put("cdc$time", CqlValue::Timeuuid(CqlTimeuuid::from(row.time)));
    put("cdc$batch_seq_no", CqlValue::Int(row.batch_seq_no));
    put("cdc$operation", CqlValue::TinyInt(row.operation.clone() as i8));
    if row.end_of_batch {
        put("cdc$end_of_batch", CqlValue::Boolean(true));
    }
    if let Some(ttl) = row.ttl {
        put("cdc$ttl", CqlValue::BigInt(ttl));
    }
    for name in row.get_non_cdc_column_names() {
        if let Some(value) = row.get_value(name) {
            put(name, value.clone());
        }
        if row.column_deletable(name) && row.is_value_deleted(name) {
            put(&format!("cdc$deleted_{name}"), CqlValue::Boolean(true));
        }
        if row.collection_exists(name) && !row.get_deleted_elements(name).is_empty() {
            let elements = row.get_deleted_elements(name).to_vec();
            put(&format!("cdc$deleted_elements_{name}"), CqlValue::Set(elements));
        }
    }
    Ok(columns)
}
