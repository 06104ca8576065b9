//! The task that reads the table itself (`source.mode: Polling`): what is in it is not delivered, because what is delivered
//! is deleted. `scans` decides; this asks, several slots at once, and hands on what was found.
//!
//! The ledger knows found rows until they are gone: nothing else has to be remembered of them, and no checkpoint tells of
//! them. Their bound says what a reader of the log may begin with.

pub(super) mod scans;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cleanup::UNDELETED_MAX;
use crate::event::SourceEvent;
use crate::health::Part;
use crate::model::{Micros, SlotId};
use crate::ports::{Capture, ChangeLog, Clock, LogError, Outbox, OutboxPage, OutboxRow};
use crate::reconcile::event;
use crate::source::duplicates::{Duplicates, id_bytes};
use crate::source::limiter::{Answer, Limiter, Limits};
use crate::source::newest::Newest;
use crate::source::reader::{Command, Reader, ReaderError};
use crate::source::tail::Counts;

use scans::Planned;
pub use scans::Scans;

/// Rows per page: with payloads of 100 KiB 25 MiB, and ScyllaDB ends a page at 1 MiB anyhow.
const PAGE_ROWS: i32 = 250;

/// Pages read at once, at most: at some milliseconds a page that is more rows than anybody delivers.
const PAGES_AT_ONCE: u32 = 8;

/// How often the source's clock is looked at.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// Waiting for something other than time, the poller looks again after this long.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// A budget that lacks the last fraction of a query is no reason to spin.
const SHORTEST_WAIT: Duration = Duration::from_micros(100);

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
        let commands = Arc::clone(&self.with.commands);
        let mut commands = commands.lock().await;
        let mut running = Running::new(self);
        loop {
            running.ask();
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(command) = commands.recv() => Step::Command(command),
                step = running.step() => step,
            };
            running.go(step)?;
        }
    }
}

/// What happens next.
enum Step {
    Command(Command),
    Sent,
    Closed,
    Looked(Result<Looked, JoinError>),
    Answer(Result<Answered, JoinError>),
    Time,
}

struct Looked {
    capture: Result<Capture, LogError>,
    /// Our wall clock when it was answered.
    wall: Micros,
}

struct Answered {
    planned: Planned,
    latency: Duration,
    page: Result<OutboxPage, LogError>,
}

struct Running<L, C> {
    poller: Poller<L, C>,
    scans: Scans,
    handed: BTreeMap<SlotId, Newest>,
    duplicates: Duplicates,
    limiter: Limiter,
    pages: JoinSet<Answered>,
    looking: JoinSet<Looked>,
    /// When the source's clock is looked at next.
    looking_due: Duration,
    /// Found, not yet handed on.
    pending: VecDeque<Vec<SourceEvent>>,
    paused: bool,
    /// Why the table cannot be read, and why the clock.
    failing: [Option<String>; 2],
    /// What health was told last.
    told: Option<String>,
    counts: Counts,
    counted: Counts,
    held_back: Option<Duration>,
    /// It was said that the table holds rows from before the start.
    told_of_old: bool,
}

/// What was found and nobody got is found again by the next poller.
impl<L, C> Drop for Running<L, C> {
    fn drop(&mut self) {
        let mut ledger = self.poller.with.ledger.lock();
        for event in self.pending.iter().flatten() {
            ledger.release(event.slot, event.ownership, event.time(), event.row_id);
        }
    }
}

impl<L: ChangeLog, C: Clock> Running<L, C> {
    fn new(poller: Poller<L, C>) -> Self {
        let elapsed = poller.with.clock.elapsed();
        let limits = Limits {
            max_in_flight: poller.with.limits.max_in_flight.min(PAGES_AT_ONCE),
            ..poller.with.limits
        };
        let owned = poller.with.ledger.lock().reading();
        let mut running = Self {
            limiter: Limiter::new(limits, elapsed),
            scans: Scans::new(poller.interval, poller.seed),
            handed: BTreeMap::new(),
            duplicates: Duplicates::new(poller.with.tail.duplicate_window),
            pages: JoinSet::new(),
            looking: JoinSet::new(),
            looking_due: elapsed,
            pending: VecDeque::new(),
            paused: false,
            failing: [None, None],
            told: Some("starting".into()),
            counts: Counts::default(),
            counted: Counts::default(),
            held_back: None,
            told_of_old: false,
            poller,
        };
        owned.iter().for_each(|slot| running.add(slot));
        running
    }

    /// The source's time, as far as it is known.
    fn wall(&self) -> Micros {
        self.poller
            .with
            .retention
            .source_time(self.poller.with.clock.now())
    }

