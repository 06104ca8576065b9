//! The command line.

mod bench;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum};
use orders::cql::Nodes;
use orders::kafka::Cluster;
use orders::load::Plan;
use orders::verify::Bounds;

pub(crate) use bench::Bench;

/// An order service with a transactional outbox; with load generator, consumer and verifier.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create keyspace and tables.
    Setup(Setup),
    /// Serve the HTTP API.
    Serve(Serve),
    /// Write orders on a fixed schedule, and keep a journal of what was committed.
    Load(Load),
    /// Print every event of the topic once.
    Consume(Consume),
    /// Compare the journal with the topic and the dead letters. Exit code 0: clean, 1: not, 2: could not be told.
    Verify(Verify),
    /// Measure a relay, and the same machine without one; see `make bench`.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct ScyllaArgs {
    /// Nodes of ScyllaDB, host:port.
    #[arg(long, env = "SCYLLA", default_value = "127.0.0.1:9042", value_delimiter = ',')]
    scylla: Vec<String>,
    #[arg(long, env = "SCYLLA_USER", requires = "password")]
    user: Option<String>,
    #[arg(long, env = "SCYLLA_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    #[arg(long, default_value = "orders_ks")]
    pub(crate) keyspace: String,
}

impl ScyllaArgs {
    pub(crate) fn nodes(&self) -> Nodes {
        let credentials = self.user.clone().zip(self.password.clone());
        Nodes {
            contact_points: self.scylla.clone(),
            credentials,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KafkaArgs {
    /// Brokers, host:port.
    #[arg(long, env = "KAFKA", default_value = "127.0.0.1:9092")]
    kafka: String,
    #[arg(long, default_value = "order-events")]
    pub(crate) topic: String,
    /// Any librdkafka property, for example security.protocol=ssl. May be repeated.
    #[arg(short = 'X', value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
}

impl KafkaArgs {
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster {
            bootstrap: self.kafka.clone(),
            properties: self.properties.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Setup {
    #[command(flatten)]
    pub(crate) scylla: ScyllaArgs,
    /// Layout of the outbox table.
    #[arg(long, env = "SCHEMA", default_value = "ordered")]
    pub(crate) schema: Schema,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Schema {
    /// An order's events in one partition: their order is kept.
    Ordered,
    /// Every event its own partition: their order is not promised.
    Plain,
    /// As ordered, without CDC: for relays that poll the outbox, and for databases that have no CDC.
    Polled,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) scylla: ScyllaArgs,
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) scylla: ScyllaArgs,
    /// Write outbox rows straight into ScyllaDB instead of going through the service.
    #[arg(long)]
    pub(crate) direct: bool,
    /// The order service.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// File that notes what was committed; appended to.
    #[arg(long)]
    journal: PathBuf,
    /// Writes per second; 0: as fast as they are answered.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Seconds; needs a rate.
    #[arg(long, default_value_t = 30, conflicts_with = "events")]
    duration: u32,
    /// Writes in all, instead of a duration.
    #[arg(long)]
    events: Option<u64>,
    /// Writers that work side by side.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    writers: u16,
    /// Orders that are written to at the same time.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    orders: u32,
    /// Events of one order.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    events_per_order: u32,
    /// Bytes of a payload, about; half of them random.
    #[arg(long, default_value_t = 300)]
    payload_bytes: usize,
    /// Every so many-th payload is large.
    #[arg(long, requires = "large_bytes", value_parser = clap::value_parser!(u64).range(1..))]
    large_every: Option<u64>,
    /// Bytes of a large payload, at most about 2 MB through the service.
    #[arg(long, requires = "large_every")]
    large_bytes: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Consume {
    #[command(flatten)]
    pub(crate) kafka: KafkaArgs,
    /// Consumer group.
    #[arg(long, default_value = "orders")]
    pub(crate) group: String,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) kafka: KafkaArgs,
    #[command(flatten)]
    pub(crate) scylla: ScyllaArgs,
    /// The load's journal.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Table of dead letters, keyspace.table.
    #[arg(long)]
    pub(crate) dead_letter_table: Option<String>,
    #[arg(long)]
    pub(crate) dead_letter_topic: Option<String>,
    /// Begin before or during the load and wait for its end; measures latency up to this consumer.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Seconds that committed events may take after the load.
    #[arg(long, default_value_t = 30)]
    pub(crate) wait: u64,
    /// Milliseconds without a message before the topic counts as complete: repeats come late.
    #[arg(long, default_value_t = 2000)]
    pub(crate) settle_milliseconds: u64,
    /// Show the numbers while they grow.
    #[arg(long)]
    pub(crate) view: bool,
    /// The relay's /metrics, for the view.
    #[arg(long, value_name = "URL")]
    pub(crate) metrics: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Events that have to be committed before anything is proven.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    at_least: u64,
    /// Repeats that are allowed.
    #[arg(long, default_value_t = 0)]
    duplicate_bound: u64,
    /// Events marked `late` that are allowed.
    #[arg(long, default_value_t = 0)]
    late_bound: u64,
    /// Messages marked `replayed` that are allowed.
    #[arg(long, default_value_t = 0)]
    replayed_bound: u64,
    /// Messages marked `reconciled` that are allowed.
    #[arg(long, default_value_t = 0)]
    reconciled_bound: u64,
    /// Events that are not in the journal and yet allowed.
    #[arg(long, default_value_t = 0)]
    foreign_bound: u64,
    /// Dead letters that are expected: a number, MIN..MAX, or `any`.
    #[arg(long, default_value = "0", value_parser = range)]
    dead_letters: (u64, u64),
    /// The table's or the key's layout scatters orders: their order is not judged.
    #[arg(long)]
    unordered: bool,
}

impl Load {
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let events = match (self.events, self.rate) {
            (Some(events), _) => events,
            (None, 0) => bail!("--rate 0 (as fast as possible) needs --events: nothing else would end it"),
            (None, rate) => u64::from(rate) * u64::from(self.duration),
        };
        Ok(Plan {
            events,
            rate: (self.rate > 0).then_some(self.rate),
            writers: usize::from(self.writers),
            orders: self.orders as usize,
            events_per_order: self.events_per_order,
            payload_bytes: self.payload_bytes,
            large: self.large_every.zip(self.large_bytes),
            journal: self.journal.clone(),
        })
    }
}

impl Verify {
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            committed: self.at_least,
            duplicates: self.duplicate_bound,
            late: self.late_bound,
            replayed: self.replayed_bound,
            reconciled: self.reconciled_bound,
            dead_letters: self.dead_letters.0..=self.dead_letters.1,
            ordered: !self.unordered,
            foreign: self.foreign_bound,
        }
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is expected".to_owned()),
    }
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| "a number, MIN..MAX, or `any` is expected".to_owned())
    };
    let (least, most) = match text.split_once("..") {
        _ if text == "any" => (0, u64::MAX),
        Some((least, most)) => (number(least)?, number(most)?),
        None => (number(text)?, number(text)?),
    };
    if least <= most {
        Ok((least, most))
    } else {
        Err(format!("{least} is more than {most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn dead_letter_ranges() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("50", Some((50, 50))),
            ("1..9", Some((1, 9))),
            ("any", Some((0, u64::MAX))),
        ] {
            assert_eq!(range(text).ok(), expected, "{text}");
        }
        for bad in ["", "x", "9..1", "1..", "-1"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
