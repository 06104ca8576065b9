//! Listeners and connections: one listener per node, one task per connection, requests answered inline.
//!
//! `conversation` is the protocol's state machine without IO, `connection` the IO around it, `options` what
//! SUPPORTED says, `schema_events` what others hear of a schema change.

mod connection;
mod conversation;
mod listener;
mod options;
mod schema_events;
mod transport;

use std::io;
use std::sync::Arc;

use openssl::ssl::SslAcceptor;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast};

use crate::cluster::Cluster;
use crate::fault::Faults;
use crate::query::engine::Engine;
use crate::roles::Roles;
use crate::wire::response::Event;
use listener::RunningNode;

/// Connections of all nodes together. A driver opens a few per node; the rest is room for tests that open many.
pub const MAX_CONNECTIONS: usize = 1_024;

/// Events that a slow connection may fall behind by before it is closed (its driver then reads everything
/// anew). Schema changes and node starts are rare: this many in one go is a burst of DDL.
const EVENT_BACKLOG: usize = 1_024;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) events: broadcast::Sender<Event>,
    connections: Arc<Semaphore>,
    /// Every connection by TLS, or none.
    tls: Option<SslAcceptor>,
}

/// The nodes that listen. Stopping one drops its connections; what is stored stays.
pub struct Server {
    shared: Arc<Shared>,
    running: Mutex<Vec<Option<RunningNode>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("there is no node {index}; nodes are numbered from 0 to {last}")]
    Unknown { index: usize, last: usize },
    #[error("node {0} runs already")]
    Running(usize),
    #[error("node {0} is stopped already")]
    Stopped(usize),
    #[error("node {index} cannot listen on {address}")]
    Listen {
        index: usize,
        address: std::net::SocketAddr,
        source: io::Error,
    },
}

impl Server {
    pub fn new(
        engine: Arc<Engine>,
        cluster: Arc<Cluster>,
        roles: Arc<Roles>,
        faults: Arc<Faults>,
        tls: Option<SslAcceptor>,
    ) -> Self {
        let nodes = cluster.nodes().len();
        let shared = Shared {
            engine,
            cluster,
            roles,
            faults,
            events: broadcast::Sender::new(EVENT_BACKLOG),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tls,
        };
        Self {
            shared: Arc::new(shared),
            running: Mutex::new((0..nodes).map(|_| None).collect()),
        }
    }

    /// Binds the node's address and serves.
    ///
    /// # Errors
    /// [`NodeError`]: no such node, it runs already, or its address is taken.
    pub async fn start_node(&self, index: usize) -> Result<(), NodeError> {
        self.check_index(index)?;
        if self.is_running(index) {
            return Err(NodeError::Running(index));
        }
        let address = self.shared.cluster.nodes()[index].address;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| NodeError::Listen {
                index,
                address,
                source,
            })?;
        self.serve_node(index, listener)
    }

    /// Serves on a listener that is bound already.
    ///
    /// # Errors
    /// [`NodeError`]: no such node, or it runs already.
    pub fn serve_node(&self, index: usize, listener: TcpListener) -> Result<(), NodeError> {
        self.check_index(index)?;
        let mut running = self.running.lock();
        if running[index].is_some() {
            return Err(NodeError::Running(index));
        }
        running[index] = Some(RunningNode::start(self.shared.clone(), index, listener));
        let node = &self.shared.cluster.nodes()[index];
        node.set_up(true);
        self.announce(Event::Status("UP", node.ip(), node.address.port()));
        Ok(())
    }

    /// Closes the node's port and connections, and tells the clients of the others.
    ///
    /// # Errors
    /// [`NodeError`]: no such node, or it is stopped already.
    pub async fn stop_node(&self, index: usize) -> Result<(), NodeError> {
        self.check_index(index)?;
        let node = self.running.lock()[index]
            .take()
            .ok_or(NodeError::Stopped(index))?;
        let described = &self.shared.cluster.nodes()[index];
        described.set_up(false);
        node.stop().await;
        self.announce(Event::Status("DOWN", described.ip(), described.address.port()));
        Ok(())
    }

    /// Stops all nodes.
    pub async fn stop(&self) {
        let running: Vec<RunningNode> = self.running.lock().iter_mut().filter_map(Option::take).collect();
        for node in running {
            node.stop().await;
        }
    }

    /// Connections open now, of all nodes.
    pub fn connections(&self) -> usize {
        MAX_CONNECTIONS - self.shared.connections.available_permits()
    }

    /// Tells an event to all who registered for its kind.
    fn announce(&self, event: Event) {
        // An error only says that nobody listens.
        let _ = self.shared.events.send(event);
    }

    fn is_running(&self, index: usize) -> bool {
        self.running.lock()[index].is_some()
    }

    fn check_index(&self, index: usize) -> Result<(), NodeError> {
        let nodes = self.shared.cluster.nodes().len();
        if index < nodes {
            return Ok(());
        }
        Err(NodeError::Unknown {
            index,
            last: nodes - 1,
        })
    }
}
