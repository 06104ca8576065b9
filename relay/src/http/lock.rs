//! What the port is locked with: a certificate and a token, read again when their files change.

use crds::relay_config::Http;
use openssl::error::ErrorStack;
use tracing::{info, warn};

use super::guard::Guard;
use super::tls::Contexts;
use crate::secrets::{self, Fingerprint, LOOK_EVERY, SecretError};

/// Why the port cannot be locked as the configuration wants it.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("http.tls: OpenSSL refuses the certificate or its key")]
    Tls(#[from] ErrorStack),
}

/// The certificate and the token of the port; either may be absent.
pub struct Lock {
    http: Http,
    known: Fingerprint,
    pub(super) contexts: Option<Contexts>,
    pub(super) guard: Guard,
}

impl Lock {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn new(http: &Http) -> Result<Self, LockError> {
        let known = secrets::fingerprint(&secrets::files_of_http(http));
        let contexts = secrets::server_certificate(http)?
            .map(Contexts::new)
            .transpose()?;
        let guard = Guard::default();
        guard.ask_for(secrets::token_of_http(http)?.as_deref());
        Ok(Self {
            http: http.clone(),
            known,
            contexts,
            guard,
        })
    }

    /// For ever. What cannot be used leaves what is in use.
    pub async fn renew(mut self) {
        let files = secrets::files_of_http(&self.http);
        if files.is_empty() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = secrets::fingerprint(&files);
            if seen == self.known {
                continue;
            }
            match self.read_again() {
                Ok(()) => info!("http: certificate and token were read again"),
                Err(error) => {
                    warn!(%error, "http: what changed cannot be used; the former certificate and token stay")
                }
            }
            self.known = seen;
        }
    }

    fn read_again(&self) -> Result<(), LockError> {
        let (pair, token) = (
            secrets::server_certificate(&self.http)?,
            secrets::token_of_http(&self.http)?,
        );
        if let (Some(contexts), Some(pair)) = (&self.contexts, pair) {
            contexts.replace(pair)?;
        }
        self.guard.ask_for(token.as_deref());
        Ok(())
    }
}
