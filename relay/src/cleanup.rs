//! Deletes outbox rows whose events are done with (`source.cleanup: Delete`). The ledger says which; this does it, so many
//! at once and so many a second as it may, until each is gone.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::{Board, Part};
use crate::ledger::{Due, Ledger};
use crate::metrics::Metrics;
use crate::model::{Micros, SlotId};
use crate::ports::{Clock, LogError, Outbox};
use crate::source::limiter::{Answer, Limiter, Limits};
use crate::source::retention::Retention;

/// Rows that may wait for their delete before no more of the log is read: 13 MiB, and at the default rate 13 s of deletes.
/// Without it a table that may not be deleted from would fill the memory.
pub const UNDELETED_MAX: usize = 65_536;

/// At a few milliseconds each these are more than [`crds::source::Load::deletes_per_second`] by default.
const MAX_IN_FLIGHT: u32 = 64;

/// What becomes due wakes nobody.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long the end of a poller waits for deletes; what is left then is delivered again.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Pauses after failures: from, to, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Cheap to clone: one that starts anew goes on with the same.
#[derive(Clone)]
pub struct Cleanup<C> {
    pub ledger: Arc<Mutex<Ledger>>,
    pub outbox: Arc<dyn Outbox>,
    pub clock: Arc<C>,
    pub retention: Retention,
    pub deletes_per_second: u32,
    /// Rows are found in the table itself: one that is left is delivered again, and one that was written over since it was
    /// read was not delivered.
    pub polled: bool,
    pub ramp: Duration,
    pub metrics: Arc<Metrics>,
    pub board: Board,
}

/// Only what a new start mends.
#[derive(Debug, thiserror::Error)]
#[error("a delete task failed: {0}")]
pub struct CleanupError(String);

struct Deleted {
    slot: SlotId,
    due: Due,
    latency: Duration,
    result: Result<(), LogError>,
}

struct Running<C> {
    cleanup: Cleanup<C>,
    limiter: Limiter,
    deletes: JoinSet<Deleted>,
    /// The last slot that had its turn; the last of all at first.
    slot: SlotId,
    failures: u32,
    not_before: Duration,
}

impl<C: Clock> Cleanup<C> {
    /// Deletes until `stop`. What is left then is deleted by the slots' next owner; if the table is polled, nothing is left
    /// unless deletes fail.
    ///
    /// # Errors
    /// See [`CleanupError`].
    pub async fn run(self, stop: CancellationToken) -> Result<(), CleanupError> {
        self.ledger.lock().delete_anew();
        self.board.healthy(Part::Cleanup, self.clock.now());
        let limits = Limits {
            max_in_flight: MAX_IN_FLIGHT,
            queries_per_second: self.deletes_per_second,
            ramp: self.ramp,
        };
        let mut running = Running {
            limiter: Limiter::new(limits, self.clock.elapsed()),
            cleanup: self,
            deletes: JoinSet::new(),
            slot: SlotId::of_token(i64::MAX),
            failures: 0,
            not_before: Duration::ZERO,
        };
        loop {
            running.start();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = running.deletes.join_next(), if !running.deletes.is_empty() => running.done(done)?,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
        if !running.cleanup.polled {
            return Ok(());
        }
        let drained = tokio::time::timeout(DRAIN_LIMIT, running.drain()).await;
        drained.unwrap_or(Ok(()))
    }
}

impl<C: Clock> Running<C> {
    async fn drain(&mut self) -> Result<(), CleanupError> {
        while self.cleanup.ledger.lock().undeleted() > 0 {
            self.start();
            tokio::select! {
                biased;
                Some(done) = self.deletes.join_next(), if !self.deletes.is_empty() => self.done(done)?,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
        Ok(())
    }

    /// Starts what is due and allowed.
    fn start(&mut self) {
        let now = self.cleanup.clock.elapsed();
        let mut ledger = self.cleanup.ledger.lock();
        self.cleanup
            .metrics
            .cleanup
            .undeleted
            .set(ledger.undeleted() as i64);
        while now >= self.not_before && self.limiter.ready(now).is_ok() {
            let Some((slot, due)) = ledger.next_due(self.slot) else {
                return;
            };
            self.slot = slot;
            self.limiter.begin();
            let wall = self.cleanup.retention.source_time(self.cleanup.clock.now());
            let (outbox, clock) = (self.cleanup.outbox.clone(), self.cleanup.clock.clone());
            let at = if self.cleanup.polled {
                due.time
            } else {
                delete_at(wall, due.time)
            };
            self.deletes.spawn(async move {
                let started = clock.elapsed();
                let result = outbox.delete(due.key.clone(), at).await;
                Deleted {
                    slot,
                    due,
                    latency: clock.elapsed().saturating_sub(started),
                    result,
                }
            });
        }
    }

    fn done(&mut self, done: Result<Deleted, JoinError>) -> Result<(), CleanupError> {
        let done = done.map_err(|error| CleanupError(error.to_string()))?;
        let now = self.cleanup.clock.elapsed();
        let answer = match &done.result {
            Ok(()) => Answer::Good,
            Err(LogError::Overloaded(_)) => Answer::Overloaded,
            Err(_) => Answer::Failed,
        };
        self.limiter.end(answer, done.latency, now);
        let mut ledger = self.cleanup.ledger.lock();
        match done.result {
            Ok(()) => {
                ledger.deleted(done.slot, done.due.id);
                drop(ledger);
                self.well();
            }
            Err(error) => {
                ledger.not_deleted(done.slot, done.due.id);
                drop(ledger);
                self.failed(&error, now);
            }
        }
        Ok(())
    }

    fn well(&mut self) {
        self.cleanup.metrics.cleanup.deleted.inc();
        if std::mem::take(&mut self.failures) > 0 {
            info!("outbox rows are deleted again");
            self.cleanup
                .board
                .healthy(Part::Cleanup, self.cleanup.clock.now());
        }
    }

    fn failed(&mut self, error: &LogError, now: Duration) {
        self.cleanup.metrics.cleanup.delete_failed(error.category());
        if self.failures == 0 {
            warn!(category = error.category(), %error, "outbox rows cannot be deleted");
        }
        let text = format!("outbox rows cannot be deleted: {error}");
        let wall = self.cleanup.clock.now();
        self.cleanup
            .board
            .failed_because(Part::Cleanup, error.category(), text, wall);
        // Those in flight together fail together.
        if now >= self.not_before {
            self.not_before = now + PAUSES.0.saturating_mul(1 << self.failures.min(10)).min(PAUSES.1);
            self.failures += 1;
        }
    }
}

/// The timestamp of a delete: what is written to the row later, under another event's id, is not ours to delete. A writer
/// whose clock is ahead has dated the row in our future; a delete before that would do nothing.
fn delete_at(now: Micros, written: Micros) -> Micros {
    now.max(written)
}

#[cfg(test)]
mod tests;
