//! `onAggregate: Hold`: the letters of an aggregate are sent one after the other, and what comes meanwhile becomes a letter
//! behind them. Once none is left the lane lets the aggregate go.

use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::chains::Chains;
use super::{BATCH, Left, PAGE, PAGE_PAUSE, Replayer, Sent};
use crate::dead_letters::table::WAITING;
use crate::model::{SlotId, SourcePosition};
use crate::ports::{Clock, DeadLetterError, DeadLetters};

/// Looks at a slot before others get their turn: an aggregate whose events come as fast as its letters go has no end.
const PASSES: usize = 100;

impl<D: DeadLetters, C: Clock> Replayer<D, C> {
    /// Sends what may be sent of a slot, and lets go of the aggregates that have no letters left.
    pub(super) async fn serve_held(
        &self,
        slot: SlotId,
        stop: &CancellationToken,
    ) -> Result<Result<(), Left>, DeadLetterError> {
        let Ok(owner) = self.owner(slot) else {
            return Ok(Err(Left));
        };
        for _ in 0..PASSES {
            // Asked first: what the table shows afterwards holds all letters that the lane has finished by now.
            let Ok(held) = self.control.held(slot).await else {
                return Ok(Err(Left));
            };
            let mut chains = Chains::new(PAGE);
            self.letters.standing(slot, |letter| chains.see(letter)).await?;
            for behind in chains.behind() {
                warn!(%slot, before = behind.event_id, "a dead letter is not replayed: another one of its aggregate is before it");
                self.letters.mark(slot, &behind.position, WAITING, owner).await?;
            }
            let free = chains.free(&held.settled);
            let freed = !free.is_empty();
            if freed {
                info!(%slot, aggregates = free.len(), "aggregates have no dead letters any more");
                self.control.let_go(free);
            }
            let chains = chains.into_chains();
            if chains.is_empty() && !freed {
                if !held.unsettled {
                    return Ok(Ok(()));
                }
                tokio::time::sleep(PAGE_PAUSE).await;
            }
            if stop.is_cancelled() || self.replay_chains(slot, chains, stop).await?.is_err() {
                return Ok(Err(Left));
            }
        }
        Ok(Err(Left))
    }

    async fn replay_chains(
        &self,
        slot: SlotId,
        chains: Vec<Vec<SourcePosition>>,
        stop: &CancellationToken,
    ) -> Result<Result<(), Left>, DeadLetterError> {
        let replayed = stream::iter(chains).map(|chain| self.replay_chain(slot, chain, stop));
        let replayed: Vec<_> = replayed.buffer_unordered(BATCH).collect().await;
        let mut left = Ok(());
        for ended in replayed {
            left = left.and(ended?);
        }
        Ok(left)
    }

    /// Each letter once the one before it was delivered; one that fails again stops the rest.
    async fn replay_chain(
        &self,
        slot: SlotId,
        chain: Vec<SourcePosition>,
        stop: &CancellationToken,
    ) -> Result<Result<(), Left>, DeadLetterError> {
        for position in &chain {
            if stop.is_cancelled() {
                return Ok(Err(Left));
            }
            match self.send(slot, position).await? {
                Sent::Gone => {}
                Sent::Refused => break,
                Sent::Left => return Ok(Err(Left)),
                Sent::OnItsWay(told) => match self.finish(slot, position, told).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(left) => return Ok(Err(left)),
                },
            }
        }
        Ok(Ok(()))
    }
}
