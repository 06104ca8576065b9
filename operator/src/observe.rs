//! What relays say of themselves, over HTTP. Bounded in time, size and number; a relay that does not answer is unknown,
//! never assumed to be well.

use crds::RelayStatus;
use crds::relay_status::SCHEMA_VERSION;
use futures::StreamExt;
use std::net::IpAddr;
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
    /// An answer that is no status document.
    #[error("the relay's answer is not understood: {0}")]
    NotUnderstood(String),
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
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // Pods come and go; an idle connection to one that is gone costs the next answer.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            limit: Semaphore::new(CONCURRENCY),
            port,
        })
    }

    /// Asks all of these, several at once; the answers come in the order of the addresses.
    pub async fn ask_all(&self, addresses: &[IpAddr]) -> Vec<Result<RelayStatus, Unknown>> {
        futures::stream::iter(addresses.to_vec())
            .map(|address| self.ask(address))
            .buffered(CONCURRENCY_PER_RESOURCE)
            .collect()
            .await
    }

    async fn ask(&self, address: IpAddr) -> Result<RelayStatus, Unknown> {
        let at = std::net::SocketAddr::new(address, self.port);
        // The semaphore is never closed.
        let _permit = self.limit.acquire().await;
        let unreachable = |_| Unknown::Unreachable(at.to_string());
        let mut response = self
            .http
            .get(format!("http://{at}/status"))
            .send()
            .await
            .map_err(unreachable)?;
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
            let answers = observer.ask_all(&["127.0.0.1".parse().unwrap()]).await;
            let error = answers[0].clone().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
