//! What the pipeline needs from the world: time, the CDC log, the broker, the dead letters. Production implements
//! each with a real client, a simulation with a model; the pipeline in between is the same code.
//!
//! Sleeping goes through `tokio::time`, which a simulation pauses; reading the time goes through [`Clock`].

mod broker;
mod dead_letters;
mod log;
mod outbox;
mod state;
mod transactions;

use std::time::Duration;

pub use broker::{
    Broker, Delivered, DeliveryError, ErrorClass, Outcome, Producer, Refused, Report, Role, Signal, Signals,
    TopicInfo,
};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, Lettered, Reason, ReplayRequest, Standing};
pub use log::{
    Capture, ChangeLog, Columns, LogError, LogPage, LogQuery, LogRow, Operation, PageState, Stream, StreamSet,
};
pub use outbox::{Outbox, OutboxPage, OutboxRow};
pub use state::{
    Checkpoint, Conditional, Epoch, Loaded, Placement, ProcessRow, Save, SegmentKey, SlotRow, StateError,
    StateStore,
};
pub use transactions::{
    Journal, JournalError, NoTransactions, TransactionError, Transactional, TransactionalBroker,
    TransactionalProducer, Transactions, Verdict,
};

use crate::model::Micros;

/// Two clocks, never mixed: wall time is compared with write timestamps, elapsed time with time-outs and leases.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock, microseconds since the Unix epoch. May jump.
    fn now(&self) -> Micros;

    /// Time since some fixed instant. Never goes back.
    fn elapsed(&self) -> Duration;
}
