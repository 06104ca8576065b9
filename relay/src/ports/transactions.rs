//! Kafka transactions, and the journal that is part of them.

use std::collections::BTreeMap;
use std::future::Future;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{DeliveryError, Epoch, ErrorClass, Outcome, Producer, Refused, Signals};
use crate::encode::Message;
use crate::journal::{Head, Incarnation, Mark, Refusal, Replay, Replayed, Survey};
use crate::model::SlotId;

/// Opens transactional producers.
pub trait TransactionalBroker: Send + Sync + 'static {
    type Producer: TransactionalProducer;

    /// Opens a producer with this transactional id and makes it the only one: what another one has open under the id is
    /// aborted, what it had begun to commit is finished, and it can neither write nor commit any more.
    ///
    /// It does so whoever had done the same before. So whoever opens its own id again has to find out afterwards which
    /// of its slots are still its own, before it sends anything.
    fn transactional(
        &self,
        id: &str,
        signals: Signals,
    ) -> impl Future<Output = Result<Self::Producer, TransactionError>> + Send;

    /// Ends whatever producer has this id, as [`Self::transactional`] does, and keeps none.
    fn fence(&self, id: &str) -> impl Future<Output = Result<(), TransactionError>> + Send;
}

/// A producer that is always inside a transaction: an empty one costs nothing and blocks nobody. What is sent is
/// written, and invisible to `read_committed` consumers until it is committed. It is not gapless: one failed message,
/// and the transaction can only be aborted. The broker never saw the sequence numbers of what it refused, so the next
/// transaction may fail as well, as a whole and with [`super::ErrorClass::Collateral`] only: that is nobody's attempt.
///
/// One call of `commit` or `abort` at a time, and nothing is sent until it is answered.
pub trait TransactionalProducer: Producer {
    /// Makes everything sent since the last end appear, and begins the next transaction. Ask once every message has its
    /// report.
    fn commit(&self) -> impl Future<Output = Result<(), TransactionError>> + Send + use<Self>;

    /// Takes everything sent since the last end back, and begins the next transaction. What is still with the producer
    /// gets its report first.
    fn abort(&self) -> impl Future<Output = Result<(), TransactionError>> + Send + use<Self>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct TransactionError {
    pub verdict: Verdict,
    pub error: DeliveryError,
}

/// What can be done after a transaction's step has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// No answer yet: the same call again. A commit may have happened, and may still happen.
    Again,
    /// Nothing of the transaction was committed, and nothing of it can be: abort it.
    Abort,
    /// The producer has ended: fenced, timed out, or broken. Whether a commit under way happened tells only the
    /// journal, after the id was initialised anew.
    Ended,
}

/// Transactions and journal of one identity, as those who take slots and those who deliver need them.
pub trait Transactions: Send + Sync + 'static {
    /// See [`TransactionalBroker::transactional`].
    fn open(
        &self,
        id: &str,
        signals: Signals,
    ) -> BoxFuture<'static, Result<Box<dyn Transactional>, TransactionError>>;

    /// See [`TransactionalBroker::fence`].
    fn fence(&self, id: String) -> BoxFuture<'static, Result<(), TransactionError>>;

    /// What the journal of this incarnation holds of slots that were taken under these epochs, beyond these marks. See
    /// [`Journal::replay`].
    fn replay(
        &self,
        incarnation: Incarnation,
        slots: Vec<(SlotId, Epoch, Mark)>,
    ) -> BoxFuture<'static, Result<BTreeMap<SlotId, Replayed>, JournalError>>;
}

/// A [`TransactionalProducer`], whatever its type.
pub trait Transactional: Send + Sync + 'static {
    fn send(&self, token: u64, message: &Message) -> Result<(), Refused>;
    fn purge(&self);
    fn fatal(&self) -> Option<DeliveryError>;
    fn commit(&self) -> BoxFuture<'static, Result<(), TransactionError>>;
    fn abort(&self) -> BoxFuture<'static, Result<(), TransactionError>>;
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl<P: TransactionalProducer> Transactional for P {
    fn send(&self, token: u64, message: &Message) -> Result<(), Refused> {
        Producer::send(self, token, message)
    }

    fn purge(&self) {
        Producer::purge(self);
    }

    fn fatal(&self) -> Option<DeliveryError> {
        Producer::fatal(self)
    }

    fn commit(&self) -> BoxFuture<'static, Result<(), TransactionError>> {
        TransactionalProducer::commit(self).boxed()
    }

    fn abort(&self) -> BoxFuture<'static, Result<(), TransactionError>> {
        TransactionalProducer::abort(self).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Producer::close(*self).boxed()
    }
}

/// No transactions: slots whose former owners used them cannot be taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTransactions;

impl NoTransactions {
    const WHAT: &str = "there are no transactions here";

    fn error() -> TransactionError {
        TransactionError {
            verdict: Verdict::Ended,
            error: DeliveryError {
                class: ErrorClass::Configuration,
                code: "NoTransactions".to_owned(),
                detail: Self::WHAT.to_owned(),
                outcome: Outcome::NotWritten,
            },
        }
    }
}

impl Transactions for NoTransactions {
    fn open(
        &self,
        _: &str,
        _: Signals,
    ) -> BoxFuture<'static, Result<Box<dyn Transactional>, TransactionError>> {
        std::future::ready(Err(Self::error())).boxed()
    }

    fn fence(&self, _: String) -> BoxFuture<'static, Result<(), TransactionError>> {
        std::future::ready(Err(Self::error())).boxed()
    }

    fn replay(
        &self,
        _: Incarnation,
        _: Vec<(SlotId, Epoch, Mark)>,
    ) -> BoxFuture<'static, Result<BTreeMap<SlotId, Replayed>, JournalError>> {
        let error = JournalError::Configuration {
            topic: "none".to_owned(),
            detail: Self::WHAT.to_owned(),
        };
        std::future::ready(Err(error)).boxed()
    }
}

/// The topic that tells, beyond the checkpoints, what transactions have resolved.
pub trait Journal: Send + Sync + 'static {
    /// Looks at its beginning.
    fn survey(&self) -> impl Future<Output = Result<Survey, JournalError>> + Send;

    /// Writes a head to its end. The first one that a topic holds counts, so survey it again.
    fn write_head(&self, head: &Head) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Reads all that is committed, from the marks of `replay` to the end that the journal has now. Call it after the
    /// former owners' ids were fenced.
    fn replay(
        &self,
        replay: Replay,
    ) -> impl Future<Output = Result<BTreeMap<SlotId, Replayed>, JournalError>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Worth retrying.
    #[error("journal {topic} unavailable while trying to {action}: {detail}")]
    Unavailable {
        topic: String,
        action: &'static str,
        detail: String,
    },
    /// Missing, not authorised, or with settings that would lose records: somebody has to act.
    #[error("journal {topic} cannot be used: {detail}")]
    Configuration { topic: String, detail: String },
    #[error("journal {topic} refused: {refusal}")]
    Refused { topic: String, refusal: Refusal },
}

impl JournalError {
    /// Stable name for metric labels, condition reasons and log fields.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "JournalUnavailable",
            Self::Configuration { .. } => "JournalConfiguration",
            Self::Refused { .. } => "JournalRefused",
        }
    }
}
