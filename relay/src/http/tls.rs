//! TLS connections for the port. Their certificate is replaced while they come in.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslMethod};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_openssl::SslStream;
use tracing::debug;

use crate::secrets::KeyPair;

/// Time for one handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Handshakes at once; further connections wait.
const HANDSHAKES: usize = 64;

/// The wait after a connection that could not be accepted, as when files run out.
const PAUSE: Duration = Duration::from_millis(100);

/// What connections are accepted with from now on.
#[derive(Clone)]
pub(super) struct Contexts(Arc<Mutex<SslContext>>);

impl Contexts {
    /// # Errors
    /// OpenSSL refuses the certificate or its key.
    pub(super) fn new(pair: KeyPair) -> Result<Self, ErrorStack> {
        Ok(Self(Arc::new(Mutex::new(context(pair)?))))
    }

    /// # Errors
    /// OpenSSL refuses the certificate or its key; then the former ones stay.
    pub(super) fn replace(&self, pair: KeyPair) -> Result<(), ErrorStack> {
        *self.0.lock() = context(pair)?;
        Ok(())
    }
}

fn context(pair: KeyPair) -> Result<SslContext, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_certificate(&pair.certificate)?;
    for authority in pair.intermediates {
        builder.add_extra_chain_cert(authority)?;
    }
    builder.set_private_key(&pair.key)?;
    Ok(builder.build().into_context())
}

/// Accepts connections; their handshakes do not wait for each other. Ends with the listener.
pub(super) struct TlsListener {
    connections: mpsc::Receiver<(SslStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl TlsListener {
    /// # Errors
    /// The socket has no address.
    pub(super) fn new(listener: TcpListener, contexts: Contexts) -> std::io::Result<Self> {
        let (sender, connections) = mpsc::channel(HANDSHAKES);
        let address = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, contexts, sender));
        Ok(Self {
            connections,
            address,
            _accepting: accepting,
        })
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
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (context, sender) = (contexts.0.lock().clone(), sender.clone());
        tasks.spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(HANDSHAKE, shake_hands(&context, stream)).await {
                Ok(Ok(stream)) => drop(sender.send((stream, from)).await),
                Ok(Err(error)) => debug!(%error, %from, "no TLS handshake"),
                Err(_) => debug!(%from, "no TLS handshake in time"),
            }
        });
    }
}

async fn shake_hands(
    context: &SslContext,
    stream: TcpStream,
) -> Result<SslStream<TcpStream>, openssl::ssl::Error> {
    let mut stream = SslStream::new(Ssl::new(context)?, stream)?;
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
