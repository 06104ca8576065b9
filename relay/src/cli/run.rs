//! `outbox-relay run`: configuration, log lines, signals.

use crds::relay_config::{Log, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{Exit, RunArgs};
use crate::state::ownership::Share;

/// Exit code 2 if the configuration is wrong, 1 if it cannot be run; 0 after a signal.
pub async fn run(args: &RunArgs) -> Exit {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if let Err(refused) = log_lines(&config.log) {
        eprintln!("{refused}");
        return Exit::Usage;
    }
    let share = match args.share.map_or_else(|| only_share(config.shares), Ok) {
        Ok(share) => share,
        Err(refused) => {
            eprintln!("{refused}");
            return Exit::Usage;
        }
    };
    let stop = CancellationToken::new();
    let mut signals = tokio::task::JoinSet::new();
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            let stop = stop.clone();
            signals.spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.cancel();
            });
        }
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("cannot listen for signals: {error}");
            return Exit::Failed;
        }
    }
    let listen = args.listen.clone().unwrap_or_else(|| config.http.listen.clone());
    match crate::run::run(config, share, &listen, stop).await {
        Ok(()) => Exit::Fine,
        Err(error) => {
            eprintln!("{:#}", anyhow::Error::from(error));
            Exit::Failed
        }
    }
}

/// All slots, if that is what the file says; with more shares nobody can know which of them this process is.
fn only_share(shares: u32) -> Result<Share, String> {
    if shares == 1 {
        return Ok(Share::Pinned { index: 1, count: 1 });
    }
    Err(format!(
        "shares: {shares}: this process is one of them; accepted: --share 1/{shares} to --share {shares}/{shares}, one \
         process each, or --share auto"
    ))
}

/// Log lines go to standard error; RUST_LOG, unless it is empty, wins over the file.
fn log_lines(log: &Log) -> Result<(), String> {
    let variable = std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|value| !value.is_empty());
    let (name, value) = match &variable {
        Some(value) => (EnvFilter::DEFAULT_ENV, value.to_string_lossy()),
        None => ("log.level", log.level.as_str().into()),
    };
    let filter = EnvFilter::try_new(&value).map_err(|error| {
        format!(
            "{name}: \"{}\" is no filter ({error}); accepted: error, warn, info, debug, trace or off, alone or by \
             target, as in info,relay=debug",
            value.escape_debug()
        )
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
