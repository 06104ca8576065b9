//! A node that listens: its accept loop and the tasks of its connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::transport::Transport;
use super::{Shared, connection};

/// Pause after a failed accept (out of file descriptors, mostly), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

pub(super) struct RunningNode {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl RunningNode {
    pub(super) fn start(shared: Arc<Shared>, node: usize, listener: TcpListener) -> Self {
        let running = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (stop, tasks) = (running.stop.clone(), running.tasks.clone());
        running.tasks.spawn(async move {
            let accepting = accept(shared, node, listener, stop.clone(), tasks);
            stop.run_until_cancelled(accepting).await;
        });
        running
    }

    /// Closes the port and all connections; returns when they are closed.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(
    shared: Arc<Shared>,
    node: usize,
    listener: TcpListener,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(node, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
            tracing::warn!(
                node,
                limit = super::MAX_CONNECTIONS,
                "connection refused: too many are open"
            );
            continue;
        };
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move {
            let _permit = permit;
            stop.run_until_cancelled(converse(stream, shared, node)).await;
        });
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>, node: usize) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(node, %error, "TCP_NODELAY not set");
    }
    let accepting = Transport::accept(stream, shared.tls.as_ref());
    let stream = match tokio::time::timeout(connection::HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(node, %error, "no TLS handshake"),
        Err(_) => return tracing::debug!(node, "no TLS handshake in time"),
    };
    if let Err(end) = connection::Connection::new(stream, shared, node).run().await {
        tracing::debug!(node, reason = %end, "connection closed");
    }
}
