//! Notices that files with secrets have changed, and that what they hold now lets the relay in. What it does not let in
//! changes nothing: whoever rotates a password writes the file before or after the server knows it.

use std::path::PathBuf;
use std::time::Duration;

use crds::RelayConfig;
use tracing::{info, warn};

use crate::cdc_log::session::connect;
use crate::deliver::kafka::{KafkaBroker, KafkaSettings};
use crate::ports::Broker;
use crate::secrets::{Fingerprint, LOOK_EVERY, files_of_sink, files_of_source, fingerprint};

/// Time for one trial: several connection attempts fit into it.
const TRIAL: Duration = Duration::from_secs(15);

/// What connections are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Sink,
}

/// The files of one side, as they were when the connections in use were made.
struct Watched {
    side: Side,
    files: Vec<PathBuf>,
    in_use: Fingerprint,
    /// Why what is there now does not let us in; said once.
    told: Option<String>,
}

/// The files that a life is about to be made with.
pub(super) struct Rotation(Vec<Watched>);

impl Rotation {
    pub(super) fn new(config: &RelayConfig) -> Self {
        let sides = [
            (Side::Source, files_of_source(&config.source)),
            (Side::Sink, files_of_sink(&config.sink)),
        ];
        let watched = sides.into_iter().filter(|(_, files)| !files.is_empty());
        Self(
            watched
                .map(|(side, files)| Watched {
                    side,
                    in_use: fingerprint(&files),
                    files,
                    told: None,
                })
                .collect(),
        )
    }

    /// Returns once one side's files have changed and were tried with success; never if there are none.
    pub(super) async fn changed(mut self, config: &RelayConfig) {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for watched in &mut self.0 {
                if fingerprint(&watched.files) == watched.in_use {
                    watched.told = None;
                } else if watched.lets_in(config).await {
                    return;
                }
            }
        }
    }
}

impl Watched {
    async fn lets_in(&mut self, config: &RelayConfig) -> bool {
        let tried = tokio::time::timeout(TRIAL, try_out(self.side, config)).await;
        let tried = tried.unwrap_or_else(|_| Err(format!("no answer within {} s", TRIAL.as_secs())));
        let side = match self.side {
            Side::Source => "source",
            Side::Sink => "sink",
        };
        match tried {
            Ok(()) => {
                info!(
                    side,
                    "secrets have changed and are accepted; connections are made anew"
                );
                true
            }
            Err(reason) => {
                if self.told.as_ref() != Some(&reason) {
                    warn!(side, %reason, "secrets have changed and are not accepted yet; the former ones stay in use");
                    self.told = Some(reason);
                }
                false
            }
        }
    }
}

/// Connects with what the files hold now.
async fn try_out(side: Side, config: &RelayConfig) -> Result<(), String> {
    match side {
        Side::Source => match connect(&config.source).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
        },
        Side::Sink => {
            let client_id = format!("outbox-relay-{}-rotation", config.identity);
            let settings = KafkaSettings::new(&config.sink, &config.memory, &client_id);
            let broker = settings.and_then(|settings| KafkaBroker::new(settings, false));
            let broker = broker.map_err(|error| error.to_string())?;
            let answer = broker.check(None, TRIAL / 3).await;
            // A client joins its threads when it is dropped.
            drop(tokio::task::spawn_blocking(move || drop(broker)));
            answer.map_err(|error| error.to_string())
        }
    }
}
