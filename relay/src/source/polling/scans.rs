//! Which page of the table is read next, and in which order its rows are handed over. Pure.
//!
//! Every slot's token range is one scan, page by page, begun again once per interval. Rows of one partition are handed over
//! together, by their write times, so a partition that a page cuts waits for the next one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Micros, SLOTS, SlotId};
use crate::ports::{LogError, OutboxPage, OutboxRow, PageState};

/// Rows of one partition that wait for its end: with payloads of 100 KiB 100 MiB. A partition with more that are not
/// delivered is handed over in parts, in the order of its clustering key.
const HELD_ROWS: usize = 1_000;

/// Pauses after failed pages: from, to, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// With a page state that the server does not take any more, a scan would fail for ever.
const MAX_FAILURES: u32 = 8;

/// A page to be read now. Its answer belongs to [`Scans::on_page`] or [`Scans::on_error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub slot: SlotId,
    pub page: Option<PageState>,
    /// Tells this scan from others of the slot.
    scan: u64,
}

/// What a page was good for.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    /// To be handed over, in this order.
    pub rows: Vec<OutboxRow>,
    /// The whole slot has been looked through since this time.
    pub since: Option<Micros>,
}

#[derive(Debug)]
pub struct Scans {
    interval: Duration,
    /// Slots have their turns spread over the interval; where it begins differs from process to process.
    first: usize,
    slots: BTreeMap<SlotId, Slot>,
    begun: u64,
}

#[derive(Debug)]
struct Slot {
    due: Duration,
    /// Everything written and visible before has been read at least once.
    read_to: Micros,
    asked: bool,
    failures: u32,
    scan: Option<Scan>,
}

#[derive(Debug)]
struct Scan {
    id: u64,
    began: Duration,
    /// The source's time at that moment.
    since: Micros,
    page: Option<PageState>,
    /// Rows of the partition that the last page ended with.
    held: Vec<OutboxRow>,
    /// Spent on its pages.
    took: Duration,
}

impl Scans {
    pub fn new(interval: Duration, seed: u64) -> Self {
        Self {
            interval,
            first: (seed % SLOTS as u64) as usize,
            slots: BTreeMap::new(),
            begun: 0,
        }
    }

    /// `read_to`: what was written before counts as read, as far as lag is concerned.
    pub fn add(&mut self, slot: SlotId, read_to: Micros, now: Duration) {
        let turn = (slot.index() + SLOTS - self.first) % SLOTS;
        self.slots.entry(slot).or_insert(Slot {
            due: now + self.interval.mul_f64(turn as f64 / SLOTS as f64),
            read_to,
            asked: false,
            failures: 0,
            scan: None,
        });
    }

    /// What is under way is of no use any more.
    pub fn remove(&mut self, slot: SlotId) {
        self.slots.remove(&slot);
    }

    /// How far behind reading is; None with nothing to read.
    pub fn lag(&self, wall: Micros) -> Option<Micros> {
        let read_to = self.slots.values().map(|slot| slot.read_to).min();
        read_to.map(|read_to| (wall - read_to).max(0))
    }

