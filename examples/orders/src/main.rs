//! `orders`: the example service, and the tools around it.

mod cli;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use orders::commands::Orders;
use orders::dead_letters::DeadLetters;
use orders::kafka::Cluster;
use orders::load::target::Target;
use orders::store::{Store, polled_schema, statements};
use orders::verify::follow::Follow;
use orders::verify::latency::percentiles;
use orders::view::{RelayMetrics, View, scrape};
use orders::{consume, cql, load, service};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

/// How long a consumer takes to leave its group at most: without its broker, librdkafka may wait for ever.
const LEAVE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    // What the driver tells of its nodes would stand in the middle of a report.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,orders=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let done = match Cli::parse().command {
        Command::Setup(args) => setup(args).await,
        Command::Serve(args) => serve(args).await,
        Command::Load(args) => run_load(args).await,
        Command::Consume(args) => run_consumer(args).await,
        Command::Verify(args) => verify(args).await,
        Command::Bench(bench) => bench.run().await.map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("orders: {error:#}");
        ExitCode::from(2)
    })
}

async fn setup(args: cli::Setup) -> anyhow::Result<ExitCode> {
    let schema = match args.schema {
        cli::Schema::Ordered => include_str!("../schema.cql").to_owned(),
        cli::Schema::Plain => include_str!("../schema-plain.cql").to_owned(),
        cli::Schema::Polled => polled_schema(),
    };
    let session = cql::connect(&args.scylla.nodes()).await?;
    for statement in statements(&schema) {
        session
            .query_unpaged(statement.as_str(), ())
            .await
            .with_context(|| statement.clone())?;
    }
    session
        .await_schema_agreement()
        .await
        .context("the nodes do not agree on the schema")?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: cli::Serve) -> anyhow::Result<ExitCode> {
    let session = cql::connect(&args.scylla.nodes()).await?;
    let orders = Arc::new(Orders::new(Store::new(session, &args.scylla.keyspace).await?));
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; choose another address with --listen",
            args.listen
        )
    })?;
    tracing::info!(address = %listener.local_addr()?, "serving orders");
    let stop = stop_on_signal()?;
    axum::serve(listener, service::router(orders))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_load(args: cli::Load) -> anyhow::Result<ExitCode> {
    let nodes = args.scylla.nodes();
    let keyspace = args.scylla.keyspace.as_str();
    let target = if args.direct {
        Target::direct(cql::connect(&nodes).await?, keyspace).await?
    } else {
        Target::service(&args.url, Some((cql::connect(&nodes).await?, keyspace))).await?
    };
    let summary = load::run(args.plan()?, target, stop_on_signal()?, |_| ()).await?;
    let seconds = summary.elapsed.as_secs_f64();
    let totals = summary.totals;
    eprintln!(
        "offered {}, committed {}, refused {}, unknown {} in {seconds:.1} s ({:.0}/s)",
        totals.offered,
        totals.committed,
        totals.refused,
        totals.unknown,
        totals.offered as f64 / seconds,
    );
    if let Some(latency) = percentiles(&summary.latency) {
        eprintln!(
            "schedule to answer in ms: p50 {:.1}, p99 {:.1}, max {:.1}",
            latency.p50, latency.p99, latency.max
        );
    }
    Ok(if totals.committed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run_consumer(args: cli::Consume) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signal()?;
    let mut consumer = tokio::spawn(async move {
        let (cluster, kafka) = (args.kafka.cluster(), &args.kafka);
        consume::run(&cluster, &kafka.topic, &args.group, |line| println!("{line}")).await
    });
    tokio::select! {
        done = &mut consumer => done??,
        () = stop.cancelled() => {
            consumer.abort();
            if timeout(LEAVE, consumer).await.is_err() {
                tracing::warn!("Kafka did not confirm the end of the membership; the group notices it by itself");
                std::process::exit(0);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(args: cli::Verify) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let relay = args.metrics.clone().map(|url| {
        let (sender, receiver) = watch::channel(RelayMetrics::default());
        (tokio::spawn(scrape(url, sender, stop.clone())), receiver)
    });
    let (scraper, receiver) = relay.unzip();
    let mut view = args.view.then(|| View::new(receiver));
    let report = follow(&args)
        .await?
        .run(|progress| {
            if let Some(view) = &mut view {
                view.show(progress);
            }
        })
        .await?;
    stop.cancel();
    if let Some(scraper) = scraper {
        scraper.await?;
    }
    if let Some(view) = view {
        view.finish();
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn follow(args: &cli::Verify) -> anyhow::Result<Follow> {
    let cluster = args.kafka.cluster();
    let table = match &args.dead_letter_table {
        Some(table) => Some((cql::connect(&args.scylla.nodes()).await?, table.clone())),
        None => None,
    };
    let topic = args
        .dead_letter_topic
        .clone()
        .map(|topic| (Cluster::clone(&cluster), topic));
    Ok(Follow {
        cluster,
        topic: args.kafka.topic.clone(),
        journal: args.journal.clone(),
        dead_letters: DeadLetters { table, topic },
        during_load: args.follow,
        patience: Duration::from_secs(args.wait),
        settle: Duration::from_millis(args.settle_milliseconds),
        bounds: args.bounds(),
    })
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    // Owned by the process: it ends with main.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}
