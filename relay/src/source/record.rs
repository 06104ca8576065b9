//! Log rows become records, records become changes.
//!
//! A record is every row of one stream and one `cdc$time`, up to `end_of_batch`. One INSERT may be several of its
//! rows (a TTL or a collection splits it, reference A5), so the rows that describe the same outbox row become one
//! [`Change`]. Its identity is the position of the first of them; the others have none of their own.
//!
//! A record is one mutation, so a read shows all of it or nothing: one without its end was cut by a page, expires
//! right now, or comes from a replica that is being repaired. It is left to a later read. One that still has no end
//! when its time has passed the horizon is taken as it is, and marked: what was written is never dropped in silence.

use std::sync::Arc;

use crds::Source;
use crds::source::{Cleanup, OnChange};
use scylla::value::CqlValue;

use crate::cdc_log::table::CdcOptions;
use crate::event::EventOperation;
use crate::model::{Micros, RowId, SourcePosition};
use crate::ports::{LogRow, Operation};

/// What counts as an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// `onChange: Forward`: updates and deletes are events too.
    pub forward_changes: bool,
    /// The relay itself deletes rows: no delete is an event, whatever is forwarded.
    pub own_deletes: bool,
    /// Mapped columns (bit i is column i) that an UPDATE has to set for it to count as an insert. 0: none does.
    pub required: u64,
    /// Which columns a change sets is told by the postimage (`delta: keys` leaves nothing but keys in the delta).
    pub from_postimage: bool,
}

impl Rules {
    /// As configured, for a log that was opened with so many `mapped` columns.
    pub fn of(source: &Source, cdc: &CdcOptions, mapped: usize) -> Self {
        Self {
            forward_changes: source.on_change == OnChange::Forward,
            own_deletes: source.cleanup == Cleanup::Delete,
            // Bit i is mapped column i; key columns are always there.
            required: (0..mapped.min(64)).fold(0_u64, |bits, i| bits | 1 << i),
            from_postimage: cdc.delta_keys && cdc.postimage,
        }
    }
}

/// What a record says about one outbox row.
#[derive(Debug, Clone)]
pub struct Change {
    pub position: SourcePosition,
    pub row_id: RowId,
    pub token: i64,
    pub verdict: Verdict,
    /// The record's end is missing, so a part of the change may be too.
    pub broken: bool,
    /// The outbox row's primary key.
    pub key: Arc<[u8]>,
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
}

impl Assembler {
    /// Adds a page's rows; appends what became complete to `changes`. Of records below `settled` nothing more becomes
    /// visible.
    pub fn add(&mut self, rows: Vec<LogRow>, settled: Micros, rules: &Rules, changes: &mut Vec<Change>) {
        for row in rows {
            if self.open.last().is_some_and(|last| !same_record(last, &row)) {
                self.break_off(settled, rules, changes);
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

    /// No more rows of the open record will come: a younger one is left to a later read, a settled one is taken.
    pub fn break_off(&mut self, settled: Micros, rules: &Rules, changes: &mut Vec<Change>) {
        let is_settled = |row: &LogRow| row.position.time.micros() < settled;
        if self.open.first().is_some_and(is_settled) {
            let whole = changes.len();
            assemble(self.open.drain(..), rules, changes);
            changes[whole..]
                .iter_mut()
                .for_each(|change| change.broken = true);
        }
        self.open.clear();
    }

    /// Forgets the open rows: the caller reads their record again in the same scan.
    pub fn rewind(&mut self) {
        self.open.clear();
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
            (Operation::PostImage, Some(merge)) => merge.image = row.values,
            (Operation::PreImage, _) | (Operation::PostImage, None) => {}
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
    /// The row afterwards; empty if the log does not have it.
    image: Vec<Option<CqlValue>>,
}

impl Merge {
    fn start(row: LogRow) -> Self {
        Self {
            position: row.position,
            token: row.token,
            key: row.key,
            operation: row.operation,
            values: row.values,
            image: Vec::new(),
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

    /// An event says the whole row, as far as the log has it, and not only the columns that were touched.
    fn finish(mut self, rules: &Rules) -> Change {
        if rules.from_postimage {
            fill(&mut self.values, std::mem::take(&mut self.image));
        }
        let verdict = verdict(self.operation, &self.values, rules);
        fill(&mut self.values, self.image);
        Change {
            position: self.position,
            row_id: self.position.row_id(),
            token: self.token,
            verdict,
            broken: false,
            key: self.key,
            values: self.values,
        }
    }
}

/// What the change itself says goes first.
fn fill(values: &mut [Option<CqlValue>], image: Vec<Option<CqlValue>>) {
    for (mine, theirs) in values.iter_mut().zip(image) {
        if mine.is_none() {
            *mine = theirs;
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
        Operation::RowDelete | Operation::PartitionDelete if rules.forward_changes && !rules.own_deletes => {
            Verdict::Event(EventOperation::Delete)
        }
        // An expiration is the end of a row's life, not something that happened; a range names no row.
        other => Verdict::Ignored(other),
    }
}

#[cfg(test)]
mod tests;
