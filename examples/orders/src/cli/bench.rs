//! The benchmark's own commands. `scripts/bench.sh` calls them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use orders::bench::baseline::{self, Destination, Plan};
use orders::bench::observe::{self, Drain, Observation};
use orders::bench::processes::{SELF, Watched};
use orders::bench::report::{Report, Sources};
use orders::bench::{Line, topic};
use orders::cql;

use super::{KafkaArgs, ScyllaArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// A: the log's events through bare librdkafka, from memory.
    Produce(Baseline),
    /// B: the log through the bare driver.
    Read(Baseline),
    /// C: B feeding A.
    Pipe(Baseline),
    /// Start a relay on a full log and time it until everything is in the topic.
    Drain(DrainArgs),
    /// Watch a relay that is under a steady load.
    Steady(SteadyArgs),
    /// Watch what a relay asks of ScyllaDB, and print it as a table.
    Queries(QueriesArgs),
    /// Delete a topic.
    DeleteTopic(KafkaArgs),
    /// Turn measurements into a table and a JSON file.
    Report(ReportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Round {
    #[arg(long, default_value_t = 1)]
    round: u32,
    /// Events that are in the log.
    #[arg(long)]
    events: u64,
    /// Processes whose CPU time is counted. May be repeated.
    #[arg(long, value_name = "NAME=PID")]
    watch: Vec<Watched>,
}

#[derive(Debug, Args)]
pub(crate) struct Baseline {
    #[command(flatten)]
    scylla: ScyllaArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    round: Round,
    /// Partitions of the topic, which is created and deleted.
    #[arg(long, default_value_t = 8)]
    partitions: i32,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    round: Round,
    /// The relay's /metrics.
    #[arg(long, value_name = "URL")]
    metrics: String,
    /// The relay delivers exactly once.
    #[arg(long)]
    exactly_once: bool,
    /// The relay's program and arguments.
    #[arg(last = true, required = true)]
    relay: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SteadyArgs {
    /// The relay's /metrics.
    #[arg(long, value_name = "URL")]
    metrics: String,
    /// The relay delivers exactly once.
    #[arg(long)]
    exactly_once: bool,
    /// The relay's process.
    #[arg(long)]
    pid: u32,
    /// Processes whose CPU time is counted. May be repeated.
    #[arg(long, value_name = "NAME=PID")]
    watch: Vec<Watched>,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct QueriesArgs {
    /// The relay's /metrics.
    #[arg(long, value_name = "URL")]
    metrics: String,
    /// Streams of the table's log that the relay reads.
    #[arg(long)]
    streams: u32,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// What the other commands printed.
    #[arg(long)]
    lines: PathBuf,
    /// The verifier's report on the steady load, as JSON.
    #[arg(long, requires = "journal")]
    verified: Option<PathBuf>,
    /// The steady load's journal.
    #[arg(long)]
    journal: Option<PathBuf>,
    /// Events per second that the steady load was asked for.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// The command that does all this again.
    #[arg(long)]
    command: String,
    /// How the programs were built.
    #[arg(long)]
    profile: String,
    /// Where the JSON goes.
    #[arg(long)]
    json: PathBuf,
}

impl Bench {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let line = match self {
            Self::Produce(args) => {
                let (plan, session, to) = args.parts().await?;
                Line::Drain(baseline::produce(plan, session, to).await?)
            }
            Self::Read(args) => {
                let (plan, session, _) = args.parts().await?;
                Line::Drain(baseline::read(plan, session).await?)
            }
            Self::Pipe(args) => {
                let (plan, session, to) = args.parts().await?;
                Line::Drain(baseline::pipe(plan, session, to).await?)
            }
            Self::Drain(args) => Line::Drain(observe::drain(args.plan()).await?),
            Self::Steady(args) if args.exactly_once => {
                Line::SteadyExactlyOnce(observe::steady(args.plan()).await?)
            }
            Self::Steady(args) => Line::Steady(observe::steady(args.plan()).await?),
            Self::Queries(args) => return args.print().await,
            Self::DeleteTopic(kafka) => return Ok(topic::delete(&kafka.cluster(), &kafka.topic).await?),
            Self::Report(args) => return args.report(),
        };
        println!("{}", serde_json::to_string(&line)?);
        Ok(())
    }
}

impl Baseline {
    async fn parts(self) -> anyhow::Result<(Plan, scylla::client::session::Session, Destination)> {
        let mut watched = self.round.watch;
        watched.push(Watched {
            name: SELF.to_owned(),
            pid: std::process::id(),
        });
        let plan = Plan {
            round: self.round.round,
            keyspace: self.scylla.keyspace.clone(),
            events: self.round.events,
            watched,
        };
        let to = Destination {
            cluster: self.kafka.cluster(),
            topic: self.kafka.topic,
            partitions: self.partitions,
        };
        Ok((plan, cql::connect(&self.scylla.nodes()).await?, to))
    }
}

impl DrainArgs {
    fn plan(self) -> Drain {
        Drain {
            round: self.round.round,
            events: self.round.events,
            watched: self.round.watch,
            metrics: self.metrics,
            cluster: self.kafka.cluster(),
            topic: self.kafka.topic,
            exactly_once: self.exactly_once,
            relay: self.relay,
        }
    }
}

impl QueriesArgs {
    async fn print(self) -> anyhow::Result<()> {
        let load = observe::queries(&self.metrics, self.streams, Duration::from_secs(self.seconds)).await?;
        print!("{load}");
        Ok(())
    }
}

impl SteadyArgs {
    fn plan(self) -> Observation {
        let mut watched = self.watch;
        watched.push(Watched {
            name: "relay".to_owned(),
            pid: self.pid,
        });
        Observation {
            metrics: self.metrics,
            relay_pid: self.pid,
            watched,
            duration: Duration::from_secs(self.seconds),
        }
    }
}

impl ReportArgs {
    fn report(self) -> anyhow::Result<()> {
        let report = Report::read(&Sources {
            lines: self.lines,
            verified: self.verified,
            journal: self.journal,
            rate: f64::from(self.rate),
            command: self.command,
            profile: self.profile,
        })?;
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(&self.json, json + "\n").with_context(|| self.json.display().to_string())?;
        print!("{report}");
        Ok(())
    }
}
