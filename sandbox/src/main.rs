//! `outbox-sandbox`: the nodes as a program.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use sandbox::cluster::{MAX_NODES, MAX_TOKENS_PER_NODE};
use sandbox::embed::{DEFAULT_TOKENS_PER_NODE, StartError, TlsFiles};
use sandbox::system::RELEASE_VERSION;
use sandbox::{Sandbox, SandboxBuilder};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// An embedded, ScyllaDB-compatible CQL cluster with CDC and fault injection. For demos and tests: everything
/// is kept in memory and gone when it stops.
#[derive(Debug, Parser)]
#[command(name = "outbox-sandbox", version, about)]
struct Arguments {
    /// Address of the first node; the others take the next IP addresses and the same port
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9042")]
    listen: SocketAddr,

    /// Address of the admin HTTP API
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10000")]
    admin: SocketAddr,

    /// Number of nodes
    #[arg(long, default_value_t = 1, value_parser = between(1, MAX_NODES))]
    nodes: usize,

    /// Tokens per node: ranges of the ring, and CDC streams, that each node owns
    #[arg(long, default_value_t = DEFAULT_TOKENS_PER_NODE, value_parser = between(1, MAX_TOKENS_PER_NODE))]
    vnodes: usize,

    /// A superuser as name:password; may be repeated. With any user, clients must log in
    #[arg(
        long = "user",
        value_name = "NAME:PASSWORD",
        env = "OUTBOX_SANDBOX_USER",
        hide_env_values = true
    )]
    users: Vec<String>,

    /// File with a superuser as name:password on each line
    #[arg(long, value_name = "PATH")]
    user_file: Option<PathBuf>,

    /// PEM file of the certificate chain: clients must speak TLS
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,

    /// PEM file of the certificate's key
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,

    /// PEM file of authorities: clients must show a certificate that one of them signed
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    tls_client_ca: Option<PathBuf>,

    /// Give tablets to keyspaces of NetworkTopologyStrategy that do not say
    #[arg(long)]
    tablets_default: bool,

    /// Name of the datacenter
    #[arg(long, default_value = "datacenter1")]
    datacenter: String,

    /// What system.local says. From 4.0.0 on, Apache's cqlsh sends DESCRIBE
    #[arg(long, value_name = "VERSION", default_value = RELEASE_VERSION)]
    release_version: String,

    /// Form of the log lines on standard error; RUST_LOG sets what is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(arguments.log_format);
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outbox-sandbox: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let sandbox = builder(arguments)?.start().await.map_err(explain)?;
    // Before the ready line: whoever reads it may stop us at once.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    announce(&sandbox)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sandbox.stop().await;
    Ok(())
}

fn builder(arguments: Arguments) -> anyhow::Result<SandboxBuilder> {
    let mut users = arguments.users;
    if let Some(path) = &arguments.user_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--user-file {} cannot be read", path.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        users.extend(lines.map(str::to_owned));
    }
    let mut builder = Sandbox::builder()
        .listen(arguments.listen)
        .admin(arguments.admin)
        .nodes(arguments.nodes)
        .tokens_per_node(arguments.vnodes)
        .datacenter(&arguments.datacenter)
        .release_version(&arguments.release_version)
        .tablets_by_default(arguments.tablets_default);
    if let (Some(certificate), Some(key)) = (arguments.tls_certificate, arguments.tls_key) {
        builder = builder.tls(TlsFiles {
            certificate,
            key,
            client_authorities: arguments.tls_client_ca,
        });
    }
    for user in &users {
        match user.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                builder = builder.user(name, password);
            }
            // The value may be a password: it is not repeated.
            _ => bail!("--user: expected name:password, both not empty"),
        }
    }
    Ok(builder)
}

/// One line on standard output, once clients can connect.
fn announce(sandbox: &Sandbox) -> anyhow::Result<()> {
    let nodes = sandbox.cluster().nodes().iter();
    let addresses: Vec<String> = nodes.map(|node| node.address.to_string()).collect();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "ready cql={} admin=http://{}",
        addresses.join(","),
        sandbox.admin_addr()
    )
    .and_then(|()| out.flush())
    .context("cannot write to standard output")
}

/// Names the flag that moves an address that is taken.
fn explain(error: StartError) -> anyhow::Error {
    let flag = match &error {
        StartError::Listen { use_: "admin", .. } => "--admin IP:PORT",
        StartError::Listen { .. } => "--listen IP:PORT",
        StartError::Tls { .. } | StartError::Runtime(_) | StartError::Node(_) | StartError::Interrupted => {
            return error.into();
        }
    };
    anyhow::Error::new(error).context(format!("start failed; another address is chosen with {flag}"))
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logging.init(),
        LogFormat::Json => logging.json().init(),
    }
}

/// A number within bounds; the message of a refusal names both.
fn between(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("accepted: a whole number from {least} to {most}")),
    }
}
