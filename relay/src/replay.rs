//! Carries out requests to replay dead letters: the owner of a letter's slot sends it once more, through the lane that the
//! slot's events take, and removes it once it was acknowledged.
//!
//! A letter stays in the table until then, and stays asked for: whoever takes the slot after a crash sends it again. So a
//! repeat is possible, and a loss is not. What fails again is written as a dead letter in its old place, by the lane.

pub mod chains;
mod due;
mod held;
mod patrol;

use std::sync::Arc;
use std::time::Duration;

use crds::dead_letter::AutomaticReplay;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::patrol::Patrol;
use crate::dead_letters::replay::{Refusal, event, judge};
use crate::dead_letters::stored::Stored;
use crate::dead_letters::table::{QUARANTINED, REPLAYING, WAITING};
use crate::deliver::lane::Replay;
use crate::deliver::shell::Control;
use crate::health::{Board, Part};
use crate::ledger::{Ledger, Pin};
use crate::metrics::{Metrics, Replayed};
use crate::model::{SlotId, SourcePosition};
use crate::ports::{Clock, DeadLetterError, DeadLetters, Epoch};

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

/// Between two tries of what has to be written.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Cheap to clone: one that starts anew finds in the table what is left to do.
pub struct Replayer<D, C> {
    pub letters: Arc<D>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub control: Control,
    pub clock: Arc<C>,
    pub max_replays: u32,
    /// The letters of an aggregate are one behind the other (`onAggregate: Hold`).
    pub holds: bool,
    /// Letters are sent in transactions.
    pub exactly_once: bool,
    /// Letters are sent again without anybody asking.
    pub automatic: Option<AutomaticReplay>,
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
            exactly_once: self.exactly_once,
            automatic: self.automatic.clone(),
            metrics: self.metrics.clone(),
            board: self.board.clone(),
        }
    }
}

/// Why a slot was left before all was done: it is not ours any more, or the process stops, or others wait.
struct Left;

/// A letter that the lane has.
struct OnItsWay {
    /// Whether it was delivered.
    told: oneshot::Receiver<bool>,
    owner: Option<Epoch>,
}

