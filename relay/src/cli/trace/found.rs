//! What was found of an event, and what follows from it. Pure.

use std::time::Duration;

use crds::relay_status::{BreakerState, Phase, RelayStatus};

use crate::audit::source::Window;
use crate::dead_letters::stored::Stored;
use crate::dead_letters::table::PENDING;
use crate::deliver::kafka::reading::Range;
use crate::health::timestamp;
use crate::model::{Micros, SECOND, SlotId, SourcePosition};

mod told;

/// A row of log or table that is the event.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub position: SourcePosition,
    pub slot: SlotId,
    pub aggregate_id: Option<String>,
    pub event_type: Option<String>,
    pub topic: String,
    /// The time that its message bears.
    pub created: Micros,
    /// Why no message can be made of it.
    pub problem: Option<String>,
}

/// A message that bears its id.
#[derive(Debug, Clone)]
pub(super) struct Landed {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// It is in the topic for dead letters.
    pub dead_letter: bool,
    pub marks: Vec<&'static str>,
}

/// A dead letter of the table.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub slot: i32,
    pub status: String,
    pub class: Option<String>,
    pub error: Option<String>,
    pub topic: Option<String>,
    pub position: Option<String>,
}

impl Letter {
    pub(super) fn of(letter: &Stored) -> Self {
        Self {
            slot: letter.slot,
            status: letter.status.clone().unwrap_or_else(|| "waiting".to_owned()),
            class: letter.error_class.clone(),
            error: letter.error_message.clone(),
            topic: letter.topic.clone().filter(|topic| !topic.is_empty()),
            position: letter.source_position.clone(),
        }
    }
}

/// Who has the event's slot.
#[derive(Debug, Clone)]
pub(super) struct SlotView {
    pub slot: SlotId,
    pub owner: Option<String>,
    pub epoch: Option<i64>,
    /// None if nobody looked, because the event does not wait.
    pub alive: Option<bool>,
    /// None if nothing is saved.
    pub bound: Option<Micros>,
    pub transactional_id: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Searched {
    pub source: &'static str,
    pub window: Window,
    /// Rows before this have expired, and the window begins earlier.
    pub expired: Option<Micros>,
    /// None: there is no such topic.
    pub topics: Vec<(String, Option<Vec<Range>>)>,
    pub dead_letter_table: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Found {
    pub event_id: String,
    pub searched: Searched,
    pub rows: Vec<Row>,
    pub letters: Vec<Letter>,
    pub messages: Vec<Landed>,
    pub slot: Option<SlotView>,
    /// A checkpoint says that it is done with.
    pub resolved: bool,
    pub horizon: Duration,
    pub now: Micros,
    /// What the relay that was asked says, or why it does not answer.
    pub relay: Option<Result<RelayStatus, String>>,
}

/// In one word, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub state: State,
    pub because: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Delivered,
    DeadLettered,
    /// In a dead letter that no committed transaction has decided.
    Undecided,
    Waiting,
    Missing,
    NotFound,
}

impl Verdict {
    pub(super) fn is_fine(&self) -> bool {
        !matches!(self.state, State::Missing | State::NotFound)
    }
}

impl Found {
    /// Nothing of it waits.
    pub(super) fn is_done(&self) -> bool {
        !self.messages.is_empty() || self.letters.iter().any(|letter| letter.status != PENDING)
    }

    pub(super) fn slot_of(&self) -> Option<SlotId> {
        let of_letter = || {
            let letter = self.letters.first()?;
            SlotId::new(u8::try_from(letter.slot).ok()?)
        };
        self.rows.first().map(|row| row.slot).or_else(of_letter)
    }

    pub(super) fn verdict(&self) -> Verdict {
        let verdict = |state, because: Vec<String>| Verdict { state, because };
        let delivered: Vec<_> = self
            .messages
            .iter()
            .filter(|message| !message.dead_letter)
            .collect();
        if !delivered.is_empty() {
            let extra = match delivered.len() {
                1 => Vec::new(),
                times => vec![format!(
                    "it is in its topic {times} times: at least once, a replay, or written again"
                )],
            };
            return verdict(State::Delivered, extra);
        }
        let decided = self.letters.iter().find(|letter| letter.status != PENDING);
        if let Some(letter) = decided {
            return verdict(State::DeadLettered, vec![about_letter(letter)]);
        }
        if self.messages.iter().any(|message| message.dead_letter) {
            return verdict(
                State::DeadLettered,
                vec!["it is in the topic for dead letters".to_owned()],
            );
        }
        if !self.letters.is_empty() {
            let why = "the transaction that gives it up is not committed; whoever owns the slot decides it";
            return verdict(State::Undecided, [vec![why.to_owned()], self.holds_up()].concat());
        }
        if self.rows.is_empty() {
            return verdict(State::NotFound, self.nowhere());
        }
        if self.resolved {
            let why = "a relay is done with it, and it is in none of the topics and dead letters that were looked at: its \
                       records expired, its dead letter was discarded, it was written before the identity began, or it is lost";
            return verdict(State::Missing, vec![why.to_owned()]);
        }
        verdict(State::Waiting, self.holds_up())
    }