    /// The page that has been due for longest, if one is. `wall` is the source's time.
    pub fn next(&mut self, now: Duration, wall: Micros) -> Option<Planned> {
        let waiting = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| !slot.asked && slot.due <= now);
        let (id, slot) = waiting.min_by_key(|(_, slot)| slot.due)?;
        let begun = &mut self.begun;
        let scan = slot.scan.get_or_insert_with(|| {
            *begun += 1;
            Scan {
                id: *begun,
                began: now,
                since: wall,
                page: None,
                held: Vec::new(),
                took: Duration::ZERO,
            }
        });
        slot.asked = true;
        Some(Planned {
            slot: *id,
            page: scan.page.clone(),
            scan: scan.id,
        })
    }

    /// When [`Self::next`] has something again; None: after the next answer.
    pub fn next_due(&self) -> Option<Duration> {
        let waiting = self.slots.values().filter(|slot| !slot.asked);
        waiting.map(|slot| slot.due).min()
    }

    /// Whether the answer to `planned` still counts.
    pub fn is_current(&self, planned: &Planned) -> bool {
        let scan = self.slots.get(&planned.slot).and_then(|slot| slot.scan.as_ref());
        scan.is_some_and(|scan| scan.id == planned.scan)
    }

    fn answered(&mut self, planned: &Planned) -> Option<&mut Slot> {
        if !self.is_current(planned) {
            return None;
        }
        let slot = self.slots.get_mut(&planned.slot)?;
        slot.asked = false;
        Some(slot)
    }

    /// The answer to `planned`, after `took`.
    pub fn on_page(&mut self, planned: &Planned, page: OutboxPage, took: Duration, now: Duration) -> Read {
        let interval = self.interval;
        let Some(slot) = self.answered(planned) else {
            return Read::default();
        };
        slot.failures = 0;
        let Some(scan) = &mut slot.scan else {
            return Read::default();
        };
        scan.took += took;
        scan.held.extend(page.rows);
        if page.next.is_some() {
            scan.page = page.next;
            // At once, but after those that wait already.
            slot.due = now;
            return Read {
                rows: ripe(&mut scan.held),
                since: None,
            };
        }
        let mut rows = std::mem::take(&mut scan.held);
        in_order(&mut rows);
        // A scan that is slow, for the tombstones that it passes, takes half of the time at most.
        slot.due = (scan.began + interval).max(now + scan.took);
        slot.read_to = scan.since;
        let since = Some(scan.since);
        slot.scan = None;
        Read { rows, since }
    }

    /// `planned` was not answered: the same page is asked for after a pause, or the slot is read anew.
    pub fn on_error(&mut self, planned: &Planned, error: &LogError, now: Duration) {
        let Some(slot) = self.answered(planned) else {
            return;
        };
        let patience = if matches!(error, LogError::Transient(_)) {
            0
        } else {
            3
        };
        let doubled = PAUSES.0.saturating_mul(1 << (slot.failures + patience).min(10));
        slot.due = now + doubled.min(PAUSES.1);
        slot.failures += 1;
        if slot.failures % MAX_FAILURES == 0 {
            slot.scan = None;
        }
    }
}

/// Takes what can be handed over before the next page.
pub(in crate::source) fn ripe(held: &mut Vec<OutboxRow>) -> Vec<OutboxRow> {
    let last = held.last().map(|row| row.token);
    let whole = held.iter().position(|row| Some(row.token) == last).unwrap_or(0);
    let until = if held.len() - whole > HELD_ROWS {
        held.len()
    } else {
        whole
    };
    let mut rows: Vec<_> = held.drain(..until).collect();
    in_order(&mut rows);
    rows
}

