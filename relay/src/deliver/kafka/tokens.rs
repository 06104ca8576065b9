//! Tokens for SASL OAUTHBEARER, by the client credentials grant of OAuth 2.0 (RFC 6749, section 4.4). All clients of a
//! process share them, so that the server is asked once per lifetime of a token and not once per client.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crds::sink::OAuthBearer;
use openssl::base64::decode_block;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::runtime::Handle;

use crate::secrets::{Login, SecretError, certificates};

/// Time for one answer. librdkafka's thread waits for it, and reports of messages with it, unless a token is at hand.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A token of which this part of its lifetime is left, or less, is replaced. librdkafka asks for another one when a fifth
/// is left.
const SPENT: f64 = 0.25;

/// Characters of a server's error code that are shown.
const SHOWN: usize = 60;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("sink.sasl.oauthBearer.tokenEndpoint: no answer: {0}")]
    Unreachable(String),
    #[error(
        "sink.sasl.oauthBearer.tokenEndpoint: refused with HTTP status {status}{code}; the client's id and secret \
         (sink.sasl.credentials) or the scope are others than the server knows"
    )]
    Refused { status: StatusCode, code: String },
    #[error("sink.sasl.oauthBearer.tokenEndpoint: its answer is none of an OAuth 2.0 server: {0}")]
    NotUnderstood(&'static str),
}

/// Gets tokens and keeps the newest one. Never shown.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Inner>);

struct Inner {
    server: OAuthBearer,
    login: Login,
    http: reqwest::Client,
    runtime: Handle,
    newest: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    value: String,
    since: SystemTime,
    until: SystemTime,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds.
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Tokens {
    /// Asks nobody yet. `login` is the client's id and secret.
    ///
    /// # Errors
    /// The authorities cannot be read, or there is no asynchronous runtime to ask on.
    pub(super) fn new(server: &OAuthBearer, login: Login) -> Result<Self, TokensError> {
        let mut http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true);
        if let Some(path) = &server.ca_file {
            http = http.tls_built_in_root_certs(false);
            for authority in certificates("sink.sasl.oauthBearer.caFile", path)? {
                let der = authority.to_der().map_err(TokensError::other)?;
                let authority = reqwest::Certificate::from_der(&der).map_err(TokensError::other)?;
                http = http.add_root_certificate(authority);
            }
        }
        Ok(Self(Arc::new(Inner {
            server: server.clone(),
            login,
            http: http.build().map_err(TokensError::other)?,
            runtime: Handle::try_current().map_err(TokensError::other)?,
            newest: Mutex::new(None),
        })))
    }

    /// Blocks for at most [`TIMEOUT`]. Not to be called by a task.
    fn get(&self) -> Result<OAuthToken, TokenError> {
        let mut newest = self.0.newest.lock();
        let kept = newest.clone().filter(|token| token.lasts(SystemTime::now()));
        let token = match kept {
            Some(token) => token,
            None => self.0.runtime.block_on(self.0.ask())?,
        };
        *newest = Some(token.clone());
        Ok(OAuthToken {
            principal_name: self.0.login.username.clone(),
            lifetime_ms: milliseconds(token.until),
            token: token.value,
        })
    }
}

/// Why tokens cannot even be asked for.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("sink.sasl.oauthBearer: {0}")]
    Other(String),
}

impl TokensError {
    fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

impl Inner {
    async fn ask(&self) -> Result<Token, TokenError> {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.server.scope.as_deref().map(|scope| ("scope", scope)));
        let since = SystemTime::now();
        let sent = self
            .http
            .post(&self.server.token_endpoint)
            .basic_auth(&self.login.username, Some(&self.login.password))
            .form(&form)
            .send()
            .await;
        let answer = sent.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        if !status.is_success() {
            let code = refusal(&body);
            return Err(TokenError::Refused { status, code });
        }
        token(&body, since)
    }
}

