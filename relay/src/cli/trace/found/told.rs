//! What was found, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Found, Landed, Row, SlotView, Verdict, about_letter};
use crate::health::timestamp;

impl SlotView {
    fn json(&self) -> Value {
        json!({
            "slot": self.slot.index(),
            "owner": self.owner,
            "ownerAlive": self.alive,
            "epoch": self.epoch,
            "bound": self.bound.map(timestamp),
            "transactionalId": self.transactional_id,
        })
    }
}

impl Found {
    pub(in crate::cli::trace) fn json(&self, verdict: &Verdict) -> Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "position": row.position.to_string(), "stream": row.position.stream.to_string(),
                    "writtenAt": timestamp(row.position.time.micros()), "slot": row.slot.index(),
                    "aggregateId": row.aggregate_id, "eventType": row.event_type, "topic": row.topic,
                    "problem": row.problem,
                })
            })
            .collect();
        let messages: Vec<_> = self
            .messages
            .iter()
            .map(|message| {
                json!({
                    "topic": message.topic, "partition": message.partition, "offset": message.offset,
                    "deadLetter": message.dead_letter, "marks": message.marks,
                })
            })
            .collect();
        let letters: Vec<_> = self
            .letters
            .iter()
            .map(|letter| {
                json!({
                    "slot": letter.slot, "status": letter.status, "class": letter.class, "error": letter.error,
                    "topic": letter.topic, "position": letter.position,
                })
            })
            .collect();
        let searched = &self.searched;
        let topics: Vec<_> = searched
            .topics
            .iter()
            .map(|(topic, ranges)| {
                let ranges = ranges
                    .iter()
                    .flatten()
                    .map(|(partition, from, until)| json!([partition, from, until]));
                json!({"topic": topic, "partitionFromUntil": ranges.collect::<Vec<_>>()})
            })
            .collect();
        json!({
            "eventId": self.event_id,
            "state": format!("{:?}", verdict.state),
            "because": verdict.because,
            "rows": rows,
            "messages": messages,
            "deadLetters": letters,
            "slot": self.slot.as_ref().map(SlotView::json),
            "searched": {
                "source": searched.source,
                "from": timestamp(searched.window.from),
                "to": timestamp(searched.window.to),
                "expiredBefore": searched.expired.map(timestamp),
                "topics": topics,
                "deadLetterTable": searched.dead_letter_table,
            },
        })
    }

    pub(in crate::cli::trace) fn text(&self, verdict: &Verdict) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<12}{value}");
        };
        line("event", format!("{} is {:?}", self.event_id, verdict.state));
        for why in &verdict.because {
            line("because", why.clone());
        }
        for row in &self.rows {
            line("row", row.told());
        }
        for message in &self.messages {
            let kind = if message.dead_letter {
                "dead letter"
            } else {
                "message"
            };
            let marks: String = message.marks.iter().map(|mark| format!(", {mark}")).collect();
            let Landed {
                topic,
                partition,
                offset,
                ..
            } = message;
            line(
                kind,
                format!("topic {topic}, partition {partition}, offset {offset}{marks}"),
            );
        }
        for letter in &self.letters {
            line(
                "dead letter",
                format!("in the table, {}; {}", letter.status, about_letter(letter)),
            );
        }
        if let Some(slot) = &self.slot {
            let alive = match slot.alive {
                Some(true) => ", which renews its heartbeat",
                Some(false) => ", which has stopped renewing its heartbeat",
                None => "",
            };
            line(
                "slot",
                format!(
                    "{} of {}{alive}",
                    slot.slot,
                    slot.owner.as_deref().unwrap_or("nobody")
                ),
            );
        }
        let searched = &self.searched;
        let topics: Vec<_> = searched.topics.iter().map(|(topic, _)| topic.as_str()).collect();
        line(
            "searched",
            format!(
                "{} from {} to {}{}; topics {}",
                searched.source,
                timestamp(searched.window.from),
                timestamp(searched.window.to),
                if searched.dead_letter_table {
                    "; table of dead letters"
                } else {
                    ""
                },
                if topics.is_empty() {
                    "none".to_owned()
                } else {
                    topics.join(", ")
                }
            ),
        );
        text
    }
}

impl Row {
    fn told(&self) -> String {
        format!(
            "written {}, aggregate {}, slot {}, position {}",
            timestamp(self.position.time.micros()),
            self.aggregate_id.as_deref().unwrap_or("-"),
            self.slot,
            self.position
        )
    }
}
