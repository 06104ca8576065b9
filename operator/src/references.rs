//! What a resource refers to: Secrets, by name. Read with `get` alone, so that the operator needs no right to list
//! Secrets; a rotation is therefore seen when what was read is read again, by default after a minute, which is also how
//! long a kubelet takes to renew a mount.

use crate::desired::References;
use crate::names::{checksum, server_name};
use crate::observe::{Access, Trust};
use crds::outbox_relay::OutboxRelay;
use crds::secrets::SecretKeyRef;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// How long what was read of a Secret that was missing something is used again: a user waits for this.
const FRESH_BROKEN: Duration = Duration::from_secs(4);

/// Something that a resource refers to is not as it must be. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// No Secret of that name.
    #[error("{field}: there is no Secret {name:?} in this namespace")]
    NoSecret {
        /// The field that names it.
        field: String,
        /// Its name.
        name: String,
    },
    /// The Secret lacks keys.
    #[error("{field}: Secret {name:?} has no key {missing}")]
    NoKey {
        /// The field that names it.
        field: String,
        /// Its name.
        name: String,
        /// The keys, each in quotes.
        missing: String,
    },
}

impl Broken {
    /// The reason in conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSecret { .. } => "SecretNotFound",
            Self::NoKey { .. } => "SecretKeyNotFound",
        }
    }
}

/// What is known of a Secret that exists: a checksum per key.
type Held = BTreeMap<String, String>;

/// When a Secret was read, how long that is used, and what it held; nothing if there is no such Secret.
type Known = (Instant, Duration, Option<Held>);

/// A key of a Secret: its namespace, its name, the key.
type Key = (String, String, String);

/// Reads Secrets and remembers their checksums. Content is kept of those keys alone that relays are asked with.
pub struct Secrets {
    client: Client,
    /// How long what was read of a Secret is used again.
    fresh: Duration,
    /// By namespace and name.
    known: Mutex<HashMap<(String, String), Known>>,
    /// What relays are asked with, and when it was read.
    kept: Mutex<HashMap<Key, (Instant, Vec<u8>)>>,
}

