//! Who may ask: whoever has the token, if there is one. A browser sends it as the password of any user.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use openssl::base64::decode_block;
use openssl::memcmp;
use openssl::sha::sha256;
use parking_lot::Mutex;

/// Lets those in who have the token. Keeps its digest alone, so that comparing takes the same time whatever is sent.
#[derive(Clone, Default)]
pub(super) struct Guard(Arc<Mutex<Option<[u8; 32]>>>);

impl Guard {
    /// From now on this token; None asks for none.
    pub(super) fn ask_for(&self, token: Option<&str>) {
        *self.0.lock() = token.map(|token| sha256(token.as_bytes()));
    }

    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(wanted) = *self.0.lock() else { return true };
        let sent = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| sent_token(value.as_bytes()));
        sent.is_some_and(|sent| memcmp::eq(&sha256(&sent), &wanted))
    }
}

/// The token in a header of the scheme Bearer or Basic.
fn sent_token(header: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("Bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let login = decode_block(rest).ok()?;
    let colon = login.iter().position(|byte| *byte == b':')?;
    Some(login[colon + 1..].to_vec())
}

/// Answers 401 to whoever does not have the token.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if guard.admits(request.headers()) {
        return next.run(request).await;
    }
    let mut refused = (StatusCode::UNAUTHORIZED, "the token is missing or another one\n").into_response();
    for scheme in ["Bearer", "Basic realm=\"outbox-relay\""] {
        let headers = refused.headers_mut();
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_admitted_in_either_scheme() {
        let guard = Guard::default();
        let admitted = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            guard.admits(&headers)
        };
        assert!(admitted(None));
        guard.ask_for(Some("0123456789abcdef"));
        let basic = |login: &str| format!("Basic {}", openssl::base64::encode_block(login.as_bytes()));
        for right in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef"] {
            assert!(admitted(Some(right)), "{right}");
        }
        assert!(admitted(Some(&basic("anybody:0123456789abcdef"))));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdefg",
            "0123456789abcdef",
            "Digest 0123456789abcdef",
            "Basic 0123456789abcdef",
            "Basic ?",
        ] {
            assert!(!admitted(Some(wrong)), "{wrong}");
        }
        assert!(!admitted(None) && !admitted(Some(&basic("0123456789abcdef:"))));
        guard.ask_for(Some("another-0123456789"));
        assert!(!admitted(Some("Bearer 0123456789abcdef")));
    }
}
