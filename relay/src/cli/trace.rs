//! `outbox-relay trace`: where one event is on its way, and why it is not further. Changes nothing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crds::RelayConfig;

use super::evidence::{Evidence, From, prepared};
use super::{Exit, TraceArgs};
use crate::audit::TooMany;
use crate::audit::source::{ReadError, Window};
use crate::clock::SystemClock;
use crate::dead_letters::table::TableDeadLetters;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::{Clock, StateStore as _};
use crate::state::scylla::ScyllaState;

mod found;

use found::{Found, Landed, Letter, Row, Searched, SlotView};

/// Clocks of writers, coordinators and brokers differ by less.
const MARGIN: Micros = 60 * SECOND;

/// Rows, messages and letters of the event that are told; an event that has more is told as far as that.
const MOST: usize = 50;

/// Exit code 0 if the event is delivered, a dead letter or on its way, 1 if it is missing or was not found, 2 if it cannot
/// be told.
pub async fn trace(args: &TraceArgs) -> Exit {
    match answer(args).await {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("cannot be told: {error:#}");
            Exit::Usage
        }
    }
}

async fn answer(args: &TraceArgs) -> anyhow::Result<Exit> {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let from = From::of(args.source, &config);
    let mut evidence = Evidence::open(config, from).await?;
    let now = evidence.now;
    // What was written while it is looked for is ahead of the time that was asked for.
    let (begin, end) = (
        args.from.resolve(now),
        args.to.map_or(now + MARGIN, |to| to.resolve(now)),
    );
    anyhow::ensure!(
        begin < end,
        "--from {} is not before --to {}; accepted: an earlier one",
        crate::health::timestamp(begin),
        crate::health::timestamp(end)
    );
    let window = Window { from: begin, to: end };
    let resolved = evidence.resolved().await?;
    let rows = rows(&mut evidence, window, &args.event_id).await?;
    let mut found = Found {
        event_id: args.event_id.clone(),
        searched: Searched {
            source: from.name(),
            window,
            expired: evidence.retained().filter(|retained| begin < *retained),
            topics: Vec::new(),
            dead_letter_table: evidence.config.dead_letter.to_table(),
        },
        letters: letters(&evidence, &args.event_id).await?,
        messages: Vec::new(),
        slot: None,
        resolved: rows.iter().any(|row| resolved.covers(row.slot, &row.position)),
        horizon: evidence.config.source.horizon(),
        now,
        relay: None,
        rows,
    };
    messages(&evidence, &mut found).await?;
    if let Some(slot) = found.slot_of() {
        found.slot = slot_view(&evidence, slot, found.is_done()).await?;
    }
    if let (Some(url), false) = (&args.url, found.is_done()) {
        found.relay = Some(super::status::ask(url, &args.trust).await);
    }
    let verdict = found.verdict();
    if args.json {
        println!("{:#}", found.json(&verdict));
    } else {
        print!("{}", found.text(&verdict));
    }
    Ok(if verdict.is_fine() {
        Exit::Fine
    } else {
        Exit::Failed
    })
}

/// The rows that are this event; most have one.
async fn rows(evidence: &mut Evidence, window: Window, event_id: &str) -> anyhow::Result<Vec<Row>> {
    let preparer = evidence.preparer.clone();
    let mut rows = Vec::new();
    let visited = evidence.events(window, SlotSet::ALL, |event| {
        let event = prepared(&preparer, event);
        if event.event_id == event_id {
            rows.push(Row {
                position: event.position,
                slot: event.slot,
                aggregate_id: event.aggregate_id,
                event_type: event.event_type.map(|name| name.to_string()),
                topic: event.message.topic.to_string(),
                created: event.message.timestamp.saturating_mul(1000),
                problem: event.problem.map(|problem| problem.to_string()),
            });
        }
        if rows.len() < MOST { Ok(()) } else { Err(TooMany) }
    });
    match visited.await {
        Ok(_) | Err(ReadError::TooMany) => Ok(rows),
        Err(ReadError::Log(error)) => Err(error.into()),
    }
}

