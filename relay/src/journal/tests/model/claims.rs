//! Taking a slot.

use super::{Claim, Flaw, Held, LANES, Step, Violation, World, slot_id};
use crate::journal::Replayed;
use crate::ports::Epoch;

impl World {
    pub(super) fn claim(&mut self, at: usize, slot: usize) {
        let (row, process) = (&mut self.rows[slot], &mut self.processes[at]);
        if process.held.contains_key(&slot) || process.claims.contains_key(&slot) {
            return;
        }
        let lane = &process.lanes[slot % LANES];
        // What the lane has of it from before ends first.
        if !lane.writer.is_free(slot_id(slot)) && self.flaw != Flaw::OwnTransactionLeftOpen {
            return;
        }
        let mut claim = Claim {
            epoch: row.epoch,
            step: Step::Raise,
            named: row.id.clone(),
            early: None,
        };
        match self.flaw {
            Flaw::FenceBeforeClaim => {
                if let Some(id) = row.id.as_ref().filter(|id| **id != lane.id) {
                    self.kafka.initialise(id);
                }
            }
            Flaw::IdReadBeforeClaim => {}
            flaw => {
                row.epoch += 1;
                claim.epoch = row.epoch;
                claim.step = Step::Look;
                if flaw == Flaw::IdReplacedBeforeFence {
                    row.id = Some(lane.id.clone());
                    claim.step = Step::Fence;
                }
            }
        }
        process.claims.insert(slot, claim);
    }

    pub(super) fn advance(&mut self, at: usize, slot: usize) -> Result<(), Violation> {
        let Some(mut claim) = self.processes[at].claims.remove(&slot) else {
            return Ok(());
        };
        let row = &mut self.rows[slot];
        let lane = &mut self.processes[at].lanes[slot % LANES];
        match claim.step {
            Step::Raise if row.epoch != claim.epoch => return Ok(()),
            Step::Raise => {
                row.epoch += 1;
                claim.epoch = row.epoch;
                claim.step = if self.flaw == Flaw::FenceBeforeClaim {
                    Step::Record
                } else {
                    Step::Fence
                };
            }
            Step::Look => {
                claim.named = row.id.clone();
                claim.step = Step::Fence;
            }
            Step::Fence => {
                if self.flaw == Flaw::JournalBeforeFence && claim.early.is_none() {
                    claim.early = Some(self.replay(slot, claim.epoch, self.rows[slot].saved.mark)?);
                    self.processes[at].claims.insert(slot, claim);
                    return Ok(());
                }
                match &claim.named {
                    // The lane's transaction has ended before the slot was claimed.
                    Some(id) if *id == lane.id => self.outcome.own_ids += 1,
                    Some(id) if self.flaw != Flaw::NoFence => {
                        self.kafka.initialise(id);
                    }
                    _ => {}
                }
                claim.step = Step::Record;
            }
            Step::Record if row.epoch != claim.epoch => return Ok(()),
            Step::Record => {
                row.id = Some(lane.id.clone());
                claim.step = Step::Open;
            }
            Step::Open => return self.open(at, slot, claim),
        }
        self.processes[at].claims.insert(slot, claim);
        Ok(())
    }

    fn open(&mut self, at: usize, slot: usize, claim: Claim) -> Result<(), Violation> {
        let saved = self.rows[slot].saved.clone();
        let replayed = match claim.early {
            Some(early) => early,
            None => self.replay(slot, claim.epoch, saved.mark)?,
        };
        let Replayed::Ours { mark, resolved } = replayed else {
            self.outcome.superseded += 1;
            return Ok(());
        };
        self.outcome.replayed += resolved.len() as u64;
        let replayed = resolved.into_iter().map(|(_, id)| id.0);
        let process = &mut self.processes[at];
        let writer = &mut process.lanes[slot % LANES].writer;
        writer.open(slot_id(slot), Epoch(claim.epoch), saved.mark, mark);
        let held = Held {
            epoch: claim.epoch,
            mark,
            resolved: saved.resolved.into_iter().chain(replayed).collect(),
        };
        process.held.insert(slot, held);
        Ok(())
    }
}
