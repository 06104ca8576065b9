//! What has to be there before anything can be read: a session, a fit table, the relay's own tables, the broker's
//! settings. Waits with back-off for what may come; `/readyz` says what for.

use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use crds::sink::{Guarantee, journal_topic};
use crds::source::{Cleanup, Mode};
use scylla::client::session::Session;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::outlook::Outlook;
use super::tables;
use crate::cdc_log::session::{ConnectError, connect};
use crate::cdc_log::table::OutboxTable;
use crate::cdc_log::unlogged::{Source as ChangeSource, Unlogged};
use crate::cdc_log::{ScyllaLog, consistency};
use crate::dead_letters::Targets;
use crate::dead_letters::table::TableDeadLetters;
use crate::dead_letters::topic::TopicDeadLetters;
use crate::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings, SettingsError};
use crate::deliver::prepare::{PrepareError as MappingError, Preparer};
use crate::deliver::transactions::Transacting;
use crate::fitness::{self, Severity};
use crate::health::Part;
use crate::journal::Incarnation;
use crate::outbox::{Scan, ScyllaOutbox};
use crate::ports::{ChangeLog, Clock, DeadLetterError, LogError, Outbox, Transactions};
use crate::spans::{Spans, SpansError};
use crate::state::scylla::ScyllaState;

/// Waits between two attempts double from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// What the work stands on. Made once; lives as long as the process.
pub struct Ground<L = ChangeSource, S = ScyllaState, B = KafkaBroker, D = Targets> {
    pub table: OutboxTable,
    pub log: Arc<L>,
    pub state: Arc<S>,
    pub dead_letters: Arc<D>,
    pub broker: B,
    pub transactions: Arc<dyn Transactions>,
    /// Of the journal, if events are delivered exactly once.
    pub incarnation: Option<Incarnation>,
    pub preparer: Preparer,
    /// The table's own rows, to be looked through and deleted. None in a world that has only the log.
    pub outbox: Option<Arc<dyn Outbox>>,
    /// Start of the oldest stream set.
    pub first_set: Option<crate::model::Micros>,
    /// Why order cannot be promised.
    pub order: Option<String>,
    /// For jitter.
    pub seed: u64,
    /// Where traced events are told.
    pub spans: Option<Spans>,
}

/// What waiting cannot mend.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Connect(ConnectError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    DeadLetters(DeadLetterError),
    #[error(transparent)]
    Spans(#[from] SpansError),
}

/// None if `stop` came first.
pub(super) async fn prepare(
    config: &RelayConfig,
    outlook: &Outlook,
    stop: &CancellationToken,
) -> Result<Option<Ground>, PrepareError> {
    let client_id = format!("outbox-relay-{}", config.identity);
    let settings = KafkaSettings::new(&config.sink, &config.memory, &client_id)?;
    let templated = config.sink.topic.contains("${");
    let broker = KafkaBroker::new(settings.clone(), templated)?;
    let tracing = config.tracing.as_ref();
    let spans = tracing
        .map(|tracing| Spans::open(tracing, config, &outlook.process()))
        .transpose()?;
    let Some(session) = session(config, outlook, stop).await? else {
        return Ok(None);
    };
    let Some(table) = wait(outlook, stop, Part::Source, async || {
        fit_table(config, &session).await
    })
    .await
    else {
        return Ok(None);
    };
    let preparer = Preparer::new(&config.source, &config.sink, |name| {
        table.columns.contains_key(name)
    })?
    .traced(config.tracing.as_ref());
    let log = wait(outlook, stop, Part::Source, async || {
        open_log(config, &session, &table, &preparer).await
    });
    let Some((log, first_set)) = log.await else {
        return Ok(None);
    };
    let outbox = open_outbox(config, outlook, stop, &session, &table, &preparer);
    let Some(outbox) = outbox.await else {
        return Ok(None);
    };
    let state = wait(outlook, stop, Part::State, async || {
        open_state(config, &session).await
    });
    let Some(state) = state.await else { return Ok(None) };
    let letters = wait(outlook, stop, Part::DeadLetters, async || {
        open_table(config, &session).await
    });
    let Some(table_letters) = letters.await else {
        return Ok(None);
    };
    let topic_letters = match (&config.dead_letter.topic, config.dead_letter.target) {
        (Some(topic), DeadLetterTarget::Topic | DeadLetterTarget::Both) => {
            Some(TopicDeadLetters::new(&settings, topic).map_err(PrepareError::DeadLetters)?)
        }
        _ => None,
    };
    let order = fitness::order(config, &table).err().map(|finding| finding.text);
    if let Some(reason) = &order {
        warn!(%reason, "order is not promised");
    }
    let opened = open_transactions(config, outlook, stop, &broker, &state).await;
    let Some((transactions, incarnation)) = opened else {
        return Ok(None);
    };
    Ok(Some(Ground {
        table,
        log: Arc::new(log),
        state: Arc::new(state),
        dead_letters: Arc::new(Targets {
            table: table_letters,
            topic: topic_letters,
        }),
        broker,
        transactions,
        incarnation,
        preparer,
        outbox: Some(outbox),
        spans,
        first_set,
        order,
        seed: rand::random(),
    }))
}

