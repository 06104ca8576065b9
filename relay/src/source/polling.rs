//! The task that reads the table itself (`source.mode: Polling`): what is in it is not delivered, because what is delivered
//! is deleted. `scans` decides; this asks, several slots at once, and hands on what was found.
//!
//! The ledger knows found rows until they are gone: nothing else has to be remembered of them, and no checkpoint tells of
//! them. Their bound says what a reader of the log may begin with.

pub(super) mod scans;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::event::SourceEvent;
use crate::model::{Micros, SlotId};
use crate::ports::{Capture, ChangeLog, Clock, LogError, Outbox, OutboxPage, OutboxRow};
use crate::reconcile::{event, position};
use crate::source::duplicates::{Duplicates, id_bytes};
use crate::source::limiter::Limits;
use crate::source::newest::Newest;
use crate::source::pump::{Answered, Pump, Work, outcome};
use crate::source::reader::{Reader, ReaderError};
use crate::source::tail::Counts;

use scans::Planned;
pub use scans::Scans;

/// Rows per page: with payloads of 100 KiB 25 MiB, and ScyllaDB ends a page at 1 MiB anyhow.
const PAGE_ROWS: i32 = 250;

/// Pages read at once, at most: at some milliseconds a page that is more rows than anybody delivers.
const PAGES_AT_ONCE: u32 = 8;

/// What a poller works with. Cheap to clone: a restarted poller continues with the same.
pub struct Poller<L, C> {
    /// As a reader of the log has it; of the log only the clock is asked.
    pub with: Reader<L, C>,
    pub outbox: Arc<dyn Outbox>,
    pub interval: Duration,
    pub seed: u64,
}

impl<L, C> Clone for Poller<L, C> {
    fn clone(&self) -> Self {
        Self {
            with: self.with.clone(),
            outbox: Arc::clone(&self.outbox),
            ..*self
        }
    }
}

impl<L: ChangeLog, C: Clock> Poller<L, C> {
    /// Reads until `stop`. Begins with the slots whose ledgers are open.
    ///
    /// # Errors
    /// Only what a new start mends.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ReaderError> {
        let limits = Limits {
            max_in_flight: self.with.limits.max_in_flight.min(PAGES_AT_ONCE),
            ..self.with.limits
        };
        let work = Polling::new(&self);
        Pump::new(self.with, limits, work).run(stop).await
    }
}

/// What a poller asks, and what an answer means.
struct Polling {
    outbox: Arc<dyn Outbox>,
    scans: Scans,
    handed: BTreeMap<SlotId, Newest>,
    duplicates: Duplicates,
    /// Why the table cannot be read, and why the clock.
    failing: [Option<String>; 2],
    counts: Counts,
    /// It was said that the table holds rows from before the start.
    told_of_old: bool,
}

struct Looked {
    capture: Result<Capture, LogError>,
    /// Our wall clock when it was answered.
    wall: Micros,
}

struct Page {
    planned: Planned,
    page: Result<OutboxPage, LogError>,
}

impl Polling {
    fn new<L: ChangeLog, C: Clock>(poller: &Poller<L, C>) -> Self {
        let with = &poller.with;
        let mut polling = Self {
            outbox: Arc::clone(&poller.outbox),
            scans: Scans::new(poller.interval, poller.seed),
            handed: BTreeMap::new(),
            duplicates: Duplicates::new(with.tail.duplicate_window),
            failing: [None, None],
            counts: Counts::default(),
            told_of_old: false,
        };
        let owned = with.ledger.lock().reading();
        owned.iter().for_each(|slot| polling.add(slot, with));
        polling
    }

    /// Rows of a cut partition wait for the next page. One that was found before could be deleted and forgotten meanwhile, and
    /// would then look new.
    fn pass_over_known<L, C>(&mut self, slot: SlotId, rows: &mut Vec<OutboxRow>, with: &Reader<L, C>) {
        let ledger = with.ledger.lock();
        let read = rows.len();
        rows.retain(|row| {
            let id = row.written.map(|written| position(&row.key, written).row_id());
            id.is_none_or(|id| !ledger.is_found(slot, id))
        });
        self.counts.known += (read - rows.len()) as u64;
    }

    /// Which of a slot's rows are events that nobody has yet, in the same order.
    fn judge<L, C: Clock>(
        &mut self,
        slot: SlotId,
        rows: Vec<OutboxRow>,
        with: &Reader<L, C>,
    ) -> Vec<SourceEvent> {
        let now = with.clock.now();
        let ledger = Arc::clone(&with.ledger);
        let mut ledger = ledger.lock();
        let Some(since) = ledger.slot(slot).and_then(|owned| owned.deleted_since()) else {
            return Vec::new();
        };
        let ownership = ledger.ownership(slot);
        let mut events = Vec::new();
        for row in rows {
            let Some(written) = row.written else {
                with.metrics.cleanup.undated_rows.inc();
                continue;
            };
            if written < since {
                self.tell_of_old();
                continue;
            }
            let (key, mut found) = event(slot, ownership, row, written, false);
            if !ledger.find(slot, written, found.row_id, &key) {
                self.counts.known += 1;
                continue;
            }
            if self.is_repeat(&found, now, with.tail.id_column) {
                self.counts.suppressed += 1;
                ledger.resolve(slot, written, found.row_id);
                continue;
            }
            found.late = self.handed.entry(slot).or_default().note(found.token, written);
            self.counts.events += 1;
            self.counts.late += u64::from(found.late);
            events.push(found);
        }
        events
    }

