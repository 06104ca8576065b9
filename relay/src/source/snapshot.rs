//! The task that reads what the outbox table holds from before its log is read (`source.startFrom: Snapshot`), slot by slot
//! and slowly. The ledger knows how far it is; once a slot's rows are delivered, the reader of the log goes on with it.
//!
//! A slot's bound is the line between the two: what was written before is taken from the table, all else from the log. So
//! nothing is read from both. The bound lies further back than a committed row may take to become readable, so nothing of
//! before comes later either.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::event::SourceEvent;
use crate::health::{Board, Part};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::model::{SlotId, SlotSet};
use crate::ports::{Clock, LogError, Outbox, OutboxRow};
use crate::reconcile::event;
use crate::source::polling::scans::{in_order, ripe};
use crate::source::reader::Command;

/// Rows per page: with payloads of 100 KiB 25 MiB, and ScyllaDB ends a page at 1 MiB anyhow.
const PAGE_ROWS: i32 = 250;

/// Events on their way at once: what waits for the broker waits in the table.
const MAX_IN_FLIGHT: usize = 1_000;

/// How often it is looked whether a slot has come, or events have arrived.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// After a failed page: from, to, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// With a page state that the server does not take any more, a page would fail for ever.
const MAX_FAILURES: u32 = 8;

/// Cheap to clone: one that starts anew goes on where the ledger is.
pub struct Snapshotter<C> {
    pub ledger: Arc<Mutex<Ledger>>,
    pub outbox: Arc<dyn Outbox>,
    pub clock: Arc<C>,
    pub rows_per_second: u32,
    pub out: mpsc::Sender<Vec<SourceEvent>>,
    /// To the reader of the log.
    pub commands: mpsc::Sender<Command>,
    pub metrics: Arc<Metrics>,
    pub board: Board,
}

impl<C> Clone for Snapshotter<C> {
    fn clone(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            outbox: self.outbox.clone(),
            clock: self.clock.clone(),
            rows_per_second: self.rows_per_second,
            out: self.out.clone(),
            commands: self.commands.clone(),
            metrics: self.metrics.clone(),
            board: self.board.clone(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("nobody takes events any more")]
    Closed,
}

impl<C: Clock> Snapshotter<C> {
    /// Reads until `stop`: a slot may come at any time from an owner that had not done it.
    ///
    /// # Errors
    /// Only what a new start mends; what nobody has got is read again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SnapshotError> {
        let look = async {
            let mut told = SlotSet::EMPTY;
            loop {
                let left = self.end_those_done(&mut told).await;
                let next = left
                    .iter()
                    .find(|slot| self.ledger.lock().snapshot_from(*slot).is_some());
                match next {
                    Some(slot) => self.read(slot).await?,
                    None => tokio::time::sleep(LOOK_INTERVAL).await,
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = look => ended,
        }
    }

    /// Gives the reader the slots whose rows are all delivered. Returns those that are left.
    async fn end_those_done(&self, told: &mut SlotSet) -> SlotSet {
        let (ended, left) = {
            let mut ledger = self.ledger.lock();
            (ledger.end_snapshots(), ledger.in_snapshot())
        };
        self.metrics.snapshot.slots.set(left.len() as i64);
        for slot in ended.iter() {
            // If the reader is gone, the whole work starts anew, and it begins with what the ledger says.
            let _ = self.commands.send(Command::Add(slot)).await;
        }
        if left != *told {
            if left.is_empty() {
                info!("snapshot: the older rows of all slots are delivered");
            } else {
                self.board.add(Part::Snapshot, self.clock.now());
                self.board.healthy(Part::Snapshot, self.clock.now());
                info!(
                    slots_left = left.len(),
                    "snapshot: older rows are read from the outbox table"
                );
            }
            *told = left;
        }
        left
    }

    /// Reads the rest of a slot, or until it is lost or has to be read again.
    async fn read(&self, slot: SlotId) -> Result<(), SnapshotError> {
        let Some((from, opening)) = self.ledger.lock().snapshot_from(slot) else {
            return Ok(());
        };
        let tokens = (from, slot.tokens().1);
        let (mut page, mut held, mut failures) = (None, Vec::new(), 0);
        loop {
            match self.outbox.scan(tokens, page.clone(), PAGE_ROWS).await {
                Ok(read) => {
                    if std::mem::take(&mut failures) > 0 {
                        self.board.healthy(Part::Snapshot, self.clock.now());
                    }
                    let rows = read.rows.len() as u32;
                    self.metrics.snapshot.rows.inc_by(rows.into());
                    held.extend(read.rows);
                    page = read.next;
                    let reached = held.last().map(|row: &OutboxRow| row.token);
                    let (whole, below) = if page.is_some() {
                        (ripe(&mut held), reached)
                    } else {
                        in_order(&mut held);
                        (std::mem::take(&mut held), None)
                    };
                    let is_over = page.is_none();
                    if !self.take(slot, opening, whole, (is_over, below)).await? || is_over {
                        return Ok(());
                    }
                    let pace = Duration::from_secs(1) / self.rows_per_second * rows;
                    tokio::time::sleep(pace).await;
                }
                Err(error) => {
                    self.failed(slot, &error);
                    failures += 1;
                    if failures > MAX_FAILURES {
                        return Ok(());
                    }
                    tokio::time::sleep(PAUSES.0.saturating_mul(1 << failures).min(PAUSES.1)).await;
                }
            }
        }
    }

    /// Hands on those of a page's rows that nobody has: between taking and handing on nothing waits, so none is taken and not
    /// handed on. False if the slot is lost or has to be read again.
    async fn take(
        &self,
        slot: SlotId,
        opening: u64,
        rows: Vec<OutboxRow>,
        (is_over, below): (bool, Option<i64>),
    ) -> Result<bool, SnapshotError> {
        let room = self.out.reserve().await.map_err(|_| SnapshotError::Closed)?;
        let mut events = Vec::new();
        {
            let mut ledger = self.ledger.lock();
            if ledger.snapshot_from(slot).map(|(_, opening)| opening) != Some(opening) {
                return Ok(false);
            }
            let ownership = ledger.ownership(slot);
            let bound = ledger.slot(slot).map_or(0, |owned| owned.bound());
            for row in rows {
                let Some(written) = row.written else {
                    self.metrics.snapshot.undated_rows.inc();
                    continue;
                };
                // The log has it.
                if written >= bound {
                    continue;
                }
                let (_, event) = event(slot, ownership, row, written, false);
                if ledger.take_old(slot, event.token, event.row_id) {
                    events.push(event);
                }
            }
            if is_over || below.is_some() {
                ledger.read_old(slot, below);
            }
        }
        if !events.is_empty() {
            self.metrics.snapshot.events.inc_by(events.len() as u64);
            room.send(events);
        }
        while self.ledger.lock().old_in_flight() >= MAX_IN_FLIGHT {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(true)
    }

    fn failed(&self, slot: SlotId, error: &LogError) {
        self.metrics.snapshot.failed(error.category());
        warn!(%slot, category = error.category(), %error, "the outbox table cannot be read");
        let text = format!("the snapshot waits: the outbox table cannot be read: {error}");
        self.board.degraded(Part::Snapshot, text, self.clock.now());
    }
}

#[cfg(test)]
mod tests;
