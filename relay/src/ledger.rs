//! What is taken, what is resolved, and how far a slot is swept: the arithmetic behind the checkpoint.
//!
//! Per slot the ledger knows every row from the *bound* upward by the fingerprint of its position: *taken* (in
//! flight) or *resolved* (acknowledged, or durably dead-lettered). Only additions count: a row that is no longer
//! read (TTL, a replica's subset) means nothing. Nothing is ever skipped because something newer was seen: a row
//! is skipped only if its own id is known, or its time lies below the bound.
//!
//! Pure: no clock, no IO.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::journal::Mark;
use crate::model::{Micros, RowId, SECOND, SLOTS, SlotId, SlotSet};

mod pins;
mod remains;
mod snapshot;

pub use pins::Pin;
use pins::Pins;
use remains::Remains;
pub use remains::{CLEANUP_SECOND, Due, RowKey, Tidy};
use snapshot::Snapshot;
pub use snapshot::{SNAPSHOT_SECOND, begins_at};

/// The ledgers of the slots that this process owns.
#[derive(Debug)]
pub struct Ledger {
    slots: Vec<Option<SlotLedger>>,
    /// Slots opened so far.
    openings: u64,
    /// Outbox rows are deleted once their events are resolved.
    cleanup: bool,
}

/// The reserved second under which a checkpoint keeps the starts of the stream sets that it accounts for. What is older than
/// all of them is accounted for as well.
pub const SETS_SECOND: i64 = i64::MAX;

/// What a row is to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Its slot is not ours (any more).
    Foreign,
    /// Its time is below the swept bound, so it was resolved long ago.
    BelowBound,
    Taken,
    Resolved,
    /// Nobody has it: to be delivered.
    New,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| None).collect(),
            openings: 0,
            cleanup: false,
        }
    }
}

impl Ledger {
    /// Keeps outbox rows in mind until they are deleted.
    pub fn with_cleanup(self) -> Self {
        Self {
            cleanup: true,
            ..self
        }
    }

    /// Starts owning a slot from its checkpoint: `resolved` holds (second of `cdc$time`, id), and what
    /// [`SETS_SECOND`], [`CLEANUP_SECOND`] and [`SNAPSHOT_SECOND`] say.
    pub fn open(&mut self, slot: SlotId, bound: Micros, resolved: impl IntoIterator<Item = (i64, RowId)>) {
        let mut buckets: BTreeMap<i64, Bucket> = BTreeMap::new();
        let (mut sets, mut tidy, mut snapshot) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (second, id) in resolved {
            if second == SETS_SECOND {
                sets.insert(id.0 as Micros);
            } else if second == CLEANUP_SECOND {
                tidy.push(id);
            } else if second == SNAPSHOT_SECOND {
                snapshot.push(id);
            } else {
                buckets.entry(second).or_default().saved.push(id);
            }
        }
        for bucket in buckets.values_mut() {
            bucket.saved.sort_unstable();
            bucket.saved.dedup();
            bucket.saved.shrink_to_fit();
        }
        self.openings += 1;
        let tidy = Tidy::of(&tidy);
        let remains = self.cleanup.then(|| {
            let held = buckets.iter().flat_map(|(second, bucket)| {
                let ids = bucket.saved.iter();
                ids.map(move |id| (*second, *id))
            });
            Remains::open(tidy, bound, held)
        });
        let ledger = SlotLedger {
            ownership: self.openings,
            opening: self.openings,
            bound,
            swept: bound,
            saved_bound: bound,
            owed: None,
            saved_sets: sets.clone(),
            sets,
            beyond: Vec::new(),
            mark: Mark::default(),
            saved_mark: Mark::default(),
            stopped: false,
            buckets,
            outdated_tidy: remains.is_none() && tidy.is_some(),
            remains,
            snapshot: Snapshot::open(&snapshot),
            outdated_snapshot: false,
            pins: Pins::default(),
        };
        self.slots[slot.index()] = Some(ledger);
    }

    /// Stops owning a slot: its rows become foreign.
    pub fn close(&mut self, slot: SlotId) {
        self.slots[slot.index()] = None;
    }

    /// Nothing of the slot is read or taken, not even by a reader that starts anew, until it is opened again.
    pub fn stop(&mut self, slot: SlotId) {
        if let Some(ledger) = self.slot_mut(slot) {
            ledger.stopped = true;
        }
    }

    pub fn owned(&self) -> SlotSet {
        SlotId::all().filter(|slot| self.slot(*slot).is_some()).collect()
    }

    /// The slots whose log is to be read: owned, not stopped, and without rows of the table that come first.
    pub fn reading(&self) -> SlotSet {
        let reads = |ledger: &SlotLedger| !ledger.stopped && ledger.snapshot.is_none();
        self.those(reads)
    }

