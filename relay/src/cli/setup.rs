//! `outbox-relay setup`: makes the relay's own tables, and the topic when asked to.

use std::time::Duration;

use crds::RelayConfig;
use crds::sink::{Guarantee, journal_topic};

use super::{Exit, SetupArgs};
use crate::cdc_log::session::connect;
use crate::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings};
use crate::run::tables::create_tables;

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
