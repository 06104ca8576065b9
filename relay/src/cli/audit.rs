//! `outbox-relay audit`: proves, or disproves, that what was written in a window is in its topics or a dead letter: nothing
//! missing, nothing repeated that must not be, nothing out of order.
//!
//! The order of looking is what makes it sound while relays work: first what the checkpoints call resolved, then the rows,
//! then the dead letters, then the topics up to where they end now. What was resolved before the first look is in the dead
//! letters or the topics at the last one, also if it was replayed in between.

use std::ops::ControlFlow;

use anyhow::Context as _;
use crds::sink::Guarantee;
use crds::source::OnChange;
use parking_lot::Mutex;

use super::evidence::{Evidence, From, prepared};
use super::{AuditArgs, Exit};
use crate::audit::report::{Question, Report};
use crate::audit::source::{ReadError, Window};
use crate::audit::{Audit, Expected, Policy, Resolved};
use crate::dead_letters::table::TableDeadLetters;
use crate::deliver::kafka::reading::{Range, Span, TopicReader};
use crate::fitness;
use crate::health::timestamp;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::state::scylla::ScyllaState;

/// Clocks of writers, coordinators and brokers differ by less.
const MARGIN: Micros = 60 * SECOND;

/// Exit code 0 if the promise was kept, 1 if there are findings, 2 if the question cannot be answered.
pub async fn audit(args: &AuditArgs) -> Exit {
    match answer(args).await {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("cannot be answered: {error:#}");
            Exit::Usage
        }
    }
}

async fn answer(args: &AuditArgs) -> anyhow::Result<Exit> {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let from = From::of(args.source, &config);
    let mut evidence = Evidence::open(config, from).await?;
    let window = window(args, &evidence)?;
    let mut auditor = Auditor::open(&evidence, args.max_events as usize).await?;
    let report = auditor.run(&mut evidence, window).await?;
    let question = Question {
        identity: evidence.config.identity.clone(),
        source: from.name(),
        from: window.from,
        to: window.to,
        guarantee: format!("{:?}", evidence.config.sink.guarantee),
        topics: auditor.topics.iter().cloned().collect(),
        unordered: auditor.unordered.clone(),
        resolved: auditor.resolved.lowest(),
    };
    if args.record {
        record(&evidence, window, &report).await?;
    }
    if args.json {
        println!("{:#}", report.json(&question));
    } else {
        print!("{}", report.text(&question));
    }
    Ok(if report.is_clean() {
        Exit::Fine
    } else {
        Exit::Failed
    })
}

/// What the relay and the operator show.
async fn record(evidence: &Evidence, window: Window, report: &Report) -> anyhow::Result<()> {
    let config = &evidence.config;
    let state = ScyllaState::open(evidence.session.clone(), &config.state.keyspace, &config.identity).await?;
    let audit = crds::relay_status::Audit {
        time: timestamp(evidence.now),
        from: timestamp(window.from),
        to: timestamp(window.to),
        events: report.events,
        not_yet_due: report.not_yet_due,
        missing: report.missing,
        reordered: report.reordered,
        repeated: report.repeated.not_allowed,
    };
    Ok(state.record_audit(&audit).await?)
}

/// The window, if the source still has it.
fn window(args: &AuditArgs, evidence: &Evidence) -> anyhow::Result<Window> {
    let now = evidence.now;
    let (from, to) = (args.from.resolve(now), args.to.resolve(now));
    anyhow::ensure!(
        from < to,
        "--from {} is not before --to {}; accepted: an earlier one",
        timestamp(from),
        timestamp(to)
    );
    anyhow::ensure!(
        to <= now + SECOND,
        "--to {} lies ahead; accepted: now or earlier",
        timestamp(to)
    );
    if let Some(retained) = evidence.retained().filter(|retained| from < *retained) {
        anyhow::bail!(
            "--from {}: rows written before {} have expired; accepted: a later one, or --source Table if the rows are still \
             in the table",
            timestamp(from),
            timestamp(retained)
        );
    }
    Ok(Window { from, to })
}

struct Auditor {
    policy: Policy,
    limit: usize,
    resolved: Resolved,
    unordered: Option<String>,
    topics: std::collections::BTreeSet<String>,
    reader: TopicReader,
    letters: Option<TableDeadLetters>,
}

impl Auditor {
    async fn open(evidence: &Evidence, limit: usize) -> anyhow::Result<Self> {
        let config = &evidence.config;
        let unordered = fitness::order(config, &evidence.table).err();
        let unordered = unordered.map(|finding| finding.text);
        let letters = if config.dead_letter.to_table() {
            Some(TableDeadLetters::open(evidence.session.clone(), config).await?)
        } else {
            None
        };
        Ok(Self {
            policy: Policy {
                exactly_once: config.sink.guarantee == Guarantee::ExactlyOnce,
                ordered: unordered.is_none(),
                changes: config.source.on_change == OnChange::Forward,
            },
            limit,
            resolved: evidence.resolved().await.context("checkpoints")?,
            unordered,
            topics: std::collections::BTreeSet::new(),
            reader: evidence.topics()?,
            letters,
        })
    }