    /// The slots whose rows in the table come first.
    pub fn in_snapshot(&self) -> SlotSet {
        self.those(|ledger| !ledger.stopped && ledger.snapshot.is_some())
    }

    fn those(&self, wanted: impl Fn(&SlotLedger) -> bool) -> SlotSet {
        let is_wanted = |slot: &SlotId| self.slot(*slot).is_some_and(&wanted);
        SlotId::all().filter(is_wanted).collect()
    }

    pub fn slot(&self, slot: SlotId) -> Option<&SlotLedger> {
        self.slots[slot.index()].as_ref()
    }

    pub fn slot_mut(&mut self, slot: SlotId) -> Option<&mut SlotLedger> {
        self.slots[slot.index()].as_mut()
    }

    /// Tells an ownership of the slot from earlier ones; 0 if it is not ours. What was taken under one is void under the
    /// next, which takes the same rows anew.
    pub fn ownership(&self, slot: SlotId) -> u64 {
        self.slot(slot).map_or(0, |ledger| ledger.ownership)
    }

    pub fn known(&self, slot: SlotId, time: Micros, id: RowId) -> Known {
        self.slot(slot)
            .map_or(Known::Foreign, |ledger| ledger.known(time, id))
    }

    /// Takes a row if it is new; says what it was before.
    pub fn take(&mut self, slot: SlotId, time: Micros, id: RowId) -> Known {
        let Some(ledger) = self.slot_mut(slot).filter(|ledger| !ledger.stopped) else {
            return Known::Foreign;
        };
        let known = ledger.known(time, id);
        if known == Known::New {
            ledger
                .buckets
                .entry(second_of(time))
                .or_default()
                .open
                .insert(id, State::Taken(time));
        }
        known
    }

    /// A taken row was acknowledged or durably dead-lettered. Of no effect if the slot was closed since.
    pub fn resolve(&mut self, slot: SlotId, time: Micros, id: RowId) {
        let bucket = self
            .slot_mut(slot)
            .and_then(|ledger| ledger.buckets.get_mut(&second_of(time)));
        if let Some(state @ State::Taken(_)) = bucket.and_then(|bucket| bucket.open.get_mut(&id)) {
            *state = State::Resolved;
        }
        if let Some(remains) = self.remains(slot) {
            remains.resolve(id);
        }
        if let Some(snapshot) = self.snapshot(slot) {
            snapshot.resolve(id);
        }
    }

    /// A taken row goes back to New: what held it was torn down before it was resolved. It counts as unread again, and
    /// so does the slot from its bound on. Of no effect if it was taken under an earlier ownership.
    pub fn release(&mut self, slot: SlotId, ownership: u64, time: Micros, id: RowId) {
        if self.ownership(slot) != ownership {
            return;
        }
        if let Some(remains) = self.remains(slot) {
            remains.forget(id);
        }
        let Some(ledger) = self.slots[slot.index()].as_mut() else {
            return;
        };
        if ledger
            .snapshot
            .as_mut()
            .is_some_and(|snapshot| snapshot.forget(id))
        {
            self.openings += 1;
            ledger.opening = self.openings;
            return;
        }
        let Some(bucket) = ledger.buckets.get_mut(&second_of(time)) else {
            return;
        };
        if matches!(bucket.open.get(&id), Some(State::Taken(_))) {
            bucket.open.remove(&id);
            ledger.swept = ledger.swept.min(time);
            self.openings += 1;
            ledger.opening = self.openings;
        }
    }

    /// The event of a row that was just taken: the row is deleted once the event is resolved, if rows are.
    pub fn keep(&mut self, slot: SlotId, time: Micros, id: RowId, key: &RowKey) {
        if let Some(remains) = self.remains(slot) {
            remains.keep(id, time, key);
        }
    }

    /// An event that is resolved was read again: a former owner may not have deleted its row.
    pub fn seen_again(&mut self, slot: SlotId, time: Micros, id: RowId, key: &RowKey) {
        let Some(ledger) = self.slot_mut(slot) else { return };
        let bucket = ledger.buckets.get(&second_of(time));
        let is_saved = bucket.is_some_and(|bucket| bucket.saved.binary_search(&id).is_ok());
        if let Some(remains) = &mut ledger.remains {
            remains.seen_again(id, time, key, is_saved);
        }
    }

    /// Takes a row that reconciliation found, though it lies below the bound. False if it is on its way already, or not
    /// ours.
    pub fn find(&mut self, slot: SlotId, time: Micros, id: RowId, key: &RowKey) -> bool {
        let ledger = self.slot_mut(slot).filter(|ledger| !ledger.stopped);
        let remains = ledger.and_then(|ledger| ledger.remains.as_mut());
        remains.is_some_and(|remains| remains.find(id, time, key))
    }

