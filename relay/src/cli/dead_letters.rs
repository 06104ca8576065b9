//! `outbox-relay dead-letters`: what lies in the table for dead letters, and taking out what nobody needs any more.

use anyhow::Context as _;
use crds::RelayConfig;
use crds::dead_letter::OnAggregate;

use super::{DeadLettersCommand, Exit, FileArgs, FilterArgs};
use crate::cdc_log::session::connect;
use crate::clock::SystemClock;
use crate::dead_letters::stored::{Filter, Stored};
use crate::dead_letters::table::TableDeadLetters;
use crate::ports::Clock;

/// Exit code 1 if the table cannot be read, or nothing is there that was asked for by its id; 2 if there is no table.
pub async fn dead_letters(command: &DeadLettersCommand) -> Exit {
    let done = match command {
        DeadLettersCommand::List(args) => list(&args.config, &args.filter, args.newest, args.json).await,
        DeadLettersCommand::Show(args) => show(&args.config, &args.event_id).await,
        DeadLettersCommand::Replay(args) => super::replay::replay(args).await,
        DeadLettersCommand::Discard(args) => discard(&args.config, &args.filter, args.yes).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        Exit::Failed
    })
}

async fn list(
    file: &FileArgs,
    filter: &FilterArgs,
    newest: Option<usize>,
    json: bool,
) -> anyhow::Result<Exit> {
    let table = match open(file).await? {
        Ok(table) => table,
        Err(exit) => return Ok(exit),
    };
    let mut letters = found(&table, &filter.filter()).await?;
    if let Some(newest) = newest {
        letters.drain(..letters.len().saturating_sub(newest));
    }
    for letter in &letters {
        if json {
            println!("{}", letter.json());
        } else {
            println!("{}", letter.line());
        }
    }
    if !json {
        println!("{} dead letters", letters.len());
    }
    Ok(Exit::Fine)
}

async fn show(file: &FileArgs, event_id: &str) -> anyhow::Result<Exit> {
    let table = match open(file).await? {
        Ok(table) => table,
        Err(exit) => return Ok(exit),
    };
    let filter = Filter {
        event_id: Some(event_id.to_owned()),
        ..Filter::default()
    };
    let letters = found(&table, &filter).await?;
    for letter in &letters {
        println!("{:#}", letter.json());
    }
    if letters.is_empty() {
        eprintln!("there is no dead letter of event {event_id}");
        return Ok(Exit::Failed);
    }
    Ok(Exit::Fine)
}

async fn discard(file: &FileArgs, filter: &FilterArgs, yes: bool) -> anyhow::Result<Exit> {
    let filter = filter.filter();
    if filter.is_empty() {
        eprintln!(
            "discard takes what a filter names; accepted: --event-id, --event-type, --aggregate, --class or --older-than"
        );
        return Ok(Exit::Usage);
    }
    let config = match super::file::load(file) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let table = match open_configured(&config).await? {
        Ok(table) => table,
        Err(exit) => return Ok(exit),
    };
    let letters = found(&table, &filter).await?;
    // Whoever owns their slots decides what becomes of them, within seconds.
    let (pending, letters): (Vec<_>, Vec<_>) = letters.into_iter().partition(Stored::is_undecided);
    for letter in &letters {
        if yes {
            table.discard(letter).await?;
        }
        println!("{}", letter.line());
    }
    if yes && config.dead_letter.on_aggregate == OnAggregate::Hold {
        let slots = letters.iter().filter_map(Stored::place).map(|(slot, _)| slot);
        table.ask_to_look(slots).await?;
    }
    let done = if yes {
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

async fn open(file: &FileArgs) -> anyhow::Result<Result<TableDeadLetters, Exit>> {
    match super::file::load(file) {
        Ok(config) => open_configured(&config).await,
        Err(exit) => Ok(Err(exit)),
    }
}

pub(super) async fn open_configured(config: &RelayConfig) -> anyhow::Result<Result<TableDeadLetters, Exit>> {
    if !config.dead_letter.to_table() {
        eprintln!("deadLetter.target: Topic; accepted: Table or Both, a topic is read with any Kafka client");
        return Ok(Err(Exit::Usage));
    }
    let session = connect(&config.source).await?;
    Ok(Ok(TableDeadLetters::open(session, config).await?))
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
