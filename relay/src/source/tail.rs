//! Which query comes next, and what its answer means.
//!
//! Every group of streams has a *pass*, which reads young rows again and again without an upper time bound, and *aged
//! cursors*, which read each time slice once more after their age (identity columns; what is unknown is fetched in
//! full). What the oldest cursor has read is swept. Passes double as slices of every cursor whose position they cover,
//! so an idle group costs its passes and nothing else, and a group far behind reads each slice once.
//!
//! One query per group at a time, and what it finds is handed over before the next one starts: so no row overtakes an
//! older one of its stream by our doing. Pure: time comes with each call.

mod cursor;
mod group;
mod handover;
mod holding;
mod pace;
mod scan;
mod sets;

use std::collections::BTreeMap;

use crate::event::SourceEvent;
use crate::ledger::{Known, Ledger};
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::{LogError, LogPage, LogQuery, StreamSet};
use crate::source::record::Rules;

pub use cursor::SKEW;
use group::{Group, Job, Phase};
use handover::Handover;

pub use handover::Counts;

/// Pause between reads of a group in which nothing happens.
const IDLE_INTERVAL: Micros = SECOND / 100;

/// Stream partitions that idle polling may touch per second; with more streams the pauses grow.
const IDLE_PARTITIONS_PER_SECOND: Micros = 20_000;

/// How often swept positions are passed on to the ledger.
const SWEEP_INTERVAL: Micros = SECOND / 10;

/// Pauses after errors: from, to, doubling.
const TRANSIENT_PAUSE: (Micros, Micros) = (SECOND / 100, SECOND);
const OVERLOADED_PAUSE: (Micros, Micros) = (SECOND / 10, 5 * SECOND);
const CONFIGURATION_PAUSE: (Micros, Micros) = (SECOND, 10 * SECOND);

#[derive(Debug, Clone)]
pub struct Config {
    /// How late a row may become visible and still be found.
    pub horizon: Micros,
    /// Within which a second row of an event is suppressed; 0 turns that off.
    pub duplicate_window: Micros,
    pub rules: Rules,
    /// Which mapped column holds the event id.
    pub id_column: Option<usize>,
}

