//! What commands that look at events need: the source, opened, what was written in a window, and what the checkpoints say
//! of it. Changes nothing.

use std::sync::Arc;

use anyhow::Context as _;
use crds::RelayConfig;
use crds::source::Mode;
use scylla::client::session::Session;

use crate::audit::Resolved;
use crate::audit::TooMany;
use crate::audit::source::{ReadError, Throttle, Window, of_log, of_table};
use crate::cdc_log::session::connect;
use crate::cdc_log::table::OutboxTable;
use crate::cdc_log::{ScyllaLog, consistency};
use crate::clock::SystemClock;
use crate::deliver::kafka::reading::TopicReader;
use crate::deliver::kafka::{KafkaBroker, KafkaSettings};
use crate::deliver::lane::Event;
use crate::deliver::prepare::Preparer;
use crate::event::SourceEvent;
use crate::metrics::EventLabel;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::outbox::{Scan, ScyllaOutbox};
use crate::ports::{ChangeLog, Clock};
use crate::source::record::Rules;
use crate::source::tail::SKEW;
use crate::state::scylla::{Partition, ScyllaState};

/// Where events are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    /// The table's CDC log.
    #[value(name = "Log")]
    Log,
    /// The table itself.
    #[value(name = "Table")]
    Table,
}

impl From {
    /// What was asked for; without that, what the relay reads.
    pub(super) fn of(asked: Option<Self>, config: &RelayConfig) -> Self {
        asked.unwrap_or(match config.source.mode {
            Mode::Streaming => Self::Log,
            Mode::Polling => Self::Table,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Log => "Log",
            Self::Table => "Table",
        }
    }
}

/// The source of one identity, opened.
pub(super) struct Evidence {
    pub config: RelayConfig,
    pub session: Arc<Session>,
    pub table: OutboxTable,
    pub preparer: Preparer,
    /// ScyllaDB's time at the start.
    pub now: Micros,
    throttle: Throttle,
    opened: Opened,
}

enum Opened {
    Log(Box<ScyllaLog>),
    Table(Box<ScyllaOutbox>),
}

impl Evidence {
    /// Reads the schema and prepares the statements. Without a log nobody tells ScyllaDB's time; then it is ours.
    pub(super) async fn open(config: RelayConfig, from: From) -> anyhow::Result<Self> {
        let source = &config.source;
        let session = connect(source).await?;
        let table = OutboxTable::read(&session, &source.keyspace, &source.table).await?;
        let table = table.with_context(|| {
            format!(
                "source.table: there is no table {}.{}",
                source.keyspace, source.table
            )
        })?;
        let preparer = Preparer::new(source, &config.sink, |name| table.columns.contains_key(name))?;
        let (level, columns) = (consistency(source.consistency), preparer.columns());
        let mut now = SystemClock::start().now();
        let opened = match from {
            From::Log => {
                anyhow::ensure!(
                    table.cdc.enabled,
                    "source.table: CDC is not enabled on {}.{}; accepted: --source Table",
                    source.keyspace,
                    source.table
                );
                let log = ScyllaLog::open(session.clone(), &table, columns, level).await?;
                now = log.capture().await?.time.unwrap_or(now);
                Opened::Log(Box::new(log))
            }
            From::Table => {
                // Databases without CDC know no BYPASS CACHE.
                let scan = if table.cdc.enabled {
                    Scan::Seldom
                } else {
                    Scan::Poll
                };
                let opened = ScyllaOutbox::open(session.clone(), &table, columns, scan, level).await?;
                anyhow::ensure!(
                    !crate::outbox::dated_by(&table, columns).is_empty(),
                    "source.columns: none of the columns tells when a row was written; accepted: --source Log"
                );
                Opened::Table(Box::new(opened))
            }
        };
        Ok(Self {
            throttle: Throttle::new(&source.load),
            config,
            session,
            table,
            preparer,
            now,
            opened,
        })
    }

    /// The oldest time of which the source still has every row; None if nothing expires.
    pub(super) fn retained(&self) -> Option<Micros> {
        let ttl = match self.opened {
            Opened::Log(_) => self.table.cdc.ttl,
            Opened::Table(_) => self.table.ttl,
        };
        ttl.map(|ttl| self.now - ttl.as_micros() as Micros)
    }

    /// Start of the oldest stream set; None without a log.
    pub(super) async fn first_set(&self) -> anyhow::Result<Option<Micros>> {
        match &self.opened {
            Opened::Log(log) => Ok(log.stream_sets().await?.first().map(|set| set.start)),
            Opened::Table(_) => Ok(None),
        }
    }

    /// The events that were written in the window; how many rows have no write time.
    pub(super) async fn events(
        &mut self,
        window: Window,
        slots: SlotSet,
        mut visit: impl FnMut(SourceEvent) -> Result<(), TooMany>,
    ) -> Result<u64, ReadError> {
        let throttle = &mut self.throttle;
        match &self.opened {
            Opened::Log(log) => {
                let source = &self.config.source;
                let mapped = self.preparer.columns().len();
                let rules = Rules::of(source, &self.table.cdc, mapped);
                let settled = self.now - Micros::from(source.horizon_seconds) * SECOND - SKEW;
                let rules = (&rules, settled);
                of_log(log.as_ref(), window, slots, rules, throttle, &mut visit).await?;
                Ok(0)
            }
            Opened::Table(table) => of_table(table.as_ref(), window, slots, throttle, &mut visit).await,
        }
    }

    /// What the slots' rows say; None of a slot that nothing is kept of.
    pub(super) async fn partitions(&self) -> anyhow::Result<Vec<(SlotId, Partition)>> {
        let keyspace = &self.config.state.keyspace;
        let mut partitions = Vec::new();
        if !ScyllaState::is_there(&self.session, keyspace).await? {
            return Ok(partitions);
        }
        let state = ScyllaState::open(self.session.clone(), keyspace, &self.config.identity).await?;
        for slot in SlotId::all() {
            partitions.push((slot, state.look(slot).await?));
        }
        Ok(partitions)
    }

    /// What the checkpoints say is resolved.
    pub(super) async fn resolved(&self) -> anyhow::Result<Resolved> {
        let mut resolved = Resolved::default();
        for (slot, partition) in self.partitions().await? {
            if let Some(checkpoint) = partition.loaded.checkpoint {
                // While rows of the table come first, those of the log below the bound are not delivered.
                if checkpoint.in_snapshot() {
                    continue;
                }
                resolved.bounds.insert(slot, checkpoint.bound);
                resolved
                    .ids
                    .extend(checkpoint.resolved.into_iter().map(|(_, id)| id));
            }
        }
        Ok(resolved)
    }

    pub(super) fn topics(&self) -> anyhow::Result<TopicReader> {
        let config = &self.config;
        let client_id = format!("outbox-relay-{}-audit", config.identity);
        let settings = KafkaSettings::new(&config.sink, &config.memory, &client_id)?;
        let broker = KafkaBroker::new(settings, config.sink.topic.contains("${"))?;
        Ok(TopicReader::new(broker, &config.identity))
    }
}

/// The event as it would be sent: its id, aggregate and topic.
pub(super) fn prepared(preparer: &Preparer, event: SourceEvent) -> Event {
    preparer.prepare(event, |_| EventLabel::default())
}
