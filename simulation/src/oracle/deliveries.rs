//! What was handed to producers, written to the topic, reported, dead-lettered: order, duplicates, marks.

use relay::encode::Message;
use relay::ports::{Outcome, Reason};

use super::{Kind, Oracle};
use crate::log::Order;
use crate::world::Micros;

#[derive(Debug, Default)]
pub(super) struct Aggregate {
    /// The newest that first appeared in the topic.
    newest: Option<((Order, i32), usize)>,
    /// The oldest that became a dead letter of its own account.
    dead: bool,
}

/// A message that a producer took.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) row: usize,
    pub(super) life: usize,
    /// Under which its sender took the slot.
    pub(super) since: i64,
    late: bool,
    pub(super) told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Delivered(Micros),
    NotWritten,
    Unknown,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Appended {
    pub(crate) duplicate: bool,
    pub(crate) late: bool,
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let found = message.headers.iter().find(|(header, _)| &**header == name);
    found.and_then(|(_, value)| std::str::from_utf8(value).ok())
}

impl Oracle {
    /// A process hands a message to its producer. Returns the send's number.
    pub(crate) fn sent(&mut self, life: usize, message: &Message, frozen: bool, now: Micros) -> usize {
        let position = header(message, "source-position").unwrap_or_default();
        let number = self.sends.len();
        let Some(row) = self.by_position.get(position).copied() else {
            self.fail("message-from-nowhere", format!("no row at {position:?}"));
            return number;
        };
        let (facts, _) = &self.rows[row];
        let (slot, kind) = (facts.slot, facts.kind);
        if let Kind::Event(event) | Kind::Poison(event) = kind
            && header(message, "event-id") != Some(self.events[event].id.as_str())
        {
            let detail = format!(
                "{} carries event-id {:?}",
                self.name(row),
                header(message, "event-id")
            );
            self.fail("event-id", detail);
        }
        if kind == Kind::Noise {
            self.fail("message-from-nowhere", format!("{} was sent", self.name(row)));
        }
        let held = self.lives[life].held.get(&slot).copied().unwrap_or_default();
        self.may_send(life, slot, held.epoch, row, frozen, now);
        let late = header(message, "late") == Some("true");
        self.sends.push(Send {
            row,
            life,
            since: held.since,
            late,
            told: Told::Nothing,
        });
        self.rows[row].1.sends.push(number);
        number
    }

    /// The cluster writes a message.
    pub(crate) fn appended(&mut self, send: usize, _now: Micros) -> Appended {
        let Some(Send { row, late, .. }) = self.sends.get(send) else {
            return Appended::default();
        };
        let (row, late) = (*row, *late);
        let duplicate = !self.rows[row].1.appended.is_empty();
        if duplicate {
            self.excuse(send);
        } else {
            self.check_source_duplicate(send);
            self.check_order(send, late);
        }
        self.rows[row].1.appended.push(send);
        self.resolve(row);
        let order = self.rows[row].0.order;
        let aggregate = self.aggregates.entry(self.rows[row].0.aggregate).or_default();
        if aggregate.newest.is_none_or(|(newest, _)| newest < order) {
            aggregate.newest = Some((order, row));
        }
        Appended {
            duplicate,
            late: late && !duplicate,
        }
    }

    /// A first appearance: none of its aggregate's later events that its owner can know of may have appeared, unless it
    /// says so; and it says so only if one has, or could not.
    fn check_order(&mut self, send: usize, late: bool) {
        let row = self.sends[send].row;
        let facts = &self.rows[row].0;
        let Send { life, since, .. } = self.sends[send];
        // What an owner before it had written and not saved, nobody can know.
        let knows = |other: &usize| {
            let own = |send: &usize| self.sends[*send].life == life && self.sends[*send].since == since;
            // A row that vanished tells no later owner that it was there.
            !self.rules.rows_vanish && self.knew(life, since, *other)
                || self.rows[*other].1.appended.iter().any(own)
        };
        let later = self
            .aggregates
            .get(&facts.aggregate)
            .and_then(|aggregate| aggregate.newest)
            .filter(|(newest, _)| *newest > facts.order);
        let overtaken_by = later.and_then(|_| {
            let rows = (0..self.rows.len()).filter(|other| {
                let (other, fate) = &self.rows[*other];
                // The relay compares 12 random bits of rows of one microsecond.
                let same =
                    other.order.0.0 == facts.order.0.0 && other.order.0.1 >> 52 == facts.order.0.1 >> 52;
                let in_record = other.order.0 == facts.order.0;
                other.aggregate == facts.aggregate
                    && other.order > facts.order
                    && (!same || in_record)
                    && !fate.appended.is_empty()
            });
            rows.into_iter().find(knows)
        });
        if !late
            && let Some(by) = overtaken_by
            && !self.was_given_up(row)
        {
            let detail = format!("{} appeared after {}", self.name(row), self.name(by));
            return self.fail("order", detail);
        }
        if late && later.is_none() && !self.has_later(row) {
            self.fail("late-without-cause", self.name(row));
        }
    }

