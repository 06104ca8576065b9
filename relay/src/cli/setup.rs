//! `outbox-relay setup`: makes the relay's own tables, and the topic when asked to.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use crds::sink::{Guarantee, journal_topic};
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;

use super::{Exit, SetupArgs};
use crate::cdc_log::session::connect;
use crate::dead_letters::table;
use crate::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings};
use crate::state::schema;

/// For making a topic.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(20);

/// Exit code 1, with the exact CQL, if a table is missing and may not be made.
pub async fn setup(args: &SetupArgs) -> Exit {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match make(&config, args).await {
        Ok(()) => Exit::Fine,
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Failed
        }
    }
}

async fn make(config: &RelayConfig, args: &SetupArgs) -> anyhow::Result<()> {
    let session = connect(&config.source).await?;
    create_tables(&session, config, args.replication_factor as usize).await?;
    println!("the relay's tables are there");
    if args.create_topic {
        create_topic(config, args).await?;
    }
    if config.sink.guarantee == Guarantee::ExactlyOnce {
        create_journal(config).await?;
    }
    Ok(())
}

async fn create_journal(config: &RelayConfig) -> anyhow::Result<()> {
    let settings = KafkaSettings::new(&config.sink, &config.memory, "outbox-relay-setup")?;
    let topic = journal_topic(&config.identity);
    KafkaJournal::new(KafkaBroker::new(settings, false)?, &config.identity, &topic)
        .prepare()
        .await?;
    println!("journal {topic} is there");
    Ok(())
}

async fn create_topic(config: &RelayConfig, args: &SetupArgs) -> anyhow::Result<()> {
    let topic = &config.sink.topic;
    anyhow::ensure!(
        !topic.contains("${"),
        "sink.topic: {topic} is a template; --create-topic makes a fixed one"
    );
    let settings = KafkaSettings::new(&config.sink, &config.memory, "outbox-relay-setup")?;
    let broker = KafkaBroker::new(settings, false)?;
    let created = broker
        .create_topic(topic, args.partitions, args.replication_factor, TOPIC_TIMEOUT)
        .await?;
    println!("topic {topic} {}", if created { "created" } else { "is there" });
    Ok(())
}

/// Replicas that the state keyspace gets in each datacenter where nobody says: three, or as many as there are nodes.
pub fn replication(session: &Session) -> usize {
    let state = session.get_cluster_state();
    let mut nodes: HashMap<&str, usize> = HashMap::new();
    for node in state.get_nodes_info() {
        *nodes
            .entry(node.datacenter.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    nodes.into_values().min().unwrap_or(1).clamp(1, 3)
}

/// Makes what is missing.
///
/// # Errors
/// The exact statements that have to be executed by somebody who may.
pub async fn create_tables(session: &Session, config: &RelayConfig, replicas: usize) -> anyhow::Result<()> {
    let replication = format!("{{'class': 'NetworkTopologyStrategy', 'replication_factor': {replicas}}}");
    let statements = missing(session, statements(config, &replication)).await?;
    for (done, statement) in statements.iter().enumerate() {
        if let Err(error) = execute(session, &statement.text).await {
            let left: String = statements[done..]
                .iter()
                .map(|statement| format!("  {};\n", statement.text))
                .collect();
            anyhow::bail!(
                "the relay's tables are missing; have them made by someone who may:\n\n{left}\n{error}"
            );
        }
    }
    Ok(())
}

/// Makes a keyspace, or a table in it, or what a table of an earlier version lacks.
struct Creation {
    keyspace: String,
    table: Option<String>,
    /// One of those that are missing; then only to a table that is there.
    column: Option<&'static str>,
    text: String,
}

fn statements(config: &RelayConfig, replication: &str) -> Vec<Creation> {
    let keyspace = &config.state.keyspace;
    let texts = schema::statements(keyspace, replication, true);
    let tables = [None, Some("slots"), Some("processes")];
    let mut statements: Vec<_> = tables
        .into_iter()
        .zip(texts)
        .map(|(table, text)| Creation {
            keyspace: keyspace.clone(),
            table: table.map(str::to_owned),
            column: None,
            text,
        })
        .collect();
    statements.push(Creation {
        keyspace: keyspace.clone(),
        table: Some("slots".to_owned()),
        column: Some(schema::SINCE_FORMAT_2),
        text: schema::to_format_2(keyspace),
    });
    if config.dead_letter.target != DeadLetterTarget::Topic {
        let (keyspace, table) = table::name(config);
        let texts = [
            (None, table::create_table(&keyspace, &table)),
            (Some(table::STATUS), table::add_status(&keyspace, &table)),
        ];
        statements.extend(texts.map(|(column, text)| Creation {
            keyspace: keyspace.clone(),
            table: Some(table.clone()),
            column,
            text,
        }));
    }
    statements
}

/// Those that make something that is not there: who may use the tables need not be allowed to make them.
async fn missing(session: &Session, statements: Vec<Creation>) -> anyhow::Result<Vec<Creation>> {
    let mut missing = Vec::new();
    for creation in statements {
        let Creation {
            keyspace,
            table,
            column,
            ..
        } = &creation;
        let is_missing = match (table, column) {
            (None, _) => {
                let text = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
                rows(session.query_unpaged(text, (keyspace,)).await)? == 0
            }
            (Some(table), None) => {
                let text =
                    "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
                rows(session.query_unpaged(text, (keyspace, table)).await)? == 0
            }
            (Some(table), Some(column)) => {
                let all = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
                let one = format!("{all} AND column_name = ?");
                rows(session.query_unpaged(all, (keyspace, table)).await)? > 0
                    && rows(session.query_unpaged(one, (keyspace, table, column)).await)? == 0
            }
        };
        if is_missing {
            missing.push(creation);
        }
    }
    Ok(missing)
}

fn rows(result: Result<QueryResult, ExecutionError>) -> anyhow::Result<usize> {
    let result = result.context("the schema cannot be read")?;
    Ok(result.into_rows_result()?.rows_num())
}

async fn execute(session: &Session, statement: &str) -> Result<(), ExecutionError> {
    let Err(error) = session.query_unpaged(statement, ()).await else {
        return Ok(());
    };
    // A database without tablets refuses the option that turns them off.
    let plain = statement.replace(schema::NO_TABLETS, "");
    if plain != statement && session.query_unpaged(plain, ()).await.is_ok() {
        return Ok(());
    }
    Err(error)
}
