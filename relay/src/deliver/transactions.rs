//! Transactions and journal of one identity behind one object, for the keeper, which settles what former owners left, and
//! the lanes, which write.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::journal::{Head, Incarnation, Mark, Opening, Refusal, Replay, Replayed, opening};
use crate::model::SlotId;
use crate::ports::{
    Epoch, Journal, JournalError, Signals, StateError, StateStore, TransactionError, Transactional,
    TransactionalBroker, Transactions,
};

/// Looks at a journal that two processes begin at once: each finds the other's head, or its own, the second time.
const OPENINGS: usize = 5;

/// One identity's.
pub struct Transacting<T, J> {
    broker: T,
    journal: Arc<J>,
    identity: Arc<str>,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("journal refused: {0}")]
    Refused(#[from] Refusal),
    #[error("others begin the journal at the same time, again and again")]
    Contended,
}

impl<T, J: Journal> Transacting<T, J> {
    pub fn new(broker: T, journal: J, identity: &str) -> Self {
        Self {
            broker,
            journal: Arc::new(journal),
            identity: identity.into(),
        }
    }

    /// Makes sure that the journal is the one that the state keyspace names, and begins it if there was none.
    ///
    /// # Errors
    /// It is another one, was emptied, or cannot be looked at.
    pub async fn incarnation(&self, state: &impl StateStore) -> Result<Incarnation, OpenError> {
        for _ in 0..OPENINGS {
            let recorded = state.incarnation().await?;
            let survey = self.journal.survey().await?;
            match opening(&self.identity, recorded, &survey)? {
                Opening::Open(incarnation) => return Ok(incarnation),
                Opening::Adopt(incarnation) => {
                    state.record_incarnation(incarnation).await?;
                }
                Opening::Begin => {
                    let head = Head {
                        identity: self.identity.to_string(),
                        incarnation: Incarnation(uuid::Uuid::new_v4()),
                    };
                    self.journal.write_head(&head).await?;
                }
            }
        }
        Err(OpenError::Contended)
    }
}

impl<T: TransactionalBroker + Clone, J: Journal> Transactions for Transacting<T, J> {
    fn open(
        &self,
        id: &str,
        signals: Signals,
    ) -> BoxFuture<'static, Result<Box<dyn Transactional>, TransactionError>> {
        let (broker, id) = (self.broker.clone(), id.to_owned());
        async move {
            let opened = broker.transactional(&id, signals).await;
            opened.map(|producer| Box::new(producer) as Box<dyn Transactional>)
        }
        .boxed()
    }

    fn fence(&self, id: String) -> BoxFuture<'static, Result<(), TransactionError>> {
        let broker = self.broker.clone();
        async move { broker.fence(&id).await }.boxed()
    }

    fn replay(
        &self,
        incarnation: Incarnation,
        slots: Vec<(SlotId, Epoch, Mark)>,
    ) -> BoxFuture<'static, Result<BTreeMap<SlotId, Replayed>, JournalError>> {
        let journal = Arc::clone(&self.journal);
        let replay = Replay::new(&self.identity, incarnation, slots);
        async move { journal.replay(replay).await }.boxed()
    }
}