    /// Whether a later row of the aggregate was handed over without appearing: it failed, and waits behind this one
    /// now; no broker takes it; or it was suppressed.
    fn has_later(&self, row: usize) -> bool {
        let facts = &self.rows[row].0;
        self.rows.iter().any(|(other, fate)| {
            let counts = match other.kind {
                Kind::Event(event) => !fate.sends.is_empty() || self.events[event].rows.len() > 1,
                Kind::Poison(_) => true,
                Kind::Noise => false,
            };
            other.aggregate == facts.aggregate && other.order > facts.order && counts
        })
    }

    /// Whether the row's dead letter was written while a request of it was still on the wire.
    fn was_given_up(&self, row: usize) -> bool {
        let fate = &self.rows[row].1;
        let unknown = fate
            .sends
            .iter()
            .any(|send| matches!(self.sends[*send].told, Told::Unknown | Told::Nothing));
        fate.letter
            || (self.rules.exhausts
                && unknown
                && fate.sends.len() == 1
                && fate.appended.is_empty()
                && self.gave_up_purged(row))
    }

    fn gave_up_purged(&self, row: usize) -> bool {
        self.rows[row]
            .1
            .sends
            .iter()
            .any(|send| self.sends[*send].told == Told::Unknown)
    }

    /// A second row of an event is suppressed by a process that handed the first one over.
    fn check_source_duplicate(&mut self, send: usize) {
        let Send { row, life, since, .. } = self.sends[send];
        let Kind::Event(event) = self.rows[row].0.kind else {
            return;
        };
        if self.rules.readers_restart {
            return;
        }
        let twins = self.events[event].rows.iter().filter(|twin| **twin != row);
        let same = |send: &usize| {
            let other = &self.sends[*send];
            other.life == life && other.since == since
        };
        let repeated = twins
            .into_iter()
            .copied()
            .find(|twin| self.rows[*twin].1.sends.iter().any(same));
        if let Some(twin) = repeated {
            let detail = format!("{} after {}", self.name(row), self.name(twin));
            self.fail("source-duplicate-suppressed", detail);
        }
    }

    /// A row that is in the topic already: allowed after a crash or a takeover before the checkpoint knew of it, or
    /// after an answer that never came.
    fn excuse(&mut self, send: usize) {
        let Send { row, life, since, .. } = self.sends[send];
        for earlier in self.rows[row].1.appended.clone() {
            let other = &self.sends[earlier];
            let same = other.life == life && other.since == since;
            let excused = if same {
                // The one that was sent later was sent because of what was told of the other; either may land first.
                let first = earlier.min(send);
                matches!(self.sends[first].told, Told::Unknown)
            } else {
                // Of two owners the later one must not have known.
                let later = if other.since > since {
                    (other.life, other.since)
                } else {
                    (life, since)
                };
                !self.knew(later.0, later.1, row)
            };
            if !excused {
                let how = if same {
                    "by the same owner"
                } else {
                    "although its checkpoint said so"
                };
                let told = self.sends[earlier].told;
                let detail = format!(
                    "{} written again {how}; of the first it heard {told:?}",
                    self.name(row)
                );
                self.fail("duplicate-without-cause", detail);
            }
        }
    }

    /// A report reaches the process.
    pub(crate) fn reported(&mut self, send: usize, failed: Option<Outcome>, now: Micros) {
        if let Some(send) = self.sends.get_mut(send) {
            send.told = match failed {
                None => Told::Delivered(now),
                Some(Outcome::NotWritten) => Told::NotWritten,
                Some(Outcome::Unknown) => Told::Unknown,
            };
        }
    }

    /// A dead letter is durable.
    pub(crate) fn lettered(&mut self, life: usize, position: &str, reason: Reason, id: &str, now: Micros) {
        let Some(row) = self.by_position.get(position).copied() else {
            return self.fail("dead-letter-unjust", format!("no row at {position}"));
        };
        let facts = &self.rows[row].0;
        let aggregate = self.aggregates.entry(facts.aggregate).or_default();
        let just = match reason {
            Reason::Rejected => matches!(facts.kind, Kind::Poison(_)),
            Reason::Exhausted(_) => self.rules.exhausts,
            Reason::Held => self.rules.holds && aggregate.dead,
        };
        aggregate.dead |= reason != Reason::Held;
        let _ = (life, now);
        if !just {
            let detail = format!("{}: {reason:?}", self.name(row));
            self.fail("dead-letter-unjust", detail);
        }
        if let Kind::Event(event) | Kind::Poison(event) = self.rows[row].0.kind
            && self.events[event].id != id
        {
            let detail = format!("dead letter of {} carries id {id}", self.name(row));
            self.fail("event-id", detail);
        }
        self.rows[row].1.letter = true;
        self.resolve(row);
    }
}
