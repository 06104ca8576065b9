//! The Rust API: a cluster of nodes started inside a test or a program.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Parts};
use crate::administration::NodeAdministration;
use crate::cdc;
use crate::cdc::generations::RingToken;
use crate::cdc::service::CdcService;
use crate::cluster::{Cluster, SHARDS_PER_NODE, Topology, nth_address};
use crate::fault::Faults;
use crate::query::engine::{Dialect, Engine, EngineOptions};
use crate::roles::{Roles, User};
use crate::server::{NodeError, Server};
use crate::storage::clock::SystemClock;
use crate::system;

/// Tokens per node if not said otherwise: with three nodes 48 streams, few enough to read all and enough to
/// spread over shares.
pub const DEFAULT_TOKENS_PER_NODE: usize = 16;

/// How often expired rows and forgotten streams are cleared away; ScyllaDB's topology coordinator has the same
/// interval for streams.
const CLEANING_INTERVAL: Duration = Duration::from_secs(60);

/// Attempts to find a port that is free on the addresses of all nodes.
const PORT_ATTEMPTS: usize = 20;

/// Describes a cluster; [`SandboxBuilder::start`] starts it.
#[derive(Debug, Clone)]
#[must_use = "call start()"]
pub struct SandboxBuilder {
    listen: SocketAddr,
    admin: SocketAddr,
    topology: Topology,
    users: Vec<User>,
    tablets_by_default: bool,
    dialect: Dialect,
    lwt_with_tablets: bool,
    tls: Option<TlsFiles>,
}

/// PEM files of a node's certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of which clients must show a certificate; None asks for none.
    pub client_authorities: Option<PathBuf>,
}

/// A running cluster. It lives on threads of its own, so its time and its load are not the caller's; dropping
/// it ends it.
pub struct Sandbox {
    parts: Arc<Parts>,
    admin: SocketAddr,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address} ({use_})")]
    Listen {
        address: SocketAddr,
        /// What the address is for: `CQL` or `admin`.
        use_: &'static str,
        source: io::Error,
    },
    #[error("TLS cannot use certificate {}, key {} and the authorities of clients", .files.certificate.display(), .files.key.display())]
    Tls {
        files: TlsFiles,
        source: openssl::error::ErrorStack,
    },
    #[error("no threads for the nodes")]
    Runtime(#[source] io::Error),
    #[error("a node could not be started")]
    Node(#[from] NodeError),
    #[error("the start was interrupted")]
    Interrupted,
}

impl Default for SandboxBuilder {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            topology: Topology {
                cluster_name: "outbox-sandbox".to_owned(),
                datacenter: "datacenter1".to_owned(),
                release_version: system::RELEASE_VERSION.to_owned(),
                nodes: 1,
                tokens_per_node: DEFAULT_TOKENS_PER_NODE,
            },
            users: Vec::new(),
            tablets_by_default: false,
            dialect: Dialect::Scylla,
            tls: None,
            lwt_with_tablets: true,
        }
    }
}

