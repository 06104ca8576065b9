//! What an audit found, for people and for programs. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::health::timestamp;
use crate::model::Micros;

/// Of each kind of finding.
pub const EXAMPLES: usize = 20;

/// Sums over the passes of an audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Events of the source.
    pub events: u64,
    /// Of them: in their topics.
    pub delivered: u64,
    /// Dead letters.
    pub dead_lettered: u64,
    /// In their topics and dead letters: replayed ones, and those whose outcome was not known.
    pub both: u64,
    /// Seen nowhere, and no relay has said that it is done with them.
    pub not_yet_due: u64,
    /// Write time of the oldest of these.
    pub oldest_not_yet_due: Option<Micros>,
    /// Seen nowhere, although a relay is done with them.
    pub missing: u64,
    /// Delivered after a later event of their aggregate, and not marked.
    pub reordered: u64,
    pub repeated: Repeated,
    /// Marked as late.
    pub late: u64,
    /// Second log rows of an event.
    pub written_again: u64,
    /// Rows of the table without a write time.
    pub undated: u64,
    pub messages_read: u64,
    /// Parts of the table that were looked at one after another, so that memory is bounded.
    pub passes: u64,
    pub examples: Vec<Example>,
}

/// Messages beyond the first of their event, by what allows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repeated {
    pub not_allowed: u64,
    /// The guarantee is AtLeastOnce.
    pub at_least_once: u64,
    /// Of a dead letter that was sent again.
    pub replayed: u64,
    /// Of a row that reconciliation found.
    pub reconciled: u64,
    /// Made of another log row.
    pub written_again: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    Missing,
    Reordered,
    Repeated,
}

impl Finding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "Missing",
            Self::Reordered => "Reordered",
            Self::Repeated => "Repeated",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub finding: Finding,
    pub event_id: String,
    pub aggregate_id: Option<String>,
    pub written: Micros,
    pub position: String,
    /// Where it should be, or where it is.
    pub topic: String,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    /// Of the message that is repeated.
    pub first_offset: Option<i64>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub identity: String,
    /// `Log` or `Table`.
    pub source: &'static str,
    pub from: Micros,
    pub to: Micros,
    pub guarantee: String,
    pub topics: Vec<String>,
    /// Why order is not judged.
    pub unordered: Option<String>,
    /// Everything before this is resolved, as the checkpoints say.
    pub resolved: Option<Micros>,
}

impl Report {
    /// Whether what was promised was kept.
    pub fn is_clean(&self) -> bool {
        self.missing + self.reordered + self.repeated.not_allowed == 0
    }

