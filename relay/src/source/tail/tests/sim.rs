//! The loop that drives a tail with a model log, and what it checks.

mod world;

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::model::{CdcTime, RowId};
use crate::ports::{LogRow, Operation};

use world::Row;
pub(super) use world::World;

pub(super) const MS: Micros = SECOND / 1000;
pub(super) const START: Micros = 1_800_000_000 * SECOND;

/// Short, so that virtual hours of polling are not spent on waiting for it.
const HORIZON: Micros = 30 * SECOND;

/// Queries in flight at once.
const CONCURRENCY: usize = 6;

pub(super) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(super) fn below(rng: &mut StdRng, n: Micros) -> Micros {
    rng.random_range(0..n.max(1))
}

#[derive(Debug)]
struct Flight {
    planned: Planned,
    started: Micros,
    executes: Micros,
    returns: Micros,
}

pub(super) struct Sim {
    world: World,
    rng: StdRng,
    now: Micros,
    tail: Tail,
    ledger: Ledger,
    slots: SlotSet,
    horizon: Micros,
    /// Bound of the slots at first.
    start: Micros,
    page_size: usize,
    failures_in_100: u32,
    spacing: Micros,
    next_query: Micros,
    releases_in_1000: u32,
    flights: Vec<Flight>,
    polled: Micros,
    /// Events whose acknowledgement is on its way.
    unresolved: Vec<(Micros, SourceEvent)>,
    resolved: HashSet<RowId>,
    /// By token, positions handed over that a later process knows of too.
    handed: HashMap<i64, Vec<(CdcTime, RowId)>>,
    seen: HashMap<RowId, u32>,
    repeats_allowed: HashSet<RowId>,
    saved: BTreeMap<SlotId, (Micros, Vec<(i64, RowId)>)>,
    saved_at: Micros,
    report: Report,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    pub(super) late: usize,
    pub(super) worst_delay: Micros,
    pub(super) rows_read: usize,
    pub(super) most_ids: usize,
    by_cursor: BTreeMap<&'static str, usize>,
    problems: Vec<String>,
    lost: Vec<String>,
}

impl Report {
    pub(super) fn queries(&self, cursor: &str) -> usize {
        self.by_cursor.get(cursor).copied().unwrap_or_default()
    }

    #[track_caller]
    pub(super) fn check(&self) {
        assert!(
            self.problems.is_empty(),
            "{:#?} of {}",
            &self.problems[..self.problems.len().min(8)],
            self.problems.len()
        );
        assert!(
            self.lost.is_empty(),
            "lost {:#?} of {}",
            &self.lost[..self.lost.len().min(8)],
            self.lost.len()
        );
    }
}

fn is_event(row: &LogRow) -> bool {
    row.position.batch_seq_no == 0 && row.operation == Operation::Insert
}

fn new_tail(horizon: Micros) -> Tail {
    Tail::new(Config {
        horizon,
        duplicate_window: 0,
        rules: Rules::default(),
        id_column: None,
    })
}

impl Sim {
    pub(super) fn new(mut world: World, seed: u64) -> Self {
        world.seal();
        let mut sim = Self {
            world,
            rng: rng(seed),
            now: START,
            tail: new_tail(HORIZON),
            horizon: HORIZON,
            start: START,
            ledger: Ledger::default(),
            slots: SlotSet::EMPTY,
            page_size: usize::MAX,
            failures_in_100: 0,
            spacing: 0,
            next_query: 0,
            releases_in_1000: 0,
            flights: Vec::new(),
            polled: 0,
            unresolved: Vec::new(),
            resolved: HashSet::new(),
            handed: HashMap::new(),
            seen: HashMap::new(),
            repeats_allowed: HashSet::new(),
            saved: BTreeMap::new(),
            saved_at: START,
            report: Report::default(),
        };
        sim.add(SlotSet::ALL, START);
        sim
    }

    pub(super) fn starting_at(mut self, bound: Micros) -> Self {
        self.restart_with(SlotSet::ALL, bound);
        self
    }

