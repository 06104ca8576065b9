//! The custom resource: an `OutboxRelay` declares one relay from one table to Kafka.

use crate::pods::{DeletionPolicy, Monitoring, Placement, Template};
use crate::problems::Problems;
use crate::relay_config::Http;
use crate::secrets::{CertificateSecretRef, Credentials, CredentialsSecretRef, SecretKeyRef, Tls};
use crate::validation::{Form, check};
use crate::{CircuitBreaker, DeadLetter, Memory, RelayConfig, Retry, Sink, Source, State, Tracing};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[cfg(feature = "kubernetes")]
pub mod definition;
#[cfg(feature = "kubernetes")]
pub mod status;

/// Kind of the custom resource.
pub const KIND: &str = "OutboxRelay";

/// What is wanted of a relay. The smallest one names source.contactPoints, source.keyspace, source.table,
/// sink.bootstrapServers and sink.topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "kubernetes",
    kube(
        group = "outboxrelay.dev",
        version = "v1alpha1",
        kind = "OutboxRelay",
        plural = "outboxrelays",
        singular = "outboxrelay",
        shortname = "obr",
        category = "outbox",
        namespaced,
        status = "status::OutboxRelayStatus",
        derive = "PartialEq",
        doc = "Publishes the rows of a ScyllaDB outbox table to Kafka: never lost, in order per aggregate.",
        scale(
            spec_replicas_path = ".spec.shares",
            status_replicas_path = ".status.shares",
            label_selector_path = ".status.selector"
        ),
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutboxRelaySpec {
    /// Key of all state, `<namespace>.<name>` unless given. Immutable. Give it when the same table is relayed in
    /// another cluster after a move, so that the relay goes on where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The outbox table, and how its CDC log is read.
    pub source: Source,
    /// The Kafka topic that events go to, and the form of messages.
    pub sink: Sink,
    /// How many shares the work is cut into, each read and delivered by a process of its own. With placement Sidecar
    /// there are as many processes as the application has pods, and this is 1.
    pub shares: u32,
    /// Where the relays run.
    pub placement: Placement,
    /// How often and how fast a failed publish is tried again.
    pub retry: Retry,
    /// When the relay stops trying for a while.
    pub circuit_breaker: CircuitBreaker,
    /// Where events go that cannot be delivered.
    pub dead_letter: DeadLetter,
    /// Where the relay keeps its progress.
    pub state: State,
    /// How much one relay process may hold.
    pub memory: Memory,
    /// TLS and a token on the relays' own port, with metrics, status and health.
    pub http: Http,
    /// Spans for OpenTelemetry; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// True: no relay runs. Progress is kept, and delivery goes on from there. Sidecars end with their application, so
    /// they cannot be paused.
    pub paused: bool,
    /// Settings of the relays' pods. The pods of sidecars are the application's own, and these settings are not used.
    pub template: Template,
    /// How the relays are found by Prometheus.
    pub monitoring: Monitoring,
    /// What becomes of the progress in the state keyspace when the resource is deleted.
    pub deletion_policy: DeletionPolicy,
}

impl OutboxRelaySpec {
    /// The configuration of the relays that this resource declares. Secrets are files
    /// `<secrets_dir>/<name of the Secret>/<key>`.
    ///
    /// # Errors
    /// All that is wrong with the specification; paths begin at `spec`.
    pub fn relay_config(
        &self,
        name: &str,
        namespace: &str,
        secrets_dir: &Path,
    ) -> Result<RelayConfig, Problems> {
        let mut problems = Problems::default();
        let config = self.to_config(name, namespace);
        check(&config, Form::Resource, &mut problems);
        self.check_pods(&mut problems);
        problems
            .below("spec")
            .into_result()
            .map(|()| as_file(config, secrets_dir))
    }

    /// The Secrets that the resource names, each with the keys that are used.
    pub fn secrets(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut secrets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for named in self.secret_refs() {
            secrets.entry(named.secret).or_default().extend(named.keys);
        }
        secrets
    }

    /// Every field that names a Secret, in the order of the specification.
    pub fn secret_refs(&self) -> Vec<NamedSecret<'_>> {
        let mut named = Vec::new();
        let Self {
            source, sink, http, ..
        } = self;
        named.extend(of_credentials(
            "source.credentialsSecretRef",
            source.credentials_secret_ref.as_ref(),
        ));
        named.extend(of_tls(
            ["source.tls.caSecretRef", "source.tls.certificateSecretRef"],
            source.tls.as_ref(),
        ));
        named.extend(of_tls(
            ["sink.tls.caSecretRef", "sink.tls.certificateSecretRef"],
            sink.tls.as_ref(),
        ));
        let sasl = sink.sasl.as_ref();
        named.extend(of_credentials(
            "sink.sasl.credentialsSecretRef",
            sasl.and_then(|sasl| sasl.credentials_secret_ref.as_ref()),
        ));
        let token_server = sasl.and_then(|sasl| sasl.oauth_bearer.as_ref());
        named.extend(of_key(
            "sink.sasl.oauthBearer.caSecretRef",
            token_server.and_then(|server| server.ca_secret_ref.as_ref()),
        ));
        let tls = http.tls.as_ref();
        named.extend(of_certificate(
            "http.tls.certificateSecretRef",
            tls.and_then(|tls| tls.certificate_secret_ref.as_ref()),
        ));
        named.extend(of_key(
            "http.tls.caSecretRef",
            tls.and_then(|tls| tls.ca_secret_ref.as_ref()),
        ));
        named.extend(of_key("http.tokenSecretRef", http.token_secret_ref.as_ref()));
        named
    }

    /// Checks what only the operator looks at.
    pub(crate) fn check_pods(&self, problems: &mut Problems) {
        let parts = serde_json::json!({"template": self.template, "monitoring": self.monitoring});
        crate::limits::check(&parts, problems);
        if self.placement == Placement::Sidecar {
            if self.shares != 1 {
                let accepted =
                    "1 with placement Sidecar: the application's pods divide the work among themselves";
                problems.refuse("shares", self.shares, accepted);
            }
            if self.paused {
                let accepted = "false with placement Sidecar: relays end with their application's pods";
                problems.refuse("paused", true, accepted);
            }
        }
    }

    /// The same as a configuration that still names Secrets.
    pub(crate) fn to_config(&self, name: &str, namespace: &str) -> RelayConfig {
        let Self {
            identity,
            source,
            sink,
            shares,
            retry,
            circuit_breaker,
            dead_letter,
            state,
            memory,
            http,
            tracing,
            ..
        } = self.clone();
        RelayConfig {
            identity: identity.unwrap_or_else(|| format!("{namespace}.{name}")),
            source,
            sink,
            shares,
            retry,
            circuit_breaker,
            dead_letter,
            state,
            memory,
            http,
            tracing,
            ..RelayConfig::default()
        }
    }
}

