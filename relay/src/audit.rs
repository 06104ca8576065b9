//! `audit`: what the source says was written, held against what topics and dead letters hold. Pure; `source` reads rows,
//! the command composes.
//!
//! Nothing of ledger, tail or lane is used: only what an event is, where it goes, and the id that it carries.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::model::{CdcTime, Micros, RowId, SLOTS, SlotId, SourcePosition};

pub mod report;
pub mod source;

pub use report::{Example, Finding, Report};

/// What the configuration promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// No unmarked repeat is allowed.
    pub exactly_once: bool,
    /// The table's key keeps an aggregate in one partition, so order can be judged.
    pub ordered: bool,
    /// Updates and deletes are events too: the id is that of the row, and the position tells its events apart.
    pub changes: bool,
}

/// An event that the source has.
#[derive(Debug, Clone)]
pub struct Expected {
    pub event_id: String,
    pub aggregate_id: Option<String>,
    pub position: SourcePosition,
    /// Empty if none could be made of the row.
    pub topic: Arc<str>,
    /// A relay says that it is resolved, so it must be somewhere.
    pub due: bool,
}

/// A message, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Headers; None if they are missing.
    pub event_id: Option<&'a str>,
    pub position: Option<&'a str>,
    pub late: bool,
    pub replayed: bool,
    pub reconciled: bool,
}

/// More events than are to be held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// The books of one pass.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    limit: usize,
    events: HashMap<Box<str>, Event>,
    names: Names,
    /// The newest event of an aggregate that was seen in a partition of a topic.
    newest: HashMap<(u32, u32, i32), Order>,
    undelivered: usize,
    counts: Report,
}

/// The source's order of an aggregate's events.
type Order = (CdcTime, i32);

#[derive(Debug)]
struct Event {
    aggregate: Option<u32>,
    topic: u32,
    position: SourcePosition,
    due: bool,
    /// Log rows; more than one if a writer's retry wrote it again.
    rows: u32,
    lettered: bool,
    first: Option<First>,
}

/// Its first message.
#[derive(Debug, Clone, Copy)]
struct First {
    topic: u32,
    partition: i32,
    offset: i64,
    /// Hash of the header.
    position: Option<u64>,
    reconciled: bool,
}

impl Audit {
    /// Holds `limit` events at most, some 300 bytes each.
    pub fn new(policy: Policy, limit: usize) -> Self {
        Self {
            policy,
            limit,
            events: HashMap::new(),
            names: Names::default(),
            newest: HashMap::new(),
            undelivered: 0,
            counts: Report::default(),
        }
    }

    /// # Errors
    /// It is one too many.
    pub fn expect(&mut self, expected: Expected) -> Result<(), TooMany> {
        let position = expected.position.to_string();
        let key = key(self.policy, &expected.event_id, Some(&position));
        if let Some(known) = self.events.get_mut(&*key) {
            known.rows += 1;
            known.due |= expected.due;
            if before(&expected.position, &known.position) {
                known.position = expected.position;
            }
            return Ok(());
        }
        if self.events.len() >= self.limit {
            return Err(TooMany);
        }
        let event = Event {
            aggregate: expected.aggregate_id.map(|name| self.names.number(&name)),
            topic: self.names.number(&expected.topic),
            position: expected.position,
            due: expected.due,
            rows: 1,
            lettered: false,
            first: None,
        };
        self.events.insert(key, event);
        self.undelivered += 1;
        Ok(())
    }

    /// A dead letter that is decided.
    pub fn letter(&mut self, event_id: &str, position: Option<&str>) {
        let key = key(self.policy, event_id, position);
        if let Some(event) = self.events.get_mut(&*key)
            && !std::mem::replace(&mut event.lettered, true)
            && event.first.is_none()
        {
            self.undelivered -= 1;
        }
    }

    /// Its letter may be on its way in a transaction: nobody can say where it is.
    pub fn undecided(&mut self, event_id: &str, position: Option<&str>) {
        let key = key(self.policy, event_id, position);
        if let Some(event) = self.events.get_mut(&*key) {
            event.due = false;
        }
    }

    /// The messages of a partition come in the order of their offsets.
    pub fn message(&mut self, topic: &str, seen: Seen<'_>) {
        self.counts.messages_read += 1;
        let Some(event_id) = seen.event_id else { return };
        let key = key(self.policy, event_id, seen.position);
        let Some(event) = self.events.get_mut(&*key) else {
            return;
        };
        let position = seen.position.map(hash);
        if let Some(first) = event.first {
            let repeats = &mut self.counts.repeated;
            if seen.replayed {
                repeats.replayed += 1;
            } else if seen.reconciled || first.reconciled {
                repeats.reconciled += 1;
            } else if position != first.position {
                repeats.written_again += 1;
            } else if !self.policy.exactly_once {
                repeats.at_least_once += 1;
            } else {
                repeats.not_allowed += 1;
                let place = (topic, seen.partition, seen.offset);
                let example = event.example(&self.names, &key, Finding::Repeated, Some(place));
                self.counts.example(example);
            }
            return;
        }
        let topic_number = self.names.number(topic);
        event.first = Some(First {
            topic: topic_number,
            partition: seen.partition,
            offset: seen.offset,
            position,
            reconciled: seen.reconciled,
        });
        if !event.lettered {
            self.undelivered -= 1;
        }
        self.counts.late += u64::from(seen.late);
        let Some(aggregate) = event.aggregate.filter(|_| self.policy.ordered) else {
            return;
        };
        // Which of its rows it was made of is not known.
        if event.rows > 1 {
            return;
        }
        let order = (event.position.time, event.position.batch_seq_no);
        let place = (aggregate, topic_number, seen.partition);
        let newest = self.newest.entry(place).or_insert(order);
        if order >= *newest {
            *newest = order;
        } else if !(seen.late || seen.replayed || seen.reconciled) {
            self.counts.reordered += 1;
            let place = (topic, seen.partition, seen.offset);
            let example = event.example(&self.names, &key, Finding::Reordered, Some(place));
            self.counts.example(example);
        }
    }

