//! What was handed to producers, written to the topic, reported, dead-lettered: order, duplicates, marks.

use relay::encode::Message;
use relay::ports::{DeadLetter, Outcome, Reason};

use super::{Kind, Oracle};
use crate::log::Order;
use crate::world::Micros;

/// Of the streams of an older set, so much before the switch is looked at before rows of the newer one are handed over.
const TAIL: Micros = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Aggregate {
    /// The newest that first appeared in the topic.
    newest: Option<((Order, i32), usize)>,
    /// One became a dead letter of its own account.
    dead: bool,
    /// Such letters: who wrote them, and when they were durable.
    letters: Vec<(usize, Micros)>,
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

impl Aggregate {
    pub(super) fn letter(&mut self, by: usize, durable: Micros) {
        self.letters.push((by, durable));
    }
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
        self.check_message(row, message);
        self.check_hold(row, life, held.at);
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

    /// Key and payload are what was written.
    fn check_message(&mut self, row: usize, message: &Message) {
        let Some((key, payload)) = &self.rows[row].0.message else {
            return;
        };
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let (sent_key, sent_payload) = (text(message.key.as_deref()), text(message.payload.as_deref()));
        if sent_key.as_ref() != Some(key) || sent_payload.as_ref() != Some(payload) {
            let detail = format!("{}: key {sent_key:?}, payload {sent_payload:?}", self.name(row));
            self.fail("message-as-written", detail);
        }
    }

    /// With `Hold`, what became readable after a dead letter of its aggregate was durable is not delivered, by whoever
    /// wrote that letter or took the slot later.
    fn check_hold(&mut self, row: usize, life: usize, taken: Micros) {
        let facts = &self.rows[row].0;
        let Some(aggregate) = self.aggregates.get(&facts.aggregate).filter(|_| self.rules.holds) else {
            return;
        };
        let held = |(by, durable): &(usize, Micros)| {
            *durable < facts.maybe && (*by == life && *durable > taken || *durable < taken)
        };
        if aggregate.letters.iter().any(held) {
            let detail = format!("{} is sent; its aggregate has a dead letter", self.name(row));
            self.fail("hold", detail);
        }
    }

    /// The cluster writes a message.
    pub(crate) fn appended(&mut self, send: usize, now: Micros) -> Appended {
        let Some(Send { row, late, .. }) = self.sends.get(send) else {
            return Appended::default();
        };
        let (row, late) = (*row, *late);
        let duplicate = !self.rows[row].1.appended.is_empty();
        if duplicate && !self.rules.exactly_once {
            self.excuse(send);
        } else if !duplicate {
            self.check_source_duplicate(send);
            self.check_order(send, late, now);
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
    fn check_order(&mut self, send: usize, late: bool, now: Micros) {
        let row = self.sends[send].row;
        let facts = &self.rows[row].0;
        let Send { life, since, .. } = self.sends[send];
        // What an owner before it had written and not saved, nobody can know.
        let knows = |other: &usize| {
            let (facts, fate) = &self.rows[*other];
            // A reader that starts anew reads what was delivered, as far as each read sees it.
            let gone = facts.vanishes.unwrap_or(Micros::MAX).min(facts.expires) <= now;
            let own = |send: &usize| {
                let send = &self.sends[*send];
                let seen = matches!(send.told, Told::Delivered(at) if facts.surely <= at);
                send.life == life && send.since == since && (!self.rules.readers_restart || seen && !gone)
            };
            // A stream set that was published late has rows below the bound, where what was delivered is forgotten.
            let forgotten = self.beneath(life, since, row) && self.beneath(life, since, *other);
            self.could_tell(life, since, *other, now) && !forgotten || fate.appended.iter().any(own)
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
        if late
            && !self.rules.readers_restart
            && let Some(by) = self.overtaken_at_a_switch(row, life)
        {
            let detail = format!("{}, behind {}", self.name(row), self.name(by));
            self.fail("late-without-cause", detail);
        }
    }

    /// A row of a newer set that came before this one, if all that came before are such: each was read when the tail of
    /// the older set, to which this row belongs, had long shown it, and had to be looked at once more. What another owner
    /// handed over was handed over before.
    fn overtaken_at_a_switch(&self, row: usize, life: usize) -> Option<usize> {
        let facts = &self.rows[row].0;
        let owner = &self.lives[life];
        let held = owner.held.get(&facts.slot)?;
        if held.at + TAIL > facts.maybe {
            return None;
        }
        let known = *owner.sets.get(&facts.set)?;
        let mut later = (0..self.rows.len()).filter(|other| {
            let (other, fate) = &self.rows[*other];
            other.aggregate == facts.aggregate
                && other.order > facts.order
                && other.kind != Kind::Noise
                && (!fate.sends.is_empty() || fate.letter || matches!(other.kind, Kind::Poison(_)))
        });
        let first = later.next()?;
        let unjust = |other: &usize| {
            let mut sends = self.rows[*other].1.sends.iter().map(|send| &self.sends[*send]);
            if sends.any(|send| send.life != life || send.since != held.since) {
                return false;
            }
            let seen = owner.reads.get(other);
            let newer = self.rows[*other].0.set;
            newer > facts.set
                && facts.order.0.0 >= self.rules.sets[newer].0 - TAIL
                && seen.is_some_and(|at| facts.surely < *at && known + TAIL < *at)
        };
        (unjust(&first) && later.all(|other| unjust(&other))).then_some(first)
    }

    /// Whether a later row of the aggregate was handed over without appearing: it failed, and waits behind this one
    /// now; it was given up; no broker takes it; or it was suppressed.
    fn has_later(&self, row: usize) -> bool {
        let facts = &self.rows[row].0;
        self.rows.iter().any(|(other, fate)| {
            let counts = match other.kind {
                Kind::Event(event) => {
                    let given_up = fate.letter || fate.pending.is_some();
                    given_up || !fate.sends.is_empty() || self.events[event].rows.len() > 1
                }
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

    /// A row that is in the topic already: allowed after a crash or a takeover before the checkpoint knew of it, after an
    /// answer that never came, or where a stream set was published so late that a bound went back.
    fn excuse(&mut self, send: usize) {
        let Send { row, life, since, .. } = self.sends[send];
        if self.is_forgotten(row) || self.took_back(life, row) {
            return;
        }
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
    pub(crate) fn lettered(&mut self, life: usize, letter: &DeadLetter, now: Micros) {
        let (reason, id, position) = (
            letter.reason,
            letter.event_id.as_str(),
            letter.position.to_string(),
        );
        let Some(row) = self.by_position.get(&position).copied() else {
            return self.fail("dead-letter-unjust", format!("no row at {position}"));
        };
        self.check_attempts(row, letter);
        let facts = &self.rows[row].0;
        let aggregate = self.aggregates.entry(facts.aggregate).or_default();
        let just = match reason {
            Reason::Rejected => matches!(facts.kind, Kind::Poison(_)),
            Reason::Exhausted(_) => self.rules.exhausts,
            Reason::Held => self.rules.holds && aggregate.dead,
            // No schedule has reconciliation.
            Reason::Reconciled => false,
        };
        if reason != Reason::Held {
            aggregate.dead = true;
        }
        if reason != Reason::Held && !self.rules.exactly_once {
            aggregate.letter(life, now);
        }
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
        if self.rules.exactly_once {
            return self.letter_pending(row, life, letter.pending.is_some());
        }
        self.rows[row].1.letter = true;
        self.resolve(row);
    }

    /// It counts from the commit on that resolves its event.
    fn letter_pending(&mut self, row: usize, life: usize, pending: bool) {
        if !pending && !self.rows[row].1.letter {
            let detail = format!("{} waits, and no commit has resolved it", self.name(row));
            self.fail("letter-with-its-commit", detail);
        }
        self.rows[row].1.pending = Some(life);
    }

    /// Attempts that a dead letter claims to have had need their time: each waits for its back-off, and none is made
    /// while the circuit is open.
    fn check_attempts(&mut self, row: usize, letter: &DeadLetter) {
        if !matches!(letter.reason, Reason::Exhausted(_)) {
            return;
        }
        let lasted = letter.last_failed_at - letter.first_failed_at;
        let least = self.rules.retry.lasts(letter.failures);
        if least > 0 && lasted < least {
            let detail = format!(
                "{}: {} attempts in {lasted} us, which take {least} us at least",
                self.name(row),
                letter.failures
            );
            self.fail("attempts-honest", detail);
        }
    }
}