/// Also in AtLeastOnce: what former owners wrote in transactions has to be settled. The journal's incarnation only in
/// ExactlyOnce. None if `stop` came first.
async fn open_transactions(
    config: &RelayConfig,
    outlook: &Outlook,
    stop: &CancellationToken,
    broker: &KafkaBroker,
    state: &ScyllaState,
) -> Option<(Arc<dyn Transactions>, Option<Incarnation>)> {
    let topic = journal_topic(&config.identity);
    let journal = KafkaJournal::new(broker.clone(), &config.identity, &topic);
    let transactions = Transacting::new(broker.clone(), journal.clone(), &config.identity);
    if config.sink.guarantee == Guarantee::AtLeastOnce {
        return Some((Arc::new(transactions), None));
    }
    let incarnation = wait(outlook, stop, Part::Sink, async || {
        let prepared = journal.prepare().await;
        prepared.map_err(|error| Why::new("JournalUnavailable", error.to_string()))?;
        let opened = transactions.incarnation(state).await;
        opened.map_err(|error| Why::new("JournalUnavailable", error.to_string()))
    })
    .await?;
    Some((Arc::new(transactions), Some(incarnation)))
}

/// An unreachable cluster may come; a secret that cannot be read will not.
async fn session(
    config: &RelayConfig,
    outlook: &Outlook,
    stop: &CancellationToken,
) -> Result<Option<Arc<Session>>, PrepareError> {
    let mut fatal = None;
    let session = wait(outlook, stop, Part::Source, async || {
        match connect(&config.source).await {
            Ok(session) => Ok(Some(session)),
            // Users, passwords and authorities are made and changed while relays run.
            Err(
                error @ (ConnectError::Unreachable { .. }
                | ConnectError::Login { .. }
                | ConnectError::Handshake { .. }),
            ) => Err(Why::new(
                error.category(),
                format!("{:#}", anyhow::Error::from(error)),
            )),
            Err(error) => {
                fatal = Some(error);
                Ok(None)
            }
        }
    })
    .await;
    match fatal {
        Some(error) => Err(PrepareError::Connect(error)),
        None => Ok(session.flatten()),
    }
}

/// The outbox table, once nothing about it would lose or hide events.
async fn fit_table(config: &RelayConfig, session: &Session) -> Result<OutboxTable, Why> {
    let table = OutboxTable::read(session, &config.source.keyspace, &config.source.table).await;
    let table = table.map_err(|error| Why::new("SourceUnavailable", error.to_string()))?;
    let mut errors = fitness::of_source(config, table.as_ref());
    errors.retain(|finding| finding.severity == Severity::Error);
    let texts: Vec<_> = errors
        .iter()
        .map(|f| format!("{}: {}; {}", f.field, f.text, f.fix))
        .collect();
    table
        .filter(|_| texts.is_empty())
        .ok_or_else(|| Why::new("TableUnfit", texts.join("\n")))
}

