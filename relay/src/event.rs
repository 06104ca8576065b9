//! An event on its way from the log to the broker.

use scylla::value::CqlValue;

use crate::model::{Micros, RowId, SlotId, SourcePosition};

/// A log row that is an event: assembled, new to the ledger and taken. What hands it on owes the ledger a `resolve`
/// or a `release`.
#[derive(Debug, Clone)]
pub struct SourceEvent {
    pub position: SourcePosition,
    /// `position.row_id()`, computed once.
    pub row_id: RowId,
    pub slot: SlotId,
    /// Which ownership of its slot it was taken under ([`Ledger::ownership`](crate::ledger::Ledger::ownership)).
    pub ownership: u64,
    /// Token of the outbox row's partition key: the unit of order on the source's side.
    pub token: i64,
    /// In the order of the mapped columns.
    pub values: Vec<Option<CqlValue>>,
    pub operation: EventOperation,
    /// A later event of its aggregate was handed over before.
    pub late: bool,
    /// Found in the outbox table: its log row never came, or came too late.
    pub reconciled: bool,
}

impl SourceEvent {
    /// The write timestamp.
    pub fn time(&self) -> Micros {
        self.position.time.micros()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOperation {
    Insert,
    /// Only with `onChange: Forward`.
    Update,
    /// Only with `onChange: Forward`; becomes a tombstone.
    Delete,
}