impl Config {
    /// Of what was written this long before a query started, by our clock, the query shows all that it ever will.
    pub(super) fn grace(&self) -> Micros {
        self.horizon + SKEW
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct GroupId(u32);

/// A query to be asked now. Its answer belongs to [`Tail::on_page`] or [`Tail::on_error`].
#[derive(Debug, Clone)]
pub struct Planned {
    pub query: LogQuery,
    /// What asks: `fast`, `catch_up`, `aged`, `fetch` or `check`.
    pub cursor: &'static str,
    group: GroupId,
    epoch: u32,
    job: Job,
}

#[derive(Debug)]
pub struct Tail {
    config: Config,
    groups: BTreeMap<GroupId, Group>,
    next_group: u32,
    owned: SlotSet,
    /// Which opening of each slot's ledger is read for.
    openings: BTreeMap<SlotId, u64>,
    handover: Handover,
    swept_at: Micros,
    idle: Micros,
}

impl Tail {
    pub fn new(config: Config) -> Self {
        Self {
            handover: Handover::new(config.id_column, config.duplicate_window),
            config,
            groups: BTreeMap::new(),
            next_group: 0,
            owned: SlotSet::EMPTY,
            openings: BTreeMap::new(),
            swept_at: 0,
            idle: IDLE_INTERVAL,
        }
    }

    pub fn owned(&self) -> SlotSet {
        self.owned
    }

    /// No stream set is known yet.
    pub fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn counts(&self) -> &Counts {
        &self.handover.counts
    }

    /// How far behind the log reading is: everything older has been read at least once. None with nothing to read.
    pub fn lag(&self, now: Micros) -> Option<Micros> {
        let groups = self.groups.values();
        let read_to = groups
            .filter(|group| group.active() && group.start <= now)
            .map(|group| group.read_to)
            .min();
        read_to.map(|read_to| (now - read_to).max(0))
    }

    /// The next query that is due, in turn.
    pub fn next_query(&mut self, now: Micros) -> Option<Planned> {
        self.open_groups();
        let mut order: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| !group.busy && group.phase == Phase::Open)
            .map(|(id, group)| (group.pace.due(), group.read_to, *id))
            .collect();
        order.sort_unstable();
        order.into_iter().find_map(|(_, _, id)| {
            let group = self.groups.get_mut(&id)?;
            let behind = group.catching_up(now);
            let (job, query) = group.plan(now)?;
            group.busy = true;
            Some(Planned {
                query,
                cursor: match job {
                    Job::Pass if behind => "catch_up",
                    Job::Pass => "fast",
                    Job::Slice(_) => "aged",
                    Job::Fetch => "fetch",
                    Job::Check => "check",
                },
                group: id,
                epoch: group.epoch,
                job,
            })
        })
    }

    /// When to call [`Self::next_query`] again if it had nothing; None: after the next answer.
    pub fn next_due(&self, now: Micros) -> Option<Micros> {
        self.groups.values().filter_map(|group| group.due(now)).min()
    }

    /// The answer to `planned`, which was asked at `started`. Returns what is to be handed over, in this order.
    pub fn on_page(
        &mut self,
        planned: &Planned,
        started: Micros,
        page: LogPage,
        now: Micros,
        ledger: &mut Ledger,
    ) -> Vec<SourceEvent> {
        let mut events = Vec::new();
        self.notice_reopened(ledger);
        let Some(group) = self.groups.get_mut(&planned.group) else {
            return events;
        };
        if group.epoch != planned.epoch {
            return events;
        }
        group.busy = false;
        group.succeeded();
        let rules = (self.config.grace(), &self.config.rules);
        let mut changes = Vec::new();
        match planned.job {
            Job::Pass => {
                if let Some(pass) = &mut group.pass {
                    pass.scan.on_page(page, started, rules, &mut changes);
                }
                group.saw(&changes);
                self.receive(planned.group, changes, now, ledger, &mut events);
            }
            Job::Fetch => {
                if let Some(fetch) = &mut group.fetch {
                    fetch.scan.on_page(page, started, rules, &mut changes);
                }
                self.receive(planned.group, changes, now, ledger, &mut events);
            }
            Job::Slice(index) => {
                if let Some(slice) = &mut group.cursors[index].slice {
                    slice.scan.on_page(page, started, rules, &mut changes);
                }
                holding::compare(group, index, &changes, ledger);
            }
            Job::Check => {
                self.checked(planned.group, page, started, now, ledger, &mut events);
            }
        }
        self.settle(planned.group, now, ledger);
        if now - self.swept_at >= SWEEP_INTERVAL || now < self.swept_at {
            self.swept_at = now;
            self.sweep(ledger);
        }
        events
    }

    /// `planned` was not answered. The same query is asked again after a pause.
    pub fn on_error(&mut self, planned: &Planned, error: &LogError, now: Micros) {
        let Some(group) = self.groups.get_mut(&planned.group) else {
            return;
        };
        if group.epoch != planned.epoch {
            return;
        }
        group.busy = false;
        let (first, last) = match error {
            LogError::Transient(_) => TRANSIENT_PAUSE,
            LogError::Overloaded(_) => OVERLOADED_PAUSE,
            LogError::Configuration(_) => CONFIGURATION_PAUSE,
        };
        group.failed(planned.job);
        let pause = first.saturating_mul(1 << group.failures().min(10)).min(last);
        group.pace.blocked(now + pause);
    }

    /// Passes swept positions on to the ledger: a slot is swept as far as each group that may hold its rows.
    pub fn sweep(&mut self, ledger: &mut Ledger) {
        let mut swept: BTreeMap<SlotId, Micros> = BTreeMap::new();
        for group in self.groups.values().filter(|group| group.active()) {
            for slot in group.slots.iter() {
                let at = swept.entry(slot).or_insert(Micros::MAX);
                *at = group.swept().min(*at);
            }
        }
        for (slot, swept) in swept {
            if let Some(ledger) = ledger.slot_mut(slot) {
                ledger.sweep(swept);
                self.handover.prune(slot, ledger.bound());
            }
        }
    }

    /// Closes what has been read to its end.
    fn settle(&mut self, id: GroupId, now: Micros, ledger: &Ledger) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if group.held.is_some() {
            return;
        }
        if let Some(fetch) = group.fetch.take_if(|fetch| fetch.scan.query().is_none()) {
            let found =
                |(slot, time, id): &(SlotId, Micros, _)| ledger.known(*slot, *time, *id) != Known::New;
            if !fetch.missing.iter().all(found) {
                group.cursors[fetch.cursor].fail();
                group.pace.blocked(now + TRANSIENT_PAUSE.0);
            }
        }
        if group.fetch.is_none() {
            for cursor in &mut group.cursors {
                if cursor
                    .slice
                    .as_ref()
                    .is_some_and(|slice| slice.scan.query().is_none())
                {
                    cursor.finish();
                }
            }
            let swept = group.swept();
            group.cursors.iter_mut().for_each(|cursor| cursor.at_least(swept));
        }
        if group.finish_pass(now, self.idle) && group.is_over() {
            group.phase = Phase::Retired;
        }
    }

    /// Opens the groups whose older groups have been read to the switch.
    fn open_groups(&mut self) {
        let ready: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.phase == Phase::Waiting && !group.slots.is_empty())
            .filter(|(_, group)| {
                let mut older = self.groups.values().filter(|older| {
                    older.start < group.start && older.active() && older.cut.overlaps(&group.cut)
                });
                older.all(|older| older.closes.is_some_and(|closes| older.read_to >= closes))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            if let Some(group) = self.groups.get_mut(&id) {
                group.phase = Phase::Open;
            }
        }
    }
}

#[cfg(test)]
mod tests;
