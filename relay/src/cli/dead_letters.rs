//! `outbox-relay dead-letters`: what lies in the table or the topic for dead letters, and taking out what nobody needs any
//! more.

pub(super) mod topic;

use anyhow::Context as _;
use crds::RelayConfig;
use crds::dead_letter::OnAggregate;

use super::progress::Progress;
use super::{DeadLettersCommand, DiscardArgs, Exit, FilterArgs, ListArgs, ShowArgs};
use crate::cdc_log::session::connect;
use crate::clock::SystemClock;
use crate::dead_letters::stored::{Filter, Stored};
use crate::dead_letters::table::TableDeadLetters;
use crate::ports::Clock;

/// Exit code 1 if table or topic cannot be read, or nothing is there that was asked for by its id; 2 if nothing was tried.
pub async fn dead_letters(command: &DeadLettersCommand) -> Exit {
    let done = match command {
        DeadLettersCommand::List(args) => list(args).await,
        DeadLettersCommand::Show(args) => show(args).await,
        DeadLettersCommand::Replay(args) => super::replay::replay(args).await,
        DeadLettersCommand::Discard(args) => discard(args).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        Exit::Failed
    })
}

async fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    if let Some(topic) = only_topic(&config) {
        return topic::list(args, &config, topic).await;
    }
    let table = open(&config).await?;
    let mut letters = found(&table, &args.filter.filter()).await?;
    if let Some(newest) = args.newest {
        letters.drain(..letters.len().saturating_sub(newest));
    }
    for letter in &letters {
        if args.json {
            println!("{}", letter.json());
        } else {
            println!("{}", letter.line());
        }
    }
    if !args.json {
        println!("{} dead letters", letters.len());
    }
    Ok(Exit::Fine)
}

async fn show(args: &ShowArgs) -> anyhow::Result<Exit> {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let event_id = &args.event_id;
    if let Some(topic) = only_topic(&config) {
        return topic::show(event_id, &config, topic).await;
    }
    let filter = Filter {
        event_id: Some(event_id.clone()),
        ..Filter::default()
    };
    let letters = found(&open(&config).await?, &filter).await?;
    for letter in &letters {
        println!("{:#}", letter.json());
    }
    if letters.is_empty() {
        eprintln!("there is no dead letter of event {event_id}");
        return Ok(Exit::Failed);
    }
    Ok(Exit::Fine)
}

async fn discard(args: &DiscardArgs) -> anyhow::Result<Exit> {
    let filter = args.filter.filter();
    if filter.is_empty() {
        eprintln!(
            "discard takes what a filter names; accepted: --event-id, --event-type, --aggregate, --class or --older-than"
        );
        return Ok(Exit::Usage);
    }
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    if let Some(topic) = only_topic(&config) {
        return topic::discard(args, &config, topic).await;
    }
    let table = open(&config).await?;
    let letters = found(&table, &filter).await?;
    // Whoever owns their slots decides what becomes of them, within seconds.
    let (pending, letters): (Vec<_>, Vec<_>) = letters.into_iter().partition(Stored::is_undecided);
    let progress = Progress::new(letters.len(), !args.yes);
    for (done, letter) in letters.iter().enumerate() {
        if args.yes {
            table.discard(letter).await?;
        }
        progress.line(&letter.line());
        progress.at(done + 1, 0);
    }
    drop(progress);
    if args.yes && config.dead_letter.on_aggregate == OnAggregate::Hold {
        let slots = letters.iter().filter_map(Stored::place).map(|(slot, _)| slot);
        table.ask_to_look(slots).await?;
    }
    let done = if args.yes {
        "discarded"
    } else {
        "would be discarded; do it with --yes"
    };
    println!("{} dead letters {done}", letters.len());
    if !pending.is_empty() {
        println!("{} are not decided yet and stay", pending.len());
    }
    Ok(Exit::Fine)
}

/// The topic, if there is no table: with both, the table tells what is decided.
pub(super) fn only_topic(config: &RelayConfig) -> Option<&str> {
    let letters = &config.dead_letter;
    letters.topic.as_deref().filter(|_| !letters.to_table())
}

pub(super) async fn open(config: &RelayConfig) -> anyhow::Result<TableDeadLetters> {
    let session = connect(&config.source).await?;
    Ok(TableDeadLetters::open(session, config).await?)
}

/// The oldest first.
pub(super) async fn found(table: &TableDeadLetters, filter: &Filter) -> anyhow::Result<Vec<Stored>> {
    let now = SystemClock::start().now();
    let mut letters = table
        .stored(|letter| filter.takes(letter, now))
        .await
        .context("reading dead letters")?;
    letters.sort_by_key(|letter| letter.last_failed_at.map(|at| at.0));
    Ok(letters)
}

impl FilterArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            event_id: self.event_id.clone(),
            event_type: self.event_type.clone(),
            aggregate_id: self.aggregate.clone(),
            class: self.class.clone(),
            older_than: self.older_than,
        }
    }
}
