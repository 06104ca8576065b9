//! Parses, composes, exits; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use relay::cli::{
    Cli, Command, StateCommand, audit, check, checkpoint, dead_letters, run, schema, setup, state, status,
    trace,
};

/// The reader allocates an event, delivery frees it on another thread. In a drain glibc's allocator spent a third of the
/// relay's CPU time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Run(args) => run::run(&args).await,
        Command::Check(args) => check::check(&args).await,
        Command::Setup(args) => setup::setup(&args).await,
        Command::Schema(args) => schema::schema(&args),
        Command::Checkpoint(command) => checkpoint::checkpoint(&command).await,
        Command::State(StateCommand::Delete(args)) => state::delete(&args).await,
        Command::DeadLetters(command) => dead_letters::dead_letters(&command).await,
        Command::Status(args) => status::status(&args).await,
        Command::Audit(args) => audit::audit(&args).await,
        Command::Trace(args) => trace::trace(&args).await,
    };
    exit.into()
}