impl SandboxBuilder {
    /// Address of node 0; the others follow with the next IP addresses and the same port. Port 0 picks one.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Address of the admin HTTP API. Port 0 picks one.
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// 1 to [`crate::cluster::MAX_NODES`].
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.topology.nodes = nodes;
        self
    }

    /// 1 to [`crate::cluster::MAX_TOKENS_PER_NODE`]; with one shard per node also its CDC streams.
    pub fn tokens_per_node(mut self, tokens: usize) -> Self {
        self.topology.tokens_per_node = tokens;
        self
    }

    pub fn cluster_name(mut self, name: &str) -> Self {
        self.topology.cluster_name = name.to_owned();
        self
    }

    pub fn datacenter(mut self, name: &str) -> Self {
        self.topology.datacenter = name.to_owned();
        self
    }

    /// What system.local and system.peers say; ScyllaDB's if not said otherwise. Clients choose by it: from 4.0
    /// on, Apache's cqlsh sends DESCRIBE and the Python driver looks for virtual keyspaces.
    pub fn release_version(mut self, version: &str) -> Self {
        self.topology.release_version = version.to_owned();
        self
    }

    /// Adds a superuser. With any user, clients must log in.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push(User {
            name: name.to_owned(),
            password: password.to_owned(),
        });
        self
    }

    /// Whether NetworkTopologyStrategy keyspaces that do not say get tablets, as in recent ScyllaDB.
    pub fn tablets_by_default(mut self, tablets: bool) -> Self {
        self.tablets_by_default = tablets;
        self
    }

    /// The form of answers; ScyllaDB's if not said otherwise.
    pub fn dialect(mut self, result: Dialect) -> Self {
        self.dialect = result;
        self
    }

    /// Whether tables with tablets take conditional writes; ScyllaDB before 2025.4 refuses them.
    pub fn lwt_with_tablets(mut self, supported: bool) -> Self {
        self.lwt_with_tablets = supported;
        self
    }

    /// Clients must speak TLS.
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// Starts all nodes and the admin API.
    ///
    /// # Errors
    /// [`StartError`]: an address that is taken, mostly.
    pub async fn start(self) -> Result<Sandbox, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("outbox-sandbox")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let stop = CancellationToken::new();
        let starting = runtime.spawn(self.run(stop.clone()));
        let started = starting.await.unwrap_or(Err(StartError::Interrupted));
        match started {
            Ok((parts, admin)) => Ok(Sandbox {
                parts,
                admin,
                stop,
                runtime: Some(runtime),
            }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Runs on the cluster's own threads.
    async fn run(self, stop: CancellationToken) -> Result<(Arc<Parts>, SocketAddr), StartError> {
        let tls = self.tls.as_ref().map(acceptor).transpose()?;
        let listeners = bind_nodes(self.listen, self.topology.nodes).await?;
        let admin = bind(self.admin, "admin").await?;
        let admin_address = admin
            .local_addr()
            .map_err(|source| listen_error(self.admin, "admin", source))?;
        let first = listeners[0]
            .local_addr()
            .map_err(|source| listen_error(self.listen, "CQL", source))?;
        let parts = Arc::new(self.assemble(first, tls));
        for (index, listener) in listeners.into_iter().enumerate() {
            parts.server.serve_node(index, listener)?;
        }
        let serving = parts.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            serving.faults.delayed.run(&serving.engine).await;
        }));
        tokio::spawn(stop.clone().run_until_cancelled_owned(clean(parts.clone())));
        let api = axum::serve(admin, admin::router(parts.clone()));
        tokio::spawn(async move {
            if let Err(error) = api.with_graceful_shutdown(stop.cancelled_owned()).await {
                tracing::error!(%error, "the admin API ended");
            }
        });
        Ok((parts, admin_address))
    }

    fn assemble(self, first: SocketAddr, tls: Option<SslAcceptor>) -> Parts {
        let cluster = Arc::new(Cluster::new(&self.topology, first));
        let clock = Arc::new(SystemClock);
        let ring = cluster.ring().into_iter().map(|token| RingToken {
            token,
            shards: SHARDS_PER_NODE,
        });
        let cdc = Arc::new(CdcService::new(clock.clone(), ring.collect()));
        let roles = Arc::new(Roles::new(self.users));
        let faults = Arc::new(Faults::default());
        let mut virtual_tables = system::tables(&cluster);
        virtual_tables.extend(cdc::tables::virtual_tables(&cdc));
        let engine = Engine::new(EngineOptions {
            clock,
            cdc: cdc.clone(),
            write_faults: faults.clone(),
            read_faults: faults.clone(),
            administration: Arc::new(NodeAdministration {
                cluster: cluster.clone(),
                roles: roles.clone(),
            }),
            virtual_tables,
            dialect: self.dialect,
            lwt_with_tablets: self.lwt_with_tablets,
            tablets_by_default: self.tablets_by_default,
            datacenter: self.topology.datacenter,
        });
        Parts {
            server: Server::new(engine.clone(), cluster.clone(), roles, faults.clone(), tls),
            engine,
            cluster,
            faults,
            cdc,
        }
    }
}