    pub(super) fn owning(mut self, slots: SlotSet) -> Self {
        self.restart_with(slots, START);
        self
    }

    fn restart_with(&mut self, slots: SlotSet, bound: Micros) {
        (self.tail, self.ledger, self.slots) = (new_tail(self.horizon), Ledger::default(), SlotSet::EMPTY);
        self.start = bound;
        self.add(slots, bound);
    }

    pub(super) fn with_horizon(mut self, horizon: Micros) -> Self {
        self.horizon = horizon;
        self.restart_with(SlotSet::ALL, START);
        self
    }

    pub(super) fn with_pages(mut self, rows: usize) -> Self {
        self.page_size = rows;
        self
    }

    /// Time between the starts of two queries, at least.
    pub(super) fn with_spacing(mut self, spacing: Micros) -> Self {
        self.spacing = spacing;
        self
    }

    pub(super) fn with_failures(mut self, in_100: u32) -> Self {
        self.failures_in_100 = in_100;
        self
    }

    /// Events that nobody keeps.
    pub(super) fn with_releases(mut self, in_1000: u32) -> Self {
        self.releases_in_1000 = in_1000;
        self
    }

    pub(super) fn now(&self) -> Micros {
        self.now
    }

    pub(super) fn add(&mut self, slots: SlotSet, bound: Micros) {
        for slot in slots.iter() {
            self.ledger.open(slot, bound, []);
            self.tail.add_slot(slot, &mut self.ledger);
            self.saved.insert(slot, (bound, Vec::new()));
        }
        self.slots = self.slots.union(slots);
    }

    /// The lowest bound.
    pub(super) fn bound(&self) -> Micros {
        self.slots
            .iter()
            .map(|slot| self.ledger.slot(slot).unwrap().bound())
            .min()
            .unwrap()
    }

    /// The process dies and starts again from what was saved.
    pub(super) fn crash(&mut self) {
        self.flights.clear();
        self.unresolved.clear();
        self.polled = 0;
        (self.tail, self.ledger) = (new_tail(self.horizon), Ledger::default());
        for (slot, (bound, ids)) in &self.saved {
            self.ledger.open(*slot, *bound, ids.iter().copied());
            self.tail.add_slot(*slot, &mut self.ledger);
        }
        self.forget_unsaved(SlotSet::ALL);
    }

    /// What was handed over since the last save may come again, and nobody knows of it.
    fn forget_unsaved(&mut self, slots: SlotSet) {
        let known: HashSet<RowId> = self
            .saved
            .values()
            .flat_map(|(_, ids)| ids.iter().map(|(_, id)| *id))
            .collect();
        let saved = &self.saved;
        let forgotten = |token: &i64| slots.contains(SlotId::of_token(*token));
        for (token, positions) in self.handed.iter_mut().filter(|(token, _)| forgotten(token)) {
            let bound = saved
                .get(&SlotId::of_token(*token))
                .map_or(0, |(bound, _)| *bound);
            positions.retain(|(time, id)| time.micros() < bound || known.contains(id));
        }
        let kept: HashSet<RowId> = self.handed.values().flatten().map(|(_, id)| *id).collect();
        self.resolved.retain(|id| kept.contains(id));
        self.repeats_allowed
            .extend(self.seen.keys().filter(|id| !kept.contains(id)));
    }

    /// Another process takes the slots, and reads nothing of them until they are won back.
    pub(super) fn lose(&mut self, slots: SlotSet) {
        self.save_now();
        for slot in slots.iter() {
            self.tail.remove_slot(slot);
            self.ledger.close(slot);
        }
        self.unresolved.retain(|(_, event)| !slots.contains(event.slot));
        self.slots = self.slots.difference(slots);
        self.forget_unsaved(slots);
    }

