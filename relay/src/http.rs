//! The one HTTP port: `/metrics`, `/status`, `/livez`, `/readyz`, `/health`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use crds::relay_status::{Component, Health, RelayStatus};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the endpoints tell.
pub trait Telltale: Send + Sync + 'static {
    /// Prometheus text format.
    fn metrics(&self) -> String;

    fn status(&self) -> RelayStatus;
}

/// Serves until `stop`. Answers `/livez` as long as the process works at all: a restart helps against nothing that a
/// relay waits for.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve<T: Telltale>(
    listener: TcpListener,
    telltale: Arc<T>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(telltale))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router<T: Telltale>(telltale: Arc<T>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<T>))
        .route("/status", get(status::<T>))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<T>))
        .route("/health", get(health::<T>))
        .with_state(telltale)
}

async fn metrics<T: Telltale>(State(telltale): State<Arc<T>>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        telltale.metrics(),
    )
        .into_response()
}

async fn status<T: Telltale>(State(telltale): State<Arc<T>>) -> Json<RelayStatus> {
    Json(telltale.status())
}

async fn ready<T: Telltale>(State(telltale): State<Arc<T>>) -> Response {
    let status = telltale.status();
    if status.ready {
        return "ready\n".into_response();
    }
    let reason = status.not_ready_because.unwrap_or_else(|| "starting".to_owned());
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
}

async fn health<T: Telltale>(State(telltale): State<Arc<T>>) -> (StatusCode, Json<Vec<Component>>) {
    let components = telltale.status().components;
    let healthy = components
        .iter()
        .all(|component| component.health == Health::Healthy);
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(components))
}