    pub fn verdict(&self) -> &'static str {
        if self.is_clean() { "Clean" } else { "Findings" }
    }

    pub(super) fn example(&mut self, example: Example) {
        let of_kind = self
            .examples
            .iter()
            .filter(|known| known.finding == example.finding);
        if of_kind.count() < EXAMPLES {
            self.examples.push(example);
        }
    }

    /// Adds another pass.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.delivered += other.delivered;
        self.dead_lettered += other.dead_lettered;
        self.both += other.both;
        self.not_yet_due += other.not_yet_due;
        let oldest = [self.oldest_not_yet_due, other.oldest_not_yet_due];
        self.oldest_not_yet_due = oldest.into_iter().flatten().min();
        self.missing += other.missing;
        self.reordered += other.reordered;
        self.repeated.not_allowed += other.repeated.not_allowed;
        self.repeated.at_least_once += other.repeated.at_least_once;
        self.repeated.replayed += other.repeated.replayed;
        self.repeated.reconciled += other.repeated.reconciled;
        self.repeated.written_again += other.repeated.written_again;
        self.late += other.late;
        self.written_again += other.written_again;
        self.undated += other.undated;
        self.messages_read += other.messages_read;
        self.passes += other.passes;
        other
            .examples
            .into_iter()
            .for_each(|example| self.example(example));
        self.examples
            .sort_by_key(|example| (example.finding, example.written));
    }

    pub fn json(&self, question: &Question) -> Value {
        let repeated = &self.repeated;
        let examples: Vec<_> = self.examples.iter().map(Example::json).collect();
        json!({
            "identity": question.identity,
            "source": question.source,
            "from": timestamp(question.from),
            "to": timestamp(question.to),
            "guarantee": question.guarantee,
            "topics": question.topics,
            "verdict": self.verdict(),
            "events": self.events,
            "delivered": self.delivered,
            "deadLettered": self.dead_lettered,
            "deliveredAndDeadLettered": self.both,
            "notYetDue": self.not_yet_due,
            "oldestNotYetDue": self.oldest_not_yet_due.map(timestamp),
            "resolvedBefore": question.resolved.map(timestamp),
            "missing": self.missing,
            "reordered": self.reordered,
            "orderNotJudgedBecause": question.unordered,
            "repeated": {
                "notAllowed": repeated.not_allowed,
                "atLeastOnce": repeated.at_least_once,
                "replayed": repeated.replayed,
                "reconciled": repeated.reconciled,
                "writtenAgain": repeated.written_again,
            },
            "late": self.late,
            "writtenAgain": self.written_again,
            "rowsWithoutWriteTime": self.undated,
            "messagesRead": self.messages_read,
            "passes": self.passes,
            "examples": examples,
        })
    }

    pub fn text(&self, question: &Question) -> String {
        let mut text = format!(
            "{} of {} written from {} to {}\n",
            question.source,
            question.identity,
            timestamp(question.from),
            timestamp(question.to)
        );
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<16}{value}");
        };
        line("events", self.events.to_string());
        line("delivered", self.delivered.to_string());
        line("dead-lettered", self.dead_lettered.to_string());
        line("not yet due", self.waiting());
        line("missing", self.missing.to_string());
        let order = question
            .unordered
            .as_ref()
            .map_or_else(|| self.reordered.to_string(), |why| format!("not judged: {why}"));
        line("reordered", order);
        let repeated = &self.repeated;
        let allowed = [
            (repeated.at_least_once, "at least once"),
            (repeated.replayed, "replayed"),
            (repeated.reconciled, "reconciled"),
            (repeated.written_again, "written again"),
        ];
        let allowed = allowed.iter().filter(|(count, _)| *count > 0);
        let allowed: String = allowed.map(|(count, why)| format!(", {count} {why}")).collect();
        line(
            "repeated",
            format!("{} not allowed{allowed}", repeated.not_allowed),
        );
        line("late", self.late.to_string());
        if self.undated > 0 {
            line(
                "undated",
                format!("{} rows have no write time and are not judged", self.undated),
            );
        }
        line(
            "read",
            format!("{} messages in {} passes", self.messages_read, self.passes),
        );
        for example in &self.examples {
            text.push_str(&example.line());
        }
        text + if self.is_clean() { "CLEAN\n" } else { "FINDINGS\n" }
    }

    fn waiting(&self) -> String {
        let oldest = self.oldest_not_yet_due.map(timestamp);
        oldest.map_or_else(
            || self.not_yet_due.to_string(),
            |oldest| format!("{}, the oldest of {oldest}", self.not_yet_due),
        )
    }
}

impl Example {
    fn json(&self) -> Value {
        json!({
            "finding": self.finding.name(),
            "eventId": self.event_id,
            "aggregateId": self.aggregate_id,
            "writtenAt": timestamp(self.written),
            "position": self.position,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "firstOffset": self.first_offset,
        })
    }

    fn line(&self) -> String {
        let place = match (self.partition, self.offset) {
            (Some(partition), Some(offset)) => format!("{}-{partition}@{offset}", self.topic),
            _ => self.topic.clone(),
        };
        let first = self.first_offset;
        let first = first.map_or_else(String::new, |first| format!(" (first at offset {first})"));
        format!(
            "{}: event {} of aggregate {}, written {}, position {}, topic {place}{first}\n",
            self.finding.name(),
            self.event_id,
            self.aggregate_id.as_deref().unwrap_or("-"),
            timestamp(self.written),
            self.position,
        )
    }
}
