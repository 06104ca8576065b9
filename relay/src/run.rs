//! `run`: composes the parts, keeps them running, and stops them in order.
//!
//! `prepare` waits for ScyllaDB and whatever else has to be there, and makes the `tables`; `work` is one life of reader, lane and keeper;
//! `holder` tells them about slots; `outlook` is what the HTTP endpoints see.

use std::sync::Arc;

use crds::RelayConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::SystemClock;
use crate::health::{Board, Part};
use crate::http::{self, Lock, LockError};
use crate::metrics::Metrics;
use crate::ports::{Broker, ChangeLog, Clock, DeadLetters, StateStore};
use crate::secrets::LOOK_EVERY;
use crate::state::ownership::Share;
use crate::supervise::supervise;

mod holder;
mod monitor;
mod outlook;
mod prepare;
mod rotation;
pub mod tables;
mod work;

pub use outlook::Outlook;
pub use prepare::Ground;
use rotation::Rotation;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("http.listen: cannot listen on {address}; accepted: a free address, also by --listen")]
    Listen { address: String, source: std::io::Error },
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Prepare(#[from] prepare::PrepareError),
}

/// Runs until `stop`, then stops reading, awaits acknowledgements, saves, releases, and returns.
///
/// # Errors
/// What waiting cannot mend: the port is taken, a secret cannot be read, a property is refused.
pub async fn run(
    config: RelayConfig,
    share: Share,
    listen: &str,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let unavailable = |source| RunError::Listen {
        address: listen.to_owned(),
        source,
    };
    let lock = Lock::new(&config.http)?;
    let listener = TcpListener::bind(listen).await.map_err(unavailable)?;
    let address = listener.local_addr().map_err(unavailable)?;
    let clock = Arc::new(SystemClock::start());
    let board = Board::new(clock.now());
    let outlook = Arc::new(Outlook::new(
        &config,
        share,
        outlook::process_name(),
        clock.clone(),
        board.clone(),
        Metrics::new()?,
    ));
    info!(%address, identity = %config.identity, share = %crate::status::share_text(share), process = %outlook.process(), "relay starts");
    let mut serving = tokio::task::JoinSet::new();
    let http_stop = CancellationToken::new();
    serving.spawn(http::serve(listener, lock, outlook.clone(), http_stop.clone()));
    let ended = live(&Arc::new(config), share, &outlook, &stop).await;
    if let Err(error) = &ended {
        error!(%error, "relay cannot run");
    }
    http_stop.cancel();
    // Open connections end with the process; nobody waits for a slow reader of metrics.
    serving.abort_all();
    info!("relay stopped");
    ended
}

/// One stand after the other, until `stop`: with other secrets the relay stops as for a signal, in order and with nothing
/// in flight, and goes on with connections that are made anew. Its process and its port stay.
async fn live(
    config: &Arc<RelayConfig>,
    share: Share,
    outlook: &Arc<Outlook>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let mut lived = false;
    loop {
        let rotation = Rotation::new(config);
        let stand = stop.child_token();
        let (watched, changed) = (config.clone(), stand.clone());
        let mut watching = tokio::task::JoinSet::new();
        watching.spawn(async move {
            rotation.changed(&watched).await;
            changed.cancel();
        });
        let ended = relay(config.clone(), share, outlook, &stand).await;
        watching.shutdown().await;
        match ended {
            Ok(()) => lived = true,
            // It could run with what was there before: whoever writes the files is not done yet.
            Err(error) if lived => {
                warn!(%error, "what has changed cannot be used; tried again");
                let message = error.to_string();
                outlook
                    .board()
                    .failed(Part::Source, message, outlook.clock().now());
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            Err(error) => return Err(error),
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

async fn relay(
    config: Arc<RelayConfig>,
    share: Share,
    outlook: &Arc<Outlook>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let Some(ground) = prepare::prepare(&config, outlook, stop).await? else {
        return Ok(());
    };
    let ground = Arc::new(ground);
    outlook.prepared(&ground);
    let monitoring = CancellationToken::new();
    let mut monitors = tokio::task::JoinSet::new();
    monitors.spawn(monitor::run(outlook.clone(), ground.clone(), monitoring.clone()));
    operate(config, share, outlook, ground.clone(), stop).await;
    if let Some(spans) = &ground.spans {
        spans.flush().await;
    }
    monitoring.cancel();
    while monitors.join_next().await.is_some() {}
    // Kafka's clients join their threads when they are dropped.
    drop(tokio::task::spawn_blocking(move || drop(ground)));
    Ok(())
}

/// Reads, delivers and remembers until `stop`, whatever fails: everything between the ports. The simulation drives it
/// with models.
pub async fn operate<L, S, B, D, C>(
    config: Arc<RelayConfig>,
    share: Share,
    outlook: &Arc<Outlook<C>>,
    ground: Arc<Ground<L, S, B, D>>,
    stop: &CancellationToken,
) where
    L: ChangeLog,
    S: StateStore,
    B: Broker + Clone,
    D: DeadLetters,
    C: Clock + Clone,
{
    let clock = outlook.clock();
    supervise(Part::Sink, outlook.board(), clock.as_ref(), stop, || {
        work::work(
            config.clone(),
            share,
            outlook.clone(),
            ground.clone(),
            stop.clone(),
        )
    })
    .await;
}
