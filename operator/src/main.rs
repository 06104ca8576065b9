//! Parses, runs, exits; everything else is in the library.

use clap::Parser;
use operator::cli::{Cli, run};
use std::process::ExitCode;

/// Passes make and drop thousands of small objects on several threads: glibc's allocator took a quarter of the operator's
/// CPU time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