    /// Whether [`Self::find`] would say no for what was found before.
    pub fn is_found(&self, slot: SlotId, id: RowId) -> bool {
        let remains = self.slot(slot).and_then(|ledger| ledger.remains.as_ref());
        remains.is_some_and(|remains| remains.is_known(id))
    }

    /// Where the slot's table is read on, and the [`SlotLedger::opening`] under which. None if there is nothing to read of it.
    pub fn snapshot_from(&self, slot: SlotId) -> Option<(i64, u64)> {
        let ledger = self.slot(slot).filter(|ledger| !ledger.stopped)?;
        Some((ledger.snapshot.as_ref()?.read_to()?, ledger.opening))
    }

    /// Takes a row of the table that comes before the log. False if it is on its way already, or not ours.
    pub fn take_old(&mut self, slot: SlotId, token: i64, id: RowId) -> bool {
        self.snapshot(slot)
            .is_some_and(|snapshot| snapshot.find(id, token))
    }

    /// Every row of the slot's table with a lower token was taken; with None, every row.
    pub fn read_old(&mut self, slot: SlotId, below: Option<i64>) {
        if let Some(snapshot) = self.snapshot(slot) {
            snapshot.read(below);
        }
    }

    /// The slots whose snapshot is done: from now on their log is read.
    pub fn end_snapshots(&mut self) -> SlotSet {
        let mut ended = SlotSet::EMPTY;
        for slot in self.in_snapshot().iter() {
            let Some(ledger) = self.slot_mut(slot) else {
                continue;
            };
            if ledger.snapshot.take_if(|snapshot| snapshot.is_done()).is_some() {
                ledger.outdated_snapshot = true;
                ended.insert(slot);
            }
        }
        ended
    }

    /// Rows of snapshots whose events are on their way.
    pub fn old_in_flight(&self) -> usize {
        let slots = self.slots.iter().flatten();
        slots.map(SlotLedger::old_in_flight).sum()
    }

    fn snapshot(&mut self, slot: SlotId) -> Option<&mut Snapshot> {
        self.slot_mut(slot)?.snapshot.as_mut()
    }

    /// A row that may be deleted now, of the next slot after `after` that has one. Answer with [`Self::deleted`] or
    /// [`Self::not_deleted`].
    pub fn next_due(&mut self, after: SlotId) -> Option<(SlotId, Due)> {
        let mut slots = SlotId::all().cycle().skip(after.index() + 1).take(SLOTS);
        slots.find_map(|slot| Some((slot, self.remains(slot)?.next_due()?)))
    }

    /// Whoever asked [`Self::next_due`] before has ended.
    pub fn delete_anew(&mut self) {
        let slots = self.slots.iter_mut().flatten();
        slots
            .filter_map(|slot| slot.remains.as_mut())
            .for_each(Remains::begin_anew);
    }

    /// The row is gone. Of no effect if the slot was closed since.
    pub fn deleted(&mut self, slot: SlotId, id: RowId) {
        if let Some(remains) = self.remains(slot) {
            remains.deleted(id);
        }
    }

    /// The row may still be there.
    pub fn not_deleted(&mut self, slot: SlotId, id: RowId) {
        if let Some(remains) = self.remains(slot) {
            remains.not_deleted(id);
        }
    }

    /// A page of the slot's table is asked for. What is deleted until [`Self::page_ends`] may still be on it.
    pub fn page_begins(&mut self, slot: SlotId) {
        if let Some(remains) = self.remains(slot) {
            remains.page_begins();
        }
    }

    pub fn page_ends(&mut self, slot: SlotId) {
        if let Some(remains) = self.remains(slot) {
            remains.page_ends();
        }
    }

    /// Rows of resolved events that are not deleted yet.
    pub fn undeleted(&self) -> usize {
        self.all_remains().map(Remains::undeleted).sum()
    }

    /// Rows that reconciliation found and whose events are on their way.
    pub fn found_in_flight(&self) -> usize {
        self.all_remains().map(Remains::found_in_flight).sum()
    }

    fn all_remains(&self) -> impl Iterator<Item = &Remains> {
        let slots = self.slots.iter().flatten();
        slots.filter_map(|slot| slot.remains.as_ref())
    }

    fn remains(&mut self, slot: SlotId) -> Option<&mut Remains> {
        self.slot_mut(slot)?.remains.as_mut()
    }
}