    /// Wins back slots that were lost.
    pub(super) fn win(&mut self, slots: SlotSet) {
        for slot in slots.iter() {
            let (bound, ids) = self.saved[&slot].clone();
            self.ledger.open(slot, bound, ids);
            self.tail.add_slot(slot, &mut self.ledger);
        }
        self.slots = self.slots.union(slots);
    }

    /// The process dies, and the next one starts at `until`.
    pub(super) fn down(&mut self, until: Micros) {
        self.crash();
        self.now = until;
    }

    /// Events of records without an end that were handed over.
    pub(super) fn broken(&self) -> u64 {
        self.tail.counts().broken
    }

    /// A slot is lost and won again at once: its ledger is opened anew, and nobody told the tail yet.
    pub(super) fn reopen(&mut self, slot: SlotId) {
        let (bound, ids) = self.saved[&slot].clone();
        self.unresolved.retain(|(_, event)| event.slot != slot);
        self.ledger.close(slot);
        self.ledger.open(slot, bound, ids.iter().copied());
        let known: HashSet<RowId> = ids.iter().map(|(_, id)| *id).collect();
        for (_, positions) in self
            .handed
            .iter_mut()
            .filter(|(token, _)| SlotId::of_token(**token) == slot)
        {
            let settled = |time: CdcTime, id: RowId| time.micros() < bound || known.contains(&id);
            let forgotten = positions
                .extract_if(.., |(time, id)| !settled(*time, *id))
                .map(|(_, id)| id);
            for id in forgotten {
                self.resolved.remove(&id);
                self.repeats_allowed.insert(id);
            }
        }
    }

    pub(super) fn run(&mut self, until: Micros) -> Report {
        while self.now < until {
            self.poll_sets();
            self.start_queries();
            let due = self
                .tail
                .next_due(self.now)
                .map(|due| due.max(self.now + 1).max(self.next_query));
            let returns = self.flights.iter().map(|flight| flight.returns).min();
            let resolves = self.unresolved.iter().map(|(at, _)| *at).min();
            let times = [
                Some(self.polled + SECOND),
                returns,
                resolves,
                due.filter(|_| self.flights.len() < CONCURRENCY),
            ];
            self.now = times.into_iter().flatten().min().unwrap().max(self.now);
            self.resolve();
            self.land();
            self.save();
        }
        self.check_lost();
        self.report.clone()
    }

    fn poll_sets(&mut self) {
        if self.now - self.polled < SECOND {
            return;
        }
        self.polled = self.now;
        let published = self.world.sets.iter().filter(|(_, at)| *at <= self.now);
        let sets: Vec<_> = published.map(|(set, _)| set.clone()).collect();
        self.tail.on_stream_sets(&sets, &mut self.ledger);
    }

    fn start_queries(&mut self) {
        while self.flights.len() < CONCURRENCY && self.now >= self.next_query {
            self.next_query = self.now;
            let Some(planned) = self.tail.next_query(self.now) else {
                return;
            };
            self.next_query += self.spacing;
            *self.report.by_cursor.entry(planned.cursor).or_default() += 1;
            let executes = self.now + 200 + below(&mut self.rng, 800);
            let returns = executes + 200 + below(&mut self.rng, 800);
            self.flights.push(Flight {
                planned,
                started: self.now,
                executes,
                returns,
            });
        }
    }

    fn land(&mut self) {
        while let Some(index) = self.flights.iter().position(|flight| flight.returns <= self.now) {
            let flight = self.flights.swap_remove(index);
            if self.rng.random_range(0..100) < self.failures_in_100 {
                let error = LogError::Transient("planted".into());
                self.tail.on_error(&flight.planned, &error, self.now);
                continue;
            }
            let page = self
                .world
                .read(&flight.planned.query, flight.executes, self.page_size);
            self.report.rows_read += page.rows.len();
            let events = self
                .tail
                .on_page(&flight.planned, flight.started, page, self.now, &mut self.ledger);
            for event in events {
                self.receive(event);
            }
            self.check_bounds();
        }
    }

