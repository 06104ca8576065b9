//! `outbox-relay dead-letters` with `deadLetter.target: Topic`.

use std::sync::Arc;

use crds::RelayConfig;
use serde_json::json;

use super::super::progress::Progress;
use super::super::{DiscardArgs, Exit, ListArgs};
use crate::clock::SystemClock;
use crate::dead_letters::stored::Filter;
use crate::dead_letters::topic::deciding::Decider;
use crate::dead_letters::topic::fold::Kept;
use crate::dead_letters::topic::reading::{LetterTopic, TopicError};
use crate::dead_letters::topic::record::{Decided, Letter};
use crate::dead_letters::topic::replaying::decisions;
use crate::ports::Clock as _;

/// Letters whose payloads are in memory at once.
const READ: usize = 100;

/// Letters that are discarded by one transaction.
const DISCARD: usize = 500;

pub(in crate::cli) fn open(config: &RelayConfig, topic: &str) -> Result<LetterTopic, TopicError> {
    LetterTopic::open(config, topic)
}

/// The letters that are meant, in the order in which they were given up.
pub(in crate::cli) async fn undecided(topic: &LetterTopic, filter: &Filter) -> Result<Vec<Kept>, TopicError> {
    let (contents, now) = (topic.contents().await?, SystemClock::start().now());
    if contents.foreign > 0 {
        eprintln!(
            "{} records of topic {} are no dead letters of a relay",
            contents.foreign,
            topic.name()
        );
    }
    let mut letters = contents.letters;
    letters.retain(|kept| filter.takes(&kept.letter.stored, now));
    letters.sort_by_key(|kept| kept.letter.stored.last_failed_at.map(|at| at.0));
    Ok(letters)
}

pub(in crate::cli) fn newest(mut letters: Vec<Kept>, count: Option<usize>) -> Vec<Kept> {
    if let Some(count) = count {
        letters.drain(..letters.len().saturating_sub(count));
    }
    letters
}

pub(super) async fn list(args: &ListArgs, config: &RelayConfig, topic: &str) -> anyhow::Result<Exit> {
    let topic = open(config, topic)?;
    let letters = newest(undecided(&topic, &args.filter.filter()).await?, args.newest);
    if args.json {
        each_whole(&topic, &letters, |kept, letter| {
            println!("{}", json(&topic, kept, letter))
        })
        .await?;
    } else {
        letters
            .iter()
            .for_each(|kept| println!("{}", kept.letter.stored.line()));
        println!("{} dead letters", letters.len());
    }
    Ok(Exit::Fine)
}

pub(super) async fn show(event_id: &str, config: &RelayConfig, topic: &str) -> anyhow::Result<Exit> {
    let topic = open(config, topic)?;
    let filter = Filter {
        event_id: Some(event_id.to_owned()),
        ..Filter::default()
    };
    let letters = undecided(&topic, &filter).await?;
    each_whole(&topic, &letters, |kept, letter| {
        println!("{:#}", json(&topic, kept, letter))
    })
    .await?;
    if letters.is_empty() {
        eprintln!("there is no dead letter of event {event_id}");
        return Ok(Exit::Failed);
    }
    Ok(Exit::Fine)
}

pub(super) async fn discard(args: &DiscardArgs, config: &RelayConfig, topic: &str) -> anyhow::Result<Exit> {
    let (topic, filter) = (open(config, topic)?, args.filter.filter());
    if !args.yes {
        let letters = undecided(&topic, &filter).await?;
        letters
            .iter()
            .for_each(|kept| println!("{}", kept.letter.stored.line()));
        println!(
            "{} dead letters would be discarded; do it with --yes",
            letters.len()
        );
        return Ok(Exit::Fine);
    }
    topic.ensure_keeps_letters().await?;
    let (mut decider, clock) = (Decider::open(&topic).await?, SystemClock::start());
    let letters = undecided(&topic, &filter).await?;
    let (progress, mut done) = (Progress::new(letters.len(), false), 0);
    for batch in letters.chunks(DISCARD) {
        let of_one = |kept| decisions(topic.name(), kept, Decided::Discarded, clock.now());
        let records: Vec<_> = batch.iter().flat_map(of_one).collect();
        if let Some((_, error)) = decider.attempt(&records).await?.into_iter().next() {
            return Err(decider.gave_up(error).into());
        }
        done += batch.len();
        batch
            .iter()
            .for_each(|kept| progress.line(&kept.letter.stored.line()));
        progress.at(done, 0);
    }
    decider.close().await;
    drop(progress);
    println!("{done} dead letters discarded");
    Ok(Exit::Fine)
}

/// Letters that the topic has dropped since are left out.
async fn each_whole(
    topic: &LetterTopic,
    letters: &[Kept],
    mut see: impl FnMut(&Kept, &Letter),
) -> Result<(), TopicError> {
    for batch in letters.chunks(READ) {
        for (kept, letter) in batch.iter().zip(topic.whole(batch).await?) {
            if let Some(letter) = letter {
                see(kept, &letter);
            }
        }
    }
    Ok(())
}

/// As of a letter of the table, and where it is.
fn json(topic: &LetterTopic, kept: &Kept, letter: &Letter) -> serde_json::Value {
    let mut document = letter.stored.json();
    let name: &Arc<str> = topic.name();
    document["place"] =
        json!({ "topic": &**name, "partition": kept.place.partition, "offset": kept.place.offset });
    if let Some(bytes) = letter.omitted {
        document["payloadOmitted"] = json!(bytes);
    }
    document
}