impl Secrets {
    /// Nothing is read yet.
    pub fn new(client: Client, fresh: Duration) -> Self {
        Self {
            client,
            fresh,
            known: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// What the relays of this resource are asked with.
    ///
    /// # Errors
    /// What of it is not there, in words.
    pub async fn access(&self, relay: &OutboxRelay) -> Result<Access, String> {
        let http = &relay.spec.http;
        let mut access = Access::default();
        if let Some(authorities) = http.tls.as_ref().and_then(|tls| tls.ca_secret_ref.as_ref()) {
            let authorities = self.content("http.tls.caSecretRef", relay, authorities).await?;
            let name = server_name(relay);
            access.tls = Some(Trust { authorities, name });
        }
        if let Some(token) = &http.token_secret_ref {
            let token = self.content("http.tokenSecretRef", relay, token).await?;
            let token =
                String::from_utf8(token).map_err(|_| "http.tokenSecretRef: it is no text".to_owned())?;
            access.token = Some(token.trim().to_owned());
        }
        Ok(access)
    }

    async fn content(
        &self,
        field: &str,
        relay: &OutboxRelay,
        named: &SecretKeyRef,
    ) -> Result<Vec<u8>, String> {
        let namespace = relay.namespace().unwrap_or_default();
        let key = (namespace.clone(), named.name.clone(), named.key.clone());
        if let Some((at, content)) = self.kept.lock().get(&key)
            && at.elapsed() < self.fresh
        {
            return Ok(content.clone());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let secret = api.get_opt(&named.name).await;
        let secret = secret.map_err(|error| format!("{field}: {error}"))?;
        let mut data = secret.and_then(|secret| secret.data).unwrap_or_default();
        let content = data.remove(&named.key).map(|content| content.0);
        let content =
            content.ok_or_else(|| format!("{field}: Secret {:?} has no key {:?}", named.name, named.key))?;
        let mut kept = self.kept.lock();
        kept.retain(|_, (at, _)| at.elapsed() < self.fresh);
        kept.insert(key, (Instant::now(), content.clone()));
        Ok(content)
    }

    /// What the resource refers to, or all that is broken about it.
    ///
    /// # Errors
    /// When the API server cannot be asked; then nothing is known.
    pub async fn fetch(&self, relay: &OutboxRelay) -> Result<Result<References, Vec<Broken>>, kube::Error> {
        let namespace = relay.namespace().unwrap_or_default();
        let mut references = References::default();
        let mut broken = Vec::new();
        for (name, keys) in relay.spec.secrets() {
            let held = self.held(&namespace, name, &keys).await?;
            let field = field_of(relay, name);
            match checksum_of(&field, name, held.as_ref(), &keys) {
                Ok(sum) => {
                    references.secrets.insert(name.to_owned(), sum);
                }
                Err(error) => broken.push(error),
            }
        }
        Ok(if broken.is_empty() {
            Ok(references)
        } else {
            Err(broken)
        })
    }

    async fn held(
        &self,
        namespace: &str,
        name: &str,
        wanted: &BTreeSet<&str>,
    ) -> Result<Option<Held>, kube::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((at, fresh, held)) = self.known.lock().get(&key)
            && at.elapsed() < *fresh
        {
            return Ok(held.clone());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = api.get_opt(name).await?;
        let held: Option<Held> = secret.map(|secret| {
            let data = secret.data.unwrap_or_default().into_iter();
            data.map(|(key, value)| (key, checksum(&value.0))).collect()
        });
        let whole = held
            .as_ref()
            .is_some_and(|held| wanted.iter().all(|key| held.contains_key(*key)));
        let fresh = if whole { self.fresh } else { FRESH_BROKEN };
        let mut known = self.known.lock();
        known.retain(|_, (at, fresh, _)| at.elapsed() < *fresh);
        known.insert(key, (Instant::now(), fresh, held.clone()));
        Ok(held)
    }
}

/// One checksum over the keys that are used; other keys of the Secret may change as they like.
fn checksum_of(
    field: &str,
    name: &str,
    held: Option<&BTreeMap<String, String>>,
    wanted: &BTreeSet<&str>,
) -> Result<String, Broken> {
    let (field, name) = (field.to_owned(), name.to_owned());
    let Some(held) = held else {
        return Err(Broken::NoSecret { field, name });
    };
    let missing: Vec<_> = wanted
        .iter()
        .filter(|key| !held.contains_key(**key))
        .map(|key| format!("{key:?}"))
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(Broken::NoKey { field, name, missing });
    }
    let mut text = String::new();
    for key in wanted {
        // Writing to a String does not fail.
        let _ = write!(text, "{key}={};", held[*key]);
    }
    Ok(checksum(text.as_bytes()))
}

/// The first field that names this Secret.
fn field_of(relay: &OutboxRelay, name: &str) -> String {
    let fields = relay.spec.secret_refs();
    let field = fields.iter().find(|named| named.secret == name);
    format!("spec.{}", field.map_or("", |named| named.field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_are_used_count_and_missing_ones_are_named() {
        let held = |password: &str, other: &str| {
            [("username", "u"), ("password", password), ("other", other)]
                .map(|(key, value)| (key.to_owned(), checksum(value.as_bytes())))
                .into()
        };
        let wanted = BTreeSet::from(["username", "password"]);
        let of = |held: &BTreeMap<_, _>| checksum_of("f", "s", Some(held), &wanted).unwrap();
        assert_eq!(of(&held("p", "1")), of(&held("p", "2")));
        assert_ne!(of(&held("p", "1")), of(&held("q", "1")));
        let mut lacking: BTreeMap<_, _> = held("p", "1");
        lacking.remove("password");
        let error =
            checksum_of("spec.source.credentialsSecretRef", "s", Some(&lacking), &wanted).unwrap_err();
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            (
                "SecretKeyNotFound",
                "spec.source.credentialsSecretRef: Secret \"s\" has no key \"password\""
            )
        );
        let error = checksum_of("f", "s", None, &wanted).unwrap_err();
        assert_eq!(error.reason(), "SecretNotFound");
    }
}
