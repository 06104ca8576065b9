//! Knows everything that happened, and says at once when a promise is broken. It judges by what the models saw, never
//! by what the relay thinks.

mod checkpoints;
mod deliveries;
mod lives;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use relay::model::RowId;

use crate::log::Order;
use crate::plan::Plan;
use crate::world::{Micros, START};
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
    /// From here on every read sees it.
    pub(crate) surely: Micros,
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
}

/// What the plan says that the promises depend on.
struct Rules {
    lease: Micros,
    interval: Micros,
    exhausts: bool,
    holds: bool,
    /// Readers start anew, and forget which events they saw.
    readers_restart: bool,
    /// Rows vanish once they are delivered, or some reads do not see them.
    rows_vanish: bool,
    /// Start and publication of each stream set.
    sets: Vec<(Micros, Micros)>,
    first_bound: Micros,
}

impl Oracle {
    pub(crate) fn new(plan: &Plan) -> Self {
        use crate::plan::Hazard;
        let state = &plan.config.state;
        Self {
            violation: None,
            rules: Rules {
                lease: Micros::from(state.lease_seconds) * 1_000_000,
                interval: Micros::from(state.checkpoint_interval_milliseconds) * 1_000,
                exhausts: plan.config.dead_letter.when == crds::dead_letter::DeadLetterWhen::Exhausted,
                holds: plan.config.dead_letter.on_aggregate == crds::dead_letter::OnAggregate::Hold,
                readers_restart: plan.has(Hazard::Panics) || plan.has(Hazard::ClockSteps),
                rows_vanish: plan.has(Hazard::Vanish) || plan.has(Hazard::Subset),
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

    /// Every event is in the topic or in the dead letters.
    pub(crate) fn is_complete(&self) -> bool {
        self.unresolved.is_empty()
    }

    /// When time has run out.
    pub(crate) fn lost(&mut self) {
        let Some(first) = self.unresolved.first() else {
            return;
        };
        let row = self.events[*first].rows[0];
        let detail = format!(
            "{} of {} events are in neither topic nor dead letters, the first is {}, visible from {} us",
            self.unresolved.len(),
            self.events.len(),
            self.name(row),
            self.rows[row].0.surely - START,
        );
        self.fail("nothing-lost", detail);
    }

    pub(crate) fn events(&self) -> usize {
        self.events.len()
    }
}
