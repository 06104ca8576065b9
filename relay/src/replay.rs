//! Carries out requests to replay dead letters: the owner of a letter's slot sends it once more, through the lane that the
//! slot's events take, and removes it once it was acknowledged.
//!
//! A letter stays in the table until then, and stays asked for: whoever takes the slot after a crash sends it again. So a
//! repeat is possible, and a loss is not. What fails again is written as a dead letter in its old place, by the lane.

pub mod chains;
mod held;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::dead_letters::replay::{Refusal, event, judge};
use crate::dead_letters::stored::Stored;
use crate::dead_letters::table::{QUARANTINED, REPLAYING, WAITING};
use crate::deliver::shell::Control;
use crate::health::{Board, Part};
use crate::ledger::Ledger;
use crate::metrics::{Metrics, Replayed};
use crate::model::{SlotId, SourcePosition};
use crate::ports::{Clock, DeadLetterError, DeadLetters};

/// How often it is looked whether somebody asks, by one read of a partition that is nearly always empty.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Positions of asked letters that are read at once.
const PAGE: usize = 1_000;

/// Letters on their way at once: their payloads are in memory.
const BATCH: usize = 16;

/// How long a stop waits for letters that are on their way, so that they are not sent again by the next owner.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Between two pages: what a slow clock of a coordinator makes look asked for once more is not looked at without rest.
const PAGE_PAUSE: Duration = Duration::from_millis(50);

/// Between two tries to remove a letter that was delivered.
const REMOVE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Cheap to clone: one that starts anew finds in the table what is left to do.
pub struct Replayer<D, C> {
    pub letters: Arc<D>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub control: Control,
    pub clock: Arc<C>,
    pub max_replays: u32,
    /// The letters of an aggregate are one behind the other (`onAggregate: Hold`).
    pub holds: bool,
    pub metrics: Arc<Metrics>,
    pub board: Board,
}

impl<D, C> Clone for Replayer<D, C> {
    fn clone(&self) -> Self {
        Self {
            letters: self.letters.clone(),
            ledger: self.ledger.clone(),
            control: self.control.clone(),
            clock: self.clock.clone(),
            max_replays: self.max_replays,
            holds: self.holds,
            metrics: self.metrics.clone(),
            board: self.board.clone(),
        }
    }
}

/// Why a slot was left before all was done: it is not ours any more, or the process stops, or others wait.
struct Left;

/// What became of a letter that was to be sent.
enum Sent {
    /// This tells whether it was delivered.
    OnItsWay(oneshot::Receiver<bool>),
    /// It is not there any more.
    Gone,
    Refused,
}