    fn nowhere(&self) -> Vec<String> {
        let mut because = vec![format!(
            "no row, message or dead letter of it in what was searched; widen it with --from{}",
            if self.searched.source == "Log" {
                ", or try --source Table"
            } else {
                ""
            }
        )];
        if let Some(expired) = self.searched.expired {
            because.push(format!("rows written before {} have expired", timestamp(expired)));
        }
        because
    }

    /// Everything that is known to hold it up, the most certain first.
    fn holds_up(&self) -> Vec<String> {
        let mut because = Vec::new();
        match &self.slot {
            None => {
                because.push("no relay of this identity has ever run: there are no state tables".to_owned())
            }
            Some(slot) => because.extend(slot.holds_up()),
        }
        if let Some(problem) = self.rows.iter().find_map(|row| row.problem.as_ref()) {
            because.push(format!(
                "no message can be made of it, it is to become a dead letter: {problem}"
            ));
        }
        let missing = self.searched.topics.iter().filter(|(_, found)| found.is_none());
        because.extend(missing.map(|(topic, _)| format!("there is no topic {topic}")));
        match &self.relay {
            None => because.push(
                "ask the relay that owns the slot, by --url, whether its circuit is open or what else it waits for".to_owned(),
            ),
            Some(Err(error)) => because.push(format!("the relay does not answer: {error}")),
            Some(Ok(status)) => because.extend(self.told_by(status)),
        }
        because
    }

    fn told_by(&self, status: &RelayStatus) -> Vec<String> {
        let mut because = Vec::new();
        let slot = self.slot_of().map_or(u16::MAX, |slot| slot.index() as u16);
        if !status
            .slots
            .ranges
            .iter()
            .any(|[first, last]| (*first..=*last).contains(&slot))
        {
            because.push(format!(
                "the relay that was asked, share {}, does not own slot {slot}",
                status.share
            ));
            return because;
        }
        if status.breaker.state != BreakerState::Closed {
            let error = status
                .breaker
                .last_error
                .as_deref()
                .unwrap_or("publishing failed");
            because.push(format!("the circuit is {:?}: {error}", status.breaker.state));
        }
        if status.phase == Phase::CatchingUp {
            because.push(format!(
                "the relay catches up; it is {} s behind",
                status.lag.seconds()
            ));
        }
        because.extend(
            status
                .not_ready_because
                .clone()
                .map(|why| format!("the relay is not ready: {why}")),
        );
        let written = self.rows.iter().map(|row| row.position.time.micros()).min();
        let oldest = status
            .lag
            .oldest_unresolved
            .map(|at| at.milliseconds() as Micros * 1000);
        if let (Some(written), Some(oldest)) = (written, oldest)
            && oldest < written
        {
            because.push(format!(
                "{} events are in flight, the oldest written {}, before this one",
                status.lag.in_flight,
                timestamp(oldest)
            ));
        }
        if because.is_empty() {
            because.push(self.unread(written));
        }
        because
    }

    fn unread(&self, written: Option<Micros>) -> String {
        let age = (self.now - written.unwrap_or(self.now)).max(0);
        if age > self.horizon.as_micros() as Micros {
            "the relay says nothing that would hold it up; its row may have become readable only after the horizon".to_owned()
        } else {
            format!(
                "it was written {} s ago: it is being read or delivered, or becomes readable within the horizon of {} s",
                age / SECOND,
                self.horizon.as_secs()
            )
        }
    }
}

fn about_letter(letter: &Letter) -> String {
    let what = match letter.status.as_str() {
        "replaying" => "its replay is asked for, and the owner of its slot carries it out",
        "quarantined" => "it was replayed as often as deadLetter.maxReplays allows",
        _ if letter.class.as_deref() == Some("held") => {
            "an earlier event of its aggregate is a dead letter (onAggregate: Hold)"
        }
        _ => "it waits for somebody to replay or discard it",
    };
    let error = letter.error.as_deref().unwrap_or("no error is told");
    format!(
        "{what}; class {}: {error}",
        letter.class.as_deref().unwrap_or("-")
    )
}

impl SlotView {
    fn holds_up(&self) -> Vec<String> {
        let slot = self.slot;
        let mut because = Vec::new();
        match (&self.owner, self.alive) {
            (None, _) => because.push(format!("slot {slot} has no owner: no relay runs for it")),
            (Some(owner), Some(false)) => because.push(format!(
                "the owner of slot {slot}, {owner}, has not renewed its heartbeat for a lease: it is gone, and no other has \
                 taken the slot"
            )),
            (Some(_), _) => {}
        }
        match self.bound {
            None => because.push(format!(
                "nothing is saved of slot {slot} yet: its owner has only begun"
            )),
            Some(bound) => because.push(format!(
                "the checkpoint of slot {slot} ends at {}: the event is behind it and not saved as resolved",
                timestamp(bound)
            )),
        }
        because
    }
}

#[cfg(test)]
mod tests;
