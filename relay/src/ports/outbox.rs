//! The outbox table itself, where its rows are deleted and looked through.

use futures::future::BoxFuture;
use scylla::value::CqlValue;

use super::{LogError, PageState};
use crate::ledger::RowKey;
use crate::model::Micros;

/// Reads and deletes rows of the outbox table. Every method may be called concurrently.
pub trait Outbox: Send + Sync + 'static {
    /// Deletes a row as it was at `at`: what is written later stays. Deleting it twice has the effect of deleting it
    /// once.
    fn delete(&self, key: RowKey, at: Micros) -> BoxFuture<'_, Result<(), LogError>>;

    /// One page of the rows of these tokens, first and last included, at most `rows` of them; a page may be empty and not the
    /// last.
    fn scan(
        &self,
        tokens: (i64, i64),
        page: Option<PageState>,
        rows: i32,
    ) -> BoxFuture<'_, Result<OutboxPage, LogError>>;
}

#[derive(Debug, Clone, Default)]
pub struct OutboxPage {
    pub rows: Vec<OutboxRow>,
    /// Where the next page starts; None if this was the last.
    pub next: Option<PageState>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    pub key: RowKey,
    /// Of its partition key.
    pub token: i64,
    /// In the order of the mapped columns.
    pub values: Vec<Option<CqlValue>>,
    /// When it was written. None if the column that tells it has no value: what is left of a row is no event.
    pub written: Option<Micros>,
}