async fn open_log(
    config: &RelayConfig,
    session: &Arc<Session>,
    table: &OutboxTable,
    preparer: &Preparer,
) -> Result<(ChangeSource, Option<crate::model::Micros>), Why> {
    let open = async || -> Result<_, LogError> {
        if config.source.mode == Mode::Polling {
            let table = Unlogged::open(session.clone(), table).await?;
            return Ok((ChangeSource::Table(table), None));
        }
        let consistency = consistency(config.source.consistency);
        let log = ScyllaLog::open(session.clone(), table, preparer.columns(), consistency).await?;
        let first_set = log.stream_sets().await?.first().map(|set| set.start);
        Ok((ChangeSource::Log(Box::new(log)), first_set))
    };
    open()
        .await
        .map_err(|error| Why::new(error.category(), error.to_string()))
}

/// None if `stop` came first.
async fn open_outbox(
    config: &RelayConfig,
    outlook: &Outlook,
    stop: &CancellationToken,
    session: &Arc<Session>,
    table: &OutboxTable,
    preparer: &Preparer,
) -> Option<Arc<dyn Outbox>> {
    let part = if config.source.cleanup == Cleanup::Delete {
        outlook.board().add(Part::Cleanup, outlook.clock().now());
        Part::Cleanup
    } else {
        Part::Source
    };
    let (consistency, columns) = (consistency(config.source.consistency), preparer.columns());
    let scan = match config.source.mode {
        Mode::Polling => Scan::Poll,
        Mode::Streaming => Scan::Seldom,
    };
    let opened = wait(outlook, stop, part, async || {
        let opened = ScyllaOutbox::open(session.clone(), table, columns, scan, consistency).await;
        opened.map_err(|error| Why::new(error.category(), error.to_string()))
    });
    let opened: Arc<dyn Outbox> = Arc::new(opened.await?);
    Some(opened)
}

/// Opens the state tables, making first what is missing and may be made.
async fn open_state(config: &RelayConfig, session: &Arc<Session>) -> Result<ScyllaState, Why> {
    tables::create_tables(session, config, tables::replication(session))
        .await
        .map_err(|error| Why::new("StateTablesMissing", error.to_string()))?;
    let opened = ScyllaState::open(session.clone(), &config.state.keyspace, &config.identity).await;
    opened.map_err(|error| Why::new(error.category(), error.to_string()))
}

async fn open_table(config: &RelayConfig, session: &Arc<Session>) -> Result<Option<TableDeadLetters>, Why> {
    if config.dead_letter.target == DeadLetterTarget::Topic {
        return Ok(None);
    }
    let opened = TableDeadLetters::open(session.clone(), config).await;
    opened
        .map(Some)
        .map_err(|error| Why::new("DeadLettersTable", format!("{error}; run `outbox-relay setup`")))
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Why {
    category: &'static str,
    text: String,
}

impl Why {
    fn new(category: &'static str, text: impl Into<String>) -> Self {
        Self {
            category,
            text: text.into(),
        }
    }
}

/// Tries until it works or `stop` comes; says once why it waits.
async fn wait<T>(
    outlook: &Outlook,
    stop: &CancellationToken,
    part: Part,
    mut attempt: impl AsyncFnMut() -> Result<T, Why>,
) -> Option<T> {
    let mut pause = FIRST_WAIT;
    let mut told = None;
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return None,
            result = attempt() => result,
        };
        let why = match result {
            Ok(value) => {
                info!(part = part.name(), "available");
                outlook.board().healthy(part, outlook.clock().now());
                return Some(value);
            }
            Err(why) => why,
        };
        if told.as_ref() != Some(&why) {
            warn!(part = part.name(), category = why.category, reason = %why.text, "waiting");
            outlook
                .board()
                .failed_because(part, why.category, why.text.clone(), outlook.clock().now());
            told = Some(why);
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_WAIT),
        }
    }
}