/// A field that names a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSecret<'a> {
    /// The field, within the specification.
    pub field: &'static str,
    /// Name of the Secret.
    pub secret: &'a str,
    /// Its keys that are used.
    pub keys: Vec<&'a str>,
}

fn of_credentials<'a>(
    field: &'static str,
    secret: Option<&'a CredentialsSecretRef>,
) -> Option<NamedSecret<'a>> {
    secret.map(|secret| NamedSecret {
        field,
        secret: &secret.name,
        keys: vec![&secret.username_key, &secret.password_key],
    })
}

fn of_key<'a>(field: &'static str, secret: Option<&'a SecretKeyRef>) -> Option<NamedSecret<'a>> {
    secret.map(|secret| NamedSecret {
        field,
        secret: &secret.name,
        keys: vec![&secret.key],
    })
}

fn of_certificate<'a>(
    field: &'static str,
    secret: Option<&'a CertificateSecretRef>,
) -> Option<NamedSecret<'a>> {
    secret.map(|secret| NamedSecret {
        field,
        secret: &secret.name,
        keys: vec![&secret.certificate_key, &secret.private_key_key],
    })
}

fn of_tls<'a>([ca, certificate]: [&'static str; 2], tls: Option<&'a Tls>) -> Vec<NamedSecret<'a>> {
    let ca = of_key(ca, tls.and_then(|tls| tls.ca_secret_ref.as_ref()));
    let shown = tls.and_then(|tls| tls.certificate_secret_ref.as_ref());
    ca.into_iter().chain(of_certificate(certificate, shown)).collect()
}

/// What relays run with: the files of mounted Secrets where the resource names Secrets, and nothing of what the operator
/// does by itself, which would restart them.
pub(crate) fn as_file(mut config: RelayConfig, dir: &Path) -> RelayConfig {
    config.dead_letter.replay_request = None;
    let RelayConfig {
        source, sink, http, ..
    } = &mut config;
    credentials_from_files(&mut source.credentials_secret_ref, &mut source.credentials, dir);
    if let Some(sasl) = &mut sink.sasl {
        credentials_from_files(&mut sasl.credentials_secret_ref, &mut sasl.credentials, dir);
        if let Some(server) = &mut sasl.oauth_bearer {
            from_file(&mut server.ca_secret_ref, &mut server.ca_file, dir);
        }
    }
    for tls in [&mut source.tls, &mut sink.tls].into_iter().flatten() {
        from_file(&mut tls.ca_secret_ref, &mut tls.ca_file, dir);
        let files = [&mut tls.certificate_file, &mut tls.key_file];
        certificate_from_files(&mut tls.certificate_secret_ref, files, dir);
    }
    from_file(&mut http.token_secret_ref, &mut http.token_file, dir);
    if let Some(tls) = &mut http.tls {
        // Whoever connects checks the certificate, and not the relay.
        tls.ca_secret_ref = None;
        let files = [&mut tls.certificate_file, &mut tls.key_file];
        certificate_from_files(&mut tls.certificate_secret_ref, files, dir);
    }
    config
}

