//! `outbox-relay setup`: makes the relay's own tables, and the topic when asked to.

use std::time::Duration;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use scylla::client::session::Session;

use super::{Exit, SetupArgs};
use crate::cdc_log::session::connect;
use crate::dead_letters::table;
use crate::deliver::kafka::{KafkaBroker, KafkaSettings};
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

/// Replicas that the state keyspace gets where nobody says: three, or as many as there are nodes.
pub fn replication(session: &Session) -> usize {
    session.get_cluster_state().get_nodes_info().len().clamp(1, 3)
}

/// Makes what is missing.
///
/// # Errors
/// The exact statement that has to be executed by somebody who may.
pub async fn create_tables(session: &Session, config: &RelayConfig, replicas: usize) -> anyhow::Result<()> {
    let replication = format!("{{'class': 'NetworkTopologyStrategy', 'replication_factor': {replicas}}}");
    for statement in statements(config, &replication) {
        execute(session, &statement).await?;
    }
    Ok(())
}

fn statements(config: &RelayConfig, replication: &str) -> Vec<String> {
    let mut statements = schema::statements(&config.state.keyspace, replication, true);
    if config.dead_letter.target != DeadLetterTarget::Topic {
        let (keyspace, table) = table::name(config);
        statements.push(table::create_table(&keyspace, &table));
    }
    statements
}

async fn execute(session: &Session, statement: &str) -> anyhow::Result<()> {
    let Err(error) = session.query_unpaged(statement, ()).await else {
        return Ok(());
    };
    // A database without tablets refuses the option that turns them off.
    let plain = statement.replace(schema::NO_TABLETS, "");
    if plain != statement && session.query_unpaged(plain, ()).await.is_ok() {
        return Ok(());
    }
    anyhow::bail!("could not execute; have it executed by someone who may:\n\n  {statement};\n\n{error}")
}
