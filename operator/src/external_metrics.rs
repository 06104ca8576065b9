//! The lag of relays as an external metric, for HorizontalPodAutoscalers: an API of its own behind Kubernetes' aggregator.
//!
//! Who asks is found out by the aggregator's client certificate or by a token (delegated authentication); whether they may
//! is asked of the API server (delegated authorization). Values come from the resources' status, so every replica answers
//! alike, as long as one of them leads and keeps that status true.

mod access;
mod certificate;
mod tls;
mod values;

use crate::leader::Led;
use access::{Access, Attributes, Denied};
use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use certificate::Keeper;
use crds::outbox_relay::OutboxRelay;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tls::{Peer, TlsListener};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// API group of external metrics.
pub const GROUP: &str = "external.metrics.k8s.io";

/// Its version.
pub const VERSION: &str = "v1beta1";

/// The one metric: seconds that delivery is behind, over all shares of a resource.
pub const METRIC: &str = "outbox_relay_source_lag_seconds";

/// Certificates and what the API server says of trust are looked at this often. Both change once in months.
const REFRESH: Duration = Duration::from_secs(60);

/// What is told while it cannot be known.
const RETRY: Duration = Duration::from_secs(2);

/// What an external-metrics server is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Namespace of its Service and of the Secret with its certificate.
    pub namespace: String,
    /// Name of its Service, and of the Secret with its certificate.
    pub service: String,
}

struct Server {
    client: Client,
    access: Access,
    led: Arc<Led>,
}

/// Serves until `stop`.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(
    client: Client,
    settings: Settings,
    led: Arc<Led>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(settings.listen).await?;
    info!(listen = %listener.local_addr()?, service = settings.service, "external metrics are served");
    let access = Access::new(client.clone());
    let keeper = Keeper::new(client.clone(), &settings.namespace, &settings.service);
    let mut tasks = tokio::task::JoinSet::new();
    let Some(context) = first(&access, &keeper, &stop).await else {
        return Ok(());
    };
    let listener = TlsListener::new(listener, context, &mut tasks)?;
    let contexts = listener.contexts();
    tasks.spawn({
        let access = access.clone();
        async move {
            loop {
                tokio::time::sleep(REFRESH).await;
                match tls::context(&access, &keeper).await {
                    Ok(context) => contexts.replace(context),
                    Err(error) => warn!(%error, "certificates of the external metrics are not renewed"),
                }
            }
        }
    });
    let server = Arc::new(Server { client, access, led });
    let router = router(server).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn first(access: &Access, keeper: &Keeper, stop: &CancellationToken) -> Option<tls::Context> {
    loop {
        match tls::context(access, keeper).await {
            Ok(context) => return Some(context),
            Err(error) => warn!(%error, "external metrics cannot be served yet"),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route(&format!("/apis/{GROUP}/{VERSION}"), get(resources))
        .route(
            &format!("/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{{metric}}"),
            get(value),
        )
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is no such path") })
        .with_state(server)
}

async fn resources(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    let path = format!("/apis/{GROUP}/{VERSION}");
    if let Err(denied) = server
        .access
        .check(&peer, &headers, &Attributes::Path(&path))
        .await
    {
        return refused(&denied);
    }
    answer(&json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [{
            "name": METRIC, "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"],
        }],
    }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    label_selector: String,
}

async fn value(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((namespace, metric)): Path<(String, String)>,
    Query(selector): Query<Selector>,
    headers: HeaderMap,
) -> Response {
    let attributes = Attributes::Metric {
        namespace: &namespace,
        metric: &metric,
    };
    if let Err(denied) = server.access.check(&peer, &headers, &attributes).await {
        return refused(&denied);
    }
    if metric != METRIC {
        return failure(
            StatusCode::NOT_FOUND,
            &format!("there is no metric {metric:?}; accepted: {METRIC}"),
        );
    }
    if !server.led.is_fresh() {
        return failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "no operator leads, so what is known may be old",
        );
    }
    let wanted = match values::selected(&selector.label_selector) {
        Ok(wanted) => wanted,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let relays: Api<OutboxRelay> = Api::namespaced(server.client.clone(), &namespace);
    let parameters = match &wanted {
        Some(name) => ListParams::default().fields(&format!("metadata.name={name}")),
        None => ListParams::default(),
    };
    match relays.list(&parameters).await {
        Ok(list) => answer(&values::list(&list.items, k8s_openapi::jiff::Timestamp::now())),
        Err(error) => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("the OutboxRelays cannot be read: {error}"),
        ),
    }
}

fn refused(denied: &Denied) -> Response {
    let code = match denied {
        Denied::Unknown => StatusCode::UNAUTHORIZED,
        Denied::Forbidden(_) => StatusCode::FORBIDDEN,
        Denied::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    failure(code, &denied.to_string())
}

fn answer(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// As Kubernetes' own servers say it.
fn failure(code: StatusCode, message: &str) -> Response {
    let reason = match code {
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::BAD_REQUEST => "BadRequest",
        _ => "ServiceUnavailable",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    (code, answer(&status)).into_response()
}