    fn is_repeat(&mut self, event: &SourceEvent, now: Micros, column: Option<usize>) -> bool {
        let id = column.and_then(|column| event.values.get(column)?.as_ref());
        id.and_then(id_bytes)
            .is_some_and(|id| self.duplicates.is_repeat(event.slot, &id, event.row_id, now))
    }

    /// What was visible by then and written long enough before has been read. A found row holds the bound until it is gone.
    fn looked_through<L, C>(&mut self, slot: SlotId, since: Micros, with: &Reader<L, C>) {
        let settled = since - with.tail.grace();
        let mut ledger = with.ledger.lock();
        let Some(owned) = ledger.slot_mut(slot) else {
            return;
        };
        let swept = owned.oldest_found().map_or(settled, |oldest| oldest.min(settled));
        owned.sweep(swept);
        let bound = owned.bound();
        drop(ledger);
        with.metrics.cleanup.scanned_slots.inc();
        if let Some(handed) = self.handed.get_mut(&slot) {
            handed.prune(bound);
        }
    }

    fn tell_of_old(&mut self) {
        if !std::mem::replace(&mut self.told_of_old, true) {
            warn!(
                "the table holds rows that were written before polling began and are left alone; every look passes over \
                 them: delete them"
            );
        }
    }
}

impl<L: ChangeLog, C: Clock> Work<L, C> for Polling {
    type Looked = Looked;
    type Page = Page;

    const WHAT: &'static str = "the table";

    fn tick(&mut self, _: &Reader<L, C>) -> Result<(), ReaderError> {
        Ok(())
    }

    fn look(&self, with: &Reader<L, C>) -> BoxFuture<'static, Looked> {
        let (log, clock) = (Arc::clone(&with.log), Arc::clone(&with.clock));
        async move {
            let capture = log.capture().await;
            let wall = clock.now();
            Looked { capture, wall }
        }
        .boxed()
    }

    fn learn(&mut self, looked: Looked, with: &Reader<L, C>) -> Result<(), ReaderError> {
        match looked.capture {
            Ok(capture) => {
                with.retention.hear(capture.time, with.log.ttl(), looked.wall);
                self.failing[1] = None;
            }
            Err(error) => {
                with.metrics.reading.failed(error.category());
                self.failing[1] = Some(error.to_string());
            }
        }
        Ok(())
    }

    fn next(&mut self, with: &Reader<L, C>) -> Option<BoxFuture<'static, Answered<Page>>> {
        let planned = self.scans.next(with.clock.elapsed(), self.now(with))?;
        with.metrics.reading.asked("poll", 1);
        with.ledger.lock().page_begins(planned.slot);
        let (outbox, clock) = (Arc::clone(&self.outbox), Arc::clone(&with.clock));
        let query = async move {
            let asked = clock.elapsed();
            let tokens = planned.slot.tokens();
            let page = outbox.scan(tokens, planned.page.clone(), PAGE_ROWS).await;
            let latency = clock.elapsed().saturating_sub(asked);
            Answered {
                latency,
                outcome: outcome(&page),
                page: Page { planned, page },
            }
        };
        Some(query.boxed())
    }

    fn take(
        &mut self,
        answered: Answered<Page>,
        with: &Reader<L, C>,
    ) -> Result<Vec<SourceEvent>, ReaderError> {
        let (latency, Page { planned, page }) = (answered.latency, answered.page);
        if !self.scans.is_current(&planned) {
            return Ok(Vec::new());
        }
        let now = with.clock.elapsed();
        let mut events = Vec::new();
        match page {
            Ok(mut page) => {
                with.metrics.reading.answered(latency, page.rows.len());
                self.pass_over_known(planned.slot, &mut page.rows, with);
                let read = self.scans.on_page(&planned, page, latency, now);
                events = self.judge(planned.slot, read.rows, with);
                if let Some(since) = read.since {
                    self.looked_through(planned.slot, since, with);
                }
                self.failing[0] = None;
            }
            Err(error) => {
                with.metrics.reading.failed(error.category());
                self.scans.on_error(&planned, &error, now);
                self.failing[0].get_or_insert_with(|| error.to_string());
            }
        }
        with.ledger.lock().page_ends(planned.slot);
        Ok(events)
    }

    fn due_in(&self, with: &Reader<L, C>) -> Option<Duration> {
        let due = self.scans.next_due()?;
        Some(due.saturating_sub(with.clock.elapsed()))
    }

    fn add(&mut self, slot: SlotId, with: &Reader<L, C>) {
        let wall = self.now(with);
        self.scans.add(slot, wall, with.clock.elapsed());
    }

    fn remove(&mut self, slot: SlotId) {
        self.scans.remove(slot);
        self.handed.remove(&slot);
        self.duplicates.forget(slot);
    }

    fn trouble(&self) -> Option<&String> {
        self.failing.iter().flatten().next()
    }

    fn now(&self, with: &Reader<L, C>) -> Micros {
        with.retention.source_time(with.clock.now())
    }

    fn lag(&self, with: &Reader<L, C>) -> Option<Micros> {
        self.scans.lag(self.now(with))
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests;
