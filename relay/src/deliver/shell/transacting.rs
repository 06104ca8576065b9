//! The one transactional producer of a lane that delivers exactly once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::running::{Done, Running};
use crate::deliver::lane::{End, Generation, Now};
use crate::encode::Message;
use crate::ports::{
    Broker, Clock, DeadLetterError, DeadLetters, DeliveryError, Lettered, Refused, Role, TransactionError,
    Transactional,
};

/// How long a stop waits for what it takes back. Beyond it the broker, or whoever takes the slots, does it.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// How long a stop waits for the client to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How soon dead letters that could not be settled are settled again.
const SETTLE_AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Owner {
    generation: Generation,
    producer: Box<dyn Transactional>,
}

impl Owner {
    pub(super) fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        self.producer.send(token, message)
    }

    pub(super) fn purge(&self) {
        self.producer.purge();
    }

    pub(super) fn fatal(&self, generation: Generation) -> Option<DeliveryError> {
        self.producer.fatal().filter(|_| generation == self.generation)
    }
}

impl<B: Broker + Clone, D: DeadLetters, C: Clock> Running<B, D, C> {
    pub(super) fn open_owner(&mut self, generation: Generation) {
        let Some(exactly) = &self.delivery.exactly_once else {
            return;
        };
        let signals = self.inbox.signals(generation);
        let opened = exactly.transactions.open(&exactly.transactional_id, signals);
        self.tasks
            .spawn(async move { Done::Opened(generation, opened.await) });
    }

    pub(super) fn opened_owner(
        &mut self,
        generation: Generation,
        opened: Result<Box<dyn Transactional>, TransactionError>,
        now: Now,
    ) {
        match opened {
            Ok(producer) => {
                info!(generation, "transactional producer initialised");
                self.owner = Some(Owner { generation, producer });
                self.lane.opened(Role::Flow, generation);
            }
            Err(failure) => self.lane.not_opened(Role::Flow, failure.error, now),
        }
    }

    pub(super) fn end_transaction(&mut self, generation: Generation, end: End) {
        let Some(owner) = &self.owner else {
            return;
        };
        let ended = match end {
            End::Commit => owner.producer.commit(),
            End::Abort => owner.producer.abort(),
        };
        let metrics = Arc::clone(&self.delivery.metrics);
        self.tasks.spawn(async move {
            let asked = Instant::now();
            let result = ended.await;
            let what = match (&result, end) {
                (Ok(()), End::Commit) => "committed",
                (Ok(()), End::Abort) => "aborted",
                (Err(_), _) => "failed",
            };
            metrics.delivery.transaction_ended(what, asked.elapsed());
            Done::Ended(generation, end, result)
        });
    }

    /// They are settled sooner or later: if not by this process, then by the next one that opens their slots.
    pub(super) fn settle_letters(&mut self, letters: Vec<Lettered>, after: Duration) {
        self.settling += 1;
        let target = Arc::clone(&self.delivery.dead_letters);
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let result = target.settle(&letters).await;
            Done::LettersSettled(letters, result)
        });
    }

    pub(super) fn letters_settled(&mut self, letters: Vec<Lettered>, result: Result<(), DeadLetterError>) {
        self.settling -= 1;
        if let Err(error) = result {
            warn!(%error, letters = letters.len(), "dead letters are written and delivered, and not yet marked as waiting");
            self.settle_letters(letters, SETTLE_AGAIN_AFTER);
        }
    }

    /// Tells which slots may be taken again, and hears of checkpoints if places in the journal are used up.
    pub(super) fn tell_keeper(&mut self) {
        if self.delivery.exactly_once.is_none() {
            return;
        }
        let lane = &self.lane;
        self.delivery
            .control
            .left(lane.is_ready(), |slot| lane.is_free(slot));
        if let Some(slot) = self.lane.waits_for_save() {
            let saved = self
                .delivery
                .ledger
                .lock()
                .slot(slot)
                .map(|slot| slot.saved_mark());
            if let Some(saved) = saved {
                self.lane.saved(slot, saved);
            }
        }
    }

    /// Takes back what is open, so that nobody has to wait for the broker to do it.
    pub(super) async fn end_owner(&mut self) {
        let Some(owner) = self.owner.take() else {
            return;
        };
        let broken = self.lane.broken().is_some();
        if !broken && !self.lane.is_empty() {
            // An error is what the broker, or the next owner, mends.
            let _ = tokio::time::timeout(ABORT_LIMIT, owner.producer.abort()).await;
        }
        // Its thread ends by itself, after at most one call of the client.
        let _ = tokio::time::timeout(CLOSE_LIMIT, owner.producer.close()).await;
    }
}
