//! The one HTTP port: `/metrics`, `/status`, `/livez`, `/readyz`, `/health`, and `/` for people.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use crds::relay_status::{Component, Health, RelayStatus};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod guard;
mod lock;
mod tls;

pub use lock::{Lock, LockError};
use tls::TlsListener;

/// What the endpoints tell.
pub trait Telltale: Send + Sync + 'static {
    /// Prometheus text format.
    fn metrics(&self) -> String;

    fn status(&self) -> RelayStatus;
}

/// Serves until `stop`. Answers `/livez` as long as the process works at all: a restart helps against nothing that a
/// relay waits for. `lock` says by which scheme, and who may ask.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve<T: Telltale>(
    listener: TcpListener,
    lock: Lock,
    telltale: Arc<T>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = router(telltale, &lock);
    let contexts = lock.contexts.clone();
    let mut renewing = JoinSet::new();
    renewing.spawn(lock.renew());
    match contexts {
        None => {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
        }
        Some(contexts) => {
            axum::serve(TlsListener::new(listener, contexts)?, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
        }
    }
}

/// A kubelet has no token, so it may always ask whether the relay lives and is ready.
fn router<T: Telltale>(telltale: Arc<T>, lock: &Lock) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics::<T>))
        .route("/status", get(status::<T>))
        .route("/health", get(health::<T>))
        .route_layer(from_fn_with_state(lock.guard.clone(), guard::guard))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<T>))
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
    use crds::relay_config::{Http, ServerTls};
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
        let lock = Lock::new(&Http::default()).unwrap();
        let server = tokio::spawn(serve(listener, lock, Arc::new(Fixed(status)), stop.clone()));
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

    /// A client that trusts this authority alone and sends this token, and the answer's code; None if there is no TLS.
    async fn asked(address: &str, path: &str, ca: &[u8], token: Option<&str>) -> Option<u16> {
        let trusted = reqwest::Certificate::from_pem(ca).unwrap();
        let client = reqwest::Client::builder()
            .tls_built_in_root_certs(false)
            .add_root_certificate(trusted)
            .build()
            .unwrap();
        let mut request = client.get(format!("https://{address}/{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Some(request.send().await.ok()?.status().as_u16())
    }

    #[tokio::test]
    async fn a_locked_port_tells_probes_everything_and_others_nothing_without_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |number: u8| {
            let (certificate, key) = crate::secrets::tests::certificate("127.0.0.1");
            std::fs::write(path("crt"), &certificate).unwrap();
            std::fs::write(path("key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
            std::fs::write(path("token"), format!("token-number-{number:0>8}\n")).unwrap();
            certificate
        };
        let former = write(1);
        let http = Http {
            tls: Some(ServerTls {
                certificate_file: Some(path("crt")),
                key_file: Some(path("key")),
                ..ServerTls::default()
            }),
            token_file: Some(path("token")),
            ..Http::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let lock = Lock::new(&http).unwrap();
        let telltale = Arc::new(Fixed(crate::status::sample(true)));
        let server = tokio::spawn(serve(listener, lock, telltale, stop.clone()));
        let token = Some("token-number-00000001");
        for (path, without, with) in [
            ("livez", 200, 200),
            ("readyz", 200, 200),
            ("health", 401, 200),
            ("status", 401, 200),
            ("metrics", 401, 200),
            ("", 401, 200),
        ] {
            assert_eq!(
                asked(&address, path, &former, None).await,
                Some(without),
                "{path}"
            );
            assert_eq!(asked(&address, path, &former, token).await, Some(with), "{path}");
        }
        assert!(reqwest::get(format!("http://{address}/livez")).await.is_err());

        let renewed = write(2);
        let deadline = std::time::Instant::now() + crate::secrets::LOOK_EVERY * 6;
        let next = Some("token-number-00000002");
        while asked(&address, "status", &renewed, next).await != Some(200) {
            assert!(std::time::Instant::now() < deadline, "never read again");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(asked(&address, "status", &renewed, token).await, Some(401));
        assert_eq!(asked(&address, "livez", &former, None).await, None);
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_leaves_what_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let http = Http {
            token_file: Some(path.clone()),
            ..Http::default()
        };
        let lock = Lock::new(&http).unwrap();
        let guard = lock.guard.clone();
        let admits = |token: &str| {
            let mut headers = axum::http::HeaderMap::new();
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            guard.admits(&headers)
        };
        let renewing = tokio::spawn(lock.renew());
        for (written, admitted) in [
            ("short", "0123456789abcdef"),
            ("fedcba9876543210", "fedcba9876543210"),
        ] {
            std::fs::write(&path, written).unwrap();
            tokio::time::sleep(crate::secrets::LOOK_EVERY * 2).await;
            assert!(
                admits(admitted) && !admits(written) || written == admitted,
                "{written}"
            );
        }
        renewing.abort();
        std::fs::write(&path, "short").unwrap();
        let error = Lock::new(&http).err().unwrap().to_string();
        assert!(
            error.starts_with("http.tokenFile: there is no token in"),
            "{error}"
        );
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
