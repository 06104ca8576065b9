//! Exactly-once: what is committed, and what the journal and the dead letters say of it.

use relay::journal::Record;
use relay::model::RowId;

use super::Oracle;
use crate::world::Micros;

impl Oracle {
    /// A transaction is decided: from here on consumers will see its events, whatever else happens. Its journal records say
    /// exactly that.
    pub(crate) fn committed(&mut self, sends: &[usize], records: &[Record], now: Micros) {
        let sent: Vec<usize> = sends.iter().map(|send| self.sends[*send].row).collect();
        let ids = records
            .iter()
            .flat_map(|record| record.resolved.iter().flat_map(|(_, ids)| ids));
        let mut said = Vec::new();
        for id in ids {
            match self.by_id.get(id) {
                Some(row) => said.push(*row),
                None => self.fail("journal-honest", format!("{id:?} is no row")),
            }
        }
        for row in &sent {
            if !said.contains(row) {
                let detail = format!("{} is committed, and no record says so", self.name(*row));
                self.fail("journal-honest", detail);
            }
            self.is_new(*row);
            self.rows[*row].1.committed = true;
            self.resolve(*row);
        }
        for row in said.into_iter().filter(|row| !sent.contains(row)) {
            let Some(by) = self.rows[row].1.pending.take() else {
                let detail = format!("{} is neither sent nor a dead letter", self.name(row));
                self.fail("journal-honest", detail);
                continue;
            };
            self.is_new(row);
            self.rows[row].1.letter = true;
            let aggregate = self.rows[row].0.aggregate;
            self.aggregates.entry(aggregate).or_default().letter(by, now);
            self.resolve(row);
        }
    }

    /// Nobody commits an event a second time, unless a stream set was published so late that the slot's bound went back over
    /// it.
    fn is_new(&mut self, row: usize) {
        let fate = &self.rows[row].1;
        if self.is_forgotten(row) {
            return;
        }
        if fate.committed || fate.letter {
            let what = if fate.letter {
                "is a dead letter"
            } else {
                "was committed before"
            };
            let detail = format!("{} is committed, and {what}", self.name(row));
            self.fail("exactly-once", detail);
        }
    }

    /// A process learns from the journal, beyond the checkpoint that it has read, what is done with.
    pub(crate) fn replayed(&mut self, life: usize, slot: usize, resolved: &[(i64, RowId)], now: Micros) {
        for (_, id) in resolved {
            let Some(row) = self.by_id.get(id).copied() else {
                self.fail("journal-honest", format!("slot {slot}: {id:?} is no row"));
                continue;
            };
            if !self.is_resolved(row) {
                let detail = format!("slot {slot}: {} counts as resolved", self.name(row));
                self.fail("journal-honest", detail);
            }
            let epoch = self.lives[life].held.get(&slot).map(|held| held.epoch);
            let known = epoch.and_then(|epoch| self.lives[life].known.get_mut(&(slot, epoch)));
            if let Some(known) = known {
                known.at = now;
                known.rows.insert(row);
            }
        }
    }

    /// When all is over, nobody has decided on a dead letter: people do not see it, although it is all that is left of its
    /// event. One that was written too late to be part of a commit is nothing to see.
    pub(crate) fn left_undecided(&mut self, slot: usize, position: &str) {
        let stopped = self.rules.gap_stops && self.gaps.contains(&slot);
        let row = self.by_position.get(position).copied();
        if let Some(row) = row.filter(|row| !stopped && self.rows[*row].1.letter) {
            let detail = format!("the dead letter of {} is left undecided", self.name(row));
            self.fail("letter-with-its-commit", detail);
        }
    }

    /// A dead letter is there for people to act on, or is gone.
    pub(crate) fn letter_decided(&mut self, position: &str, waits: bool) {
        let Some(row) = self.by_position.get(position).copied() else {
            return;
        };
        let valid = self.rows[row].1.letter;
        if waits && !valid {
            let detail = format!("{} waits, and no commit has resolved it", self.name(row));
            self.fail("letter-with-its-commit", detail);
        }
        if !waits && valid {
            let detail = format!("the dead letter of {} is gone", self.name(row));
            self.fail("nothing-lost", detail);
        }
        if !waits {
            self.rows[row].1.pending = None;
        }
    }
}
