//! What lanes and keepers do with the slots that they hold.

use rand::Rng;

use super::{EVENTS, Flaw, LANES, LaneState, Saved, Transaction, Violation, World, slot_id};
use crate::journal::Replayed;
use crate::model::RowId;
use crate::ports::Epoch;

impl World {
    pub(super) fn send(&mut self, at: usize, slot: usize) {
        let process = &mut self.processes[at];
        let lane = &mut process.lanes[slot % LANES];
        let (LaneState::Ready(_), Some(held)) = (lane.state, process.held.get(&slot)) else {
            return;
        };
        let waits =
            |event: &u64| !held.resolved.contains(event) && !lane.open.contains(&(slot, held.epoch, *event));
        if let Some(event) = (0..EVENTS).find(waits)
            && lane.writer.admits(slot_id(slot))
        {
            lane.open.push((slot, held.epoch, event));
            lane.writer.sent(slot_id(slot));
        }
    }

    pub(super) fn commit(&mut self, at: usize, lane: usize) -> Result<(), Violation> {
        let process = &mut self.processes[at];
        let lane = &mut process.lanes[lane];
        let LaneState::Ready(producer) = lane.state else {
            return Ok(());
        };
        if lane.open.is_empty() {
            return Ok(());
        }
        let open = std::mem::take(&mut lane.open);
        let ids = open
            .iter()
            .map(|(slot, _, event)| (slot_id(*slot), 0, RowId(*event)));
        let transaction = Transaction {
            events: open.iter().map(|(slot, _, event)| (*slot, *event)).collect(),
            records: lane.writer.seal(ids).map_err(|error| error.to_string())?,
        };
        if self.random.random_bool(0.2) {
            self.outcome.lost_answers += 1;
            lane.state = LaneState::Ended;
            self.kafka
                .under_way
                .push((lane.id.clone(), producer, transaction));
            return Ok(());
        }
        if !self.kafka.commit(&lane.id, producer, &transaction)? {
            self.outcome.fenced_commits += 1;
            lane.state = LaneState::Ended;
            return Ok(());
        }
        self.outcome.commits += 1;
        for (slot, mark) in lane.writer.committed(self.kafka.journal.len() as i64) {
            if let Some(held) = process.held.get_mut(&slot.index()) {
                held.mark = mark;
            }
        }
        for (slot, epoch, event) in open {
            if let Some(held) = process.held.get_mut(&slot).filter(|held| held.epoch == epoch) {
                held.resolved.insert(event);
            }
        }
        Ok(())
    }

    pub(super) fn abort(&mut self, at: usize, lane: usize) {
        let lane = &mut self.processes[at].lanes[lane];
        if matches!(lane.state, LaneState::Ready(_)) {
            lane.open.clear();
            lane.writer.aborted();
        }
    }

    /// A process whose producer has ended begins anew, with other ids, and takes its slots again like anybody else.
    pub(super) fn restart(&mut self, at: usize, index: usize) -> Result<(), Violation> {
        if self.processes[at].lanes[index].state != LaneState::Ended {
            return Ok(());
        }
        self.outcome.restarted += 1;
        match self.flaw {
            Flaw::OpensItsIdAgain => self.open_again(at, index, true),
            Flaw::NoAnswerMeansAborted => self.open_again(at, index, false),
            _ => {
                self.processes[at] = self.process();
                Ok(())
            }
        }
    }

    /// The same id, initialised anew; what it holds is looked up in the journal or taken as it was.
    fn open_again(&mut self, at: usize, index: usize, looks_up: bool) -> Result<(), Violation> {
        let lane = &mut self.processes[at].lanes[index];
        lane.state = LaneState::Ready(self.kafka.initialise(&lane.id));
        lane.writer.aborted();
        let held = self.processes[at]
            .held
            .iter()
            .filter(|(slot, _)| **slot % LANES == index);
        let held: Vec<_> = held.map(|(slot, held)| (*slot, held.epoch, held.mark)).collect();
        for (slot, epoch, mark) in held.into_iter().filter(|_| looks_up) {
            let replayed = self.replay(slot, epoch, mark)?;
            let process = &mut self.processes[at];
            let writer = &mut process.lanes[index].writer;
            match (replayed, process.held.get_mut(&slot)) {
                (Replayed::Ours { mark, resolved }, Some(held)) => {
                    writer.open(slot_id(slot), Epoch(epoch), held.mark, mark);
                    held.mark = mark;
                    held.resolved.extend(resolved.into_iter().map(|(_, id)| id.0));
                }
                _ => {
                    process.held.remove(&slot);
                    writer.close(slot_id(slot));
                }
            }
        }
        Ok(())
    }

    pub(super) fn save(&mut self, at: usize, slot: usize) {
        let process = &mut self.processes[at];
        let Some(held) = process.held.get_mut(&slot) else {
            return;
        };
        let row = &mut self.rows[slot];
        let writer = &mut process.lanes[slot % LANES].writer;
        if row.epoch != held.epoch {
            process.held.remove(&slot);
            writer.close(slot_id(slot));
            return;
        }
        row.saved = Saved {
            mark: held.mark,
            resolved: held.resolved.clone(),
        };
        writer.saved(slot_id(slot), held.mark);
    }

    pub(super) fn release(&mut self, at: usize, slot: usize) {
        self.save(at, slot);
        let process = &mut self.processes[at];
        if process.held.remove(&slot).is_none() {
            return;
        }
        let writer = &mut process.lanes[slot % LANES].writer;
        let free = writer.is_free(slot_id(slot));
        writer.close(slot_id(slot));
        if !free {
            self.outcome.dirty_releases += 1;
        }
        if free || self.flaw == Flaw::ReleaseForgetsId {
            self.rows[slot].id = None;
        }
    }
}
