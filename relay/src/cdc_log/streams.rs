//! Stream sets: CDC generations of vnodes, or the stream sets of a tablet table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;

use super::table::OutboxTable;
use super::{errors, prepare};
use crate::model::{Micros, StreamId};
use crate::ports::{LogError, Stream, StreamSet};

/// Rows of a set may be written some seconds after its end, and clocks differ: sets stay this much longer than their
/// rows.
const RETENTION_SLACK: Duration = Duration::from_secs(3600);

/// Reads stream sets. A set never changes once it is published, so each is read once.
pub(super) struct StreamSets {
    session: Arc<Session>,
    source: Source,
    /// How long log rows stay; None for ever.
    retention: Mutex<Kept>,
    /// By start, milliseconds.
    known: Mutex<BTreeMap<i64, StreamSet>>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    /// What is written now.
    now: Option<Duration>,
    /// The longest that was ever seen: rows keep the TTL that they were written with.
    longest: Option<Duration>,
}

enum Source {
    Vnodes {
        timestamps: PreparedStatement,
        streams: PreparedStatement,
    },
    Tablets {
        keyspace: String,
        table: String,
        timestamps: PreparedStatement,
        streams: PreparedStatement,
    },
}

impl StreamSets {
    pub(super) async fn open(session: Arc<Session>, table: &OutboxTable) -> Result<Self, LogError> {
        let source = if table.tablets {
            tablets(&session, table).await?
        } else {
            vnodes(&session).await?
        };
        Ok(Self {
            session,
            source,
            retention: Mutex::new(Kept {
                now: table.cdc.ttl,
                longest: table.cdc.ttl,
            }),
            known: Mutex::default(),
        })
    }

    /// The table was altered, or not.
    pub(super) fn retain(&self, ttl: Option<Duration>) {
        let mut kept = self.retention.lock();
        kept.now = ttl;
        kept.longest = kept.longest.zip(ttl).map(|(longest, ttl)| longest.max(ttl));
    }

    pub(super) fn retention(&self) -> Option<Duration> {
        self.retention.lock().now
    }

    /// Every set that may still hold rows, oldest first.
    pub(super) async fn read(&self) -> Result<Vec<StreamSet>, LogError> {
        let starts = self.retained(self.starts().await?);
        for start in &starts {
            if !self.known.lock().contains_key(start) {
                let set = self.streams(*start).await?;
                self.known.lock().insert(*start, set);
            }
        }
        let mut known = self.known.lock();
        // A node may show an older list than another did: what was seen stays until its rows are gone.
        let all = self.retained(known.keys().copied().collect());
        known.retain(|start, _| all.contains(start));
        Ok(known.values().cloned().collect())
    }

    async fn starts(&self) -> Result<Vec<i64>, LogError> {
        let result = match &self.source {
            Source::Vnodes { timestamps, .. } => self.session.execute_unpaged(timestamps, ()).await,
            Source::Tablets {
                keyspace,
                table,
                timestamps,
                ..
            } => self.session.execute_unpaged(timestamps, (keyspace, table)).await,
        };
        let rows = rows::<(CqlTimestamp,)>(result)?;
        let mut starts: Vec<_> = rows.into_iter().map(|row| row.0.0).collect();
        starts.sort_unstable();
        Ok(starts)
    }

