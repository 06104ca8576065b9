//! One group: what has been read of its streams, and which query comes next. One query at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Micros, RowId, SECOND, SlotId, SlotSet, StreamId};
use crate::ports::{Columns, LogQuery};
use crate::source::record::Change;
use crate::source::tail::cursor::Cursor;
use crate::source::tail::pace::Pace;
use crate::source::tail::scan::Scan;
use crate::source::topology::Cut;

/// A group further behind than this reads forward in slices.
const CATCH_UP: Micros = 10 * SECOND;

/// Rows of a catch-up slice: some ten pages, so that groups advance evenly and the bounds follow.
const CATCH_UP_ROWS: usize = 20_000;

const FIRST_CATCH_UP: Micros = SECOND;
const SHORTEST_CATCH_UP: Micros = SECOND / 10;
const LONGEST_CATCH_UP: Micros = 6 * 3600 * SECOND;

/// Failures in a row after which a scan begins anew, in smaller parts.
const SCAN_FAILURES: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The older groups have not been read to the switch yet.
    Waiting,
    Open,
    /// Closed and swept.
    Retired,
}

/// What a query is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    Pass,
    /// A slice of the cursor with this index.
    Slice(usize),
    Fetch,
    Check,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) start: Micros,
    /// Start of the next set.
    pub(super) closes: Option<Micros>,
    pub(super) cut: Cut,
    /// Ours among the slots that the group overlaps.
    pub(super) slots: SlotSet,
    pub(super) streams: Arc<[StreamId]>,
    pub(super) phase: Phase,
    /// Answers to queries of an earlier epoch mean nothing.
    pub(super) epoch: u32,
    pub(super) busy: bool,
    /// Everything below has been read at least once.
    pub(super) read_to: Micros,
    /// When the last read started that took everything that was not swept.
    emptied_at: Micros,
    newest: Micros,
    pub(super) cursors: Vec<Cursor>,
    /// Below this, former owners may have handed over rows that were not read here yet.
    pub(super) known_until: Micros,
    pub(super) pass: Option<Pass>,
    pub(super) fetch: Option<Fetch>,
    pub(super) held: Option<Held>,
    pub(super) pace: Pace,
    catch_up: Micros,
    failures: u32,
    pass_was_last: bool,
}

/// The fast cursor on its way.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) scan: Scan,
    pub(super) from: Micros,
    pub(super) until: Option<Micros>,
    pub(super) new: usize,
}

/// Reads in full what a slice has found unknown.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) scan: Scan,
    pub(super) cursor: usize,
    pub(super) missing: Vec<(SlotId, Micros, RowId)>,
}

/// Changes that wait until other streams have been looked at.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) changes: Vec<Change>,
    pub(super) checks: VecDeque<Check>,
}

#[derive(Debug)]
pub(super) struct Check {
    pub(super) scan: Scan,
    pub(super) finds: Finds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finds {
    /// Rows of older streams, to be handed over with what is held.
    Older,
    /// What a former owner handed over. In full: which changes are events, their values say too.
    Known,
}

impl Group {
    pub(super) fn new(start: Micros, cut: Cut) -> Self {
        Self {
            start,
            closes: None,
            cut,
            slots: SlotSet::EMPTY,
            streams: Arc::from([]),
            phase: Phase::Waiting,
            epoch: 0,
            busy: false,
            read_to: start,
            emptied_at: 0,
            newest: 0,
            cursors: Vec::new(),
            known_until: 0,
            pass: None,
            fetch: None,
            held: None,
            pace: Pace::default(),
            catch_up: FIRST_CATCH_UP,
            failures: 0,
            pass_was_last: false,
        }
    }

    /// Whether its rows still matter to us.
    pub(super) fn active(&self) -> bool {
        !self.slots.is_empty() && self.phase != Phase::Retired
    }

    /// Everything below was read by a query that started late enough.
    pub(super) fn swept(&self) -> Micros {
        self.cursors.last().map_or(self.read_to, Cursor::position)
    }

