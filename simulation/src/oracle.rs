//! Knows everything that happened, and says at once when a promise is broken. It judges by what the models saw, never
//! by what the relay thinks.

mod checkpoints;
mod deliveries;
mod lives;
mod transactions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use relay::model::RowId;

use crate::log::Order;
use crate::plan::{Hazard, Plan};
use crate::world::{MS, Micros, SECOND, START};
use checkpoints::SlotFacts;
use deliveries::{Aggregate, Send};
use lives::LifeFacts;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Stable name.
    pub invariant: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// A log row that is a change of its own.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// As the relay prints it: stream, time, number.
    pub(crate) position: String,
    pub(crate) row_id: RowId,
    /// Its place in the order of its aggregate.
    pub(crate) order: (Order, i32),
    pub(crate) aggregate: usize,
    pub(crate) slot: usize,
    pub(crate) set: usize,
    pub(crate) kind: Kind,
    /// From here on a read may see it ...
    pub(crate) maybe: Micros,
    /// ... and from here on every read does ...
    pub(crate) surely: Micros,
    /// ... until it expires.
    pub(crate) vanishes: Option<Micros>,
    /// The log's TTL has taken it then.
    pub(crate) expires: Micros,
    /// What its message has to hold: key and payload.
    pub(crate) message: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A row of this event; several rows of one are source duplicates.
    Event(usize),
    /// A row of an event that no broker takes.
    Poison(usize),
    /// No event.
    Noise,
}

#[derive(Debug, Default)]
struct RowFate {
    /// Numbers of the sends that were written to the topic.
    appended: Vec<usize>,
    sends: Vec<usize>,
    letter: bool,
    /// In exactly-once: who wrote a letter that no commit has made valid yet.
    pending: Option<usize>,
    /// In exactly-once: a transaction with its message is committed.
    committed: bool,
}

#[derive(Debug, Default)]
struct EventFacts {
    id: String,
    rows: Vec<usize>,
    resolved: bool,
}

pub(crate) struct Oracle {
    pub(crate) violation: Option<Violation>,
    rules: Rules,
    rows: Vec<(Row, RowFate)>,
    by_position: HashMap<String, usize>,
    by_id: HashMap<RowId, usize>,
    events: Vec<EventFacts>,
    /// Events that are in neither topic nor dead letters.
    unresolved: BTreeSet<usize>,
    aggregates: BTreeMap<usize, Aggregate>,
    slots: Vec<SlotFacts>,
    lives: Vec<LifeFacts>,
    sends: Vec<Send>,
    /// Slots of which somebody said that rows expired unread.
    gaps: BTreeSet<usize>,
}

/// What the plan says that the promises depend on.
struct Rules {
    exactly_once: bool,
    lease: Micros,
    interval: Micros,
    exhausts: bool,
    holds: bool,
    /// Readers start anew, and forget which events they saw.
    readers_restart: bool,
    horizon: Micros,
    /// A page holds some rows only, so reading takes long.
    pages: bool,
    /// With a retention gap, the slot stops.
    gap_stops: bool,
    /// Nothing holds up what is in flight for seconds.
    flows: bool,
    retry: Retry,
    /// Start and publication of each stream set.
    sets: Vec<(Micros, Micros)>,
    first_bound: Micros,
}

/// What may hold up messages in flight, or the saves and the releases of their slots.
const HOLD_UP: [Hazard; 10] = [
    Hazard::Broker,
    Hazard::BrokerOutcome,
    Hazard::Letters,
    Hazard::State,
    Hazard::Queries,
    Hazard::Freezes,
    Hazard::Panics,
    Hazard::Poison,
    Hazard::Zombies,
    Hazard::Stuck,
];

/// From a slot's first checkpoint until its oldest rows are read: they expire all the while.
const FIRST_READ: Micros = SECOND;

/// The least time between failed attempts of an event.
struct Retry {
    /// Without jitter, after the first attempt, the second, and so on.
    backoff: Vec<Micros>,
    /// The circuit opens at each failure, and stays open for so long.
    open: Micros,
}

impl Retry {
    fn of(plan: &Plan) -> Self {
        let (retry, breaker) = (&plan.config.retry, &plan.config.circuit_breaker);
        let clock = !plan.has(Hazard::ClockSteps);
        let exact = clock && retry.jitter == crds::retry::Jitter::None;
        let mut next = Micros::from(retry.initial_backoff_milliseconds) * MS;
        let most = Micros::from(retry.max_backoff_milliseconds) * MS;
        let backoff = (0..retry.max_attempts).map(|_| {
            let delay = next.min(most);
            next = next * Micros::from(retry.multiplier_percent) / 100;
            if exact { delay } else { 0 }
        });
        Self {
            backoff: backoff.collect(),
            open: if clock && breaker.failure_threshold == 1 {
                Micros::from(breaker.open_seconds) * SECOND
            } else {
                0
            },
        }
    }

    /// From the first to the last of so many failed attempts, at least.
    fn lasts(&self, attempts: u32) -> Micros {
        let pauses = (attempts as usize).saturating_sub(1);
        let backoff = self.backoff.iter().copied().chain(std::iter::repeat(0));
        backoff.take(pauses).map(|delay| delay.max(self.open)).sum()
    }
}

