//! TLS connections, and whose client certificate they came with.

use super::access::Access;
use super::certificate::{CertificateError, Keeper};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_openssl::SslStream;
use tracing::debug;

/// Time for one handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Handshakes at once; further connections wait.
const HANDSHAKES: usize = 64;

/// What connections are accepted with.
#[derive(Clone)]
pub(super) struct Context(SslContext);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContextError {
    #[error("what the API server publishes of its aggregator cannot be read: {0}")]
    Trust(#[source] Box<kube::Error>),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] ErrorStack),
}

/// A context of what is published and kept now.
pub(super) async fn context(access: &Access, keeper: &Keeper) -> Result<Context, ContextError> {
    let trust = access
        .trust()
        .await
        .map_err(|error| ContextError::Trust(Box::new(error)))?;
    let pair = keeper.keep().await?;
    keeper.publish(&pair).await?;
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    let certificate = X509::from_pem(&pair.certificate)?;
    let key = PKey::private_key_from_pem(&pair.key)?;
    builder.set_certificate(&certificate)?;
    builder.set_private_key(&key)?;
    let mut authorities = X509StoreBuilder::new()?;
    for authority in X509::stack_from_pem(trust.authorities.as_bytes())? {
        builder.add_client_ca(&authority)?;
        authorities.add_cert(authority)?;
    }
    builder.set_verify_cert_store(authorities.build())?;
    // A certificate is not asked of everybody: a token will do. One that is shown must be the aggregator's.
    builder.set_verify(SslVerifyMode::PEER);
    // Without one, whoever resumes a session would be refused.
    builder.set_session_id_context(b"external-metrics")?;
    Ok(Context(builder.build().into_context()))
}

/// The context that connections are accepted with from now on.
#[derive(Clone)]
pub(super) struct Contexts(Arc<Mutex<Context>>);

impl Contexts {
    pub(super) fn replace(&self, context: Context) {
        *self.0.lock() = context;
    }
}

/// Accepts connections; their handshakes do not wait for each other.
pub(super) struct TlsListener {
    connections: mpsc::Receiver<(SslStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    contexts: Contexts,
}

impl TlsListener {
    pub(super) fn new(
        listener: TcpListener,
        context: Context,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<Self> {
        let (sender, connections) = mpsc::channel(HANDSHAKES);
        let contexts = Contexts(Arc::new(Mutex::new(context)));
        let address = listener.local_addr()?;
        tasks.spawn(accept(listener, contexts.clone(), sender));
        Ok(Self {
            connections,
            address,
            contexts,
        })
    }

    pub(super) fn contexts(&self) -> Contexts {
        self.contexts.clone()
    }
}

async fn accept(
    listener: TcpListener,
    contexts: Contexts,
    sender: mpsc::Sender<(SslStream<TcpStream>, SocketAddr)>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(permit) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "no connection could be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (context, sender) = (contexts.0.lock().clone(), sender.clone());
        tasks.spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(HANDSHAKE, shake_hands(&context, stream)).await {
                Ok(Ok(stream)) => drop(sender.send((stream, from)).await),
                Ok(Err(error)) => debug!(%error, %from, "a handshake failed"),
                Err(_) => debug!(%from, "a handshake took too long"),
            }
        });
    }
}

async fn shake_hands(
    context: &Context,
    stream: TcpStream,
) -> Result<SslStream<TcpStream>, openssl::ssl::Error> {
    let mut stream = SslStream::new(Ssl::new(&context.0)?, stream)?;
    Pin::new(&mut stream).accept().await?;
    Ok(stream)
}

impl Listener for TlsListener {
    type Io = SslStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The task that accepts has ended with the process.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// Common name of a client certificate, which was verified.
    pub(super) name: Option<String>,
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let certificate = stream.io().ssl().peer_certificate();
        let name = certificate.and_then(|certificate| {
            let name = certificate.subject_name();
            let entry = name.entries_by_nid(Nid::COMMONNAME).next()?;
            entry.data().to_string().ok()
        });
        Self { name }
    }
}