    fn receive(&mut self, event: SourceEvent) {
        let told = format!(
            "{} at {} late {}",
            event.position,
            event.time() - START,
            event.late
        );
        let before = self.handed.entry(event.token).or_default();
        let overtaken = before.iter().any(|(time, _)| *time > event.position.time);
        if overtaken != event.late {
            self.report
                .problems
                .push(format!("overtaken {overtaken}: {told}"));
        }
        before.push((event.position.time, event.row_id));
        *self.seen.entry(event.row_id).or_default() += 1;
        if self.seen[&event.row_id] > 1 && !self.repeats_allowed.remove(&event.row_id) {
            self.report.problems.push(format!("twice: {told}"));
        }
        if self.rng.random_range(0..1000) < self.releases_in_1000 {
            self.ledger
                .release(event.slot, event.ownership, event.time(), event.row_id);
            self.handed.entry(event.token).or_default().pop();
            self.repeats_allowed.insert(event.row_id);
            return;
        }
        self.report.late += usize::from(event.late);
        let shown = self.now - event.time();
        self.report.worst_delay = self.report.worst_delay.max(shown);
        let takes = 1000 + below(&mut self.rng, 20_000);
        self.unresolved.push((self.now + takes, event));
    }

    fn resolve(&mut self) {
        let now = self.now;
        for (_, event) in self.unresolved.extract_if(.., |(at, _)| *at <= now) {
            self.ledger.resolve(event.slot, event.time(), event.row_id);
            self.resolved.insert(event.row_id);
        }
    }

    fn save(&mut self) {
        if self.now - self.saved_at < SECOND {
            return;
        }
        self.save_now();
    }

    fn save_now(&mut self) {
        self.saved_at = self.now;
        let mut ids = 0;
        for slot in self.slots.iter() {
            let owned = self.ledger.slot_mut(slot).unwrap();
            ids += owned.ids();
            let Some(delta) = owned.delta() else {
                continue;
            };
            owned.saved(&delta);
            let (bound, saved) = self.saved.get_mut(&slot).unwrap();
            *bound = delta.bound;
            saved.retain(|(second, _)| *second >= delta.obsolete_below);
            for (second, ids) in delta.resolved {
                saved.extend(ids.into_iter().map(|id| (second, id)));
            }
        }
        self.report.most_ids = self.report.most_ids.max(ids);
    }

    /// No bound may have passed a row that is not resolved, visible yet or not, unless its streams are unpublished.
    fn check_bounds(&mut self) {
        let published = |stream| {
            let set = self
                .world
                .sets
                .iter()
                .find(|(set, _)| set.streams.iter().any(|s| s.id == stream));
            set.is_some_and(|(_, at)| *at + SECOND <= self.now)
        };
        if self.rng.random_range(0..200) > 0 {
            return;
        }
        for row in &self.world.rows {
            let row = &row.row;
            let slot = SlotId::of_token(row.token);
            let event = is_event(row);
            let Some(owned) = self.ledger.slot(slot).filter(|_| event) else {
                continue;
            };
            let passed =
                row.position.time.micros() < owned.bound() && row.position.time.micros() >= self.start;
            if passed && !self.resolved.contains(&row.position.row_id()) && published(row.position.stream) {
                self.report
                    .problems
                    .push(format!("bound {} passed {}", owned.bound() - START, row.position));
            }
        }
    }

    fn check_lost(&mut self) {
        let ours = |row: &&Row| self.slots.contains(SlotId::of_token(row.row.token));
        let rows = self
            .world
            .rows
            .iter()
            .filter(ours)
            .filter(|row| is_event(&row.row));
        let lost = rows.filter(|row| !self.seen.contains_key(&row.row.position.row_id()));
        let line = |row: &Row| {
            let time = row.row.position.time.micros() - START;
            format!(
                "{} at {time}, visible after {}",
                row.row.position,
                row.visible - START - time
            )
        };
        self.report.lost = lost.map(line).collect();
    }
}
