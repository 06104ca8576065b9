//! The order service's HTTP API.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::commands::{CommandError, Done, Orders, order_created_by};
use crate::order::{Command, Details, Item, Refusal};
use crate::store::StoreError;

/// Names the event of a command, so that a repeated request is executed once. A UUID.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Largest request: room for notes that a topic's default limit of 1 MiB refuses.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// How long a database may take before the service calls itself not ready.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

type Service = State<Arc<Orders>>;

pub fn router(orders: Arc<Orders>) -> Router {
    Router::new()
        .route("/orders", post(create))
        .route("/orders/{id}", get(read).put(update))
        .route("/orders/{id}/{action}", post(act))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(orders)
}

/// Body of create and update.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Order {
    customer: String,
    items: Vec<Item>,
    #[serde(default)]
    note: Option<String>,
}

impl Order {
    fn split(self) -> (Details, Option<String>) {
        (
            Details {
                customer: self.customer,
                items: self.items,
            },
            self.note,
        )
    }
}

/// Body of confirm, ship, deliver and cancel; may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remark {
    #[serde(default)]
    note: Option<String>,
}

async fn create(State(orders): Service, headers: HeaderMap, Body(order): Body<Order>) -> Answer {
    let event_id = event_id(&headers)?;
    let (details, note) = order.split();
    let done = orders
        .execute(
            order_created_by(event_id),
            event_id,
            Command::Create(details),
            note,
        )
        .await?;
    Ok((StatusCode::CREATED, Json(answer(&done))).into_response())
}

async fn update(
    State(orders): Service,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(order): Body<Order>,
) -> Answer {
    let (details, note) = order.split();
    let done = orders
        .execute(
            order_id(&id)?,
            event_id(&headers)?,
            Command::Update(details),
            note,
        )
        .await?;
    Ok(Json(answer(&done)).into_response())
}

async fn act(
    State(orders): Service,
    Path((id, action)): Path<(String, String)>,
    headers: HeaderMap,
    Body(remark): Body<Remark>,
) -> Answer {
    let command = match action.as_str() {
        "confirm" => Command::Confirm,
        "ship" => Command::Ship,
        "deliver" => Command::Deliver,
        "cancel" => Command::Cancel,
        _ => {
            return Err(Failure::NotFound(format!(
                "no action {action}; confirm, ship, deliver and cancel exist"
            )));
        }
    };
    let done = orders
        .execute(order_id(&id)?, event_id(&headers)?, command, remark.note)
        .await?;
    Ok(Json(answer(&done)).into_response())
}

async fn read(State(orders): Service, Path(id): Path<String>) -> Answer {
    let order_id = order_id(&id)?;
    let order = orders.get(order_id).await?;
    Ok(Json(json!({"orderId": order_id, "order": order})).into_response())
}

async fn ready(State(orders): Service) -> Response {
    match tokio::time::timeout(READY_TIMEOUT, orders.get(Uuid::nil())).await {
        Ok(Ok(_) | Err(CommandError::Refused(_))) => "ok".into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "ScyllaDB does not answer").into_response(),
    }
}

fn answer(done: &Done) -> serde_json::Value {
    json!({
        "orderId": done.order_id,
        "eventId": done.event_id,
        "sequenceNumber": done.sequence_number,
        "order": done.order,
    })
}

fn order_id(text: &str) -> Result<Uuid, Failure> {
    Uuid::try_parse(text).map_err(|_| Failure::BadRequest(format!("order id: {text:.60?} is not a UUID")))
}

fn event_id(headers: &HeaderMap) -> Result<Uuid, Failure> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(Uuid::new_v4());
    };
    Uuid::try_parse_ascii(key.as_bytes())
        .map_err(|_| Failure::BadRequest(format!("header {IDEMPOTENCY_KEY}: {key:?} is not a UUID")))
}

/// JSON body whose refusal is JSON too. No body at all reads as `{}`.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|error| Failure::BadRequest(error.body_text()))?;
        let content = if bytes.is_empty() { b"{}" } else { bytes.as_ref() };
        match Json::from_bytes(content) {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(Failure::BadRequest(rejection.body_text())),
        }
    }
}

type Answer = Result<Response, Failure>;

enum Failure {
    BadRequest(String),
    NotFound(String),
    Command(CommandError),
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, "BadRequest", message),
            Self::NotFound(message) => (StatusCode::NOT_FOUND, "NotFound", message),
            Self::Command(error) => {
                let (status, code) = classify(&error);
                if status.is_server_error() {
                    tracing::warn!(code, %error, "command failed");
                }
                (status, code, error.to_string())
            }
        };
        (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
    }
}

fn classify(error: &CommandError) -> (StatusCode, &'static str) {
    match error {
        CommandError::Refused(Refusal::NoSuchOrder) => (StatusCode::NOT_FOUND, "NotFound"),
        CommandError::Refused(Refusal::Invalid { .. }) => (StatusCode::BAD_REQUEST, "BadRequest"),
        CommandError::Refused(Refusal::Exists | Refusal::WrongStatus { .. }) => {
            (StatusCode::CONFLICT, "InvalidTransition")
        }
        CommandError::Store(StoreError::Unknown(_)) => (StatusCode::SERVICE_UNAVAILABLE, OUTCOME_UNKNOWN),
        CommandError::Store(StoreError::Event { .. } | StoreError::Encode(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "Internal")
        }
        CommandError::Store(_) | CommandError::TooManyUncertain => {
            (StatusCode::SERVICE_UNAVAILABLE, "NotWritten")
        }
    }
}

/// The error code of a command that may or may not have been written; repeat it with the same idempotency key.
pub const OUTCOME_UNKNOWN: &str = "OutcomeUnknown";