    /// Leaves out sets that ended so long ago that their rows have expired.
    fn retained(&self, starts: Vec<i64>) -> Vec<i64> {
        let Some(retention) = self.retention.lock().longest else {
            return starts;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let oldest = now.saturating_sub(retention + RETENTION_SLACK).as_millis() as i64;
        let ended = |index: usize| starts.get(index + 1).is_some_and(|end| *end < oldest);
        starts
            .iter()
            .enumerate()
            .filter(|(index, _)| !ended(*index))
            .map(|(_, start)| *start)
            .collect()
    }

    async fn streams(&self, start: i64) -> Result<StreamSet, LogError> {
        let time = CqlTimestamp(start);
        let streams = match &self.source {
            Source::Vnodes { streams, .. } => {
                let result = self.session.execute_unpaged(streams, (time,)).await;
                of_vnodes(rows::<(i64, Vec<Vec<u8>>)>(result)?)?
            }
            Source::Tablets {
                keyspace,
                table,
                streams,
                ..
            } => {
                let result = self
                    .session
                    .execute_unpaged(streams, (keyspace, table, time))
                    .await;
                of_tablets(rows::<(Vec<u8>,)>(result)?)?
            }
        };
        Ok(StreamSet {
            start: start * MICROS_PER_MILLI,
            streams,
        })
    }
}

const MICROS_PER_MILLI: Micros = 1000;

async fn vnodes(session: &Arc<Session>) -> Result<Source, LogError> {
    // As ScyllaDB writes them: QUORUM of three replicas, ONE where there is a single node.
    let several = session.get_cluster_state().get_nodes_info().len() > 1;
    let consistency = if several {
        Consistency::Quorum
    } else {
        Consistency::One
    };
    let timestamps = "SELECT time FROM system_distributed.cdc_generation_timestamps WHERE key = 'timestamps'";
    let streams =
        "SELECT range_end, streams FROM system_distributed.cdc_streams_descriptions_v2 WHERE time = ?";
    Ok(Source::Vnodes {
        timestamps: prepare(session, timestamps.into(), consistency).await?,
        streams: prepare(session, streams.into(), consistency).await?,
    })
}

async fn tablets(session: &Arc<Session>, table: &OutboxTable) -> Result<Source, LogError> {
    let timestamps = "SELECT timestamp FROM system.cdc_timestamps WHERE keyspace_name = ? AND table_name = ?";
    let streams = "SELECT stream_id FROM system.cdc_streams \
                   WHERE keyspace_name = ? AND table_name = ? AND timestamp = ? AND stream_state = 0";
    Ok(Source::Tablets {
        keyspace: table.keyspace.clone(),
        table: table.name.clone(),
        // The tables are virtual and answer from the contacted node's memory.
        timestamps: prepare(session, timestamps.into(), Consistency::One).await?,
        streams: prepare(session, streams.into(), Consistency::One).await?,
    })
}

/// A vnode's range starts where the one before it ends; the first wraps around. Its streams share it.
fn of_vnodes(mut vnodes: Vec<(i64, Vec<Vec<u8>>)>) -> Result<Vec<Stream>, LogError> {
    vnodes.sort_unstable_by_key(|(range_end, _)| *range_end);
    let Some(mut after) = vnodes.last().map(|(range_end, _)| *range_end) else {
        return Err(LogError::Transient(
            "a CDC generation is announced, its streams are not there yet".into(),
        ));
    };
    let mut streams = Vec::new();
    for (until, ids) in vnodes {
        for id in ids {
            streams.push(Stream {
                id: stream_id(&id)?,
                after,
                until,
            });
        }
        after = until;
    }
    Ok(streams)
}

/// A tablet's stream has the tablet's last token.
fn of_tablets(rows: Vec<(Vec<u8>,)>) -> Result<Vec<Stream>, LogError> {
    let mut ids = rows
        .iter()
        .map(|row| stream_id(&row.0))
        .collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable_by_key(StreamId::token);
    if ids.is_empty() {
        return Err(LogError::Transient(
            "a stream set is announced, its streams are not there yet".into(),
        ));
    }
    let mut after = i64::MIN;
    let stream = |id: StreamId| {
        let stream = Stream {
            id,
            after,
            until: id.token(),
        };
        after = stream.until;
        stream
    };
    Ok(ids.into_iter().map(stream).collect())
}

fn stream_id(bytes: &[u8]) -> Result<StreamId, LogError> {
    let wrong = |_| LogError::Configuration(format!("stream id 0x{} has not 16 bytes", hex::encode(bytes)));
    bytes.try_into().map(StreamId).map_err(wrong)
}

pub(super) fn rows<R>(
    result: Result<scylla::response::query_result::QueryResult, scylla::errors::ExecutionError>,
) -> Result<Vec<R>, LogError>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let unreadable = |error: &dyn std::fmt::Display| LogError::Configuration(format!("stream sets: {error}"));
    let result = result.map_err(|error| errors::executing(&error))?;
    let rows = result.into_rows_result().map_err(|error| unreadable(&error))?;
    let rows = rows.rows::<R>().map_err(|error| unreadable(&error))?;
    rows.collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(token: i64, tail: u8) -> Vec<u8> {
        let mut bytes = token.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 0, 0, 0, 0, tail]);
        bytes
    }

    #[test]
    fn the_streams_of_a_vnode_share_its_range_and_the_first_wraps() {
        let streams = of_vnodes(vec![(100, vec![id(90, 1)]), (-50, vec![id(-60, 1), id(-55, 1)])]).unwrap();
        let ranges: Vec<_> = streams
            .iter()
            .map(|stream| (stream.after, stream.until))
            .collect();
        assert_eq!(ranges, [(100, -50), (100, -50), (-50, 100)]);
        assert!(matches!(of_vnodes(vec![]), Err(LogError::Transient(_))));
        assert!(matches!(
            of_vnodes(vec![(1, vec![vec![1, 2]])]),
            Err(LogError::Configuration(_))
        ));
    }

    #[test]
    fn a_tablets_range_ends_at_its_streams_token() {
        let streams = of_tablets(vec![(id(i64::MAX, 1),), (id(0, 1),)]).unwrap();
        let ranges: Vec<_> = streams
            .iter()
            .map(|stream| (stream.after, stream.until))
            .collect();
        assert_eq!(ranges, [(i64::MIN, 0), (0, i64::MAX)]);
    }
}
