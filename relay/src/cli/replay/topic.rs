//! `outbox-relay dead-letters replay` with `deadLetter.target: Topic`: there is no table to ask a relay in, so the command
//! sends the letters itself.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use crds::RelayConfig;
use tokio::time::Instant;

use super::super::dead_letters::topic::{newest, open, undecided};
use super::super::progress::Progress;
use super::super::{Exit, ReplayArgs};
use super::Told;
use crate::clock::SystemClock;
use crate::dead_letters::replay::Refusal;
use crate::dead_letters::topic::deciding::Decider;
use crate::dead_letters::topic::fold::Kept;
use crate::dead_letters::topic::reading::LetterTopic;
use crate::dead_letters::topic::replaying::{Due, Replaying, Sent};
use crate::ports::Clock as _;

/// Letters of a transaction: a commit costs some 10 ms, and one that is refused makes all of them go one by one.
const BATCH: usize = 100;

/// Bytes of their payloads, which are in memory. A letter may be larger alone.
const BATCH_BYTES: usize = 8 << 20;

pub(super) async fn replay(args: &ReplayArgs, config: &RelayConfig, topic: &str) -> anyhow::Result<Exit> {
    let topic = open(config, topic)?;
    // Whoever else decides on letters ends here, so that what is read from here on is not decided by others.
    let decider = match args.dry_run {
        true => None,
        false => {
            topic.ensure_keeps_letters().await?;
            Some(Decider::open(&topic).await?)
        }
    };
    let letters = undecided(&topic, &args.filter.filter()).await?;
    let letters = newest(letters, args.newest.map(|count| count as usize));
    if let (Some(event_id), true) = (&args.filter.event_id, letters.is_empty()) {
        eprintln!("there is no such dead letter of event {event_id}");
        return Ok(Exit::Failed);
    }
    let max = config.dead_letter.max_replays;
    let (letters, refused) = plan(&topic, letters, max).await?;
    super::tell_refused(&refused);
    let mut told = Told {
        asked: letters.len(),
        refused,
        ..Told::default()
    };
    let Some(decider) = decider else {
        if !args.json {
            letters.iter().for_each(|kept| println!("{}", event_id(kept)));
        }
        return told.conclude(args, "undecided");
    };
    let done = carry_out(&topic, decider, letters, max, args, &mut told).await;
    told.waiting = told.asked - told.delivered - told.failed.len() - told.stopped;
    let exit = told.conclude(args, "left as they were")?;
    done.map(|()| exit)
}

/// The letters that can be sent, in the order of the log.
async fn plan(
    topic: &LetterTopic,
    mut letters: Vec<Kept>,
    max: u32,
) -> anyhow::Result<(Vec<Kept>, Vec<(String, Refusal)>)> {
    letters.sort_by_key(Kept::order);
    let (mut takes, mut refused, mut topics) = (Vec::new(), Vec::new(), BTreeSet::new());
    for kept in letters {
        match kept.letter.judge(max) {
            Ok(message) => {
                topics.insert(message.topic.clone());
                takes.push((message.topic, kept));
            }
            Err(refusal) => refused.push((event_id(&kept), refusal)),
        }
    }
    let missing = topic.missing(topics).await?;
    let (gone, takes): (Vec<_>, Vec<_>) = takes.into_iter().partition(|(topic, _)| missing.contains(topic));
    refused.extend(gone.into_iter().map(|(topic, kept)| {
        let topic = topic.to_string();
        (event_id(&kept), Refusal::NoTopic { topic })
    }));
    Ok((takes.into_iter().map(|(_, kept)| kept).collect(), refused))
}

async fn carry_out(
    topic: &LetterTopic,
    decider: Decider,
    letters: Vec<Kept>,
    max: u32,
    args: &ReplayArgs,
    told: &mut Told,
) -> anyhow::Result<()> {
    let (clock, progress) = (SystemClock::start(), Progress::new(letters.len(), args.json));
    let mut replaying = Replaying::new(topic.name(), decider);
    let (began, mut sent) = (Instant::now(), 0);
    let most = args.rate.map_or(BATCH, |rate| BATCH.min(rate as usize));
    for batch in batches(&letters, most) {
        if let Some(rate) = args.rate {
            tokio::time::sleep_until(began + Duration::from_secs_f64(sent as f64 / f64::from(rate))).await;
        }
        let whole = topic.whole(batch).await?;
        let mut due = Vec::new();
        for (kept, letter) in batch.iter().zip(whole) {
            // What the topic has dropped since is not there any more for anybody.
            let letter = letter.with_context(|| format!("the letter of event {} is gone", event_id(kept)))?;
            match Due::new(topic.name(), kept, letter, max, clock.now()) {
                Ok(one) => due.push(one),
                Err(refusal) => told.note(&progress, &event_id(kept), Sent::NotSent(refusal)),
            }
        }
        let tell = |event_id: &str, sent: Sent| told.note(&progress, event_id, sent);
        let done = replaying.send(due, || clock.now(), tell).await;
        sent += batch.len();
        progress.at(sent, told.failed.len());
        done?;
    }
    replaying.close().await;
    Ok(())
}

impl Told {
    fn note(&mut self, progress: &Progress, event_id: &str, sent: Sent) {
        match sent {
            Sent::Delivered => self.delivered += 1,
            Sent::Failed(error) => {
                progress.warn(&format!("{event_id}: failed again: {error}"));
                self.failed.push(event_id.to_owned());
            }
            Sent::NotSent(refusal) => {
                self.stopped += 1;
                progress.warn(&format!("{event_id}: {refusal}"));
                self.refused.push((event_id.to_owned(), refusal));
            }
        }
    }
}

/// So many letters at most, and payloads of so many bytes.
fn batches(letters: &[Kept], most: usize) -> Vec<&[Kept]> {
    let (mut batches, mut rest) = (Vec::new(), letters);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(most).take_while(|kept| {
            bytes += kept.bytes;
            bytes <= BATCH_BYTES
        });
        let (batch, behind) = rest.split_at(fits.count().max(1));
        batches.push(batch);
        rest = behind;
    }
    batches
}

fn event_id(kept: &Kept) -> String {
    kept.letter.stored.event_id.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::stored::tests::letter;
    use crate::dead_letters::topic::record::{Letter, Place};

    #[test]
    fn a_batch_ends_by_its_number_or_its_bytes_and_takes_one_that_is_larger() {
        let kept = |bytes| Kept {
            letter: Letter {
                stored: letter(),
                omitted: None,
            },
            place: Place {
                partition: 0,
                offset: 0,
            },
            ends: Vec::new(),
            replays: 0,
            bytes,
        };
        let check = |bytes: &[usize], most, expected: &[usize]| {
            let letters: Vec<_> = bytes.iter().map(|bytes| kept(*bytes)).collect();
            let lengths: Vec<_> = batches(&letters, most).iter().map(|batch| batch.len()).collect();
            assert_eq!(lengths, expected, "{bytes:?}");
        };
        check(&[], 2, &[]);
        check(&[1, 1, 1, 1, 1], 2, &[2, 2, 1]);
        check(&[BATCH_BYTES, 1, 1], 9, &[1, 2]);
        check(&[1, BATCH_BYTES * 2, 1, 1], 9, &[1, 1, 2]);
    }
}
