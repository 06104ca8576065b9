//! `/faults`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{ApiError, Parts, body};
use crate::fault::fields::Problem;
use crate::fault::rule::RuleStatus;
use crate::fault::spec;

pub(super) async fn list(State(parts): State<Arc<Parts>>) -> Json<Value> {
    let rules: Vec<Value> = parts.faults.list().iter().map(RuleStatus::to_json).collect();
    Json(json!({ "rules": rules }))
}

pub(super) async fn add(
    State(parts): State<Arc<Parts>>,
    raw: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let rule = spec::parse(&body(&raw)?).map_err(ApiError::bad_request)?;
    if let Some(node) = rule.node {
        check_node(&parts, node)?;
    }
    let id = parts
        .faults
        .add(rule)
        .map_err(|error| ApiError::new(StatusCode::CONFLICT, error.to_string()))?;
    Ok((StatusCode::CREATED, Json(found(&parts, id)?)))
}

pub(super) async fn get(
    State(parts): State<Arc<Parts>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(found(&parts, number(&id)?)?))
}

pub(super) async fn remove(
    State(parts): State<Arc<Parts>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = number(&id)?;
    let removed = parts.faults.remove(id).ok_or_else(|| no_rule(id))?;
    Ok(Json(removed.to_json()))
}

pub(super) async fn clear(State(parts): State<Arc<Parts>>) -> Json<Value> {
    Json(json!({ "removed": parts.faults.clear() }))
}

fn found(parts: &Parts, id: u64) -> Result<Value, ApiError> {
    let rule = parts.faults.get(id).ok_or_else(|| no_rule(id))?;
    Ok(rule.to_json())
}

fn no_rule(id: u64) -> ApiError {
    ApiError::not_found(format!("There is no rule {id}; GET /faults lists those in force"))
}

fn number(id: &str) -> Result<u64, ApiError> {
    id.parse().map_err(|_| {
        ApiError::bad_request(vec![Problem {
            field: "id".into(),
            value: json!(id),
            accepted: "the number that POST /faults gave".into(),
        }])
    })
}

fn check_node(parts: &Parts, node: usize) -> Result<(), ApiError> {
    let nodes = parts.cluster.nodes().len();
    if node < nodes {
        return Ok(());
    }
    Err(ApiError::bad_request(vec![Problem {
        field: "node".into(),
        value: json!(node),
        accepted: format!("a node from 0 to {}", nodes - 1),
    }]))
}
