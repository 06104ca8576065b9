//! `/cdc`: which streams there are, and switches of them on demand.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{ApiError, Parts, body};
use crate::cdc::generations::{Generation, SwitchDelays};
use crate::cdc::tablets::{StreamSet, TabletChange};
use crate::error::CqlError;
use crate::fault::fields::Fields;

pub(super) async fn generations(State(parts): State<Arc<Parts>>) -> Json<Value> {
    let generations: Vec<Value> = parts.cdc.with_streams(|streams, _| {
        let all = streams.generations.all().iter();
        all.map(|generation| describe_generation(generation)).collect()
    });
    Json(json!({ "generations": generations }))
}

/// All delays count from now and are zero if not given: in effect, known to coordinators and published at once.
pub(super) async fn switch_generation(
    State(parts): State<Arc<Parts>>,
    raw: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let given = body(&raw)?;
    let mut fields = Fields::new(&given).map_err(ApiError::bad_request)?;
    let delays = SwitchDelays {
        start: micros(fields.delay("start_milliseconds")),
        publish: micros(fields.delay("publish_milliseconds")),
        learn: micros(fields.delay("learn_milliseconds")),
    };
    fields.finish("for a switch").map_err(ApiError::bad_request)?;
    let generation = parts.cdc.switch_generation(None, delays);
    Ok((StatusCode::CREATED, Json(describe_generation(&generation))))
}

pub(super) async fn stream_sets(
    State(parts): State<Arc<Parts>>,
    Path((keyspace, table)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let name = (keyspace, table);
    let sets: Vec<Value> = parts.cdc.with_streams(|streams, now| {
        let published = streams.tablets.published(&name, now);
        published.map(describe_stream_set).collect()
    });
    if sets.is_empty() {
        return Err(ApiError::not_found(format!(
            "{}.{} is no table with CDC in a keyspace with tablets",
            name.0, name.1
        )));
    }
    Ok(Json(json!({ "stream_sets": sets })))
}

/// `{"change": "split"}` or `{"change": "merge"}`, with the delays of a generation switch.
pub(super) async fn change_tablets(
    State(parts): State<Arc<Parts>>,
    Path((keyspace, table)): Path<(String, String)>,
    raw: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let given = body(&raw)?;
    let mut fields = Fields::new(&given).map_err(ApiError::bad_request)?;
    let change = fields.choice("change", &["split", "merge"]);
    let delays = SwitchDelays {
        start: micros(fields.delay("start_milliseconds")),
        publish: micros(fields.delay("publish_milliseconds")),
        learn: 0,
    };
    fields
        .finish("for a change of tablets")
        .map_err(ApiError::bad_request)?;
    let change = match change {
        Some("merge") => TabletChange::Merge,
        _ => TabletChange::Split,
    };
    let set = parts
        .cdc
        .change_tablets(&keyspace, &table, change, delays)
        .map_err(|error: CqlError| ApiError::new(StatusCode::CONFLICT, error.message))?;
    Ok((StatusCode::CREATED, Json(describe_stream_set(&set))))
}

fn describe_generation(generation: &Generation) -> Value {
    let streams: usize = generation.vnodes.iter().map(|vnode| vnode.streams.len()).sum();
    json!({
        "start_milliseconds": generation.start_millis(),
        "published_milliseconds": generation.published / 1_000,
        "learned_milliseconds": generation.learned / 1_000,
        "vnodes": generation.vnodes.len(),
        "streams": streams,
    })
}

fn describe_stream_set(set: &StreamSet) -> Value {
    json!({
        "start_milliseconds": set.start / 1_000,
        "published_milliseconds": set.published / 1_000,
        "streams": set.streams.len(),
    })
}

fn micros(delay: Duration) -> i64 {
    // At most a day.
    delay.as_micros() as i64
}
