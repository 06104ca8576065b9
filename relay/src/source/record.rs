//! Log rows become records, records become changes.
//!
//! A record is every row of one stream and one `cdc$time`, up to `end_of_batch`. One INSERT may be several of its
//! rows (a TTL or a collection splits it, reference A5), so the rows that describe the same outbox row become one
//! [`Change`]. Its identity is the position of the first of them; the others have none of their own.
//!
//! A record without its end is never handed on: a page may have cut it, and [`Assembler::incomplete`] tells from
//! where to read again.

use std::sync::Arc;

use scylla::value::CqlValue;

use crate::event::EventOperation;
use crate::model::{Micros, RowId, SourcePosition};
use crate::ports::{LogRow, Operation};

/// What counts as an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// `onChange: Forward`: updates and deletes are events too.
    pub forward_changes: bool,
    /// Mapped columns (bit i is column i) that an UPDATE has to set for it to count as an insert. 0: none does.
    pub required: u64,
    /// The mapped columns come from the postimage (`delta: keys` leaves nothing but keys in the delta).
    pub from_postimage: bool,
}

/// What a record says about one outbox row.
#[derive(Debug, Clone)]
pub struct Change {
    pub position: SourcePosition,
    pub row_id: RowId,
    pub token: i64,
    pub verdict: Verdict,
    /// In the order of the mapped columns; empty in an identity query.
    pub values: Vec<Option<CqlValue>>,
}

impl Change {
    pub fn time(&self) -> Micros {
        self.position.time.micros()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Event(EventOperation),
    /// Not an event by rule; counted under the operation.
    Ignored(Operation),
}

/// Puts the rows of one query's pages, in order, together.
#[derive(Debug, Default)]
pub struct Assembler {
    /// The rows of a record whose end has not come yet.
    open: Vec<LogRow>,
    /// Time of the oldest record whose end never came although another record followed.
    broken: Option<Micros>,
}

impl Assembler {
    /// Adds a page's rows; appends what became complete to `changes`.
    pub fn add(&mut self, rows: Vec<LogRow>, rules: &Rules, changes: &mut Vec<Change>) {
        for row in rows {
            if self.open.last().is_some_and(|last| !same_record(last, &row)) {
                self.break_off();
            }
            let end = row.end_of_batch;
            if end && self.open.is_empty() {
                changes.extend(single(row, rules));
                continue;
            }
            self.open.push(row);
            if end {
                assemble(self.open.drain(..), rules, changes);
            }
        }
    }

    /// Forgets the rows whose end has not come; they have to be read again.
    pub fn break_off(&mut self) {
        if let Some(row) = self.open.first() {
            let time = row.position.time.micros();
            self.broken = Some(self.broken.map_or(time, |broken| broken.min(time)));
            self.open.clear();
        }
    }

    /// Forgets the open rows without a trace: the caller reads their record again in the same scan.
    pub fn rewind(&mut self) {
        self.open.clear();
    }

    /// Time of the oldest incomplete record so far. Nothing from there on counts as read.
    pub fn incomplete(&self) -> Option<Micros> {
        let open = self.open.first().map(|row| row.position.time.micros());
        open.into_iter().chain(self.broken).min()
    }
}

fn same_record(a: &LogRow, b: &LogRow) -> bool {
    a.position.stream == b.position.stream && a.position.time == b.position.time
}

fn is_image(operation: Operation) -> bool {
    matches!(operation, Operation::PreImage | Operation::PostImage)
}

/// A record of one row, which most are.
fn single(row: LogRow, rules: &Rules) -> Option<Change> {
    (!is_image(row.operation)).then(|| Merge::start(row).finish(rules))
}

fn assemble(rows: impl Iterator<Item = LogRow>, rules: &Rules, changes: &mut Vec<Change>) {
    let mut merges: Vec<Merge> = Vec::new();
    for row in rows {
        let known = merges.iter_mut().find(|merge| merge.key == row.key);
        match (row.operation, known) {
            (Operation::PostImage, Some(merge)) if rules.from_postimage => merge.values = row.values,
            (Operation::PreImage | Operation::PostImage, _) => {}
            (_, Some(merge)) if merge.takes(row.operation) => merge.add(row),
            _ => merges.push(Merge::start(row)),
        }
    }
    changes.extend(merges.into_iter().map(|merge| merge.finish(rules)));
}

/// The delta rows of one outbox row within a record.
struct Merge {
    position: SourcePosition,
    token: i64,
    key: Arc<[u8]>,
    operation: Operation,
    values: Vec<Option<CqlValue>>,
}

impl Merge {
    fn start(row: LogRow) -> Self {
        Self {
            position: row.position,
            token: row.token,
            key: row.key,
            operation: row.operation,
            values: row.values,
        }
    }

    /// Inserts and updates of a row are one write that the log has split; anything else stands for itself.
    fn takes(&self, operation: Operation) -> bool {
        let write = |operation| matches!(operation, Operation::Insert | Operation::Update);
        write(self.operation) && write(operation)
    }

    fn add(&mut self, row: LogRow) {
        if row.operation == Operation::Insert {
            self.operation = Operation::Insert;
        }
        for (mine, theirs) in self.values.iter_mut().zip(row.values) {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
    }

    fn finish(self, rules: &Rules) -> Change {
        Change {
            position: self.position,
            row_id: self.position.row_id(),
            token: self.token,
            verdict: verdict(self.operation, &self.values, rules),
            values: self.values,
        }
    }
}

fn verdict(operation: Operation, values: &[Option<CqlValue>], rules: &Rules) -> Verdict {
    let sets_all = || {
        let set = |i: usize| values.get(i).is_some_and(Option::is_some);
        rules.required != 0 && (0..u64::BITS as usize).all(|i| rules.required & (1 << i) == 0 || set(i))
    };
    match operation {
        Operation::Insert => Verdict::Event(EventOperation::Insert),
        Operation::Update if sets_all() => Verdict::Event(EventOperation::Insert),
        Operation::Update if rules.forward_changes => Verdict::Event(EventOperation::Update),
        Operation::RowDelete | Operation::PartitionDelete if rules.forward_changes => {
            Verdict::Event(EventOperation::Delete)
        }
        // An expiration is the end of a row's life, not something that happened; a range names no row.
        other => Verdict::Ignored(other),
    }
}

#[cfg(test)]
mod tests;
