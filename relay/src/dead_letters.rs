//! Where dead letters go: a table, a topic, or both.

use crate::ledger::Known;
use crate::model::{Micros, RowId, SlotId, SourcePosition};
use crate::ports::{DeadLetter, DeadLetterError, DeadLetters, Epoch, Lettered, ReplayRequest, Standing};

pub mod message;
pub mod replay;
pub mod stored;
pub mod table;
pub mod topic;

use stored::Stored;
use table::TableDeadLetters;
use topic::TopicDeadLetters;

/// The configured targets; with both, a letter is durable when both have it.
pub struct Targets {
    pub table: Option<TableDeadLetters>,
    pub topic: Option<TopicDeadLetters>,
}

impl DeadLetters for Targets {
    async fn write(&self, letters: &[DeadLetter]) -> Result<(), DeadLetterError> {
        if let Some(table) = &self.table {
            table.write(letters).await?;
        }
        match &self.topic {
            // Those that are pending go into the transaction that resolves their events.
            Some(topic) if !letters.iter().any(|letter| letter.pending.is_some()) => {
                topic.write(letters, self.table.is_some()).await
            }
            _ => Ok(()),
        }
    }

    async fn settle(&self, letters: &[Lettered]) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.settle(letters).await,
            None => Ok(()),
        }
    }

    async fn recover(
        &self,
        slot: SlotId,
        epoch: Epoch,
        resolved: impl Fn(&SourcePosition) -> Option<bool> + Send + Sync,
    ) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.recover(slot, epoch, resolved).await,
            None => Ok(()),
        }
    }

    async fn recover_replays(
        &self,
        slot: SlotId,
        epoch: Epoch,
        known: impl Fn(Micros, RowId) -> Known + Send + Sync,
    ) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.recover_replays(slot, epoch, known).await,
            None => Ok(()),
        }
    }

    async fn sending(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        begun: Micros,
        epoch: Epoch,
    ) -> Result<bool, DeadLetterError> {
        match &self.table {
            Some(table) => table.sending(slot, position, begun, epoch).await,
            None => Ok(false),
        }
    }

    async fn aggregates(&self, slot: SlotId, limit: usize) -> Result<Vec<String>, DeadLetterError> {
        match &self.table {
            Some(table) => table.aggregates(slot, limit).await,
            None => Ok(Vec::new()),
        }
    }
    fn replays(&self) -> bool {
        self.table.is_some()
    }

    async fn requests(&self) -> Result<Vec<ReplayRequest>, DeadLetterError> {
        match &self.table {
            Some(table) => table.requests().await,
            None => Ok(Vec::new()),
        }
    }

    async fn request(&self, slot: SlotId) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.ask_to_look([slot]).await,
            None => Ok(()),
        }
    }

    async fn carried_out(&self, request: &ReplayRequest) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.carried_out(request).await,
            None => Ok(()),
        }
    }

    async fn asked(&self, slot: SlotId, limit: usize) -> Result<Vec<SourcePosition>, DeadLetterError> {
        match &self.table {
            Some(table) => table.asked(slot, limit).await,
            None => Ok(Vec::new()),
        }
    }

    async fn standing(
        &self,
        slot: SlotId,
        see: impl FnMut(Standing<'_>) + Send,
    ) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.standing(slot, see).await,
            None => Ok(()),
        }
    }

    async fn letter(
        &self,
        slot: SlotId,
        position: &SourcePosition,
    ) -> Result<Option<Stored>, DeadLetterError> {
        match &self.table {
            Some(table) => table.letter(slot, position).await,
            None => Ok(None),
        }
    }

    async fn mark(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        status: &'static str,
        owner: Option<Epoch>,
    ) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.mark(slot, position, status, owner).await,
            None => Ok(()),
        }
    }

    async fn remove(
        &self,
        slot: SlotId,
        position: &SourcePosition,
        owner: Option<Epoch>,
    ) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.forget(slot, position, owner).await,
            None => Ok(()),
        }
    }
}
