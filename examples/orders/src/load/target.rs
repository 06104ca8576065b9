//! Where a load writes: through the order service, or straight into the outbox.

use std::time::Duration;

use futures::TryStreamExt;
use reqwest::StatusCode;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use serde_json::json;
use uuid::Uuid;

use super::work::{Step, Write, details};
use crate::clock::now_us;
use crate::journal::{Entry, Outcome};
use crate::order::{AGGREGATE_TYPE, Details};
use crate::service::{IDEMPOTENCY_KEY, OUTCOME_UNKNOWN};
use crate::store::refused;

/// Longer than the service waits for ScyllaDB, so that its answer is heard.
const HTTP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a look-up is tried while ScyllaDB does not answer, and the pause between.
const LOOK_UPS: u32 = 10;
const LOOK_UP_PAUSE: Duration = Duration::from_secs(1);

/// What became of a write. The texts say why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Committed,
    /// Certainly not written.
    Refused(String),
    Unknown(String),
}

pub struct Target {
    way: Way,
    /// For writes that were not answered; without it they stay unknown.
    outbox: Option<Outbox>,
}

enum Way {
    Service { client: reqwest::Client, url: String },
    Direct { insert: PreparedStatement },
}

struct Outbox {
    session: Session,
    /// Finds event ids.
    find: PreparedStatement,
    /// Whether by order, or by event.
    by_order: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("{keyspace}.outbox_messages cannot be used: {cause}; is schema.cql loaded?")]
    Prepare {
        keyspace: String,
        cause: Box<scylla::errors::PrepareError>,
    },
}

impl Target {
    /// Writes through the service at `url`. With a session, unanswered writes are looked up in the keyspace.
    pub async fn service(url: &str, outbox: Option<(Session, &str)>) -> Result<Self, TargetError> {
        let client = reqwest::Client::builder().timeout(HTTP_TIMEOUT).build()?;
        let outbox = match outbox {
            Some((session, keyspace)) => Some(Outbox::new(session, keyspace).await?),
            None => None,
        };
        Ok(Self {
            way: Way::Service {
                client,
                url: url.trim_end_matches('/').to_owned(),
            },
            outbox,
        })
    }

    /// Writes outbox rows only, without the service.
    pub async fn direct(session: Session, keyspace: &str) -> Result<Self, TargetError> {
        let insert = format!(
            "INSERT INTO {keyspace}.outbox_messages \
             (aggregate_id, sequence_number, id, aggregate_type, event_type, payload, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?)"
        );
        let insert = prepare(&session, keyspace, insert).await?;
        Ok(Self {
            way: Way::Direct { insert },
            outbox: Some(Outbox::new(session, keyspace).await?),
        })
    }

    pub async fn write(&self, write: &Write) -> Answer {
        match (&self.way, &self.outbox) {
            (Way::Service { client, url }, _) => over_http(client, url, write).await,
            (Way::Direct { insert }, Some(outbox)) => straight(&outbox.session, insert, write).await,
            (Way::Direct { .. }, None) => Answer::Refused("no connection to ScyllaDB".to_owned()),
        }
    }

    /// Whether a write that was not answered is in the outbox. Absence proves nothing: it may yet be applied.
    pub async fn look_up(&self, entry: &Entry) -> Outcome {
        let Some(outbox) = &self.outbox else {
            return Outcome::Unknown;
        };
        for _ in 0..LOOK_UPS {
            match outbox.contains(entry).await {
                Ok(true) => return Outcome::Committed,
                Ok(false) => return Outcome::Unknown,
                Err(error) => {
                    tracing::debug!(error, "look-up failed");
                    tokio::time::sleep(LOOK_UP_PAUSE).await;
                }
            }
        }
        Outcome::Unknown
    }
}

impl Outbox {
    async fn new(session: Session, keyspace: &str) -> Result<Self, TargetError> {
        let by_order = format!("SELECT id FROM {keyspace}.outbox_messages WHERE aggregate_id = ?");
        if let Ok(find) = prepare(&session, keyspace, by_order).await {
            return Ok(Self {
                session,
                find,
                by_order: true,
            });
        }
        // The plain layout, where the event id is the key.
        let by_id = format!("SELECT id FROM {keyspace}.outbox_messages WHERE id = ?");
        let find = prepare(&session, keyspace, by_id).await?;
        Ok(Self {
            session,
            find,
            by_order: false,
        })
    }

    async fn contains(&self, entry: &Entry) -> Result<bool, String> {
        let key = if self.by_order {
            entry.aggregate_id
        } else {
            entry.event_id
        };
        let rows = self
            .session
            .execute_iter(self.find.clone(), (key,))
            .await
            .map_err(|error| error.to_string())?
            .rows_stream::<(Uuid,)>()
            .map_err(|error| error.to_string())?;
        let ids: Vec<(Uuid,)> = rows.try_collect().await.map_err(|error| error.to_string())?;
        Ok(ids.contains(&(entry.event_id,)))
    }
}

async fn prepare(session: &Session, keyspace: &str, cql: String) -> Result<PreparedStatement, TargetError> {
    let prepared = session.prepare(cql).await;
    prepared.map_err(|cause| TargetError::Prepare {
        keyspace: keyspace.to_owned(),
        cause: Box::new(cause),
    })
}

async fn over_http(client: &reqwest::Client, url: &str, write: &Write) -> Answer {
    let Details { customer, items } = details();
    let order = json!({"customer": customer, "items": items, "note": write.note});
    let remark = json!({"note": write.note});
    let id = write.order_id;
    let request = match write.step {
        Step::Create => client.post(format!("{url}/orders")).json(&order),
        Step::Update => client.put(format!("{url}/orders/{id}")).json(&order),
        Step::Confirm => client.post(format!("{url}/orders/{id}/confirm")).json(&remark),
        Step::Ship => client.post(format!("{url}/orders/{id}/ship")).json(&remark),
        Step::Deliver => client.post(format!("{url}/orders/{id}/deliver")).json(&remark),
    };
    let response = match request
        .header(IDEMPOTENCY_KEY, write.event_id.to_string())
        .send()
        .await
    {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Answer::Refused(error.to_string()),
        Err(error) => return Answer::Unknown(error.to_string()),
    };
    let status = response.status();
    if status.is_success() {
        return Answer::Committed;
    }
    let body = response.text().await.unwrap_or_default();
    let unknown = body.contains(OUTCOME_UNKNOWN) || (status.is_server_error() && !body.contains("\"code\""));
    let reason = format!("{status}: {body}");
    if unknown || status == StatusCode::REQUEST_TIMEOUT {
        Answer::Unknown(reason)
    } else {
        Answer::Refused(reason)
    }
}

async fn straight(session: &Session, insert: &PreparedStatement, write: &Write) -> Answer {
    let (event_type, payload) = match write.content() {
        Ok(content) => content,
        Err(error) => return Answer::Refused(error.to_string()),
    };
    let now = CqlTimestamp(now_us() / 1000);
    let values = (
        write.order_id,
        write.sequence,
        write.event_id,
        AGGREGATE_TYPE,
        event_type,
        payload,
        now,
    );
    match session.execute_unpaged(insert, values).await {
        Ok(_) => Answer::Committed,
        Err(error) if refused(&error) => Answer::Refused(error.to_string()),
        Err(error) => Answer::Unknown(error.to_string()),
    }
}
