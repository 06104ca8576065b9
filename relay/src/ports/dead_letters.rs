//! Where events go that the broker will not take.

use std::future::Future;

use crate::encode::Message;
use crate::model::{Micros, SlotId, SourcePosition};
use crate::ports::{ErrorClass, Outcome};

/// Writes dead letters. Returns only once they are durable; writing one twice has the effect of writing it once.
pub trait DeadLetters: Send + Sync + 'static {
    fn write(&self, letter: &DeadLetter) -> impl Future<Output = Result<(), DeadLetterError>> + Send;
}

/// An event that was given up, with what a person needs to judge it and a replay to send it.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub slot: SlotId,
    pub position: SourcePosition,
    pub message: Message,
    pub aggregate_id: Option<String>,
    pub event_type: Option<String>,
    /// None for `held`: not sent because an earlier event of its aggregate is a dead letter.
    pub class: Option<ErrorClass>,
    pub error: String,
    pub outcome: Outcome,
    /// Failed attempts.
    pub failures: u32,
    pub first_failed_at: Micros,
    pub last_failed_at: Micros,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("dead letter not written to {target}: {detail}")]
pub struct DeadLetterError {
    pub target: String,
    pub detail: String,
}