impl Sandbox {
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    /// Where clients dial first: node 0.
    pub fn addr(&self) -> SocketAddr {
        self.parts.cluster.nodes()[0].address
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    pub fn faults(&self) -> &Faults {
        &self.parts.faults
    }

    pub fn cluster(&self) -> &Cluster {
        &self.parts.cluster
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.parts.engine
    }

    /// Generations and tablets, to look at and to switch.
    pub fn cdc(&self) -> &CdcService {
        &self.parts.cdc
    }

    /// Connections open now, of all nodes.
    pub fn connections(&self) -> usize {
        self.parts.server.connections()
    }

    /// Closes a node's port and connections; what is stored stays.
    ///
    /// # Errors
    /// [`NodeError`]: no such node, or it is stopped already.
    pub async fn stop_node(&self, index: usize) -> Result<(), NodeError> {
        let parts = self.parts.clone();
        self.on_its_threads(NodeError::Stopped(index), async move {
            parts.server.stop_node(index).await
        })
        .await
    }

    /// Opens a stopped node's port again.
    ///
    /// # Errors
    /// [`NodeError`]: no such node, it runs already, or its address was taken meanwhile.
    pub async fn start_node(&self, index: usize) -> Result<(), NodeError> {
        let parts = self.parts.clone();
        self.on_its_threads(NodeError::Stopped(index), async move {
            parts.server.start_node(index).await
        })
        .await
    }

    /// Ends the cluster: connections drop, ports close, what was stored is gone.
    pub async fn stop(mut self) {
        let parts = self.parts.clone();
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            // A panic there has been reported where it happened.
            let _ = runtime.spawn(async move { parts.server.stop().await }).await;
            runtime.shutdown_background();
        }
    }

    /// Sockets belong to the runtime that opened them, so nodes are started and stopped on their own one.
    async fn on_its_threads<T: Send + 'static>(
        &self,
        ended: NodeError,
        work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
    ) -> Result<T, NodeError> {
        match &self.runtime {
            Some(runtime) => runtime.spawn(work).await.unwrap_or(Err(ended)),
            None => Err(ended),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn acceptor(files: &TlsFiles) -> Result<SslAcceptor, StartError> {
    let build = || {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        builder.set_certificate_chain_file(&files.certificate)?;
        builder.set_private_key_file(&files.key, SslFiletype::PEM)?;
        builder.check_private_key()?;
        if let Some(authorities) = &files.client_authorities {
            builder.set_ca_file(authorities)?;
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            // Without one, whoever resumes a session would be refused.
            builder.set_session_id_context(b"sandbox")?;
        }
        Ok(builder.build())
    };
    build().map_err(|source| StartError::Tls {
        files: files.clone(),
        source,
    })
}

/// Clears away what nobody can read any more, for ever.
async fn clean(parts: Arc<Parts>) {
    loop {
        tokio::time::sleep(CLEANING_INTERVAL).await;
        // Long in a large store: other connections' tasks must not wait behind it.
        tokio::task::block_in_place(|| {
            parts.engine.purge();
            parts.cdc.collect_garbage(&parts.engine.catalog());
        });
    }
}

/// Binds the addresses of all nodes. With port 0 another port is tried where one is taken on a later address.
async fn bind_nodes(listen: SocketAddr, nodes: usize) -> Result<Vec<TcpListener>, StartError> {
    let mut attempt = 1;
    loop {
        match bind_all(listen, nodes).await {
            Err(_) if listen.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

async fn bind_all(listen: SocketAddr, nodes: usize) -> Result<Vec<TcpListener>, StartError> {
    let first = bind(listen, "CQL").await?;
    let address = first
        .local_addr()
        .map_err(|source| listen_error(listen, "CQL", source))?;
    let mut listeners = vec![first];
    for index in 1..nodes {
        listeners.push(bind(nth_address(address, index), "CQL").await?);
    }
    Ok(listeners)
}

async fn bind(address: SocketAddr, use_: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| listen_error(address, use_, source))
}

fn listen_error(address: SocketAddr, use_: &'static str, source: io::Error) -> StartError {
    StartError::Listen {
        address,
        use_,
        source,
    }
}