    /// One pass over all slots; where that is too much, over halves of them.
    async fn run(&mut self, evidence: &mut Evidence, window: Window) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let mut passes = vec![SlotSet::ALL];
        while let Some(slots) = passes.pop() {
            match self.pass(evidence, window, slots).await? {
                Some(pass) => report.add(pass),
                None if slots.len() > 1 => passes.extend(halves(slots)),
                None => anyhow::bail!(
                    "slot {slots} alone holds more than {} events of the window; accepted: a shorter window, or a larger \
                     --max-events",
                    self.limit
                ),
            }
        }
        Ok(report)
    }

    /// None if there are too many events.
    async fn pass(
        &mut self,
        evidence: &mut Evidence,
        window: Window,
        slots: SlotSet,
    ) -> anyhow::Result<Option<Report>> {
        let mut books = Audit::new(self.policy, self.limit);
        let preparer = evidence.preparer.clone();
        // Messages bear the time of the event's creation, if the table has one.
        let mut earliest = window.from;
        let resolved = &self.resolved;
        let read = evidence.events(window, slots, |event| {
            let due = resolved.covers(event.slot, &event.position);
            let event = prepared(&preparer, event);
            earliest = earliest.min(event.message.timestamp.saturating_mul(1000));
            books.expect(Expected {
                event_id: event.event_id,
                aggregate_id: event.aggregate_id,
                position: event.position,
                topic: event.message.topic,
                due,
            })
        });
        let undated = match read.await {
            Ok(undated) => undated,
            Err(ReadError::TooMany) => return Ok(None),
            Err(ReadError::Log(error)) => return Err(error.into()),
        };
        let times = (earliest - MARGIN, window.to + MARGIN);
        let books = self.letters(evidence, books, times).await?;
        let books = self.messages(books, times).await?;
        let mut report = books.finish();
        (report.undated, report.passes) = (undated, 1);
        Ok(Some(report))
    }

    async fn letters(
        &self,
        evidence: &Evidence,
        books: Audit,
        (from, _): (Micros, Micros),
    ) -> anyhow::Result<Audit> {
        let books = Mutex::new(books);
        if let Some(table) = &self.letters {
            // None is kept: their payloads may be large.
            let note = |letter: &crate::dead_letters::stored::Stored| {
                let position = letter.source_position.as_deref();
                match &letter.event_id {
                    Some(event_id) if letter.is_undecided() => books.lock().undecided(event_id, position),
                    Some(event_id) => books.lock().letter(event_id, position),
                    None => {}
                }
                false
            };
            table.stored(note).await?;
        }
        let mut books = books.into_inner();
        let letters = &evidence.config.dead_letter;
        if let Some(topic) = letters.topic.as_deref().filter(|_| letters.to_topic()) {
            let spans = self.reader.spans(topic, from, from).await?.unwrap_or_default();
            let ranges = ranges(&spans, |span| (span.start, span.end));
            books = self
                .reader
                .visit(topic, ranges, books, |books: &mut Audit, seen| {
                    if let Some(event_id) = seen.event_id {
                        books.letter(event_id, seen.position);
                    }
                    ControlFlow::Continue(())
                })
                .await?;
        }
        Ok(books)
    }

    /// Reads what bears the window's time, and the rest of the topics if something is still not found.
    async fn messages(&mut self, mut books: Audit, (from, to): (Micros, Micros)) -> anyhow::Result<Audit> {
        let mut topics = Vec::new();
        for topic in books.topics() {
            let spans = self.reader.spans(&topic, from, to).await?;
            self.topics.insert(topic.to_string());
            topics.extend(spans.map(|spans| (topic, spans)));
        }
        for (topic, spans) in &topics {
            books = self
                .read(topic, ranges(spans, |span| (span.start, span.middle)), books)
                .await?;
        }
        for (topic, spans) in &topics {
            if books.lacks_any() {
                books = self
                    .read(topic, ranges(spans, |span| (span.middle, span.end)), books)
                    .await?;
            }
        }
        if books.lacks_due() {
            self.ensure_complete(&topics).await?;
        }
        Ok(books)
    }

    async fn read(&self, topic: &str, ranges: Vec<Range>, books: Audit) -> anyhow::Result<Audit> {
        let name = topic.to_owned();
        let read = self
            .reader
            .visit(topic, ranges, books, move |books: &mut Audit, seen| {
                books.message(&name, seen);
                ControlFlow::Continue(())
            });
        Ok(read.await?)
    }

    /// What a topic has deleted cannot be told from what it never had.
    async fn ensure_complete(&self, topics: &[(std::sync::Arc<str>, Vec<Span>)]) -> anyhow::Result<()> {
        for (topic, spans) in topics {
            if let Some(cut) = spans.iter().find(|span| span.is_cut()) {
                anyhow::bail!(
                    "events were not found, and topic {topic}, partition {}, has no records before offset {} any more \
                     (retention.ms, retention.bytes): they may have been there; accepted: a later --from",
                    cut.partition,
                    cut.low
                );
            }
            if self.reader.is_compacted(topic).await == Some(true) {
                anyhow::bail!(
                    "events were not found, and topic {topic} is compacted (cleanup.policy): they may have been there"
                );
            }
        }
        Ok(())
    }
}

fn ranges(spans: &[Span], of: impl Fn(&Span) -> (i64, i64)) -> Vec<Range> {
    let range = |span: &Span| {
        let (from, until) = of(span);
        (span.partition, from, until)
    };
    spans.iter().map(range).collect()
}

fn halves(slots: SlotSet) -> [SlotSet; 2] {
    let all: Vec<SlotId> = slots.iter().collect();
    let (low, high) = all.split_at(all.len() / 2);
    [high, low].map(|half| half.iter().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_all_of_it_down_to_single_slots() {
        let mut passes = vec![SlotSet::ALL];
        let mut single = SlotSet::EMPTY;
        while let Some(slots) = passes.pop() {
            if slots.len() == 1 {
                assert!(slots.intersection(single).is_empty());
                single = single.union(slots);
            } else {
                passes.extend(halves(slots));
            }
        }
        assert_eq!(single, SlotSet::ALL);
    }
}