/// One slot's ledger.
#[derive(Debug)]
pub struct SlotLedger {
    /// Tells this ownership of the slot from earlier ones.
    ownership: u64,
    /// The same, and from the time before a release.
    opening: u64,
    /// Every row below is swept and resolved. Goes back only by [`SlotLedger::lower`].
    bound: Micros,
    /// Every row below was read by a query that started late enough; some may still be in flight.
    swept: Micros,
    /// The bound that the checkpoint holds.
    saved_bound: Micros,
    /// Up to where the bound has passed resolved ids that no checkpoint ever held: it alone tells of them.
    owed: Option<Micros>,
    /// Starts of the stream sets that the bound accounts for; none before any was learned.
    sets: BTreeSet<Micros>,
    /// The same, as the checkpoint holds it.
    saved_sets: BTreeSet<Micros>,
    /// What the journal says is resolved below the bound: it may go back.
    beyond: Vec<(i64, RowId)>,
    /// Up to where the journal is accounted for: what it says before is resolved here.
    mark: Mark,
    /// The same, as the checkpoint holds it.
    saved_mark: Mark,
    /// Owned, but not to be read until somebody has decided.
    stopped: bool,
    /// By second of `cdc$time`, from the bound upward.
    buckets: BTreeMap<i64, Bucket>,
    /// None: outbox rows are not deleted.
    remains: Option<Remains>,
    /// Rows are not deleted any more, and the checkpoint still says that they are.
    outdated_tidy: bool,
    /// None: the log is read.
    snapshot: Option<Snapshot>,
    /// The snapshot is done, and the checkpoint does not say so yet.
    outdated_snapshot: bool,
    /// What else the bound must not pass.
    pins: Pins,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Taken, or resolved and not yet in the checkpoint.
    open: HashMap<RowId, State>,
    /// Resolved and in the checkpoint; sorted, 8 bytes each.
    saved: Vec<RowId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Taken(Micros),
    Resolved,
}

/// What a save has to write for one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    pub bound: Micros,
    /// Ids resolved since the last save, by second of `cdc$time`; all seconds at or above the bound's. Under
    /// [`SETS_SECOND`] the starts of the stream sets, if they are news. Under [`CLEANUP_SECOND`], and first, what became
    /// of the rows, if it is news; no ids if rows are not deleted any more. Under [`SNAPSHOT_SECOND`] how far the snapshot is,
    /// if it is news; no ids once it is done.
    pub resolved: Vec<(i64, Vec<RowId>)>,
    /// Segments of seconds below this one are no longer needed.
    pub obsolete_below: i64,
    /// Up to where the journal says nothing that bound and ids do not.
    pub mark: Mark,
}

impl SlotLedger {
    pub fn bound(&self) -> Micros {
        self.bound
    }

    pub fn swept(&self) -> Micros {
        self.swept
    }

    /// Differs each time the slot is opened, and after a release: what was read before says nothing about what this ledger knows.
    pub fn opening(&self) -> u64 {
        self.opening
    }

    /// No row at or above this time is known.
    pub fn known_until(&self) -> Micros {
        let newest = self
            .buckets
            .last_key_value()
            .map(|(second, _)| (second + 1) * SECOND);
        newest.map_or(self.bound, |until| until.max(self.bound))
    }

    /// Whether somebody who saved the bound knew of the stream set that starts at `start`: a newer one may have been
    /// published before it. True before any set was learned.
    pub fn accounts_for(&self, start: Micros) -> bool {
        self.sets.first().is_none_or(|oldest| start <= *oldest) || self.sets.contains(&start)
    }

    /// From now on the bound accounts for the stream sets with these starts: all that are published. What is older than
    /// they are is gone.
    pub fn account_for_sets(&mut self, starts: &[Micros]) {
        let Some(oldest) = starts.iter().min() else { return };
        self.sets.extend(starts);
        self.sets.retain(|start| start >= oldest);
    }

    /// The one way back: streams were published so late that rows of theirs lie below the bound, where nobody could
    /// have read them. Below the old bound nothing is known any more but what the journal said, so a restart repeats
    /// events of that time.
    pub fn lower(&mut self, bound: Micros) {
        self.bound = self.bound.min(bound);
        self.swept = self.swept.min(bound);
        let first = second_of(self.bound);
        let beyond = std::mem::take(&mut self.beyond).into_iter();
        let (above, below): (Vec<_>, Vec<_>) = beyond.partition(|(second, _)| *second >= first);
        self.beyond = below;
        for (second, id) in above {
            self.resolved_before(second, id);
        }
    }