async fn letters(evidence: &Evidence, event_id: &str) -> anyhow::Result<Vec<Letter>> {
    let config = &evidence.config;
    if !config.dead_letter.to_table() {
        return Ok(Vec::new());
    }
    let table = TableDeadLetters::open(evidence.session.clone(), config).await?;
    let letters = table
        .stored(|letter| letter.event_id.as_deref() == Some(event_id))
        .await?;
    Ok(letters
        .into_iter()
        .take(MOST)
        .map(|letter| Letter::of(&letter))
        .collect())
}

/// Of the topics that the rows belong to, or the fixed one; and of the dead letters' topic.
async fn messages(evidence: &Evidence, found: &mut Found) -> anyhow::Result<()> {
    let reader = evidence.topics()?;
    let config = &evidence.config;
    let mut topics: Vec<String> = found.rows.iter().map(|row| row.topic.clone()).collect();
    topics.extend(found.letters.iter().filter_map(|letter| letter.topic.clone()));
    if topics.is_empty() && !config.sink.topic.contains("${") {
        topics.push(config.sink.topic.clone());
    }
    let buried = config
        .dead_letter
        .topic
        .as_ref()
        .filter(|_| config.dead_letter.to_topic());
    topics.extend(buried.cloned());
    topics.retain(|topic| !topic.is_empty());
    topics.sort();
    topics.dedup();
    let written = found
        .rows
        .iter()
        .map(|row| row.created.min(row.position.time.micros()));
    let from = written.min().unwrap_or(found.searched.window.from) - MARGIN;
    for topic in topics {
        let Some(spans) = reader.spans(&topic, from, from).await? else {
            found.searched.topics.push((topic, None));
            continue;
        };
        let ranges: Vec<_> = spans
            .iter()
            .map(|span| (span.partition, span.start, span.end))
            .collect();
        found.searched.topics.push((topic.clone(), Some(ranges.clone())));
        let (event_id, name) = (Arc::<str>::from(found.event_id.as_str()), topic.clone());
        let is_letter = Some(&topic) == buried;
        let landed = reader
            .visit(
                &topic,
                ranges,
                Vec::new(),
                move |landed: &mut Vec<Landed>, seen| {
                    if seen.event_id == Some(&*event_id) {
                        landed.push(Landed {
                            topic: name.clone(),
                            partition: seen.partition,
                            offset: seen.offset,
                            dead_letter: is_letter,
                            marks: [
                                (seen.late, "late"),
                                (seen.replayed, "replayed"),
                                (seen.reconciled, "reconciled"),
                            ]
                            .into_iter()
                            .filter_map(|(is, mark)| is.then_some(mark))
                            .collect(),
                        });
                    }
                    if landed.len() < MOST {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                },
            )
            .await?;
        found.messages.extend(landed);
    }
    Ok(())
}

/// Who has the slot, and whether its heart beats: that takes two looks, a lease apart, and is asked only if the event waits.
async fn slot_view(evidence: &Evidence, slot: SlotId, done: bool) -> anyhow::Result<Option<SlotView>> {
    let partitions = evidence.partitions().await?;
    let Some((_, partition)) = partitions.into_iter().find(|(index, _)| *index == slot) else {
        return Ok(None);
    };
    let alive = match &partition.owner {
        Some(owner) if !done => Some(beats(evidence, owner).await?),
        _ => None,
    };
    Ok(Some(SlotView {
        slot,
        epoch: partition.epoch.map(|epoch| epoch.0),
        alive,
        bound: partition.loaded.checkpoint.map(|checkpoint| checkpoint.bound),
        transactional_id: partition.loaded.transactional_id,
        owner: partition.owner,
    }))
}

async fn beats(evidence: &Evidence, owner: &str) -> anyhow::Result<bool> {
    let config: &RelayConfig = &evidence.config;
    let state = ScyllaState::open(evidence.session.clone(), &config.state.keyspace, &config.identity).await?;
    let clock = SystemClock::start();
    let beat = async || -> anyhow::Result<Option<i64>> {
        let processes = state.processes().await?;
        Ok(processes
            .into_iter()
            .find(|row| row.process == owner)
            .map(|row| row.beat))
    };
    let first = beat().await?;
    while clock.elapsed() < config.state.lease() {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = beat().await?;
        if now.is_some() && now != first {
            return Ok(true);
        }
    }
    Ok(false)
}
