//! Who asks, and whether they may: both are for the API server to say.

use super::tls::Peer;
use super::{GROUP, VERSION};
use axum::http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a permission is used again: an autoscaler asks every 15 s, and each of a thousand asks for itself.
const ALLOWED_FOR: Duration = Duration::from_secs(60);

/// Permissions that are remembered. Beyond that all are asked for again.
const MAX_ALLOWED: usize = 4096;

/// Where an API server publishes how its aggregator proves who it is.
const TRUST: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

/// Why somebody gets no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("who asks is not known; accepted: the aggregator's client certificate, or a bearer token")]
    Unknown,
    #[error("{0} may not read this")]
    Forbidden(String),
    #[error("the API server cannot be asked: {0}")]
    Unavailable(#[from] Box<kube::Error>),
}

/// What somebody asks for.
pub(super) enum Attributes<'a> {
    Path(&'a str),
    Metric { namespace: &'a str, metric: &'a str },
}

/// What the API server publishes of its aggregator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trust {
    /// Authorities of the aggregator's client certificate, in PEM.
    pub(super) authorities: String,
    /// Common names that the certificate may have; any if there are none.
    names: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
struct User {
    name: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Asks the API server, and remembers for a while what it allowed.
#[derive(Clone)]
pub(super) struct Access {
    client: Client,
    trust: Arc<Mutex<Trust>>,
    allowed: Arc<Mutex<HashMap<(User, String), Instant>>>,
}

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            trust: Arc::default(),
            allowed: Arc::default(),
        }
    }

    /// Reads what the API server publishes now.
    pub(super) async fn trust(&self) -> Result<Trust, kube::Error> {
        let (namespace, name) = TRUST;
        let published: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let trust = Trust::read(&published.get(name).await?.data.unwrap_or_default());
        *self.trust.lock() = trust.clone();
        Ok(trust)
    }

    pub(super) async fn check(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        asked: &Attributes<'_>,
    ) -> Result<(), Denied> {
        let trust = self.trust.lock().clone();
        let user = match trust.user(peer.name.as_deref(), headers) {
            Some(user) => user,
            None => self.user_of_token(headers).await?,
        };
        let what = match asked {
            Attributes::Path(path) => (*path).to_owned(),
            Attributes::Metric { namespace, metric } => format!("{namespace}/{metric}"),
        };
        let key = (user, what);
        let known = self.allowed.lock().get(&key).copied();
        if known.is_some_and(|at| at.elapsed() < ALLOWED_FOR) {
            return Ok(());
        }
        if !self.may(&key.0, asked).await? {
            return Err(Denied::Forbidden(key.0.name));
        }
        let mut allowed = self.allowed.lock();
        if allowed.len() >= MAX_ALLOWED {
            allowed.clear();
        }
        allowed.insert(key, Instant::now());
        Ok(())
    }

    async fn user_of_token(&self, headers: &HeaderMap) -> Result<User, Denied> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or(Denied::Unknown)?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await;
        let status = reviewed.map_err(Box::new)?.status.unwrap_or_default();
        match status.user {
            Some(user) if status.authenticated == Some(true) => Ok(User {
                name: user.username.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }),
            _ => Err(Denied::Unknown),
        }
    }

    async fn may(&self, user: &User, asked: &Attributes<'_>) -> Result<bool, Denied> {
        let mut spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            ..SubjectAccessReviewSpec::default()
        };
        match asked {
            Attributes::Path(path) => {
                spec.non_resource_attributes = Some(NonResourceAttributes {
                    path: Some((*path).to_owned()),
                    verb: Some("get".to_owned()),
                });
            }
            Attributes::Metric { namespace, metric } => {
                spec.resource_attributes = Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    version: Some(VERSION.to_owned()),
                    resource: Some((*metric).to_owned()),
                    namespace: Some((*namespace).to_owned()),
                    // As the API server takes a path that ends with the resource.
                    verb: Some("list".to_owned()),
                    ..ResourceAttributes::default()
                });
            }
        }
        let review = SubjectAccessReview {
            spec,
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await;
        let status = reviewed.map_err(Box::new)?.status;
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

impl Trust {
    fn read(data: &BTreeMap<String, String>) -> Self {
        let list = |key: &str| -> Vec<String> {
            let text = data.get(key).map(String::as_str).unwrap_or_default();
            serde_json::from_str(text).unwrap_or_default()
        };
        Self {
            authorities: data
                .get("requestheader-client-ca-file")
                .cloned()
                .unwrap_or_default(),
            names: list("requestheader-allowed-names"),
            user_headers: list("requestheader-username-headers"),
            group_headers: list("requestheader-group-headers"),
            extra_prefixes: list("requestheader-extra-headers-prefix"),
        }
    }

    /// Whom the aggregator asks for. `peer` is the common name of a client certificate that was verified: without one
    /// anybody could write these headers.
    fn user(&self, peer: Option<&str>, headers: &HeaderMap) -> Option<User> {
        let peer = peer?;
        if !self.names.is_empty() && !self.names.iter().any(|name| name == peer) {
            return None;
        }
        let values = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .filter_map(|value| Some(value.to_str().ok()?.to_owned()))
                .collect()
        };
        let name = self
            .user_headers
            .iter()
            .find_map(|header| values(header).into_iter().next())?;
        let groups = self
            .group_headers
            .iter()
            .flat_map(|header| values(header))
            .collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for header in headers.keys() {
            let of = |prefix: &String| {
                let rest = header.as_str().strip_prefix(&prefix.to_ascii_lowercase())?;
                Some(rest.to_owned())
            };
            if let Some(key) = self.extra_prefixes.iter().find_map(of) {
                extra.insert(key, values(header.as_str()));
            }
        }
        Some(User { name, groups, extra })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(names: &str) -> Trust {
        let data = [
            ("requestheader-client-ca-file", "pem"),
            ("requestheader-allowed-names", names),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ];
        Trust::read(&data.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
    }

    #[test]
    fn headers_count_only_beside_the_certificate_of_the_aggregator() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "jane"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-scopes", "s"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let jane = User {
            name: "jane".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: [("scopes".to_owned(), vec!["s".to_owned()])].into(),
        };
        let only = trust(r#"["aggregator"]"#);
        assert_eq!(only.user(Some("aggregator"), &headers), Some(jane.clone()));
        assert_eq!(only.user(Some("another"), &headers), None);
        assert_eq!(only.user(None, &headers), None);
        assert_eq!(trust("[]").user(Some("any"), &headers), Some(jane));
        assert_eq!(only.user(Some("aggregator"), &HeaderMap::new()), None);
    }
}
