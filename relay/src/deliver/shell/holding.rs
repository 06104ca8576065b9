//! Before the first event of a slot is delivered, the slot's dead letters say whose events are held (`onAggregate: Hold`),
//! and those that a transaction of a former owner left undecided are decided. The latter also if no event comes: until then
//! nobody sees them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::dead_letter::OnAggregate;
use crds::relay_status::Health;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::running::{Done, Running};
use crate::deliver::lane::{MAX_HELD, Now};
use crate::deliver::prepare::fingerprint_of;
use crate::health::Part;
use crate::ledger::{Known, Ledger, Pin, SlotLedger};
use crate::model::{SLOTS, SlotId, SlotSet, SourcePosition};
use crate::ports::{Broker, Clock, DeadLetterError, DeadLetters, Epoch};

/// Slots asked about at once: all of a process's within some round trips, and a small part of what ScyllaDB does.
const CONCURRENCY: usize = 8;

/// After a failed question.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What was found out about a slot.
pub(super) struct Answer {
    slot: SlotId,
    /// That of its ledger for which it was asked.
    opening: u64,
    /// What was undecided when the slot was taken under this epoch is decided.
    decided: Option<Epoch>,
    /// The aggregates of its dead letters.
    aggregates: Result<Vec<String>, DeadLetterError>,
}

/// Which slots' dead letters the lane knows.
#[derive(Debug)]
pub(super) struct Holding {
    /// By slot, the opening of its ledger for which they were read; 0 is none.
    known: [u64; SLOTS],
    asking: bool,
    not_before: Duration,
    failed: bool,
    /// Slots that were taken and whose letters are not decided yet, with their epochs. Once per taking: later on the
    /// undecided ones are our own.
    undecided: BTreeMap<SlotId, Epoch>,
}

impl Default for Holding {
    fn default() -> Self {
        Self {
            known: [0; SLOTS],
            asking: false,
            not_before: Duration::ZERO,
            failed: false,
            undecided: BTreeMap::new(),
        }
    }
}

impl Holding {
    /// A slot was taken of which a former owner may have left letters undecided. Its ledger has been open for a moment, so
    /// it may have been asked about already, as one of which nothing is undecided.
    pub(super) fn taken(&mut self, slot: SlotId, epoch: Epoch) {
        self.undecided.insert(slot, epoch);
        self.known[slot.index()] = 0;
    }

    pub(super) fn lost(&mut self, slots: SlotSet) {
        self.undecided.retain(|slot, _| !slots.contains(*slot));
    }
}

impl<B: Broker + Clone, D: DeadLetters, C: Clock> Running<B, D, C> {
    /// Decides on what former owners left.
    pub(super) fn decide_letters(&mut self, now: Now) {
        if !self.holding.undecided.is_empty() {
            self.ask_about_unknown(now);
        }
    }

    /// Lets go of aggregates whose dead letters are gone, and says what is held.
    pub(super) fn let_go_of_held(&mut self) {
        let holds = self.delivery.control.take_holds();
        for held in holds.let_go {
            self.lane.let_go(held);
        }
        for (slot, teller) in holds.asked {
            // Whoever asked may have ended.
            let _ = teller.send(self.lane.held(slot));
        }
    }

    /// Whether the lane knows what is held of the slot; otherwise it asks, and the event waits. A slot is asked about
    /// each time that it is opened: others may have owned it.
    pub(super) fn knows_what_is_held(&mut self, slot: SlotId, now: Now) -> bool {
        if self.delivery.policy.on_aggregate == OnAggregate::Continue
            && !self.holding.undecided.contains_key(&slot)
        {
            return true;
        }
        // A slot that is closed by now is about to be revoked.
        if self.opening(slot) == Some(self.holding.known[slot.index()]) {
            return true;
        }
        self.ask_about_unknown(now);
        false
    }

    fn ask_about_unknown(&mut self, now: Now) {
        if self.holding.asking || now.elapsed < self.holding.not_before {
            return;
        }
        let openings: Vec<_> = {
            let ledger = self.delivery.ledger.lock();
            SlotId::all()
                .filter_map(|slot| Some((slot, ledger.slot(slot)?.opening())))
                .filter(|(slot, opening)| *opening != self.holding.known[slot.index()])
                .collect()
        };
        if !openings.is_empty() {
            self.ask_what_is_held(openings);
        }
    }

