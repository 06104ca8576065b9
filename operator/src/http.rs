//! The one HTTP port: `/metrics`, `/livez`, `/readyz`, and `/` with `/relays` for people.

use crate::metrics::Metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use crds::outbox_relay::OutboxRelay;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the endpoints tell.
pub struct Telltale {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the process takes part in the election, or leads. A process that waits is ready: it can take over.
    pub ready: AtomicBool,
    /// The resources, once this process leads.
    pub relays: OnceLock<Store<OutboxRelay>>,
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
        .route("/", get(page))
        .route("/relays", get(relays))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(telltale);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Everything is in the one file: a browser asks nobody but this operator.
const PAGE: &str = include_str!("http/page.html");

/// Nothing from elsewhere, whatever a message that the page shows may hold.
const ONLY_THIS: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                         frame-ancestors 'none'; base-uri 'none'";

async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, ONLY_THIS)], Html(PAGE)).into_response()
}

/// What the leader knows of every resource: name and status, nothing of what it refers to.
async fn relays(State(telltale): State<Arc<Telltale>>) -> Response {
    let Some(relays) = telltale.relays.get() else {
        let text = "this replica stands by; ask the one that leads\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let relays: Vec<_> = relays.state().iter().map(|relay| view(relay)).collect();
    Json(relays).into_response()
}

fn view(relay: &OutboxRelay) -> Value {
    json!({
        "namespace": relay.namespace(),
        "name": relay.name_any(),
        "uid": relay.uid(),
        "shares": relay.spec.shares,
        "paused": relay.spec.paused,
        "status": relay.status.clone().unwrap_or_default(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crds::outbox_relay::status::{OutboxRelayStatus, ShareStatus};
    use crds::relay_status::{BreakerState, Phase};

    #[tokio::test]
    async fn the_page_needs_nothing_from_elsewhere_and_shows_what_there_is() {
        let page = page().await;
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        for outside in ["http:", "https:", "//cdn", "src=", "@import", "innerHTML"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        let status = OutboxRelayStatus {
            phase: Some(Phase::Streaming),
            lag_seconds: Some(0),
            breaker: Some(BreakerState::Closed),
            dead_letters_pending: Some(0),
            share_statuses: vec![ShareStatus {
                phase: Some(Phase::Streaming),
                lag_seconds: Some(0),
                message: Some(String::new()),
                ..ShareStatus::default()
            }],
            ..OutboxRelayStatus::default()
        };
        let status = serde_json::to_value(status).unwrap();
        let script = PAGE.split_once("<script>").unwrap().1;
        for (object, of) in [("status.", &status), ("share.", &status["shareStatuses"][0])] {
            let used = script.split(object).skip(1).filter_map(|rest| {
                let name = rest.split(|c: char| !c.is_alphanumeric()).next()?;
                (!name.is_empty()).then_some(name)
            });
            let used: Vec<_> = used.filter(|name| *name != "status").collect();
            assert!(used.len() > 4, "{object}");
            for name in used {
                assert!(of.get(name).is_some(), "{object}{name}");
            }
        }
    }
}
