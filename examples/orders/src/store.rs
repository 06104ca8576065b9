//! Orders, events and outbox in ScyllaDB: every command is one logged batch over the three tables.

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::errors::{
    DbError, ExecutionError, NextRowError, PagerExecutionError, PrepareError, RequestAttemptError,
    TypeCheckError,
};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use crate::clock::now_us;
use crate::order::{AGGREGATE_TYPE, EVENT_VERSION, Event, Order, Recorded};

/// What a command adds.
pub struct Addition<'a> {
    pub order_id: Uuid,
    pub sequence_number: i64,
    pub event_id: Uuid,
    pub recorded: &'a Recorded,
    /// The order afterwards.
    pub order: &'a Order,
}

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub sequence_number: i64,
    pub event_id: Uuid,
    pub event: Event,
}

pub struct Store {
    session: Session,
    history: PreparedStatement,
    /// orders, event_store, outbox_messages.
    batch: Batch,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("keyspace {keyspace} cannot be used: {cause}; is schema.cql loaded?")]
    Prepare {
        keyspace: String,
        cause: Box<PrepareError>,
    },
    #[error("the order's events cannot be read: {0}")]
    Read(Box<PagerExecutionError>),
    #[error("the order's events cannot be read: {0}")]
    Row(Box<NextRowError>),
    #[error("event_store has other columns than expected: {0}")]
    Columns(Box<TypeCheckError>),
    #[error("event {sequence_number} of the order cannot be understood: {cause}")]
    Event {
        sequence_number: i64,
        cause: serde_json::Error,
    },
    #[error("the event cannot be written as JSON: {0}")]
    Encode(serde_json::Error),
    #[error("nothing was written: {0}")]
    Refused(Box<ExecutionError>),
    #[error("it is not known whether this was written: {0}")]
    Unknown(Box<ExecutionError>),
}

impl Store {
    /// Prepares the statements of a keyspace that holds the tables of `schema.cql` or `schema-plain.cql`.
    pub async fn new(session: Session, keyspace: &str) -> Result<Self, StoreError> {
        let prepare = async |cql: String| {
            let prepared = session.prepare(cql).await;
            prepared.map_err(|cause| StoreError::Prepare {
                keyspace: keyspace.to_owned(),
                cause: Box::new(cause),
            })
        };
        let history = prepare(format!(
            "SELECT sequence_number, event_id, event_data FROM {keyspace}.event_store WHERE aggregate_id = ?"
        ))
        .await?;
        let order = format!(
            "INSERT INTO {keyspace}.orders (id, customer, items, status, total_cents, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?)"
        );
        let event = format!(
            "INSERT INTO {keyspace}.event_store \
             (aggregate_id, sequence_number, event_id, event_type, event_version, event_data) \
             VALUES (?, ?, ?, ?, ?, ?)"
        );
        let outbox = format!(
            "INSERT INTO {keyspace}.outbox_messages \
             (aggregate_id, sequence_number, id, aggregate_type, event_type, payload, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?)"
        );
        let mut batch = Batch::new(BatchType::Logged);
        for statement in [order, event, outbox] {
            batch.append_statement(prepare(statement).await?);
        }
        Ok(Self {
            session,
            history,
            batch,
        })
    }

    /// The events of an order, in order.
    pub async fn history(&self, order_id: Uuid) -> Result<Vec<Stored>, StoreError> {
        let rows = self
            .session
            .execute_iter(self.history.clone(), (order_id,))
            .await
            .map_err(|error| StoreError::Read(Box::new(error)))?
            .rows_stream::<(i64, Uuid, String)>()
            .map_err(|error| StoreError::Columns(Box::new(error)))?;
        let rows: Result<Vec<_>, NextRowError> = rows.try_collect().await;
        rows.map_err(|error| StoreError::Row(Box::new(error)))?
            .into_iter()
            .map(|(sequence_number, event_id, data)| {
                let recorded: Recorded = serde_json::from_str(&data).map_err(|cause| StoreError::Event {
                    sequence_number,
                    cause,
                })?;
                Ok(Stored {
                    sequence_number,
                    event_id,
                    event: recorded.event,
                })
            })
            .collect()
    }

    /// Writes the order, its event and the outbox row: all of them, or none.
    pub async fn add(&self, addition: Addition<'_>) -> Result<(), StoreError> {
        let Addition {
            order_id,
            sequence_number,
            event_id,
            recorded,
            order,
        } = addition;
        let payload = serde_json::to_string(recorded).map_err(StoreError::Encode)?;
        let items = serde_json::to_string(&order.details.items).map_err(StoreError::Encode)?;
        let event_type = recorded.event.event_type();
        let now = CqlTimestamp(now_us() / 1000);
        let status = format!("{:?}", order.status);
        let total = i64::try_from(order.total_cents).unwrap_or(i64::MAX);
        let values = (
            (order_id, &order.details.customer, items, status, total, now),
            (
                order_id,
                sequence_number,
                event_id,
                event_type,
                EVENT_VERSION,
                &payload,
            ),
            (
                order_id,
                sequence_number,
                event_id,
                AGGREGATE_TYPE,
                event_type,
                &payload,
                now,
            ),
        );
        self.session
            .batch(&self.batch, values)
            .await
            .map(drop)
            .map_err(|error| {
                let error = Box::new(error);
                if refused(&error) {
                    StoreError::Refused(error)
                } else {
                    StoreError::Unknown(error)
                }
            })
    }
}

/// Whether a failed write is certain to have left nothing. Every other failure may have been applied, or may yet be.
pub fn refused(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::RequestTimeout(_) => false,
        ExecutionError::LastAttemptError(attempt) => match attempt {
            RequestAttemptError::SerializationError(_)
            | RequestAttemptError::CqlRequestSerialization(_)
            | RequestAttemptError::UnableToAllocStreamId => true,
            RequestAttemptError::DbError(error, _) => matches!(
                error,
                DbError::SyntaxError
                    | DbError::Invalid
                    | DbError::AlreadyExists { .. }
                    | DbError::FunctionFailure { .. }
                    | DbError::AuthenticationError
                    | DbError::Unauthorized
                    | DbError::ConfigError
                    | DbError::Unavailable { .. }
                    | DbError::IsBootstrapping
                    | DbError::Unprepared { .. }
            ),
            _ => false,
        },
        // The request never left: no statement, no node, no connection.
        _ => true,
    }
}

/// The statements of a schema file.
pub fn statements(schema: &str) -> Vec<String> {
    let without_comments: Vec<&str> = schema
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    without_comments
        .join("\n")
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `schema.cql` for an outbox that is polled: no CDC, and tombstones of delivered rows that go soon.
pub fn polled_schema() -> String {
    include_str!("../schema.cql").replace("cdc = {'enabled': true}", "gc_grace_seconds = 600")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_create_every_table() {
        let polled = polled_schema();
        assert!(!polled.contains("cdc =") && polled.contains("gc_grace_seconds"));
        for schema in [
            include_str!("../schema.cql"),
            include_str!("../schema-plain.cql"),
            &polled,
        ] {
            let statements = statements(schema);
            let names = [
                "KEYSPACE",
                ".orders (",
                ".event_store (",
                ".outbox_messages (",
                ".dead_letter_queue (",
            ];
            assert_eq!(statements.len(), names.len());
            for (statement, name) in statements.iter().zip(names) {
                assert!(
                    statement.starts_with("CREATE") && statement.contains(name),
                    "{statement}"
                );
            }
        }
    }
}
