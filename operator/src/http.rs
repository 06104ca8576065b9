//! The one HTTP port: `/metrics`, `/livez`, `/readyz`.

use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the endpoints tell.
pub struct Telltale {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the process takes part in the election, or leads. A process that waits is ready: it can take over.
    pub ready: AtomicBool,
}

/// Serves until `stop`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    telltale: Arc<Telltale>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(telltale);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn metrics(State(telltale): State<Arc<Telltale>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, telltale.metrics.render()).into_response()
}

async fn ready(State(telltale): State<Arc<Telltale>>) -> Response {
    if telltale.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the API server was not reached yet\n",
        )
            .into_response()
    }
}
