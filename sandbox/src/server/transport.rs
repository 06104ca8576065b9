//! A client's bytes, plain or by TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use openssl::ssl::{Ssl, SslAcceptor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Transport {
    /// Shakes hands if the node speaks TLS; how long that may take is the caller's to say.
    ///
    /// # Errors
    /// The client speaks no TLS, or not ours.
    pub(super) async fn accept(stream: TcpStream, tls: Option<&SslAcceptor>) -> io::Result<Self> {
        let Some(acceptor) = tls else {
            return Ok(Transport::Plain(stream));
        };
        let session = Ssl::new(acceptor.context())?;
        let mut stream = SslStream::new(session, stream)?;
        Pin::new(&mut stream).accept().await.map_err(io::Error::other)?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    /// Reads what is there already; WouldBlock if nothing is, and always with TLS, where only a real read knows.
    pub(super) fn try_read_buf(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.try_read_buf(input),
            Transport::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes what can be written at once, which may be nothing.
    pub(super) fn try_write(&mut self, output: &[u8]) -> io::Result<usize> {
        let written = match self {
            Transport::Plain(stream) => stream.try_write(output),
            Transport::Tls(_) => return Ok(0),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
