//! The one HTTP port: `/metrics`, `/status`, `/livez`, `/readyz`, `/health`, and `/` for people.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
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
        .route("/", get(page))
        .route("/metrics", get(metrics::<T>))
        .route("/status", get(status::<T>))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<T>))
        .route("/health", get(health::<T>))
        .with_state(telltale)
}

/// Everything is in the one file: a browser asks nobody but this relay.
const PAGE: &str = include_str!("http/page.html");

/// Nothing from elsewhere, whatever a message that the page shows may hold.
const ONLY_THIS: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                         frame-ancestors 'none'; base-uri 'none'";

async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, ONLY_THIS)], Html(PAGE)).into_response()
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Fixed(RelayStatus);

    impl Telltale for Fixed {
        fn metrics(&self) -> String {
            "one_metric 1\n".to_owned()
        }

        fn status(&self) -> RelayStatus {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_page_needs_nothing_from_elsewhere_and_shows_what_there_is() {
        let page = page().await;
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        for outside in ["http:", "https:", "//cdn", "src=", "@import", "innerHTML"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        let status = serde_json::to_value(crate::status::sample(false)).unwrap();
        let script = PAGE.split_once("<script>").unwrap().1;
        for used in script.split("status.").skip(1) {
            let path: Vec<_> = used
                .split(|c: char| !c.is_alphanumeric() && c != '.')
                .next()
                .unwrap()
                .split('.')
                .collect();
            assert!(status.get(path[0]).is_some(), "status.{}", path.join("."));
        }
        let ids = |call| script.split(call).skip(1).filter_map(|rest| rest.split_once('"'));
        let ids: Vec<_> = ids("at(\"").chain(ids("say(\"")).map(|found| found.0).collect();
        assert!(ids.len() > 20);
        for id in ids {
            assert!(PAGE.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }

    /// Code and text of every endpoint.
    async fn answers(status: RelayStatus) -> Vec<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed(status)), stop.clone()));
        let mut answers = Vec::new();
        for path in ["livez", "readyz", "health", "status", "metrics"] {
            let answer = reqwest::get(format!("http://{address}/{path}")).await.unwrap();
            answers.push((answer.status().as_u16(), answer.text().await.unwrap()));
        }
        stop.cancel();
        server.await.unwrap().unwrap();
        answers
    }

    #[tokio::test]
    async fn a_relay_that_works_is_alive_ready_and_healthy() {
        let [alive, ready, health, status, metrics] =
            answers(crate::status::sample(true)).await.try_into().unwrap();
        assert_eq!(alive, (200, "ok\n".to_owned()));
        assert_eq!(ready, (200, "ready\n".to_owned()));
        assert_eq!(health.0, 200);
        let document: Value = serde_json::from_str(&status.1).unwrap();
        assert_eq!((status.0, &document["ready"]), (200, &json!(true)));
        assert_eq!(metrics, (200, "one_metric 1\n".to_owned()));
    }

    /// A restart would help against nothing that it waits for, so it is alive all the same.
    #[tokio::test]
    async fn a_relay_without_its_broker_is_alive_and_says_what_is_missing() {
        let [alive, ready, health, status, _] =
            answers(crate::status::sample(false)).await.try_into().unwrap();
        assert_eq!(alive.0, 200);
        assert_eq!(ready, (503, "not ready: sink: no broker\n".to_owned()));
        let parts: Value = serde_json::from_str(&health.1).unwrap();
        let said = [0, 1].map(|part: usize| parts[part]["health"].as_str());
        assert_eq!((health.0, said), (503, [Some("Healthy"), Some("Failed")]));
        assert_eq!(status.0, 200, "what it says of itself is there whatever it says");
    }
}
