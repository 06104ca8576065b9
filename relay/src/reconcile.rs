//! Reconciliation (`source.reconcile`): finds outbox rows whose log rows never came, or came after the horizon.
//!
//! Cleanup deletes the row of every event that is done with, and a slot's bound passes no row that is still to be deleted.
//! So a row that was written before the bound and is in the table was never read. `rounds` decides; this reads the table
//! slot by slot, slowly, and hands on what was found.

mod rounds;

use std::sync::Arc;
use std::time::Duration;

use crds::relay_status::DataEventKind;
use crds::source::Reconcile;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::deliver::lane::Event;
use crate::deliver::prepare::Preparer;
use crate::event::{EventOperation, SourceEvent};
use crate::health::{Board, Part};
use crate::ledger::Ledger;
use crate::metrics::{Metrics, Reconciled};
use crate::model::{CdcTime, Micros, SlotId, SourcePosition, StreamId};
use crate::ports::{Clock, DeadLetterError, DeadLetters, LogError, Outbox, OutboxRow, PageState, Reason};
use crate::source::retention::Retention;

pub use rounds::{Before, Rounds, Verdict, judge};

/// What dead letters of found rows say.
const FOUND: &str = "found in the outbox table: its log row never came, or came after source.horizonSeconds, so it was \
                     probably never delivered";

/// Rows per page: with payloads of 100 KiB a page is 10 MiB, within what a request may hold.
const PAGE_ROWS: i32 = 100;

/// Found events on their way at once: what is found waits in the table as well as in memory.
const MAX_IN_FLIGHT: usize = 1_000;

/// How often it is looked whether a slot is due, or found events have arrived.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Between pages: also empty ones cost, when all they passed was deleted.
const PAGE_PAUSE: Duration = Duration::from_millis(10);

/// After a failed page: from, to, doubling; after so many in a row the slot waits for its next turn.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
const MAX_FAILURES: u32 = 8;

/// No log row has this stream, so no position of one is that of a found event.
const NO_STREAM: StreamId = StreamId([0; 16]);

/// Cheap to clone: one that starts anew goes on with the same.
pub struct Reconciler<D, C> {
    pub config: Reconcile,
    /// How late a log row may surface and is still found by the tail, with the skew of clocks.
    pub grace: Micros,
    pub ledger: Arc<Mutex<Ledger>>,
    pub outbox: Arc<dyn Outbox>,
    pub clock: Arc<C>,
    pub retention: Retention,
    pub target: Target<D>,
    pub metrics: Arc<Metrics>,
    pub board: Board,
    pub seed: u64,
}

/// Where found events go.
pub enum Target<D> {
    /// At least once: to be delivered like any other.
    Lane(mpsc::Sender<Vec<SourceEvent>>),
    /// Exactly once: nobody can say that it was never delivered, so a person decides.
    DeadLetters(Arc<D>, Box<Preparer>),
}

impl<D> Clone for Target<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Lane(events) => Self::Lane(events.clone()),
            Self::DeadLetters(letters, preparer) => Self::DeadLetters(letters.clone(), preparer.clone()),
        }
    }
}

impl<D, C> Clone for Reconciler<D, C> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            grace: self.grace,
            ledger: self.ledger.clone(),
            outbox: self.outbox.clone(),
            clock: self.clock.clone(),
            retention: self.retention.clone(),
            target: self.target.clone(),
            metrics: self.metrics.clone(),
            board: self.board.clone(),
            seed: self.seed,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("nobody takes events any more")]
    Closed,
    #[error(transparent)]
    NotParked(#[from] DeadLetterError),
}

