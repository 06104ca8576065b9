//! A table whose log is not read, or that has none: `source.mode: Polling`.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;

use super::{ScyllaLog, SourceClock};
use crate::cdc_log::table::OutboxTable;
use crate::ports::{Capture, ChangeLog, LogError, LogPage, LogQuery, StreamSet};

/// Tells the time, and how long rows stay. It has no streams.
pub struct Unlogged {
    clock: SourceClock,
    ttl: Option<Duration>,
}

impl Unlogged {
    /// # Errors
    /// When the source does not answer.
    pub async fn open(session: Arc<Session>, table: &OutboxTable) -> Result<Self, LogError> {
        let clock = SourceClock::open(session).await?;
        Ok(Self {
            clock,
            ttl: table.ttl,
        })
    }
}

/// What a relay learns of its source from, by `source.mode`.
pub enum Source {
    Log(Box<ScyllaLog>),
    Table(Unlogged),
}

impl ChangeLog for Source {
    async fn stream_sets(&self) -> Result<Vec<StreamSet>, LogError> {
        match self {
            Self::Log(log) => log.stream_sets().await,
            Self::Table(_) => Ok(Vec::new()),
        }
    }

    async fn capture(&self) -> Result<Capture, LogError> {
        match self {
            Self::Log(log) => log.capture().await,
            Self::Table(table) => Ok(Capture {
                hidden: None,
                time: table.clock.time().await?,
            }),
        }
    }

    fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Log(log) => log.ttl(),
            Self::Table(table) => table.ttl,
        }
    }

    async fn read(&self, query: LogQuery) -> Result<LogPage, LogError> {
        match self {
            Self::Log(log) => log.read(query).await,
            Self::Table(_) => Err(LogError::Configuration("source.mode Polling reads no log".into())),
        }
    }
}