    /// Owns `slots` from now on and reads again from `from` if that is earlier than where it stands.
    pub(super) fn take(&mut self, slots: SlotSet, from: Micros, horizon: Micros) {
        let from = from.max(self.start);
        if !self.active() {
            self.cursors = Cursor::series(horizon, from);
            self.read_to = from;
            self.newest = 0;
        }
        for cursor in &mut self.cursors {
            let position = cursor.position().min(from);
            cursor.reset(position);
        }
        self.read_to = self.read_to.min(from);
        self.emptied_at = 0;
        self.phase = Phase::Waiting;
        self.resize(self.slots.union(slots));
    }

    pub(super) fn drop_slots(&mut self, slots: SlotSet) {
        if !self.slots.intersection(slots).is_empty() {
            self.resize(self.slots.difference(slots));
        }
    }

    fn resize(&mut self, slots: SlotSet) {
        self.slots = slots;
        self.streams = self.cut.streams_of(slots);
        self.epoch += 1;
        self.busy = false;
        self.pass = None;
        self.fetch = None;
        self.held = None;
        for cursor in &mut self.cursors {
            cursor.slice = None;
        }
        self.pace.hurry();
    }

    /// How late the group is in what it reads first.
    pub(super) fn catching_up(&self, now: Micros) -> bool {
        now - self.read_to > CATCH_UP
    }

    /// The next query, if one is due.
    pub(super) fn plan(&mut self, now: Micros) -> Option<(Job, LogQuery)> {
        if self.busy || self.phase != Phase::Open || self.slots.is_empty() || now < self.pace.blocked_until()
        {
            return None;
        }
        if let Some(check) = self.held.as_ref().and_then(|held| held.checks.front()) {
            return Some((Job::Check, check.scan.query()?));
        }
        if let Some(fetch) = &self.fetch {
            return Some((Job::Fetch, fetch.scan.query()?));
        }
        let slice = self.due_slice(now);
        let pass = self.pass.is_some() || now >= self.pace.due();
        let (job, query) = match slice {
            Some(index) if self.pass_was_last || !pass => (Job::Slice(index), self.slice_query(index, now)?),
            _ if pass => (Job::Pass, self.pass_query(now)?),
            _ => return None,
        };
        self.pass_was_last = job == Job::Pass;
        Some((job, query))
    }

    /// When [`Self::plan`] may next have something.
    pub(super) fn due(&self, now: Micros) -> Option<Micros> {
        if self.busy || self.phase != Phase::Open || self.slots.is_empty() {
            return None;
        }
        let slices = self
            .cursors
            .iter()
            .enumerate()
            .filter(|(index, cursor)| *index > 0 || !self.reaches_back(cursor, now))
            .map(|(_, cursor)| if cursor.slice.is_some() { now } else { cursor.due() });
        let at = if self.pass.is_some() || self.held.is_some() || self.fetch.is_some() {
            now
        } else {
            // A slice that waits for the next pass is not due before it.
            slices.filter(|due| *due > now).chain([self.pace.due()]).min()?
        };
        Some(at.max(self.pace.blocked_until()))
    }

    fn due_slice(&self, now: Micros) -> Option<usize> {
        let due = |(index, cursor): &(usize, &Cursor)| {
            let cursor = *cursor;
            cursor.slice.is_some()
                || (*index > 0 || !self.reaches_back(cursor, now))
                    && cursor.ready(self.read_to, now).is_some()
        };
        // Whichever has waited longest: while queries are short the youngest is due all the time, and the older ones have
        // their turn all the same.
        let due = self.cursors.iter().enumerate().filter(due);
        due.min_by_key(|(_, cursor)| cursor.due()).map(|(index, _)| index)
    }

    /// Whether the youngest aged cursor's slice is small enough to be read by the next pass instead.
    fn reaches_back(&self, cursor: &Cursor, now: Micros) -> bool {
        self.pace.rows_within(now - cursor.position()) <= Pace::REREAD_ROWS * 4.0
    }

    fn slice_query(&mut self, index: usize, now: Micros) -> Option<LogQuery> {
        let read_to = self.read_to;
        let streams = Arc::clone(&self.streams);
        let cursor = &mut self.cursors[index];
        if cursor.slice.is_none() {
            let (from, until) = cursor.ready(read_to, now)?;
            let scan = Scan::new(streams, from, Some(until), Columns::Identity);
            cursor.begin(scan, (from, until));
        }
        cursor.slice.as_ref()?.scan.query()
    }

    fn pass_query(&mut self, now: Micros) -> Option<LogQuery> {
        if self.pass.is_none() {
            self.pass = Some(self.begin_pass(now));
        }
        self.pass.as_ref()?.scan.query()
    }