/// With its causes, of which the last says what happened.
fn unreachable(error: reqwest::Error) -> TokenError {
    TokenError::Unreachable(format!("{:#}", anyhow::Error::new(error)))
}

/// The error code of RFC 6749, section 5.2, if there is one.
fn refusal(body: &[u8]) -> String {
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    let is_code = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let code = refusal.map(|refusal| {
        refusal
            .error
            .chars()
            .filter(is_code)
            .take(SHOWN)
            .collect::<String>()
    });
    code.filter(|code| !code.is_empty())
        .map_or_else(String::new, |code| format!(" ({code})"))
}

/// The token of an answer that was asked for at `since`. How long it lasts the answer says, or the token itself.
fn token(body: &[u8], since: SystemTime) -> Result<Token, TokenError> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| TokenError::NotUnderstood("there is no access_token"))?;
    let said = answer
        .expires_in
        .and_then(|seconds| since.checked_add(Duration::from_secs(seconds)));
    let until = said.or_else(|| expiry(&answer.access_token));
    let until = until.ok_or(TokenError::NotUnderstood(
        "neither it nor its token says when the token expires",
    ))?;
    Ok(Token {
        value: answer.access_token,
        since,
        until,
    })
}

/// When a JSON Web Token expires.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let mut payload = token.split('.').nth(1)?.replace('-', "+").replace('_', "/");
    while !payload.len().is_multiple_of(4) {
        payload.push('=');
    }
    let claims: Claims = serde_json::from_slice(&decode_block(&payload).ok()?).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

impl Token {
    fn lasts(&self, now: SystemTime) -> bool {
        let lifetime = self.until.duration_since(self.since).unwrap_or_default();
        let left = self.until.duration_since(now).unwrap_or_default();
        left > lifetime.mul_f64(SPENT)
    }
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What librdkafka's clients are made with: it gives them tokens, where they need some.
#[derive(Clone, Default)]
pub struct Authentication(pub(super) Option<Tokens>);

impl Authentication {
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.0 {
            Some(tokens) => Ok(tokens.get()?),
            None => Err("sink.sasl.oauthBearer: it is not configured".into()),
        }
    }
}

impl ClientContext for Authentication {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lasts_as_the_answer_says_or_as_it_says_itself() {
        let since = UNIX_EPOCH + Duration::from_secs(1_000);
        let until = |body: &str| {
            token(body.as_bytes(), since)
                .map(|token| token.until.duration_since(UNIX_EPOCH).unwrap().as_secs())
                .map_err(|error| error.to_string())
        };
        let payload = openssl::base64::encode_block(br#"{"sub":"relay","exp":5000}"#).replace('=', "");
        assert_eq!(until(r#"{"access_token":"opaque","expires_in":300}"#), Ok(1_300));
        assert_eq!(
            until(&format!(r#"{{"access_token":"h.{payload}.s"}}"#)),
            Ok(5_000)
        );
        for (body, expected) in [
            (r#"{"access_token":"opaque"}"#, "when the token expires"),
            (r#"{"access_token":"a.b.c"}"#, "when the token expires"),
            (r#"{"token":"x"}"#, "no access_token"),
            ("<html>", "no access_token"),
        ] {
            let error = until(body).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn a_token_is_replaced_before_librdkafka_asks() {
        let token = Token {
            value: String::new(),
            since: UNIX_EPOCH,
            until: UNIX_EPOCH + Duration::from_secs(100),
        };
        let lasts = |seconds| token.lasts(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!([0, 74, 76, 80, 101].map(lasts), [true, true, false, false, false]);
    }

    #[test]
    fn of_a_refusal_only_the_code_is_shown() {
        for (body, expected) in [
            (
                r#"{"error":"invalid_client","error_description":"x"}"#,
                " (invalid_client)",
            ),
            (r#"{"error":"in\nvalid"}"#, " (invalid)"),
            ("<html>", ""),
        ] {
            assert_eq!(refusal(body.as_bytes()), expected);
        }
    }
}
