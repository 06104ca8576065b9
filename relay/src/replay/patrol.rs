//! Looks now and then at all letters: for those that are due by themselves, and for aggregates that are held for nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crds::dead_letter::{AutomaticReplay, OnAggregate};
use crds::relay_status::BreakerState;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Replayer;
use super::due::{Candidate, Due};
use crate::dead_letters::replay::replays_of;
use crate::dead_letters::table::REPLAYING;
use crate::model::{Micros, SlotId, SourcePosition};
use crate::ports::{Clock, DeadLetterError, DeadLetters};

/// How often all slots are looked at. Letters that somebody removed without saying so, and those of slots whose owner died in
/// between, are found by this as well.
const INTERVAL: Duration = Duration::from_secs(15);

/// Looking at many letters takes its time: at most a tenth of all of it.
const PAUSE: u32 = 10;

/// Letters of which it is known when they are due: 10,000 are 1 MiB. More are looked at each time.
const MAX_KNOWN: usize = 10_000;

/// What is kept from one patrol to the next.
#[derive(Debug, Default)]
pub(super) struct Patrol {
    next: Duration,
    /// When letters that were replayed before are due, as far as that is known.
    due_at: HashMap<(SlotId, SourcePosition), Micros>,
}

impl<D: DeadLetters, C: Clock> Replayer<D, C> {
    /// Looks at all slots if it is time to.
    pub(super) async fn patrol(
        &self,
        patrol: &mut Patrol,
        stop: &CancellationToken,
    ) -> Result<(), DeadLetterError> {
        let began = self.clock.elapsed();
        let automatic = self.automatic.as_ref().filter(|_| self.circuit_is_closed());
        if began < patrol.next || !self.holds && automatic.is_none() {
            return Ok(());
        }
        let a_second = automatic.map_or(0, |replay| u64::from(replay.letters_per_second));
        let mut room = a_second * INTERVAL.as_secs();
        for slot in SlotId::all() {
            if stop.is_cancelled() {
                break;
            }
            if !self.ledger.lock().reading().contains(slot) {
                continue;
            }
            if let Some(replay) = automatic.filter(|_| room > 0) {
                room -= self.ask_for_due(slot, replay, room, patrol).await?;
            }
            if self.holds {
                // One that is left is looked at again.
                let _ = self.serve_held(slot, stop).await?;
            }
        }
        let now = self.clock.elapsed();
        patrol.next = now + INTERVAL.max((now - began) * PAUSE);
        Ok(())
    }

    fn circuit_is_closed(&self) -> bool {
        let view = self.control.view();
        view.started && view.breaker == BreakerState::Closed
    }

    /// Asks for the letters of a slot that are due, as somebody else would; how many these were.
    async fn ask_for_due(
        &self,
        slot: SlotId,
        replay: &AutomaticReplay,
        room: u64,
        patrol: &mut Patrol,
    ) -> Result<u64, DeadLetterError> {
        let Ok(owner) = self.owner(slot) else {
            return Ok(0);
        };
        let on_aggregate = if self.holds {
            OnAggregate::Hold
        } else {
            OnAggregate::Continue
        };
        let now = self.clock.now();
        let mut due = Due::new(replay, on_aggregate, now);
        self.letters.standing(slot, |letter| due.see(letter)).await?;
        let (mut asked, mut stopped) = (0, HashSet::new());
        for candidate in due.into_candidates() {
            if asked == room || stopped.contains(&candidate.aggregate) {
                continue;
            }
            if !self.is_due(slot, candidate, replay, now, patrol).await? {
                if self.holds {
                    stopped.insert(candidate.aggregate);
                }
            } else {
                self.letters
                    .mark(slot, &candidate.position, REPLAYING, owner)
                    .await?;
                asked += 1;
            }
        }
        if asked > 0 {
            info!(%slot, letters = asked, "dead letters are due to be replayed");
            self.letters.request(slot).await?;
        }
        Ok(asked)
    }

    async fn is_due(
        &self,
        slot: SlotId,
        candidate: Candidate,
        replay: &AutomaticReplay,
        now: Micros,
        patrol: &mut Patrol,
    ) -> Result<bool, DeadLetterError> {
        let place = (slot, candidate.position);
        if patrol.due_at.get(&place).is_some_and(|at| *at > now) {
            return Ok(false);
        }
        patrol.due_at.remove(&place);
        let Some(letter) = self.letters.letter(slot, &candidate.position).await? else {
            return Ok(false);
        };
        let replays = replays_of(&letter);
        let due_at = if replays < self.max_replays {
            candidate.due_at(replay, replays)
        } else {
            // As far as this process goes: more may be accepted after a restart.
            Micros::MAX
        };
        if due_at > now && patrol.due_at.len() < MAX_KNOWN {
            patrol.due_at.insert(place, due_at);
        }
        Ok(due_at <= now)
    }
}