impl<D: DeadLetters, C: Clock> Replayer<D, C> {
    /// Carries out what is asked for until `stop`.
    ///
    /// # Errors
    /// None: what fails is tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let limit = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_LIMIT).await;
        };
        let look = async {
            let (mut failed, mut next_patrol) = (false, self.clock.elapsed());
            while !stop.is_cancelled() {
                match self.look(&stop, &mut next_patrol).await {
                    Ok(()) if std::mem::take(&mut failed) => {
                        self.board.healthy(Part::DeadLetters, self.clock.now());
                    }
                    Ok(()) => {}
                    Err(error) => {
                        if !std::mem::replace(&mut failed, true) {
                            warn!(%error, "dead letters cannot be replayed");
                        }
                        let text = format!("replays wait: {error}");
                        self.board.degraded(Part::DeadLetters, text, self.clock.now());
                    }
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = limit => {}
            () = look => {}
        }
        Ok(())
    }

    async fn look(
        &self,
        stop: &CancellationToken,
        next_patrol: &mut Duration,
    ) -> Result<(), DeadLetterError> {
        let requests = self.letters.requests().await?;
        for slot in SlotId::all() {
            let of_slot = requests.iter().copied().filter(|request| request.slot == slot);
            let of_slot: Vec<_> = of_slot.collect();
            if of_slot.is_empty() || !self.ledger.lock().reading().contains(slot) {
                continue;
            }
            let served = if self.holds {
                self.serve_held(slot, stop).await?
            } else {
                self.serve(slot, stop).await?
            };
            if served.is_err() {
                continue;
            }
            // Those that came since stand in rows of their own.
            for request in of_slot {
                self.letters.carried_out(&request).await?;
            }
        }
        if self.holds && self.clock.elapsed() >= *next_patrol {
            *next_patrol = self.patrol(stop).await?;
        }
        Ok(())
    }

    /// Replays what is asked for in a slot.
    async fn serve(
        &self,
        slot: SlotId,
        stop: &CancellationToken,
    ) -> Result<Result<(), Left>, DeadLetterError> {
        loop {
            let asked = self.letters.asked(slot, PAGE).await?;
            if asked.is_empty() {
                return Ok(Ok(()));
            }
            info!(%slot, letters = asked.len(), "dead letters are replayed");
            for batch in asked.chunks(BATCH) {
                if stop.is_cancelled() || self.replay(slot, batch).await?.is_err() {
                    return Ok(Err(Left));
                }
            }
            tokio::time::sleep(PAGE_PAUSE).await;
        }
    }

    /// Sends letters, in order, and removes those that were delivered.
    async fn replay(
        &self,
        slot: SlotId,
        batch: &[SourcePosition],
    ) -> Result<Result<(), Left>, DeadLetterError> {
        let mut sent = Vec::new();
        let mut unread = Ok(());
        for position in batch {
            match self.send(slot, position).await {
                Ok(Sent::OnItsWay(told)) => sent.push((position, told)),
                Ok(Sent::Gone | Sent::Refused) => {}
                Err(error) => {
                    unread = Err(error);
                    break;
                }
            }
        }
        // What is on its way is awaited whatever happened to the next one: or it would be sent again.
        let mut left = Ok(());
        for (position, told) in sent {
            left = left.and(self.finish(slot, position, told).await.map(drop));
        }
        unread.map(|()| left)
    }

    /// Removes a letter once it was delivered. Whether it was.
    async fn finish(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        told: oneshot::Receiver<bool>,
    ) -> Result<bool, Left> {
        let delivered = told.await.map_err(|_| Left)?;
        if delivered {
            self.remove(slot, position).await;
            self.metrics.delivery.replayed(Replayed::Delivered);
        } else {
            // The lane wrote it anew, and it waits again.
            self.metrics.delivery.replayed(Replayed::Failed);
        }
        Ok(delivered)
    }

    async fn send(&self, slot: SlotId, position: &SourcePosition) -> Result<Sent, DeadLetterError> {
        let Some(letter) = self.letters.letter(slot, position).await? else {
            return Ok(Sent::Gone);
        };
        if letter.is_remnant() {
            self.letters.remove(slot, position).await?;
            return Ok(Sent::Gone);
        }
        let message = match judge(&letter, self.max_replays) {
            Ok(message) => message,
            Err(refusal) => {
                self.refuse(slot, position, &letter, &refusal).await?;
                return Ok(Sent::Refused);
            }
        };
        let label = self.metrics.delivery.label(letter.event_type.as_deref());
        Ok(match event(letter, message, label) {
            Some(event) => Sent::OnItsWay(self.control.replay(event)),
            None => Sent::Refused,
        })
    }

    async fn refuse(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        letter: &Stored,
        refusal: &Refusal,
    ) -> Result<(), DeadLetterError> {
        // One that was only held would go as soon as it may.
        let asked = letter.status.as_deref() == Some(REPLAYING);
        let quarantined = matches!(refusal, Refusal::Quarantined { .. }) || !asked;
        let status = if quarantined { QUARANTINED } else { WAITING };
        warn!(%slot, event = letter.event_id, %refusal, "a dead letter is not replayed");
        self.letters.mark(slot, position, status).await?;
        self.metrics.delivery.replayed(Replayed::Refused);
        Ok(())
    }

    /// Until it is gone: while it is there, and asked for, it would be sent again.
    async fn remove(&self, slot: SlotId, position: &SourcePosition) {
        let mut failed = false;
        while let Err(error) = self.letters.remove(slot, position).await {
            failed = true;
            warn!(%slot, %error, "a dead letter was delivered and cannot be removed; it is tried again");
            self.board
                .degraded(Part::DeadLetters, error.to_string(), self.clock.now());
            tokio::time::sleep(REMOVE_AGAIN_AFTER).await;
        }
        if failed {
            self.board.healthy(Part::DeadLetters, self.clock.now());
        }
    }
}
