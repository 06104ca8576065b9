//! The command line, and the life of the process: election, passes, end.

use crate::controller::{Operator, look_for_service_monitors};
use crate::desired::Settings;
use crate::http::{Telltale, serve};
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::{external_metrics, watches};
use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use kube::Client;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Passes that run get this long to end: less than the Lease, which is not renewed meanwhile, may have left.
const END: Duration = Duration::from_secs(4);

/// Far more than an answer takes, name resolution included.
const PROBE: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For an answer of the API server, which itself gives up a request after at most 60 s, and an ordinary one far earlier.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// A watch is ended by the API server after 290 s, and says something more often; in between silence is normal.
const WATCH_READ_TIMEOUT: Duration = Duration::from_secs(320);

/// Turns OutboxRelay resources into relays, and tells what the relays do.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay-operator", version, max_term_width = 110)]
pub struct Cli {
    /// Image of relays whose resource names none.
    #[arg(long, env = "RELAY_IMAGE", default_value = concat!("outbox-relay:", env!("CARGO_PKG_VERSION")))]
    pub relay_image: String,
    /// Port that relays listen on.
    #[arg(long, default_value_t = 9090, value_parser = clap::value_parser!(u16).range(1..))]
    pub relay_port: u16,
    /// The one namespace whose resources are looked after; all namespaces unless given.
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Namespace of the Lease by which one of several operators is elected; that of the operator unless given.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of that Lease.
    #[arg(long, default_value = "outbox-relay-operator", value_name = "NAME")]
    pub lease: String,
    /// Name of this process, unlike that of any other operator; a random one unless given.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub instance: Option<String>,
    /// Resources that are worked on at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Time after which Secrets are read again: a rotated one restarts relays within this time.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub secret_refresh_seconds: u16,
    /// Time between two looks at the relays of a resource that is ready.
    #[arg(long, default_value_t = 10_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(100..=300_000))]
    pub look_milliseconds: u32,
    /// Address and port for /metrics, /livez and /readyz, and for a page for people at /.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Ask this URL once and end, instead: exit code 0 if the answer is a success. For `helm test`.
    #[arg(long, value_name = "URL")]
    pub probe: Option<String>,
    /// Address and port for external metrics, over TLS: serves the relays' lag to HorizontalPodAutoscalers, behind an
    /// APIService. Not served unless given.
    #[arg(long, env = "EXTERNAL_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub external_metrics_listen: Option<SocketAddr>,
    /// Service in front of it, in the namespace of the Lease; the Secret with its certificate has the same name.
    #[arg(long, default_value = "outbox-relay-external-metrics", value_name = "NAME")]
    pub external_metrics_service: String,
    /// Form of log lines; RUST_LOG chooses which there are.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no way to the API server, or the lead was lost: the process must end, and starts anew.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(url) = &cli.probe {
        return probe(url).await;
    }
    log_lines(cli.log_format)?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    stop_on_signals(&stop, &mut tasks)?;
    let mut config = kube::Config::infer().await.context("no way to an API server")?;
    // Of 16 passes and a handful of watches each may wait for an answer; a stuck one must not wait for ever.
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(WATCH_READ_TIMEOUT);
    config.write_timeout = Some(READ_TIMEOUT);
    let watching = Client::try_from(config.clone()).context("no way to the API server")?;
    config.read_timeout = Some(READ_TIMEOUT);
    let lease_namespace = cli
        .lease_namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).context("no way to the API server")?;
    let telltale = Arc::new(Telltale {
        metrics: Arc::new(Metrics::new()?),
        ready: AtomicBool::new(false),
        relays: OnceLock::new(),
    });
    let listener = TcpListener::bind(cli.listen)
        .await
        .with_context(|| format!("--listen {}: cannot listen there", cli.listen))?;
    info!(listen = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "starts");
    let end_of_http = CancellationToken::new();
    tasks.spawn({
        let (telltale, stop) = (telltale.clone(), end_of_http.clone());
        async move {
            if let Err(error) = serve(listener, telltale, stop).await {
                warn!(%error, "metrics and probes are not served any more");
            }
        }
    });
    let instance = cli.instance.clone().unwrap_or_else(random_name);
    let mut candidate = Candidate::new(client.clone(), &lease_namespace, &cli.lease, &instance);
    serve_external_metrics(
        &cli,
        &client,
        &lease_namespace,
        &candidate,
        &end_of_http,
        &mut tasks,
    );
    let reached = || telltale.ready.store(true, Ordering::Relaxed);
    let led = if candidate.elected(&stop, reached).await {
        let clients = Clients { client, watching };
        lead(&cli, clients, &telltale, instance, &mut candidate, &stop).await
    } else {
        Ok(())
    };
    end_of_http.cancel();
    tasks.shutdown().await;
    led
}

