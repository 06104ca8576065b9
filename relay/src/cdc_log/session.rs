//! The session to ScyllaDB.

use std::sync::Arc;
use std::time::Duration;

use crds::Source;
use crds::secrets::Tls;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509VerifyResult;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::OpenSsl010Config;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;

use crate::secrets::{KeyPair, SecretError, client_certificate, login};

/// Time for one connection attempt; another node or another attempt is better than waiting longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// ScyllaDB's port where a contact point does not name one.
const DEFAULT_PORT: u16 = 9042;

/// OpenSSL's `X509_V_ERR_IP_ADDRESS_MISMATCH`.
const IP_ADDRESS_MISMATCH: i32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("source.tls: cannot use the certificates")]
    Tls(#[source] openssl::error::ErrorStack),
    #[error(
        "source.tls: no TLS session with {contact_points}; the authority (caFile), the names (verifyHostname), or the \
         client certificate is another one than is asked for"
    )]
    Handshake {
        contact_points: String,
        #[source]
        source: Box<scylla::errors::NewSessionError>,
    },
    #[error("source.credentials: {contact_points} refuses the login")]
    Login {
        contact_points: String,
        #[source]
        source: Box<scylla::errors::NewSessionError>,
    },
    #[error("source.contactPoints: no session to {contact_points}")]
    Unreachable {
        contact_points: String,
        #[source]
        source: Box<scylla::errors::NewSessionError>,
    },
}

impl ConnectError {
    /// Stable name for metric labels, condition reasons and log fields.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Secret(_) | Self::Login { .. } => "SourceCredentials",
            Self::Tls(_) | Self::Handshake { .. } => "SourceTls",
            Self::Unreachable { .. } => "SourceUnavailable",
        }
    }
}

/// Connects as the configuration says. One session serves log, state and dead letters.
///
/// # Errors
/// Secrets or certificates that cannot be read, or no node that lets us in.
pub async fn connect(source: &Source) -> Result<Arc<Session>, ConnectError> {
    let mut builder = SessionBuilder::new()
        .known_nodes(source.contact_points.iter().map(|point| with_port(point)))
        .connection_timeout(CONNECT_TIMEOUT)
        .default_execution_profile_handle(profile(source).into_handle());
    if let Some(credentials) = &source.credentials {
        let login = login("source.credentials", credentials)?;
        builder = builder.user(login.username, login.password);
    }
    if let Some(tls) = &source.tls {
        let certificate = client_certificate("source.tls", tls)?;
        let context = tls_context(tls, certificate).map_err(ConnectError::Tls)?;
        builder = builder.tls_context(Some(context));
    }
    match builder.build().await {
        Ok(session) => Ok(Arc::new(session)),
        Err(error) => {
            let contact_points = source.contact_points.join(", ");
            let source = Box::new(error);
            Err(if is_about_login(&source) {
                ConnectError::Login {
                    contact_points,
                    source,
                }
            } else if says(&source, &["SSL", "certificate"]) {
                ConnectError::Handshake {
                    contact_points,
                    source,
                }
            } else {
                ConnectError::Unreachable {
                    contact_points,
                    source,
                }
            })
        }
    }
}

/// The driver has a variant for each place where this can come up, and more with each version; their texts all say it.
fn is_about_login(error: &scylla::errors::NewSessionError) -> bool {
    says(error, &["Authentication failed", "uthentication is required"])
}

/// Whether the error or one of its causes says one of these.
fn says(error: &scylla::errors::NewSessionError, texts: &[&str]) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if texts.iter().any(|text| said.contains(text)) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn profile(source: &Source) -> ExecutionProfile {
    let mut balancing = DefaultPolicy::builder();
    if let Some(datacenter) = &source.local_datacenter {
        balancing = balancing.prefer_datacenter(datacenter.clone());
    }
    ExecutionProfile::builder()
        .load_balancing_policy(balancing.build())
        .build()
}

fn tls_context(
    tls: &Tls,
    certificate: Option<KeyPair>,
) -> Result<OpenSsl010Config, openssl::error::ErrorStack> {
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    if tls.verify_hostname {
        connector.set_verify(SslVerifyMode::PEER);
    } else {
        // The driver asks for the node's address in every certificate; who signed it is still checked.
        connector.set_verify_callback(SslVerifyMode::PEER, |valid, chain| {
            let other_address = chain.error().as_raw() == IP_ADDRESS_MISMATCH;
            if other_address {
                chain.set_error(X509VerifyResult::OK);
            }
            valid || other_address
        });
    }
    match &tls.ca_file {
        Some(path) => connector.set_ca_file(path)?,
        // The OpenSSL that is built in looks where nobody keeps certificates.
        None => {
            if let Some(path) = openssl_probe::probe().cert_file {
                connector.set_ca_file(path)?;
            }
        }
    }
    if let Some(pair) = certificate {
        connector.set_certificate(&pair.certificate)?;
        for authority in pair.intermediates {
            connector.add_extra_chain_cert(authority)?;
        }
        connector.set_private_key(&pair.key)?;
    }
    Ok(OpenSsl010Config::new(connector))
}

fn with_port(contact_point: &str) -> String {
    let has_port = contact_point.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port {
        contact_point.to_owned()
    } else {
        format!("{contact_point}:{DEFAULT_PORT}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_points_get_the_default_port() {
        for (given, expected) in [
            ("db", "db:9042"),
            ("db:9043", "db:9043"),
            ("10.0.0.1", "10.0.0.1:9042"),
            ("[::1]:9043", "[::1]:9043"),
            ("[::1]", "[::1]:9042"),
        ] {
            assert_eq!(with_port(given), expected);
        }
    }
}
