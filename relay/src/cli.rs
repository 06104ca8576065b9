//! The command line: what can be asked of the program, and the exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod audit;
pub mod check;
pub mod checkpoint;
pub mod dead_letters;
pub mod evidence;
mod file;
mod progress;
pub mod replay;
pub mod reset;
pub mod run;
pub mod schema;
pub mod setup;
pub mod state;
pub mod status;
pub mod time;
pub mod trace;

/// Publishes every event of a ScyllaDB outbox table to Kafka: never lost, in order per aggregate, within milliseconds.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tail the outbox table's CDC log and publish its events until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Tell whether table, topic and permissions are fit for the promise: a finding each, with its fix.
    Check(FileArgs),
    /// Make the relay's own tables; exits with 0 if they are there afterwards.
    Setup(SetupArgs),
    /// Print the recommended outbox table and the relay's own tables as CQL.
    Schema(SchemaArgs),
    /// How far each slot is, as the state keyspace has it. Works whether relays run or not.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// What the relay keeps of its progress.
    #[command(subcommand)]
    State(StateCommand),
    /// Look at dead letters, have them sent again, discard them.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Print what a running relay says of itself.
    Status(StatusArgs),
    /// Prove that what was written in a window was delivered: once or as often as is allowed, and in order. Exit code 0 if
    /// so, 1 with findings, 2 if it cannot be told.
    Audit(AuditArgs),
    /// Where one event is on its way, and why it is not further. Exit code 0 if it is delivered, a dead letter or on its way,
    /// 1 if it is missing or was not found, 2 if it cannot be told.
    Trace(TraceArgs),
}

#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// A RelayConfig or an OutboxRelay manifest (YAML); `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// Which slots to take: `2/4` is the second of four fixed shares; `auto` a fair part among the live processes of
    /// this identity. Never mix the two under one identity. Without it all slots, if the file says one share.
    #[arg(long, value_name = "I/N|auto", value_parser = parse_share)]
    pub share: Option<crate::state::ownership::Share>,
    /// Address and port for /metrics, /status, /livez, /readyz and /health, instead of the configured one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct SetupArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// Also make the topic, if it is a fixed one.
    #[arg(long)]
    pub create_topic: bool,
    /// Partitions of a topic that is made.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000), requires = "create_topic")]
    pub partitions: i32,
    /// Replicas of a topic that is made, and of the state keyspace in each datacenter.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=15))]
    pub replication_factor: i32,
}

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// Keyspace of the outbox table.
    #[arg(long, default_value = "app")]
    pub keyspace: String,
    /// Name of the outbox table.
    #[arg(long, default_value = "outbox")]
    pub table: String,
    /// Keyspace of the relay's own tables.
    #[arg(long, default_value = "outbox_relay")]
    pub state_keyspace: String,
    /// For `source.mode: Polling`: no CDC, and tombstones that do not stay for long.
    #[arg(long)]
    pub polling: bool,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// A line per slot: owner, epoch, bound, and how many events above the bound are resolved.
    Show(FileArgs),
    /// All of it as one JSON document, with the ids of the resolved events.
    Export(FileArgs),
    /// Begin somewhere else: sets the bounds of all slots and forgets what is resolved above them. Refused while a relay of the
    /// identity runs.
    Reset(ResetArgs),
}

#[derive(Debug, clap::Args)]
pub struct ResetArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// Where: Oldest (the oldest row that the log has), Now, a time as in 2026-01-31T12:00:00Z, or an age as in -1h.
    #[arg(long, value_name = "TIME|Oldest|Now", allow_hyphen_values = true, value_parser = reset::parse_to)]
    pub to: reset::To,
    /// Only tell, per slot, how many events would be repeated and skipped.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it; without this nothing is touched.
    #[arg(long)]
    pub yes: bool,
    /// The result as a JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Delete checkpoints and ownership of the identity: a relay that is started afterwards begins at source.startFrom.
    /// Refused while a relay of the identity runs. Dead letters stay.
    Delete(StateDeleteArgs),
}

#[derive(Debug, clap::Args)]
pub struct StateDeleteArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// Do it; without this nothing is touched.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// One line per dead letter, the oldest first.
    List(ListArgs),
    /// Everything that is known of the dead letters of one event, as JSON.
    Show(ShowArgs),
    /// Ask the relays of the identity to send dead letters again, and watch until they have: in order per aggregate, each
    /// removed once it was acknowledged. With deadLetter.target Topic the command itself sends them, in transactions.
    Replay(ReplayArgs),
    /// Remove dead letters that nobody needs any more. They are gone for good.
    Discard(DiscardArgs),
}

/// Which dead letters: those that have all that is asked for.
#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// The event's id.
    #[arg(long, value_name = "ID")]
    pub event_id: Option<String>,
    /// The event's type.
    #[arg(long, value_name = "TYPE")]
    pub event_type: Option<String>,
    /// The aggregate's id.
    #[arg(long, value_name = "ID")]
    pub aggregate: Option<String>,
    /// Why it was given up.
    #[arg(long, value_parser = ["message", "configuration", "transient", "held", "reconciled"])]
    pub class: Option<String>,
    /// Given up at least this long ago, as in 90s, 15m, 1h or 7d.
    #[arg(long, value_name = "AGE", value_parser = crate::dead_letters::stored::parse_age)]
    pub older_than: Option<std::time::Duration>,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub config: FileArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only so many, the newest.
    #[arg(long, value_name = "COUNT")]
    pub newest: Option<usize>,
    /// A JSON document per line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// The event's id.
    pub event_id: String,
}