async fn probe(url: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().timeout(PROBE).no_proxy().build()?;
    let answer = http
        .get(url)
        .send()
        .await
        .with_context(|| format!("--probe {url}"))?;
    anyhow::ensure!(answer.status().is_success(), "--probe {url}: {}", answer.status());
    Ok(())
}

/// Ways to the API server, which differ in how long an answer may take.
struct Clients {
    client: Client,
    watching: Client,
}

/// Beside the election: every replica answers.
fn serve_external_metrics(
    cli: &Cli,
    client: &Client,
    namespace: &str,
    candidate: &Candidate,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let Some(listen) = cli.external_metrics_listen else {
        return;
    };
    let settings = external_metrics::Settings {
        listen,
        namespace: namespace.to_owned(),
        service: cli.external_metrics_service.clone(),
    };
    let serve = external_metrics::serve(client.clone(), settings, candidate.led(), stop.clone());
    tasks.spawn(async move {
        if let Err(error) = serve.await {
            warn!(%error, "external metrics are not served");
        }
    });
}

/// Works as long as it leads.
async fn lead(
    cli: &Cli,
    Clients { client, watching }: Clients,
    telltale: &Telltale,
    instance: String,
    candidate: &mut Candidate,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = &telltale.metrics;
    metrics.leader.set(1);
    let mut tasks = JoinSet::new();
    let (world, triggers) = watches::start(&watching, cli.namespace.as_deref(), &mut tasks);
    // A process leads once: whoever loses the lead ends.
    telltale.relays.get_or_init(|| world.relays.clone());
    let settings = Settings {
        image: cli.relay_image.clone(),
        port: cli.relay_port,
        look_every: Duration::from_millis(cli.look_milliseconds.into()),
    };
    let fresh = Duration::from_secs(cli.secret_refresh_seconds.into());
    let operator = Arc::new(Operator::new(
        client,
        settings,
        world,
        metrics.clone(),
        instance,
        fresh,
    )?);
    tasks.spawn(look_for_service_monitors(operator.clone()));
    let mut passes = tokio::spawn(operator.run(triggers, cli.concurrency, stop.clone()));
    let leads = tokio::select! {
        biased;
        leads = candidate.lead(stop) => leads,
        ended = &mut passes => {
            // They end when they are told to, and may be quicker than a renewal that is under way.
            anyhow::ensure!(stop.is_cancelled(), "the passes ended: {ended:?}");
            true
        }
    };
    metrics.leader.set(0);
    if !leads {
        // Another one may lead already: nothing more is done, not even what was begun.
        passes.abort();
        anyhow::bail!("the lead was lost");
    }
    if !passes.is_finished() && tokio::time::timeout(END, passes).await.is_err() {
        warn!("passes did not end in time");
    }
    tasks.shutdown().await;
    candidate.release().await;
    info!("ends");
    Ok(())
}

fn stop_on_signals(stop: &CancellationToken, tasks: &mut JoinSet<()>) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

fn random_name() -> String {
    format!("operator-{:016x}", rand::random::<u64>())
}

fn log_lines(format: LogFormat) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .or_else(|_| tracing_subscriber::EnvFilter::try_new("info"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
