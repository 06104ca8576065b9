//! `outbox-relay check`: asks ScyllaDB and Kafka what there is, and prints a finding each.

use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use crds::sink::{Guarantee, journal_topic};
use crds::source::Mode;

use scylla::client::session::Session;

use super::{Exit, FileArgs};
use crate::cdc_log::session::connect;
use crate::cdc_log::table::OutboxTable;
use crate::cdc_log::{ScyllaLog, consistency};
use crate::dead_letters::table::TableDeadLetters;
use crate::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings};
use crate::fitness::{Finding, Severity, of_source};
use crate::model::{CdcTime, SlotId};
use crate::outbox::{Scan, ScyllaOutbox};
use crate::ports::{Broker, ChangeLog, Columns, LogError, LogQuery, Outbox, TransactionalBroker};
use crate::state::scylla::ScyllaState;

/// A cluster that answers at all answers within this.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(10);

/// Exit code 1 if something is an error; warnings are said.
pub async fn check(args: &FileArgs) -> Exit {
    let config = match super::file::load(args) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let (scylla, kafka) = tokio::join!(of_scylla(&config), of_kafka(&config));
    let findings: Vec<_> = scylla.into_iter().chain(kafka).collect();
    findings.iter().for_each(print);
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    if errors { Exit::Failed } else { Exit::Fine }
}

fn print(finding: &Finding) {
    let label = match finding.severity {
        Severity::Fine => "ok     ",
        Severity::Warning => "warning",
        Severity::Error => "error  ",
    };
    println!("{label}  {}: {}", finding.field, finding.text);
    if !finding.fix.is_empty() {
        println!("         fix: {}", finding.fix);
    }
}

async fn of_scylla(config: &RelayConfig) -> Vec<Finding> {
    let session = match connect(&config.source).await {
        Ok(session) => session,
        Err(error) => {
            let text = format!("{:#}", anyhow::Error::from(error));
            return vec![Finding::error(
                "source",
                text,
                "check contact points, credentials and TLS",
            )];
        }
    };
    let table = OutboxTable::read(&session, &config.source.keyspace, &config.source.table).await;
    let mut findings = match table {
        Ok(table) => {
            let mut findings = of_source(config, table.as_ref());
            match (config.source.mode, table) {
                (Mode::Streaming, Some(table)) if table.cdc.enabled => {
                    findings.push(of_log(config, session.clone(), &table).await);
                }
                (Mode::Polling, Some(table)) => findings.push(of_rows(config, session.clone(), &table).await),
                _ => {}
            }
            findings
        }
        Err(error) => vec![Finding::error(
            "source.table",
            error.to_string(),
            "grant SELECT on the schema",
        )],
    };
    let setup = "run `outbox-relay setup`, or have its statements run";
    findings.push(
        match ScyllaState::open(session.clone(), &config.state.keyspace, &config.identity).await {
            Ok(_) => Finding::fine("state.keyspace", "the relay's tables are there"),
            Err(error) => Finding::error("state.keyspace", error.to_string(), setup),
        },
    );
    if config.dead_letter.target != DeadLetterTarget::Topic {
        findings.push(match TableDeadLetters::open(session, config).await {
            Ok(_) => Finding::fine("deadLetter.table", "the table for dead letters is there"),
            Err(error) => Finding::error("deadLetter.table", error.to_string(), setup),
        });
    }
    findings
}

/// Whether the log and its streams may be read, by reading them.
async fn of_log(config: &RelayConfig, session: Arc<Session>, table: &OutboxTable) -> Finding {
    let read = async || -> Result<(), LogError> {
        let consistency = consistency(config.source.consistency);
        let log = ScyllaLog::open(session, table, &[], consistency).await?;
        let sets = log.stream_sets().await?;
        let Some(stream) = sets.last().and_then(|set| set.streams.first()) else {
            return Ok(());
        };
        let query = LogQuery {
            streams: Arc::from([stream.id]),
            from: CdcTime::min_of(0),
            until: None,
            columns: Columns::Identity,
            page_size: 1,
            page: None,
        };
        log.read(query).await.map(drop)
    };
    match read().await {
        Ok(()) => Finding::fine("source.table", "its log can be read"),
        Err(error) => Finding::error(
            "source.table",
            error.to_string(),
            "grant SELECT on the table, on its log and on system_distributed",
        ),
    }
}

/// Whether the table may be read, by reading it. That rows may be deleted shows only when one is.
async fn of_rows(config: &RelayConfig, session: Arc<Session>, table: &OutboxTable) -> Finding {
    let read = async || -> Result<(), LogError> {
        let columns = [config.source.columns.payload.clone()];
        let level = consistency(config.source.consistency);
        let outbox = ScyllaOutbox::open(session, table, &columns, Scan::Poll, level).await?;
        outbox.scan(SlotId::of_token(0).tokens(), None, 1).await.map(drop)
    };
    match read().await {
        Ok(()) => Finding::fine("source.table", "the table can be read"),
        Err(error) => Finding::error(
            "source.table",
            error.to_string(),
            "grant SELECT and MODIFY on the table",
        ),
    }
}

async fn of_kafka(config: &RelayConfig) -> Vec<Finding> {
    let broker = KafkaSettings::new(&config.sink, &config.memory, "outbox-relay-check")
        .and_then(|settings| KafkaBroker::new(settings, config.sink.topic.contains("${")));
    let broker = match broker {
        Ok(broker) => broker,
        Err(error) => {
            return vec![Finding::error(
                "sink",
                format!("{error:#}"),
                "correct the named property",
            )];
        }
    };
    let mut findings = Vec::new();
    findings.extend(of_journal(config, &broker).await);
    let mut topics = Vec::new();
    if !config.sink.topic.contains("${") {
        topics.push(("sink.topic", config.sink.topic.as_str()));
    }
    topics.extend(
        config
            .dead_letter
            .topic
            .as_deref()
            .map(|topic| ("deadLetter.topic", topic)),
    );
    for (field, topic) in topics {
        findings.push(match broker.topic(topic, TOPIC_TIMEOUT).await {
            Ok(info) => Finding::fine(field, format!("topic {topic} is there, with {} partitions", info.partitions)),
            Err(error) => Finding::error(
                field,
                format!("topic {topic}: {error}"),
                "create it (`outbox-relay setup --create-topic`), check bootstrapServers, TLS, SASL and permissions",
            ),
        });
    }
    findings
}

/// Whether exactly-once can be kept.
async fn of_journal(config: &RelayConfig, broker: &KafkaBroker) -> Option<Finding> {
    let field = "sink.guarantee";
    if config.sink.guarantee == Guarantee::AtLeastOnce {
        return None;
    }
    let topic = journal_topic(&config.identity);
    let journal = KafkaJournal::new(broker.clone(), &config.identity, &topic);
    let found = match journal.look().await {
        Ok(()) => Ok(format!("journal {topic} is there, compacted, with one partition")),
        Err(error) => Err(error.to_string()),
    };
    let id = format!("{}/check", config.identity);
    let fenced = broker
        .fence(&id)
        .await
        .map_err(|error| format!("transactional ids that begin with {}/: {error}", config.identity));
    Some(match (found, fenced) {
        (Ok(text), Ok(())) => Finding::fine(field, text),
        (Err(error), _) => Finding::error(field, error, "run `outbox-relay setup`, or make it so"),
        (_, Err(error)) => Finding::error(field, error, "allow the user Describe and Write on them"),
    })
}