    /// The slot was opened from a checkpoint with the mark `saved`; the journal, read up to `mark`, says that these ids
    /// are resolved too.
    pub fn replayed(&mut self, saved: Mark, mark: Mark, resolved: impl IntoIterator<Item = (i64, RowId)>) {
        (self.saved_mark, self.mark) = (saved, mark);
        let first = second_of(self.bound);
        for (second, id) in resolved {
            if let Some(remains) = &mut self.remains {
                remains.suspect([(second, id)]);
            }
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.resolved_before(id);
            }
            // Below the bound all is resolved, unless its owner took it back for a stream set and died before it saved that.
            if second < first {
                self.beyond.push((second, id));
            } else {
                self.resolved_before(second, id);
            }
        }
    }

    fn resolved_before(&mut self, second: i64, id: RowId) {
        let bucket = self.buckets.entry(second).or_default();
        if bucket.saved.binary_search(&id).is_err() {
            bucket.open.insert(id, State::Resolved);
        }
    }

    /// Everything that the journal says of the slot up to here is resolved.
    pub fn marked(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// Up to where the journal is accounted for.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Up to where the checkpoint holds what the journal says.
    pub fn saved_mark(&self) -> Mark {
        self.saved_mark
    }

    /// Rows written from this time on and below the bound are gone, or their events were never read. None: rows are not
    /// deleted.
    pub fn deleted_since(&self) -> Option<Micros> {
        self.remains.as_ref().map(Remains::since)
    }

    fn old_in_flight(&self) -> usize {
        self.snapshot.as_ref().map_or(0, Snapshot::in_flight)
    }

    fn known(&self, time: Micros, id: RowId) -> Known {
        match self.snapshot.as_ref().and_then(|snapshot| snapshot.is_open(id)) {
            Some(true) => return Known::Taken,
            Some(false) => return Known::Resolved,
            None => {}
        }
        match self.remains.as_ref().and_then(|remains| remains.is_found(id)) {
            Some(true) => return Known::Taken,
            _ if time < self.bound => return Known::BelowBound,
            Some(false) => return Known::Resolved,
            None => {}
        }
        let Some(bucket) = self.buckets.get(&second_of(time)) else {
            return Known::New;
        };
        match bucket.open.get(&id) {
            Some(State::Taken(_)) => Known::Taken,
            Some(State::Resolved) => Known::Resolved,
            None if bucket.saved.binary_search(&id).is_ok() => Known::Resolved,
            None => Known::New,
        }
    }

    /// Every row below `swept` has been read by a query that started after its slice's age. Moves the bound as far
    /// as unresolved rows allow; neither ever goes back.
    pub fn sweep(&mut self, swept: Micros) {
        self.swept = self.swept.max(swept);
        self.advance();
    }

    /// Moves the bound up to `swept`, but never past a taken row, or one that is still to be deleted.
    pub fn advance(&mut self) {
        let unresolved = self.oldest_taken().unwrap_or(Micros::MAX);
        let undeleted = self.remains.as_ref().and_then(Remains::oldest);
        let bound = self.swept.min(unresolved).min(undeleted.unwrap_or(Micros::MAX));
        let bound = bound.min(self.pins.oldest().unwrap_or(Micros::MAX));
        if bound <= self.bound {
            return;
        }
        self.bound = bound;
        let second = second_of(bound);
        // What remains below holds resolved ids only, and the bound now says the same of them.
        if self
            .buckets
            .range(..second)
            .any(|(_, bucket)| !bucket.open.is_empty())
        {
            self.owed = Some(bound);
        }
        self.buckets.retain(|at, _| *at >= second);
        if let Some(remains) = &mut self.remains {
            remains.passed(bound);
        }
    }

    /// `cdc$time` of the oldest row that is in flight.
    pub fn oldest_taken(&self) -> Option<Micros> {
        self.buckets.values().find_map(Bucket::oldest_taken)
    }

    /// When the oldest found row was written that is not gone yet.
    pub fn oldest_found(&self) -> Option<Micros> {
        self.remains
            .as_ref()
            .and_then(|remains| remains.oldest_found(false))
    }

    /// When the oldest row was written whose event is on its way, also one that was found.
    pub fn oldest_in_flight(&self) -> Option<Micros> {
        let found = self
            .remains
            .as_ref()
            .and_then(|remains| remains.oldest_found(true));
        self.oldest_taken().into_iter().chain(found).min()
    }

    /// Rows of resolved events that are not deleted yet.
    pub fn undeleted(&self) -> usize {
        self.remains.as_ref().map_or(0, Remains::undeleted)
    }

    /// Whether an event of the slot is on its way.
    pub fn in_flight(&self) -> bool {
        let found = self.remains.as_ref().map_or(0, Remains::found_in_flight);
        self.oldest_taken().is_some() || found > 0 || self.old_in_flight() > 0
    }

    /// Rows in flight.
    pub fn taken(&self) -> usize {
        let taken = |bucket: &Bucket| {
            let states = bucket.open.values();
            states.filter(|state| matches!(state, State::Taken(_))).count()
        };
        let found = self.remains.as_ref().map_or(0, Remains::found_in_flight);
        found + self.old_in_flight() + self.buckets.values().map(taken).sum::<usize>()
    }

    /// Ids held in memory: what the horizon costs.
    pub fn ids(&self) -> usize {
        self.buckets
            .values()
            .map(|bucket| bucket.open.len() + bucket.saved.len())
            .sum()
    }

    /// What is not in the checkpoint yet; None if nothing is. Call [`Self::saved`] with it once it is durable.
    pub fn delta(&mut self) -> Option<Delta> {
        self.advance();
        let first = second_of(self.bound);
        let sets = (self.sets != self.saved_sets).then(|| self.sets.iter().map(|start| RowId(*start as u64)));
        let tidy = match &self.remains {
            Some(remains) => remains.unsaved().map(Tidy::ids),
            None => self.outdated_tidy.then(Vec::new),
        };
        let snapshot = match &self.snapshot {
            Some(snapshot) => snapshot.unsaved(),
            None => self.outdated_snapshot.then(Vec::new),
        };
        let buckets = self.buckets.range(first..);
        let resolved: Vec<_> = tidy
            .map(|ids| (CLEANUP_SECOND, ids))
            .into_iter()
            .chain(snapshot.map(|ids| (SNAPSHOT_SECOND, ids)))
            .chain(buckets.filter_map(|(second, bucket)| bucket.unsaved(*second)))
            .chain(sets.map(|starts| (SETS_SECOND, starts.collect())))
            .collect();
        let unsaved = self.bound != self.saved_bound || self.mark.sequence != self.saved_mark.sequence;
        if resolved.is_empty() && !unsaved {
            return None;
        }
        Some(Delta {
            bound: self.bound,
            resolved,
            obsolete_below: first,
            mark: self.mark,
        })
    }

    /// Without a save of the bound, a restart would repeat what was resolved.
    pub fn owes_its_bound(&self) -> bool {
        self.owed.is_some()
    }

    /// `delta` is durable.
    pub fn saved(&mut self, delta: &Delta) {
        self.saved_bound = delta.bound;
        self.owed.take_if(|owed| *owed <= delta.bound);
        self.saved_mark = delta.mark;
        for (second, ids) in &delta.resolved {
            if *second == SETS_SECOND {
                self.saved_sets = ids.iter().map(|start| start.0 as Micros).collect();
            }
            if *second == CLEANUP_SECOND {
                self.outdated_tidy = false;
            }
            if *second == SNAPSHOT_SECOND {
                self.outdated_snapshot &= !ids.is_empty();
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.saved(ids);
                }
                continue;
            }
            if let Some(remains) = &mut self.remains {
                match *second {
                    CLEANUP_SECOND => remains.saved_tidy(Tidy::of(ids)),
                    _ => remains.saved(ids),
                }
            }
            let Some(bucket) = self.buckets.get_mut(second) else {
                continue;
            };
            for id in ids {
                bucket.open.remove(id);
            }
            if bucket.open.is_empty() {
                bucket.open = HashMap::new();
            }
            bucket.saved.extend_from_slice(ids);
            bucket.saved.sort_unstable();
        }
    }
}