    fn add(&mut self, slot: SlotId) {
        let (wall, now) = (self.wall(), self.poller.with.clock.elapsed());
        self.scans.add(slot, wall, now);
    }

    /// Starts what is due and allowed.
    fn ask(&mut self) {
        let now = self.poller.with.clock.elapsed();
        if now >= self.looking_due && self.looking.is_empty() {
            self.looking_due = now + CLOCK_INTERVAL;
            let (log, clock) = (
                Arc::clone(&self.poller.with.log),
                Arc::clone(&self.poller.with.clock),
            );
            self.looking.spawn(async move {
                let capture = log.capture().await;
                let wall = clock.now();
                Looked { capture, wall }
            });
            self.report(now);
        }
        self.held_back = None;
        if self.poller.with.ledger.lock().undeleted() >= UNDELETED_MAX {
            self.held_back = Some(LONGEST_WAIT);
            return;
        }
        while !self.paused && self.pending.is_empty() {
            if let Err(wait) = self.limiter.ready(now) {
                self.held_back = Some(wait.unwrap_or(LONGEST_WAIT));
                break;
            }
            let wall = self.wall();
            let Some(planned) = self.scans.next(now, wall) else {
                break;
            };
            self.limiter.begin();
            self.poller.with.metrics.reading.asked("poll", 1);
            self.poller.with.ledger.lock().page_begins(planned.slot);
            let (outbox, clock) = (
                Arc::clone(&self.poller.outbox),
                Arc::clone(&self.poller.with.clock),
            );
            self.pages.spawn(async move {
                let asked = clock.elapsed();
                let page = outbox
                    .scan(planned.slot.tokens(), planned.page.clone(), PAGE_ROWS)
                    .await;
                let latency = clock.elapsed().saturating_sub(asked);
                Answered {
                    planned,
                    latency,
                    page,
                }
            });
        }
    }

    /// Waits for what happens next. Nothing is lost if it is dropped before it returns.
    async fn step(&mut self) -> Step {
        let wait = self.wait();
        tokio::select! {
            biased;
            permit = self.poller.with.out.reserve(), if !self.pending.is_empty() => {
                let Ok(permit) = permit else {
                    return Step::Closed;
                };
                if let Some(events) = self.pending.pop_front() {
                    permit.send(events);
                }
                Step::Sent
            }
            Some(looked) = self.looking.join_next() => Step::Looked(looked),
            // While events wait to be taken, answers wait too.
            Some(answer) = self.pages.join_next(), if self.pending.is_empty() => Step::Answer(answer),
            () = tokio::time::sleep(wait) => Step::Time,
        }
    }

    fn go(&mut self, step: Step) -> Result<(), ReaderError> {
        let ended = |error: JoinError| ReaderError::Query(error.to_string());
        match step {
            Step::Command(command) => self.obey(command),
            Step::Looked(looked) => self.learn(looked.map_err(ended)?),
            Step::Answer(answer) => self.take(answer.map_err(ended)?),
            Step::Closed => return Err(ReaderError::Closed),
            Step::Sent | Step::Time => {}
        }
        Ok(())
    }