#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub config: FileArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only so many of them, the newest.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub newest: Option<u32>,
    /// Ask for so many a second at most, as in 50/s, or send so many. Without it ask for a thousand at a time.
    #[arg(long, value_name = "N/s", value_parser = replay::parse_rate)]
    pub rate: Option<u32>,
    /// Only tell what would be sent, and what would not.
    #[arg(long)]
    pub dry_run: bool,
    /// End if no relay has done anything for so long, as in 60s. What is asked for stays asked for. Of no effect with
    /// deadLetter.target Topic.
    #[arg(long, value_name = "AGE", default_value = "60s", value_parser = crate::dead_letters::stored::parse_age)]
    pub patience: std::time::Duration,
    /// The result as a JSON document.
    #[arg(long)]
    pub json: bool,
    /// Also write the counts to this file, as JSON of at most 4096 bytes: /dev/termination-log hands them to Kubernetes.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub result_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    pub config: FileArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Do it; without this they are only listed.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Where the relay listens.
    #[arg(long, default_value = "http://127.0.0.1:9090", value_name = "URL")]
    pub url: String,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Print the document itself.
    #[arg(long)]
    pub json: bool,
}

/// What a relay that is asked over the network wants.
#[derive(Debug, clap::Args)]
pub struct TrustArgs {
    /// Certificates (PEM) of the authorities that signed the relay's, with an https URL; the system's unless given.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with the bearer token, where the relay asks for one.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// Events written from then on: a time as in 2026-01-31T12:00:00Z, or an age as in -1h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse_when)]
    pub from: time::When,
    /// Events written before then; `now` is accepted too.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse_when)]
    pub to: time::When,
    /// What was written is told by the log, or by the table as far as its rows are still there. The log, except with
    /// source.mode Polling.
    #[arg(long, value_name = "Log|Table")]
    pub source: Option<evidence::From>,
    /// Events held in memory at once, some 300 bytes each. Of more the topics are read several times.
    #[arg(long, value_name = "COUNT", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    pub max_events: u32,
    /// Keep the result in the state keyspace, in place of the one before: the relay shows it in /status, the operator in the
    /// condition DeliveryAudited.
    #[arg(long)]
    pub record: bool,
    /// The result as a JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    #[command(flatten)]
    pub config: FileArgs,
    /// The event's id.
    pub event_id: String,
    /// Look among what was written from then on: a time as in 2026-01-31T12:00:00Z, or an age as in -1d.
    #[arg(long, value_name = "TIME", default_value = "-1h", allow_hyphen_values = true, value_parser = time::parse_when)]
    pub from: time::When,
    /// And before then; without it, up to now.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time::parse_when)]
    pub to: Option<time::When>,
    /// Look for its row in the log or in the table. In the log, except with source.mode Polling.
    #[arg(long, value_name = "Log|Table")]
    pub source: Option<evidence::From>,
    /// Ask this relay, if the event waits, whether its circuit is open and what else it waits for.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// The result as a JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What the exit codes mean, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Fine,
    /// It was tried and failed, or findings need attention.
    Failed,
    /// Arguments or configuration are wrong; nothing was touched.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Fine => Self::from(0),
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
        }
    }
}

fn parse_share(text: &str) -> Result<crate::state::ownership::Share, String> {
    use crate::state::ownership::Share;
    if text == "auto" {
        return Ok(Share::Auto);
    }
    let accepted =
        || format!("\"{text}\" is not a share; accepted: i/n with 1 <= i <= n <= 64, as in 2/4, or auto");
    let (index, count) = text.split_once('/').ok_or_else(accepted)?;
    let (index, count) = (
        index.parse().map_err(|_| accepted())?,
        count.parse().map_err(|_| accepted())?,
    );
    if index == 0 || index > count || count > crate::model::SLOTS as u32 {
        return Err(accepted());
    }
    Ok(Share::Pinned { index, count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ownership::Share;
    use clap::CommandFactory;
    use serde::Deserialize as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_sample_of_a_scheduled_replay_is_one() {
        let text = include_str!("../../deploy/samples/replay-cronjob.yaml");
        let documents = serde_yaml::Deserializer::from_str(text);
        let documents: Vec<_> = documents
            .map(|document| serde_yaml::Value::deserialize(document).unwrap())
            .collect();
        let config = documents[0]["data"]["relay.yaml"].as_str().unwrap();
        let config = crds::load(config, std::path::Path::new("")).unwrap();
        assert_eq!(
            (crds::validate(&config), config.identity.as_str()),
            (Ok(()), "default.orders")
        );
        let container = &documents[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_sequence().unwrap();
        let arguments = arguments.iter().map(|argument| argument.as_str().unwrap());
        let cli = Cli::try_parse_from(std::iter::once("outbox-relay").chain(arguments)).unwrap();
        let Command::DeadLetters(command) = cli.command else {
            panic!("{cli:?}")
        };
        assert!(
            matches!(command, DeadLettersCommand::Replay(args) if args.json && !args.filter.filter().is_empty())
        );
    }

    #[test]
    fn shares_are_read_and_wrong_ones_named() {
        assert_eq!(parse_share("2/4"), Ok(Share::Pinned { index: 2, count: 4 }));
        assert_eq!(parse_share("auto"), Ok(Share::Auto));
        for wrong in ["", "0/4", "5/4", "1/65", "1", "a/b", "1/2/3", "AUTO"] {
            let error = parse_share(wrong).unwrap_err();
            assert!(
                error.contains(&format!("\"{wrong}\"")) && error.contains("accepted"),
                "{error}"
            );
        }
    }
}
