//! The verifier: what was committed against what arrived. This file judges and knows no IO; `verify::follow` reads.

pub mod follow;
pub mod latency;
mod report;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::journal::{Entry, Journal, Outcome};
pub use latency::Latency;
pub use report::Report;

/// Event ids named per finding, so that a person can look them up.
const EXAMPLES: usize = 10;

/// One message, as a `read_committed` consumer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub partition: i32,
    pub offset: i64,
    /// From the header `event-id`; None when it is missing or no UUID.
    pub event_id: Option<Uuid>,
    /// Of type and payload, as in the journal.
    pub digest: u64,
    pub marks: Marks,
    /// When the broker appended it, in microseconds since the Unix epoch; only where the topic keeps that time.
    pub appended_us: Option<i64>,
    /// When a live consumer received it; None when it was already there as reading began.
    pub consumed_us: Option<i64>,
}

/// Headers by which the relay says that an event may stand after later ones of its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    pub late: bool,
    pub replayed: bool,
    pub reconciled: bool,
}

impl Marks {
    fn any(self) -> bool {
        self.late || self.replayed || self.reconciled
    }
}

/// What a clean run may contain.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Events that have to be committed before anything is proven, at least 1.
    pub committed: u64,
    /// Repeats of events, also of dead letters, and those that are in the topic and among the dead letters.
    pub duplicates: u64,
    /// Messages marked `late`, `replayed`, `reconciled`: a mark excuses disorder, so each has to be expected.
    pub late: u64,
    pub replayed: u64,
    pub reconciled: u64,
    pub dead_letters: RangeInclusive<u64>,
    /// False for a table or key that scatters aggregates, where no order is promised.
    pub ordered: bool,
    /// Events that are not in the journal.
    pub foreign: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            committed: 1,
            duplicates: 0,
            late: 0,
            replayed: 0,
            reconciled: 0,
            dead_letters: 0..=0,
            ordered: true,
            foreign: 0,
        }
    }
}

/// A count, with some of the event ids behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Finding {
    pub count: u64,
    pub examples: Vec<String>,
}

impl Finding {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// Compares a journal with the messages of a topic (any order) and the event ids of the dead letters.
pub fn verify(journal: &Journal, sightings: &[Sighting], dead_letters: &[Uuid], bounds: &Bounds) -> Report {
    let mut report = Report::default();
    for gap in &journal.gaps {
        report.journal_errors.add(|| gap.clone());
    }
    let entries = index(&journal.entries, &mut report);
    let mut dead: HashSet<Uuid> = HashSet::new();
    for id in dead_letters {
        if !entries.contains_key(id) {
            report.foreign.add(|| format!("dead letter {id}"));
        } else if !dead.insert(*id) {
            report
                .duplicated
                .add(|| format!("{id} is a dead letter more than once"));
        }
    }

    let seen = walk(&entries, sightings, &dead, &mut report);
    for entry in entries.values() {
        match (
            entry.outcome,
            seen.contains(&entry.event_id),
            dead.contains(&entry.event_id),
        ) {
            (_, true, _) => report.delivered += 1,
            (_, false, true) => report.dead_lettered += 1,
            (Outcome::Unknown, false, false) => {}
            (Outcome::Committed, false, false) => report.lost.add(|| describe(entry)),
        }
    }
    report.judge(bounds);
    report
}

/// Entries by event id. Counts them, and finds what would make the journal itself worthless.
fn index<'a>(journal: &'a [Entry], report: &mut Report) -> HashMap<Uuid, &'a Entry> {
    let mut entries = HashMap::with_capacity(journal.len());
    let mut places = HashSet::with_capacity(journal.len());
    for entry in journal {
        match entry.outcome {
            Outcome::Committed => report.committed += 1,
            Outcome::Unknown => report.unknown += 1,
        }
        let repeated_place = !places.insert((entry.aggregate_id, entry.sequence));
        let repeated_id = entries.insert(entry.event_id, entry).is_some();
        if repeated_id || repeated_place {
            report.journal_errors.add(|| describe(entry));
        }
    }
    entries
}

/// Goes through the messages in log order; returns the journal's events among them.
fn walk(
    entries: &HashMap<Uuid, &Entry>,
    sightings: &[Sighting],
    dead: &HashSet<Uuid>,
    report: &mut Report,
) -> HashSet<Uuid> {
    let mut in_log_order: Vec<&Sighting> = sightings.iter().collect();
    in_log_order.sort_unstable_by_key(|sighting| (sighting.partition, sighting.offset));
    // A consumer that reconnects may receive a record again; the record exists once.
    in_log_order.dedup_by_key(|sighting| (sighting.partition, sighting.offset));

    let mut seen = HashSet::with_capacity(entries.len());
    // Partition and highest sequence of each aggregate so far.
    let mut aggregates: HashMap<Uuid, (i32, i64)> = HashMap::new();
    for sighting in in_log_order {
        report.messages += 1;
        let place = || format!("partition {} offset {}", sighting.partition, sighting.offset);
        let Some(entry) = sighting.event_id.and_then(|id| entries.get(&id)) else {
            report.foreign.add(|| match sighting.event_id {
                Some(id) => format!("{id} at {}", place()),
                None => format!("no readable event id at {}", place()),
            });
            continue;
        };
        report.count_marks(sighting.marks);
        if entry.digest.is_some_and(|digest| digest != sighting.digest) {
            report
                .altered
                .add(|| format!("{} at {}", entry.event_id, place()));
        }
        if !seen.insert(entry.event_id) {
            report
                .duplicated
                .add(|| format!("{} again at {}", entry.event_id, place()));
            continue;
        }
        if dead.contains(&entry.event_id) && !sighting.marks.replayed {
            report
                .duplicated
                .add(|| format!("{} is also a dead letter", entry.event_id));
        }
        report.latency.record(entry, sighting);
        check_order(entry, sighting, &mut aggregates, report);
    }
    seen
}

fn check_order(
    entry: &Entry,
    sighting: &Sighting,
    aggregates: &mut HashMap<Uuid, (i32, i64)>,
    report: &mut Report,
) {
    let (partition, highest) = aggregates
        .entry(entry.aggregate_id)
        .or_insert((sighting.partition, entry.sequence));
    if *partition != sighting.partition {
        report.scattered.add(|| {
            format!(
                "{} is in partitions {partition} and {}",
                entry.aggregate_id, sighting.partition
            )
        });
    } else if entry.sequence < *highest && !sighting.marks.any() {
        report
            .reordered
            .add(|| format!("{} stands after sequence {highest}", describe(entry)));
    }
    *highest = entry.sequence.max(*highest);
}

fn describe(entry: &Entry) -> String {
    format!(
        "{} (aggregate {}, sequence {})",
        entry.event_id, entry.aggregate_id, entry.sequence
    )
}

#[cfg(test)]
mod tests;
