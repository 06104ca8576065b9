//! The admin HTTP API: fault rules, nodes, CDC streams. JSON in and out, on a loopback address.

mod cdc;
mod faults;
mod nodes;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::cdc::service::CdcService;
use crate::cluster::Cluster;
use crate::fault::Faults;
use crate::fault::fields::Problem;
use crate::query::engine::Engine;
use crate::server::Server;

/// What the API acts on.
pub(crate) struct Parts {
    pub(crate) engine: Arc<Engine>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) cdc: Arc<CdcService>,
    pub(crate) server: Server,
}

pub(crate) fn router(parts: Arc<Parts>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/status", get(status))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{index}/stop", post(nodes::stop))
        .route("/nodes/{index}/start", post(nodes::start))
        .route(
            "/faults",
            get(faults::list).post(faults::add).delete(faults::clear),
        )
        .route("/faults/{id}", get(faults::get).delete(faults::remove))
        .route(
            "/cdc/generations",
            get(cdc::generations).post(cdc::switch_generation),
        )
        .route(
            "/cdc/tablets/{keyspace}/{table}",
            get(cdc::stream_sets).post(cdc::change_tablets),
        )
        .fallback(unknown)
        .with_state(parts)
}

/// What went wrong, for a person to read and, in `problems`, for a program.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    problems: Vec<Problem>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            problems: Vec::new(),
        }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    fn bad_request(problems: Vec<Problem>) -> Self {
        let named: Vec<String> = problems
            .iter()
            .map(|problem| {
                format!(
                    "{}: {} (accepted: {})",
                    problem.field, problem.value, problem.accepted
                )
            })
            .collect();
        Self {
            status: StatusCode::BAD_REQUEST,
            message: named.join("; "),
            problems,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.message });
        if !self.problems.is_empty() {
            body["problems"] = json!(self.problems);
        }
        (self.status, Json(body)).into_response()
    }
}

/// The body as JSON; nothing at all stands for an empty object.
fn body(raw: &[u8]) -> Result<Value, ApiError> {
    if raw.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(raw)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}")))
}

async fn index() -> Json<Value> {
    Json(json!({
        "GET /status": "nodes, connections, rules",
        "GET /nodes": "the nodes and whether they are up",
        "POST /nodes/{index}/stop, /start": "close a node's port and connections, or open it again",
        "GET /faults": "rules in force and their hits",
        "POST /faults": "put a rule into force",
        "DELETE /faults, /faults/{id}": "end all rules, or one",
        "GET /cdc/generations": "generations of vnode keyspaces",
        "POST /cdc/generations": "switch to a new generation",
        "GET /cdc/tablets/{keyspace}/{table}": "stream sets of a tablet table",
        "POST /cdc/tablets/{keyspace}/{table}": "split or merge its tablets",
    }))
}

async fn status(State(parts): State<Arc<Parts>>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": parts.cluster.name,
        "datacenter": parts.cluster.datacenter,
        "schema_version": parts.engine.catalog().version.to_string(),
        "nodes": nodes::describe(&parts),
        "connections": parts.server.connections(),
        "fault_rules": parts.faults.list().len(),
        "delayed_writes": parts.faults.delayed_writes(),
    }))
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::not_found(format!("There is no {}; GET / lists what there is", uri.path()))
}