/// By write time within a partition; rows of one batch, whose time is the same, stay in clustering order.
pub(in crate::source) fn in_order(rows: &mut [OutboxRow]) {
    rows.sort_by_key(|row| (row.token, row.written));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const EVERY: Duration = Duration::from_secs(64);

    fn row(token: i64, written: Micros, key: u8) -> OutboxRow {
        OutboxRow {
            key: Arc::from([key]),
            token,
            values: Vec::new(),
            written: Some(written),
        }
    }

    fn page(rows: &[(i64, Micros)], more: bool) -> OutboxPage {
        let rows = rows.iter().enumerate();
        OutboxPage {
            rows: rows
                .map(|(index, (token, written))| row(*token, *written, index as u8))
                .collect(),
            next: more.then(|| PageState(bytes::Bytes::from_static(b"next"))),
        }
    }

    fn one() -> (Scans, SlotId) {
        let slot = SlotId::new(0).unwrap();
        let mut scans = Scans::new(EVERY, 0);
        scans.add(slot, 0, Duration::ZERO);
        (scans, slot)
    }

    fn answer(
        scans: &mut Scans,
        now: u64,
        took: u64,
        of: OutboxPage,
    ) -> (Vec<(i64, Micros)>, Option<Micros>) {
        let now = Duration::from_secs(now);
        let planned = scans.next(now, now.as_micros() as Micros).unwrap();
        let read = scans.on_page(&planned, of, Duration::from_secs(took), now);
        let rows = read.rows.iter().map(|row| (row.token, row.written.unwrap()));
        (rows.collect(), read.since)
    }

    #[test]
    fn a_partition_is_handed_over_whole_and_by_write_time() {
        let (mut scans, _) = one();
        let (rows, since) = answer(&mut scans, 0, 0, page(&[(1, 30), (1, 10), (2, 50)], true));
        assert_eq!((rows, since), (vec![(1, 10), (1, 30)], None));
        let (rows, _) = answer(&mut scans, 1, 0, page(&[(2, 20)], true));
        assert_eq!(rows, [], "it may go on");
        let (rows, since) = answer(&mut scans, 2, 0, page(&[(2, 40), (3, 5)], false));
        assert_eq!(rows, [(2, 20), (2, 40), (2, 50), (3, 5)]);
        assert_eq!(since, Some(0), "what was written since may have been passed");
    }

    #[test]
    fn rows_of_one_batch_keep_the_order_of_their_keys() {
        let mut rows = vec![row(1, 10, 1), row(1, 9, 2), row(1, 10, 3)];
        in_order(&mut rows);
        let keys: Vec<_> = rows.iter().map(|row| row.key[0]).collect();
        assert_eq!(keys, [2, 1, 3]);
    }

    #[test]
    fn a_partition_that_is_too_large_to_wait_for_is_handed_over_in_parts() {
        let (mut scans, _) = one();
        let many: Vec<_> = (0..=HELD_ROWS as i64).map(|at| (7, at)).collect();
        let (rows, _) = answer(&mut scans, 0, 0, page(&many, true));
        assert_eq!(rows.len(), HELD_ROWS + 1);
    }

    #[test]
    fn a_slot_is_looked_through_once_per_interval_and_rests_as_long_as_that_took() {
        let (mut scans, _) = one();
        answer(&mut scans, 0, 3, page(&[], false));
        assert_eq!(scans.next_due(), Some(EVERY));
        answer(&mut scans, 64, 0, page(&[], true));
        assert_eq!(scans.next_due(), Some(EVERY), "the next page at once");
        answer(&mut scans, 65, 100, page(&[], false));
        assert_eq!(scans.next_due(), Some(Duration::from_secs(165)));
        assert_eq!(scans.lag(70_000_000), Some(6_000_000));
    }

    #[test]
    fn slots_have_their_turns_one_after_another() {
        let mut scans = Scans::new(EVERY, 5);
        SlotId::all().for_each(|slot| scans.add(slot, 0, Duration::ZERO));
        let mut turns = Vec::new();
        for second in 0..128 {
            let now = Duration::from_secs(second);
            while let Some(planned) = scans.next(now, 0) {
                turns.push((second, planned.slot.index()));
                scans.on_page(&planned, OutboxPage::default(), Duration::ZERO, now);
            }
        }
        let expected = (0..128).map(|second| (second, (second as usize + 5) % SLOTS));
        assert_eq!(turns, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_page_that_fails_is_asked_for_again_and_after_many_times_the_slot_anew() {
        let (mut scans, _) = one();
        answer(&mut scans, 0, 0, page(&[(1, 1)], true));
        let error = LogError::Transient(String::new());
        let mut now = Duration::ZERO;
        for failed in 1..=MAX_FAILURES {
            let planned = scans.next(now, 9).unwrap();
            assert!(planned.page.is_some(), "failure {failed}");
            scans.on_error(&planned, &error, now);
            assert_eq!(scans.next(now, 9), None, "it waits");
            now = scans.next_due().unwrap();
        }
        assert_eq!(scans.next(now, 9).unwrap().page, None);
    }

    #[test]
    fn an_answer_to_a_former_owner_of_the_slot_counts_for_nothing() {
        let (mut scans, slot) = one();
        let planned = scans.next(Duration::ZERO, 0).unwrap();
        scans.remove(slot);
        scans.add(slot, 0, Duration::ZERO);
        let again = scans.next(Duration::ZERO, 0).unwrap();
        let now = Duration::ZERO;
        assert_eq!(
            scans.on_page(&planned, page(&[(1, 1)], false), now, now),
            Read::default()
        );
        assert_eq!(
            scans.on_page(&again, page(&[(1, 1)], false), now, now).rows.len(),
            1
        );
    }
}