    /// Topics that the events belong to.
    pub fn topics(&self) -> Vec<Arc<str>> {
        let mut numbers: Vec<_> = self.events.values().map(|event| event.topic).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let names = numbers.into_iter().map(|number| self.names.name(number));
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Whether an event was seen nowhere so far.
    pub fn lacks_any(&self) -> bool {
        self.undelivered > 0
    }

    /// Whether one of these should have been seen.
    pub fn lacks_due(&self) -> bool {
        let lost = |event: &Event| event.due && !event.lettered && event.first.is_none();
        self.lacks_any() && self.events.values().any(lost)
    }

    /// Judges what is left.
    pub fn finish(self) -> Report {
        let mut report = self.counts;
        let mut lost = Vec::new();
        for (key, event) in &self.events {
            report.events += 1;
            report.written_again += u64::from(event.rows - 1);
            report.delivered += u64::from(event.first.is_some());
            report.dead_lettered += u64::from(event.lettered);
            report.both += u64::from(event.lettered && event.first.is_some());
            if event.first.is_some() || event.lettered {
                continue;
            }
            if event.due {
                lost.push((key, event));
            } else {
                let written = event.position.time.micros();
                report.not_yet_due += 1;
                let oldest = report.oldest_not_yet_due.get_or_insert(written);
                *oldest = (*oldest).min(written);
            }
        }
        report.missing = lost.len() as u64;
        lost.sort_unstable_by_key(|(_, event)| (event.position.time, event.position.batch_seq_no));
        for (key, event) in lost.into_iter().take(report::EXAMPLES) {
            report.example(event.example(&self.names, key, Finding::Missing, None));
        }
        report
    }
}

impl Event {
    fn example(&self, names: &Names, key: &str, finding: Finding, at: Option<(&str, i32, i64)>) -> Example {
        let first = self
            .first
            .map(|first| (names.name(first.topic).to_string(), first.partition, first.offset));
        let at = at.map(|(topic, partition, offset)| (topic.to_owned(), partition, offset));
        Example {
            finding,
            event_id: key.split('\0').next().unwrap_or_default().to_owned(),
            aggregate_id: self.aggregate.map(|number| names.name(number).to_string()),
            written: self.position.time.micros(),
            position: self.position.to_string(),
            topic: at
                .as_ref()
                .map_or_else(|| names.name(self.topic).to_string(), |at| at.0.clone()),
            partition: at.as_ref().map(|at| at.1),
            offset: at.as_ref().map(|at| at.2),
            first_offset: first
                .map(|first| first.2)
                .filter(|_| finding == Finding::Repeated),
        }
    }
}

/// Texts that many events share, each once.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let (name, number) = (Arc::<str>::from(name), self.names.len() as u32);
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    fn name(&self, number: u32) -> Arc<str> {
        self.names[number as usize].clone()
    }
}

/// Ids hold no NUL: they are UUIDs, numbers or text that people write.
fn key(policy: Policy, event_id: &str, position: Option<&str>) -> Box<str> {
    match position.filter(|_| policy.changes) {
        Some(position) => format!("{event_id}\0{position}").into(),
        None => event_id.into(),
    }
}

fn before(a: &SourcePosition, b: &SourcePosition) -> bool {
    (a.time, a.batch_seq_no) < (b.time, b.batch_seq_no)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Where an event must be resolved: what the checkpoints say.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Of the slots of which something is saved.
    pub bounds: BTreeMap<SlotId, Micros>,
    /// Above the bounds.
    pub ids: HashSet<RowId>,
}

impl Resolved {
    /// Whether a relay has said that it is done with this event.
    pub fn covers(&self, slot: SlotId, position: &SourcePosition) -> bool {
        let bound = self.bounds.get(&slot);
        bound.is_some_and(|bound| position.time.micros() < *bound) || self.ids.contains(&position.row_id())
    }

    /// Everything before this is resolved; None if of some slot nothing is saved.
    pub fn lowest(&self) -> Option<Micros> {
        let lowest = self.bounds.values().min();
        lowest.filter(|_| self.bounds.len() == SLOTS).copied()
    }
}

#[cfg(test)]
mod tests;