fn from_file(from: &mut Option<SecretKeyRef>, to: &mut Option<PathBuf>, dir: &Path) {
    if let Some(SecretKeyRef { name, key }) = from.take() {
        *to = Some(secret_file(dir, &name, &key));
    }
}

fn certificate_from_files(
    from: &mut Option<CertificateSecretRef>,
    [certificate, private_key]: [&mut Option<PathBuf>; 2],
    dir: &Path,
) {
    if let Some(CertificateSecretRef {
        name,
        certificate_key,
        private_key_key,
    }) = from.take()
    {
        *certificate = Some(secret_file(dir, &name, &certificate_key));
        *private_key = Some(secret_file(dir, &name, &private_key_key));
    }
}

fn credentials_from_files(from: &mut Option<CredentialsSecretRef>, to: &mut Option<Credentials>, dir: &Path) {
    if let Some(CredentialsSecretRef {
        name,
        username_key,
        password_key,
    }) = from.take()
    {
        *to = Some(Credentials {
            username_file: Some(secret_file(dir, &name, &username_key)),
            password_file: Some(secret_file(dir, &name, &password_key)),
            ..Credentials::default()
        });
    }
}

fn secret_file(dir: &Path, name: &str, key: &str) -> PathBuf {
    dir.join(name).join(key)
}

impl Default for OutboxRelaySpec {
    fn default() -> Self {
        let RelayConfig {
            source,
            sink,
            shares,
            retry,
            circuit_breaker,
            dead_letter,
            state,
            memory,
            http,
            ..
        } = RelayConfig::default();
        Self {
            identity: None,
            source,
            sink,
            shares,
            retry,
            circuit_breaker,
            dead_letter,
            state,
            memory,
            http,
            tracing: None,
            placement: Placement::default(),
            paused: false,
            template: Template::default(),
            monitoring: Monitoring::default(),
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_secrets() -> OutboxRelaySpec {
        let spec = "
            source:
              contactPoints: [scylla]
              keyspace: orders_ks
              table: outbox_messages
              credentialsSecretRef: {name: both}
              tls: {caSecretRef: {name: ca, key: scylla.crt}, certificateSecretRef: {name: relay}}
            sink:
              bootstrapServers: ['kafka:9092']
              topic: order-events
              tls: {caSecretRef: {name: ca, key: kafka.crt}, verifyHostname: false, certificateSecretRef: {name: user, certificateKey: user.crt, privateKeyKey: user.key}}
              sasl: {credentialsSecretRef: {name: both, usernameKey: user}}";
        serde_yaml::from_str(spec).unwrap()
    }

    #[test]
    fn all_secrets_are_named_with_their_keys() {
        let secrets: Vec<_> = with_secrets()
            .secrets()
            .into_iter()
            .map(|(name, keys)| format!("{name} {keys:?}"))
            .collect();
        assert_eq!(
            secrets,
            [
                r#"both {"password", "user", "username"}"#,
                r#"ca {"kafka.crt", "scylla.crt"}"#,
                r#"relay {"tls.crt", "tls.key"}"#,
                r#"user {"user.crt", "user.key"}"#,
            ]
        );
    }

    #[test]
    fn the_relay_gets_files_and_no_secret_is_named() {
        let config = with_secrets()
            .relay_config("orders", "shop", Path::new("/s"))
            .unwrap();
        assert_eq!(config.identity, "shop.orders");
        let sasl = config.sink.sasl.as_ref().unwrap().credentials.as_ref().unwrap();
        assert_eq!(sasl.username_file.as_deref(), Some(Path::new("/s/both/user")));
        assert_eq!(sasl.password_file.as_deref(), Some(Path::new("/s/both/password")));
        let tls = config.sink.tls.as_ref().unwrap();
        assert_eq!(
            (tls.ca_file.as_deref(), tls.verify_hostname),
            (Some(Path::new("/s/ca/kafka.crt")), false)
        );
        for (tls, [certificate, key]) in [
            (
                config.source.tls.as_ref().unwrap(),
                ["relay/tls.crt", "relay/tls.key"],
            ),
            (tls, ["user/user.crt", "user/user.key"]),
        ] {
            let named = [&tls.certificate_file, &tls.key_file].map(|file| file.clone().unwrap());
            assert_eq!(named, [certificate, key].map(|path| Path::new("/s").join(path)));
        }
        let file = serde_yaml::to_string(&config).unwrap();
        assert!(!file.contains("SecretRef"), "{file}");
        assert_eq!(crate::load(&file, Path::new("")), Ok(config));
    }

    #[test]
    fn problems_are_named_from_the_resource() {
        let spec = OutboxRelaySpec {
            shares: 0,
            ..with_secrets()
        };
        let problems = spec.relay_config("orders", "shop", Path::new("/s")).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "spec.shares: found 0; accepted: a whole number from 1 to 64"
        );
    }
}