    fn wait(&self) -> Duration {
        let now = self.poller.with.clock.elapsed();
        let due = self.scans.next_due().map(|due| due.saturating_sub(now));
        let due = due.filter(|_| !self.paused && self.pending.is_empty());
        let wait = self.held_back.or(due).unwrap_or(LONGEST_WAIT);
        wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(slot) => self.add(slot),
            Command::Remove(slots, done) => {
                for slot in slots.iter() {
                    self.scans.remove(slot);
                    self.handed.remove(&slot);
                    self.duplicates.forget(slot);
                }
                // What nobody has got is not in flight.
                let mut ledger = self.poller.with.ledger.lock();
                for events in &mut self.pending {
                    for event in events.extract_if(.., |event| slots.contains(event.slot)) {
                        ledger.release(event.slot, event.ownership, event.time(), event.row_id);
                    }
                }
                drop(ledger);
                // Whoever asked may have gone; the slots are removed all the same.
                let _ = done.send(());
            }
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
        }
    }

    fn take(&mut self, answered: Answered) {
        let now = self.poller.with.clock.elapsed();
        let Answered {
            planned,
            latency,
            page,
        } = answered;
        let outcome = match &page {
            Ok(_) => Answer::Good,
            Err(LogError::Overloaded(_)) => Answer::Overloaded,
            Err(_) => Answer::Failed,
        };
        self.limiter.end(outcome, latency, now);
        if !self.scans.is_current(&planned) {
            return;
        }
        match page {
            Ok(page) => {
                self.poller
                    .with
                    .metrics
                    .reading
                    .answered(latency, page.rows.len());
                let read = self.scans.on_page(&planned, page, latency, now);
                let events = self.judge(planned.slot, read.rows);
                if let Some(since) = read.since {
                    self.looked_through(planned.slot, since);
                }
                if !events.is_empty() {
                    self.pending.push_back(events);
                }
                self.failing[0] = None;
            }
            Err(error) => {
                self.poller.with.metrics.reading.failed(error.category());
                self.scans.on_error(&planned, &error, now);
                self.failing[0].get_or_insert_with(|| error.to_string());
            }
        }
        self.poller.with.ledger.lock().page_ends(planned.slot);
        self.tell();
    }

    /// Which of a slot's rows are events that nobody has yet, in the same order.
    fn judge(&mut self, slot: SlotId, rows: Vec<OutboxRow>) -> Vec<SourceEvent> {
        let now = self.poller.with.clock.now();
        let ledger = Arc::clone(&self.poller.with.ledger);
        let mut ledger = ledger.lock();
        let Some(since) = ledger.slot(slot).and_then(|owned| owned.deleted_since()) else {
            return Vec::new();
        };
        let ownership = ledger.ownership(slot);
        let mut events = Vec::new();
        for row in rows {
            let Some(written) = row.written else {
                self.poller.with.metrics.cleanup.undated_rows.inc();
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
            if self.is_repeat(&found, now) {
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

    fn is_repeat(&mut self, event: &SourceEvent, now: Micros) -> bool {
        let column = self.poller.with.tail.id_column;
        let id = column.and_then(|column| event.values.get(column)?.as_ref());
        id.and_then(id_bytes)
            .is_some_and(|id| self.duplicates.is_repeat(event.slot, &id, event.row_id, now))
    }

    /// What was visible by then and written long enough before has been read. A found row holds the bound until it is gone.
    fn looked_through(&mut self, slot: SlotId, since: Micros) {
        let settled = since - self.poller.with.tail.grace();
        let mut ledger = self.poller.with.ledger.lock();
        let Some(owned) = ledger.slot_mut(slot) else {
            return;
        };
        let swept = owned.oldest_found().map_or(settled, |oldest| oldest.min(settled));
        owned.sweep(swept);
        let bound = owned.bound();
        drop(ledger);
        self.poller.with.metrics.cleanup.scanned_slots.inc();
        if let Some(handed) = self.handed.get_mut(&slot) {
            handed.prune(bound);
        }
    }

    fn learn(&mut self, looked: Looked) {
        match looked.capture {
            Ok(capture) => {
                let ttl = self.poller.with.log.ttl();
                self.poller.with.retention.hear(capture.time, ttl, looked.wall);
                self.failing[1] = None;
            }
            Err(error) => {
                self.poller.with.metrics.reading.failed(error.category());
                self.failing[1] = Some(error.to_string());
            }
        }
        self.tell();
    }

    fn tell_of_old(&mut self) {
        if !std::mem::replace(&mut self.told_of_old, true) {
            warn!(
                "the table holds rows that were written before polling began and are left alone; every look passes over \
                 them: delete them"
            );
        }
    }

    /// Says once what is wrong, and once that nothing is.
    fn tell(&mut self) {
        let trouble = self.failing.iter().flatten().next();
        if self.told.as_ref() == trouble {
            return;
        }
        let now = self.poller.with.clock.now();
        match trouble {
            Some(reason) => {
                warn!(%reason, "the table is not polled as it should be");
                self.poller.with.board.degraded(Part::Source, reason.clone(), now);
            }
            None => {
                info!("polling the table");
                self.poller.with.board.healthy(Part::Source, now);
            }
        }
        self.told = trouble.cloned();
    }

    fn report(&mut self, now: Duration) {
        let wall = self.wall();
        let metrics = &self.poller.with.metrics.reading;
        metrics.lag(self.scans.lag(wall));
        metrics.queries_in_flight.set(i64::from(self.limiter.in_flight()));
        metrics.queries_allowed.set(i64::from(self.limiter.allowed(now)));
        metrics.counted(&self.counted, &self.counts);
        self.counted = self.counts.clone();
        let ledger = self.poller.with.ledger.lock();
        let owned = ledger.owned();
        let bounds = owned
            .iter()
            .filter_map(|slot| ledger.slot(slot))
            .map(|slot| slot.bound());
        if let Some(bound) = bounds.min() {
            metrics.headroom(self.poller.with.retention.headroom(bound, wall));
        }
    }
}

#[cfg(test)]
mod tests;
