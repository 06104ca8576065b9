//! What relays say of themselves, over HTTP or HTTPS. Bounded in time, size and number; a relay that does not answer is unknown,
//! never assumed to be well.

use crds::RelayStatus;
use crds::relay_status::SCHEMA_VERSION;
use futures::StreamExt;
use reqwest::StatusCode;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Time for one answer, connecting included: ten times what a busy relay takes.
const TIMEOUT: Duration = Duration::from_secs(2);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests in flight at once, over all resources.
const CONCURRENCY: usize = 64;

/// Requests in flight at once for one resource.
const CONCURRENCY_PER_RESOURCE: usize = 16;

/// A document is some 10 KiB; more than this is not one.
const MAX_BYTES: usize = 512 * 1024;

/// Why a relay is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No answer.
    #[error("the relay does not answer on {0}")]
    Unreachable(String),
    /// The certificate is not one that is trusted, or there is none.
    #[error("no TLS session with the relay on {0}: {1}; see spec.http.tls")]
    Certificate(String, String),
    /// The token is another one.
    #[error(
        "the relay asks for another token than that of spec.http.tokenSecretRef; it reads a changed one within a minute or two"
    )]
    Token,
    /// What relays are to be asked with cannot be used.
    #[error("spec.http: the relays cannot be asked: {0}")]
    Access(String),
    /// An answer that is no status document.
    #[error("the relay's answer is not understood: {0}")]
    NotUnderstood(String),
}

/// What the relays of a resource are asked with.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// They speak TLS.
    pub tls: Option<Trust>,
    /// They ask for this token.
    pub token: Option<String>,
}

/// By what a relay's certificate is checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Trust {
    /// Certificates (PEM) of authorities.
    pub authorities: Vec<u8>,
    /// The name that the certificate must have.
    pub name: String,
}

/// Asks relays.
pub struct Observer {
    http: reqwest::Client,
    limit: Semaphore,
    port: u16,
}

impl Observer {
    /// Asks on this port.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(port: u16) -> Result<Self, reqwest::Error> {
        let http = client().build()?;
        Ok(Self {
            http,
            limit: Semaphore::new(CONCURRENCY),
            port,
        })
    }

    /// Asks all of these, several at once; the answers come in the order of the addresses.
    pub async fn ask_all(&self, addresses: &[IpAddr], access: &Access) -> Vec<Result<RelayStatus, Unknown>> {
        futures::stream::iter(addresses.to_vec())
            .map(|address| self.ask(address, access))
            .buffered(CONCURRENCY_PER_RESOURCE)
            .collect()
            .await
    }

    async fn ask(&self, address: IpAddr, access: &Access) -> Result<RelayStatus, Unknown> {
        let at = SocketAddr::new(address, self.port);
        // The semaphore is never closed.
        let _permit = self.limit.acquire().await;
        let unreachable = |_| Unknown::Unreachable(at.to_string());
        let mut request = match &access.tls {
            None => self.http.get(format!("http://{at}/status")),
            Some(trust) => {
                let http = trusting(trust, at).map_err(|error| Unknown::Access(error.to_string()))?;
                http.get(format!("https://{}:{}/status", trust.name, self.port))
            }
        };
        if let Some(token) = &access.token {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(|error| match causes(&error) {
            Some(cause) if access.tls.is_some() => Unknown::Certificate(at.to_string(), cause),
            _ => unreachable(error),
        })?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(Unknown::Token);
        }
        if !response.status().is_success() {
            return Err(Unknown::NotUnderstood(format!(
                "HTTP status {}",
                response.status().as_u16()
            )));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(Unknown::NotUnderstood(format!("more than {MAX_BYTES} bytes")));
            }
        }
        read(&body)
    }
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        // Pods come and go; an idle connection to one that is gone costs the next answer.
        .pool_max_idle_per_host(0)
        .no_proxy()
}

/// A relay is found by its pod's address, and its certificate names the Service: one client per question, which costs a
/// millisecond.
fn trusting(trust: &Trust, at: SocketAddr) -> Result<reqwest::Client, reqwest::Error> {
    let mut client = client()
        .https_only(true)
        .tls_built_in_root_certs(false)
        .resolve(&trust.name, at);
    for authority in reqwest::Certificate::from_pem_bundle(&trust.authorities)? {
        client = client.add_root_certificate(authority);
    }
    client.build()
}

