//! Parses, composes, exits; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use relay::cli::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Status(args) => relay::cli::status::status(&args).await,
        _ => relay::cli::Exit::Usage,
    };
    exit.into()
}