impl<D: DeadLetters, C: Clock> Reconciler<D, C> {
    /// Looks until `stop`.
    ///
    /// # Errors
    /// Only what a new start mends; what was found is found again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ReconcileError> {
        let mut rounds = Rounds::new(self.config.interval(), self.seed);
        let look = async {
            loop {
                let owned = self.ledger.lock().reading();
                if let Some(slot) = rounds.next(owned, self.clock.elapsed()) {
                    self.look_through(slot).await?;
                    rounds.done(slot, self.clock.elapsed());
                } else {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = look => ended,
        }
    }

    async fn look_through(&self, slot: SlotId) -> Result<(), ReconcileError> {
        let (mut page, mut failures) = (None, 0);
        loop {
            // Before the rows are read: see `Before`.
            let Some(before) = self.before(slot) else {
                return Ok(());
            };
            match self.outbox.scan(slot.tokens(), page.clone(), PAGE_ROWS).await {
                Ok(read) => {
                    if std::mem::take(&mut failures) > 0 {
                        self.board.healthy(Part::Cleanup, self.clock.now());
                    }
                    let rows = read.rows.len();
                    self.metrics.cleanup.scanned_rows.inc_by(rows as u64);
                    self.take(slot, read.rows, before).await?;
                    page = read.next;
                    if page.is_none() {
                        self.metrics.cleanup.scanned_slots.inc();
                        return Ok(());
                    }
                    let pace = Duration::from_secs(1) / self.config.rows_per_second * rows as u32;
                    tokio::time::sleep(pace.max(PAGE_PAUSE)).await;
                }
                Err(error) => {
                    failures += 1;
                    self.failed(slot, &error, &page);
                    if failures > MAX_FAILURES {
                        return Ok(());
                    }
                    tokio::time::sleep(PAUSES.0.saturating_mul(1 << failures).min(PAUSES.1)).await;
                }
            }
        }
    }

    fn before(&self, slot: SlotId) -> Option<Before> {
        let ledger = self.ledger.lock();
        let owned = ledger.slot(slot)?;
        let now = self.retention.source_time(self.clock.now());
        let margin = Micros::from(self.config.margin_seconds) * crate::model::SECOND;
        Some(Before {
            since: owned.deleted_since()?,
            bound: owned.bound(),
            settled: now - self.grace - margin,
        })
    }

    /// Hands on what was found among the rows of a page.
    async fn take(&self, slot: SlotId, rows: Vec<OutboxRow>, before: Before) -> Result<(), ReconcileError> {
        let found = self.find(slot, rows, before);
        if found.is_empty() {
            return Ok(());
        }
        let count = found.len();
        let outcome = match &self.target {
            Target::Lane(events) => {
                events.send(found).await.map_err(|_| ReconcileError::Closed)?;
                Reconciled::Delivered
            }
            Target::DeadLetters(letters, preparer) => {
                self.park(letters.as_ref(), preparer, found).await?;
                Reconciled::Parked
            }
        };
        self.metrics.cleanup.reconciled(outcome, count);
        warn!(%slot, count, ?outcome, "outbox rows were found whose log rows never came, or came too late");
        while self.ledger.lock().found_in_flight() >= MAX_IN_FLIGHT {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Takes what was found among the rows of a page, under one ownership.
    fn find(&self, slot: SlotId, rows: Vec<OutboxRow>, before: Before) -> Vec<SourceEvent> {
        let mut ledger = self.ledger.lock();
        let ownership = ledger.ownership(slot);
        let mut found = Vec::new();
        for row in rows {
            match judge(row.written, before) {
                Verdict::Found(written) => {
                    let (key, event) = event(slot, ownership, row, written, true);
                    if ledger.find(slot, written, event.row_id, &key) {
                        found.push(event);
                    }
                }
                Verdict::Undated => self.metrics.cleanup.undated_rows.inc(),
                Verdict::InTime | Verdict::Before => {}
            }
        }
        found
    }

    async fn park(
        &self,
        target: &D,
        preparer: &Preparer,
        found: Vec<SourceEvent>,
    ) -> Result<(), ReconcileError> {
        let now = self.clock.now();
        // All of a page are taken under one ownership.
        let ownership = found.first().map_or(0, |event| event.ownership);
        let events: Vec<_> = found
            .into_iter()
            .map(|event| preparer.prepare(event, |event_type| self.metrics.delivery.label(event_type)))
            .collect();
        let letter = |event: &Event| event.letter(Reason::Reconciled, FOUND.to_owned(), now);
        let letters: Vec<_> = events.iter().map(letter).collect();
        let written = target.write(&letters).await;
        let mut ledger = self.ledger.lock();
        if let Err(error) = written {
            // They are found again.
            for event in &events {
                ledger.release(event.slot, ownership, event.position.time.micros(), event.row_id);
            }
            return Err(error.into());
        }
        for event in &events {
            ledger.resolve(event.slot, event.position.time.micros(), event.row_id);
            self.metrics
                .delivery
                .dead_lettered(event.label, Reason::Reconciled);
        }
        drop(ledger);
        let text = format!(
            "{} events were found by reconciliation and became dead letters",
            events.len()
        );
        self.board.event(DataEventKind::DeadLettered, text, now);
        Ok(())
    }

    fn failed(&self, slot: SlotId, error: &LogError, page: &Option<PageState>) {
        self.metrics.cleanup.scan_failed(error.category());
        info!(%slot, category = error.category(), %error, first = page.is_none(), "the outbox table cannot be read");
        self.board.degraded(
            Part::Cleanup,
            format!("reconciliation cannot read the outbox table: {error}"),
            self.clock.now(),
        );
    }
}

/// The position of a row's event.
pub(crate) fn position(key: &[u8], written: Micros) -> SourcePosition {
    let digest = openssl::sha::sha256(key);
    let low: u64 = digest
        .iter()
        .take(8)
        .fold(0, |low, byte| low << 8 | u64::from(*byte));
    // The two highest bits say that this is a UUID of the usual kind.
    let low = low >> 2 | 1 << 63;
    SourcePosition {
        stream: NO_STREAM,
        time: CdcTime::from_parts(written, low),
        batch_seq_no: 0,
    }
}

/// The event of a row of the table. Its position is one that no log row has, and the same whenever the row is found.
pub(crate) fn event(
    slot: SlotId,
    ownership: u64,
    row: OutboxRow,
    written: Micros,
    reconciled: bool,
) -> (crate::ledger::RowKey, SourceEvent) {
    let position = position(&row.key, written);
    let event = SourceEvent {
        position,
        row_id: position.row_id(),
        slot,
        ownership,
        token: row.token,
        values: row.values,
        operation: EventOperation::Insert,
        late: false,
        reconciled,
    };
    (row.key, event)
}

#[cfg(test)]
mod tests;