impl Oracle {
    pub(crate) fn new(plan: &Plan) -> Self {
        let state = &plan.config.state;
        Self {
            violation: None,
            rules: Rules {
                exactly_once: plan.exactly_once,
                lease: Micros::from(state.lease_seconds) * 1_000_000,
                interval: Micros::from(state.checkpoint_interval_milliseconds) * 1_000,
                exhausts: plan.config.dead_letter.when == crds::dead_letter::DeadLetterWhen::Exhausted,
                holds: plan.config.dead_letter.on_aggregate == crds::dead_letter::OnAggregate::Hold,
                readers_restart: plan.has(Hazard::Panics) || plan.has(Hazard::ClockSteps),
                horizon: plan.horizon,
                pages: plan.has(Hazard::Pages),
                gap_stops: plan.config.source.on_retention_gap == crds::source::OnRetentionGap::Stop,
                flows: !HOLD_UP.iter().any(|hazard| plan.has(*hazard)),
                retry: Retry::of(plan),
                sets: plan.sets.iter().map(|set| (set.start, set.published)).collect(),
                first_bound: plan.sets[0].start,
            },
            rows: Vec::new(),
            by_position: HashMap::new(),
            by_id: HashMap::new(),
            events: Vec::new(),
            unresolved: BTreeSet::new(),
            aggregates: BTreeMap::new(),
            slots: (0..64).map(|_| SlotFacts::default()).collect(),
            lives: Vec::new(),
            sends: Vec::new(),
            gaps: BTreeSet::new(),
        }
    }

    /// The first one counts.
    pub(crate) fn fail(&mut self, invariant: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { invariant, detail });
    }

    /// An event that is about to be written. Returns its number.
    pub(crate) fn event(&mut self, id: impl FnOnce(usize) -> String) -> usize {
        let number = self.events.len();
        self.events.push(EventFacts {
            id: id(number),
            ..EventFacts::default()
        });
        self.unresolved.insert(number);
        number
    }

    /// A change that is committed. Returns its number.
    pub(crate) fn written(&mut self, row: Row) -> usize {
        let number = self.rows.len();
        self.by_position.insert(row.position.clone(), number);
        self.by_id.insert(row.row_id, number);
        if let Kind::Event(event) | Kind::Poison(event) = row.kind {
            self.events[event].rows.push(number);
            self.slots[row.slot].rows.push(number);
        }
        self.rows.push((row, RowFate::default()));
        number
    }

    /// Nobody needs the row any more.
    pub(crate) fn is_settled(&self, row: usize) -> bool {
        self.is_resolved(row)
    }

    /// Whether a checkpoint may say that the row is done with.
    fn is_resolved(&self, row: usize) -> bool {
        match self.rows[row].0.kind {
            Kind::Event(event) | Kind::Poison(event) => self.events[event].resolved,
            Kind::Noise => true,
        }
    }

    fn resolve(&mut self, row: usize) {
        if let Kind::Event(event) | Kind::Poison(event) = self.rows[row].0.kind {
            self.events[event].resolved = true;
            self.unresolved.remove(&event);
        }
    }

    fn name(&self, row: usize) -> String {
        let (row, _) = &self.rows[row];
        let event = match row.kind {
            Kind::Event(event) | Kind::Poison(event) => self.events[event].id.as_str(),
            Kind::Noise => "no event",
        };
        let at = row.order.0.0 - START;
        format!(
            "{event} (aggregate {}, slot {}, at {at} us, {})",
            row.aggregate, row.slot, row.position
        )
    }

    /// A process says that rows of the slot expired unread.
    pub(crate) fn gap_told(&mut self, slot: usize) -> bool {
        self.gaps.insert(slot)
    }

    /// Whether an event is not to be expected any more: its slot has stopped, or goes on without what had expired. A slot
    /// begins with what there is when its first checkpoint is made and its rows are read for the first time.
    fn is_given_up(&self, event: usize, now: Micros) -> bool {
        let rows = &self.events[event].rows;
        let Some((row, _)) = rows.first().map(|row| &self.rows[*row]) else {
            return false;
        };
        let expired = self.has_expired(event, now);
        let began = self.slots[row.slot]
            .pinned
            .map_or(now, |pinned| pinned + FIRST_READ);
        let told = self.gaps.contains(&row.slot) && (self.rules.gap_stops || expired);
        told || expired && row.expires < began
    }

    fn has_expired(&self, event: usize, now: Micros) -> bool {
        let mut rows = self.events[event].rows.iter();
        rows.all(|row| self.rows[*row].0.expires <= now)
    }

    /// Every event is in the topic, in the dead letters, or said to be lost.
    pub(crate) fn is_complete(&self, now: Micros) -> bool {
        self.unresolved.iter().all(|event| self.is_given_up(*event, now))
    }

    /// Events that the log's TTL took, and that was said.
    pub(crate) fn given_up(&self) -> usize {
        self.unresolved.len()
    }

    /// When time has run out.
    pub(crate) fn lost(&mut self, now: Micros) {
        let mut missing = self
            .unresolved
            .iter()
            .filter(|event| !self.is_given_up(**event, now));
        let Some(first) = missing.next().copied() else {
            return;
        };
        let row = self.events[first].rows[0];
        let detail = format!(
            "{} of {} events are in neither topic nor dead letters, the first is {}, visible from {} us",
            missing.count() + 1,
            self.events.len(),
            self.name(row),
            self.rows[row].0.surely - START,
        );
        let expired = self.has_expired(first, now);
        self.fail(if expired { "gap-told" } else { "nothing-lost" }, detail);
    }

    pub(crate) fn events(&self) -> usize {
        self.events.len()
    }
}
