//! An order and its event in one logged batch; what was not answered is written again as the same write.
//!
//! ```sh
//! SCYLLA=127.0.0.1:9042 cargo run -p orders --example outbox -- examples/outbox/schema.cql
//! ```

use std::time::{Duration, SystemTime};

use orders::store::statements;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::Consistency;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use uuid::Uuid;

#[derive(Debug, thiserror::Error)]
enum WriteError {
    /// There is neither row nor event, and there never will be.
    #[error("not written: {0}")]
    NotWritten(ExecutionError),
    /// Call again with the same write, now or later, until there is an answer.
    #[error("it is not known whether this was written: {0:?}")]
    OutcomeUnknown(Option<ExecutionError>),
}

/// One write. All that identifies it is made once, before the first attempt.
struct Created {
    order_id: Uuid,
    customer: String,
    total_cents: i64,
    sequence: i64,
    event_id: Uuid,
    payload: String,
    microseconds: i64,
}

async fn write(
    session: &Session,
    statements: &[PreparedStatement; 2],
    created: &Created,
) -> Result<(), WriteError> {
    let mut batch = Batch::new(BatchType::Logged);
    statements
        .iter()
        .for_each(|statement| batch.append_statement(statement.clone()));
    batch.set_consistency(Consistency::LocalQuorum);
    batch.set_timestamp(Some(created.microseconds));
    batch.set_request_timeout(Some(Duration::from_secs(2)));
    // The same keys, values and timestamp: executed twice it leaves what it leaves when executed once.
    batch.set_is_idempotent(true);
    let at = CqlTimestamp(created.microseconds / 1000);
    let values = (
        (created.order_id, &created.customer, created.total_cents),
        (
            created.order_id,
            created.sequence,
            created.event_id,
            "Order",
            "OrderCreated",
            &created.payload,
            at,
        ),
    );
    let mut unanswered = None;
    for attempt in 0..5 {
        match (session.batch(&batch, &values).await, &unanswered) {
            (Ok(_), _) => return Ok(()),
            (Err(error), None) if refused(&error) => return Err(WriteError::NotWritten(error)),
            (Err(error), _) if refused(&error) => {}
            (Err(error), _) => unanswered = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
    }
    Err(WriteError::OutcomeUnknown(unanswered))
}

/// The coordinator wrote nothing. After any other failure the batch may have been applied, or may yet be.
fn refused(error: &ExecutionError) -> bool {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) = error else {
        return false;
    };
    matches!(
        error,
        DbError::Unavailable { .. } | DbError::Invalid | DbError::SyntaxError | DbError::Unauthorized
    )
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let node = std::env::var("SCYLLA").unwrap_or_else(|_| "127.0.0.1:9042".to_owned());
    let session = SessionBuilder::new().known_node(node).build().await?;
    for schema in std::env::args().skip(1) {
        for statement in statements(&std::fs::read_to_string(schema)?) {
            session.query_unpaged(statement.as_str(), ()).await?;
        }
    }
    let insert_order = "INSERT INTO app.orders (id, customer, total_cents) VALUES (?, ?, ?)";
    let insert_event = "INSERT INTO app.outbox (aggregate_id, sequence, id, aggregate_type, event_type, payload, created_at) \
                        VALUES (?, ?, ?, ?, ?, ?, ?)";
    let statements = [
        session.prepare(insert_order).await?,
        session.prepare(insert_event).await?,
    ];
    let created = Created {
        order_id: Uuid::new_v4(),
        customer: "Ada".to_owned(),
        total_cents: 300,
        sequence: 1,
        event_id: Uuid::new_v4(),
        payload: r#"{"customer": "Ada", "totalCents": 300}"#.to_owned(),
        microseconds: SystemTime::UNIX_EPOCH.elapsed()?.as_micros().try_into()?,
    };
    write(&session, &statements, &created).await?;
    let select = "SELECT id FROM app.outbox WHERE aggregate_id = ?";
    let row = session.query_unpaged(select, (created.order_id,)).await?;
    let (id,): (Uuid,) = row.into_rows_result()?.single_row()?;
    anyhow::ensure!(id == created.event_id, "the outbox has event {id}");
    println!("order {} event {id}", created.order_id);
    Ok(())
}