    fn begin_pass(&self, now: Micros) -> Pass {
        let streams = Arc::clone(&self.streams);
        if self.closing(now) {
            // Whatever is left, wherever it is dated: a coordinator that knew nothing of the switch dates it beyond.
            let from = self.swept();
            return Pass {
                scan: Scan::new(streams, from, None, Columns::Full),
                from,
                until: None,
                new: 0,
            };
        }
        if self.catching_up(now) {
            let until = self.read_to + self.catch_up;
            let until = Some(until).filter(|until| *until < now - CATCH_UP / 2);
            // Closed streams have nothing to wait for: the last read takes all that is left.
            let until = until.filter(|until| self.closes.is_none_or(|closes| *until < closes));
            return Pass {
                scan: Scan::new(streams, self.read_to, until, Columns::Full)
                    .restarting_young(self.pace.overlap()),
                from: self.read_to,
                until,
                new: 0,
            };
        }
        let overlap = self.pace.overlap();
        let mut from = self.newest.min(self.read_to) - overlap;
        if let Some(youngest) = self.cursors.first()
            && self.reaches_back(youngest, now)
        {
            from = from.min(youngest.position());
        }
        let from = from.max(self.swept()).min(self.read_to);
        Pass {
            scan: Scan::new(streams, from, None, Columns::Full).restarting_young(overlap),
            from,
            until: None,
            new: 0,
        }
    }

    pub(super) fn saw(&mut self, changes: &[Change]) {
        self.newest = changes.iter().map(Change::time).fold(self.newest, Micros::max);
    }

    /// Once the pass has read everything: what counts as read now. Says whether it did.
    pub(super) fn finish_pass(&mut self, now: Micros, idle: Micros) -> bool {
        let Some(pass) = self.pass.take_if(|pass| pass.scan.query().is_none()) else {
            return false;
        };
        let started = pass.scan.started().unwrap_or(self.read_to);
        let until = pass.until.unwrap_or(Micros::MAX);
        if pass.until.is_none() && pass.from <= self.swept() {
            self.emptied_at = started;
        }
        self.read_to = self.read_to.max(until.min(started));
        for cursor in &mut self.cursors {
            cursor.covered(pass.from, until, started);
        }
        if let Some(until) = pass.until {
            self.catch_up = next_catch_up(self.catch_up, until - pass.from, pass.scan.rows);
        }
        self.pace.passed(pass.new, pass.until.is_some(), now, idle);
        true
    }

    /// Whether the streams are closed, swept to the switch, and nothing can surface in them any more.
    fn closing(&self, now: Micros) -> bool {
        let grace = self.cursors.last().map_or(Micros::MAX, Cursor::age);
        self.closes
            .is_some_and(|closes| self.swept() >= closes && now.saturating_sub(grace) >= closes)
    }

    /// Whether everything was taken from the closed streams by a read that started when nothing could surface in them
    /// any more.
    pub(super) fn is_over(&self) -> bool {
        self.pass.is_none() && self.closing(self.emptied_at)
    }

    pub(super) fn failed(&mut self, job: Job) {
        self.failures += 1;
        if !self.failures.is_multiple_of(SCAN_FAILURES) {
            return;
        }
        match job {
            Job::Pass => {
                self.pass = None;
                self.catch_up = (self.catch_up / 2).max(SHORTEST_CATCH_UP);
            }
            Job::Slice(index) => self.cursors[index].fail(),
            Job::Fetch => self.fail_fetch(),
            // What is held is not taken: the pass reads it again.
            Job::Check => {
                self.held = None;
                self.pass = None;
                self.fail_fetch();
            }
        }
    }

    /// The slice whose rows could not be fetched is read again.
    pub(super) fn fail_fetch(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            self.cursors[fetch.cursor].fail();
        }
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

fn next_catch_up(current: Micros, length: Micros, rows: usize) -> Micros {
    let next = match rows {
        0 => current * 8,
        rows if rows < CATCH_UP_ROWS / 2 && length >= current => current * 2,
        rows if rows > CATCH_UP_ROWS * 2 => current / 2,
        _ => current,
    };
    next.clamp(SHORTEST_CATCH_UP, LONGEST_CATCH_UP)
}
