//! Where dead letters go: a table, a topic, or both.

use crate::model::{SlotId, SourcePosition};
use crate::ports::{DeadLetter, DeadLetterError, DeadLetters};

pub mod message;
pub mod stored;
pub mod table;
pub mod topic;

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
            Some(topic) if !letters.iter().any(|letter| letter.pending) => {
                topic.write(letters, self.table.is_some()).await
            }
            _ => Ok(()),
        }
    }

    async fn settle(&self, letters: &[(SlotId, SourcePosition)]) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.settle(letters).await,
            None => Ok(()),
        }
    }

    async fn recover(
        &self,
        slot: SlotId,
        resolved: impl Fn(&SourcePosition) -> Option<bool> + Send + Sync,
    ) -> Result<(), DeadLetterError> {
        match &self.table {
            Some(table) => table.recover(slot, resolved).await,
            None => Ok(()),
        }
    }

    async fn aggregates(&self, slot: SlotId, limit: usize) -> Result<Vec<String>, DeadLetterError> {
        match &self.table {
            Some(table) => table.aggregates(slot, limit).await,
            None => Ok(Vec::new()),
        }
    }
}
