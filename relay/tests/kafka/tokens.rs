//! An OAuth 2.0 server with one client, whose tokens the secure broker takes, and relays that log in with them.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crds::Memory;
use crds::secrets::Credentials;
use crds::sink::{OAuthBearer, Sasl, SaslMechanism};
use openssl::base64::encode_block;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod};
use relay::deliver::kafka::{KafkaBroker, KafkaJournal, KafkaSettings};
use relay::ports::{Journal as _, TransactionalBroker as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_openssl::SslStream;

use crate::A_WHILE;
use crate::fed::{Relay, wait_until};
use crate::rows;
use crate::security::Secure;

/// How long a token lasts: a few refreshes are a matter of seconds.
const SECONDS: u64 = 5;

const SECRET: &str = "client-secret";

/// Ends when it is dropped.
struct TokenServer {
    endpoint: String,
    /// Tokens that were given out.
    given: Arc<AtomicU32>,
    _task: JoinSet<()>,
}

impl TokenServer {
    /// `folder` has the keys of the broker and of the tokens; `audience` is whom tokens are for.
    async fn start(folder: PathBuf, audience: &'static str) -> Self {
        let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        tls.set_certificate_chain_file(folder.join("broker.crt")).unwrap();
        tls.set_private_key_file(folder.join("broker.key"), SslFiletype::PEM)
            .unwrap();
        let tls = tls.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}/token", listener.local_addr().unwrap());
        let given = Arc::new(AtomicU32::new(0));
        let (counted, mut task) = (given.clone(), JoinSet::new());
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = SslStream::new(Ssl::new(tls.context()).unwrap(), stream).unwrap();
                // Clients that do not trust it go away, and the next one is served.
                let _ = serve(stream, &folder, audience, &counted).await;
            }
        });
        Self {
            endpoint,
            given,
            _task: task,
        }
    }

    fn given(&self) -> u32 {
        self.given.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut stream: SslStream<TcpStream>,
    folder: &Path,
    audience: &str,
    given: &AtomicU32,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Pin::new(&mut stream).accept().await?;
    let mut request = String::new();
    while !request.contains("client_credentials") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await?;
        if read == 0 {
            return Ok(());
        }
        request.push_str(std::str::from_utf8(&part[..read])?);
    }
    let login = format!("Basic {}", encode_block(format!("relay:{SECRET}").as_bytes()));
    let (status, body) = if !request.contains(&login) {
        ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned())
    } else if !request.contains("scope=publish+orders") && !request.contains("scope=publish%20orders") {
        ("400 Bad Request", r#"{"error":"invalid_scope"}"#.to_owned())
    } else {
        given.fetch_add(1, Ordering::Relaxed);
        let token = json_web_token(folder, audience);
        (
            "200 OK",
            format!(r#"{{"access_token":"{token}","expires_in":{SECONDS}}}"#),
        )
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

fn json_web_token(folder: &Path, audience: &str) -> String {
    let url_safe = |bytes: &[u8]| {
        encode_block(bytes)
            .replace('+', "-")
            .replace('/', "_")
            .replace('=', "")
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({"sub": "relay", "aud": audience, "iat": now, "exp": now + SECONDS});
    let signed = format!(
        "{}.{}",
        url_safe(br#"{"alg":"RS256","kid":"tokens"}"#),
        url_safe(claims.to_string().as_bytes())
    );
    let key = PKey::private_key_from_pem(&std::fs::read(folder.join("tokens.key")).unwrap()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    let signature = signer.sign_oneshot_to_vec(signed.as_bytes()).unwrap();
    format!("{signed}.{}", url_safe(&signature))
}

/// A login by tokens of this server.
fn sasl(secure: &Secure, server: &TokenServer, secret: &str) -> Option<Sasl> {
    let file = secure.secrets.path().join(secret);
    std::fs::write(&file, secret).unwrap();
    Some(Sasl {
        mechanism: SaslMechanism::OAuthBearer,
        credentials: Some(Credentials {
            username: Some("relay".to_owned()),
            password_file: Some(file),
            ..Credentials::default()
        }),
        oauth_bearer: Some(OAuthBearer {
            token_endpoint: server.endpoint.clone(),
            scope: Some("publish orders".to_owned()),
            ca_file: Some(secure.cluster.listener("CA").into()),
            ..OAuthBearer::default()
        }),
        ..Sasl::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_before_they_expire_and_a_wrong_secret_says_so() {
    let secure = Secure::start("tokens").await;
    let folder = PathBuf::from(secure.cluster.listener("CA"));
    let folder = folder.parent().unwrap().to_owned();
    let server = TokenServer::start(folder.clone(), "kafka").await;
    let sink = |sasl| secure.sink("SASL_SSL", secure.tls(), sasl);
    let relay = Relay::start_with(sink(sasl(&secure, &server, SECRET)));
    for round in 0..4 {
        let before = server.given();
        relay.offer(rows(round * 20..(round + 1) * 20, 3)).await;
        relay.delivered((round + 1) * 20).await;
        wait_until("another token", A_WHILE, || server.given() > before).await;
    }
    let messages = secure.cluster.read(&secure.topic).await;
    messages.in_order_exactly(3, 0..80);
    relay.stop().await;

    // Exactly once has clients of its own, for topics, transactions and the journal.
    let login = sasl(&secure, &server, SECRET);
    let settings = KafkaSettings::new(&sink(login), &Memory::default(), "test").unwrap();
    let broker = KafkaBroker::new(settings, false).unwrap();
    let journal = KafkaJournal::new(broker.clone(), "tokens", "tokens-journal");
    let error = journal.prepare().await.unwrap_err().to_string();
    assert!(
        error.contains("accepted: a topic that was made before"),
        "{error}"
    );
    let compacted = [("cleanup.policy", "compact")];
    secure.cluster.topic("tokens-journal", 1, &compacted).await;
    journal.prepare().await.unwrap();
    journal.survey().await.unwrap();
    broker.fence("tokens/1/1").await.unwrap();

    let refused = ["Authentication: ", "invalid_client", "sink.sasl.credentials"];
    secure
        .waits_because(sink(sasl(&secure, &server, "another-secret")), &refused)
        .await;
    let elsewhere = TokenServer::start(folder, "another-audience").await;
    secure
        .waits_because(sink(sasl(&secure, &elsewhere, SECRET)), &["Authentication: "])
        .await;
}