/// What became of a letter that was to be sent.
enum Sent {
    OnItsWay(OnItsWay),
    /// It is not there any more.
    Gone,
    Refused,
    /// Its slot is not ours any more.
    Left,
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
            let (mut failed, mut patrol) = (false, Patrol::default());
            while !stop.is_cancelled() {
                match self.look(&stop, &mut patrol).await {
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

    async fn look(&self, stop: &CancellationToken, patrol: &mut Patrol) -> Result<(), DeadLetterError> {
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
        self.patrol(patrol, stop).await
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
        let (mut unread, mut left) = (Ok(()), Ok(()));
        for position in batch {
            match self.send(slot, position).await {
                Ok(Sent::OnItsWay(told)) => sent.push((position, told)),
                Ok(Sent::Gone | Sent::Refused) => {}
                Ok(Sent::Left) => {
                    left = Err(Left);
                    break;
                }
                Err(error) => {
                    unread = Err(error);
                    break;
                }
            }
        }
        // What is on its way is awaited whatever happened to the next one: or it would be sent again.
        for (position, told) in sent {
            left = left.and(self.finish(slot, position, told).await.map(drop));
        }
        unread.map(|()| left)
    }

    /// Removes a letter once it was delivered. Whether it was.
    async fn finish(&self, slot: SlotId, position: &SourcePosition, way: OnItsWay) -> Result<bool, Left> {
        // Whoever takes the slot decides on what is in a transaction.
        let delivered = way.told.await.map_err(|_| Left)?;
        if delivered {
            let remove = || self.letters.remove(slot, position, way.owner);
            self.insist(slot, "a dead letter was delivered and cannot be removed", remove)
                .await;
            self.metrics.delivery.replayed(Replayed::Delivered);
        } else {
            // The lane wrote it anew, and it waits again.
            self.metrics.delivery.replayed(Replayed::Failed);
        }
        self.ledger.lock().unpin(slot, Pin::Replay(*position));
        Ok(delivered)
    }

    async fn send(&self, slot: SlotId, position: &SourcePosition) -> Result<Sent, DeadLetterError> {
        let Ok(owner) = self.owner(slot) else {
            return Ok(Sent::Left);
        };
        let Some(letter) = self.letters.letter(slot, position).await? else {
            return Ok(Sent::Gone);
        };
        if letter.is_remnant() {
            self.letters.remove(slot, position, owner).await?;
            return Ok(Sent::Gone);
        }
        let message = match judge(&letter, self.max_replays) {
            Ok(message) => message,
            Err(refusal) => {
                self.refuse(slot, position, &letter, &refusal, owner).await?;
                return Ok(Sent::Refused);
            }
        };
        let replay = match owner {
            None => Replay::default(),
            Some(epoch) => match self.begin(slot, position, epoch).await? {
                Ok(replay) => replay,
                Err(Left) => return Ok(Sent::Left),
            },
        };
        let label = self.metrics.delivery.label(letter.event_type.as_deref());
        Ok(match event(letter, message, label, replay) {
            Some(event) => Sent::OnItsWay(OnItsWay {
                told: self.control.replay(event),
                owner,
            }),
            None => Sent::Refused,
        })
    }

    /// Under which epoch letters of the slot are decided on: in exactly-once, and only once what former owners left is.
    fn owner(&self, slot: SlotId) -> Result<Option<Epoch>, Left> {
        match (self.exactly_once, self.control.replays_under(slot)) {
            (false, _) => Ok(None),
            (true, Some(epoch)) => Ok(Some(epoch)),
            (true, None) => Err(Left),
        }
    }

    /// Notes that a letter goes into a transaction, before it does. The slot's bound does not pass the time of that until the
    /// letter is decided, so whoever takes the slot learns of the journal or the checkpoint whether it was committed.
    async fn begin(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        epoch: Epoch,
    ) -> Result<Result<Replay, Left>, DeadLetterError> {
        let pin = Pin::Replay(*position);
        let pinned = self.ledger.lock().pin(slot, pin, self.clock.now());
        let Some(begun) = pinned else {
            return Ok(Err(Left));
        };
        match self.letters.sending(slot, position, begun, epoch).await {
            Ok(true) => Ok(Ok(Replay {
                journaled: Some((begun, position.replay_id(begun))),
            })),
            Ok(false) => Ok(Err(Left)),
            Err(error) => {
                // It may be written; nobody else would take it back.
                let take_back = || self.letters.mark(slot, position, REPLAYING, Some(epoch));
                self.insist(slot, "a replay cannot be taken back", take_back)
                    .await;
                self.ledger.lock().unpin(slot, pin);
                Err(error)
            }
        }
    }

    async fn refuse(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        letter: &Stored,
        refusal: &Refusal,
        owner: Option<Epoch>,
    ) -> Result<(), DeadLetterError> {
        // One that was only held would go as soon as it may.
        let asked = letter.status.as_deref() == Some(REPLAYING);
        let quarantined = matches!(refusal, Refusal::Quarantined { .. }) || !asked;
        let status = if quarantined { QUARANTINED } else { WAITING };
        warn!(%slot, event = letter.event_id, %refusal, "a dead letter is not replayed");
        self.letters.mark(slot, position, status, owner).await?;
        self.metrics.delivery.replayed(Replayed::Refused);
        Ok(())
    }

    /// Until it is done: a letter that was delivered, and is there and asked for, would be sent again.
    async fn insist<F>(&self, slot: SlotId, what: &str, action: impl Fn() -> F)
    where
        F: Future<Output = Result<(), DeadLetterError>>,
    {
        let mut failed = false;
        while let Err(error) = action().await {
            failed = true;
            warn!(%slot, %error, "{what}; it is tried again");
            self.board
                .degraded(Part::DeadLetters, error.to_string(), self.clock.now());
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        if failed {
            self.board.healthy(Part::DeadLetters, self.clock.now());
        }
    }
}