impl Bucket {
    fn oldest_taken(&self) -> Option<Micros> {
        let times = self.open.values().filter_map(|state| match state {
            State::Taken(time) => Some(*time),
            State::Resolved => None,
        });
        times.min()
    }

    fn unsaved(&self, second: i64) -> Option<(i64, Vec<RowId>)> {
        let mut ids: Vec<_> = self
            .open
            .iter()
            .filter(|(_, state)| **state == State::Resolved)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        (!ids.is_empty()).then_some((second, ids))
    }
}

/// The second of `cdc$time` that a row is filed under.
pub fn second_of(time: Micros) -> i64 {
    time.div_euclid(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u8 = 3;

    fn slot() -> SlotId {
        SlotId::new(SLOT).unwrap()
    }

    fn open(bound: Micros) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.open(slot(), bound, []);
        ledger
    }

    #[test]
    fn a_row_is_skipped_only_if_known_or_below_the_bound() {
        let mut ledger = open(10 * SECOND);
        assert_eq!(ledger.take(slot(), 12 * SECOND, RowId(1)), Known::New);
        assert_eq!(ledger.take(slot(), 12 * SECOND, RowId(1)), Known::Taken);
        assert_eq!(
            ledger.take(slot(), 11 * SECOND, RowId(2)),
            Known::New,
            "older than what was seen, yet new"
        );
        ledger.resolve(slot(), 12 * SECOND, RowId(1));
        assert_eq!(ledger.take(slot(), 12 * SECOND, RowId(1)), Known::Resolved);
        assert_eq!(ledger.take(slot(), 9 * SECOND, RowId(3)), Known::BelowBound);
        assert_eq!(
            ledger.take(SlotId::new(4).unwrap(), 12 * SECOND, RowId(3)),
            Known::Foreign
        );
    }

    #[test]
    fn the_bound_never_passes_an_unresolved_row_and_never_goes_back() {
        let mut ledger = open(0);
        ledger.take(slot(), 5 * SECOND + 7, RowId(1));
        let bound = |ledger: &mut Ledger, swept| {
            let ledger = ledger.slot_mut(slot()).unwrap();
            ledger.sweep(swept);
            ledger.bound()
        };
        assert_eq!(bound(&mut ledger, 4 * SECOND), 4 * SECOND);
        assert_eq!(bound(&mut ledger, 9 * SECOND), 5 * SECOND + 7);
        assert_eq!(bound(&mut ledger, 3 * SECOND), 5 * SECOND + 7);
        ledger.resolve(slot(), 5 * SECOND + 7, RowId(1));
        assert_eq!(bound(&mut ledger, 0), 9 * SECOND);
    }

    #[test]
    fn a_lowered_bound_is_saved_and_admits_what_lies_above_it() {
        let mut ledger = open(50 * SECOND);
        let owned = ledger.slot_mut(slot()).unwrap();
        assert_eq!((owned.delta(), owned.known_until()), (None, 50 * SECOND));
        owned.lower(20 * SECOND);
        let delta = owned.delta().unwrap();
        assert_eq!(delta.bound, 20 * SECOND);
        owned.saved(&delta);
        assert_eq!(owned.delta(), None);
        assert_eq!(ledger.take(slot(), 30 * SECOND, RowId(1)), Known::New);
        assert_eq!(ledger.slot(slot()).unwrap().known_until(), 31 * SECOND);
        assert_eq!(ledger.take(slot(), 19 * SECOND, RowId(2)), Known::BelowBound);
    }

    #[test]
    fn a_stream_set_that_is_published_after_a_newer_one_is_not_accounted_for() {
        let start = |second| RowId(second * SECOND as u64);
        let check = |saved: &[u64], second, expected| {
            let mut ledger = Ledger::default();
            let saved = saved.iter().map(|second| (SETS_SECOND, start(*second)));
            ledger.open(slot(), 50 * SECOND, saved);
            let owned = ledger.slot(slot()).unwrap();
            assert_eq!(owned.accounts_for(second * SECOND), expected, "{second}");
        };
        check(&[], 30, true);
        check(&[10], 5, true);
        check(&[10], 10, true);
        check(&[10], 11, false);
        check(&[10, 40], 30, false);
        check(&[10, 30, 40], 30, true);
        let mut ledger = open(50 * SECOND);
        let owned = ledger.slot_mut(slot()).unwrap();
        owned.account_for_sets(&[40 * SECOND, 10 * SECOND]);
        let delta = owned.delta().unwrap();
        assert_eq!(delta.resolved, [(SETS_SECOND, vec![start(10), start(40)])]);
        owned.saved(&delta);
        assert_eq!(owned.delta(), None);
        owned.account_for_sets(&[30 * SECOND]);
        let delta = owned.delta().unwrap();
        assert_eq!(
            delta.resolved,
            [(SETS_SECOND, vec![start(30), start(40)])],
            "what is gone is not kept, and what a list does not show yet is not forgotten"
        );
    }

    /// In catch-up a row is swept as soon as it is read, so its id is never part of a save.
    #[test]
    fn a_bound_that_passed_ids_which_no_checkpoint_held_is_owed() {
        let mut ledger = open(0);
        let owed = |ledger: &mut Ledger, swept| {
            let owned = ledger.slot_mut(slot()).unwrap();
            owned.sweep(swept);
            let delta = owned.delta().unwrap();
            (delta.resolved.len(), owned.owes_its_bound(), delta)
        };
        assert!(!owed(&mut ledger, SECOND).1, "nothing was delivered");
        ledger.take(slot(), 5 * SECOND, RowId(1));
        ledger.resolve(slot(), 5 * SECOND, RowId(1));
        let (ids, owes, delta) = owed(&mut ledger, 9 * SECOND);
        assert_eq!((ids, owes), (0, true));
        ledger.take(slot(), 12 * SECOND, RowId(2));
        ledger.resolve(slot(), 12 * SECOND, RowId(2));
        let (_, _, next) = owed(&mut ledger, 20 * SECOND);
        let owned = ledger.slot_mut(slot()).unwrap();
        owned.saved(&delta);
        assert!(owned.owes_its_bound(), "more was passed since");
        owned.saved(&next);
        assert!(!owned.owes_its_bound());
    }

    #[test]
    fn a_delta_holds_resolved_ids_only_and_each_once() {
        let mut ledger = open(0);
        for (id, at) in [(1, SECOND), (2, SECOND), (3, 2 * SECOND)] {
            ledger.take(slot(), at, RowId(id));
        }
        ledger.resolve(slot(), SECOND, RowId(2));
        let delta = ledger.slot_mut(slot()).unwrap().delta().unwrap();
        assert_eq!(delta.resolved, [(1, vec![RowId(2)])]);
        ledger.resolve(slot(), 2 * SECOND, RowId(3));
        let owned = ledger.slot_mut(slot()).unwrap();
        owned.saved(&delta);
        let next = owned.delta().unwrap();
        assert_eq!(next.resolved, [(2, vec![RowId(3)])]);
        owned.saved(&next);
        assert_eq!(owned.delta(), None);
        assert_eq!(ledger.known(slot(), SECOND, RowId(2)), Known::Resolved);
        assert_eq!(ledger.known(slot(), SECOND, RowId(1)), Known::Taken);
    }

    #[test]
    fn a_released_row_is_new_again_and_a_resolved_one_is_not() {
        let mut ledger = open(0);
        ledger.take(slot(), 1, RowId(1));
        let owned = ledger.slot_mut(slot()).unwrap();
        owned.sweep(SECOND);
        let opening = owned.opening();
        ledger.release(slot(), ledger.ownership(slot()), 1, RowId(1));
        let owned = ledger.slot_mut(slot()).unwrap();
        assert_eq!(
            owned.delta().map(|delta| delta.bound),
            Some(1),
            "the bound does not pass it"
        );
        assert_ne!(owned.opening(), opening);
        assert_eq!(ledger.take(slot(), 1, RowId(1)), Known::New);
        ledger.resolve(slot(), 1, RowId(1));
        ledger.release(slot(), ledger.ownership(slot()), 1, RowId(1));
        assert_eq!(ledger.known(slot(), 1, RowId(1)), Known::Resolved);
    }

    #[test]
    fn what_the_journal_says_is_resolved_and_not_yet_saved() {
        let mark = |sequence| Mark { offset: 40, sequence };
        let mut ledger = Ledger::default();
        ledger.open(slot(), 5 * SECOND, [(6, RowId(1))]);
        let owned = ledger.slot_mut(slot()).unwrap();
        let replayed = [(6, RowId(1)), (6, RowId(2)), (3, RowId(3))];
        owned.replayed(mark(2), mark(4), replayed);
        assert_eq!(ledger.known(slot(), 6 * SECOND, RowId(2)), Known::Resolved);
        let owned = ledger.slot_mut(slot()).unwrap();
        let delta = owned.delta().unwrap();
        assert_eq!(
            (&delta.resolved[..], delta.mark),
            (&[(6, vec![RowId(2)])][..], mark(4))
        );
        assert_eq!(owned.saved_mark(), mark(2));
        owned.saved(&delta);
        assert_eq!((owned.saved_mark(), owned.delta()), (mark(4), None));
        owned.marked(mark(5));
        assert_eq!(
            owned.delta().map(|delta| delta.mark),
            Some(mark(5)),
            "a place in the ring waits for it"
        );
    }

    /// Their owner had taken the bound back for a stream set, and died before it saved that.
    #[test]
    fn what_the_journal_says_below_the_bound_is_resolved_once_the_bound_goes_back() {
        let mut ledger = open(50 * SECOND);
        let owned = ledger.slot_mut(slot()).unwrap();
        let replayed = [(30, RowId(1)), (10, RowId(2))];
        owned.replayed(Mark::default(), Mark::default(), replayed);
        owned.sweep(60 * SECOND);
        owned.lower(20 * SECOND);
        assert_eq!(ledger.known(slot(), 30 * SECOND, RowId(1)), Known::Resolved);
        assert_eq!(ledger.known(slot(), 30 * SECOND, RowId(3)), Known::New);
        let owned = ledger.slot_mut(slot()).unwrap();
        let delta = owned.delta().unwrap();
        assert_eq!(
            (delta.bound, &delta.resolved[..]),
            (20 * SECOND, &[(30, vec![RowId(1)])][..])
        );
        owned.lower(0);
        assert_eq!(ledger.known(slot(), 10 * SECOND, RowId(2)), Known::Resolved);
    }

    #[test]
    fn reopened_from_its_checkpoint_it_knows_what_was_saved() {
        let mut ledger = open(0);
        ledger.open(slot(), 5 * SECOND, [(6, RowId(9)), (7, RowId(8)), (6, RowId(1))]);
        assert_eq!(ledger.known(slot(), 6 * SECOND + 5, RowId(1)), Known::Resolved);
        assert_eq!(ledger.known(slot(), 6 * SECOND + 5, RowId(8)), Known::New);
        let owned = ledger.slot_mut(slot()).unwrap();
        assert_eq!((owned.ids(), owned.delta()), (3, None));
    }
}
