//! `outbox-relay state delete`: takes one identity's progress out of the state keyspace.

use std::collections::HashMap;
use std::time::Duration;

use crds::RelayConfig;
use crds::sink::{Guarantee, journal_topic};

use super::{Exit, StateDeleteArgs};
use crate::cdc_log::session::connect;
use crate::ports::{Conditional, ProcessRow, SlotRow, StateStore};
use crate::state::scylla::ScyllaState;

/// Longer than the time between two heartbeats of a relay whose last one was just before the first look.
const BEYOND_LEASE: Duration = Duration::from_secs(1);

/// Exit code 1 if a relay of the identity runs, or if not all could be deleted: then the same command goes on.
pub async fn delete(args: &StateDeleteArgs) -> Exit {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if !args.yes {
        eprintln!(
            "this deletes the progress of identity {} in keyspace {}: a relay that is started afterwards begins at \
             source.startFrom; it was not done; accepted: the same with --yes",
            config.identity, config.state.keyspace
        );
        return Exit::Usage;
    }
    match remove(&config).await {
        Ok(told) => {
            println!("{told}");
            Exit::Fine
        }
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Failed
        }
    }
}

async fn remove(config: &RelayConfig) -> anyhow::Result<String> {
    let session = connect(&config.source).await?;
    let (identity, keyspace) = (&config.identity, &config.state.keyspace);
    if !ScyllaState::is_there(&session, keyspace).await? {
        return Ok(format!(
            "keyspace {keyspace} has no state tables: nothing is kept of {identity}"
        ));
    }
    let state = ScyllaState::open(session, keyspace, identity).await?;
    let slots: Vec<_> = state
        .slots()
        .await?
        .into_iter()
        .filter(|row| row.epoch.is_some())
        .collect();
    let processes = ensure_idle(&state, &slots, config).await?;
    for row in &slots {
        forget(&state, row).await?;
    }
    state.forget_incarnation().await?;
    state.forget_audit().await?;
    for process in &processes {
        state.retire(process).await?;
    }
    // The journal tells what is resolved, too; which topics go is not for a relay to decide.
    let journal = match config.sink.guarantee {
        Guarantee::AtLeastOnce => String::new(),
        Guarantee::ExactlyOnce => format!(
            "; topic {} holds progress too: delete it before a relay of this identity starts again",
            journal_topic(identity)
        ),
    };
    Ok(format!(
        "deleted the progress of identity {identity}: {} slots, {} processes; dead letters stay{journal}",
        slots.len(),
        processes.len()
    ))
}

/// That no relay of the identity runs; the processes that were left behind. Whoever takes a slot after `slots` were read
/// raises its epoch.
pub(super) async fn ensure_idle(
    state: &ScyllaState,
    slots: &[SlotRow],
    config: &RelayConfig,
) -> anyhow::Result<Vec<ProcessRow>> {
    let processes = state.processes().await?;
    if !processes.is_empty() || slots.iter().any(|row| row.owner.is_some()) {
        tokio::time::sleep(config.state.lease() + BEYOND_LEASE).await;
        if let Some(process) = alive(&processes, &state.processes().await?) {
            anyhow::bail!(
                "state of identity {} is in use: process {process} renews its heartbeat; stop all relays of this identity \
                 first",
                config.identity
            );
        }
    }
    Ok(processes)
}

/// The epochs are those that were read before the heartbeats were watched: whoever took a slot since has raised its.
async fn forget(state: &ScyllaState, row: &SlotRow) -> anyhow::Result<()> {
    let Some(epoch) = row.epoch else { return Ok(()) };
    match state.forget(row.slot, epoch).await? {
        Conditional::Applied(()) => Ok(()),
        Conditional::Fenced => {
            anyhow::bail!("slot {} was taken by a relay meanwhile; stop it first", row.slot)
        }
    }
}

/// A process whose heartbeat moved between two looks, or that came.
fn alive<'a>(before: &[ProcessRow], after: &'a [ProcessRow]) -> Option<&'a str> {
    let beats: HashMap<_, _> = before
        .iter()
        .map(|row| (row.process.as_str(), row.beat))
        .collect();
    let moved = after
        .iter()
        .find(|row| beats.get(row.process.as_str()) != Some(&row.beat));
    moved.map(|row| row.process.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Placement;

    #[test]
    fn a_heartbeat_that_moved_or_came_is_alive() {
        let row = |process: &str, beat| ProcessRow {
            process: process.to_owned(),
            beat,
            placement: Placement::Pinned,
        };
        let before = [row("a", 1), row("b", 5)];
        for (after, expected) in [
            (vec![row("a", 1), row("b", 5)], None),
            (vec![row("b", 5)], None),
            (vec![row("a", 1), row("b", 6)], Some("b")),
            (vec![row("a", 1), row("b", 5), row("c", 0)], Some("c")),
        ] {
            assert_eq!(alive(&before, &after), expected, "{after:?}");
        }
    }
}