/// What is wrong with the certificate, if that is why there was no answer.
fn causes(error: &reqwest::Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("certificate") || text.contains("SSL") {
            return Some(text);
        }
        cause = error.source();
    }
    None
}

fn read(body: &[u8]) -> Result<RelayStatus, Unknown> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    let not_understood = |error: serde_json::Error| Unknown::NotUnderstood(error.to_string());
    let Version { schema_version } = serde_json::from_slice(body).map_err(not_understood)?;
    if schema_version != SCHEMA_VERSION {
        return Err(Unknown::NotUnderstood(format!(
            "schemaVersion is {schema_version}; accepted: {SCHEMA_VERSION}"
        )));
    }
    serde_json::from_slice(body).map_err(not_understood)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one request with these bytes after `head`; or not at all.
    async fn responder(answer: Option<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
        });
        port
    }

    /// Answers requests by TLS with a certificate of this name that is returned: 200 to those who have the token.
    async fn locked(name: &str, token: &'static str) -> (u16, Vec<u8>) {
        use openssl::asn1::Asn1Time;
        use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
        let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let mut builder = openssl::x509::X509::builder().unwrap();
        let mut common = openssl::x509::X509Name::builder().unwrap();
        common.append_entry_by_text("CN", "test").unwrap();
        let common = common.build();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&common).unwrap();
        builder.set_issuer_name(&common).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder
            .set_not_before(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::days_from_now(1).unwrap())
            .unwrap();
        let authority = BasicConstraints::new().critical().ca().build().unwrap();
        builder.append_extension(authority).unwrap();
        let names = SubjectAlternativeName::new()
            .dns(name)
            .build(&builder.x509v3_context(None, None))
            .unwrap();
        builder.append_extension(names).unwrap();
        builder
            .sign(&key, openssl::hash::MessageDigest::sha256())
            .unwrap();
        let certificate = builder.build();
        let mut tls =
            openssl::ssl::SslAcceptor::mozilla_intermediate_v5(openssl::ssl::SslMethod::tls()).unwrap();
        tls.set_certificate(&certificate).unwrap();
        tls.set_private_key(&key).unwrap();
        let tls = tls.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = openssl::ssl::Ssl::new(tls.context()).unwrap();
                let mut stream = tokio_openssl::SslStream::new(session, stream).unwrap();
                if std::pin::Pin::new(&mut stream).accept().await.is_err() {
                    continue;
                }
                let mut request = [0; 2048];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let sent = String::from_utf8_lossy(&request[..read]).contains(&format!("Bearer {token}\r\n"));
                let status = if sent { "200 OK" } else { "401 Unauthorized" };
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (port, certificate.to_pem().unwrap())
    }

    #[tokio::test]
    async fn a_locked_relay_is_asked_by_its_authority_its_name_and_its_token() {
        let (port, authorities) = locked("orders-relay.shop.svc", "the-right-token").await;
        let (_, others) = locked("orders-relay.shop.svc", "").await;
        let observer = Observer::new(port).unwrap();
        let access = |authorities: &[u8], name: &str, token: &str| Access {
            tls: Some(Trust {
                authorities: authorities.to_vec(),
                name: name.to_owned(),
            }),
            token: Some(token.to_owned()),
        };
        let name = "orders-relay.shop.svc";
        for (access, expected) in [
            // The answer is no document, but it is there.
            (access(&authorities, name, "the-right-token"), "missing field"),
            (
                access(&authorities, name, "another-token"),
                "asks for another token",
            ),
            (
                access(&authorities, "other-relay.shop.svc", "the-right-token"),
                "no TLS session",
            ),
            (access(&others, name, "the-right-token"), "no TLS session"),
            (access(b"nonsense", name, "the-right-token"), "no TLS session"),
            (Access::default(), "does not answer"),
        ] {
            let answers = observer.ask_all(&["127.0.0.1".parse().unwrap()], &access).await;
            let error = answers[0].clone().unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_status_document_is_unknown() {
        for (answer, expected) in [
            (None, "does not answer"),
            (
                Some("HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n"),
                "HTTP status 503",
            ),
            (
                Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"),
                "expected value",
            ),
            (
                Some("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"schemaVersion\": 9}"),
                "schemaVersion is 9; accepted: 1",
            ),
            (
                Some("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{"),
                "does not answer",
            ),
        ] {
            let observer = Observer::new(responder(answer).await).unwrap();
            let answers = observer
                .ask_all(&["127.0.0.1".parse().unwrap()], &Access::default())
                .await;
            let error = answers[0].clone().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
