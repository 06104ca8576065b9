//! `/nodes`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{ApiError, Parts};
use crate::fault::fields::Problem;
use crate::server::NodeError;

pub(super) async fn list(State(parts): State<Arc<Parts>>) -> Json<Value> {
    Json(json!({ "nodes": describe(&parts) }))
}

pub(super) async fn stop(
    State(parts): State<Arc<Parts>>,
    Path(index): Path<String>,
) -> Result<Json<Value>, ApiError> {
    parts.server.stop_node(number(&index)?).await.map_err(refused)?;
    Ok(Json(json!({ "nodes": describe(&parts) })))
}

pub(super) async fn start(
    State(parts): State<Arc<Parts>>,
    Path(index): Path<String>,
) -> Result<Json<Value>, ApiError> {
    parts.server.start_node(number(&index)?).await.map_err(refused)?;
    Ok(Json(json!({ "nodes": describe(&parts) })))
}

pub(super) fn describe(parts: &Parts) -> Vec<Value> {
    let nodes = parts.cluster.nodes().iter();
    nodes
        .map(|node| {
            json!({
                "index": node.index,
                "address": node.address.to_string(),
                "host_id": node.host_id.to_string(),
                "rack": node.rack,
                "tokens": node.tokens.len(),
                "up": node.is_up(),
            })
        })
        .collect()
}

fn refused(error: NodeError) -> ApiError {
    let status = match error {
        NodeError::Unknown { .. } => StatusCode::NOT_FOUND,
        NodeError::Running(_) | NodeError::Stopped(_) => StatusCode::CONFLICT,
        NodeError::Listen { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, error.to_string())
}

fn number(index: &str) -> Result<usize, ApiError> {
    index.parse().map_err(|_| {
        ApiError::bad_request(vec![Problem {
            field: "index".into(),
            value: json!(index),
            accepted: "the number of a node, from 0".into(),
        }])
    })
}