    fn ask_what_is_held(&mut self, openings: Vec<(SlotId, u64)>) {
        self.holding.asking = true;
        let target = self.delivery.dead_letters.clone();
        let holds = self.delivery.policy.on_aggregate == OnAggregate::Hold;
        let (ledger, undecided) = (self.delivery.ledger.clone(), self.holding.undecided.clone());
        self.tasks.spawn(async move {
            let asked = stream::iter(openings).map(|(slot, opening)| {
                let target = target.clone();
                let epoch = undecided.get(&slot).copied();
                let taken = epoch.map(|epoch| (epoch, ledger.clone()));
                async move {
                    Answer {
                        slot,
                        opening,
                        decided: epoch,
                        aggregates: ask(target.as_ref(), slot, taken, holds).await,
                    }
                }
            });
            Done::Held(asked.buffer_unordered(CONCURRENCY).collect().await)
        });
    }

    pub(super) fn told_what_is_held(&mut self, answers: Vec<Answer>, now: Now) {
        self.holding.asking = false;
        let (mut held, mut failure) = (0, None);
        for answer in answers {
            let slot = answer.slot;
            match answer.aggregates {
                // Lost since, and perhaps taken again: it is asked again.
                Ok(_) if self.opening(slot) != Some(answer.opening) => {}
                Ok(_)
                    if self
                        .holding
                        .undecided
                        .get(&slot)
                        .is_some_and(|epoch| answer.decided != Some(*epoch)) => {}
                Ok(aggregates) => {
                    held += aggregates.len();
                    self.holding.known[slot.index()] = answer.opening;
                    if let Some(epoch) = self.holding.undecided.remove(&slot) {
                        self.delivery.ledger.lock().unpin(slot, Pin::Undecided);
                        self.delivery.control.decided(slot, epoch);
                    }
                    let aggregates = aggregates.iter().map(|id| fingerprint_of(id));
                    self.lane.hold(slot, aggregates);
                }
                Err(error) => failure = Some(error),
            }
        }
        if held > 0 {
            info!(aggregates = held, "aggregates with dead letters are held");
        }
        if let Some(error) = failure {
            warn!(%error, "dead letters cannot be read; what is held is not known");
            self.holding.not_before = now.elapsed + ASK_AGAIN_AFTER;
            self.letters_health(Some(error.to_string()), now);
        } else if self.holding.failed {
            self.letters_health(None, now);
        }
    }

    fn opening(&self, slot: SlotId) -> Option<u64> {
        let ledger = self.delivery.ledger.lock();
        ledger.slot(slot).map(SlotLedger::opening)
    }

    /// The question ended without an answer.
    pub(super) fn asked_in_vain(&mut self, now: Now) {
        self.holding.asking = false;
        self.holding.not_before = now.elapsed + ASK_AGAIN_AFTER;
    }

    fn letters_health(&mut self, failure: Option<String>, now: Now) {
        self.holding.failed = failure.is_some();
        let (board, metrics) = (&self.delivery.board, &self.delivery.metrics.delivery);
        match failure {
            Some(reason) => {
                board.failed(Part::DeadLetters, reason, now.wall);
                metrics.component(Part::DeadLetters.name(), Health::Failed);
            }
            None => {
                board.healthy(Part::DeadLetters, now.wall);
                metrics.component(Part::DeadLetters.name(), Health::Healthy);
            }
        }
    }
}

/// Decides what is undecided, then asks whose letters are left.
async fn ask<D: DeadLetters>(
    target: &D,
    slot: SlotId,
    taken: Option<(Epoch, Arc<Mutex<Ledger>>)>,
    holds: bool,
) -> Result<Vec<String>, DeadLetterError> {
    if let Some((epoch, ledger)) = taken {
        let resolved = |position: &SourcePosition| {
            let known = ledger
                .lock()
                .known(slot, position.time.micros(), position.row_id());
            match known {
                Known::Foreign => None,
                Known::BelowBound | Known::Resolved => Some(true),
                Known::Taken | Known::New => Some(false),
            }
        };
        target.recover(slot, epoch, resolved).await?;
        let known = |begun, id| ledger.lock().known(slot, begun, id);
        target.recover_replays(slot, epoch, known).await?;
    }
    if holds {
        target.aggregates(slot, MAX_HELD + 1).await
    } else {
        Ok(Vec::new())
    }
}
